//! Reports each divergence within 2 s of its beginning, and its end.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use nix::poll::PollTimeout;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::account::{self, Account};
use super::claim::Asked;
use super::judge::{self, Divergence, Key};
use super::look::{self, Patience, Places};
use super::show::{self, Change};
use super::versions::Versions;
use crate::exit::Exit;
use crate::held::Held;
use crate::output::{self, Output};

/// The time between two looks.
const EVERY: Duration = Duration::from_millis(300);
/// A container that is being stopped also looks like a divergence for a moment.
const SETTLES: Duration = Duration::from_millis(500);

#[derive(Debug, Serialize)]
struct Event<'a> {
    time: String,
    event: Change,
    #[serde(flatten)]
    account: &'a Account,
}

/// Runs until SIGINT or SIGTERM, or until standard output has no reader.
pub(crate) fn run(places: &Places, output: &Output) -> anyhow::Result<Exit> {
    let signals = Held::back()?;
    let every = PollTimeout::try_from(EVERY).unwrap_or(PollTimeout::ZERO);
    let mut watch = Watch::default();
    let (mut trouble, mut versions) = (Vec::new(), Versions::default());
    loop {
        let began = Instant::now();
        let seen = look::look(places, Patience::HASTY)?;
        let missed = seen.asked.iter().filter(|asked| asked.may_answer_later());
        let unanswered: Vec<String> =
            missed.map(|Asked { place, what, .. }| format!("{place}: {what}")).collect();
        for what in unanswered.iter().filter(|what| !trouble.contains(*what)) {
            output::complain(&anyhow::anyhow!("not looked at: {what}"));
        }
        trouble = unanswered;
        versions.of_containerds(&seen);
        let found = judge::judge(&seen);
        for (change, account) in watch.next(found, &mut versions, began, !trouble.is_empty()) {
            tell(change, &account, output)?;
        }
        if output::has_no_reader_after(Duration::ZERO)? || signals.comes_within(every)? {
            return Ok(if watch.reported.is_empty() { Exit::Clean } else { Exit::Found });
        }
    }
}

/// The divergences that were seen, and since when.
#[derive(Debug, Default)]
struct Watch {
    since: HashMap<Key, Instant>,
    reported: HashMap<Key, (Account, Option<Instant>)>,
}

impl Watch {
    /// What has changed with this look. While a source does not answer, nothing counts as gone.
    fn next(
        &mut self,
        found: Vec<Divergence>,
        versions: &mut Versions,
        now: Instant,
        is_partial: bool,
    ) -> Vec<(Change, Account)> {
        let keys: Vec<Key> = found.iter().map(Divergence::key).collect();
        self.since.retain(|key, _| keys.contains(key));
        let mut changes = Vec::new();
        for divergence in found {
            let key = divergence.key();
            let since = *self.since.entry(key.clone()).or_insert(now);
            let is_lasting = now.duration_since(since) >= SETTLES;
            match self.reported.get_mut(&key) {
                Some((_, missed)) => *missed = None,
                None if is_lasting => {
                    let account = account::of(&divergence, versions);
                    self.reported.insert(key, (account.clone(), None));
                    changes.push((Change::Appeared, account));
                }
                None => {}
            }
        }
        self.reported.retain(|key, (account, missed)| {
            if keys.contains(key) || is_partial {
                return true;
            }
            let since = *missed.get_or_insert(now);
            let is_gone = now.duration_since(since) >= SETTLES;
            if is_gone {
                changes.push((Change::Gone, account.clone()));
            }
            !is_gone
        });
        changes
    }
}

fn tell(change: Change, account: &Account, output: &Output) -> anyhow::Result<()> {
    let time = OffsetDateTime::now_utc().format(&Rfc3339)?;
    output::print(|to| {
        if !output.is_json() {
            return show::event(to, &time, change, account);
        }
        serde_json::to_writer(&mut *to, &Event { time, event: change, account })?;
        writeln!(to)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::claim::{Container, Owner};
    use crate::audit::judge::{Kind, Subject};

    fn phantom() -> Vec<Divergence> {
        let container = Container::new(Owner::Nobody, "web".to_owned());
        vec![Divergence { kind: Kind::Phantom, subject: Subject::Container(Box::new(container)) }]
    }

    #[test]
    fn what_passes_is_not_told_and_what_lasts_once() {
        let mut watch = Watch::default();
        let start = Instant::now();
        let mut at = |ms: u64, found: Vec<Divergence>, partial: bool| {
            let changes = watch.next(
                found,
                &mut Versions::default(),
                start + Duration::from_millis(ms),
                partial,
            );
            changes.into_iter().map(|(change, _)| change).collect::<Vec<_>>()
        };
        assert!(at(0, phantom(), false).is_empty());
        // The container was being stopped.
        assert!(at(400, vec![], false).is_empty());
        assert!(at(800, phantom(), false).is_empty());
        assert_eq!(at(1300, phantom(), false), [Change::Appeared]);
        assert!(at(1700, phantom(), false).is_empty());
        // containerd does not answer: nobody knows.
        assert!(at(2100, vec![], true).is_empty());
        assert!(at(9000, vec![], true).is_empty());
        assert!(at(9400, vec![], false).is_empty());
        assert!(at(9600, phantom(), false).is_empty());
        assert!(at(10_000, vec![], false).is_empty());
        assert_eq!(at(10_500, vec![], false), [Change::Gone]);
        assert!(at(11_000, vec![], false).is_empty());
    }
}
