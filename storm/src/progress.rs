//! The progress of a storm, shown only on a terminal.

use std::io::IsTerminal;
use std::sync::atomic::Ordering;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::storm::Storm;
use crate::tally::Step;

const REFRESH: Duration = Duration::from_millis(250);
const SHOWN: [Step; 5] = [Step::Sandbox, Step::Create, Step::Start, Step::Update, Step::Exec];

#[derive(Debug)]
pub(crate) struct Progress<'a> {
    storm: &'a Storm,
    bar: ProgressBar,
}

impl<'a> Progress<'a> {
    pub(crate) fn new(storm: &'a Storm) -> Progress<'a> {
        // indicatif would also check TERM, which a node does not set.
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(storm.options.seconds.ceil() as u64), target);
        let style = "{prefix:>8} {bar:24.cyan} {pos}/{len} s  {msg}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        bar.set_prefix(storm.options.label.clone());
        Progress { storm, bar }
    }

    pub(crate) fn show_until_over(&self) {
        while !self.storm.clock.is_over() {
            self.bar.set_position(self.storm.clock.began.elapsed().as_secs());
            self.bar.set_message(self.message());
            std::thread::sleep(REFRESH);
        }
        self.bar.finish_and_clear();
    }

    fn message(&self) -> String {
        let steps = SHOWN.map(|step| {
            let (attempts, failed) = self.storm.tally.so_far(step);
            let failed = if failed > 0 { format!(" ({failed} failed)") } else { String::new() };
            format!("{step} {attempts}{failed}")
        });
        format!("{} pods  {}", self.storm.living.load(Ordering::Relaxed), steps.join("  "))
    }
}
