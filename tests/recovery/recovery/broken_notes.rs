//! Notes that frostlock did not write, or only half: they cost nothing, and cause no thaw.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use testkit::cgroup_dirs;
use testkit::scene::{MS, Scene, Via, report, tolerance};

use crate::NOTHING;
use crate::hanging::Hanging;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Garbage,
    Empty,
    Torn,
    Directory,
    FullDirectory,
    Fifo,
    Link,
    DanglingLink,
    LinkToEndlessFile,
    Huge,
    DeeplyNested,
    OtherBoot,
    UnknownKeys,
    OtherCgroup,
    OddName,
    OfInit,
}

use Broken::{
    DanglingLink, DeeplyNested, Directory, Empty, Fifo, FullDirectory, Garbage, Huge, Link,
    LinkToEndlessFile, OddName, OfInit, OtherBoot, OtherCgroup, Torn, UnknownKeys,
};

const ALL: [Broken; 16] = [
    Garbage,
    Empty,
    Torn,
    Directory,
    FullDirectory,
    Fifo,
    Link,
    DanglingLink,
    LinkToEndlessFile,
    Huge,
    DeeplyNested,
    OtherBoot,
    UnknownKeys,
    OtherCgroup,
    OddName,
    OfInit,
];

/// A dead process's note, as it was left here.
struct Sample {
    path: PathBuf,
    text: String,
}

impl Sample {
    /// By a pause that is killed and undone.
    fn take(hanging: &Hanging) -> Sample {
        hanging.killed(Via::Wrapped, "pause");
        let notes = hanging.scene.intents();
        let path = notes.into_iter().find(|path| path.is_file()).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        hanging.scene.must(Via::Wrapped, &["update", "--cpu-share", "0", "c"]);
        assert!(!hanging.scene.freezer().is_asked_for());
        Sample { path, text }
    }

    fn put(&self, broken: Broken, scene: &Scene) {
        let victim = scene.scratch.path("victim");
        fs::write(&victim, "precious").unwrap();
        let path = self.path.as_path();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let boot_id = boot_id.trim();
        match broken {
            Garbage => fs::write(path, b"\0\xff{{{not a note\n").unwrap(),
            Empty => fs::write(path, "").unwrap(),
            Torn => fs::write(path, &self.text[..self.text.len() / 2]).unwrap(),
            Directory => fs::create_dir(path).unwrap(),
            FullDirectory => fs::create_dir_all(path.join("sub/directory")).unwrap(),
            Fifo => nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRUSR).unwrap(),
            Link => symlink(&victim, path).unwrap(),
            DanglingLink => symlink("/nowhere/at/all", path).unwrap(),
            LinkToEndlessFile => symlink("/dev/zero", path).unwrap(),
            // Sparse, so that it costs only its readers something.
            Huge => fs::File::create(path).unwrap().set_len(1 << 32).unwrap(),
            DeeplyNested => fs::write(path, "[".repeat(100_000)).unwrap(),
            OtherBoot => {
                assert!(self.text.contains(boot_id), "not shown: {:?}", self.text);
                let other = self.text.replace(boot_id, "00000000-0000-4000-8000-000000000000");
                fs::write(path, other).unwrap();
            }
            UnknownKeys => fs::write(path, self.text.replacen('{', "{\"new\":[1],", 1)).unwrap(),
            OtherCgroup => {
                let other = self.text.replace(&scene.cgroup(), "/frostlock-test-gone/x");
                assert_ne!(other, self.text, "not shown");
                fs::write(path, other).unwrap();
            }
            OddName => fs::write(path.with_file_name("no number"), &self.text).unwrap(),
            // Process 1 lives, but has another start time.
            OfInit => fs::write(path.with_file_name("1.json"), &self.text).unwrap(),
        }
    }

    fn clear(&self, scene: &Scene) {
        let _ = fs::remove_dir_all(self.path.parent().unwrap());
        let victim = fs::read_to_string(scene.scratch.path("victim"));
        assert_eq!(victim.unwrap(), "precious");
    }
}

fn quickly(scene: &Scene, words: &[&str], broken: Broken) -> Option<i32> {
    let ended = scene.give(Via::Wrapped, words);
    // An exec's wait for a thaw is the longest.
    assert!(ended.took < 300 * MS + tolerance(), "{broken:?}, {words:?}: {:?}", ended.took);
    ended.code
}

#[test]
fn they_cost_nothing() {
    let hanging = Hanging::new("runc-1.1.5", true);
    let scene = &hanging.scene;
    let sample = Sample::take(&hanging);
    for broken in ALL {
        sample.put(broken, scene);
        for words in [
            &["update", "--cpu-share", "0", "c"][..],
            &["exec", "c", "true"],
            &["state", "c"],
            &["kill", "c", "WINCH"],
            &["pause", "c"],
            &["resume", "c"],
        ] {
            assert_eq!(quickly(scene, words, broken), Some(0), "{broken:?}, {words:?}");
        }
        report!("{broken:?}: left: {:?}", names(scene));
        sample.clear(scene);
    }
}

/// The original note would cause a thaw, which shows that the broken ones do not.
#[test]
fn nothing_is_thawed_for_them() {
    let hanging = Hanging::new("runc-1.1.5", true);
    let scene = &hanging.scene;
    let sample = Sample::take(&hanging);
    fs::create_dir_all(sample.path.parent().unwrap()).unwrap();
    fs::write(&sample.path, &sample.text).unwrap();
    scene.freezer().freeze();
    assert!(scene.give(Via::Wrapped, &["exec", "c", "true"]).succeeded(), "not shown");
    assert!(!scene.freezer().is_asked_for());
    assert_eq!(scene.intents(), NOTHING);
    for broken in ALL {
        // A later version's note, and a note with another name, may be valid.
        if matches!(broken, UnknownKeys | OddName | OfInit | OtherCgroup) {
            continue;
        }
        scene.freezer().freeze();
        sample.put(broken, scene);
        for words in [&["update", "--cpu-share", "0", "c"][..], &["exec", "c", "true"]] {
            quickly(scene, words, broken);
            assert!(scene.freezer().is_frozen(), "{broken:?}, {words:?}: thawed");
        }
        scene.freezer().thaw();
        sample.clear(scene);
    }
}

/// With the container, its notes are removed.
#[test]
fn a_delete_takes_them_along() {
    for broken in [Garbage, Empty, OtherBoot, DanglingLink, Fifo] {
        let hanging = Hanging::new("runc-1.1.5", true);
        let scene = &hanging.scene;
        let sample = Sample::take(&hanging);
        sample.put(broken, scene);
        assert_eq!(quickly(scene, &["delete", "--force", "c"], broken), Some(0));
        report!("{broken:?}, after delete: left: {:?}", names(scene));
        assert_eq!(cgroup_dirs(&scene.cgroup()), NOTHING);
        assert_eq!(scene.intents(), NOTHING, "{broken:?}");
    }
}

/// The notes' path is occupied.
#[test]
fn no_note_can_be_made() {
    for as_link in [false, true] {
        let scene = Scene::idle("runc-1.1.5");
        scene.must(Via::Wrapped, &["state", "c"]);
        let place = scene.scratch.state().join("intents");
        let _ = fs::remove_dir_all(&place);
        if as_link {
            symlink(Path::new("/nowhere/at/all"), &place).unwrap();
        } else {
            fs::write(&place, "not a directory").unwrap();
        }
        for words in [
            &["update", "--cpu-share", "0", "c"][..],
            &["exec", "c", "true"],
            &["pause", "c"],
            &["resume", "c"],
            &["delete", "--force", "c"],
        ] {
            assert_eq!(quickly(&scene, words, Garbage), Some(0), "{words:?}");
        }
    }
}

fn names(scene: &Scene) -> Vec<String> {
    let top = scene.scratch.state().join("intents");
    let short = |path: PathBuf| path.strip_prefix(&top).unwrap().display().to_string();
    scene.intents().into_iter().map(short).collect()
}
