//! The journal on disk: each record gets there once, whoever is killed during a rotation, and no
//! state of the disk costs an operation anything.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::TryRecvError;
use std::thread::sleep;
use std::time::{Duration, Instant};

use journal::history;
use serde_json::Value;
use testkit::{Scratch, frostlock, run, text};

const WRITERS: usize = 8;
/// Each record is padded to some 2.3 KiB. Of the smallest history, 16 files of 64 KiB, about 12
/// then become full and nothing is pruned.
const RECORDS: usize = 40;
const PADDING: usize = 900;
const LIMIT: Duration = Duration::from_secs(5);
/// How long a carrier, which wakes every second, may take on a machine with other work.
const CARRIED: Duration = Duration::from_secs(20);
/// How much longer an operation may take than one without a history, on a machine with other work:
/// less than any wait for a disk.
const SLACK: Duration = Duration::from_millis(100);
/// How long the machine may delay one in ten. None waits as long as the disk hangs.
const HELD_UP: Duration = Duration::from_secs(2);

/// None is slower than the slowest without a history, except one in ten, which the machine may
/// delay.
fn assert_not_held_up(with: &[Duration], without: &[Duration]) {
    let (most, last) = (with.len() * 9 / 10, with.len() - 1);
    assert!(with[most] < without[most] + SLACK, "{with:?} {without:?}");
    assert!(with[last] < without[last] + HELD_UP, "{with:?} {without:?}");
}

fn config(scratch: &Scratch, directory: &Path) -> PathBuf {
    let path = scratch.path("config.toml");
    let directory = directory.display();
    let text =
        format!("[history]\ndirectory = '{directory}'\nmax_mib = 1\n[log]\nsyslog = false\n");
    std::fs::write(&path, text).unwrap();
    path
}

fn lines(directory: &Path) -> (Vec<String>, usize) {
    let files: Vec<_> =
        history::files(directory).into_iter().filter(|file| file.exists()).collect();
    // One may be rotated between the two.
    let texts = files.iter().filter_map(|file| std::fs::read_to_string(file).ok());
    let text: String = texts.collect();
    (text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect(), files.len())
}

/// One record, written by the wrapper as a hook: this needs no container.
fn write_record(scratch: &Scratch, config: &Path, id: &str) {
    assert!(begin_record(scratch, config, id).wait().unwrap().success());
}

fn begin_record(scratch: &Scratch, config: &Path, id: &str) -> Child {
    begin_hook(scratch, config, id, "poststart")
}

fn begin_hook(scratch: &Scratch, config: &Path, id: &str, stage: &str) -> Child {
    let mut hook = Command::new(frostlock())
        .args(["hook", stage])
        .env("FROSTLOCK_STATE_DIR", scratch.state())
        .env("FROSTLOCK_CONFIG", config)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let state = serde_json::json!({
        "ociVersion": "1.0.2", "id": id, "status": "stopped", "bundle": "/",
        // In a record, the name of a pod has at most 512 bytes.
        "annotations": {
            "io.kubernetes.cri.sandbox-name": "x".repeat(PADDING / 2),
            "io.kubernetes.cri.sandbox-namespace": "x".repeat(PADDING / 2),
        },
    });
    let state = state.to_string();
    hook.stdin.take().unwrap().write_all(state.as_bytes()).unwrap();
    hook
}

/// The same load on files that are rotated without a lock: each writer that finds a full file moves
/// it to the next number.
fn naive(directory: &Path) -> usize {
    let written = AtomicUsize::new(0);
    let append = || -> std::io::Result<()> {
        let path = directory.join("history.jsonl");
        let mut options = std::fs::OpenOptions::new();
        let options = options.append(true).create(true);
        let mut file = options.open(&path)?;
        if file.metadata()?.len() > 64 * 1024 {
            let number = history::files(directory).len();
            std::fs::rename(&path, directory.join(format!("history-{number:08}.jsonl")))?;
            file = options.open(&path)?;
        }
        let line = format!("{{\"x\":\"{}\"}}\n", "x".repeat(PADDING));
        file.write_all(line.as_bytes())?;
        written.fetch_add(1, Ordering::Relaxed);
        Ok(())
    };
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| (0..1000).for_each(|_| drop(append())));
        }
    });
    written.load(Ordering::Relaxed) - lines(directory).0.len()
}

#[test]
fn eight_writers_lose_and_tear_nothing_while_files_are_set_aside() {
    let scratch = Scratch::new();
    let lost = (0..5).map(|round| {
        let directory = scratch.path(&format!("naive-{round}"));
        std::fs::create_dir(&directory).unwrap();
        naive(&directory)
    });
    let lost = lost.sum::<usize>();
    assert!(lost > 0, "not shown: without a lock nothing was lost either");

    let directory = scratch.path("history");
    let config = config(&scratch, &directory);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (scratch, config) = (&scratch, &config);
            scope.spawn(move || {
                (0..RECORDS).for_each(|n| {
                    write_record(scratch, config, &format!("{writer}-{n}-{}", "x".repeat(PADDING)))
                });
            });
        }
    });
    let all = WRITERS * RECORDS;
    testkit::eventually(CARRIED, "all are on the disk", || lines(&directory).0.len() >= all);
    let (lines, files) = lines(&directory);
    println!(
        "{WRITERS} wrappers, {} records in {files} files; without a lock {lost} of 40,000 were lost",
        lines.len()
    );
    assert!(files > 5, "set aside only {files} times");
    assert_eq!((lines.len(), ids(&lines).len()), (all, all));
}

fn ids(lines: &[String]) -> BTreeSet<String> {
    let id = |line: &String| {
        let record: Value = serde_json::from_str(line).expect("no torn line");
        record["id"].as_str().unwrap().to_owned()
    };
    lines.iter().map(id).collect()
}

/// The carriers of this scratch place.
fn carriers(scratch: &Scratch) -> Vec<i32> {
    let ours = format!("FROSTLOCK_STATE_DIR={}", scratch.state().display());
    let is_ours = |pid: &i32| {
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        comm == "frostlock-carry\n"
            && environ.split(|byte| *byte == 0).any(|it| it == ours.as_bytes())
    };
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(is_ours).collect()
}

fn signal(pid: i32, signal: nix::sys::signal::Signal) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
}

#[test]
fn carriers_that_are_killed_lose_and_double_nothing() {
    let scratch = Scratch::new();
    let directory = scratch.path("history");
    let config = config(&scratch, &directory);
    let (mut written, mut killed) = (0, 0);
    let began = Instant::now();
    while killed < 40 {
        assert!(began.elapsed() < LIMIT * 12, "only {killed} carriers");
        write_record(&scratch, &config, &format!("{written}"));
        written += 1;
        // In half of the cases it is woken to work, and killed somewhere in it.
        for pid in carriers(&scratch) {
            if killed % 2 == 0 {
                signal(pid, nix::sys::signal::Signal::SIGTERM);
                sleep(Duration::from_micros(50 * (killed % 20)));
            }
            signal(pid, nix::sys::signal::Signal::SIGKILL);
            killed += 1;
        }
    }
    testkit::eventually(CARRIED, "the last is dead", || carriers(&scratch).is_empty());
    write_record(&scratch, &config, "last");
    testkit::eventually(CARRIED, "the last is on the disk", || {
        lines(&directory).0.iter().any(|line| line.contains("\"id\":\"last\""))
    });
    // A killed write ends at a page: a partial line, followed by the whole one.
    let is_whole = |line: &&String| serde_json::from_str::<Value>(line).is_ok();
    let (whole, halves): (Vec<_>, Vec<_>) =
        lines(&directory).0.into_iter().partition(|line| is_whole(&line));
    println!("{killed} carriers killed over {written} records, {} halves", halves.len());
    assert_eq!((whole.len(), ids(&whole).len()), (written + 1, written + 1));
}

#[test]
fn a_carrier_that_is_asked_to_end_carries_first() {
    let scratch = Scratch::new();
    let directory = scratch.path("history");
    let config = config(&scratch, &directory);
    write_record(&scratch, &config, "before the end");
    testkit::eventually(CARRIED, "a carrier", || !carriers(&scratch).is_empty());
    assert_eq!(lines(&directory).0.len(), 0, "not shown: it did not wait");
    signal(carriers(&scratch)[0], nix::sys::signal::Signal::SIGTERM);
    testkit::eventually(CARRIED, "it has ended", || carriers(&scratch).is_empty());
    assert_eq!(lines(&directory).0.len(), 1);
}

/// As `frostctl record` does it.
#[test]
fn who_tells_of_an_exit_comes_after_what_was_written_before_and_waits_for_no_carrier() {
    let scratch = Scratch::new();
    let directory = scratch.path("history");
    let config = config(&scratch, &directory);
    let text = std::fs::read_to_string(&config).unwrap();
    let state = state::state_dir::StateDir::at(scratch.state());
    let (parsed, _) = config::Config::parse(&text, &config);
    let history = history::History::of(&parsed, &state).unwrap();
    let began = Instant::now();
    for number in 0..10 {
        write_record(&scratch, &config, &format!("operation {number}"));
        let exit = format!("{{\"id\":\"exit {number}\"}}\n");
        journal::append_in_turn(&state.journal(), &history, exit.as_bytes()).unwrap();
    }
    let took = began.elapsed();
    let lines = lines(&directory).0;
    let order: Vec<usize> = (0..10)
        .flat_map(|number| [format!("operation {number}\""), format!("exit {number}\"")])
        .map(|id| lines.iter().position(|line| line.contains(&id)).expect("it is there"))
        .collect();
    assert_eq!(order, (0..20).collect::<Vec<_>>());
    assert!(took < LIMIT, "{took:?}");
}

#[test]
fn a_carrier_holds_nothing_of_its_callers() {
    let scratch = Scratch::new();
    let config = config(&scratch, &scratch.path("history"));
    // Ends when nobody has the other end of its pipes any more.
    let began = Instant::now();
    write_record(&scratch, &config, "x");
    assert!(began.elapsed() < LIMIT);
    testkit::eventually(CARRIED, "a carrier", || !carriers(&scratch).is_empty());
    let pid = carriers(&scratch)[0];
    let proc = PathBuf::from(format!("/proc/{pid}"));
    assert_eq!(std::fs::read_link(proc.join("cwd")).unwrap(), Path::new("/"));
    assert_eq!(nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid))).unwrap().as_raw(), pid);
    let open: Vec<PathBuf> = std::fs::read_dir(proc.join("fd"))
        .unwrap()
        .filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok())
        .collect();
    let note = scratch.state().join("journal.carried");
    let own = [Path::new("/dev/null"), Path::new("anon_inode:[signalfd]"), &note];
    assert!(open.iter().all(|file| own.contains(&file.as_path())), "{open:?}");
    testkit::eventually(CARRIED, "it ends", || carriers(&scratch).is_empty());
}

/// An operation whose history is on the disk that `setup` makes at `disk`, in a mount namespace.
fn operate(setup: &str) {
    let scratch = Scratch::new();
    let disk = scratch.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let config = config(&scratch, &disk.join("history"));
    let seven =
        testkit::program(&scratch.path("seven"), "#!/bin/sh\necho out; echo err >&2; exit 7\n");
    let began = Instant::now();
    let ended = run(Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-ec"])
        .arg(format!("{setup}\nexec \"$@\""))
        .arg("sh")
        .arg(frostlock())
        .args(["kill", "c", "TERM"])
        .env("DISK", &disk)
        .env("FROSTLOCK_RUNTIME", seven)
        .env("FROSTLOCK_STATE_DIR", scratch.state())
        .env("FROSTLOCK_CONFIG", config));
    assert_eq!(ended.status.code(), Some(7), "{setup}: {ended:?}");
    assert_eq!((text(&ended.stdout), text(&ended.stderr)), ("out\n".into(), "err\n".into()));
    assert!(began.elapsed() < LIMIT, "{setup}: {:?}", began.elapsed());
    assert_eq!(scratch.journal().len(), 1, "{setup}: the short journal has it");
}

#[test]
fn no_disk_hurts_an_operation() {
    // Each of them first shows that nothing can be written there.
    let refuses = "if echo x >\"$DISK/x\"; then exit 99; fi 2>/dev/null";
    operate(&format!("mount -t tmpfs -o ro none \"$DISK\"; {refuses}"));
    operate(&format!(
        "mount -t tmpfs -o size=8k none \"$DISK\"; mkdir -m 700 \"$DISK/history\"\n\
         head -c 1M /dev/zero >\"$DISK/fill\" 2>/dev/null || true; {refuses}"
    ));
    operate("rmdir \"$DISK\"");
    operate("mkdir -m 700 \"$DISK/history\"; mkfifo \"$DISK/history/history.jsonl\"");
    operate("mkdir -m 777 \"$DISK/history\"; chmod 777 \"$DISK/history\"");
    operate("ln -s /dev/zero \"$DISK/history\"");
}

/// A frozen file system, as for a snapshot of a machine: a writer sleeps until it is thawed, and no
/// signal ends that.
struct FrozenDisk {
    directory: PathBuf,
}

impl FrozenDisk {
    fn new(scratch: &Scratch) -> FrozenDisk {
        let (image, directory) = (scratch.path("image"), scratch.path("disk"));
        std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        std::fs::create_dir(&directory).unwrap();
        testkit::succeed(Command::new("mkfs.ext4").arg("-q").arg(&image));
        testkit::succeed(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&directory));
        let disk = FrozenDisk { directory };
        disk.freeze();
        disk
    }

    fn freeze(&self) {
        testkit::succeed(Command::new("fsfreeze").arg("--freeze").arg(&self.directory));
    }

    fn thaw(&self) {
        let _ = Command::new("fsfreeze").arg("--unfreeze").arg(&self.directory).output();
    }
}

impl Drop for FrozenDisk {
    fn drop(&mut self) {
        self.thaw();
        let unmounted = Command::new("umount").arg(&self.directory).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[test]
fn no_carrier_stays_in_a_container() {
    let scratch = Scratch::new();
    let directory = scratch.path("history");
    let config = config(&scratch, &directory);
    for stage in ["createContainer", "startContainer"] {
        assert!(begin_hook(&scratch, &config, stage, stage).wait().unwrap().success());
        let path = scratch.state().join("journal.carried");
        let Ok(note) = std::fs::File::open(path) else { continue };
        let lock = nix::fcntl::FlockArg::LockExclusiveNonblock;
        assert!(nix::fcntl::Flock::lock(note, lock).is_ok(), "{stage}: there is a carrier");
    }
    write_record(&scratch, &config, "poststop");
    testkit::eventually(CARRIED, "the next one's has all", || lines(&directory).0.len() == 3);
}

/// The time for a record until its writer exits: with the history, and without.
fn compare(scratch: &Scratch, config: &Path, times: usize) -> [Vec<Duration>; 2] {
    let mut took = [Vec::new(), Vec::new()];
    let without = scratch.path("without.toml");
    std::fs::write(&without, "[history]\nenabled = false\n[log]\nsyslog = false\n").unwrap();
    for number in 0..times {
        for (took, config) in took.iter_mut().zip([config, &without]) {
            let began = Instant::now();
            write_record(scratch, config, &format!("{}-{number}", config.display()));
            took.push(began.elapsed());
        }
        sleep(Duration::from_millis(20));
    }
    took.each_mut().map(|took| {
        took.sort_unstable();
        std::mem::take(took)
    })
}

#[test]
fn a_disk_that_hangs_holds_nobody_up() {
    let scratch = Scratch::new();
    let disk = FrozenDisk::new(&scratch);
    let mut control = Command::new("touch").arg(disk.directory.join("x")).spawn().unwrap();
    sleep(Duration::from_millis(200));
    control.kill().unwrap();
    sleep(Duration::from_millis(200));
    assert!(control.try_wait().unwrap().is_none(), "not shown: the write ended");

    let config = config(&scratch, &disk.directory.join("history"));
    let [with, without] = compare(&scratch, &config, 100);
    println!("a disk that hangs: median {:?}, longest {:?}", with[50], with[99]);
    println!("no history: median {:?}, longest {:?}", without[50], without[99]);
    assert_not_held_up(&with, &without);
    // One, whatever hangs, and not even SIGKILL ends it.
    let pids = carriers(&scratch);
    assert_eq!(pids.len(), 1);
    signal(pids[0], nix::sys::signal::Signal::SIGKILL);
    write_record(&scratch, &config, "after the kill");
    assert_eq!(carriers(&scratch), pids);
    assert_eq!(scratch.journal().len(), 201, "the short journal has all");

    disk.thaw();
    control.wait().unwrap();
    testkit::eventually(CARRIED, "it is dead", || carriers(&scratch).is_empty());
    write_record(&scratch, &config, "after the thaw");
    let history = disk.directory.join("history");
    testkit::eventually(CARRIED, "all are on the disk", || lines(&history).0.len() >= 202);
    testkit::eventually(CARRIED, "the carrier has ended", || carriers(&scratch).is_empty());
    let lines = lines(&history).0;
    assert_eq!((lines.len(), ids(&lines).len()), (202, 202));
}

#[test]
fn a_slow_disk_slows_nobody_down() {
    let scratch = Scratch::new();
    let disk = FrozenDisk::new(&scratch);
    let history = disk.directory.join("history");
    let config = config(&scratch, &history);
    let (done, until) = std::sync::mpsc::channel::<()>();
    let (with, without) = std::thread::scope(|scope| {
        // Dropped even if something in here fails.
        let done = done;
        let disk = &disk;
        // A writer waits for up to 150 ms.
        scope.spawn(move || {
            while until.try_recv() == Err(TryRecvError::Empty) {
                disk.thaw();
                sleep(Duration::from_millis(5));
                disk.freeze();
                sleep(Duration::from_millis(150));
            }
            disk.thaw();
        });
        let control = disk.directory.join("control");
        let control = (0..10).map(|number| {
            sleep(Duration::from_millis(30));
            let began = Instant::now();
            std::fs::write(&control, format!("{number}")).unwrap();
            began.elapsed()
        });
        let longest = control.max().unwrap();
        println!("a write to the slow disk: up to {longest:?}");
        let [with, without] = compare(&scratch, &config, 50);
        drop(done);
        assert!(longest > SLACK, "not shown: the longest write took {longest:?}");
        (with, without)
    });
    println!("a slow disk: median {:?}, longest {:?}", with[25], with[49]);
    println!("no history: median {:?}, longest {:?}", without[25], without[49]);
    assert!(with[25] < without[25] + SLACK / 10, "{with:?} {without:?}");
    assert_not_held_up(&with, &without);
    write_record(&scratch, &config, "last");
    testkit::eventually(CARRIED, "all are on the disk", || lines(&history).0.len() == 101);
    testkit::eventually(CARRIED, "the carrier has ended", || carriers(&scratch).is_empty());
}

#[test]
fn a_disk_that_refuses_is_not_asked_again_and_again() {
    let scratch = Scratch::new();
    let config = config(&scratch, Path::new("/dev/full/history"));
    let began = Instant::now();
    let mut seen = BTreeSet::new();
    while began.elapsed() < Duration::from_secs(3) {
        write_record(&scratch, &config, "x");
        seen.extend(carriers(&scratch));
    }
    println!("{} carriers for {} records", seen.len(), scratch.journal().len());
    // One per second, for more than a hundred records; one more or less on a machine that stands
    // still.
    assert!((1..=6).contains(&seen.len()), "{seen:?}");
    testkit::eventually(CARRIED, "the last has ended", || carriers(&scratch).is_empty());
}
