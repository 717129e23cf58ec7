//! Heals one divergence after the other, and looks at each again just before.

use serde::Serialize;

use super::claim::Seen;
use super::heal;
use super::judge::{self, Divergence, Key, Kind};
use super::look::{self, Patience, Places};
use crate::held::Held;
use crate::progress;

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

#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish {
    pub(crate) heal: bool,
    pub(crate) kill_orphans: bool,
    pub(crate) dry_run: bool,
}

impl Wish {
    fn covers(self, kind: Kind) -> bool {
        match kind {
            Kind::Orphan => self.kill_orphans,
            _ => self.heal,
        }
    }
}

/// A signal stops the loop after the current divergence: none is left half done.
pub(crate) fn all(
    places: &Places,
    found: &[Divergence],
    wish: Wish,
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
        progress::while_at(&what, || one(places, divergence, wish))
    });
    Ok(all.collect())
}

fn left(divergence: &Divergence, why: String) -> Healing {
    Healing {
        kind: divergence.kind,
        id: divergence.id().to_owned(),
        name: divergence.name().map(str::to_owned),
        result: Ended::LeftAlone,
        steps: Vec::new(),
        why: Some(why),
    }
}

fn one(places: &Places, divergence: &Divergence, wish: Wish) -> Healing {
    if !wish.covers(divergence.kind) {
        let option = if wish.heal { "--kill-orphans" } else { "--heal" };
        return left(divergence, format!("not asked for: add {option}"));
    }
    let mut healing = left(divergence, String::new());
    healing.why = None;
    match attempt(places, divergence, wish, &mut healing.steps) {
        Ok(result) => healing.result = result,
        Err(Trouble::Left(why)) => healing.why = Some(why),
        Err(Trouble::Failed(error)) => {
            healing.result = Ended::Failed;
            healing.why = Some(format!("{error:#}"));
        }
    }
    healing
}

enum Trouble {
    Left(String),
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Trouble {
    fn from(error: anyhow::Error) -> Trouble {
        Trouble::Failed(error)
    }
}

fn attempt(
    places: &Places,
    divergence: &Divergence,
    wish: Wish,
    steps: &mut Vec<String>,
) -> Result<Ended, Trouble> {
    if wish.dry_run {
        let plan = heal::plan(divergence, wish.kill_orphans).map_err(Trouble::Left)?;
        steps.extend(plan.iter().map(heal::Step::told));
        return Ok(Ended::WouldBeHealed);
    }
    let key = divergence.key();
    let (seen, now) = again(places, &key)?;
    let Some(now) = now else { return Ok(Ended::Passed) };
    let plan = heal::plan(&now, wish.kill_orphans).map_err(Trouble::Left)?;
    heal::carry_out(&now, &plan, &seen, steps)?;
    match again(places, &key)?.1 {
        None => Ok(Ended::Healed),
        Some(_) => Err(anyhow::anyhow!("it is still there after these steps").into()),
    }
}

fn again(places: &Places, key: &Key) -> anyhow::Result<(Seen, Option<Divergence>)> {
    let seen = look::look(places, Patience::CALM)?;
    let found = judge::judge(&seen).into_iter().find(|found| found.key() == *key);
    Ok((seen, found))
}
