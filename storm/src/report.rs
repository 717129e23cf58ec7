//! Both sides, what they prove, and where that goes.

use std::fmt;

use serde::Serialize;

use crate::allowed::Allowed;
use crate::side::Side;
use crate::tally::Step;

/// The JSON has the rest.
pub(crate) const MOST_SHOWN: usize = 10;

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) sides: Vec<Side>,
    pub(crate) verdict: Verdict,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Shown,
    /// Nothing is wrong, but nothing was compared.
    Done,
    /// Nothing failed bare: this storm proves nothing.
    NotShown,
    /// What is wrong with the wrapped side.
    Failed(Vec<String>),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Shown => write!(f, "shown: bare fails, wrapped does not"),
            Verdict::Done => write!(f, "nothing is wrong"),
            Verdict::NotShown => write!(f, "not shown: nothing failed with the bare runtime"),
            Verdict::Failed(what) => write!(f, "FAILED:\n  {}", what.join("\n  ")),
        }
    }
}

impl Report {
    pub(crate) fn of(sides: Vec<Side>) -> anyhow::Result<Report> {
        let verdict = verdict(&sides, &Allowed::list()?);
        Ok(Report { sides, verdict })
    }
}

fn verdict(sides: &[Side], allowed: &Allowed) -> Verdict {
    let side = |label: &str| sides.iter().find(|side| side.options.label == label);
    let wrong: Vec<_> =
        side("wrapped").into_iter().flat_map(|wrapped| wrong_with(wrapped, allowed)).collect();
    if !wrong.is_empty() {
        return Verdict::Failed(wrong);
    }
    // A storm with kills or with many probe rates is no comparison.
    let compared = |bare: &&Side| bare.options.kills == 0 && bare.options.sweep.is_none();
    match side("bare").filter(compared) {
        Some(bare) if bare.sum.failed() == 0 => Verdict::NotShown,
        Some(_) if side("wrapped").is_some() => Verdict::Shown,
        _ => Verdict::Done,
    }
}

fn wrong_with(wrapped: &Side, allowed: &Allowed) -> Vec<String> {
    let mut wrong: Vec<String> = wrapped.afterwards.iter().take(MOST_SHOWN).cloned().collect();
    if wrapped.killed.len() < wrapped.options.kills {
        let (killed, kills) = (wrapped.killed.len(), wrapped.options.kills);
        wrong.push(format!("only {killed} of {kills} were there to be killed"));
    }
    if wrapped.budget.is_none() {
        wrong.push("no journal: nothing went through frostlock".to_owned());
    }
    if wrapped.options.kills > 0 || wrapped.options.sweep.is_some() {
        return wrong;
    }
    if wrapped.sum.restarted() > 0 {
        wrong.push(format!("{} restarts", wrapped.sum.restarted()));
    }
    for step in Step::ALL {
        for (text, count) in &wrapped.sum.of(step).failures {
            if allowed.reason(text).is_none() {
                wrong.push(format!("{step}: {count} x {text}"));
            }
        }
    }
    wrong
}
