//! The loader that a program needs, by its ELF header; see elf(5).

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// PT_INTERP: the path of the loader.
const INTERPRETER: u32 = 3;

/// `Some(None)`: it is static. `None`: it is no 64-bit ELF program, or a torn one.
pub(crate) fn loader(file: &File) -> Option<Option<PathBuf>> {
    let mut header = [0u8; 64];
    file.read_exact_at(&mut header, 0).ok()?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let half = |at: usize| u64::from(u16::from_le_bytes([header[at], header[at + 1]]));
    let (size, count) = (half(0x36), half(0x38));
    for number in 0..count {
        let mut entry = [0u8; 56];
        file.read_exact_at(&mut entry, long(&header, 0x20)?.checked_add(number * size)?).ok()?;
        if u32::from_le_bytes(entry[..4].try_into().ok()?) == INTERPRETER {
            let mut name = vec![0u8; long(&entry, 0x20)?.min(libc::PATH_MAX as u64) as usize];
            file.read_exact_at(&mut name, long(&entry, 0x08)?).ok()?;
            let name = name.split(|byte| *byte == 0).next()?;
            return Some(Some(PathBuf::from(OsStr::from_bytes(name))));
        }
    }
    (count > 0).then_some(None)
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_needs_a_loader() {
        let own = std::env::current_exe().unwrap();
        let has_loader = !cfg!(target_feature = "crt-static");
        let of = |path: &std::path::Path| loader(&File::open(path).unwrap());
        assert_eq!(of(&own).unwrap().is_some_and(|it| it.is_file()), has_loader);
        let dir = tempfile::tempdir().unwrap();
        let torn = dir.path().join("torn");
        std::fs::write(&torn, &std::fs::read(&own).unwrap()[..70]).unwrap();
        let script = dir.path().join("script");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        assert_eq!((of(&torn), of(&script), of(dir.path())), (None, None, None));
    }
}
