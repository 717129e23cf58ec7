//! Where one cgroup is, in each hierarchy.

use super::Identity;

/// If v1 hierarchies disagree on the path (a relative `cgroupsPath` and a caller that sits in different
/// cgroups in them), the first of these that knows the container names it. The freezer comes first,
/// because freezes must not collide. predict and state_file must share the order.
pub(crate) const NAMING_ORDER: [&str; 7] =
    ["freezer", "cpu", "memory", "devices", "pids", "cpuset", "name=systemd"];

/// The path is the same in all hierarchies, except for a container of runc on v1 whose `cgroupsPath` is
/// relative or missing. Such a container lies below its creator's own cgroup, which may differ between
/// hierarchies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    named: Identity,
    /// By controller, `""` for v2; empty if all are the same.
    apart: Vec<(String, Identity)>,
}

impl Places {
    /// The same in all hierarchies.
    pub fn of(named: Identity) -> Places {
        Places { named, apart: Vec::new() }
    }

    /// As a runtime lists them. If they differ, nothing is known of a hierarchy that is not listed:
    /// another cgroup may be at the name's path there.
    pub fn listed(named: Identity, listed: Vec<(String, Identity)>) -> Places {
        let is_one = listed.iter().all(|(_, place)| *place == named);
        Places { named, apart: if is_one { Vec::new() } else { listed } }
    }

    /// The identity that the lock goes by.
    pub fn named(&self) -> &Identity {
        &self.named
    }

    /// The place in the hierarchy that has one of these controllers.
    pub(crate) fn of_any<'a>(
        &self,
        controllers: impl IntoIterator<Item = &'a str>,
    ) -> Option<&Identity> {
        if self.apart.is_empty() {
            return Some(&self.named);
        }
        let mut controllers = controllers.into_iter();
        controllers.find_map(|wanted| {
            let listed = self.apart.iter().find(|(controller, _)| controller == wanted);
            listed.map(|(_, place)| place)
        })
    }

    /// The pod's places, if it is below a pod.
    pub fn pod(&self) -> Option<Places> {
        let pods = self.apart.iter();
        let pods = pods.filter_map(|(controller, place)| Some((controller.clone(), place.pod()?)));
        Some(Places { named: self.named.pod()?, apart: pods.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(path: &str) -> Identity {
        Identity::new(path).unwrap()
    }

    fn listed(named: &str, places: &[(&str, &str)]) -> Places {
        let places = places.iter().map(|(controller, path)| ((*controller).to_owned(), id(path)));
        Places::listed(id(named), places.collect())
    }

    #[test]
    fn one_path_is_that_of_every_hierarchy() {
        let places = listed("/a", &[("freezer", "/a"), ("cpu", "/a")]);
        assert_eq!(places, Places::of(id("/a")));
        assert_eq!(places.of_any(["hugetlb"]), Some(&id("/a")));
    }

    #[test]
    fn of_several_paths_none_is_guessed() {
        let places = listed("/a/c", &[("freezer", "/a/c"), ("cpu", "/b/c")]);
        assert_eq!(places.named(), &id("/a/c"));
        assert_eq!(places.of_any(["cpuacct", "cpu"]), Some(&id("/b/c")));
        assert_eq!(places.of_any(["memory"]), None);
        assert_eq!(places.of_any([""]), None);
    }

    #[test]
    fn a_pod_is_one_only_where_there_is_one() {
        let places = listed(
            "/kubepods/podx/c",
            &[("freezer", "/kubepods/podx/c"), ("cpu", "/kubepods/pody/c"), ("memory", "/c")],
        );
        let pod = places.pod().unwrap();
        assert_eq!(pod.named(), &id("/kubepods/podx"));
        assert_eq!(pod.of_any(["cpu"]), Some(&id("/kubepods/pody")));
        assert_eq!(pod.of_any(["memory"]), None);
        assert_eq!(Places::of(id("/c")).pod(), None);
    }
}
