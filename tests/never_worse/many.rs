//! A node with many containers: whatever exists beside the container of a command, the command does
//! the same work. Counted in system calls and bytes, which are the same on a busy machine.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use testkit::{
    Runtime, Scratch, cgroup_dirs, eventually, frostlock, proof, run_inside, runtime, succeed,
};

/// In the name of everything that belongs to others.
const OTHERS: &str = "somebody-else";

const ID: &str = "c";

/// The record and the files of one operation vary in size with the digits of numbers, and one file
/// of some 1,060 bytes is read twice or four times, depending on a wait. The files of forty others
/// are ten times that.
const SLACK_BYTES: u64 = 4096;

/// A carrier lives for a second.
const CARRIED_WITHIN: Duration = Duration::from_secs(20);

struct Crowd {
    containers: usize,
    records: usize,
}

impl Crowd {
    /// The counts are exact, so a few are as good as many.
    fn new() -> Crowd {
        match proof() {
            true => Crowd { containers: 2000, records: 10_000 },
            false => Crowd { containers: 40, records: 400 },
        }
    }
}

#[test]
fn nothing_grows_with_the_node() {
    run_inside(Command::new("unshare").arg("--mount"), "inner_nothing_grows");
}

#[test]
#[ignore = "run by nothing_grows_with_the_node in its mount namespace"]
fn inner_nothing_grows() {
    let crowd = Crowd::new();
    let runc = runtime("runc-1.1.15");
    let alone = Node::new(&runc).life();
    let many = Node::new(&runc);
    many.fill(&crowd);
    let many = many.life();
    println!(
        "beside {} cgroups in each hierarchy, as many mounts, state directories, records of ours and \
         locks, and {} records in the journal:",
        crowd.containers, crowd.records
    );
    println!("{:24} {:>18} {:>18} {:>9}", "", "files, alone", "files, many", "mountinfo");
    assert_eq!(alone.len(), many.len());
    for ((words, alone), (_, many)) in alone.iter().zip(&many) {
        let (few, lot) = (alone.bytes, many.bytes);
        let of = |work: &Work| format!("{} {:>7} B", work.files.len(), work.bytes);
        println!("{words:24} {:>18} {:>18} {:>9}", of(alone), of(many), many.mountinfo);
        assert_eq!(alone.code, many.code, "{words}");
        assert!(!alone.files.is_empty() && alone.others.is_empty(), "control: {words}: {alone:?}");
        assert_eq!(many.mountinfo, usize::from(makes_a_container(words)), "{words}");
        assert_eq!(many.others, BTreeSet::new(), "{words} looks at what is others'");
        assert_eq!(many.listed, alone.listed, "{words} lists more");
        assert!(lot <= few + SLACK_BYTES, "{words} reads {lot} B instead of {few}");
    }
}

/// From the position up to which records were carried, however many there are before it.
#[test]
fn a_carrier_reads_only_what_is_new() {
    let runc = runtime("runc-1.1.15");
    let bytes = [1, Crowd::new().records].map(|records| {
        let node = Node::new(&runc);
        let history = node.scratch.path("history");
        let config = format!("[history]\ndirectory = {history:?}\n[log]\nsyslog = false\n");
        fs::write(node.scratch.path("config.toml"), config).unwrap();
        let nobody = ["kill", "nobody", "KILL"];
        testkit::run(&mut node.wrapped(&nobody));
        node.repeat_records(records);
        testkit::run(&mut node.wrapped(&nobody));
        let carried = |count| {
            eventually(
                CARRIED_WITHIN,
                "the records are carried, and the carrier has ended",
                || lines_below(&history) >= count && node.has_no_carrier(),
            );
        };
        carried(records);
        let work = node.traced(&nobody);
        carried(records + 1);
        assert!(
            work.files.iter().any(|file| file.ends_with("/history.jsonl")),
            "control: {work:?}"
        );
        work.bytes
    });
    println!("read with 1 record and with many: {bytes:?} B");
    assert!(bytes[1] <= bytes[0] + SLACK_BYTES, "{bytes:?}");
}

/// Such a command finds out where the container will be; later ones use its record.
fn makes_a_container(words: &str) -> bool {
    ["create", "run", "restore"].contains(&words.split(' ').next().unwrap())
}

/// The work of the wrapper, and of those of its processes that are not the runtime.
#[derive(Debug, Default)]
struct Work {
    code: Option<i32>,
    /// Every file that it named.
    files: BTreeSet<String>,
    /// The files that are not this container's.
    others: BTreeSet<String>,
    /// Directories whose entries it read.
    listed: BTreeSet<String>,
    mountinfo: usize,
    /// Bytes read from files, except the kernel's, which it reads as long as the runtime takes.
    bytes: u64,
}

struct Node {
    scratch: Scratch,
    runtime: PathBuf,
    bundle: PathBuf,
}

impl Drop for Node {
    /// A directory that is a mountpoint cannot be removed.
    fn drop(&mut self) {
        let mounted = fs::read_dir(self.scratch.path("mounted")).into_iter().flatten().flatten();
        for at in mounted {
            let _ = umount2(&at.path(), MntFlags::MNT_DETACH);
        }
    }
}

impl Node {
    fn new(runtime: &Runtime) -> Node {
        let scratch = Scratch::new();
        let bundle = scratch.bundle("idle", ID);
        // The long journal's carrier is a separate process: see below. Whether a lifter is needed
        // is chance: strace makes the runtime wait.
        let config = "[history]\nenabled = false\n[lift]\nenabled = false\n[log]\nsyslog = false\n";
        fs::write(scratch.path("config.toml"), config).unwrap();
        Node { bundle, runtime: runtime.path.clone(), scratch }
    }

    /// Every verb, in the order of a container's life, and two commands that are passed through.
    fn life(&self) -> Vec<(String, Work)> {
        let bundle = self.bundle.to_str().unwrap();
        let image = self.scratch.path("image");
        let image = image.to_str().unwrap();
        let lives: [&[&str]; 15] = [
            &["create", "--bundle", bundle, ID],
            &["state", ID],
            &["start", ID],
            &["exec", ID, "true"],
            &["update", "--cpu-quota", "50000", ID],
            &["pause", ID],
            &["resume", ID],
            // Without CRIU these fail, but frostlock's part is done all the same.
            &["checkpoint", "--image-path", image, ID],
            &["ps", ID],
            &["list"],
            &["kill", ID, "KILL"],
            &["delete", "--force", ID],
            &["delete", ID],
            &["restore", "--image-path", image, "--bundle", bundle, ID],
            &["run", "--detach", "--bundle", bundle, ID],
        ];
        let done = lives.iter().map(|words| {
            (words.join(" ").replace(bundle, "B").replace(image, "I"), self.traced(words))
        });
        done.collect()
    }

    fn traced(&self, words: &[&str]) -> Work {
        let traces = self.scratch.path("traces");
        let _ = fs::remove_dir_all(&traces);
        fs::create_dir(&traces).unwrap();
        let plain = self.scratch.wrapped_by(&frostlock(), &self.runtime);
        let mut command = Command::new("strace");
        command
            // Not the process that executes the runtime: strace would wait for the container.
            .args(["-ff", "--detach-on=execve", "-qq", "-y", "-s0", "-e", "signal=none"])
            .args(["-e", "trace=%file,read,pread64,readv,getdents64,clone,clone3,fork,vfork"])
            .arg("-o")
            .arg(traces.join("of"))
            .arg(plain.get_program())
            .args(plain.get_args())
            .args(words)
            .stdin(Stdio::null());
        for (name, value) in plain.get_envs() {
            command.env(name, value.unwrap());
        }
        command.env("FROSTLOCK_CONFIG", self.scratch.path("config.toml"));
        let ended = testkit::run(&mut command);
        self.work(&traces, ended.status.code())
    }

    fn work(&self, traces: &Path, code: Option<i32>) -> Work {
        let mut work = Work { code, ..Work::default() };
        let first = fs::read_dir(traces).unwrap().flatten().map(|entry| pid(&entry.path())).min();
        let mut ours = vec![first.expect("strace ran")];
        let mut is_first = true;
        while let Some(pid) = ours.pop() {
            let trace = fs::read_to_string(traces.join(format!("of.{pid}"))).unwrap_or_default();
            // From its second program on, or in a child from the first, it is the runtime.
            let skipped = usize::from(std::mem::take(&mut is_first));
            let executed = |line: &&str| line.starts_with("execve(") && line.ends_with(" = 0");
            for line in trace.lines().skip(skipped).take_while(|line| !executed(line)) {
                ours.extend(child(line));
                work.add(line);
            }
        }
        work
    }

    /// What other containers leave on a node, many times over.
    fn fill(&self, crowd: &Crowd) {
        // To see what our files look like.
        succeed(self.wrapped(&["create", "--bundle"]).arg(&self.bundle).arg(ID));
        let (state, root) = (self.scratch.state(), self.scratch.root());
        let record = only_file(&state.join("containers"));
        let record = fs::read_to_string(record).unwrap();
        let runtimes = fs::read(root.join(ID).join("state.json")).unwrap();
        let mounted = self.scratch.path("mounted");
        fs::create_dir(&mounted).unwrap();
        let hierarchies = cgroup_dirs(&self.scratch.cgroup);
        let hierarchies: Vec<_> = hierarchies.iter().filter(|dir| !dir.ends_with(ID)).collect();
        for number in 0..crowd.containers {
            let name = format!("{OTHERS}-{number}");
            for hierarchy in &hierarchies {
                fs::create_dir(hierarchy.join(&name)).unwrap();
            }
            let at = mounted.join(&name);
            fs::create_dir(&at).unwrap();
            mount(Some(&self.bundle), &at, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
            fs::create_dir(root.join(&name)).unwrap();
            fs::write(root.join(&name).join("state.json"), &runtimes).unwrap();
            let cgroup = format!("{}/{ID}", self.scratch.cgroup);
            let record = record.replace(&cgroup, &format!("{}/{name}", self.scratch.cgroup));
            for (directory, file, text) in [
                ("containers", format!("{name}.json"), record.as_str()),
                ("locks", name.clone(), ""),
                ("locks", format!("{name}.turnstile"), ""),
                ("accounts", name.clone(), "00000000000000000000\n"),
                ("intents", format!("{name}/1-1"), "{}"),
            ] {
                let file = state.join(directory).join(file);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, text).unwrap();
            }
        }
        succeed(self.wrapped(&["delete", "--force"]).arg(ID));
        self.repeat_records(crowd.records);
    }

    /// The first record of the journal, many times over; a carrier takes no line twice.
    fn repeat_records(&self, count: usize) {
        let journal = self.scratch.state().join("journal.jsonl");
        let text = fs::read_to_string(&journal).unwrap();
        let line = text.lines().next().unwrap();
        let mut file = fs::OpenOptions::new().append(true).open(journal).unwrap();
        for number in 0..count {
            writeln!(file, "{}", line.replacen('{', &format!("{{\"number\":{number},"), 1))
                .unwrap();
        }
    }

    fn has_no_carrier(&self) -> bool {
        let note = fs::File::open(self.scratch.state().join("journal.carried")).unwrap();
        Flock::lock(note, FlockArg::LockExclusiveNonblock).is_ok()
    }

    fn wrapped(&self, words: &[&str]) -> Command {
        let mut command = self.scratch.wrapped(&self.runtime);
        command.args(words).env("FROSTLOCK_CONFIG", self.scratch.path("config.toml"));
        command
    }
}

/// Of all its files.
fn lines_below(directory: &Path) -> usize {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    files.map(|file| fs::read_to_string(file.path()).unwrap_or_default().lines().count()).sum()
}

fn only_file(directory: &Path) -> PathBuf {
    fs::read_dir(directory).unwrap().next().unwrap().unwrap().path()
}

fn pid(trace: &Path) -> i32 {
    trace.extension().unwrap().to_str().unwrap().parse().unwrap()
}

/// The child that a line reports.
fn child(line: &str) -> Option<i32> {
    let is_fork =
        ["clone(", "clone3(", "fork(", "vfork("].iter().any(|call| line.starts_with(call));
    is_fork.then(|| line.rsplit(" = ").next()?.split(' ').next()?.parse().ok())?
}

impl Work {
    fn add(&mut self, line: &str) {
        let quoted = line.split('"').nth(1).filter(|path| !path.is_empty());
        let of_descriptor =
            line.split_once('<').and_then(|(_, rest)| Some(rest.split_once('>')?.0));
        let is_reading = ["read(", "pread64(", "readv("].iter().any(|call| line.starts_with(call));
        if line.starts_with("getdents64(") {
            self.listed.extend(of_descriptor.map(anonymous));
        } else if is_reading {
            let path = of_descriptor.unwrap_or_default();
            if ["/proc/", "/sys/", "pipe:", "anon_inode:"].iter().all(|of| !path.starts_with(of)) {
                let read = line.rsplit(" = ").next().and_then(|read| read.parse::<u64>().ok());
                self.bytes += read.unwrap_or(0);
            }
        } else if let Some(path) = quoted {
            self.files.insert(anonymous(path));
            self.mountinfo += usize::from(path.ends_with("/mountinfo"));
            self.others.extend(path.contains(OTHERS).then(|| path.to_owned()));
        }
    }
}

/// Without pids, the name of the scratch place, and the hash of a cgroup in it.
fn anonymous(path: &str) -> String {
    let parts = path.split('/').map(|part| match part {
        part if part.starts_with("frostlock-") => "SCRATCH",
        part if part.starts_with("c-") => "c-HASH",
        part if part.starts_with(|first: char| first.is_ascii_digit()) => "NUMBER",
        part => part,
    });
    parts.collect::<Vec<_>>().join("/")
}
