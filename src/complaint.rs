//! The one error of our own that a caller must see: there is no runtime to run.
//!
//! containerd shows the last `error` entry of the log that it asked for and drops stderr; conmon and
//! people read stderr. So the error goes to both, in the caller's format.

use std::io::Write;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use crate::invocation::LogFormat;
use crate::runtime_log;

/// Appends the error to the caller's log, if there is one, and writes it to stderr.
pub(crate) fn make(message: &str, log: Option<&Path>, format: LogFormat) {
    if let Some(log) = log {
        let _ = append(log, &entry(message, format));
    }
    // Not eprintln: it panics when stderr is closed.
    let _ = writeln!(std::io::stderr(), "{message}");
    log::error!("{message}");
}

/// In logrus's format, which our callers read.
fn entry(message: &str, format: LogFormat) -> String {
    let time = journal::now();
    match format {
        LogFormat::Json => {
            format!("{}\n", serde_json::json!({ "level": "error", "msg": message, "time": time }))
        }
        LogFormat::Text => format!("time=\"{time}\" level=error msg={message:?}\n"),
    }
}

/// Only to a regular file, a new one, or /dev/null.
fn append(log: &Path, entry: &str) -> std::io::Result<()> {
    let mut file = runtime_log::open(log)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() || kind.is_char_device() {
        file.write_all(entry.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_what_containerd_decodes() {
        let entry = entry("cannot find \"runc\"\n", LogFormat::Json);
        let value: serde_json::Value = serde_json::from_str(&entry).unwrap();
        assert_eq!(value["level"], "error");
        assert_eq!(value["msg"], "cannot find \"runc\"\n");
        assert!(value["time"].as_str().unwrap().ends_with('Z'));
        assert_eq!(entry.matches('\n').count(), 1);
    }

    #[test]
    fn text_is_one_line() {
        let entry = entry("a \"b\"\nc", LogFormat::Text);
        assert!(entry.ends_with("level=error msg=\"a \\\"b\\\"\\nc\"\n"), "{entry}");
    }
}
