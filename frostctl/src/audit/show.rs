//! The audit as text and as JSON.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::account::Account;
use super::claim::{Asked, Missed, Seen, counted};
use super::healing::{Ended, Healing};
use super::judge::Kind;
use crate::defects::Defect;
use crate::output::Output;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Change {
    Appeared,
    Gone,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    looked_at: &'a [Asked],
    notes: &'a [String],
    containers: usize,
    divergences: &'a [Account],
    counts: std::collections::BTreeMap<Kind, usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    healing: Option<&'a [Healing]>,
}

pub(crate) fn report(
    output: &Output,
    seen: &Seen,
    accounts: &[Account],
    counts: std::collections::BTreeMap<Kind, usize>,
    healing: Option<&[Healing]>,
) -> anyhow::Result<()> {
    let report = Report {
        looked_at: &seen.asked,
        notes: &seen.notes,
        containers: seen.containers.iter().filter(|it| !it.is_only_a_pod()).count(),
        divergences: accounts,
        counts,
        healing,
    };
    output.print(&report, |to| text(&report, to))
}

fn text(report: &Report<'_>, to: &mut dyn Write) -> io::Result<()> {
    for asked in report.looked_at {
        let (name, place) = (asked.source.name(), plain(&asked.place));
        let what = plain(&asked.what);
        let line = match asked.missed {
            None => format!("{name} at {place}: {what}"),
            Some(Missed::Absent) => format!("not there: {name} ({what})"),
            Some(how) => {
                let label = if how == Missed::Silent { "no answer:" } else { "not asked:" };
                let style = colour(AnsiColor::Yellow);
                format!("{style}{label}{style:#} {name} at {place}: {what}")
            }
        };
        writeln!(to, "{line}")?;
    }
    for note in report.notes {
        writeln!(to, "note: {}", plain(note))?;
    }
    for account in report.divergences {
        writeln!(to)?;
        one(to, account)?;
    }
    for healing in report.healing.unwrap_or_default() {
        writeln!(to)?;
        healed(to, healing)?;
    }
    writeln!(to)?;
    let found: Vec<String> = report
        .counts
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(kind, count)| format!("{count} {}", kind.name()))
        .collect();
    let missed = report.looked_at.iter().filter(|it| it.is_missed()).count();
    let found = match (found.is_empty(), missed) {
        (false, _) => found.join(", "),
        (true, 0) => "nothing wrong".to_owned(),
        (true, missed) => format!("nothing wrong was found; {missed} could not be asked"),
    };
    let containers = counted(report.containers);
    writeln!(to, "{containers}: {found}{}", summary(report.healing))
}

fn one(to: &mut dyn Write, account: &Account) -> io::Result<()> {
    let label = colour(AnsiColor::Red);
    writeln!(to, "{label}{}{label:#} {}", account.kind.name(), title(account))?;
    for claim in &account.says {
        let (name, said) = (claim.source.name(), plain(&claim.said));
        let says = format!("{name} says");
        writeln!(to, "  {says:<15} {said}   [{}]", plain(&claim.place))?;
    }
    for line in &account.evidence {
        writeln!(to, "  but             {}", plain(line))?;
    }
    for defect in &account.known_defects {
        let (what, fixed) = (defect.what, fixed(defect));
        writeln!(to, "  known defect    {what} ({fixed}) {}", defect.reference)?;
    }
    for line in &account.remedy {
        writeln!(to, "  remedy          {}", plain(line))?;
    }
    Ok(())
}

fn fixed(defect: &Defect) -> String {
    let releases: Vec<String> = defect.fixed_in.iter().map(ToString::to_string).collect();
    match releases.join(", ") {
        none if none.is_empty() => "not fixed".to_owned(),
        releases => format!("fixed in {releases}"),
    }
}

fn healed(to: &mut dyn Write, healing: &Healing) -> io::Result<()> {
    let name = healing.name.as_ref().map_or_else(String::new, |it| format!(" {}", plain(it)));
    let (kind, id) = (healing.kind.name(), plain(&healing.id));
    writeln!(to, "{kind} {id}{name}: {}", healing.result.told())?;
    for step in &healing.steps {
        writeln!(to, "  {}", plain(step))?;
    }
    if let Some(why) = &healing.why {
        writeln!(to, "  {}", plain(why))?;
    }
    Ok(())
}

fn summary(healing: Option<&[Healing]>) -> String {
    let count = |wanted: Ended| {
        healing.unwrap_or_default().iter().filter(|healing| healing.result == wanted).count()
    };
    let told = |what: &str, count: usize| match count {
        0 => String::new(),
        count => format!("; {count} {what}"),
    };
    let (healed, failed) = (count(Ended::Healed), count(Ended::Failed));
    format!("{}{}", told("healed", healed), told("not healed", failed))
}

/// Each event is one line.
pub(crate) fn event(
    to: &mut dyn Write,
    time: &str,
    change: Change,
    account: &Account,
) -> io::Result<()> {
    let first = account.evidence.first().map_or("", String::as_str);
    let title = title(account);
    match change {
        Change::Appeared => {
            let label = colour(AnsiColor::Red);
            let kind = account.kind.name();
            writeln!(to, "{time} {label}{kind}{label:#} {title}: {}", plain(first))
        }
        Change::Gone => writeln!(to, "{time} gone: {} {title}", account.kind.name()),
    }
}

fn title(account: &Account) -> String {
    let mut title = plain(&account.id);
    if let Some(name) = &account.name {
        title.push_str(&format!(" {}", plain(name)));
    }
    if let Some(namespace) = &account.namespace {
        title.push_str(&format!(" (namespace {})", plain(namespace)));
    }
    title
}

fn colour(colour: AnsiColor) -> Style {
    Style::new().bold().fg_color(Some(colour.into()))
}

/// Text of other programs, on one line.
fn plain(text: &str) -> String {
    cgroup::text::one_line(std::ffi::OsStr::new(text), 400)
}
