//! A container that was created through frostlock works with any runc afterwards, and the reverse:
//! frostlock can be installed on a node and removed from it while containers run.

use testkit::throttled::Via;
use testkit::{Scratch, runtime, succeed};

use crate::in_a_node;
use crate::pod::{Container, Pod};

#[test]
fn either_handles_what_the_other_has_made() {
    in_a_node("interchange::inside");
}

#[test]
#[ignore = "runs in a node"]
fn inside() {
    for name in crate::RUNTIMES {
        let runtime = runtime(name);
        for (makes, handles) in [(Via::Wrapped, Via::Bare), (Via::Bare, Via::Wrapped)] {
            let scratch = Scratch::new();
            let pod = Pod::next();
            let made = Container::planned(&scratch, &runtime, makes, &pod, "c", "idle").started();
            let made = made.handled_by(handles);
            handled(&made);
            // And once more by the other, in the middle of its life.
            let back = made.handled_by(makes);
            handled(&back);
            let last = back.handled_by(handles);
            succeed(last.command("kill").args(["c", "KILL"]));
            last.until_stopped();
            succeed(last.command("delete").arg("c"));
            assert!(!last.is_there(), "{name}: made {makes:?}, its cgroup is left");
            let wrapped_is_last = handles == Via::Wrapped;
            assert!(!wrapped_is_last || scratch.lock_files().is_empty(), "{name}: a lock is left");
        }
    }
}

/// Every verb of a container's life except the first and the last.
fn handled(container: &Container<'_>) {
    let must = |words: &[&str]| {
        let mut command = container.command(words[0]);
        String::from_utf8(succeed(command.args(&words[1..])).stdout).unwrap()
    };
    assert!(must(&["state", "c"]).contains("running"));
    must(&["exec", "c", "true"]);
    must(&["update", "--cpu-share", "77", "c"]);
    assert_eq!(container.read("cpu", "cpu.shares"), 77);
    must(&["pause", "c"]);
    assert!(must(&["state", "c"]).contains("paused"));
    must(&["resume", "c"]);
    must(&["update", "--cpu-share", "66", "c"]);
    assert_eq!(container.read("cpu", "cpu.shares"), 66);
}
