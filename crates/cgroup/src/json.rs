//! Reads the fields of interest from JSON that other programs wrote.
//!
//! It never rejects a document: a key that is missing, or has an unexpected type, is `None`, and the
//! rest stays readable. Deserializers that are derived for a whole document cannot do that. With them
//! one wrong type anywhere, or a key that occurs twice, loses the whole document, while Go's decoder
//! (runc, containerd) takes the last one.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

/// Larger files are not read: a `config.json` is 10 to 50 KB, and we hold up a container's start.
pub const MAX_FILE: u64 = 16 * 1024 * 1024;

/// The fields of one object, not parsed further.
#[derive(Debug, Deserialize)]
pub struct Object<'a>(#[serde(borrow)] BTreeMap<String, &'a RawValue>);

impl<'a> Object<'a> {
    pub fn parse(json: &'a str) -> serde_json::Result<Self> {
        // Some tools write a byte order mark, which serde_json does not accept.
        serde_json::from_str(json.trim_start_matches('\u{feff}'))
    }

    /// The first value of a text after which more may follow.
    pub fn first(json: &'a str) -> serde_json::Result<Self> {
        Self::deserialize(&mut serde_json::Deserializer::from_str(
            json.trim_start_matches('\u{feff}'),
        ))
    }

    fn raw(&self, key: &str) -> Option<&'a str> {
        self.0.get(key).map(|value| value.get())
    }

    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        serde_json::from_str(self.raw(key)?).ok()
    }

    pub fn object(&self, key: &str) -> Option<Object<'a>> {
        Object::parse(self.raw(key)?).ok()
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// Reads a whole regular file of at most [`MAX_FILE`] bytes as text; bytes that are not UTF-8 become
/// U+FFFD, as in Go's decoder.
pub fn read_text(path: &Path) -> io::Result<String> {
    let (file, length) = open_regular(path)?;
    if length > MAX_FILE {
        return Err(io::Error::other("larger than 16 MiB"));
    }
    // All at once: growing from nothing, a record of ours takes six reads.
    let mut bytes = Vec::with_capacity(length as usize + 1);
    // The file may grow while we read.
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::other("larger than 16 MiB"));
    }
    Ok(text(bytes))
}

pub fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

/// Opening a FIFO would block until someone writes to it, hence `O_NONBLOCK`, which has no effect on
/// regular files. Gives the length, too.
fn open_regular(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    Ok((file, metadata.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_two_equal_keys_counts_and_a_wrong_type_is_nothing() {
        let o = Object::parse(r#"{"a":1,"b":"x","a":2,"c":{"d":[1]}}"#).unwrap();
        assert_eq!(o.get::<i64>("a"), Some(2));
        assert_eq!(o.get::<i64>("b"), None);
        assert_eq!(o.object("c").unwrap().get::<Vec<i64>>("d"), Some(vec![1]));
        assert!(o.object("b").is_none());
    }

    #[test]
    fn a_torn_document_is_an_error() {
        assert!(Object::parse(r#"{"a":1,"#).is_err());
        assert!(Object::parse("[]").is_err());
        assert!(Object::parse("").is_err());
    }

    #[test]
    fn only_regular_files_of_a_sane_size_are_read() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read_text(dir.path()).is_err());
        assert!(read_text(Path::new("/dev/zero")).is_err());
        let big = dir.path().join("big");
        File::create(&big).unwrap().set_len(MAX_FILE + 1).unwrap();
        assert!(read_text(&big).unwrap_err().to_string().contains("16 MiB"));
        let odd = dir.path().join("odd");
        std::fs::write(&odd, b"{\"a\":\"\xff\"}").unwrap();
        let text = read_text(&odd).unwrap();
        assert_eq!(Object::parse(&text).unwrap().get::<String>("a").unwrap(), "\u{fffd}");
    }
}
