//! The two columns and the verdict, as text and as JSON.

use std::io::{self, Write};
use std::path::PathBuf;

use anstyle::Style;
use serde::Serialize;

use super::bundle::PERIOD_US;
use super::program::THREADS;
use super::rounds::Seen;
use super::settings;
use super::verdict::{self, Column, Effect, LIMIT, Row, Verdict};
use crate::node::hierarchy::Layout;
use crate::node::tree::Driver;
use crate::output::{fitted, plain, right, table};

const BOLD: Style = Style::new().bold();

/// The containerd that has run both.
#[derive(Debug, Serialize)]
pub(super) struct Through {
    pub(super) socket: PathBuf,
    /// Handlers, by their names in RuntimeClasses.
    pub(super) bare: String,
    pub(super) frostlock: String,
    pub(super) image: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    cri: Option<Through>,
    frostlock: PathBuf,
    runtime: PathBuf,
    cgroup_version: Layout,
    cgroup_driver: Driver,
    quota_us: u64,
    period_us: u64,
    threads: usize,
    limit_ms: u128,
    rounds: usize,
    /// How many containers were made, and how many of them ran out of quota.
    containers: usize,
    throttled: usize,
    operations: Vec<Row>,
    lift_refused: Option<String>,
    notes: Vec<String>,
    pub(super) verdict: Verdict,
    /// The verdict in words.
    says: String,
}

impl Report {
    pub(super) fn new(
        (frostlock, runtime): (PathBuf, PathBuf),
        (cgroup_version, cgroup_driver): (Layout, Driver),
        seen: &Seen,
        lift_refused: Option<String>,
        cri: Option<Through>,
    ) -> Report {
        let operations = seen.rows();
        let verdict = verdict::verdict(&operations, lift_refused.is_some());
        let says = says(verdict, &operations, lift_refused.as_deref(), seen.throttled);
        Report {
            notes: settings::notes(cri.is_some()),
            cri,
            frostlock,
            runtime,
            cgroup_version,
            cgroup_driver,
            quota_us: seen.quota_us,
            period_us: PERIOD_US,
            threads: THREADS,
            limit_ms: LIMIT.as_millis(),
            rounds: seen.rounds,
            containers: seen.containers,
            throttled: seen.throttled,
            operations,
            lift_refused,
            verdict,
            says,
        }
    }

    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{} in front of {}", self.frostlock.display(), self.runtime.display())?;
        if let Some(it) = &self.cri {
            let (socket, image) = (it.socket.display(), plain(&it.image));
            writeln!(
                out,
                "pods of the containerd at {socket}, bare by the handler {}, through frostlock by {}, of {image}",
                it.bare, it.frostlock
            )?;
        }
        writeln!(
            out,
            "{THREADS} busy threads with {} ms of CPU in {} ms, cgroups by {}; rounds: {}\n",
            self.quota_us / 1000,
            PERIOD_US / 1000,
            self.cgroup_driver,
            self.rounds
        )?;
        let head = ["OPERATION", "BARE/ms", "FAILED", "FROSTLOCK/ms", "FAILED", "RESULT"];
        let mut table = table(head);
        for row in &self.operations {
            table.add_row([
                row.operation.to_owned(),
                median(&row.bare),
                failed(&row.bare),
                median(&row.frostlock),
                failed(&row.frostlock),
                result(row.effect),
            ]);
        }
        right(&mut table, 1..5);
        writeln!(out, "{}\n", fitted(&mut table))?;
        for row in &self.operations {
            for (side, column) in [("bare", &row.bare), ("through frostlock", &row.frostlock)] {
                if let Some(error) = &column.error {
                    writeln!(out, "{}, {side}: {}", row.operation, plain(error))?;
                }
            }
        }
        for line in &self.notes {
            writeln!(out, "{}", plain(line))?;
        }
        if let Some(why) = &self.lift_refused {
            writeln!(out, "{}", plain(&refused(why)))?;
        }
        writeln!(out, "{BOLD}{}{BOLD:#}", plain(&self.says))
    }
}

fn median(column: &Column) -> String {
    match column.median_ms {
        Some(ms) => format!("{ms:.0}"),
        None if column.over_limit > 0 => format!("> {}", LIMIT.as_millis()),
        None => "-".to_owned(),
    }
}

fn failed(column: &Column) -> String {
    format!("{} of {}", column.failed, column.runs)
}

fn result(effect: Effect) -> String {
    match effect {
        Effect::Cured => "cured".to_owned(),
        Effect::Faster(times) => format!("{times:.0} times faster"),
        Effect::NotShown => "not shown".to_owned(),
        Effect::StillFails => "still fails".to_owned(),
        Effect::Slower(times) => format!("{times:.0} times slower"),
        Effect::Fails => "FAILS".to_owned(),
        Effect::NotReached => "not reached".to_owned(),
    }
}

fn refused(why: &str) -> String {
    format!("the lift was refused: {why}. `frostctl doctor --check lift` names the ways out")
}

fn says(verdict: Verdict, rows: &[Row], lift_refused: Option<&str>, throttled: usize) -> String {
    match (verdict, lift_refused) {
        (Verdict::Works, _) => "works".to_owned(),
        (Verdict::DoesNotWork, _) => {
            let wrong = rows.iter().filter_map(wrong).collect::<Vec<_>>();
            format!("does not work: {}", wrong.join("; "))
        }
        (Verdict::NotShown, Some(why)) => {
            format!("does not help here: threads that wait for a CPU are not lifted ({why})")
        }
        (Verdict::NotShown, None) if throttled == 0 => {
            "not shown: the kernel did not throttle the container".to_owned()
        }
        (Verdict::NotShown, None) => {
            "not shown: no bare operation was slow enough to be helped".to_owned()
        }
    }
}

/// The errors themselves are printed before.
fn wrong(row: &Row) -> Option<String> {
    let how = match row.effect {
        Effect::Fails => "fails only through frostlock".to_owned(),
        Effect::StillFails if row.bare.runs == 0 => {
            "fails, and the bare run did not get that far".to_owned()
        }
        Effect::StillFails if row.frostlock.failed > 0 => "fails, as it does bare".to_owned(),
        Effect::StillFails => format!("takes more than {} s, as it does bare", LIMIT.as_secs()),
        Effect::Slower(_) => "is slower through frostlock".to_owned(),
        Effect::Cured | Effect::Faster(_) | Effect::NotShown | Effect::NotReached => return None,
    };
    Some(format!("{} {how}", row.operation))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::verdict::Ended;
    use super::*;

    #[test]
    fn the_verdict_names_what_is_wrong_and_nothing_else() {
        let done = |ms| [Ended::Done(Duration::from_millis(ms))];
        let failed = [Ended::Failed("no".to_owned())];
        let rows = [
            Row::new("exec", &done(2000), &done(20)),
            Row::new("pause", &done(20), &failed),
            Row::new("kill", &[Ended::TooLong], &[Ended::TooLong]),
        ];
        let said = says(Verdict::DoesNotWork, &rows, None, 1);
        assert_eq!(
            said,
            "does not work: pause fails only through frostlock; kill takes more than 3 s, as it does bare"
        );
        assert_eq!(says(Verdict::Works, &rows[..1], None, 1), "works");
        let refused = says(Verdict::NotShown, &rows[..1], Some("CAP_SYS_NICE"), 1);
        assert!(refused.contains("not lifted (CAP_SYS_NICE)"), "{refused}");
        assert!(says(Verdict::NotShown, &[], None, 0).contains("did not throttle"));
    }
}
