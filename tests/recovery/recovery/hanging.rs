//! A runtime that does what runc does, except for one verb at which it freezes and hangs, like a
//! runtime that waits for tasks without CPU time.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::scene::{HANGS, Scene, Via};
use testkit::throttled::ended;
use testkit::{eventually, program};

/// A container whose runtime hangs when told to.
pub(crate) struct Hanging {
    pub(crate) scene: Scene,
}

/// A hanging operation; it and its processes end on drop.
pub(crate) struct Held {
    pub(crate) wrapper: Child,
    runtime: Pid,
}

impl Hanging {
    /// A running container, or one that is only created.
    pub(crate) fn new(runtime: &str, is_started: bool) -> Hanging {
        let mut scene = if is_started { Scene::idle(runtime) } else { Scene::created(runtime) };
        let dir = scene.scratch.path("hanging");
        fs::create_dir(&dir).unwrap();
        let (file, freeze, _) = scene.freezer().control();
        let script = format!(
            r#"#!/bin/sh
at=$(cat {dir}/at 2>/dev/null)
for word; do
    if [ "$word" = "${{at:-none}}" ]; then
        if [ -e {dir}/works ]; then {real} "$@"; else echo {freeze} >{file}; fi
        echo $$ >{dir}/pid.new
        mv {dir}/pid.new {dir}/pid
        exec sleep 1000
    fi
done
exec {real} "$@"
"#,
            dir = dir.display(),
            file = file.display(),
            real = scene.runtime.display(),
        );
        // From the name, the wrapper knows which command line it has.
        let path = dir.join(if runtime.starts_with("crun") { "crun" } else { "runc" });
        scene.runtime = program(&path, &script);
        Hanging { scene }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.scene.scratch.path("hanging").join(name)
    }

    /// Freezes and hangs.
    pub(crate) fn hold(&self, via: Via, verb: &str) -> Held {
        let words: &[&str] = match verb {
            "update" => &["update", "--cpu-share", "0", "c"],
            _ => &[verb, "c"],
        };
        let held = self.start(via, words);
        eventually(HANGS, "it is frozen", || self.scene.freezer().is_frozen());
        held
    }

    fn start(&self, via: Via, words: &[&str]) -> Held {
        let _ = fs::remove_file(self.file("pid"));
        fs::write(self.file("at"), words[0]).unwrap();
        let mut command = self.scene.command(via, words);
        let wrapper = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        eventually(HANGS, "it hangs", || self.file("pid").exists());
        fs::remove_file(self.file("at")).unwrap();
        let pid = fs::read_to_string(self.file("pid")).unwrap();
        Held { wrapper, runtime: Pid::from_raw(pid.trim().parse().unwrap()) }
    }

    /// Has done its work, but does not end.
    pub(crate) fn done_and_held(&self, words: &[&str]) -> Held {
        fs::write(self.file("works"), "").unwrap();
        let held = self.start(Via::Wrapped, words);
        fs::remove_file(self.file("works")).unwrap();
        held
    }

    /// Killed when the real runtime has done its work, but before the wrapper knows.
    pub(crate) fn killed_at_its_end(&self, words: &[&str]) {
        drop(self.done_and_held(words));
    }

    /// Killed while everything is frozen; returns the wrapper's pid.
    pub(crate) fn killed(&self, via: Via, verb: &str) -> u32 {
        let held = self.hold(via, verb);
        if via == Via::Wrapped {
            assert_ne!(self.scene.intents(), crate::NOTHING, "no note was made before the freeze");
        }
        let pid = held.wrapper.id();
        drop(held);
        assert!(self.scene.freezer().is_frozen(), "not shown: it is thawed");
        pid
    }
}

impl Held {
    /// The runtime dies, and the wrapper reports it.
    pub(crate) fn fail(mut self) {
        kill(self.runtime, Signal::SIGKILL).unwrap();
        let status = testkit::wait(&mut self.wrapper, HANGS).expect("the wrapper's end");
        assert!(!status.success());
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.wrapper.kill();
        let _ = self.wrapper.wait();
        let _ = kill(self.runtime, Signal::SIGKILL);
        eventually(HANGS, "the runtime has ended", || ended(self.runtime.as_raw()));
    }
}
