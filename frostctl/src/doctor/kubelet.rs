//! kubelet's cgroup settings: from its configuration, and from its flags, which take precedence.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use yaml_rust2::{Yaml, YamlLoader};

use crate::node::hierarchy::Hierarchy;
use crate::node::processes::{Running, flag};
use crate::node::root::Root;
use crate::node::tree::Driver;

/// On v2 kubelet needs these in `cgroup.controllers`, if the root has them.
const ON_V2: &[&str] = &["cpu", "cpuset", "memory", "pids", "hugetlb"];

pub(crate) fn wanted_v2(hierarchy: &Hierarchy) -> Vec<String> {
    let wanted = ON_V2.iter().filter(|it| hierarchy.has(it));
    wanted.map(|it| (*it).to_owned()).collect()
}

/// The first is kubeadm's and most others'; k3s, rke2 and k0s have their own.
const CONFIGS: &[&str] = &[
    "/var/lib/kubelet/config.yaml",
    "/var/lib/rancher/k3s/agent/etc/kubelet.conf.d/00-k3s-defaults.conf",
    "/var/lib/rancher/rke2/agent/etc/kubelet.conf.d/00-rke2-defaults.conf",
    "/var/lib/k0s/kubelet-config.yaml",
];

/// microk8s keeps the flags in a file, one per line.
const FLAGS: &str = "/var/snap/microk8s/current/args/kubelet";

/// A value, and the file or process that it comes from.
#[derive(Debug, Clone)]
pub(crate) struct Said<T> {
    pub(crate) value: T,
    pub(crate) by: PathBuf,
}

#[derive(Debug, Default)]
pub(crate) struct Kubelet {
    /// Where its configuration or its flags were found; `None`: this is no Kubernetes node.
    pub(crate) config: Option<PathBuf>,
    pub(crate) pid: Option<i32>,
    pub(crate) complaint: Option<String>,
    /// The file that it reads but that cannot be seen from here.
    pub(crate) unseen: Option<PathBuf>,
    pub(crate) driver: Option<Said<Driver>>,
    pub(crate) cgroup_root: Option<String>,
    /// The socket of its engine, if it was told one.
    endpoint: Option<PathBuf>,
    pub(crate) per_qos: Option<Said<bool>>,
    /// The uids of the pods that have a directory; `None` if those cannot be read.
    pub(crate) pods: Option<BTreeSet<String>>,
}

impl Kubelet {
    pub(crate) fn is_expected(&self) -> bool {
        self.config.is_some() || self.pid.is_some()
    }

    /// Whether it uses CRI-O. A containerd on the same node, like dockerd's, then has no pods.
    pub(crate) fn uses_crio(&self) -> bool {
        self.endpoint.as_ref().is_some_and(|it| it.ends_with("crio.sock"))
    }

    /// With `cgroupsPerQOS: false` kubelet neither makes a root for all pods nor looks for one.
    pub(crate) fn has_no_root(&self) -> bool {
        self.per_qos.as_ref().is_some_and(|said| !said.value)
    }

    pub(crate) fn read(node: &Root, running: &[Running]) -> Kubelet {
        let process = running.iter().find(|it| it.is_kubelet());
        let mut args = process.map(|it| it.args.clone()).unwrap_or_default();
        let mut kubelet = Kubelet { pid: process.map(|it| it.pid), ..Kubelet::default() };
        let mut by = process.map(|it| PathBuf::from(format!("/proc/{}/cmdline", it.pid)));
        if let Ok(flags) = node.read(FLAGS) {
            args.extend(flags.split_whitespace().map(str::to_owned));
            (by, kubelet.config) = (Some(FLAGS.into()), Some(FLAGS.into()));
        }
        let named = flag(&args, "config").filter(|it| it.starts_with('/')).map(PathBuf::from);
        let is_its_own = process.is_some_and(|it| it.comm == "kubelet");
        let is_here = process.is_none_or(|it| it.is_here);
        if !is_here && is_its_own {
            kubelet.unseen = named.clone().filter(|it| !node.is_there(it));
        }
        let named = named.filter(|it| node.is_there(it) || (is_its_own && is_here));
        let usual = || CONFIGS.iter().map(PathBuf::from).find(|path| node.is_there(path));
        if let Some(path) = named.or_else(usual) {
            kubelet.read_config(node, &path);
            kubelet.config = Some(path);
        }
        kubelet.read_flags(&args, &by.unwrap_or_default());
        let root = flag(&args, "root-dir").unwrap_or_else(|| "/var/lib/kubelet".to_owned());
        kubelet.pods = pods(node, &Path::new(&root).join("pods"));
        kubelet
    }

    fn read_config(&mut self, node: &Root, path: &Path) {
        let config = match configuration(node, path) {
            Ok(config) => config,
            Err(why) => {
                self.complaint = Some(why);
                return;
            }
        };
        let by = path.to_owned();
        let driver = config["cgroupDriver"].as_str().and_then(driver_of);
        self.driver = driver.map(|value| Said { value, by: by.clone() });
        self.cgroup_root = config["cgroupRoot"].as_str().map(str::to_owned);
        self.endpoint = config["containerRuntimeEndpoint"].as_str().map(PathBuf::from);
        self.per_qos = config["cgroupsPerQOS"].as_bool().map(|value| Said { value, by });
    }

    fn read_flags(&mut self, args: &[String], by: &Path) {
        let by = by.to_owned();
        if let Some(value) = flag(args, "cgroup-driver").as_deref().and_then(driver_of) {
            self.driver = Some(Said { value, by: by.clone() });
        }
        if let Some(root) = flag(args, "cgroup-root") {
            self.cgroup_root = Some(root);
        }
        if let Some(endpoint) = flag(args, "container-runtime-endpoint") {
            self.endpoint = Some(endpoint.into());
        }
        if let Some(value) = flag(args, "cgroups-per-qos").and_then(|it| it.parse().ok()) {
            self.per_qos = Some(Said { value, by });
        }
    }
}

fn configuration(node: &Root, path: &Path) -> Result<Yaml, String> {
    let text = node.read(path).map_err(|error| error.to_string())?;
    // JSON is also YAML.
    let documents = YamlLoader::load_from_str(&text).map_err(|error| error.to_string())?;
    let config = documents.into_iter().find(|it| it.as_hash().is_some());
    config.ok_or_else(|| "it holds no KubeletConfiguration".to_owned())
}

fn driver_of(name: &str) -> Option<Driver> {
    Driver::from_str(name, false).ok()
}

fn pods(node: &Root, directory: &Path) -> Option<BTreeSet<String>> {
    let entries = std::fs::read_dir(node.path(directory)).ok()?.flatten();
    Some(entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}
