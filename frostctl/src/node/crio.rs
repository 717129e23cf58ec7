//! CRI-O's configuration: its files, and the socket and roots that they name.

use std::path::PathBuf;

use toml::Table;

use super::root;

const CONFIG: &str = "/etc/crio/crio.conf";
const DROP_INS: &str = "/etc/crio/crio.conf.d";

/// The socket, if its files do not name one.
const SOCKET: &str = "/run/crio/crio.sock";

/// Where its runtimes keep their state, if its configuration does not say (`RuntimeRoot` of CRI-O,
/// and what its packages set for crun).
const USUAL: [&str; 2] = ["/run/runc", "/run/crun"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Configured {
    pub(crate) socket: PathBuf,
    pub(crate) roots: Vec<PathBuf>,
}

/// In the order in which CRI-O reads them.
pub(crate) fn files() -> Vec<PathBuf> {
    let drop_ins = std::fs::read_dir(DROP_INS).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = drop_ins.map(|it| it.path()).collect();
    files.sort();
    files.insert(0, PathBuf::from(CONFIG));
    files
}

pub(crate) fn configured() -> Configured {
    let texts: Vec<String> = files().iter().filter_map(|it| root::read(it).ok()).collect();
    configured_in(&texts)
}

pub(crate) fn socket() -> PathBuf {
    configured().socket
}

/// Where it looks for hooks, if any of its files names directories.
pub(crate) fn hooks_directories() -> Vec<PathBuf> {
    let texts: Vec<String> = files().iter().filter_map(|it| root::read(it).ok()).collect();
    hooks_directories_in(&texts)
}

/// The last file that names any wins.
fn hooks_directories_in(texts: &[String]) -> Vec<PathBuf> {
    let tables = texts.iter().filter_map(|text| text.parse::<Table>().ok());
    let mut named = tables.filter_map(|table| {
        let all = table.get("crio")?.get("runtime")?.get("hooks_dir")?.as_array()?.clone();
        Some(all.iter().filter_map(|it| it.as_str().map(PathBuf::from)).collect())
    });
    named.next_back().unwrap_or_default()
}

/// The last file that names a socket wins.
fn configured_in(texts: &[String]) -> Configured {
    let tables = texts.iter().filter_map(|text| text.parse::<Table>().ok());
    let mut socket = PathBuf::from(SOCKET);
    let mut roots: Vec<PathBuf> = USUAL.map(PathBuf::from).to_vec();
    for table in tables {
        let crio = table.get("crio");
        let listens = crio.and_then(|it| it.get("api")?.get("listen")?.as_str());
        if let Some(listens) = listens.filter(|it| !it.is_empty()) {
            socket = PathBuf::from(listens);
        }
        let runtimes = crio.and_then(|it| it.get("runtime")?.get("runtimes"));
        let runtimes = runtimes.and_then(toml::Value::as_table).into_iter().flatten();
        let named = runtimes.filter_map(|(_, it)| it.get("runtime_root")?.as_str());
        roots.extend(named.filter(|it| !it.is_empty()).map(PathBuf::from));
    }
    roots.sort();
    roots.dedup();
    Configured { socket, roots }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn its_configuration_names_roots_beside_the_usual_ones_and_its_socket() {
        let main = "[crio.api]\nlisten='/run/a.sock'\n[crio.runtime]\ndefault_runtime='crun'\n\
                    [crio.runtime.runtimes.crun]\nruntime_root='/run/x'\n";
        let drop_in = "[crio.api]\nlisten='/run/b.sock'\n[crio.runtime.runtimes.runc]\n\
                       runtime_root='/run/runc'\n[crio.runtime.runtimes.y]\nruntime_root=''\n";
        let found = configured_in(&[main, drop_in, "[torn"].map(str::to_owned));
        assert_eq!(found.roots, ["/run/crun", "/run/runc", "/run/x"].map(PathBuf::from));
        assert_eq!(found.socket, Path::new("/run/b.sock"));
        let hooks =
            ["[crio.runtime]\nhooks_dir=['/a']", "[crio.runtime]\nhooks_dir=['/b', '/c']", main];
        let found = hooks_directories_in(&hooks.map(str::to_owned));
        assert_eq!(found, ["/b", "/c"].map(PathBuf::from));
        assert_eq!(configured_in(&[]).socket, Path::new(SOCKET));
    }
}
