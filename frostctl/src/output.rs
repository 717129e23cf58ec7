//! The output of all commands: JSON or text, tables, and colour only on a terminal.

use std::io::{ErrorKind, IsTerminal, Write};
use std::ops::Range;
use std::os::fd::AsFd;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use anyhow::Context;
use comfy_table::{
    Cell, CellAlignment, Column, ColumnConstraint, ContentArrangement, Row, Table, Width, presets,
};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use serde::Serialize;

const NOT_WRITTEN: &str = "cannot write to standard output";

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool, color: Color) -> Output {
        match color {
            Color::Auto => {}
            Color::Always => anstream::ColorChoice::Always.write_global(),
            Color::Never => anstream::ColorChoice::Never.write_global(),
        }
        Output { json }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Prints one JSON document, or without `--json` what `text` writes.
    pub(crate) fn print<T: Serialize>(
        &self,
        value: &T,
        text: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
    ) -> anyhow::Result<()> {
        print(|stdout| {
            if !self.json {
                return text(stdout);
            }
            serde_json::to_writer_pretty(&mut *stdout, value)?;
            writeln!(stdout)
        })
    }
}

/// Prints an error with its causes on standard error.
pub(crate) fn complain(error: &anyhow::Error) {
    let label = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
    // If that fails, there is nobody to tell.
    let _ = writeln!(anstream::stderr(), "{label}frostctl:{label:#} {error:#}");
}

/// A reader that leaves early (`frostctl audit | head -1`) is no failure: the exit status stays the
/// command's result.
pub(crate) fn print(
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> anyhow::Result<()> {
    let mut stdout = anstream::stdout().lock();
    match write(&mut stdout).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.context(NOT_WRITTEN),
    }
}

/// Prints a note on standard error, apart from the output.
pub(crate) fn note(text: &str) {
    // If that fails, there is nobody to tell.
    let _ = writeln!(anstream::stderr(), "frostctl: {text}");
}

/// Progress of something that takes long; for a person who waits, not for a pipe.
pub(crate) fn progress(text: &str) {
    if std::io::stderr().is_terminal() {
        note(text);
    }
}

/// Columns with two spaces between them; wrapped to the terminal's width, but not on a pipe.
pub(crate) fn table<const N: usize>(head: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(head);
    let arrangement = if std::io::stdout().is_terminal() {
        ContentArrangement::Dynamic
    } else {
        ContentArrangement::Disabled
    };
    table.set_content_arrangement(arrangement);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// Numbers stand below each other.
pub(crate) fn right(table: &mut Table, columns: Range<usize>) {
    for index in columns {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// The lines of a table. If it does not fit the terminal, words would be broken. So empty columns
/// are hidden first; then each row becomes several lines, one per cell.
pub(crate) fn fitted(table: &mut Table) -> String {
    match table.width().filter(|_| table.is_tty()) {
        Some(width) => fit(table, width.into()),
        None => table.trim_fmt(),
    }
}

fn fit(table: &mut Table, width: usize) -> String {
    let fits = |table: &Table| {
        narrowest(table).iter().flatten().map(|it| usize::from(*it)).sum::<usize>() <= width
    };
    if !fits(table) {
        for index in 1..table.column_count() {
            let says_nothing = table.column_cells_iter(index).flatten().all(is_nothing);
            if let Some(column) = table.column_mut(index).filter(|_| says_nothing) {
                column.set_constraint(ColumnConstraint::Hidden);
            }
        }
    }
    if !fits(table) {
        return listed(table);
    }
    let widths = narrowest(table);
    for (column, width) in table.column_iter_mut().zip(widths) {
        if let Some(width) = width {
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(width)));
        }
    }
    table.trim_fmt()
}

/// The width of each column below which a word is broken; `None` for a hidden column.
fn narrowest(table: &Table) -> Vec<Option<u16>> {
    let longest_word = |column: &Column| {
        let cells = table.column_cells_with_header_iter(column.index).flatten();
        let words = |cell: &Cell| cell.content().split(' ').map(|it| it.chars().count()).max();
        let longest = u16::try_from(cells.filter_map(words).max().unwrap_or(0));
        longest.unwrap_or(u16::MAX).saturating_add(column.padding_width())
    };
    let width = |column: &Column| (!column.is_hidden()).then(|| longest_word(column));
    table.column_iter().map(width).collect()
}

fn is_nothing(cell: &Cell) -> bool {
    matches!(cell.content().as_str(), "" | "0" | "0.0")
}

/// A paragraph for each row.
fn listed(table: &Table) -> String {
    let heads: Vec<String> =
        table.header().into_iter().flat_map(Row::cell_iter).map(Cell::content).collect();
    let longest = heads.iter().map(|head| head.chars().count()).max().unwrap_or(0);
    let paragraph = |row: &Row| {
        let cells = heads.iter().zip(row.cell_iter()).filter(|(_, cell)| !is_nothing(cell));
        let lines = cells.map(|(head, cell)| format!("{head:<longest$}  {}", cell.content()));
        lines.collect::<Vec<_>>().join("\n")
    };
    table.row_iter().map(paragraph).collect::<Vec<_>>().join("\n\n")
}

/// `1 line`, `2 lines`.
pub(crate) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Text from a journal, without characters that control a terminal.
pub(crate) fn plain(text: &str) -> String {
    const BYTES: usize = 4000;
    cgroup::text::one_line(text.as_ref(), BYTES)
}

/// Waits this long, or until standard output has no reader: a command that prints only on events
/// would not notice otherwise.
pub(crate) fn has_no_reader_after(wait: Duration) -> anyhow::Result<bool> {
    let stdout = std::io::stdout();
    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    let wait = PollTimeout::try_from(wait)?;
    match nix::poll::poll(&mut fds, wait) {
        Ok(_) | Err(Errno::EINTR) => {
            let gone = PollFlags::POLLERR | PollFlags::POLLHUP;
            Ok(fds[0].revents().is_some_and(|events| events.intersects(gone)))
        }
        Err(error) => Err(error.into()),
    }
}

/// Three digits, as a person would say it.
pub(crate) fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{:.0} ms", s * 1000.0),
        s if s < 10.0 => format!("{s:.2} s"),
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7200.0 => format!("{:.1} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86400.0),
    }
}

pub(crate) fn time(unix_ms: i64) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(unix_ms.max(0) as u64);
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Table {
        let mut table = table(["VERB", "RETRIES", "LONGEST/ms"]);
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.add_row(["create", "0", "51.0"]).add_row(["exec", "0", "7.5"]);
        table
    }

    #[test]
    fn no_word_is_broken_however_narrow_the_terminal() {
        for width in [8, 19, 20, 25, 40, 200] {
            let mut table = three();
            table.set_width(width);
            let text = fit(&mut table, width.into());
            for word in ["VERB", "LONGEST/ms", "create", "51.0"] {
                assert!(text.contains(word), "{width}:\n{text}");
            }
            assert_eq!(text.contains("RETRIES"), width >= 40, "{width}:\n{text}");
            assert_eq!(text.contains("VERB        create\nLONGEST/ms  51.0"), width < 20, "{text}");
        }
        // A column with spare room still gives some to one without.
        let mut told = table(["WHAT", "START"]);
        told.set_content_arrangement(ContentArrangement::Dynamic);
        told.add_row(["many short words that can well be wrapped", "2026-01-01T00:00:10Z"]);
        told.set_width(32);
        assert!(fit(&mut told, 32).contains("2026-01-01T00:00:10Z"), "{}", fit(&mut told, 32));
        let mut broken = three();
        assert!(!broken.set_width(20).trim_fmt().contains("LONGEST/ms"), "the control");
    }
}
