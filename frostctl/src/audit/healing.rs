//! Heals one divergence after the other, and looks at each again just before.

use serde::Serialize;

use super::claim::Seen;
use super::heal;
use super::judge::{self, Divergence, Key, Kind};
use super::look::{self, Patience, Places};
use crate::held::Held;
use crate::progress;

#[derive(Debug, clap::Args)]
pub(crate) struct Change {
    /// End phantoms through CRI, containerd, podman or the runtime; frostctl edits none of their
    /// files. A container stays as it is if a process still lives in its cgroup or below
    #[arg(long)]
    pub(crate) heal: bool,

    /// Kill the processes of orphans, and with --heal also those in the cgroups of containers that have
    /// ended
    #[arg(long)]
    pub(crate) kill_orphans: bool,

    /// Only say what --heal or --kill-orphans would do
    #[arg(long, requires = "change")]
    dry_run: bool,
}

/// What came of healing one divergence.
#[derive(Debug, Serialize)]
pub(crate) struct Healing {
    pub(crate) kind: Kind,
    pub(crate) id: String,
    pub(crate) name: Option<String>,
    pub(crate) result: Ended,
    /// Steps that were taken, or with --dry-run would be.
    pub(crate) steps: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ended {
    Healed,
    /// It was gone before we did anything.
    Passed,
    WouldBeHealed,
    /// On purpose.
    LeftAlone,
    Failed,
}

impl Ended {
    pub(crate) fn told(self) -> &'static str {
        match self {
            Ended::Healed => "healed",
            Ended::Passed => "gone by itself, nothing was done",
            Ended::WouldBeHealed => "would be healed by",
            Ended::LeftAlone => "left alone",
            Ended::Failed => "not healed",
        }
    }

    pub(crate) fn is_over(self) -> bool {
        matches!(self, Ended::Healed | Ended::Passed)
    }
}

fn is_asked_for(change: &Change, kind: Kind) -> bool {
    match kind {
        Kind::Orphan => change.kill_orphans,
        _ => change.heal,
    }
}

/// A signal stops the loop after the current divergence: none is left half done.
pub(crate) fn all(
    places: &Places,
    found: &[Divergence],
    change: &Change,
) -> anyhow::Result<Vec<Healing>> {
    let signals = Held::back()?;
    let mut is_over = false;
    let all = found.iter().zip(1..).map(|(divergence, number)| {
        is_over = is_over || signals.has_come();
        if is_over {
            return left(divergence, "interrupted before its turn: run it again".to_owned());
        }
        let (kind, id) = (divergence.kind.name(), divergence.id());
        let what = format!("audit: heals {number} of {}, {kind} {id}", found.len());
        progress::while_at(&what, || one(places, divergence, change))
    });
    Ok(all.collect())
}

fn left(divergence: &Divergence, why: String) -> Healing {
    ended(divergence, Vec::new(), Ended::LeftAlone, Some(why))
}

fn ended(
    divergence: &Divergence,
    steps: Vec<String>,
    result: Ended,
    why: Option<String>,
) -> Healing {
    let (id, name) = (divergence.id().to_owned(), divergence.name().map(str::to_owned));
    Healing { kind: divergence.kind, id, name, result, steps, why }
}

fn one(places: &Places, divergence: &Divergence, change: &Change) -> Healing {
    if !is_asked_for(change, divergence.kind) {
        let option = if change.heal { "--kill-orphans" } else { "--heal" };
        return left(divergence, format!("not asked for: add {option}"));
    }
    let mut steps = Vec::new();
    let (result, why) = match attempt(places, divergence, change, &mut steps) {
        Ok(Ok(result)) => (result, None),
        Ok(Err(why)) => (Ended::LeftAlone, Some(why)),
        Err(error) => (Ended::Failed, Some(format!("{error:#}"))),
    };
    ended(divergence, steps, result, why)
}

/// Gives how it ended, or why it was left alone.
fn attempt(
    places: &Places,
    divergence: &Divergence,
    change: &Change,
    steps: &mut Vec<String>,
) -> anyhow::Result<Result<Ended, String>> {
    if change.dry_run {
        return Ok(heal::plan(divergence, change.kill_orphans).map(|plan| {
            steps.extend(plan.iter().map(heal::Step::told));
            Ended::WouldBeHealed
        }));
    }
    let key = divergence.key();
    let (seen, now) = again(places, &key)?;
    let Some(now) = now else { return Ok(Ok(Ended::Passed)) };
    let plan = match heal::plan(&now, change.kill_orphans) {
        Ok(plan) => plan,
        Err(why) => return Ok(Err(why)),
    };
    heal::carry_out(&now, &plan, &seen, steps)?;
    let (_, left) = again(places, &key)?;
    anyhow::ensure!(left.is_none(), "it is still there after these steps");
    Ok(Ok(Ended::Healed))
}

fn again(places: &Places, key: &Key) -> anyhow::Result<(Seen, Option<Divergence>)> {
    let seen = look::look(places, Patience::CALM)?;
    let found = judge::judge(&seen).into_iter().find(|found| found.key() == *key);
    Ok((seen, found))
}
