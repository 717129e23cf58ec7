//! State files of the three runtimes; what stands behind a NUL is youki's second file.

#![no_main]

use std::ffi::OsStr;
use std::sync::LazyLock;

use cgroup::state_file::Texts;
use cgroup::{Hierarchies, Proc, RuntimeKind};
use libfuzzer_sys::fuzz_target;

static MOUNTS: LazyLock<[Hierarchies; 2]> = LazyLock::new(|| {
    [
        Hierarchies::parse(include_bytes!("../seeds/mountinfo/hybrid")),
        Hierarchies::parse(include_bytes!("../seeds/mountinfo/unified")),
    ]
});

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let (state, youki_config) = text.split_once('\0').unwrap_or((&text, ""));
    let texts = Texts { state, youki_config };
    let proc = Proc::at(concat!(env!("CARGO_MANIFEST_DIR"), "/proc"));
    for kind in [RuntimeKind::Runc, RuntimeKind::Crun, RuntimeKind::Youki] {
        for mounts in MOUNTS.iter() {
            let Ok(state) = texts.parse(kind, OsStr::new("c1"), mounts, &proc) else { continue };
            assert!(state.init_pid.is_none_or(|pid| pid > 0));
            for cgroup in state.identity().into_iter().chain(&state.leaf) {
                assert!(cgroup.as_path().is_absolute());
                assert!(!cgroup.to_string().chars().any(char::is_control));
            }
            if let (Some(identity), Some(leaf)) = (state.identity(), &state.leaf) {
                assert!(leaf != identity && leaf.as_path().starts_with(identity.as_path()));
            }
        }
    }
});
