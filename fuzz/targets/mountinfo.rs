//! /proc/self/mountinfo; what stands behind a NUL is a /proc/PID/cgroup.

#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cgroup::{Hierarchies, Identity, Membership};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let nul = data.iter().position(|&byte| byte == 0).unwrap_or(data.len());
    let (mountinfo, cgroup) = data.split_at(nul);
    let cgroup = cgroup.strip_prefix(b"\0").unwrap_or(cgroup);
    let mounts = Hierarchies::parse(mountinfo);
    assert!(mounts.naming_root().is_absolute());
    for v1 in &mounts.v1 {
        assert!(!v1.controllers.is_empty() && v1.mountpoint.is_absolute() && v1.root.is_absolute());
    }
    let member = Membership::parse(cgroup).identity(&mounts);
    let named = Identity::new(Path::new(OsStr::from_bytes(cgroup)));
    for identity in member.iter().chain(&named) {
        assert!(identity.as_path().is_absolute());
        assert_eq!(Identity::new(identity.as_path()).as_ref(), Some(identity));
        assert!(!identity.to_string().chars().any(char::is_control));
        for dir in mounts.dirs(identity) {
            assert!(dir.is_absolute());
            let _ = (mounts.identify("freezer", &dir), mounts.identify("", &dir));
        }
        if let Some(pod) = identity.pod() {
            assert!(identity.as_path().starts_with(pod.as_path()) && pod != *identity);
        }
    }
});
