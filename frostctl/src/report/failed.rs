//! Containers that did not come into being: failed creates, restores and starts, by cause. A `run`
//! does not count: its failure may be the program's.

use std::collections::BTreeMap;

use crate::journal::Record;

const VERBS: [&str; 3] = ["create", "restore", "start"];

/// As much of the runtime's last message as fits on a line or two.
const NOTE_CHARS: usize = 160;

/// One cause of failure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) count: u64,
    /// The life with the latest failure, and what the runtime said of it.
    pub(crate) last: usize,
    pub(crate) note: String,
}

#[derive(Debug, Default)]
pub(crate) struct Failed {
    /// For each verb, the number of all operations.
    pub(crate) tried: BTreeMap<&'static str, u64>,
    /// By verb and cause.
    pub(crate) causes: BTreeMap<(&'static str, String), Cause>,
}

impl Failed {
    pub(crate) fn add(&mut self, record: &Record<'_>, life: usize) {
        let Some(verb) = VERBS.into_iter().find(|verb| *verb == &*record.verb) else { return };
        *self.tried.entry(verb).or_default() += 1;
        let Some(failure) = record.failure() else { return };
        let cause = self.causes.entry((verb, failure.to_owned())).or_default();
        cause.count += 1;
        cause.last = life;
        cause.note = record.note.chars().take(NOTE_CHARS).collect();
    }

    /// `5 of 11 creates failed`, for each verb that has failures.
    pub(crate) fn summary(&self) -> Option<String> {
        let one = |(verb, tried): (&&str, &u64)| {
            let causes = self.causes.iter().filter(|((of, _), _)| of == verb);
            let failed: u64 = causes.map(|(_, cause)| cause.count).sum();
            let plural = if *tried == 1 { "" } else { "s" };
            (failed > 0).then(|| format!("{failed} of {tried} {verb}{plural} failed"))
        };
        let parts: Vec<String> = self.tried.iter().filter_map(one).collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}
