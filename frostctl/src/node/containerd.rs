//! The runtimes in containerd's configuration.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use toml::Table;
use tonic::transport::Channel;

use super::processes::{self, Running, values};
use super::root::Root;
use super::tree::Driver;
use crate::loaded::{self, Handler, Options};

/// The file that it reads if its command line names none.
pub(crate) const PLAIN: &str = "/etc/containerd/config.toml";

/// Of containerd itself, of microk8s, k3s, rke2 and k0s.
const CONFIGS: &[&str] = &[
    PLAIN,
    "/var/snap/microk8s/current/args/containerd.toml",
    "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
    "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
    "/etc/k0s/containerd.toml",
];

/// The default socket.
pub(crate) const SOCKET: &str = "/run/containerd/containerd.sock";

/// The sockets of the distributions' containerds.
pub(crate) const SOCKETS: [&str; 5] = [
    "/run/containerd/containerd.sock",
    "/run/docker/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/k0s/containerd.sock",
    "/var/snap/microk8s/common/run/containerd.sock",
];

/// The plugin that has the runtimes: from version 3 of the configuration on, and in version 2.
const PLUGINS: &[&str] = &["io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"];

/// The plugin that has the socket from version 4 of the configuration on; before, the table `grpc`.
pub(crate) const LISTENER: &str = "io.containerd.server.v1.grpc";

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) binary: Option<PathBuf>,
    pub(crate) systemd: Option<bool>,
    pub(crate) options: Options,
    pub(crate) is_default: bool,
    pub(crate) file: PathBuf,
}

impl Entry {
    pub(crate) fn driver(&self) -> Driver {
        if self.systemd == Some(true) { Driver::Systemd } else { Driver::Cgroupfs }
    }

    /// The spec from which its containers begin, with hooks perhaps.
    pub(crate) fn base_spec(&self, node: &Root) -> Option<PathBuf> {
        let table: Table = node.read(&self.file).ok()?.parse().ok()?;
        let plugins = table.get("plugins")?;
        let runtime =
            |cri: &&str| plugins.get(*cri)?.get("containerd")?.get("runtimes")?.get(&self.name);
        let spec = PLUGINS.iter().find_map(|cri| runtime(cri)?.get("base_runtime_spec")?.as_str());
        spec.filter(|it| !it.is_empty()).map(PathBuf::from)
    }
}

#[derive(Debug)]
pub(crate) struct Containerd {
    /// The file that it reads; if the file does not exist, the defaults hold.
    pub(crate) config: PathBuf,
    pub(crate) running: Option<Running>,
    pub(crate) socket: PathBuf,
    pub(crate) entries: Vec<Entry>,
    pub(crate) complaints: Vec<(PathBuf, String)>,
}

/// The file that the command line names, or the default one.
pub(crate) fn config_of(args: &[String]) -> PathBuf {
    values(args, &["--config", "-config", "-c"]).last().unwrap_or(PLAIN).into()
}

/// The socket that the command line names; it takes precedence over the file.
pub(crate) fn address_of(args: &[String]) -> Option<PathBuf> {
    values(args, &["--address", "-address", "-a"]).last().map(PathBuf::from)
}

/// Connects to containerd's own API. tonic repeats the cause at each step of its chain: the last is
/// enough.
pub(crate) async fn connect(socket: &Path) -> anyhow::Result<Channel> {
    let connected = containerd_client::connect(socket).await.map_err(anyhow::Error::from);
    connected.map_err(|error| anyhow!("{}", error.root_cause()))
}

pub(crate) fn read(node: &Root, running: &[Running]) -> Vec<Containerd> {
    let of_process = |it: &Running| {
        let config = config_of(&it.args);
        // A containerd whose files cannot be seen from here may have any configuration.
        let is_seen = it.is_here || node.is_there(&config);
        is_seen.then(|| Containerd::read(node, config, Some(it.clone())))
    };
    let processes = running.iter().filter(|it| it.comm == "containerd");
    let mut all: Vec<Containerd> = processes.filter_map(of_process).collect();
    for path in CONFIGS.iter().map(PathBuf::from) {
        if node.is_there(&path) && !all.iter().any(|it| it.config == path) {
            all.push(Containerd::read(node, path, None));
        }
    }
    all
}

/// The sockets of this node's running containerds.
pub(crate) fn listening() -> Vec<PathBuf> {
    let node = Root::default();
    let all = read(&node, &processes::read(&node)).into_iter();
    all.filter(|it| it.running.as_ref().is_some_and(|it| it.is_here)).map(|it| it.socket).collect()
}

impl Containerd {
    fn read(node: &Root, config: PathBuf, running: Option<Running>) -> Containerd {
        let (entries, complaints) = (Vec::new(), Vec::new());
        let mut it = Containerd { config, running, socket: SOCKET.into(), entries, complaints };
        if node.is_there(&it.config) {
            it.read_files(node);
        }
        let args = it.running.as_ref().map_or(&[][..], |it| &it.args);
        if let Some(told) = address_of(args) {
            it.socket = told;
        }
        // containerd's own default, if nothing else is configured.
        if it.entries.is_empty() && it.complaints.is_empty() {
            let (name, file) = ("runc".to_owned(), it.config.clone());
            let (systemd, options) = (None, Options::new());
            it.entries.push(Entry { name, binary: None, systemd, options, is_default: true, file });
        }
        it
    }

    /// As its files say; only containerd knows what it has loaded.
    pub(crate) fn handlers(&self) -> Vec<Handler> {
        let handler = |it: &Entry| Handler {
            name: it.name.clone(),
            binary: it.binary.clone(),
            options: it.options.clone(),
            is_default: it.is_default,
        };
        self.entries.iter().map(handler).collect()
    }

    /// Like containerd: imported files are merged over all that was read before, and no file is
    /// read twice.
    fn read_files(&mut self, node: &Root) {
        let mut files = vec![self.config.clone()];
        let mut default = "runc".to_owned();
        let mut at = 0;
        while let Some(file) = files.get(at).cloned() {
            for import in self.read_file(node, &file, &mut default) {
                if !files.contains(&import) {
                    files.push(import);
                }
            }
            at += 1;
        }
        self.entries.iter_mut().for_each(|it| it.is_default = it.name == default);
    }

    /// Returns its imports.
    fn read_file(&mut self, node: &Root, path: &Path, default: &mut String) -> Vec<PathBuf> {
        let table = node.read(path).map_err(|error| error.to_string());
        let table =
            table.and_then(|text| text.parse::<Table>().map_err(|it| it.message().to_owned()));
        let table = match table {
            Ok(table) => table,
            Err(why) => {
                self.complaints.push((path.to_owned(), why));
                return Vec::new();
            }
        };
        let plugin = |name| table.get("plugins").and_then(|it| it.get(name));
        let listeners = [table.get("grpc"), plugin(LISTENER)].into_iter().flatten();
        let address = listeners.filter_map(|it| it.get("address")).next_back();
        if let Some(address) = address.and_then(toml::Value::as_str).filter(|it| !it.is_empty()) {
            self.socket = address.into();
        }
        for cri in PLUGINS.iter().filter_map(|name| plugin(name)) {
            if let Some(containerd) = cri.get("containerd") {
                let named = containerd.get("default_runtime_name").and_then(toml::Value::as_str);
                named.into_iter().for_each(|named| named.clone_into(default));
                self.read_runtimes(containerd, path);
            }
        }
        let imports = table.get("imports").and_then(toml::Value::as_array).into_iter().flatten();
        imports.filter_map(toml::Value::as_str).flat_map(|it| imported(node, path, it)).collect()
    }

    fn read_runtimes(&mut self, containerd: &toml::Value, file: &Path) {
        let runtimes = containerd.get("runtimes").and_then(toml::Value::as_table);
        for (name, runtime) in runtimes.into_iter().flatten() {
            let options = runtime.get("options");
            let binary = options.and_then(|it| it.get("BinaryName")).and_then(toml::Value::as_str);
            let systemd = options.and_then(|it| it.get("SystemdCgroup"));
            let said = options.and_then(|it| serde_json::to_value(it).ok()).unwrap_or_default();
            // An imported file is merged over what was read before it.
            self.entries.retain(|it| it.name != *name);
            self.entries.push(Entry {
                name: name.clone(),
                binary: binary.filter(|it| !it.is_empty()).map(PathBuf::from),
                systemd: systemd.and_then(toml::Value::as_bool),
                options: loaded::options(&said),
                is_default: false,
                file: file.to_owned(),
            });
        }
    }
}

/// A name, or a pattern with `*` in its last part, like `conf.d/*.toml`.
fn imported(node: &Root, from: &Path, import: &str) -> Vec<PathBuf> {
    let path = from.parent().unwrap_or(Path::new("/")).join(import);
    let (directory, pattern) = (path.parent(), path.file_name().and_then(|it| it.to_str()));
    let (Some(directory), Some(pattern)) = (directory, pattern) else { return Vec::new() };
    let Some((begin, end)) = pattern.split_once('*') else { return vec![path] };
    let entries = std::fs::read_dir(node.path(directory)).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> =
        names.filter(|it| it.starts_with(begin) && it.ends_with(end)).collect();
    names.sort();
    names.into_iter().map(|name| directory.join(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_where_its_version_has_it() {
        let scratch = tempfile::tempdir().unwrap();
        let node = Root::at(Some(scratch.path().to_owned()));
        let file = scratch.path().join("config.toml");
        for (text, socket) in [
            ("version = 3\n", SOCKET),
            ("version = 3\n[grpc]\naddress = '/x'\n", "/x"),
            ("version = 4\n[plugins.'io.containerd.server.v1.grpc']\naddress = '/y'\n", "/y"),
        ] {
            std::fs::write(&file, text).unwrap();
            let read = Containerd::read(&node, "/config.toml".into(), None);
            assert_eq!(read.socket, Path::new(socket), "{text}");
        }
    }

    #[test]
    fn an_import_wins_and_so_does_what_it_imports() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("etc/containerd");
        std::fs::create_dir_all(&directory).unwrap();
        let table = "[plugins.'io.containerd.grpc.v1.cri'.containerd";
        for (name, import, program) in
            [("config.toml", "a.toml", "/main"), ("a.toml", "*.toml", "/a"), ("b.toml", "", "/b")]
        {
            let text = format!(
                "imports = ['{import}']\n{table}]\ndefault_runtime_name = '{name}'\n\
                 {table}.runtimes.x.options]\nBinaryName = '{program}'\n\
                 {table}.runtimes.'{name}'.options]\nSystemdCgroup = true\n"
            );
            std::fs::write(directory.join(name), text).unwrap();
        }
        let node = Root::at(Some(scratch.path().to_owned()));
        let read = Containerd::read(&node, CONFIGS[0].into(), None);
        let x = read.entries.iter().find(|it| it.name == "x").unwrap();
        assert_eq!(x.binary.as_deref(), Some(Path::new("/b")));
        let default = read.entries.iter().find(|it| it.is_default).unwrap();
        assert_eq!(default.name, "b.toml");
    }
}
