//! One line, borrowed from the buffer it was read into. A million must be read in seconds, so
//! fields that neither a timeline nor a report shows are not parsed.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::time::UNIX_EPOCH;

use serde::de::{Deserialize, Deserializer, Visitor};

/// docs/journal.md describes the keys.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default)]
pub(crate) struct Record<'a> {
    pub(crate) v: u32,
    #[serde(borrow)]
    pub(crate) boot_id: Text<'a>,
    #[serde(borrow)]
    pub(crate) time: Text<'a>,
    pub(crate) mono_ns: u64,
    #[serde(borrow)]
    pub(crate) verb: Text<'a>,
    #[serde(borrow)]
    pub(crate) id: Text<'a>,
    #[serde(borrow)]
    pub(crate) signal: Text<'a>,
    pub(crate) stages: Stages,
    pub(crate) attempts: u32,
    #[serde(borrow)]
    pub(crate) tries: Vec<Try<'a>>,
    #[serde(borrow)]
    pub(crate) gave_up: Text<'a>,
    #[serde(borrow)]
    pub(crate) lock: Text<'a>,
    pub(crate) lock_wait_ms: f64,
    pub(crate) exit: Option<Exit>,
    #[serde(borrow)]
    pub(crate) verdict: Text<'a>,
    pub(crate) quota: Quotas,
    #[serde(borrow)]
    pub(crate) lifts: Vec<Lift<'a>>,
    /// Why nothing was lifted although something waited.
    #[serde(borrow)]
    pub(crate) lift_refused: Text<'a>,
    /// Only for verb `lift`: the verb of the operation that the lift outlived.
    #[serde(borrow)]
    pub(crate) of: Text<'a>,
    /// Written by the previous version.
    pub(crate) refills: Vec<Refill>,
    #[serde(borrow)]
    pub(crate) recovered: Vec<Text<'a>>,
    pub(crate) oom_kill: Option<u64>,
    /// Only in mode "observe".
    pub(crate) throttling: Option<Throttling>,
    #[serde(borrow)]
    pub(crate) pod: Pod<'a>,
    #[serde(borrow)]
    pub(crate) note: Text<'a>,
    /// Only for verbs `exit` and `oom`.
    #[serde(borrow)]
    pub(crate) exec_id: Text<'a>,
    #[serde(borrow)]
    pub(crate) source: Text<'a>,
}

/// In ms.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default)]
pub(crate) struct Stages {
    pub(crate) prepare: f64,
    pub(crate) lock: f64,
    pub(crate) started: Option<f64>,
    pub(crate) run: f64,
}

#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default)]
pub(crate) struct Try<'a> {
    #[serde(borrow)]
    pub(crate) failure: Text<'a>,
    pub(crate) delay_ms: f64,
}

/// Threads that ran before every fair one, and beyond every quota, until they were put back.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default)]
pub(crate) struct Lift<'a> {
    #[serde(borrow)]
    pub(crate) whose: Text<'a>,
    pub(crate) threads: u64,
    pub(crate) cpu_ms: f64,
    #[serde(borrow)]
    pub(crate) ended: Text<'a>,
}

impl Lift<'_> {
    /// A gift to the workload; everything else that is lifted works for the caller.
    pub(crate) fn is_of_the_program(&self) -> bool {
        &*self.whose == "program"
    }
}

#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default)]
pub(crate) struct Refill {
    pub(crate) gained_ms: f64,
}

/// An upper bound of what throttling has cost, in ms.
#[derive(Debug, Clone, Copy, Default, serde::Deserialize)]
#[serde(default)]
pub(crate) struct Throttling {
    pub(crate) throttled_ms: f64,
    pub(crate) cpu_ms: f64,
    pub(crate) explained_ms: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Exit {
    Code(i32),
    Signal(i32),
}

#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default)]
pub(crate) struct Quotas {
    pub(crate) container: Option<Quota>,
    pub(crate) pod: Option<Quota>,
}

#[derive(Debug, Clone, Copy, serde::Deserialize)]
pub(crate) struct Quota {
    quota_us: Option<i64>,
    period_us: u64,
}

#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default)]
pub(crate) struct Pod<'a> {
    #[serde(borrow)]
    pub(crate) namespace: Text<'a>,
    #[serde(borrow)]
    pub(crate) name: Text<'a>,
    #[serde(borrow)]
    pub(crate) uid: Text<'a>,
    #[serde(borrow)]
    pub(crate) container: Text<'a>,
}

impl Record<'_> {
    /// How long the caller waited, in ms.
    pub(crate) fn took_ms(&self) -> f64 {
        let delays: f64 = self.tries.iter().map(|attempt| attempt.delay_ms).sum();
        self.stages.prepare + self.stages.lock + self.stages.run + delays
    }

    /// When the caller's wait began, on the clock of `mono_ns`.
    pub(crate) fn began_ns(&self) -> u64 {
        self.mono_ns.saturating_sub((self.took_ms() * 1e6) as u64)
    }

    pub(crate) fn is_operation(&self) -> bool {
        !matches!(&*self.verb, "" | "exit" | "oom" | "hook" | "lift")
    }

    /// A lift that went on after its operation's record: not an operation of its own.
    pub(crate) fn is_late_lift(&self) -> bool {
        &*self.verb == "lift"
    }

    /// The CPU time of threads while they were lifted.
    pub(crate) fn lifted_ms(&self) -> f64 {
        self.lifts.iter().map(|lift| lift.cpu_ms).sum()
    }

    /// The part of it that the workload's own threads had.
    pub(crate) fn program_ms(&self) -> f64 {
        self.lifts.iter().filter(|it| it.is_of_the_program()).map(|lift| lift.cpu_ms).sum()
    }

    /// The same for the previous version, which gave the whole container more CPU time.
    pub(crate) fn refilled_ms(&self) -> f64 {
        self.refills.iter().map(|refill| refill.gained_ms).sum()
    }

    pub(crate) fn is_ok(&self) -> bool {
        &*self.verdict == "ok"
    }

    /// What the operation failed of: the last attempt's failure, else the verdict.
    pub(crate) fn failure(&self) -> Option<&str> {
        // The end of an operation that was handed over is not known.
        if matches!(&*self.verdict, "ok" | "handed over") {
            return None;
        }
        let last = self.tries.last().map(|attempt| &*attempt.failure);
        Some(last.filter(|failure| !failure.is_empty()).unwrap_or(&self.verdict))
    }

    /// Whether it was refused at least once because the container was paused.
    pub(crate) fn was_refused(&self) -> bool {
        let paused = |attempt: &Try<'_>| &*attempt.failure == "refused as paused";
        self.tries.iter().any(paused) || (!self.is_ok() && self.note.contains("paused"))
    }

    /// The smaller of the limits of container and pod, in CPUs.
    pub(crate) fn cpus(&self) -> Option<f64> {
        let limits = [self.quota.container, self.quota.pod].into_iter().flatten();
        limits.filter_map(Quota::cpus).min_by(f64::total_cmp)
    }

    /// The longer period of the limits of container and pod, in ms.
    pub(crate) fn period_ms(&self) -> Option<f64> {
        let limits = [self.quota.container, self.quota.pod].into_iter().flatten();
        limits.map(|limit| limit.period_us as f64 / 1000.0).max_by(f64::total_cmp)
    }
}

impl Quota {
    fn cpus(self) -> Option<f64> {
        Some(self.quota_us? as f64 / self.period_us.max(1) as f64)
    }
}

/// `Option<Cow<str>>` would be copied each time: serde borrows only a plain `Cow`. Null and absent
/// are empty.
#[derive(Debug, Clone, Default)]
pub(crate) struct Text<'a>(Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or null")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Text<'de>, E> {
        Ok(Text::default())
    }
}

/// Milliseconds since 1970, from a time as the journal writes it, always in UTC.
pub(crate) fn unix_ms(time: &str) -> Option<i64> {
    let time = humantime::parse_rfc3339_weak(time).ok()?;
    i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_date() {
        // date -ud ... +%s
        for (text, seconds) in [
            ("1970-01-01T00:00:00.000Z", 0),
            ("2000-02-29T12:00:00.000Z", 951_825_600),
            ("2026-11-21T05:56:08.000Z", 1_795_240_568),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
        ] {
            assert_eq!(unix_ms(text), Some(seconds * 1000), "{text}");
        }
        assert_eq!(unix_ms("1970-01-01T00:00:00.250Z"), Some(250));
        for wrong in [
            "yesterday",
            "9999-99-01T00:00:00.000Z",
            "2026-01-00T00:00:00Z",
            "-999-01-01T00:00:00Z",
        ] {
            assert_eq!(unix_ms(wrong), None, "{wrong}");
        }
        let last = unix_ms("9999-12-31T23:59:60.999Z").unwrap();
        assert_eq!(crate::output::time(last), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn escapes_null_and_absence() {
        let line =
            r#"{"v":1,"verb":null,"note":"a \"b\"","tries":[{"failure":"refused as paused"}]}"#;
        let record: Record<'_> = serde_json::from_str(line).unwrap();
        assert_eq!((&*record.verb, &*record.note, &*record.id), ("", "a \"b\"", ""));
        assert!(record.was_refused());
    }
}
