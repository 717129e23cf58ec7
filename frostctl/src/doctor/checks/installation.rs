use std::path::Path;

use super::super::finding::Finding;
use super::super::node::Node;
use super::super::ours::Broken;
use crate::configure::Drift;
use crate::configure::edit::is_named_ours;
use crate::loaded::Owed;
use crate::node::containerd::Entry;

pub(super) fn check(node: &Node) -> Vec<Finding> {
    let ours = &node.ours;
    let is_used = !ours.entries.is_empty();
    let mut findings = Vec::new();
    for complaint in &ours.complaints {
        findings.push(
            Finding::warning("frostlock's configuration has a mistake")
                .seen(&ours.config, complaint)
                .so("the default holds instead")
                .remedy("mend the line; deploy/config.toml has every key with its range"),
        );
    }
    findings.extend(ours.broken.iter().map(|(entry, why)| broken(entry, why)));
    findings
        .extend(ours.other_versions.iter().map(|(file, it)| other_version(file, it.as_deref())));
    findings.extend(ours.owed.iter().flat_map(|(socket, it)| restart(node, socket, it)));
    findings.extend(drifts(&ours.drifts));
    if let Err(why) = &ours.runtime {
        let finding = if is_used {
            Finding::error("frostlock finds no runtime")
        } else {
            Finding::warning("frostlock finds no runtime")
        };
        findings.push(
            finding.seen(&ours.config, why).so("no container can be made through it").remedy(
                "install runc or crun, or name it in the configuration: runtime = \"/path\"",
            ),
        );
    }
    if let Some(why) = &ours.state_complaint {
        findings.push(
            Finding::error("frostlock cannot use its state directory")
                .seen(ours.state.path(), why)
                .so("it runs every command without lock and record: freezes fail as without it")
                .remedy(format!("chown root {0} && chmod 0700 {0}", ours.state.path().display())),
        );
    }
    if let (Some(why), None) = (&ours.no_room, &ours.state_complaint) {
        findings.push(
            Finding::error(why.what())
                .seen(ours.state.path(), why.seen())
                .so("operations go on without lock, note and record: freezes fail as without frostlock, \
                     what they leave is not undone, and nothing is lifted, as no note can be written")
                .remedy(why.remedy(ours.state.path())),
        );
    }
    if ours.is_off {
        findings.push(
            Finding::warning("frostlock is switched off")
                .seen(ours.state.kill_switch(), "is there")
                .so("every command runs the bare runtime")
                .remedy(format!("rm {}", ours.state.kill_switch().display())),
        );
    }
    if ours.wants_syslog && !ours.has_syslog {
        findings.push(
            Finding::note("there is no syslog to write to")
                .seen("/dev/log", "no socket")
                .so("operations are in the journal alone")
                .remedy("start a syslog daemon or journald, or set [log] syslog = false"),
        );
    }
    findings.extend(in_the_way(node));
    findings
}

/// A copy does not follow its original by itself.
fn drifts(drifts: &anyhow::Result<Vec<Drift>>) -> Vec<Finding> {
    let drifts = match drifts {
        Ok(drifts) => drifts,
        Err(error) => {
            return vec![
                Finding::not_checked(
                    "frostlock's entries were not compared with those that they wrap",
                )
                .seen("frostctl's records", format!("{error:#}"))
                .remedy("run it as root"),
            ];
        }
    };
    let finding = |it: &Drift| {
        let what =
            format!("the runtime {} no longer matches {}, which it wraps", it.name, it.wrapped);
        Finding::warning(what)
            .seen(&it.file, &it.what)
            .so("its containers run with other options than they would without frostlock")
            .remedy(format!(
                "frostctl configure --runtime {} --name {} --restart",
                it.engine.name(),
                it.name
            ))
    };
    drifts.iter().map(finding).collect()
}

fn broken(entry: &Entry, why: &Broken) -> Finding {
    let (name, binary) = (&entry.name, entry.binary.clone().unwrap_or_default());
    let (what, seen, remedy) = match why {
        Broken::Missing => (
            format!("the program of containerd's runtime {name} is not there"),
            (binary.clone(), "no such file"),
            "install it there again, or take the entry out (frostctl unconfigure, if it was frostlock) and \
             restart containerd"
                .to_owned(),
        ),
        Broken::NotExecutable(file) => (
            format!("the program of containerd's runtime {name} is not executable"),
            (file.clone(), "no permission to execute it"),
            format!("chmod 0755 {}", file.display()),
        ),
    };
    // microk8s and others configure runtimes that an addon installs: an error there would never go
    // away.
    let is_used = entry.is_default || [Path::new(name), &binary].into_iter().any(is_named_ours);
    let finding = if is_used { Finding::error } else { Finding::note };
    finding(what)
        .seen(&entry.file, format!("BinaryName = {:?}", binary.display().to_string()))
        .seen(seen.0, seen.1)
        .so("no pod of it starts, and those that run cannot be stopped")
        .remedy(remedy)
}

fn other_version(file: &Path, version: Option<&str>) -> Finding {
    let own = env!("CARGO_PKG_VERSION");
    let is =
        version.map_or_else(|| "an older version, which does not say which".into(), str::to_owned);
    Finding::warning(format!("frostlock is not of frostctl's version, {own}"))
        .seen(file, format!("frostlock {is}"))
        .so("one of the two may not know what the other writes: configuration, state files, records")
        .remedy("install both from one release; containers that run are not touched by it")
}

/// The file and the process of one containerd.
fn restart(node: &Node, socket: &Path, owed: &Result<Vec<Owed>, String>) -> Vec<Finding> {
    let owed = match owed {
        Ok(owed) => owed,
        Err(why) => {
            let what = "whether containerd has loaded its configuration was not checked";
            return vec![Finding::not_checked(what).seen(socket, why).remedy(
                    "run doctor as root, and see that containerd runs and answers: systemctl status containerd",
                )];
        }
    };
    let file = node.containerds.iter().find(|it| it.socket == socket);
    let file = file.map(|it| it.config.clone()).unwrap_or_default();
    owed.iter().map(|it| owes(it, &file, socket)).collect()
}

fn owes(owed: &Owed, file: &Path, socket: &Path) -> Finding {
    let program = |it: &Option<std::path::PathBuf>| {
        it.as_ref().map_or_else(|| "runc".to_owned(), |it| it.display().to_string())
    };
    let (what, configured, loaded, so) = match owed {
        Owed::NotLoaded(name) => (
            format!("runtime {name} is configured, and containerd has not loaded it"),
            format!("has runtimes.{name}"),
            format!("has no {name}"),
            "pods of its runtime class do not start: no runtime for it is configured",
        ),
        Owed::StillLoaded(name) => (
            format!(
                "runtime {name} is no longer frostlock in the file, and containerd still has it loaded"
            ),
            format!("has no runtimes.{name} of frostlock"),
            format!("has {name}"),
            "new pods of it still run through frostlock, and do not start once it is removed",
        ),
        Owed::OtherProgram { name, loaded } => (
            format!(
                "runtime {name} is frostlock in the file, and containerd has loaded another program"
            ),
            format!("has runtimes.{name} with frostlock"),
            format!("has {name} with {}", program(loaded)),
            "its pods run as without frostlock",
        ),
        Owed::OtherOption { name, option, configured, loaded } => (
            format!("runtime {name} has another {option} in the file than containerd has loaded"),
            format!("{option} = {}", value(configured)),
            format!("{option} = {}", value(loaded)),
            "new pods of it run with the option that is loaded, until containerd is restarted",
        ),
        Owed::OtherDefault { configured, loaded } => (
            format!(
                "the default runtime is {configured} in the file, and containerd has loaded {loaded}"
            ),
            format!("default_runtime_name = {configured:?}"),
            format!("has the default {loaded}"),
            "pods without a runtime class run by the one that is loaded",
        ),
    };
    Finding::warning(what)
        .seen(file, configured)
        .seen(socket, loaded)
        .so(so)
        .remedy("restart containerd (systemctl restart containerd); containers keep running")
}

/// The value of an option; a missing option has its zero value.
fn value(said: &Option<String>) -> &str {
    said.as_deref().unwrap_or("not set")
}

/// Whether one of containerd's runtimes goes through frostlock.
fn in_the_way(node: &Node) -> Option<Finding> {
    let containerd = node.containerds.first()?;
    let entries = node.containerds.iter().flat_map(|it| &it.entries);
    let default = entries.clone().find(|it| it.is_default).map(|it| it.name.clone());
    let ours = &node.ours.entries;
    if ours.is_empty() {
        return Some(
            Finding::note("no runtime of containerd's goes through frostlock")
                .seen(&containerd.config, "no BinaryName is frostlock")
                .so("containers on this node run as without it")
                .remedy("frostctl configure --runtime containerd, then restart containerd"),
        );
    }
    if default.as_ref().is_some_and(|it| ours.contains(it)) {
        return None;
    }
    Some(
        Finding::note(format!(
            "only pods of a runtime class go through frostlock: {}",
            ours.join(", ")
        ))
        .seen(
            &containerd.config,
            format!("default_runtime_name = {:?}", default.unwrap_or_default()),
        )
        .so("the other pods run as without it")
        .remedy("nothing has to be done; for all pods: frostctl configure --set-as-default"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::super::finding::Severity;
    use super::*;

    #[test]
    fn a_runtime_that_is_missing_and_that_nobody_uses_by_default_is_a_note() {
        let severity = |name: &str, binary: &str, is_default| {
            let entry = Entry {
                name: name.to_owned(),
                binary: Some(binary.into()),
                systemd: None,
                options: Default::default(),
                is_default,
                file: "/etc/containerd/config.toml".into(),
            };
            broken(&entry, &Broken::Missing).severity
        };
        assert_eq!(severity("kata", "kata-runtime", false), Severity::Note);
        assert_eq!(severity("kata", "kata-runtime", true), Severity::Error);
        assert_eq!(severity("frostlock", "/opt/none", false), Severity::Error);
        assert_eq!(severity("runc", "/opt/frostlock", false), Severity::Error);
    }
}
