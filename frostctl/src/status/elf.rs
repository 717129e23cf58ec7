//! Whether a program needs a loader, by its ELF header.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// PT_INTERP: the path of the loader.
const INTERPRETER: u32 = 3;

/// `None`: it is no 64-bit ELF file, or a torn one.
pub(super) fn read(path: &Path) -> io::Result<Option<bool>> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut header = [0u8; 64];
    if file.read_exact_at(&mut header, 0).is_err() || !header.starts_with(b"\x7fELF\x02\x01") {
        return Ok(None);
    }
    let half = |at: usize| u64::from(u16::from_le_bytes([header[at], header[at + 1]]));
    let first = u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|at| header[0x20 + at]));
    let (size, count) = (half(0x36), half(0x38));
    for number in 0..count {
        let mut kind = [0u8; 4];
        let Some(at) = first.checked_add(size * number) else { return Ok(None) };
        if file.read_exact_at(&mut kind, at).is_err() {
            return Ok(None);
        }
        if u32::from_le_bytes(kind) == INTERPRETER {
            return Ok(Some(false));
        }
    }
    Ok(Some(count > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_needs_a_loader() {
        let own = std::env::current_exe().unwrap();
        let has_loader = !cfg!(target_feature = "crt-static");
        assert_eq!(read(&own).unwrap(), Some(!has_loader));
        let dir = tempfile::tempdir().unwrap();
        let torn = dir.path().join("torn");
        std::fs::write(&torn, &std::fs::read(&own).unwrap()[..70]).unwrap();
        let script = dir.path().join("script");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        assert_eq!((read(&torn).unwrap(), read(&script).unwrap()), (None, None));
        assert_eq!(read(dir.path()).unwrap(), None);
        assert!(read(&dir.path().join("none")).is_err());
    }
}
