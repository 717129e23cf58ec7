//! Copies of configurations on the host, read by real programs of several versions.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{NAME, frostctl, frostlock, install, repository, text};

pub const OLD: &str = "1.6.20";
pub const MIDDLE: &str = "1.7.24";
pub const NEW: &str = "2.1.9";

/// Files in a scratch directory, and one containerd in PATH.
pub struct Copies {
    pub dir: tempfile::TempDir,
    path: String,
}

impl Copies {
    pub fn of(containerd: &str) -> Copies {
        let dir = tempfile::Builder::new().prefix("frostlock copies ").tempdir_in("/dev/shm");
        let programs = repository().join(format!("target/lab/containerd-{containerd}"));
        let dir = dir.unwrap();
        let own = dir.path().join("bin");
        let path =
            format!("{}:{}:/usr/sbin:/usr/bin:/sbin:/bin", own.display(), programs.display());
        Copies { dir, path }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn program(&self, name: &str, text: &str) {
        install(self.write(&format!("{name}.text"), text), self.file(name));
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.file(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).unwrap()
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(frostctl());
        command.args(words).env("PATH", &self.path);
        command.env("FROSTCTL_STATE_DIR", self.file("kept")).env("FROSTLOCK_CONFIG", "/dev/null");
        command.env("FROSTLOCK_STATE_DIR", self.file("run"));
        command
    }

    /// Exit status, standard output and standard error.
    pub fn frostctl(&self, words: &[&str]) -> (i32, String, String) {
        let output = self.command(words).output().unwrap();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }

    #[track_caller]
    pub fn configure(&self, config: &str, words: &[&str]) -> String {
        let config = self.file(config);
        let (binary, config) = (frostlock(), config.to_str().unwrap());
        let all = [
            "configure",
            "--runtime",
            "containerd",
            "--binary",
            binary.to_str().unwrap(),
            "--config",
            config,
        ];
        let (status, said, errors) = self.frostctl(&[&all[..], words].concat());
        let is_dry = words.contains(&"--dry-run");
        assert!(status == 0 || (is_dry && status == 1), "{said}{errors}");
        said
    }

    #[track_caller]
    pub fn unconfigure(&self, config: &str) -> String {
        let config = self.file(config);
        let all = ["unconfigure", "--runtime", "containerd", "--config", config.to_str().unwrap()];
        let (status, said, errors) = self.frostctl(&all);
        assert_eq!(status, 0, "{said}{errors}");
        said
    }

    /// What containerd reads from it, without white space.
    pub fn dump(&self, config: &str) -> String {
        let mut containerd = Command::new("containerd");
        containerd
            .env("PATH", &self.path)
            .arg("--config")
            .arg(self.file(config))
            .args(["config", "dump"]);
        let output = containerd.output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
            .lines()
            .map(|line| format!("{}\n", line.trim().replace('\'', "\"")))
            .collect()
    }
}

const RUNC: &str = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  # theirs\n  [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n    runtime_type = \"io.containerd.runc.v2\"\n    [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]\n      SystemdCgroup = true\n  [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.other]\n    runtime_type = \"io.containerd.runc.v2\"\n    [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.other.options]\n      NoNewKeyring = true\n";

/// The options of our entry in what containerd reads.
fn options(dump: &str) -> String {
    let head = format!("runtimes.{NAME}.options]");
    let at = dump.find(&head).unwrap_or_else(|| panic!("{dump}"));
    dump[at + head.len()..].split("\n\n").next().unwrap().to_owned()
}

#[test]
fn run_again_it_follows_what_is_asked_for_and_what_it_stands_in_for() {
    for containerd in [OLD, MIDDLE, NEW] {
        let copies = Copies::of(containerd);
        copies.write("config.toml", RUNC);
        copies.configure("config.toml", &[]);
        let said = copies.configure("config.toml", &[]);
        assert!(said.contains("nothing to change") && !said.contains(": changed"), "{said}");

        // The wrapped runtime's options change.
        let edited = copies.read("config.toml").replacen(
            "SystemdCgroup = true",
            "SystemdCgroup = true\n      ShimCgroup = \"/x\"",
            1,
        );
        copies.write("config.toml", &edited);
        assert!(!options(&copies.dump("config.toml")).contains("ShimCgroup = \"/x\""));
        let doctor = ["doctor", "--check", "installation", "--json"];
        let has_drifted = || copies.frostctl(&doctor).1.contains("no longer matches runc");
        assert!(has_drifted(), "{:?}", copies.frostctl(&doctor));
        copies.configure("config.toml", &[]);
        assert!(!has_drifted());
        assert!(
            options(&copies.dump("config.toml")).contains("ShimCgroup = \"/x\""),
            "{containerd}"
        );

        // Another runtime, and as the default; the next run keeps both without being told.
        copies.configure("config.toml", &["--wrap", "other", "--set-as-default", "--force"]);
        let dump = copies.dump("config.toml");
        assert!(options(&dump).contains("NoNewKeyring = true"), "{dump}");
        assert!(dump.contains("default_runtime_name = \"frostlock\""), "{dump}");
        let said = copies.configure("config.toml", &["--force"]);
        assert!(!said.contains(": changed") && said.contains("stays the default"), "{said}");

        copies.unconfigure("config.toml");
        let edited = RUNC.replacen(
            "SystemdCgroup = true",
            "SystemdCgroup = true\n      ShimCgroup = \"/x\"",
            1,
        );
        assert_eq!(copies.read("config.toml"), edited, "{containerd}");
    }
}

#[test]
fn a_drop_in_is_the_default_where_containerd_merges_it_and_is_found_again() {
    let imports = "version = 3\nimports = [\"IMPORTED/*.toml\"]\n";
    for (containerd, text, drop_in) in [
        (OLD, RUNC.to_owned(), None),
        (MIDDLE, RUNC.to_owned(), None),
        (NEW, RUNC.to_owned(), Some("conf.d/99-frostlock.toml")),
        (NEW, imports.to_owned(), Some("its own.d/99-frostlock.toml")),
    ] {
        let copies = Copies::of(containerd);
        let text = text.replace("IMPORTED", copies.file("its own.d").to_str().unwrap());
        copies.write("config.toml", &text);
        let before = copies.dump("config.toml");
        copies.configure("config.toml", &["--set-as-default"]);
        let entry = format!("runtimes.{NAME}");
        assert_eq!(
            copies.read("config.toml").contains(&entry),
            drop_in.is_none(),
            "{containerd:?}"
        );
        if let Some(drop_in) = drop_in {
            let written = copies.read(drop_in);
            assert!(!written.contains("runtimes.runc"), "it is the other file's: {written}");
            assert_eq!(written.matches(".options]").count(), 1, "{written}");
        }
        assert!(copies.dump("config.toml").contains("default_runtime_name = \"frostlock\""));
        // The entry is found even without its record.
        for kept in [true, false] {
            if !kept {
                copies.configure("config.toml", &["--set-as-default"]);
                std::fs::remove_dir_all(copies.file("kept")).unwrap();
            }
            copies.unconfigure("config.toml");
            let after = copies.dump("config.toml");
            assert!(!after.contains("frostlock]") && !after.contains("\"frostlock\""), "{after}");
            if kept {
                assert_eq!(copies.read("config.toml"), text);
                assert_eq!(after, before);
                assert!(!copies.file("conf.d").exists(), "a directory that was made");
            }
        }
    }
}

#[test]
fn a_main_file_is_edited_if_that_is_asked_for_and_no_file_twice() {
    let copies = Copies::of(NEW);
    copies.write("config.toml", RUNC);
    copies.configure("config.toml", &["--no-drop-in"]);
    assert!(copies.read("config.toml").contains("runtimes.frostlock]"));
    // It is found there, and nothing is written beside it.
    let said = copies.configure("config.toml", &[]);
    assert!(said.contains("nothing to change") && !copies.file("conf.d").exists(), "{said}");
    let (config, other) = (copies.file("config.toml"), copies.file("other.toml"));
    let words = [
        "configure",
        "--runtime",
        "containerd",
        "--config",
        config.to_str().unwrap(),
        "--drop-in",
        other.to_str().unwrap(),
    ];
    let (status, _, errors) = copies.frostctl(&words);
    assert!(status == 3 && errors.contains("unconfigure"), "{errors}");
    copies.unconfigure("config.toml");
    assert_eq!(copies.read("config.toml"), RUNC);
}

/// Whether every byte from before is still there, in order.
fn is_only_added_to(before: &str, after: &str) -> bool {
    let mut lines = after.split_inclusive('\n');
    before.split_inclusive('\n').all(|line| lines.any(|it| it == line))
}

#[test]
fn ends_of_lines_and_indentation_stay() {
    let tabs = RUNC.replace("    ", "\t\t").replace("  ", "\t");
    for text in [RUNC.replace('\n', "\r\n"), tabs, RUNC.trim_end().to_owned()] {
        for containerd in [OLD, MIDDLE, NEW] {
            let copies = Copies::of(containerd);
            copies.write("config.toml", &text);
            copies.configure("config.toml", &["--no-drop-in"]);
            let after = copies.read("config.toml");
            let ended = if text.ends_with('\n') { text.clone() } else { format!("{text}\n") };
            assert!(is_only_added_to(&ended, &after), "{after:?}");
            assert!(
                !after.contains("\nBinaryName"),
                "without the indentation of its table: {after}"
            );
            if text.contains('\r') {
                assert_eq!(after.matches('\n').count(), after.matches("\r\n").count(), "{after:?}");
            }
            // An edit at the beginning, so that it cannot simply be put back.
            copies.write("config.toml", &format!("# edited\n{after}"));
            copies.unconfigure("config.toml");
            assert_eq!(copies.read("config.toml"), format!("# edited\n{ended}"));
        }
    }
}

#[test]
fn the_advice_for_a_file_without_a_version_works_with_this_containerd() {
    let without = "[plugins.cri]\n  sandbox_image = \"x/pause:1\"\n[plugins.cri.containerd.runtimes.runc]\n  runtime_type = \"io.containerd.runc.v2\"\n[plugins.cri.containerd.runtimes.runc.options]\n  SystemdCgroup = true\n";
    for containerd in [OLD, MIDDLE, NEW] {
        let copies = Copies::of(containerd);
        let config = copies.write("config.toml", without);
        let binary = frostlock();
        let words = ["configure", "--runtime", "containerd", "--config", config.to_str().unwrap()];
        let (status, _, errors) =
            copies.frostctl(&[&words[..], &["--binary", binary.to_str().unwrap()]].concat());
        assert!(status == 3 && errors.contains("nothing was changed"), "{errors}");
        assert!(!errors.contains("migrate"), "1.6 and 1.7 have no such command: {errors}");
        assert!(errors.contains("config dump") && errors.contains("version = 2"), "{errors}");
        assert_eq!(copies.read("config.toml"), without);
        // By hand, and by its own command.
        let by_hand = format!(
            "version = 2\n{}",
            without.replace("plugins.cri", "plugins.\"io.containerd.grpc.v1.cri\"")
        );
        let printed = (containerd != NEW).then(|| copies.dump("config.toml"));
        for text in [Some(by_hand), printed].into_iter().flatten() {
            copies.write("config.toml", &text);
            copies.configure("config.toml", &[]);
            assert!(options(&copies.dump("config.toml")).contains("SystemdCgroup = true"));
            assert!(copies.dump("config.toml").contains("x/pause:1"));
            copies.unconfigure("config.toml");
        }
    }
}

fn with_crio(script: &str) -> Copies {
    let copies = Copies::of(NEW);
    copies.program("bin/crio", script);
    copies
}

/// Without files it is crun from 1.31 on. CRI-O prints settings of its own after the last runtime.
#[test]
fn the_default_runtime_of_crio_is_what_it_stands_in_for() {
    let script = r#"#!/bin/sh
[ "$1" != --config-dir ] || exec cat "$2"/99-frostlock.conf
[ "$*" = 'config --default' ] || exec echo '# default_runtime = "crun"'
echo '[crio.runtime]
default_runtime = "crun"
[crio.runtime.runtimes.crun]
runtime_path = ""
runtime_root = "/run/crun"
monitor_env = [
	"PATH=/bin",
]

# Whether to disable it.
disable_hostport_mapping = false'
"#;
    let copies = with_crio(script);
    let drop_in = copies.file("crio.conf.d/99-frostlock.conf");
    let (drop_in, binary) = (drop_in.to_str().unwrap(), frostlock());
    let binary = binary.to_str().unwrap();
    let words = ["configure", "--runtime", "crio", "--config", drop_in, "--binary", binary];
    // The frostlock here would run another runtime.
    let (code, _, errors) = copies.frostctl(&words);
    let why = "the runtime \"crun\" runs crun, but frostlock would run";
    assert!(code == 3 && errors.contains(why), "{errors}");
    let (code, said, errors) = copies.frostctl(&[&words[..], &["--force"]].concat());
    assert_eq!(code, 0, "{said}{errors}");
    let lines = [
        "# By `frostctl configure`, in front of crun; `frostctl unconfigure` removes it."
            .to_owned(),
        "[crio.runtime.runtimes.frostlock]".to_owned(),
        format!("runtime_path = \"{binary}\""),
        "runtime_root = \"/run/crun\"".to_owned(),
        "monitor_env = [".to_owned(),
        "\t\"PATH=/bin\",".to_owned(),
        "]".to_owned(),
    ];
    let said = copies.read("crio.conf.d/99-frostlock.conf");
    let mut said: Vec<&str> = said.lines().filter(|line| !line.is_empty()).collect();
    let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    said.sort_unstable();
    lines.sort_unstable();
    assert_eq!(said, lines);
}

/// A crio that prints the files in its directory, like `crio config`, or nothing of ours.
#[test]
fn crio_is_asked_what_it_reads() {
    for (script, status, why) in [
        (
            "#!/bin/sh\n[ \"$1\" = config ] && exit 0\ncat \"$2\"/*.conf 2>/dev/null || :\n",
            0,
            "checked by: crio config",
        ),
        ("#!/bin/sh\necho '[crio.runtime]'\n", 3, "CRI-O reads the runtime"),
        ("#!/bin/sh\n[ \"$1\" = config ] && exit 0\necho 'bad file' >&2; exit 1\n", 3, "bad file"),
    ] {
        let copies = with_crio(script);
        let drop_in = copies.file("crio.conf.d/99-frostlock.conf");
        let binary = frostlock();
        let words = [
            "configure",
            "--runtime",
            "crio",
            "--config",
            drop_in.to_str().unwrap(),
            "--binary",
            binary.to_str().unwrap(),
        ];
        let (code, said, errors) = copies.frostctl(&words);
        assert!(code == status && (said.contains(why) || errors.contains(why)), "{said}{errors}");
        assert_eq!(drop_in.exists(), status == 0);
        if status == 0 {
            let (code, said, errors) = copies.frostctl(&[
                "unconfigure",
                "--runtime",
                "crio",
                "--config",
                drop_in.to_str().unwrap(),
            ]);
            assert!(code == 0 && !drop_in.exists(), "{said}{errors}");
        }
    }
}

pub fn file_of(name: &str) -> String {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/distributions").join(name);
    std::fs::read_to_string(path).unwrap()
}
