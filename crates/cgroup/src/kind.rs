//! Which runtime it is. Each names its cgroups, keeps its state and reads its command line in its own
//! way.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuntimeKind {
    /// Its command line is urfave/cli v1 on Go's flag package: runc 1.0 to 1.5.
    Runc,
    /// Its command line is GNU argp, in order: crun 1.8 to 1.28.
    Crun,
    /// Its command line is clap's.
    Youki,
}

impl RuntimeKind {
    /// Judged by the file name. Anything unknown is treated as runc, whose command line kata, runsc and
    /// the rest imitate.
    pub fn of(runtime: &Path) -> Self {
        let name = runtime.file_name().unwrap_or_default().as_bytes();
        if name.windows(5).any(|part| part == b"youki") {
            Self::Youki
        } else if name.starts_with(b"crun") || name.starts_with(b"krun") {
            Self::Crun
        } else {
            Self::Runc
        }
    }
}
