//! A container's cgroup, init process and bundle as the runtime recorded them.
//!
//! Formats as written by runc 1.1.5 (state.json) and crun 1.8.1 (status, and status.c at 0138c64f), and
//! as read in youki's source (libcontainer/src/config.rs at 2fc14fc8; newer versions nest them).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::places::NAMING_ORDER;
use super::predict::Plan;
use super::{Hierarchies, Identity, Places, Proc, RuntimeKind, Unknown};
use crate::json::{self, Object};

/// What in the process's surroundings decides the default root.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    pub euid: u32,
    pub user_namespace: bool,
    pub xdg_runtime_dir: Option<OsString>,
    pub user: Option<OsString>,
    pub home: Option<OsString>,
}

impl Surroundings {
    pub fn ours(proc: &Proc) -> Surroundings {
        // A user namespace that is the initial one, or mapped one to one, is not a reason to call the
        // caller rootless.
        let map = proc.read("self/uid_map").unwrap_or_default();
        Surroundings {
            euid: nix::unistd::geteuid().as_raw(),
            user_namespace: !map.is_empty() && !map.windows(10).any(|w| w == b"4294967295"),
            xdg_runtime_dir: std::env::var_os("XDG_RUNTIME_DIR"),
            user: std::env::var_os("USER"),
            home: std::env::var_os("HOME"),
        }
    }

    pub fn rootless(&self) -> bool {
        self.euid != 0 || self.user_namespace
    }
}

/// Directories that may hold the containers' state, best first; `root` is the value of `--root`.
pub fn locate(root: Option<&Path>, kind: RuntimeKind, env: &Surroundings) -> Vec<PathBuf> {
    if let Some(root) = root {
        return vec![root.to_path_buf()];
    }
    let xdg = env.xdg_runtime_dir.as_ref().filter(|d| !d.is_empty()).map(PathBuf::from);
    match kind {
        // runc main.go, rootless_linux.go shouldHonorXDGRuntimeDir(): real root ignores the variable,
        // and so does "root" in a user namespace.
        RuntimeKind::Runc => {
            let honours = env.euid != 0
                || env.user_namespace && env.user.as_deref() != Some(OsStr::new("root"));
            vec![xdg.filter(|_| honours).unwrap_or("/run".into()).join("runc")]
        }
        // crun status.c get_run_directory(): the variable wins for everyone.
        RuntimeKind::Crun => vec![xdg.unwrap_or("/run".into()).join("crun")],
        RuntimeKind::Youki if !env.rootless() => vec!["/run/youki".into()],
        // youki determine_root_path(): the first that can be made.
        RuntimeKind::Youki => {
            let home = env.home.as_ref().map(|h| Path::new(h).join(".youki/run"));
            let user = PathBuf::from(format!("/run/user/{}/youki", env.euid));
            let tmp = PathBuf::from(format!("/tmp/youki-{}", env.euid));
            xdg.map(|d| d.join("youki"))
                .into_iter()
                .chain([user])
                .chain(home)
                .chain([tmp])
                .collect()
        }
    }
}

/// What the runtime recorded; each field independently of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeState {
    pub places: Option<Places>,
    /// The runtime has put the container into no cgroup: nothing else explains that there are no places.
    pub has_no_cgroup: bool,
    /// The cgroup of the container, if it is a child of the identity's (crun with systemd).
    pub leaf: Option<Identity>,
    pub init_pid: Option<i32>,
    /// In clock ticks since boot, as in /proc/PID/stat.
    pub init_start: Option<u64>,
    pub bundle: Option<PathBuf>,
}

/// The container's directory: in the first of `roots` that knows it, or else in the first.
pub fn directory(roots: &[PathBuf], id: &OsStr) -> Option<PathBuf> {
    let mut dirs = roots.iter().map(|root| root.join(id));
    dirs.clone().find(|dir| dir.is_dir()).or_else(|| dirs.next())
}

/// Reads the state of `id` from the first of `roots` that knows it.
pub fn read(
    roots: &[PathBuf],
    kind: RuntimeKind,
    id: &OsStr,
    mounts: &Hierarchies,
    proc: &Proc,
) -> Result<RuntimeState, Unknown> {
    if !is_file_name(id) {
        return Err(Unknown::new("not a container id"));
    }
    let dir = directory(roots, id);
    let dir = dir.ok_or_else(|| Unknown::new("no state directory to look in"))?;
    let file = dir.join(if kind == RuntimeKind::Crun { "status" } else { "state.json" });
    let state = json::read_text(&file).map_err(|e| Unknown::file(&file, e))?;
    let youki_config = match kind {
        RuntimeKind::Youki => json::read_text(&dir.join("youki_config.json")).unwrap_or_default(),
        RuntimeKind::Runc | RuntimeKind::Crun => String::new(),
    };
    let texts = Texts { state: &state, youki_config: &youki_config };
    texts.parse(kind, id, mounts, proc).map_err(|e| Unknown::file(&file, e))
}

/// The texts of the files that a runtime keeps for one container.
#[derive(Clone, Copy, Debug)]
pub struct Texts<'a> {
    /// runc's and youki's state.json, crun's status.
    pub state: &'a str,
    /// youki's other file; empty if there is none.
    pub youki_config: &'a str,
}

impl Texts<'_> {
    /// What they say of the container `id`.
    pub fn parse(
        &self,
        kind: RuntimeKind,
        id: &OsStr,
        mounts: &Hierarchies,
        proc: &Proc,
    ) -> Result<RuntimeState, Unknown> {
        let state =
            Object::parse(self.state).map_err(|e| Unknown::because("not a JSON object", e))?;
        Ok(match kind {
            RuntimeKind::Runc => runc(&state, mounts),
            RuntimeKind::Crun => crun(&state, mounts),
            RuntimeKind::Youki => youki(&state, self.youki_config, id, mounts, proc),
        })
    }
}

/// Runtimes allow far fewer characters; this only keeps the path below the root.
fn is_file_name(id: &OsStr) -> bool {
    let bytes = id.as_bytes();
    let odd = bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.len() > 255;
    !odd && !bytes.contains(&b'/') && !bytes.contains(&0)
}

impl RuntimeState {
    pub fn identity(&self) -> Option<&Identity> {
        self.places.as_ref().map(Places::named)
    }
}

fn runc(state: &Object<'_>, mounts: &Hierarchies) -> RuntimeState {
    let labels: Vec<String> =
        state.object("config").and_then(|c| c.get("labels")).unwrap_or_default();
    let paths = state.object("cgroup_paths");
    // Where it may not write (rootless). On v2 runc then works the place out anew (fs2/fs2.go, 1.1).
    let has_none = paths.as_ref().is_some_and(|paths| paths.keys().next().is_none());
    RuntimeState {
        places: paths.and_then(|paths| runc_places(&paths, mounts)),
        has_no_cgroup: has_none && !mounts.unified(),
        leaf: None,
        init_pid: state.get("init_process_pid").filter(|pid| *pid > 0),
        init_start: state.get("init_process_start"),
        bundle: labels.iter().find_map(|l| l.strip_prefix("bundle=")).map(PathBuf::from),
    }
}

/// On a pure v2 host `""` is all there is. On a hybrid one it stands beside the v1 paths and only
/// mirrors them.
fn runc_places(paths: &Object<'_>, mounts: &Hierarchies) -> Option<Places> {
    let known = NAMING_ORDER.into_iter();
    let others = paths.keys().filter(|k| !k.is_empty() && !NAMING_ORDER.contains(k));
    let listed = known.chain(others).chain([""]).filter_map(|controller| {
        let path: PathBuf = paths.get(controller)?;
        let place = path.is_absolute().then(|| mounts.identify(controller, &path))??;
        Some((controller.to_owned(), place))
    });
    let listed: Vec<(String, Identity)> = listed.collect();
    let (_, named) = listed.first()?;
    Some(Places::listed(named.clone(), listed))
}

/// `cgroup-path` is below every hierarchy's mountpoint. With systemd it may continue below the unit
/// (`SCOPE/container`); the container's limits and name belong to the unit.
fn crun(state: &Object<'_>, mounts: &Hierarchies) -> RuntimeState {
    let path: Option<PathBuf> = state.get("cgroup-path");
    // podman's --cgroups=disabled.
    let has_no_cgroup = path.as_ref().is_some_and(|path| path.as_os_str().is_empty());
    let path = path.filter(|_| !has_no_cgroup);
    let whole = path.and_then(|p| Identity::new(mounts.naming_root())?.join(p));
    let scope: String = state.get("scope").unwrap_or_default();
    let unit = whole.as_ref().and_then(|w| {
        let unit = w.as_path().ancestors().find(|a| !scope.is_empty() && a.ends_with(&scope));
        unit.and_then(Identity::new)
    });
    let identity = unit.or_else(|| whole.clone());
    RuntimeState {
        leaf: whole.filter(|w| Some(w) != identity.as_ref()),
        places: identity.map(Places::of),
        has_no_cgroup,
        init_pid: state.get("pid").filter(|pid| *pid > 0),
        // 0 means that the process was gone when the file was written.
        init_start: state.get("process-start-time").filter(|start| *start > 0),
        bundle: state.get("bundle"),
    }
}

/// youki keeps the `cgroupsPath` that it was given, and works the place out anew in every command.
fn youki(
    state: &Object<'_>,
    config: &str,
    id: &OsStr,
    mounts: &Hierarchies,
    proc: &Proc,
) -> RuntimeState {
    let config = Object::parse(config).ok();
    // Newer versions nest it, with the driver beside it.
    let nested = config.as_ref().and_then(|c| c.object("cgroup_config"));
    let path: Option<PathBuf> = match &nested {
        Some(nested) => nested.get("cgroup_path"),
        None => config.as_ref().and_then(|c| c.get("cgroup_path")),
    };
    let systemd = nested.as_ref().and_then(|n| n.get("systemd_cgroup"));
    let systemd = systemd.or_else(|| state.get("useSystemd")).unwrap_or(false);
    let euid = nix::unistd::geteuid().as_raw();
    let plan = Plan {
        kind: RuntimeKind::Youki,
        id,
        systemd,
        cgroups_path: path.as_deref(),
        rootless: (euid != 0).then_some(euid),
    };
    RuntimeState {
        places: path.is_some().then(|| plan.places(mounts, proc).ok()).flatten(),
        has_no_cgroup: false,
        leaf: None,
        init_pid: state.get("pid").filter(|pid| *pid > 0),
        init_start: None,
        bundle: state.get("bundle"),
    }
}
