//! A v1 freeze that somebody else has begun is theirs to end, even during a pause of ours.

use testkit::eventually;
use testkit::scene::{HANGS, Scene, Via, report, timed};

/// runc waits as long as a cgroup is FREEZING before it does anything with its container; if
/// frostlock kept it FREEZING, runc would wait forever.
#[test]
fn what_was_freezing_before_a_pause_is_not_held() {
    let scene = Scene::stubborn("runc-1.1.5");
    let freezer = scene.freezer();
    freezer.freeze();
    assert_eq!(freezer.read("freezer.state"), "FREEZING", "not shown");
    let ended = std::thread::scope(|scope| {
        let pausing =
            scope.spawn(|| timed(&mut scene.command(Via::Wrapped, &["pause", "c"]), HANGS));
        eventually(HANGS, "its note", || !scene.intents().is_empty());
        // It looks every half millisecond.
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(!pausing.is_finished(), "not shown: the pause does not wait");
        freezer.thaw();
        pausing.join().unwrap()
    });
    report!("exit {:?} in {:?}: {}", ended.code, ended.took, ended.stderr);
    assert!(ended.code == Some(1) && ended.stderr.contains("unable to freeze"), "{ended:?}");
    assert_eq!(freezer.read("freezer.state"), "THAWED");
}
