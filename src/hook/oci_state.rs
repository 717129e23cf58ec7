//! The state that a runtime gives to its hooks, from version 0.1.0 of the specification to 1.2.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{self, ContainerState};

use cgroup::bundle::PodNames;
use cgroup::json::{self, Object};

/// The fields that are present and of the right type. oci-spec's deserializer is not used: one unknown
/// status, or one key that is written twice, loses everything. And before 1.0 the bundle was a
/// `bundlePath`.
#[derive(Debug, Clone, Default)]
pub struct State {
    known: runtime::State,
    has_status: bool,
}

impl State {
    /// Input that is not JSON has no fields.
    pub fn parse(bytes: &[u8]) -> (State, PodNames) {
        let text = json::text(bytes.to_vec());
        let Ok(all) = Object::first(&text) else {
            return (State::default(), PodNames::default());
        };
        let mut known = runtime::State::default();
        known.set_id(all.get("id").unwrap_or_default());
        known.set_pid(all.get("pid").filter(|pid| *pid > 0));
        known.set_bundle(bundle(&all).unwrap_or_default());
        let status: Option<ContainerState> = all.get("status");
        known.set_status(status.unwrap_or_default());
        let pod = all.object("annotations").as_ref().map(PodNames::from_annotations);
        (State { known, has_status: status.is_some() }, pod.unwrap_or_default())
    }

    pub fn id(&self) -> &OsStr {
        OsStr::new(self.known.id())
    }

    /// The container's init; crun writes 0 if it is gone.
    pub fn pid(&self) -> Option<i32> {
        *self.known.pid()
    }

    pub fn bundle(&self) -> Option<&Path> {
        Some(self.known.bundle().as_path()).filter(|bundle| !bundle.as_os_str().is_empty())
    }

    pub fn status(&self) -> Option<ContainerState> {
        self.has_status.then(|| *self.known.status())
    }
}

fn bundle(all: &Object<'_>) -> Option<PathBuf> {
    all.get("bundle").or_else(|| all.get("bundlePath"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(json: &str) -> State {
        State::parse(json.as_bytes()).0
    }

    /// As runc wrote them: `HookState` of libcontainer in 0.1.1 and 1.0.0-rc2, `specs.State` since
    /// then; the last two by crun 1.8.1 and 1.28.
    #[test]
    fn every_version_is_read() {
        for json in [
            r#"{"version":"0.1.0","id":"a","pid":7,"root":"/r","bundlePath":"/b"}"#,
            r#"{"ociVersion":"1.0.0-rc1","id":"a","pid":7,"root":"/r","bundlePath":"/b"}"#,
            r#"{"ociVersion":"1.0.0","id":"a","status":"creating","pid":7,"bundle":"/b"}"#,
            r#"{"ociVersion":"1.2.1","id":"a","status":"created","pid":7,"bundle":"/b","annotations":{"x":"y"}}"#,
            r#"{"ociVersion":"1.0","id":"a","pid":7,"root":"/r","bundle":"/b","status":"created"}"#,
            "{\n  \"ociVersion\": \"1.0\",\n  \"id\": \"a\",\n  \"pid\": 7,\n  \"bundle\": \"\\/b\",\n  \"status\": \"created\"\n}",
        ] {
            let state = parse(json);
            assert_eq!((state.id(), state.pid()), (OsStr::new("a"), Some(7)), "{json}");
            assert_eq!(state.bundle(), Some(Path::new("/b")), "{json}");
        }
    }

    #[test]
    fn one_field_that_is_wrong_is_lost_alone() {
        let state = parse(r#"{"id":"a","pid":"7","status":"paused","bundle":"/b","bundle":"/c"}"#);
        assert_eq!((state.id(), state.pid(), state.status()), (OsStr::new("a"), None, None));
        assert_eq!(state.bundle(), Some(Path::new("/c")));
        for pid in ["0", "-1", "99999999999", "null", "1.5"] {
            assert_eq!(parse(&format!(r#"{{"id":"a","pid":{pid}}}"#)).pid(), None);
        }
        assert_eq!(parse(r#"{"status":"stopped"}{"#).status(), Some(ContainerState::Stopped));
    }

    proptest! {
        #[test]
        fn garbage_is_no_state(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let (state, _) = State::parse(&bytes);
            prop_assert!(state.pid().is_none_or(|pid| pid > 0));
        }
    }
}
