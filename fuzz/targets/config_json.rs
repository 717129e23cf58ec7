//! A bundle's config.json, and the place that is predicted from its `cgroupsPath`.

#![no_main]

use std::ffi::OsStr;
use std::sync::LazyLock;

use cgroup::bundle::Bundle;
use cgroup::predict::Plan;
use cgroup::{Hierarchies, Proc, RuntimeKind};
use libfuzzer_sys::fuzz_target;

static MOUNTS: LazyLock<[Hierarchies; 2]> = LazyLock::new(|| {
    [
        Hierarchies::parse(include_bytes!("../seeds/mountinfo/hybrid")),
        Hierarchies::parse(include_bytes!("../seeds/mountinfo/unified")),
    ]
});

fuzz_target!(|data: &[u8]| {
    let Ok(bundle) = Bundle::parse(data) else { return };
    let pod = &bundle.pod;
    for name in [&pod.namespace, &pod.name, &pod.uid, &pod.container].into_iter().flatten() {
        assert!(!name.is_empty() && name.len() <= 512);
    }
    if bundle.cgroups_path.is_none() {
        return;
    }
    let proc = Proc::at(concat!(env!("CARGO_MANIFEST_DIR"), "/proc"));
    for kind in [RuntimeKind::Runc, RuntimeKind::Crun, RuntimeKind::Youki] {
        for systemd in [false, true] {
            let plan = Plan {
                kind,
                id: OsStr::new("c1"),
                systemd,
                cgroups_path: bundle.cgroups_path.as_deref(),
                rootless: None,
            };
            for mounts in MOUNTS.iter() {
                if let Ok(identity) = plan.predict(mounts, &proc) {
                    assert!(identity.as_path().is_absolute());
                    assert!(!identity.to_string().chars().any(char::is_control));
                    let _ = (identity.pod(), mounts.dirs(&identity));
                }
            }
        }
    }
});
