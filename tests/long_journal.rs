//! The journal on disk: many wrappers write while its files are set aside, and no state of the disk
//! hurts an operation.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use frostlock::journal::history;
use serde_json::Value;
use support::{Scratch, frostlock, run, text};

const WRITERS: usize = 8;
/// Each record is padded to some 2.3 KiB, so that of the smallest history, 16 files of 64 KiB, about
/// 12 become full and nothing is pruned.
const RECORDS: usize = 40;
const PADDING: usize = 900;
/// An operation that takes longer was held up by the disk.
const LIMIT: Duration = Duration::from_secs(5);

fn config(scratch: &Scratch, directory: &Path) -> PathBuf {
    let path = scratch.path("config.toml");
    let text = format!("[history]\ndirectory = '{}'\nmax_mib = 1\n", directory.display());
    std::fs::write(&path, text).unwrap();
    path
}

fn lines(directory: &Path) -> (Vec<String>, usize) {
    let files: Vec<_> =
        history::files(directory).into_iter().filter(|file| file.exists()).collect();
    let text: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    (text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect(), files.len())
}

/// One record, by the wrapper as a hook: it needs no container.
fn write_record(scratch: &Scratch, config: &Path, id: &str) {
    assert!(begin_record(scratch, config, id).wait().unwrap().success());
}

fn begin_record(scratch: &Scratch, config: &Path, id: &str) -> Child {
    let mut hook = Command::new(frostlock())
        .args(["hook", &format!("stage-{}", "x".repeat(PADDING))])
        .env("FROSTLOCK_STATE_DIR", scratch.state())
        .env("FROSTLOCK_CONFIG", config)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let state = format!(r#"{{"ociVersion":"1.0.2","id":"{id}","status":"stopped","bundle":"/"}}"#);
    hook.stdin.take().unwrap().write_all(state.as_bytes()).unwrap();
    hook
}

/// The same load on files that are set aside without a lock: what is full is moved to the next
/// number, by everybody who finds it full.
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
    let (lines, files) = lines(&directory);
    println!(
        "{WRITERS} wrappers, {} records in {files} files; without a lock {lost} of 40,000 were lost",
        lines.len()
    );
    assert!(files > 5, "set aside only {files} times");
    let ids: BTreeSet<String> = lines
        .iter()
        .map(|line| {
            let record: Value = serde_json::from_str(line).expect("no torn line");
            record["id"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!((lines.len(), ids.len()), (WRITERS * RECORDS, WRITERS * RECORDS));
}

/// An operation with its history on the disk that `setup` makes at `disk`, in a mount namespace.
fn operate(setup: &str) {
    let scratch = Scratch::new();
    let disk = scratch.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let config = config(&scratch, &disk.join("history"));
    let seven =
        support::program(&scratch.path("seven"), "#!/bin/sh\necho out; echo err >&2; exit 7\n");
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

/// A file system that is frozen, as a snapshot of a machine does it: who writes sleeps until it is
/// thawed, and no signal ends that.
struct FrozenDisk {
    directory: PathBuf,
}

impl FrozenDisk {
    fn new(scratch: &Scratch) -> FrozenDisk {
        let (image, directory) = (scratch.path("image"), scratch.path("disk"));
        std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        std::fs::create_dir(&directory).unwrap();
        support::succeed(Command::new("mkfs.ext4").arg("-q").arg(&image));
        support::succeed(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&directory));
        let disk = FrozenDisk { directory };
        support::succeed(Command::new("fsfreeze").arg("--freeze").arg(&disk.directory));
        disk
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
fn a_disk_that_hangs_holds_nobody_up() {
    let scratch = Scratch::new();
    let disk = FrozenDisk::new(&scratch);
    let mut control = Command::new("touch").arg(disk.directory.join("x")).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    control.kill().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert!(control.try_wait().unwrap().is_none(), "not shown: the write ended");

    let config = config(&scratch, &disk.directory.join("history"));
    // It cannot say that its disk hangs.
    let mut killed = begin_record(&scratch, &config, "killed");
    support::eventually(LIMIT, "it writes", || scratch.journal().len() == 1);
    std::thread::sleep(Duration::from_millis(100));
    killed.kill().unwrap();
    killed.wait().unwrap();
    let took: Vec<Duration> = ["first", "second", "third"]
        .map(|id| {
            let began = Instant::now();
            write_record(&scratch, &config, id);
            began.elapsed()
        })
        .into();
    println!("with a disk that hangs: {took:?}");
    assert!(took[0] < Duration::from_secs(2), "{took:?}");
    assert!(took[1..].iter().all(|took| *took < Duration::from_millis(400)), "{took:?}");
    assert_eq!(scratch.journal().len(), 4, "the short journal has all");

    disk.thaw();
    control.wait().unwrap();
    let history = disk.directory.join("history");
    support::eventually(LIMIT, "the first is written", || lines(&history).0.len() == 1);
    write_record(&scratch, &config, "after");
    assert_eq!(lines(&history).0.len(), 2);
}
