//! The state that a runtime writes to the standard input of a hook.

#![no_main]

use frostlock::hook::State;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (state, pod) = State::parse(data);
    assert!(state.pid.is_none_or(|pid| pid > 0));
    assert!(state.bundle.is_none_or(|bundle| !bundle.as_os_str().is_empty()));
    for name in [&pod.namespace, &pod.name, &pod.uid, &pod.container].into_iter().flatten() {
        assert!(!name.is_empty() && name.len() <= 512);
    }
});
