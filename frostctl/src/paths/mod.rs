//! `frostctl paths`: the cgroups of a container or a pod. For agents, which otherwise build paths
//! that fit only the node on which they were written.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::bail;
use cgroup::read::Version;
use cgroup::{Identity, Membership, Proc};
use serde::Serialize;

use crate::exit::Exit;
use crate::node::hierarchy::{Cgroups, words};
use crate::node::root::Root;
use crate::output::{self, Output};

mod find;

use find::{Found, Query};

/// Print where the cgroups of a container or a pod are, for each controller
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Paths {
    /// A container by (the beginning of) its id, or a pod by NAMESPACE/NAME or uid
    #[arg(value_name = "ID|POD")]
    query: String,

    /// More state directories of runtimes (runc's --root) to look in, beside the usual ones
    #[arg(long, value_name = "DIR")]
    runtime_root: Vec<PathBuf>,
}

const HELP: &str = "\
frostctl looks, in this order, into frostlock's own records, the state of runc, crun and youki below
/run, /proc/PID/cgroup of a container that runs, and the cgroup tree itself. A path is printed only if
it is there. With --json the paths are keyed by controller, the same on v1 and v2: on v2 every key has
the same path, and `unified` is always there.

  frostctl paths --json default/web-0 | jq -r '.[0].paths.cpu'

Exit status:
  0  the paths are printed
  2  the command line is wrong
  3  no container or pod has that name, or several ids begin with it; standard error says which";

/// One container or pod; the keys are stable.
#[derive(Debug, Serialize)]
struct Located {
    kind: &'static str,
    id: String,
    cgroup: String,
    driver: &'static str,
    namespace: Option<String>,
    pod: Option<String>,
    uid: Option<String>,
    container: Option<String>,
    pid: Option<i32>,
    /// The sources that knew it.
    sources: Vec<String>,
    paths: BTreeMap<String, PathBuf>,
}

impl Paths {
    pub(crate) fn run(&self, output: &Output) -> anyhow::Result<Exit> {
        let query = Query::of(&self.query);
        let cgroups = Cgroups::read(&Root::default());
        if let Some(why) = &cgroups.complaint {
            bail!("cannot read /proc/self/mountinfo: {why}");
        }
        let found = find::find(&query, &cgroups, &self.runtime_root);
        let located: Vec<Located> = found.iter().map(|it| Located::of(it, &cgroups)).collect();
        if located.is_empty() {
            bail!(
                "no container or pod `{}`; looked in frostlock's records, in {}, and in the cgroup tree. \
                 Runtimes with a --root of their own: --runtime-root DIR",
                self.query,
                find::roots(&self.runtime_root)
                    .iter()
                    .map(|it| it.display().to_string())
                    .collect::<Vec<_>>()
                    .join(", ")
            );
        }
        if let (Query::Container(_), [_, _, ..]) = (&query, located.as_slice()) {
            let ids: Vec<&str> = located.iter().map(|it| it.id.as_str()).collect();
            bail!("`{}` is the beginning of several ids: {}", self.query, ids.join(", "));
        }
        output.print(&located, |out| {
            for (number, it) in located.iter().enumerate() {
                if number > 0 {
                    writeln!(out)?;
                }
                text(it, out)?;
            }
            Ok(())
        })?;
        Ok(Exit::Clean)
    }
}

fn text(it: &Located, out: &mut dyn std::io::Write) -> std::io::Result<()> {
    let plain = |text: &str| cgroup::text::one_line(text.as_ref(), 1000);
    let pod = match (&it.namespace, &it.pod) {
        (Some(namespace), Some(pod)) => format!(", pod {namespace}/{pod}"),
        _ => String::new(),
    };
    let name = it.container.as_ref().map(|it| format!(" {it}")).unwrap_or_default();
    let pid = it.pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
    let head =
        format!("{} {}{name}{pod}{pid}: {} ({} driver)", it.kind, it.id, it.cgroup, it.driver);
    writeln!(out, "{}", plain(&head))?;
    let mut table = output::table(["CONTROLLER", "PATH"]);
    for (controller, path) in &it.paths {
        table.add_row([plain(controller), plain(&path.to_string_lossy())]);
    }
    writeln!(out, "{}", output::fitted(&mut table))
}

impl Located {
    fn of(found: &Found, cgroups: &Cgroups) -> Located {
        let path = found.cgroup.as_path();
        let is_unit = path.extension().is_some_and(|it| it == "scope" || it == "slice");
        Located {
            kind: if found.is_pod { "pod" } else { "container" },
            id: found.id.clone(),
            cgroup: found.cgroup.to_string(),
            driver: if is_unit { "systemd" } else { "cgroupfs" },
            namespace: found.pod.namespace.clone(),
            pod: found.pod.name.clone(),
            uid: found.pod.uid.clone(),
            container: found.pod.container.clone().filter(|_| !found.is_pod),
            pid: found.pid,
            sources: found.sources.iter().cloned().collect(),
            paths: directories(found, cgroups),
        }
    }
}

/// As in /proc/PID/cgroup for a running container: its path may differ between hierarchies.
fn directories(found: &Found, cgroups: &Cgroups) -> BTreeMap<String, PathBuf> {
    let pid = found.pid.filter(|_| !found.is_pod);
    let member = pid.and_then(|pid| Membership::of(&Proc::default(), &pid.to_string()).ok());
    let mut paths = BTreeMap::new();
    for hierarchy in &cgroups.all {
        let key = match hierarchy.version {
            Version::V1 => hierarchy.controllers.first().map_or("", String::as_str),
            Version::V2 => "",
        };
        let actual =
            member.as_ref().and_then(|it| it.path(key)).filter(|it| !it.starts_with("/.."));
        let actual = actual.and_then(Identity::new).filter(|it| !it.is_root());
        let dir = hierarchy.dir(actual.as_ref().unwrap_or(&found.cgroup)).filter(|it| it.is_dir());
        let Some(dir) = dir else { continue };
        match hierarchy.version {
            Version::V1 => {
                for controller in &hierarchy.controllers {
                    paths.insert(controller.clone(), dir.clone());
                }
            }
            Version::V2 => {
                for controller in words(&dir.join("cgroup.controllers")) {
                    paths.entry(controller).or_insert_with(|| dir.clone());
                }
                // On a hybrid host with a v1 freezer, the runtimes do not use this one.
                if cgroups.mounts.unified() || cgroups.mounts.v1("freezer").is_none() {
                    paths.insert("freezer".to_owned(), dir.clone());
                }
                paths.insert("unified".to_owned(), dir);
            }
        }
    }
    paths
}
