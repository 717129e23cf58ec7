use super::super::finding::Finding;
use super::super::node::Node;
use crate::configure::Drift;

const NAME: &str = "installation";

pub(super) fn check(node: &Node) -> Vec<Finding> {
    let ours = &node.ours;
    let is_used = !ours.entries.is_empty();
    let mut findings = Vec::new();
    for complaint in &ours.complaints {
        findings.push(
            Finding::warning(NAME, "frostlock's configuration has a mistake")
                .seen(&ours.config, complaint)
                .so("the default holds instead")
                .remedy("mend the line; deploy/config.toml has every key with its range"),
        );
    }
    for entry in &ours.missing {
        let what = format!("the program of containerd's runtime {} is not there", entry.name);
        let binary = entry.binary.clone().unwrap_or_default();
        let finding = Finding::error(NAME, what)
            .seen(&entry.file, format!("BinaryName = {:?}", binary.display().to_string()));
        findings.push(
            finding
                .seen(binary, "no such file")
                .so("no pod of it starts, and those that run cannot be stopped")
                .remedy(
                    "install it there again, or take the entry out (frostctl unconfigure, if it was \
                     frostlock) and restart containerd",
                ),
        );
    }
    findings.extend(drifts(&ours.drifts));
    if let Err(why) = &ours.runtime {
        let finding = if is_used {
            Finding::error(NAME, "frostlock finds no runtime")
        } else {
            Finding::warning(NAME, "frostlock finds no runtime")
        };
        findings.push(
            finding.seen(&ours.config, why).so("no container can be made through it").remedy(
                "install runc or crun, or name it in the configuration: runtime = \"/path\"",
            ),
        );
    }
    if let Some(why) = &ours.state_complaint {
        findings.push(
            Finding::error(NAME, "frostlock cannot use its state directory")
                .seen(ours.state.path(), why)
                .so("it runs every command without lock and record: freezes fail as without it")
                .remedy(format!("chown root {0} && chmod 0700 {0}", ours.state.path().display())),
        );
    }
    if ours.is_off {
        findings.push(
            Finding::warning(NAME, "frostlock is switched off")
                .seen(ours.state.kill_switch(), "is there")
                .so("every command is the bare runtime's")
                .remedy(format!("rm {}", ours.state.kill_switch().display())),
        );
    }
    if ours.wants_syslog && !ours.has_syslog {
        findings.push(
            Finding::note(NAME, "there is no syslog to write to")
                .seen("/dev/log", "no socket")
                .so("operations are in the journal alone")
                .remedy("start a syslog daemon or journald, or set [log] syslog = false"),
        );
    }
    findings.extend(in_the_way(node));
    findings
}

/// What was copied once does not follow by itself.
fn drifts(drifts: &anyhow::Result<Vec<Drift>>) -> Vec<Finding> {
    let drifts = match drifts {
        Ok(drifts) => drifts,
        Err(error) => {
            return vec![
                Finding::note(
                    NAME,
                    "not checked whether frostlock's entries are as those that they stand in for",
                )
                .seen("frostctl's records", format!("{error:#}"))
                .remedy("run it as root"),
            ];
        }
    };
    let finding = |it: &Drift| {
        let what =
            format!("the runtime {} is not as {} is, for which it stands in", it.name, it.wrapped);
        Finding::warning(NAME, what)
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

/// Whether a runtime of containerd's goes through it.
fn in_the_way(node: &Node) -> Option<Finding> {
    let containerd = node.containerds.first()?;
    let entries = node.containerds.iter().flat_map(|it| &it.entries);
    let default = entries.clone().find(|it| it.is_default).map(|it| it.name.clone());
    let ours = &node.ours.entries;
    if ours.is_empty() {
        return Some(
            Finding::note(NAME, "no runtime of containerd's goes through frostlock")
                .seen(&containerd.config, "no BinaryName is frostlock")
                .so("containers on this node run as without it")
                .remedy("frostctl configure --runtime containerd, then restart containerd"),
        );
    }
    if default.as_ref().is_some_and(|it| ours.contains(it)) {
        return None;
    }
    Some(
        Finding::note(
            NAME,
            format!("only pods of a runtime class go through frostlock: {}", ours.join(", ")),
        )
        .seen(
            &containerd.config,
            format!("default_runtime_name = {:?}", default.unwrap_or_default()),
        )
        .so("the other pods run as without it")
        .remedy("nothing has to be done; for all pods: frostctl configure --set-as-default"),
    )
}
