//! Frozen means frozen: a successful pause has frozen every task, and a failed one leaves nothing
//! frozen and says why. First with the bare runtime, which must do visibly worse.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod ancestors;
mod confirmed;
mod explained;
mod strangers;
mod timed_out;
mod untouched;

use std::time::Duration;

use testkit::scene::{Ended, MS, Scene, tolerance};

/// How long a pause is confirmed, and how much an operation may take beyond its first attempt.
const CONFIRM: Duration = Duration::from_secs(1);
const RETRIES: Duration = Duration::from_millis(1500);

/// What is appended to the runtime's own message.
const OURS: &str = " (frostlock: ";

/// The runtime's text, then ours, which names the task that does not freeze.
#[track_caller]
fn names_the_task(scene: &Scene, message: &str) {
    let pid = scene.a_held_up();
    let (_, ours) =
        message.split_once(OURS).unwrap_or_else(|| panic!("not explained: {message:?}"));
    for word in [&format!("pid {pid} cat D"), testkit::stuck::WCHAN] {
        assert!(ours.contains(word), "{word:?} is not in {message:?}");
    }
}

#[track_caller]
fn ended_within(ended: &Ended, limit: Duration) {
    assert!(ended.code.is_some(), "it hangs: {ended:?}");
    assert!(ended.took < limit + tolerance(), "{:?} is more than {limit:?}: {ended:?}", ended.took);
}

/// The duration as shown in a table.
fn ms(took: Duration) -> String {
    format!("{} ms", took.as_millis() / MS.as_millis())
}
