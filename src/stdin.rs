//! The standard input of `update --resources -`, kept for a further attempt.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::de::IgnoredAny;

use crate::invocation::Grammar;
use crate::sys;

/// All that the runtime would read, in an anonymous file. An error leaves it unread.
pub(crate) fn buffered(grammar: Grammar) -> io::Result<File> {
    if sys::file_size_is_limited() {
        return Err(io::Error::other("it may not fit into a file"));
    }
    let mut buffer = File::from(sys::memfd(c"frostlock-stdin")?);
    buffer.write_all(&read(io::stdin().as_fd(), grammar))?;
    Ok(buffer)
}

/// What there is to be read; an error ends it as it ends the runtime's reading.
fn read(from: BorrowedFd<'_>, grammar: Grammar) -> Vec<u8> {
    let mut text = Vec::new();
    let mut chunk = [0; 64 * 1024];
    let Ok(mut from_file) = from.try_clone_to_owned().map(File::from) else { return text };
    loop {
        match from_file.read(&mut chunk) {
            Ok(0) => return text,
            Ok(length) => text.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            // The caller's pipe may be one that does not block.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let _ = poll(&mut [PollFd::new(from, PollFlags::POLLIN)], PollTimeout::NONE);
                continue;
            }
            Err(_) => return text,
        }
        if grammar == Grammar::Runc && is_decided(&text) {
            return text;
        }
    }
}

/// runc decodes one JSON value and does not wait for the end (update.go): a caller that keeps its
/// end open would wait for us, and we for it. crun and youki read to the end. What is no JSON is
/// left to runc, whose decoder is not ours.
pub(crate) fn is_decided(text: &[u8]) -> bool {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>();
    matches!(values.next(), Some(Ok(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_is_all_that_runc_reads() {
        let (open, close) = (b"[".repeat(500), b"]".repeat(500));
        let deep = [&open[..], &close].concat();
        for decided in [&b"{}"[..], b" {\"a\": [1]}\nrest", b"{}x", &deep] {
            assert!(is_decided(decided), "{decided:?}");
        }
        for open in [&b""[..], b" \n", b"{", b"{\"a\": [1]", b"{\"a\": \"x", b"no", &open] {
            assert!(!is_decided(open), "{open:?}");
        }
    }
}
