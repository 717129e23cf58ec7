//! What podman says: it has no daemon, so frostctl runs its command.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use cgroup::json::{self, Object};
use serde::Deserialize;

use super::claim::{
    Claim, Container, Init, Missed, NoAnswer, Owner, Seen, Source, Status, counted,
};
use super::command;

/// How it is asked.
pub(crate) const PLACE: &str = "podman ps --all";

/// podman's databases. Without one podman was never used, and running it would create one.
const DATABASES: [&str; 2] =
    ["/var/lib/containers/storage/libpod/bolt_state.db", "/var/lib/containers/storage/db.sql"];

/// Both podman and CRI-O record here which of them created a container.
const MANAGER: &str = "io.container.manager";

pub(crate) fn was_used() -> bool {
    DATABASES.iter().any(|path| Path::new(path).exists())
}

/// Who owns a bundle in the store: CRI-O has its own there, which podman does not know.
pub(crate) fn owner(bundle: &Path) -> Owner {
    let text = json::read_text(&bundle.join("config.json")).unwrap_or_default();
    let annotations = Object::parse(&text).ok().and_then(|it| it.object("annotations"));
    let manager = annotations.and_then(|it| it.get::<String>(MANAGER));
    match manager.as_deref() {
        Some("libpod") => Owner::Podman,
        Some("cri-o") => Owner::Crio,
        _ => Owner::Unknown,
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    pid: i32,
    #[serde(default)]
    state: String,
}

pub(crate) fn look(limit: Duration) -> Seen {
    let answer = list(limit);
    let silent = |error: anyhow::Error| NoAnswer { how: Missed::Silent, why: format!("{error:#}") };
    Seen::of(Source::Podman, PLACE, answer.map_err(silent))
}

fn list(limit: Duration) -> anyhow::Result<(String, Seen)> {
    let words = ["ps", "--all", "--no-trunc", "--format", "json"];
    let listed = command::run(Path::new("podman"), &words, limit, None)?;
    let listed: Vec<Listed> = serde_json::from_slice(&listed).context("podman ps")?;
    let containers: Vec<_> = listed.into_iter().map(container).collect();
    let summary = counted(containers.len());
    Ok((summary, Seen { containers, complete: vec![Owner::Podman], ..Seen::default() }))
}

fn container(listed: Listed) -> Container {
    let status = match listed.state.as_str() {
        "running" | "stopping" => Status::Running,
        "paused" => Status::Paused,
        "created" | "configured" | "initialized" => Status::Created,
        "exited" | "stopped" => Status::Stopped,
        _ => Status::Unknown,
    };
    let mut container = Container::new(Owner::Podman, listed.id);
    container.name = listed.names.into_iter().next();
    container.init = (listed.pid > 0).then_some(Init { pid: listed.pid, start: None });
    let place = PLACE.to_owned();
    container.claims.push(Claim { source: Source::Podman, status, said: listed.state, place });
    container
}
