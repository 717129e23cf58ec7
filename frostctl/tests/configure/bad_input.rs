//! Errors: each is one clear line and exit status 3, and leaves nothing half done.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::copies::{Copies, MIDDLE, NEW, file_of};
use super::{frostlock, install, text};

const SOON: Duration = Duration::from_secs(30);

#[track_caller]
fn one_line(errors: &str, why: &str) {
    assert!(errors.contains(why) && errors.trim_end().lines().count() == 1, "{errors}");
}

fn words<'a>(config: &'a str, binary: &'a str) -> Vec<&'a str> {
    vec!["configure", "--runtime", "containerd", "--config", config, "--binary", binary]
}

#[test]
fn wrong_arguments_are_one_line() {
    let copies = Copies::of(MIDDLE);
    let config = copies.write("config.toml", &file_of("kind.toml"));
    let (config, binary) = (config.to_str().unwrap(), frostlock());
    let binary = binary.to_str().unwrap();
    let directory = copies.dir.path().to_str().unwrap();
    let long = "x".repeat(300);
    let mistyped = format!("{directory}/contianerd/config.toml");
    for (extra, why) in [
        (&["--name", &long][..], "too long"),
        (&["--name", "a b"], "cannot be a runtime's name"),
        (&["--wrap", "nosuch"], "no runtime \"nosuch\""),
        (&["--wrap", "frostlock"], "cannot wrap itself"),
        (&["--binary", "/nosuch"], "/nosuch"),
        (&["--config", directory], "not a regular file"),
        (&["--drop-in", "/dev/null"], "not a regular file"),
        (&["--config", &mistyped], "there is no directory"),
    ] {
        let replaced = ["--binary", "--config"].into_iter().find(|it| extra.contains(it));
        let mut all = words(config, binary);
        if let Some(at) = replaced.and_then(|it| all.iter().position(|word| *word == it)) {
            all.drain(at..at + 2);
        }
        let (status, said, errors) = copies.frostctl(&[&all[..], extra].concat());
        assert_eq!(status, 3, "{extra:?}: {said}{errors}");
        one_line(&errors, why);
        assert_eq!(copies.read("config.toml"), file_of("kind.toml"));
        assert!(!copies.file("contianerd").exists());
    }
}

#[test]
fn without_root_it_says_so_and_changes_nothing() {
    let copies = Copies::of(MIDDLE);
    let config = copies.write("etc/config.toml", &file_of("kind.toml"));
    std::fs::set_permissions(copies.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    // Programs that another user can execute.
    let [program, binary] = ["frostctl", "frostlock"].map(|name| copies.file(name));
    install(super::frostctl(), &program);
    install(frostlock(), &binary);
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(program);
    command.args(words(config.to_str().unwrap(), binary.to_str().unwrap()));
    let output = command.env("FROSTCTL_STATE_DIR", copies.file("kept")).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    one_line(&text(&output.stderr), "nothing was changed");
    assert_eq!(copies.read("etc/config.toml"), file_of("kind.toml"));
    assert_eq!(std::fs::read_dir(copies.file("etc")).unwrap().count(), 1);

    // doctor does not call fine what it cannot see.
    std::fs::create_dir(copies.file("kept")).unwrap();
    std::fs::set_permissions(copies.file("kept"), std::fs::Permissions::from_mode(0o700)).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    command.arg(copies.file("frostctl")).args(["doctor", "--check", "installation"]);
    let output = command.env("FROSTCTL_STATE_DIR", copies.file("kept")).output().unwrap();
    assert!(
        text(&output.stdout).contains("not checked  frostlock's entries were not compared"),
        "{output:?}"
    );
}

#[test]
fn without_an_engine_it_edits_and_says_that_nobody_checked() {
    let copies = Copies::of(MIDDLE);
    let config = copies.write("config.toml", &file_of("kind.toml"));
    let binary = frostlock();
    let mut command = copies.command(&words(config.to_str().unwrap(), binary.to_str().unwrap()));
    // frostctl's own search for programs ends in the standard directories, which have none.
    let output = command.env("PATH", "/nosuch").output().unwrap();
    let said = text(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    let has_one = ["/usr/bin", "/usr/sbin", "/usr/local/bin"]
        .iter()
        .any(|it| std::path::Path::new(it).join("containerd").exists());
    assert!(has_one || said.contains("not checked by the real program"), "{said}");
}

#[test]
fn an_output_that_nobody_reads_leaves_nothing_half_done() {
    let copies = Copies::of(NEW);
    copies.write("config.toml", &file_of("kind.toml"));
    let config = copies.file("config.toml");
    let binary = frostlock();
    let all = words(config.to_str().unwrap(), binary.to_str().unwrap());
    let mut child =
        copies.command(&all).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(copies.dump("config.toml").contains("runtimes.frostlock]"));
    copies.unconfigure("config.toml");
    assert_eq!(copies.read("config.toml"), file_of("kind.toml"));
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = copies.command(&all).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(copies.dump("config.toml").contains("runtimes.frostlock]"), "it is whole");
}

/// The restart changes nothing, so it waits; SIGINT and SIGTERM put everything back.
#[test]
fn a_signal_while_it_waits_puts_everything_back() {
    for signal in ["INT", "TERM"] {
        let copies = Copies::of(NEW);
        copies.write("config.toml", &file_of("kind.toml"));
        let (config, binary, began) =
            (copies.file("config.toml"), frostlock(), copies.file("began"));
        let restart = format!("touch '{}'", began.display());
        let mut all = words(config.to_str().unwrap(), binary.to_str().unwrap());
        all.extend(["--restart", "--restart-command", &restart]);
        let child =
            copies.command(&all).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let deadline = Instant::now() + SOON;
        while !began.exists() {
            assert!(Instant::now() < deadline, "the restart");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_ne!(copies.read("config.toml"), file_of("kind.toml"));
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
        // Then it restarts once more and waits; another signal ends that, too.
        while copies.read("config.toml") != file_of("kind.toml") {
            assert!(Instant::now() < deadline, "the files are put back");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        one_line(&text(&output.stderr), "interrupted");
        assert!(!copies.file("conf.d").exists());
        assert_eq!(std::fs::read_dir(copies.file("kept")).unwrap().count(), 0);
    }
}

/// Also, the error does not name the program through which frostctl runs the command.
#[test]
fn a_restart_that_fails_is_not_said_to_have_happened() {
    let copies = Copies::of(NEW);
    copies.write("config.toml", &file_of("kind.toml"));
    let (config, binary) = (copies.file("config.toml"), frostlock());
    let mut all = words(config.to_str().unwrap(), binary.to_str().unwrap());
    all.extend(["--restart", "--restart-command", "exit 7"]);
    let (status, _, errors) = copies.frostctl(&all);
    assert_eq!(status, 3, "{errors}");
    assert!(errors.contains("could not be restarted with its files as they were"), "{errors}");
    assert!(errors.contains("exit 7: exit status: 7"), "{errors}");
    assert!(!errors.contains("was restarted with") && !errors.contains("/proc/self"), "{errors}");
    assert_eq!(copies.read("config.toml"), file_of("kind.toml"));
}

/// The broken import is not ours, and not ours to fix.
#[test]
fn a_broken_import_of_somebody_elses_does_not_keep_us_in() {
    let copies = Copies::of(MIDDLE);
    let other = copies.write("other.toml", "version = 2\n");
    let imports = format!("imports = [\"{}\"]\nversion = 2\n", other.display());
    let text = file_of("kind.toml").replacen("version = 2\n", &imports, 1);
    assert!(text.contains("imports"), "{text}");
    copies.write("config.toml", &text);
    copies.configure("config.toml", &["--no-drop-in"]);
    copies.write("other.toml", "version = [\n");
    let said = copies.unconfigure("config.toml");
    assert!(said.contains("not checked by the real program"), "{said}");
    assert_eq!(copies.read("config.toml"), text);
    // It keeps us from configuring, though; and a restart would end that containerd.
    let config = copies.file("config.toml");
    let binary = frostlock();
    let all = words(config.to_str().unwrap(), binary.to_str().unwrap());
    let (status, _, errors) = copies.frostctl(&all);
    assert!(status == 3 && errors.contains("nothing was changed"), "{errors}");
    let out = ["unconfigure", "--runtime", "containerd", "--config", all[4], "--restart"];
    let (status, _, errors) = copies.frostctl(&[&out[..], &["--restart-command", "true"]].concat());
    assert!(status == 3 && errors.contains("would not come up again"), "{errors}");
}

#[test]
fn a_file_that_no_containerd_reads_is_restarted_by_nobody() {
    let copies = Copies::of(MIDDLE);
    copies.write("config.toml", &file_of("kind.toml"));
    let (config, binary) = (copies.file("config.toml"), frostlock());
    let mut all = words(config.to_str().unwrap(), binary.to_str().unwrap());
    let said = copies.configure("config.toml", &["--dry-run"]);
    assert!(!said.contains("systemctl restart containerd"), "{said}");
    all.push("--restart");
    let (status, _, errors) = copies.frostctl(&all);
    assert_eq!(status, 3, "{errors}");
    one_line(&errors, "name a command that restarts it with --restart-command");
    assert_eq!(copies.read("config.toml"), file_of("kind.toml"));
    let said = copies.configure("config.toml", &[]);
    assert!(said.contains("next: restart the containerd that reads"), "{said}");
    copies.unconfigure("config.toml");
    // A separate binary, which is removed.
    let own = copies.file("frostlock");
    install(&binary, &own);
    let (status, said, errors) = copies.frostctl(&words(all[4], own.to_str().unwrap()));
    assert_eq!(status, 0, "{said}{errors}");
    let (status, said, errors) = copies.frostctl(&["uninstall", "--binary", own.to_str().unwrap()]);
    assert!(status < 2 && (own.is_symlink() || !own.exists()), "{said}{errors}");
    assert!(said.contains("next: restart the containerd that reads"), "{said}");
}

#[test]
fn a_restart_that_fails_puts_everything_back() {
    let copies = Copies::of(NEW);
    copies.write("config.toml", &file_of("kind.toml"));
    let (config, binary, count) = (copies.file("config.toml"), frostlock(), copies.file("count"));
    let restart = format!("echo x >>'{}'; echo no such unit >&2; exit 5", count.display());
    let mut all = words(config.to_str().unwrap(), binary.to_str().unwrap());
    all.extend(["--restart", "--restart-command", &restart]);
    let (status, _, errors) = copies.frostctl(&all);
    assert_eq!(status, 3);
    one_line(&errors, "no such unit");
    assert!(errors.contains("put back"), "{errors}");
    assert_eq!(copies.read("config.toml"), file_of("kind.toml"));
    assert!(!copies.file("conf.d").exists());
    assert_eq!(copies.read("count").lines().count(), 2, "and once more with the files of before");
    // A person at a terminal is told what it waits for.
    let output = on_terminal(&copies.command(&all)).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(text(&output.stdout).contains("restarting containerd: echo x"), "{output:?}");
}

fn on_terminal(command: &Command) -> Command {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted = words.map(|it| format!("'{}'", it.to_str().unwrap().replace('\'', "'\\''")));
    let mut script = Command::new("script");
    script.args(["-q", "-e", "-c", &quoted.collect::<Vec<_>>().join(" "), "/dev/null"]);
    script.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    script
}
