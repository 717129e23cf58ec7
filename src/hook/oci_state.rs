//! The state that a runtime gives to its hooks, from version 0.1.0 of the specification to 1.2.

use std::path::PathBuf;

use oci_spec::runtime::ContainerState;

use cgroup::bundle::PodNames;
use cgroup::json::{self, Object};

/// The fields that are present and of the right type. oci-spec's own type is not used: one unknown
/// status, or one key that is written twice, loses everything. And before 1.0 the bundle was a
/// `bundlePath`.
#[derive(Debug, Clone, Default)]
pub struct State {
    pub id: String,
    /// The container's init; crun writes 0 if it is gone.
    pub pid: Option<i32>,
    pub bundle: Option<PathBuf>,
    pub status: Option<ContainerState>,
}

impl State {
    /// Input that is not JSON has no fields.
    pub fn parse(bytes: &[u8]) -> (State, PodNames) {
        let text = json::text(bytes.to_vec());
        let Ok(all) = Object::first(&text) else {
            return (State::default(), PodNames::default());
        };
        let bundle: Option<PathBuf> = all.get("bundle").or_else(|| all.get("bundlePath"));
        let state = State {
            id: all.get("id").unwrap_or_default(),
            pid: all.get("pid").filter(|pid| *pid > 0),
            bundle: bundle.filter(|bundle| !bundle.as_os_str().is_empty()),
            status: all.get("status"),
        };
        let pod = all.object("annotations").as_ref().map(PodNames::from_annotations);
        (state, pod.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

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
            assert_eq!((state.id.as_str(), state.pid), ("a", Some(7)), "{json}");
            assert_eq!(state.bundle.as_deref(), Some(Path::new("/b")), "{json}");
        }
    }

    #[test]
    fn one_field_that_is_wrong_is_lost_alone() {
        let state = parse(r#"{"id":"a","pid":"7","status":"paused","bundle":"/b","bundle":"/c"}"#);
        assert_eq!((state.id.as_str(), state.pid, state.status), ("a", None, None));
        assert_eq!(state.bundle.as_deref(), Some(Path::new("/c")));
        for pid in ["0", "-1", "99999999999", "null", "1.5"] {
            assert_eq!(parse(&format!(r#"{{"id":"a","pid":{pid}}}"#)).pid, None);
        }
        assert_eq!(parse(r#"{"status":"stopped"}{"#).status, Some(ContainerState::Stopped));
    }

    proptest! {
        #[test]
        fn garbage_is_no_state(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let (state, _) = State::parse(&bytes);
            prop_assert!(state.pid.is_none_or(|pid| pid > 0));
        }
    }
}
