//! `frostctl status`: whether frostlock works on this node.
//!
//! The facts are gathered once ([`gather`]), each for a bounded time. The judgement uses only the
//! facts ([`judge`]). Changes nothing.

use std::io::Write;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::exit::Exit;
use crate::output::{Output, plain};

mod docker;
mod engines;
mod facts;
mod gather;
mod judge;
mod lately;

use facts::Facts;
use judge::{Answer, Judged, Verdict};

/// Say whether frostlock works on this node: the first command after an install
///
/// Answers ten questions: whether frostlock is installed, configured, and loaded by the running
/// engine; its mode and its off switch; the runtime that it will run; its state directory; how many
/// containers go through it; its last record, and what it did in the last 24 h. A question without
/// an answer is "not checked", with the reason, and counts as left to do.
#[derive(Debug, clap::Args)]
#[command(after_help = concat!(
    "Exit status:\n",
    "  0  frostlock works\n",
    "  1  something is left to do: an install, a restart, a mistake to mend, a question not checked\n",
    "  2  frostlock is broken: no container can be made through it, or it does nothing useful\n",
    "  3  there is no answer; standard error says why\n\n",
    "Examples:\n",
    "  frostctl status                       as root; otherwise much is not checked\n",
    "  frostctl status --json | jq -r .verdict"
))]
pub(crate) struct Status;

#[derive(Debug, Serialize)]
struct Report {
    verdict: Verdict,
    answers: Vec<Answer>,
    facts: Facts,
}

impl Status {
    #[allow(clippy::unused_self, reason = "a command like the others")]
    pub(crate) fn run(&self, output: &Output) -> anyhow::Result<Exit> {
        let facts = gather::facts();
        let answers = judge::judge(&facts);
        let report = Report { verdict: Verdict::of(&answers), answers, facts };
        output.print(&report, |out| report.write(out))?;
        Ok(report.verdict.exit())
    }
}

impl Report {
    fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let style = Style::new().bold().fg_color(Some(color(self.worst()).into()));
        writeln!(out, "{style}{}{style:#}\n", self.headline())?;
        for answer in &self.answers {
            let style = Style::new().fg_color(Some(color(answer.judged).into()));
            let question = format!("{:<12}", answer.question);
            writeln!(out, "{style}{question}{style:#} {}", plain(&answer.answer))?;
            if let Some(next) = &answer.next {
                writeln!(out, "{:<12} next: {}", "", plain(next))?;
            }
        }
        Ok(())
    }

    fn worst(&self) -> Judged {
        self.answers.iter().map(|it| it.judged).max().unwrap_or(Judged::Moot)
    }

    fn headline(&self) -> String {
        let names = |judged| {
            let of = self.answers.iter().filter(|it| it.judged == judged);
            of.map(|it| it.question).collect::<Vec<_>>().join(", ")
        };
        let said = match self.verdict {
            Verdict::Works => return "frostlock works".to_owned(),
            Verdict::NotKnown => "frostlock: not known whether it works".to_owned(),
            Verdict::Owed => format!("frostlock: something is left to do: {}", names(Judged::Owed)),
            Verdict::Broken => format!("frostlock is broken: {}", names(Judged::Broken)),
        };
        match names(Judged::NotChecked) {
            none if none.is_empty() => said,
            unseen => format!("{said}; not checked: {unseen}"),
        }
    }
}

fn color(judged: Judged) -> AnsiColor {
    match judged {
        Judged::Broken => AnsiColor::Red,
        Judged::Owed | Judged::NotChecked => AnsiColor::Yellow,
        Judged::Good => AnsiColor::Green,
        Judged::Moot => AnsiColor::White,
    }
}
