//! No reader panics, whatever the bytes: garbage, and valid documents that are cut or have changed
//! bytes.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use cgroup::bundle::Bundle;
use cgroup::predict::Plan;
use cgroup::{Hierarchies, Identity, Membership, Proc, RuntimeKind, state_file};
use proptest::prelude::*;

use super::HYBRID;

const STATE: &str = include_str!("../fixtures/state/runc-1.1.5-hybrid.json");
const STATUS: &str =
    r#"{"pid":12,"process-start-time":8,"cgroup-path":"/a.scope/b","scope":"a.scope"}"#;
const CONFIG: &str = r#"{"linux":{"cgroupsPath":"a.slice:b:c","resources":{"cpu":{"quota":1}}},"annotations":{"a":"b"}}"#;

/// Garbage, or `text` cut off with some bytes changed.
fn damaged(text: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let cut = (any::<prop::sample::Index>(), changes).prop_map(move |(end, changes)| {
        let mut bytes = text.as_bytes()[..=end.index(text.len())].to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    });
    prop_oneof![prop::collection::vec(any::<u8>(), 0..400), cut]
}

proptest! {
    #[test]
    fn mountinfo(bytes in damaged(HYBRID), path in prop::collection::vec(any::<u8>(), 0..60)) {
        let h = Hierarchies::parse(&bytes);
        let path = Path::new(OsStr::from_bytes(&path)).to_path_buf();
        let _ = (h.identify("freezer", &path), h.naming_root());
        if let Some(id) = Identity::new(&path) {
            prop_assert!(id.as_path().is_absolute());
            prop_assert_eq!(Identity::new(id.as_path()), Some(id.clone()));
            prop_assert!(!id.to_string().chars().any(char::is_control));
            let _ = (h.dirs(&id), id.pod());
        }
    }

    #[test]
    fn membership(bytes in damaged("12:cpu,cpuacct:/a\n0::/../b\n1:name=systemd:/c (deleted)\n")) {
        let _ = Membership::parse(&bytes).identity(&Hierarchies::parse(HYBRID.as_bytes()));
    }

    #[test]
    fn bundle(bytes in damaged(CONFIG)) {
        let _ = Bundle::parse(&bytes);
    }

    #[test]
    fn state(runc in damaged(STATE), crun in damaged(STATUS), id in "[a./\0]{0,4}") {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("c")).unwrap();
        std::fs::write(root.path().join("c/state.json"), &runc).unwrap();
        std::fs::write(root.path().join("c/youki_config.json"), &crun).unwrap();
        std::fs::write(root.path().join("c/status"), &crun).unwrap();
        let (mounts, roots) = (Hierarchies::parse(HYBRID.as_bytes()), [root.path().to_path_buf()]);
        for kind in [RuntimeKind::Runc, RuntimeKind::Crun, RuntimeKind::Youki] {
            for id in ["c", &id] {
                let _ = state_file::read(&roots, kind, OsStr::new(id), &mounts, &Proc::default());
            }
        }
    }

    #[test]
    fn prediction(path in prop::collection::vec(prop_oneof![any::<u8>(), Just(b':'), Just(b'/'), Just(b'-')], 0..40),
                  slice in any::<bool>(), systemd in any::<bool>(), user in prop::option::of(any::<u32>())) {
        let mut path = OsString::from_vec(path);
        if slice {
            path = OsString::from_vec([b"a-b.slice:", path.as_bytes(), b":n"].concat());
        }
        let path = PathBuf::from(path);
        let mounts = Hierarchies::parse(HYBRID.as_bytes());
        for kind in [RuntimeKind::Runc, RuntimeKind::Crun, RuntimeKind::Youki] {
            let plan = Plan { kind, id: OsStr::new("i"), systemd, cgroups_path: Some(&path), rootless: user };
            let _ = plan.predict(&mounts, &Proc::default());
        }
    }
}
