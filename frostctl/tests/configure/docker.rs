//! A dockerd of our own, with all its files in a scratch directory.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::{NAME, frostctl, frostlock, repository, text};

const DOCKERD: &str = "dockerd-26.1.5";
/// The version that Debian has with it.
const CONTAINERD: &str = "containerd-1.7.24";
const RUNC: &str = "runc-1.1.15";
const IMAGE: &str = "frostlock-busybox:test";

/// Far longer than any command here takes.
const LIMIT: &str = "60";
const SOON: Duration = Duration::from_secs(30);

/// With another order and indentation than ours, and with a runtime that has arguments.
fn daemon_json() -> String {
    let runc = lab("runtimes", RUNC);
    format!(
        "{{\n    \"shutdown-timeout\": 1,\n    \"runtimes\": {{\"logged\": {{\"path\": {runc:?}, \"runtimeArgs\": [\"--debug\"]}}}},\n    \"debug\": false }}"
    )
}

/// The path of a program in a list of the lab.
fn lab(list: &str, name: &str) -> PathBuf {
    let path = repository().join("target/lab").join(list);
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; try: make lab", path.display()));
    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
    line.and_then(|line| line.split(' ').nth(1)).unwrap_or_else(|| panic!("no {name}")).into()
}

/// Each of Debian's programs is in its own directory; the system's come after them.
pub fn path() -> String {
    let programs = [("dockers", DOCKERD), ("containerds", CONTAINERD), ("runtimes", RUNC)];
    let ours = programs.map(|(list, name)| lab(list, name).parent().unwrap().display().to_string());
    format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", ours.join(":"))
}

pub struct Docker {
    dir: tempfile::TempDir,
    cgroup: String,
    daemon: Option<Child>,
}

impl Docker {
    pub fn up() -> Docker {
        let dir = tempfile::Builder::new().prefix("frostlock-docker-").tempdir_in("/dev/shm");
        let cgroup = format!("/frostlock-test-docker-{}", std::process::id());
        let mut docker = Docker { dir: dir.unwrap(), cgroup, daemon: None };
        std::fs::write(docker.place("daemon.json"), daemon_json()).unwrap();
        let up = docker.containerd("up").output().unwrap();
        assert!(up.status.success(), "{}", text(&up.stderr));
        docker.start();
        let image = repository().join("target/lab/busybox.tar");
        docker.says(&["load", "--quiet", "--input", image.to_str().unwrap()]);
        docker
    }

    fn place(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Its shims, and so frostlock, inherit its environment.
    fn containerd(&self, action: &str) -> Command {
        let mut command = Command::new(repository().join("scripts/containerd"));
        command.arg(action).arg(self.place("c")).stdin(Stdio::null()).env("PATH", path());
        command.env("FROSTLOCK_RUNTIME", lab("runtimes", RUNC));
        command.env("FROSTLOCK_STATE_DIR", self.place("state"));
        command.env("FROSTLOCK_CONFIG", "/dev/null");
        command
    }

    fn start(&mut self) {
        let log = File::options().create(true).append(true).open(self.place("dockerd.log"));
        let log = log.unwrap();
        let mut dockerd = Command::new(lab("dockers", DOCKERD));
        dockerd.env("PATH", path()).stdin(Stdio::null());
        for (option, name) in [
            ("--config-file", "daemon.json"),
            ("--data-root", "root"),
            ("--exec-root", "exec"),
            ("--pidfile", "dockerd.pid"),
            ("--containerd", "c/containerd.sock"),
        ] {
            dockerd.arg(option).arg(self.place(name));
        }
        dockerd.arg("--host").arg(self.host());
        // This machine's network is not touched.
        dockerd.args(["--bridge", "none", "--iptables=false", "--ip6tables=false"]);
        dockerd.args(["--ip-forward=false", "--storage-driver", "vfs"]);
        dockerd.args(["--exec-opt", "native.cgroupdriver=cgroupfs"]);
        let daemon = dockerd.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.daemon = Some(daemon);
        self.eventually("dockerd answers", || self.does(&["version"]).status.success());
    }

    fn host(&self) -> String {
        format!("unix://{}", self.place("docker.sock").display())
    }

    fn stop(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        signal(daemon.id(), "TERM");
        let deadline = Instant::now() + SOON;
        while daemon.try_wait().unwrap().is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = daemon.kill();
        let _ = daemon.wait();
    }

    pub fn restart(&mut self) {
        self.stop();
        self.start();
    }

    /// Does what `systemctl reload docker` does; the reload may end with an error.
    pub fn reload(&self) {
        let reloads = || {
            let said = ["Reloaded configuration", "Error reconfiguring the daemon"];
            said.iter().map(|what| self.log().matches(what).count()).sum::<usize>()
        };
        let before = reloads();
        signal(self.daemon.as_ref().unwrap().id(), "HUP");
        self.eventually("the reload", || reloads() > before);
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.place("dockerd.log")).unwrap_or_default()
    }

    #[track_caller]
    fn eventually(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + SOON;
        while !is_so() {
            assert!(Instant::now() < deadline, "not within {SOON:?}: {what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn does(&self, words: &[&str]) -> Output {
        let mut docker = Command::new("timeout");
        docker.args(["--kill-after", "5", LIMIT]);
        docker.arg(lab("dockers", DOCKERD).with_file_name("docker")).args(words);
        docker.env("DOCKER_HOST", self.host()).env("DOCKER_CONFIG", self.place("client"));
        docker.stdin(Stdio::null()).output().unwrap()
    }

    #[track_caller]
    pub fn says(&self, words: &[&str]) -> String {
        let output = self.does(words);
        assert!(output.status.success(), "docker {words:?}: {}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    }

    fn try_run(&self, options: &[&str]) -> Output {
        let place = ["run", "--detach", "--network", "none", "--cgroup-parent", &self.cgroup];
        self.does(&[&place[..], options, &[IMAGE]].concat())
    }

    /// The id of a running container.
    #[track_caller]
    pub fn run(&self, options: &[&str]) -> String {
        let output = self.try_run(options);
        assert!(output.status.success(), "{}{}", text(&output.stderr), self.log());
        text(&output.stdout).trim().to_owned()
    }

    #[track_caller]
    pub fn knows_nothing_of_it(&self) {
        let output = self.try_run(&["--runtime", NAME]);
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains("unknown or invalid runtime"), "{said}");
    }

    pub fn config(&self) -> String {
        std::fs::read_to_string(self.place("daemon.json")).unwrap()
    }

    pub fn journal(&self) -> String {
        std::fs::read_to_string(self.place("state/journal.jsonl")).unwrap_or_default()
    }

    /// Exit status, standard output and standard error.
    pub fn frostctl(&self, verb: &str, words: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(frostctl());
        command.args([verb, "--runtime", "docker", "--config"]).arg(self.place("daemon.json"));
        if verb == "configure" {
            command.arg("--binary").arg(frostlock());
        }
        command.args(words).env("PATH", path()).env("FROSTLOCK_CONFIG", "/dev/null");
        command.env("DOCKER_HOST", self.host()).env("DOCKER_CONFIG", self.place("client"));
        let output = command.env("FROSTCTL_STATE_DIR", self.place("configured")).output().unwrap();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let all = text(&self.does(&["ps", "--all", "--quiet", "--no-trunc"]).stdout);
        for id in all.lines() {
            self.does(&["rm", "--force", id]);
        }
        self.stop();
        let down = self.containerd("down").output().unwrap();
        self.unmount();
        // dockerd looks there for plugins, whatever its other directories; others' files stay.
        for dir in ["/run/docker/plugins", "/run/docker"] {
            let _ = std::fs::remove_dir(dir);
        }
        let left = self.cgroups();
        left.iter().for_each(|dir| drop(std::fs::remove_dir(dir)));
        if !std::thread::panicking() {
            assert!(down.status.success(), "{}", text(&down.stderr));
            assert!(self.cgroups().is_empty(), "{left:?}");
        }
    }
}

impl Docker {
    /// Unmounts what a killed dockerd leaves.
    fn unmount(&self) {
        let ours = format!("{}/", self.dir.path().display());
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut places: Vec<_> = mounts.lines().filter_map(|line| line.split(' ').nth(4)).collect();
        places.retain(|place| place.starts_with(&ours));
        for place in places.iter().rev() {
            let _ = Command::new("umount").args(["--lazy", place]).status();
        }
    }

    /// The deepest first.
    fn cgroups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let top = hierarchy.path().join(&self.cgroup[1..]);
            let below = std::fs::read_dir(&top).into_iter().flatten().flatten();
            found.extend(below.map(|it| it.path()).filter(|path| path.is_dir()));
            found.extend(top.is_dir().then_some(top));
        }
        found
    }
}

fn signal(pid: u32, signal: &str) {
    let _ = Command::new("kill").args(["-s", signal, &pid.to_string()]).status();
}

/// Runs a container through it, and unconfigures; the refusal names the container and says what to
/// do.
fn a_container_through_it_and_out(docker: &Docker, options: &[&str], before: &str) -> String {
    let id = docker.run(options);
    docker.says(&["exec", &id, "true"]);
    assert!(docker.journal().contains(&id), "{}", docker.journal());
    let configured = docker.config();
    let (status, _, errors) = docker.frostctl("unconfigure", &[]);
    assert!(status == 3 && errors.contains(&id) && errors.contains("--force"), "{errors}");
    assert_eq!(docker.config(), configured);
    docker.says(&["rm", "--force", &id]);
    let (status, said, errors) = docker.frostctl("unconfigure", &[]);
    assert_eq!(status, 0, "{said}{errors}");
    assert_eq!(docker.config(), before);
    said
}

/// Configured, with a container, unconfigured, and the file as before; then the name is unknown.
#[test]
fn docker_runs_a_container_through_it_and_the_file_comes_back() {
    let began = Instant::now();
    let mut docker = Docker::up();
    let before = docker.config();
    docker.knows_nothing_of_it();

    let (status, said, errors) = docker.frostctl("configure", &[]);
    assert_eq!(status, 0, "{said}{errors}");
    assert!(said.contains("checked by: dockerd --validate"), "{said}");
    let (status, again, _) = docker.frostctl("configure", &[]);
    assert!(status == 0 && again.contains("nothing to change"), "{again}");
    docker.knows_nothing_of_it();
    assert!(said.contains("next: systemctl reload docker"), "{said}");
    docker.reload();
    let out = a_container_through_it_and_out(&docker, &["--runtime", NAME], &before);
    println!("{said}{out}");
    docker.restart();
    docker.knows_nothing_of_it();

    // As the default, and in front of a runtime with arguments: dockerd puts a script in between.
    let default = "info --format {{.DefaultRuntime}}".split(' ').collect::<Vec<_>>();
    let reload = format!("kill -s HUP {}", docker.daemon.as_ref().unwrap().id());
    let restart = ["--restart", "--restart-command", &reload];
    let words = [&["--wrap", "logged", "--set-as-default"][..], &restart].concat();
    let (status, said, errors) = docker.frostctl("configure", &words);
    assert_eq!(status, 0, "{said}{errors}");
    assert!(said.contains("docker has loaded it, after: kill"), "{said}");
    assert_eq!(docker.says(&default), NAME);
    let out = a_container_through_it_and_out(&docker, &[], &before);
    docker.reload();
    assert_eq!(docker.says(&default), NAME, "then a reload would do");
    assert!(out.contains("next: systemctl restart docker"), "{out}");
    docker.restart();
    assert_eq!(docker.says(&default), "runc");
    println!("in all {:.1?}", began.elapsed());
}
