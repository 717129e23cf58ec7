//! Which engines have a runtime that is frostlock, in their files and in the process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::docker;
use super::facts::{Engine, Entries, Handler, Loaded};
use crate::configure::distribution::is_template;
use crate::configure::edit::{is_named_ours, is_ours};
use crate::configure::engine::Engine as Kind;
use crate::configure::layout::Layout;
use crate::configure::record::Record;
use crate::configure::{file, podman, toml_file};
use crate::loaded::{self, Owed, Unasked};
use crate::node;
use crate::node::containerd::{self, Containerd};
use crate::node::processes::{self, Running};
use crate::node::root::Root;

/// The engines as their files describe them, and what their processes have loaded.
pub(super) fn read(running: &[Running]) -> Vec<Engine> {
    let containerds = containerd::read(&Root::default(), running);
    // A hand-made configuration without a record may be in another file than the recorded ones.
    let mut records = Vec::new();
    let mut unread = Vec::new();
    match Record::all() {
        Ok(all) => records = all,
        Err(error) => unread.push(format!("{error:#}")),
    }
    let is_seen = processes::is_on_the_node(running);
    let mut engines: Vec<Engine> =
        containerds.iter().map(|it| of_containerd(it, is_seen)).collect();
    let known = |path: &Path| {
        let entries = containerds.iter().flat_map(|it| &it.entries).map(|it| &it.file);
        containerds.iter().map(|it| &it.config).chain(entries).any(|it| it == path)
    };
    let is_made_from = |path: &Path| {
        is_template(path) && containerds.iter().any(|it| it.config.parent() == path.parent())
    };
    let is_read = |path: &Path| known(path) || is_made_from(path);
    let others = records.iter().filter(|it| it.engine == Kind::Containerd && !is_read(&it.path));
    engines.extend(others.map(|it| {
        let loaded = Loaded::NotChecked(format!("no containerd runs with {}", it.path.display()));
        of_files(Kind::Containerd, vec![it.path.clone()], loaded)
    }));
    for kind in [Kind::Docker, Kind::Crio, Kind::Podman] {
        let mut paths = files(kind);
        let more = records.iter().filter(|it| it.engine == kind).map(|it| it.path.clone());
        paths.extend(more.filter(|it| !files(kind).contains(it)));
        let mut engine = of_files(kind, paths, Loaded::EachTime);
        engine.loaded = ask(kind, &engine);
        if engine.handlers.is_empty() && matches!(engine.loaded, Loaded::Otherwise(_)) {
            engine.reload = kind.forget().map(str::to_owned);
        }
        engines.push(engine);
    }
    if let Some(first) = engines.first_mut() {
        first.unread.extend(unread);
    }
    engines
}

/// In the order in which the engine reads them.
fn files(kind: Kind) -> Vec<PathBuf> {
    let (main, drop_ins): (&[&str], _) = match kind {
        Kind::Crio => return node::crio::files(),
        Kind::Containerd => (&[containerd::PLAIN], None),
        Kind::Docker => (&["/etc/docker/daemon.json"], None),
        Kind::Podman => (&podman::FILES, Some(podman::DROP_INS)),
    };
    let entries = drop_ins.into_iter().flat_map(std::fs::read_dir).flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    found.sort();
    main.iter().map(PathBuf::from).chain(found).collect()
}

fn of_containerd(it: &Containerd, is_seen: bool) -> Engine {
    let ours = it.entries.iter().filter_map(|entry| {
        let binary = entry.binary.clone().filter(|it| is_ours(it))?;
        let (name, is_default) = (entry.name.clone(), entry.is_default);
        Some((entry.file.clone(), Handler { name, binary, is_default }))
    });
    let (files, handlers): (Vec<PathBuf>, Vec<Handler>) = ours.unzip();
    let complaint = |(path, why): &(PathBuf, String)| format!("{}: {why}", path.display());
    let reload = match it.config == Path::new(containerd::PLAIN) {
        true => Kind::Containerd.reload().map(str::to_owned),
        false => Some(format!("restart the containerd that reads {}", it.config.display())),
    };
    Engine {
        name: Kind::Containerd.name(),
        file: files.into_iter().next().unwrap_or_else(|| it.config.clone()),
        handlers,
        unread: it.complaints.iter().map(complaint).collect(),
        loaded: containerd_loaded(it, is_seen),
        reload,
        wrong: None,
    }
}

fn containerd_loaded(it: &Containerd, is_seen: bool) -> Loaded {
    if it.running.is_none() {
        return match is_seen {
            true => Loaded::NotRunning,
            false => Loaded::NotChecked("the processes of the node are not visible".to_owned()),
        };
    }
    let has = match loaded::ask(&it.socket) {
        Ok(has) => has,
        Err(Unasked::NoCri) => return Loaded::NoCri,
        Err(why) => return Loaded::NotChecked(why.to_string()),
    };
    if !it.complaints.is_empty() {
        return Loaded::NotChecked(
            "its files cannot be read, so there is nothing to compare".into(),
        );
    }
    owed(&it.handlers(), &has)
}

fn owed(configured: &[loaded::Handler], has: &[loaded::Handler]) -> Loaded {
    let owed = loaded::owed(configured, has, |it| is_ours(it));
    Loaded::unless(owed.iter().map(Owed::to_string))
}

/// The last file that names a runtime wins.
fn of_files(kind: Kind, paths: Vec<PathBuf>, loaded: Loaded) -> Engine {
    let mut engine = Engine {
        name: kind.name(),
        file: paths.last().cloned().unwrap_or_default(),
        handlers: Vec::new(),
        unread: Vec::new(),
        loaded,
        reload: kind.reload().map(str::to_owned),
        wrong: None,
    };
    let mut default: Option<String> = None;
    for path in paths {
        match entries(kind, &path) {
            Ok((all, named)) => {
                default = named.or(default);
                for (name, binary) in all {
                    engine.handlers.retain(|it| it.name != name);
                    if is_ours(&binary) {
                        engine.file.clone_from(&path);
                        let binary = binary.into();
                        engine.handlers.push(Handler { name, binary, is_default: false });
                    }
                }
            }
            Err(error) => engine.unread.push(format!("{}: {error:#}", path.display())),
        }
    }
    // dockerd has built-in runtimes, runc and shims by their names.
    let leads_nowhere = |it: &&String| {
        kind == Kind::Docker
            && is_named_ours(Path::new(it))
            && !engine.handlers.iter().any(|handler| handler.name == **it)
    };
    engine.wrong = default.as_ref().filter(leads_nowhere).map(|it| {
        format!(
            "the default runtime {it} is none of those in {}: dockerd does not start",
            engine.file.display()
        )
    });
    for handler in &mut engine.handlers {
        handler.is_default = default.as_ref() == Some(&handler.name);
    }
    engine
}

fn entries(kind: Kind, path: &Path) -> anyhow::Result<Entries> {
    let Some(text) = file::read(path)? else { return Ok(Entries::default()) };
    if kind == Kind::Docker {
        return docker::entries(&text);
    }
    let document = toml_file::parse(&text)?;
    let layout = Layout::of(kind, &document)?;
    let program = |name: &String| {
        let entry = layout.entry(&document, name)?;
        Some((name.clone(), layout.binary_of(entry)?.to_owned()))
    };
    let all = layout.names(&document).iter().filter_map(program).collect();
    Ok((all, layout.default_of(&document).map(str::to_owned)))
}

fn ask(kind: Kind, engine: &Engine) -> Loaded {
    match kind {
        // An engine with nothing of ours is not worth a wait.
        _ if engine.handlers.is_empty() && kind != Kind::Docker => Loaded::EachTime,
        // dockerd keeps a default that its file no longer has.
        Kind::Docker => docker::loaded(&engine.handlers),
        Kind::Crio => crio(&node::crio::socket(), &engine.handlers),
        Kind::Containerd | Kind::Podman => Loaded::EachTime,
    }
}

fn crio(socket: &Path, handlers: &[Handler]) -> Loaded {
    if !socket.exists() {
        return Loaded::NotRunning;
    }
    match loaded::ask(socket) {
        Ok(has) => crio_owed(handlers, &has),
        Err(Unasked::Untold(names)) => by_name(&names, handlers),
        Err(why) => Loaded::NotChecked(why.to_string()),
    }
}

fn crio_owed(handlers: &[Handler], has: &[loaded::Handler]) -> Loaded {
    let handler = |it: &Handler| loaded::Handler {
        name: it.name.clone(),
        binary: Some(it.binary.clone()),
        is_default: it.is_default,
        // CRI-O's runtimes have no such options.
        options: BTreeMap::new(),
    };
    owed(&handlers.iter().map(handler).collect::<Vec<_>>(), has)
}

/// For an engine that does not report its configuration: CRI itself reports only the names.
fn by_name(has: &[String], handlers: &[Handler]) -> Loaded {
    if has.is_empty() {
        return Loaded::NotChecked(
            "this CRI-O does not tell its handlers (before 1.30)".to_owned(),
        );
    }
    let missing = handlers.iter().filter(|it| !has.contains(&it.name));
    Loaded::unless(missing.map(|it| format!("it has no runtime {} yet", it.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_of_ours_that_docker_has_no_more_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("daemon.json");
        let of = |text: &str| {
            std::fs::write(&file, text).unwrap();
            of_files(Kind::Docker, vec![file.clone()], Loaded::EachTime)
        };
        let left = of(r#"{"default-runtime": "frostlock"}"#);
        assert!(left.wrong.unwrap().contains("dockerd does not start"));
        // The last one belongs to somebody else, who may have set it on dockerd's command line.
        for fine in [
            r#"{"default-runtime": "frostlock", "runtimes": {"frostlock": {"path": "/x/frostlock"}}}"#,
            r#"{"default-runtime": "runc"}"#,
            r#"{"default-runtime": "nvidia"}"#,
        ] {
            assert_eq!(of(fine).wrong, None, "{fine}");
        }
    }
}
