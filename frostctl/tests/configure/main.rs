//! `frostctl configure` against real engines: containerd in a node (`scripts/node`), dockerd, podman.
//!
//! Needs root and the lab (`make lab`).

// clippy.toml allows these in tests, but helpers of a test are not #[test].
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod bad_input;
mod copies;
mod crio;
mod distributions;
mod docker;
mod layouts;
mod node;
mod status;
mod story;

use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::podman::{self, Podman};
use testkit::{install, repository, text};

const NAME: &str = "frostlock";

/// Absolute, since the configuration gets this path.
fn binary(variable: &str, default: &str) -> PathBuf {
    let path = std::env::var_os(variable).map_or_else(|| PathBuf::from(default), PathBuf::from);
    path.canonicalize()
        .unwrap_or_else(|error| panic!("{variable}: {path:?}: {error}; try: make build"))
}

fn frostctl() -> PathBuf {
    binary("FROSTCTL_BIN", env!("CARGO_BIN_EXE_frostctl"))
}

fn frostlock() -> PathBuf {
    binary("FROSTLOCK_BIN", "the variable FROSTLOCK_BIN")
}

/// The host, with every file in a scratch directory.
struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Host {
        Host {
            dir: tempfile::Builder::new().prefix("frostlock host ").tempdir_in("/dev/shm").unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn frostctl(&self, words: &[&str], file: &Path) -> (i32, String, String) {
        let output = Command::new(frostctl())
            .args(words)
            .arg("--config")
            .arg(file)
            .env("FROSTCTL_STATE_DIR", self.path("state"))
            .env("FROSTLOCK_CONFIG", "/dev/null")
            .output()
            .unwrap();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }
}

#[test]
fn podman_finds_it_by_name_and_the_drop_in_goes() {
    let host = Host::new();
    let drop_in = host.path("99 frost\nlock.conf");
    // A separate binary, through which no container of another test runs.
    let binary = host.path("frostlock");
    install(frostlock(), &binary);
    let binary = binary.to_str().unwrap();
    let podman = |words: &[&str]| {
        let output = Command::new("podman").args(words).env("CONTAINERS_CONF", &drop_in).output();
        output.unwrap()
    };
    assert!(!podman(&["--runtime", NAME, "info"]).status.success(), "the control");
    let words = ["configure", "--runtime", "podman", "--wrap", "runc", "--binary", binary];
    let (status, said, errors) = host.frostctl(&words, &drop_in);
    assert_eq!(status, 0, "{said}{errors}");
    assert!(said.contains("checked by: podman info"), "{said}");
    let info = podman(&["--runtime", NAME, "info", "--format", "{{.Host.OCIRuntime.Path}}"]);
    assert_eq!(text(&info.stdout).trim(), binary);
    let (status, said, errors) = host.frostctl(&["unconfigure", "--runtime", "podman"], &drop_in);
    assert_eq!(status, 0, "{said}{errors}");
    assert!(!drop_in.exists(), "{said}");
}

/// A shell with the name and the arguments of podman's conmon; it ends with its standard input.
fn monitor(host: &Host, binary: &str) -> std::process::Child {
    let conmon = host.path("conmon");
    install("/bin/sh", &conmon);
    let mut command = Command::new(conmon);
    command.args(["-c", "read busy", "-r", binary, "--exit-command", "/usr/bin/podman"]);
    command.stdin(std::process::Stdio::piped()).spawn().unwrap()
}

/// The control is the same dry run after the container's end.
#[test]
fn a_dry_run_is_refused_as_the_removal_would_be() {
    let host = Host::new();
    let [drop_in, binary] = ["99-frostlock.conf", "frostlock"].map(|name| host.path(name));
    install(frostlock(), &binary);
    let binary = binary.to_str().unwrap();
    let words = ["configure", "--runtime", "podman", "--wrap", "runc", "--binary", binary];
    let (status, said, errors) = host.frostctl(&words, &drop_in);
    assert_eq!(status, 0, "{said}{errors}");
    let configured = std::fs::read_to_string(&drop_in).unwrap();
    let dry_run = |words: &[&str]| {
        let mut command = alone(frostctl());
        command.args(words).arg("--dry-run").env("FROSTCTL_STATE_DIR", host.path("state"));
        command.env("FROSTLOCK_STATE_DIR", host.path("run")).env("FROSTLOCK_CONFIG", "/dev/null");
        let output = command.output().unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let unconfigure = ["unconfigure", "--runtime", "podman", "--config", drop_in.to_str().unwrap()];
    let uninstall = ["uninstall", "--binary", binary];
    let forced = [&unconfigure[..], &["--force"]].concat();

    let mut monitor = monitor(&host, binary);
    for words in [&unconfigure[..], &uninstall] {
        let (status, said, errors) = dry_run(words);
        assert_eq!(status, Some(3), "{said}{errors}");
        assert!(errors.contains("read busy") && errors.contains("--force"), "{errors}");
        assert!(said.contains(drop_in.to_str().unwrap()), "what it would change: {said}");
    }
    let (status, said, errors) = dry_run(&forced);
    assert!(status == Some(1) && said.contains("read busy"), "{said}{errors}");
    drop(monitor.stdin.take());
    monitor.wait().unwrap();
    for words in [&unconfigure[..], &uninstall] {
        let (status, said, errors) = dry_run(words);
        assert_eq!(status, Some(1), "{said}{errors}");
    }
    assert_eq!(std::fs::read_to_string(&drop_in).unwrap(), configured);
}

/// Configured, with a container, unconfigured, and the drop-in gone; then the name is unknown.
#[test]
fn podman_runs_a_container_through_it_and_the_drop_in_goes() {
    const DROP_IN: &str = "/etc/containers/containers.conf.d/99-frostlock.conf";
    let began = std::time::Instant::now();
    let podman = Podman::up();
    let binary = frostlock();
    let by_it = ["--runtime", NAME];
    let frostctl = |words: &[&str]| {
        let output = podman::run(podman.inside(frostctl()).args(words));
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    };
    let is_unknown = || {
        let said = podman.does(&[&by_it[..], &["info"]].concat());
        !said.status.success() && text(&said.stderr).contains("\"frostlock\" not found")
    };
    assert!(is_unknown());
    // podman gives a log only to runtimes that it knows; for others, the error is their standard
    // error.
    let says = |runtime: &str| {
        let said = podman.try_run("none", &["--runtime", runtime], &["/bin/missing"]);
        podman.says(&["rm", "--force", "--ignore", "none"]);
        text(&said.stderr)
    };
    let said = says(binary.to_str().unwrap());
    assert!(said.contains("time="), "{said}");

    // If both are installed, podman's default is crun, and ours is runc.
    let words = ["configure", "--runtime", "podman", "--binary", binary.to_str().unwrap()];
    let (status, _, errors) = frostctl(&words);
    assert!(status == 3 && errors.contains("--wrap") && errors.contains("crun"), "{errors}");
    assert!(!podman.path(DROP_IN).exists());
    let (status, said, errors) = frostctl(&[&words[..], &["--wrap", "runc"]].concat());
    assert_eq!(status, 0, "{said}{errors}");
    assert!(said.contains("checked by: podman info"), "{said}");
    println!("{said}");
    let said = says(NAME);
    assert!(said.contains("runc create failed") && !said.contains("time="), "{said}");
    let id = podman.run("c1", &by_it);
    podman.says(&["exec", "c1", "true"]);
    let journal = podman.path("/run/frostlock/journal.jsonl");
    let journal = std::fs::read_to_string(journal).unwrap_or_default();
    assert!(journal.contains(&id), "{journal}");
    let out = ["unconfigure", "--runtime", "podman"];
    let (status, _, errors) = frostctl(&out);
    assert!(status == 3 && errors.contains(&id) && errors.contains("--force"), "{errors}");
    assert!(podman.path(DROP_IN).exists());
    podman.says(&["rm", "--force", "--time", "0", "c1"]);
    let (status, said, errors) = frostctl(&out);
    assert_eq!(status, 0, "{said}{errors}");
    assert!(!podman.path(DROP_IN).exists(), "{said}");
    assert!(is_unknown());
    println!("{said}in all {:.1?}", began.elapsed());
}

/// Like crun, which is behind it; podman refuses this option for runtimes not in its list.
#[test]
fn podman_runs_a_container_without_cgroups_through_it() {
    let podman = Podman::up();
    let place = podman.path("/run/own");
    std::fs::create_dir(&place).unwrap();
    // With this name it runs crun.
    install(frostlock(), place.join("frostlock-crun"));
    let words = ["configure", "--runtime", "podman", "--binary", "/run/own/frostlock-crun"];
    let output = podman::run(podman.inside(frostctl()).args(words));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let drop_in = podman.path("/etc/containers/containers.conf.d/99-frostlock.conf");
    let written = std::fs::read_to_string(&drop_in).unwrap();
    let run = |runtime: &str| {
        let mut command = podman.inside("podman");
        command.args(["run", "--rm", "--network", "none", "--runtime", runtime]);
        command.args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]);
        command.args(["--cgroups=disabled", "--rootfs", "/run/rootfs", "true"]);
        let said = podman::run(&mut command);
        (said.status.success(), text(&said.stderr))
    };
    // This crun may refuse the host's cgroups; then it does so through frostlock, too.
    let (bare, through) = (run("crun"), run(NAME));
    assert_eq!(bare.0, through.0, "{bare:?} {through:?}\n{written}");
    assert!(!through.1.contains("not compatible with NoCgroups"), "{through:?}\n{written}");
    let list = written.lines().filter(|line| !line.starts_with("runtime_supports_nocgroup"));
    std::fs::write(&drop_in, list.map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let (works, errors) = run(NAME);
    assert!(!works && errors.contains("not compatible with NoCgroups"), "the control: {errors}");
}

#[test]
fn what_dockerd_would_refuse_is_not_left_behind() {
    let host = Host::new();
    let daemon = host.path("daemon.json");
    for (text_before, name, why) in [
        ("{\"debug\": true, \"no-such-option\": 1}", NAME, "no-such-option"),
        // dockerd would notice this only at its start.
        ("{\n  \"debug\": true\n}", "runc", "a name that dockerd reserves"),
    ] {
        std::fs::write(&daemon, text_before).unwrap();
        let output = Command::new(frostctl())
            .args(["configure", "--runtime", "docker", "--name", name, "--config"])
            .arg(&daemon)
            .arg("--binary")
            .arg(frostlock())
            .env("PATH", docker::path())
            .env("FROSTCTL_STATE_DIR", host.path("state"))
            .env("FROSTLOCK_CONFIG", "/dev/null")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert!(text(&output.stderr).contains(why), "{output:?}");
        assert_eq!(std::fs::read_to_string(&daemon).unwrap(), text_before);
        let left = std::fs::read_dir(host.path("state")).into_iter().flatten().count();
        assert_eq!(left, 0);
    }
}

/// In a separate mount namespace: a containerd that another test is just starting must not count as
/// one of this node that may have the program loaded.
fn alone(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("unshare");
    command.arg("--mount").arg(program);
    command
}

#[test]
fn a_dry_run_says_whether_an_uninstall_would_change_something() {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = |name: &str| place.path().join(name);
    std::fs::hard_link(frostctl(), path("frostctl")).unwrap();
    std::fs::write(path("config.toml"), "[history]\nenabled = false\n").unwrap();
    let dry_run = |words: &[&str]| {
        let mut command = alone(path("frostctl"));
        command
            .args(["uninstall", "--dry-run"])
            .args(words)
            .env("FROSTCTL_STATE_DIR", path("kept"));
        command
            .env("FROSTLOCK_STATE_DIR", path("run"))
            .env("FROSTLOCK_CONFIG", path("config.toml"));
        let output = command.output().unwrap();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let (status, said) = dry_run(&["--purge"]);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("is not there"), "{said}");
    install(frostlock(), path("frostlock"));
    let (status, said) = dry_run(&[]);
    assert!(status == Some(1) && said.contains("would be removed"), "{said}");
    assert!(path("frostlock").exists());
}

#[test]
fn the_link_that_an_uninstall_has_left_goes_with_the_next() {
    // Beside frostctl, where it looks without --binary.
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let [program, link] = ["frostctl", "frostlock"].map(|name| place.path().join(name));
    std::fs::hard_link(frostctl(), &program).unwrap();
    std::os::unix::fs::symlink("/usr/bin/true", &link).unwrap();
    let mut command = alone(&program);
    let state = place.path().join("state");
    let output = command.arg("uninstall").env("FROSTCTL_STATE_DIR", state).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(!link.is_symlink(), "{}", text(&output.stdout));
}

/// As a package does it on removal. The control is the same without the option.
#[test]
fn an_uninstall_that_keeps_configurations_leaves_them_a_link_to_the_runtime() {
    let host = Host::new();
    let [binary, drop_in] = ["frostlock", "99-frostlock.conf"].map(|name| host.path(name));
    install(frostlock(), &binary);
    let named = binary.to_str().unwrap();
    let uninstall = |words: &[&str]| {
        let mut command = alone(frostctl());
        command.args(["uninstall", "--binary", named]).args(words);
        command.env("FROSTCTL_STATE_DIR", host.path("state"));
        command.env("FROSTLOCK_STATE_DIR", host.path("run")).env("FROSTLOCK_CONFIG", "/dev/null");
        let output = command.output().unwrap();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let words = ["configure", "--runtime", "podman", "--wrap", "runc", "--binary", named];
    let (status, said, errors) = host.frostctl(&words, &drop_in);
    assert_eq!(status, 0, "{said}{errors}");
    let configured = std::fs::read_to_string(&drop_in).unwrap();
    assert!(configured.contains(named), "{configured}");

    let (status, said) = uninstall(&["--keep-configurations", "--dry-run"]);
    assert_eq!(status, Some(1), "{said}");
    assert!(!binary.is_symlink(), "{said}");
    // The second time, the link already exists.
    for _ in 0..2 {
        let (status, said) = uninstall(&["--keep-configurations"]);
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains("which stays as it is"), "{said}");
        assert_eq!(std::fs::read_to_string(&drop_in).unwrap(), configured);
        let runtime = std::fs::read_link(&binary).unwrap();
        assert!(runtime.ends_with("runc") && runtime.exists(), "{runtime:?}");
    }
    let version = Command::new(&binary).arg("--version").output().unwrap();
    assert!(text(&version.stdout).starts_with("runc version"), "{version:?}");

    let (status, said) = uninstall(&[]);
    assert_eq!(status, Some(0), "{said}");
    assert!(!drop_in.exists() && !binary.is_symlink(), "{said}");
}
