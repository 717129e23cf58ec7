//! What the hook was told.

use super::input;
use super::oci_state::State;
use super::request::Request;
use cgroup::bundle::{Bundle, PodNames};

/// What the hook was told on standard input.
pub(crate) struct Told {
    pub(crate) state: State,
    /// A filter of configurations gets the configuration itself and no state.
    pub(crate) bundle: Option<Bundle>,
    pub(crate) pod: PodNames,
}

impl Told {
    pub(super) fn read(request: &Request, input: &input::Input) -> Told {
        if request.filters_config() {
            let bundle = Bundle::parse(&input.bytes).ok();
            let pod = bundle.as_ref().map(|bundle| bundle.pod.clone()).unwrap_or_default();
            return Told { state: State::default(), bundle, pod };
        }
        let (state, pod) = State::parse(&input.bytes);
        Told { state, bundle: None, pod }
    }
}
