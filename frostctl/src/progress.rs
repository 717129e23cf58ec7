//! A command's progress: one line on standard error, only on a terminal, and only if it takes long.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Nobody wonders during a shorter wait.
const LONG: Duration = Duration::from_secs(2);
const REFRESH: Duration = Duration::from_millis(100);

/// For a terminal that does not report its width.
const COLUMNS: usize = 80;

/// Moves to the first column and clears the line.
const CLEAR: &str = "\r\x1b[K";

/// The line is cleared when this is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    began: Instant,
    shown: Option<Instant>,
    is_terminal: bool,
}

impl Progress {
    pub(crate) fn new() -> Progress {
        let is_terminal = std::io::stderr().is_terminal();
        Progress { began: Instant::now(), shown: None, is_terminal }
    }

    /// Calls `text` only if it is shown now: the caller may call this a million times.
    pub(crate) fn show(&mut self, text: impl FnOnce() -> String) {
        let now = Instant::now();
        if !self.is_terminal || !is_due(self.began, self.shown, now) {
            return;
        }
        self.shown = Some(now);
        write(&format!("{CLEAR}{}", cut(&text(), columns())));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            write(CLEAR);
        }
    }
}

/// For work that cannot measure its progress: shows the elapsed time.
pub(crate) fn while_at<T>(what: &str, work: impl FnOnce() -> T) -> T {
    if !std::io::stderr().is_terminal() {
        return work();
    }
    let (working, end) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut progress = Progress::new();
            while end.recv_timeout(REFRESH) == Err(RecvTimeoutError::Timeout) {
                let seconds = progress.began.elapsed().as_secs();
                progress.show(|| format!("{what}, {seconds} s"));
            }
        });
        let _working = working;
        work()
    })
}

fn write(text: &str) {
    // If that fails, there is nobody to tell.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

fn is_due(began: Instant, shown: Option<Instant>, now: Instant) -> bool {
    let since = |time| now.saturating_duration_since(time);
    since(began) >= LONG && shown.is_none_or(|shown| since(shown) >= REFRESH)
}

fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stderr());
    size.ok().map(|size| usize::from(size.ws_col)).filter(|it| *it > 0).unwrap_or(COLUMNS)
}

/// A line that wraps cannot be cleared, so one column stays free.
fn cut(text: &str, columns: usize) -> String {
    text.chars().filter(|it| !it.is_control()).take(columns.saturating_sub(1)).collect()
}

/// The progress of reading a known number of bytes.
#[derive(Debug)]
pub(crate) struct Reading {
    progress: Progress,
    done: u64,
    all: u64,
}

impl Reading {
    pub(crate) fn of(all: u64) -> Reading {
        Reading { progress: Progress::new(), done: 0, all }
    }

    pub(crate) fn add(&mut self, bytes: usize) {
        self.done = self.done.saturating_add(bytes as u64);
        let (done, all) = (self.done, self.all);
        self.progress.show(|| of_bytes(done, all));
    }
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&of_bytes(self.done, self.all))
    }
}

fn of_bytes(done: u64, all: u64) -> String {
    const MIB: u64 = 1 << 20;
    // The last line may lack its newline, and a file may have grown.
    let done = done.min(all);
    let percent = u128::from(done) * 100 / u128::from(all.max(1));
    format!("read {} of {} MiB, {percent} %", done / MIB, all.div_ceil(MIB))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_short_says_nothing_and_what_is_long_not_too_often() {
        let began = Instant::now();
        let at = |ms: u64| began + Duration::from_millis(ms);
        for (now, shown, due) in [
            (0, None, false),
            (1999, None, false),
            (2000, None, true),
            (2050, Some(2000), false),
            (2100, Some(2000), true),
        ] {
            assert_eq!(is_due(began, shown.map(at), at(now)), due, "{now} {shown:?}");
        }
    }

    #[test]
    fn a_line_is_never_as_wide_as_the_terminal() {
        assert_eq!(cut("0123456789", 10), "012345678");
        assert_eq!(cut("01\u{1b}[31m23\n4", 40), "01[31m234");
        assert_eq!(cut("0", 0), "");
    }

    #[test]
    fn bytes_are_never_more_than_all_of_them() {
        assert_eq!(of_bytes(0, 0), "read 0 of 0 MiB, 0 %");
        assert_eq!(of_bytes(3 << 20, 7 << 20), "read 3 of 7 MiB, 42 %");
        assert_eq!(of_bytes(u64::MAX, 1), "read 0 of 1 MiB, 100 %");
    }
}
