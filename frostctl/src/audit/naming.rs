//! The names of containers' cgroups.

use std::fs;

/// The length of the ids that containerd's CRI, docker, podman and CRI-O generate.
const ID_LENGTH: usize = 64;
const PREFIXES: [&str; 4] = ["cri-containerd-", "docker-", "libpod-", "crio-"];

/// Whether a process is in a cgroup that is named as a container's, or below one.
pub(crate) fn is_in_container(pid: i32) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    names_container(&text)
}

fn names_container(cgroups: &str) -> bool {
    cgroups.split(['/', '\n']).any(|part| container_id(part).is_some())
}

/// The id in a cgroup's name, under either driver.
pub(crate) fn container_id(name: &str) -> Option<&str> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let id = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    let hex = id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    (id.len() == ID_LENGTH && hex).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_below_a_containers_cgroup_is_in_it() {
        let id = "0123456789abcdef".repeat(4);
        assert!(names_container(&format!(
            "2:cpu:/\n0::/kubepods/pod7/cri-containerd-{id}.scope\n"
        )));
        assert!(names_container(&format!("0::/docker/{id}/system.slice/crio.service\n")));
        assert!(!names_container("2:cpu:/\n0::/system.slice/crio.service\n"));
    }

    #[test]
    fn names_of_containers_under_either_driver() {
        let id = "0123456789abcdef".repeat(4);
        for name in [
            id.clone(),
            format!("cri-containerd-{id}.scope"),
            format!("docker-{id}.scope"),
            format!("libpod-{id}"),
            format!("crio-{id}.scope"),
        ] {
            assert_eq!(container_id(&name), Some(id.as_str()), "{name}");
        }
        for other in ["kubepods", "pod8f0c2b1e", "user.slice", "libpod-conmon-x", &id[1..]] {
            assert_eq!(container_id(other), None, "{other}");
        }
        assert_eq!(container_id(&format!("libpod-conmon-{id}.scope")), None);
    }
}
