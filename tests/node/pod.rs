//! Pods as kubelet's systemd driver makes them, and containers in them.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;
use testkit::table::Took;
use testkit::throttled::{Via, timed};
use testkit::{Runtime, Scratch, eventually, pids, remove_cgroup, run, succeed};

/// A command that takes longer counts as failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn systemctl(words: &[&str]) {
    succeed(Command::new("systemctl").args(words));
}

/// A slice, which ends with this value.
pub(crate) struct Pod {
    pub(crate) slice: String,
}

impl Pod {
    /// With a name that was not used before: systemd keeps the settings of a name.
    pub(crate) fn next() -> Pod {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        Pod::new(&format!("kubepods-pod{}.slice", COUNT.fetch_add(1, Ordering::Relaxed)))
    }

    /// Without a quota, which would slow down the start of its first containers.
    pub(crate) fn new(slice: &str) -> Pod {
        systemctl(&["start", slice]);
        Pod { slice: slice.to_owned() }
    }

    /// As kubelet does it, through systemd, which keeps it in a unit file.
    pub(crate) fn limit(&self, percent: u32) {
        let quota = format!("CPUQuota={percent}%");
        systemctl(&["set-property", "--runtime", &self.slice, "CPUAccounting=yes", &quota]);
        assert_eq!(self.quota_us(), i64::from(percent) * 1000);
    }

    /// `a-b.slice` is in `a.slice`.
    pub(crate) fn cgroup(&self) -> String {
        let name = self.slice.strip_suffix(".slice").unwrap();
        let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
        ends.map(|end| format!("/{}.slice", &name[..end])).collect()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/sys/fs/cgroup/cpu{}/{name}", self.cgroup()))
    }

    pub(crate) fn quota_us(&self) -> i64 {
        std::fs::read_to_string(self.file("cpu.cfs_quota_us")).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // Removed before systemd looks: it would wait for throttled processes, and cannot end
        // frozen ones.
        let left = remove_cgroup(&self.cgroup());
        let stop = run(Command::new("systemctl").args(["stop", &self.slice]));
        if !std::thread::panicking() {
            assert!(stop.status.success() && left.is_empty(), "{}: {left:?}", self.slice);
        }
    }
}

/// A container in a pod; it is removed with its pod.
pub(crate) struct Container<'a> {
    pub(crate) scratch: &'a Scratch,
    pub(crate) runtime: &'a Runtime,
    pub(crate) via: Via,
    pub(crate) id: String,
    pub(crate) cgroup: String,
    bundle: PathBuf,
}

impl<'a> Container<'a> {
    /// Only its bundle.
    pub(crate) fn planned(
        scratch: &'a Scratch,
        runtime: &'a Runtime,
        via: Via,
        pod: &Pod,
        id: &str,
        scene: &str,
    ) -> Container<'a> {
        let bundle = scratch.bundle(scene, id);
        scratch.edit(&bundle, |config| {
            let linux = &mut config["linux"];
            linux["cgroupsPath"] = json!(format!("{}:cri-containerd:{id}", pod.slice));
            // As containerd writes it. If every device is allowed, runc does not freeze.
            linux["resources"] = json!({ "devices": [{ "allow": false, "access": "rwm" }] });
        });
        let cgroup = format!("{}/cri-containerd-{id}.scope", pod.cgroup());
        Container { scratch, runtime, via, id: id.to_owned(), cgroup, bundle }
    }

    /// Created and started.
    pub(crate) fn started(self) -> Container<'a> {
        succeed(self.command("create").arg("--bundle").arg(&self.bundle).arg(&self.id));
        succeed(self.command("start").arg(&self.id));
        self
    }

    /// The same, with the scene `throttled` and this many busy loops.
    pub(crate) fn busy(self, loops: usize) -> Container<'a> {
        self.scratch.edit(&self.bundle, |config| {
            config["process"]["env"] = json!(["PATH=/bin", format!("LOOPS={loops}")]);
        });
        let busy = self.started();
        let dir = PathBuf::from(format!("/sys/fs/cgroup/freezer{}", busy.cgroup));
        eventually(LIMIT, "all loops run", || pids(&dir).len() > loops);
        busy
    }

    pub(crate) fn handled_by(self, via: Via) -> Container<'a> {
        Container { via, ..self }
    }

    pub(crate) fn create(&self) -> Took {
        timed(self.command("create").arg("--bundle").arg(&self.bundle).arg(&self.id), LIMIT)
    }

    pub(crate) fn command(&self, verb: &str) -> Command {
        let mut command = self.via.command(self.scratch, self.runtime);
        command.arg("--systemd-cgroup").arg(verb);
        command
    }

    pub(crate) fn timed(&self, words: &[&str]) -> Took {
        let mut command = self.command(words[0]);
        timed(command.args(&words[1..]), LIMIT)
    }

    pub(crate) fn read(&self, hierarchy: &str, file: &str) -> i64 {
        let path = format!("/sys/fs/cgroup/{hierarchy}{}/{file}", self.cgroup);
        let text = std::fs::read_to_string(&path);
        let text = text.unwrap_or_else(|error| panic!("{path}: {error}"));
        text.trim().parse().unwrap_or_else(|_| panic!("{path}: {text}"))
    }

    /// Busy, but without CPU time.
    pub(crate) fn until_throttled(&self) {
        eventually(LIMIT, "the quota is used up", || {
            let before = self.read("cpuacct", "cpuacct.usage");
            std::thread::sleep(Duration::from_millis(4));
            self.read("cpuacct", "cpuacct.usage") == before
        });
    }

    pub(crate) fn until_stopped(&self) {
        let dir = PathBuf::from(format!("/sys/fs/cgroup/freezer{}", self.cgroup));
        eventually(LIMIT, "it has ended", || pids(&dir).is_empty());
    }

    pub(crate) fn is_there(&self) -> bool {
        !testkit::cgroup_dirs(&self.cgroup).is_empty()
    }

    /// Not through the runtime, whose delete another test covers.
    pub(crate) fn remove(&self) {
        assert_eq!(remove_cgroup(&self.cgroup), Vec::<PathBuf>::new());
        run(self.command("delete").args(["--force", &self.id]));
        let scope = format!("cri-containerd-{}.scope", self.id);
        run(Command::new("systemctl").args(["stop", &scope]));
        run(Command::new("systemctl").args(["reset-failed", &scope]));
    }
}

/// Calls each again and again, in its own thread, during the work.
pub(crate) fn while_running<T, F: FnMut() + Send>(
    again: impl IntoIterator<Item = F>,
    work: impl FnOnce() -> T,
) -> T {
    /// Set even if the work panics, or the threads would never end.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        for mut again in again {
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    again();
                }
            });
        }
        work()
    })
}
