//! The CRI messages for a pod, as kubelet fills them.

use frostlock_cri::v1;

use crate::plan::{Milli, PERIOD_US, quota_us, shares};

const MEMORY_BYTES: i64 = 64 << 20;

/// With the host's network, so that no CNI is needed.
pub(crate) fn sandbox(uid: &str, attempt: u32, slice: &str) -> v1::PodSandboxConfig {
    let namespaces =
        v1::NamespaceOption { network: v1::NamespaceMode::Node.into(), ..Default::default() };
    let security = v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces),
        ..Default::default()
    };
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: format!("storm-{uid}"),
            uid: uid.to_owned(),
            namespace: "storm".to_owned(),
            attempt,
        }),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: slice.to_owned(),
            security_context: Some(security),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A shell with this many busy loops, or none.
pub(crate) fn container(
    at: usize,
    attempt: u32,
    limit: Milli,
    threads: u32,
    image: &str,
) -> v1::ContainerConfig {
    let loops = "while :; do :; done & ".repeat(threads as usize);
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: format!("c{at}"), attempt }),
        image: Some(v1::ImageSpec { image: image.to_owned(), ..Default::default() }),
        command: vec!["sh".to_owned(), "-c".to_owned(), format!("{loops}sleep 100000")],
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources(limit)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub(crate) fn resources(limit: Milli) -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        cpu_period: PERIOD_US,
        cpu_quota: quota_us(limit),
        cpu_shares: shares(limit),
        memory_limit_in_bytes: MEMORY_BYTES,
        ..Default::default()
    }
}
