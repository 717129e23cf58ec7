//! One wait for the lock: how it ends if the holder never does, if signals keep coming, if many
//! wait, and if something is wrong with the lock's files.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use testkit::fake_runtime::{Attempt, Fake, takes_ms};
use testkit::{Scratch, eventually, succeed};

/// One at a time: these measure.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A wrapper that holds the lock until it is killed.
struct Hanging(Child);

impl Hanging {
    /// The first update hangs; later ones do not.
    fn update(fake: &Fake<'_>) -> Hanging {
        let hangs = Attempt { hang: true, ..Attempt::default() };
        fake.script(&[("update", &[hangs, Attempt::default()])]);
        let hanging = Hanging(update(fake).spawn().unwrap());
        eventually(Duration::from_secs(5), "the holder works", || {
            fake.intervals().iter().any(|interval| interval.verb == "update")
        });
        hanging
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn update(fake: &Fake<'_>) -> Command {
    let mut command = fake.wrapped(&["update", "--cpu-quota", "1000", "a"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// What one of our programs does before it executes the wrapper.
fn launched(fake: &Fake<'_>, habits: &[&str]) -> Command {
    let plain = update(fake);
    let mut command = Command::new(testkit::fake_runtime::program());
    command.arg("launch").args(habits).arg(plain.get_program()).args(plain.get_args());
    for (name, value) in plain.get_envs() {
        command.env(name, value.unwrap());
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Operations that waited behind a delete lock new files, for a container that nobody will delete
/// again.
#[test]
fn no_lock_file_outlives_the_container() {
    let _alone = alone();
    for words in
        [&["exec", "a", "true"][..], &["state", "a"], &["update", "--cpu-quota", "1000", "a"]]
    {
        let scratch = Scratch::new();
        let fake = Fake::new(&scratch, "[lock]\nexclusive_wait_ms = 4000\nshared_wait_ms = 1500\n");
        succeed(&mut fake.create("a"));
        assert_eq!(scratch.lock_files().len(), 2);
        fake.script(&[("delete", &[takes_ms(600)])]);
        let mut delete = fake.wrapped(&["delete", "a"]).spawn().unwrap();
        eventually(Duration::from_secs(5), "the delete works", || {
            fake.intervals().iter().any(|interval| interval.verb == "delete")
        });
        let began = Instant::now();
        let _ = testkit::run(&mut fake.wrapped(words));
        assert!(began.elapsed() > Duration::from_millis(100), "{words:?}: not shown: no wait");
        assert!(delete.wait().unwrap().success());
        assert_eq!(scratch.lock_files(), [""; 0].map(PathBuf::from), "{words:?}");
    }
}

/// A delete that found no container has no lock, and ends while a create with that id has written
/// its record but has not yet reached the runtime. Without the record nobody would find the lock.
#[test]
fn a_delete_of_nothing_leaves_the_record_of_a_create() {
    let _alone = alone();
    let scratch = Scratch::new();
    let fake = Fake::new(&scratch, "");
    // The runtime of the create starts when the delete has ended.
    let (late, go) = (fake.dir().join("late/runc"), fake.dir().join("go"));
    std::fs::create_dir(late.parent().unwrap()).unwrap();
    let script = format!(
        "#!/bin/sh\nfor i in $(seq 1000); do [ -e {} ] && break; sleep 0.01; done\nexec {} \"$@\"\n",
        go.display(),
        fake.path.display()
    );
    testkit::program(&late, &script);
    fake.script(&[("delete", &[takes_ms(1000)])]);
    let mut delete = fake.wrapped(&["delete", "a"]).spawn().unwrap();
    eventually(Duration::from_secs(5), "the delete works", || !fake.intervals().is_empty());
    let mut create = fake.create("a").env("FROSTLOCK_RUNTIME", &late).spawn().unwrap();
    let records = || std::fs::read_dir(scratch.state().join("containers")).unwrap().count();
    eventually(Duration::from_secs(5), "the create has its record", || {
        scratch.state().join("containers").exists() && records() == 1
    });
    assert!(delete.try_wait().unwrap().is_none(), "not shown: the delete had ended");
    assert!(!delete.wait().unwrap().success(), "there was something to delete");
    assert!(create.try_wait().unwrap().is_none(), "not shown: the create had ended");
    assert_eq!(records(), 1);
    std::fs::write(go, "").unwrap();
    assert!(create.wait().unwrap().success());
    assert_eq!(fake.intervals().len(), 2);
}

fn record_of(fake: &Fake<'_>, pid: u32) -> Value {
    let journal = fake.scratch.journal();
    let found = journal.into_iter().find(|record| record["pid"] == pid);
    found.unwrap_or_else(|| panic!("no record of {pid}"))
}

fn wait_ms(record: &Value) -> f64 {
    record["lock_wait_ms"].as_f64().unwrap()
}

/// What a machine that stands still may add; less than what a signal could add to a wait.
const LATE_MS: f64 = 500.0;

/// Not before its time, and not much later.
fn assert_waited(record: &Value, configured_ms: f64) {
    let waited = wait_ms(record);
    println!("{} of {configured_ms} ms: {waited:.1} ms", record["verb"]);
    assert_eq!(record["lock"], "timed out", "{record}");
    assert!(waited >= configured_ms, "{waited} ms are less than {configured_ms}");
    assert!(waited <= configured_ms + LATE_MS, "{waited} ms for {configured_ms}");
}

fn with_container<'a>(scratch: &'a Scratch, config: &str) -> Fake<'a> {
    let fake = Fake::new(scratch, config);
    succeed(&mut fake.create("a"));
    fake
}

/// Runs it to its end; returns its pid.
fn finish(command: &mut Command) -> u32 {
    let mut child = command.spawn().unwrap();
    let status = child.wait().unwrap();
    assert!(status.success(), "{command:?}: {status}");
    child.id()
}

#[test]
fn everybody_goes_ahead_when_the_holder_hangs() {
    let _alone = alone();
    let scratch = Scratch::new();
    let fake = with_container(&scratch, "");
    let hanging = Hanging::update(&fake);

    let record = record_of(&fake, finish(&mut update(&fake)));
    assert_waited(&record, 1000.0);
    let holder = record["holders"][0].as_str().unwrap();
    let named = format!("update a (pid {}, for ", hanging.pid());
    assert!(holder.starts_with(&named), "{holder:?} is not {named:?}...");
    let held: f64 = holder[named.len()..].split(' ').next().unwrap().parse().unwrap();
    assert!(held >= 1000.0, "{holder}");

    let record = record_of(&fake, finish(&mut fake.wrapped(&["exec", "a", "true"])));
    assert_waited(&record, 500.0);
    let record = record_of(&fake, finish(&mut fake.wrapped(&["state", "a"])));
    assert_waited(&record, 500.0);
    let record = record_of(&fake, finish(&mut fake.wrapped(&["resume", "a"])));
    assert_waited(&record, 500.0);

    let since = Instant::now();
    let record = record_of(&fake, finish(&mut fake.wrapped(&["kill", "a", "KILL"])));
    println!("kill: {:?}", since.elapsed());
    assert_eq!((&record["lock"], wait_ms(&record)), (&"none".into(), 0.0));
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
}

#[test]
fn a_wait_of_nothing_is_none() {
    let _alone = alone();
    let scratch = Scratch::new();
    let fake = with_container(&scratch, "[lock]\nexclusive_wait_ms = 0\n");
    let _hanging = Hanging::update(&fake);
    let record = record_of(&fake, finish(&mut update(&fake)));
    assert_eq!(record["lock"], "timed out");
    assert!(wait_ms(&record) < LATE_MS, "{record}");
}

/// For a short lock all get their turn; for one that is never released, all go ahead.
#[test]
fn sixty_four_wait_at_once() {
    let _alone = alone();
    let scratch = Scratch::new();
    let fake = with_container(&scratch, "[lock]\nexclusive_wait_ms = 4000\n");
    fake.script(&[("update", &[takes_ms(5)])]);
    let all = |fake: &Fake<'_>| {
        let children: Vec<Child> = (0..64).map(|_| update(fake).spawn().unwrap()).collect();
        let end = |mut child: Child| {
            assert!(child.wait().unwrap().success());
            record_of(fake, child.id())
        };
        children.into_iter().map(end).collect::<Vec<_>>()
    };
    let records = all(&fake);
    let longest = records.iter().map(wait_ms).fold(0.0, f64::max);
    println!("64 with holds of 5 ms: longest wait {longest:.0} ms");
    assert!(records.iter().all(|record| record["lock"] == "exclusive"));

    fake.forget_intervals();
    fake.configure("[lock]\nexclusive_wait_ms = 1500\n");
    let _hanging = Hanging::update(&fake);
    for record in all(&fake) {
        assert_waited(&record, 1500.0);
    }
}

/// Signals with and without a handler of ours, and stops, after which the kernel restarts the wait.
#[test]
fn signals_do_not_lengthen_the_wait() {
    let _alone = alone();
    for storm in ["WINCH CONT URG", "STOP CONT", "64"] {
        let scratch = Scratch::new();
        let fake = with_container(&scratch, "");
        let _hanging = Hanging::update(&fake);
        let mut waiting = update(&fake).spawn().unwrap();
        // The timer's signal would kill until it has a handler.
        std::thread::sleep(Duration::from_millis(300));
        // Over before the wait is: a later signal would kill the runtime.
        let script = "end=$((${EPOCHREALTIME/./} + 400000))
            while [ ${EPOCHREALTIME/./} -lt $end ]; do
                for s in $2; do kill -$s $1; done; sleep 0.001
            done";
        let pid = waiting.id().to_string();
        succeed(Command::new("bash").args(["-c", script, "bash", &pid, storm]));
        assert!(waiting.wait().unwrap().success(), "{storm}");
        print!("{storm}: ");
        assert_waited(&record_of(&fake, waiting.id()), 1000.0);
    }
}

#[test]
fn blocked_signals_do_not_lengthen_the_wait() {
    let _alone = alone();
    let scratch = Scratch::new();
    let fake = with_container(&scratch, "");
    let _hanging = Hanging::update(&fake);
    let pid = finish(&mut launched(&fake, &["--block-signals"]));
    assert_waited(&record_of(&fake, pid), 1000.0);
}

/// An alarm survives exec. The runtime dies of it, as it would without frostlock: while frostlock
/// waits, and while the runtime works.
#[test]
fn the_callers_alarm_comes_at_its_time() {
    let _alone = alone();
    for wait_ms in [3000, 500, 0] {
        let scratch = Scratch::new();
        let fake = with_container(&scratch, &format!("[lock]\nexclusive_wait_ms = {wait_ms}\n"));
        let _hanging = Hanging::update(&fake);
        fake.script(&[("update", &[takes_ms(5000)])]);
        let since = Instant::now();
        let status = launched(&fake, &["--alarm", "1"]).status().unwrap();
        let took = since.elapsed();
        println!("alarm after 1 s with a wait of {wait_ms} ms: {status} after {took:?}");
        assert_eq!(status.signal(), Some(Signal::SIGALRM as i32), "{status} after {took:?}");
        assert!(took >= Duration::from_millis(990) && took < Duration::from_millis(2500));
    }
}

/// The files of the container `a`.
fn lock_files(scratch: &Scratch) -> [PathBuf; 2] {
    let mut files = scratch.lock_files();
    files.sort();
    files.try_into().unwrap()
}

/// Somebody removes a file while one operation holds the lock and another waits for it: both end as
/// if nothing had happened, and so does a third that comes later.
#[test]
fn a_removed_file_stops_nobody() {
    let _alone = alone();
    for remove in [&[0][..], &[1], &[0, 1]] {
        let scratch = Scratch::new();
        let fake = with_container(&scratch, "[lock]\nexclusive_wait_ms = 4000\n");
        fake.script(&[("update", &[takes_ms(500)])]);
        let spawn = || update(&fake).spawn().unwrap();
        let works = |count: usize| {
            eventually(Duration::from_secs(5), "works", || {
                fake.intervals().iter().filter(|one| one.verb == "update").count() == count
            });
        };
        let first = spawn();
        works(1);
        let second = spawn();
        std::thread::sleep(Duration::from_millis(100));
        let files = lock_files(&scratch);
        for &which in remove {
            std::fs::remove_file(&files[which]).unwrap();
        }
        let third = spawn();
        let records = [first, second, third].map(|mut child| {
            assert!(child.wait().unwrap().success());
            record_of(&fake, child.id())
        });
        let waits: Vec<f64> = records.iter().map(wait_ms).collect();
        println!("removed {remove:?}: waits {waits:.0?} ms");
        assert!(records.iter().all(|record| record["lock"] == "exclusive"), "{records:?}");
        // It waited for the first one as before, and did not count the removed lock as a lock.
        let updates: Vec<_> =
            fake.intervals().into_iter().filter(|one| one.verb == "update").collect();
        let of = |at: usize| {
            updates.iter().find(|one| records[at]["pid"] == one.parent).expect("an interval")
        };
        assert!(of(1).start >= of(0).end.unwrap(), "the second did not wait for the first");
        let (second, third) = (of(1), of(2));
        let apart = second.start >= third.end.unwrap() || third.start >= second.end.unwrap();
        assert!(apart, "{second:?} with {third:?}");
    }
}

#[test]
fn a_foreign_file_in_the_place_of_a_lock_is_said_and_passed_by() {
    let _alone = alone();
    for which in [0, 1] {
        for kind in ["directory", "symlink", "fifo"] {
            let scratch = Scratch::new();
            let fake = with_container(&scratch, "");
            let path = &lock_files(&scratch)[which];
            let elsewhere = scratch.path("elsewhere");
            std::fs::write(&elsewhere, "untouched").unwrap();
            put(kind, path, &elsewhere);
            for verb in [&["update", "a"][..], &["exec", "a", "true"], &["state", "a"]] {
                let mut child = fake.wrapped(verb).stdout(Stdio::null()).spawn().unwrap();
                eventually(Duration::from_secs(10), "goes ahead", || {
                    child.try_wait().unwrap().is_some()
                });
                assert!(child.wait().unwrap().success());
                let record = record_of(&fake, child.id());
                assert_eq!(record["lock"], "unavailable", "{kind} {record}");
                let note = record["note"].as_str().unwrap_or_default();
                let why = ["directory", "symbolic link", "not a regular file"];
                assert!(why.iter().any(|why| note.contains(why)), "{kind}: {note:?}");
            }
            assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "untouched");
        }
    }
}

fn put(kind: &str, path: &Path, elsewhere: &Path) {
    std::fs::remove_file(path).unwrap();
    match kind {
        "directory" => std::fs::create_dir(path).unwrap(),
        "symlink" => std::os::unix::fs::symlink(elsewhere, path).unwrap(),
        _ => nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
    }
}

/// Two waiters stand behind a delete. While the first of them works, the container is recreated in
/// another cgroup. The second must not work beside that create, under the lock of the old path.
#[test]
fn a_container_that_moves_meanwhile_is_locked_where_it_is() {
    let _alone = alone();
    let scratch = Scratch::new();
    let fake = with_container(&scratch, "[lock]\nexclusive_wait_ms = 4000\n");
    let [update_takes, delete_takes, create_takes] = [900, 100, 900].map(takes_ms);
    fake.script(&[
        ("update", &[update_takes]),
        ("delete", &[delete_takes]),
        ("create", &[create_takes]),
    ]);
    let first = update(&fake).spawn().unwrap();
    let begun = |verb: &str| {
        eventually(Duration::from_secs(5), verb, || {
            fake.intervals().iter().any(|one| one.verb == verb)
        });
    };
    begun("update");
    let queue = |mut command: Command| {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Until it is in the queue.
        std::thread::sleep(Duration::from_millis(200));
        child
    };
    let queued = [fake.wrapped(&["delete", "a"]), update(&fake), update(&fake)].map(queue);
    eventually(Duration::from_secs(5), "the delete has ended", || {
        !scratch.root().join("a").exists()
    });

    let elsewhere = fake.cgroup("elsewhere");
    let bundle = fake.bundle("elsewhere");
    let create = queue(fake.wrapped(&["create", "--bundle", bundle.to_str().unwrap(), "a"]));
    let last = queued[2].id();
    for mut child in queued.into_iter().chain([first, create]) {
        child.wait().unwrap();
    }
    let record = record_of(&fake, last);
    assert_eq!((&record["lock"], &record["cgroup"]), (&"exclusive".into(), &elsewhere.into()));
    let intervals = fake.intervals();
    let create = intervals.iter().rfind(|one| one.verb == "create").expect("a create");
    let last = intervals.iter().find(|one| last == one.parent as u32).expect("an update");
    println!("began {} us after the create", (last.start - create.end.unwrap()) / 1000);
    assert!(last.start >= create.end.unwrap(), "{last:?} beside {create:?}");
}

/// The runtime ends with its wrapper, at once.
#[test]
fn a_killed_wrapper_takes_its_runtime_along_and_lets_the_next_one_in() {
    let _alone = alone();
    let scratch = Scratch::new();
    let fake = with_container(&scratch, "[lock]\nexclusive_wait_ms = 4000\n");
    let mut hanging = Hanging::update(&fake);
    let runtime = fake.intervals().pop().unwrap().pid;
    let waiting = update(&fake).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    kill(Pid::from_raw(hanging.pid() as i32), Signal::SIGKILL).unwrap();
    let since = Instant::now();
    hanging.0.wait().unwrap();
    let output = waiting.wait_with_output().unwrap();
    println!("next one through {:?} after the kill", since.elapsed());
    assert!(output.status.success());
    // Not when its own wait is over.
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    eventually(Duration::from_secs(5), "the runtime is gone", || {
        // As a zombie it may wait for an init that is slow to reap.
        let stat = std::fs::read_to_string(format!("/proc/{runtime}/stat")).unwrap_or_default();
        !stat.contains(") ") || stat.contains(") Z ")
    });
}
