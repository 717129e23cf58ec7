//! Where all commands print: JSON or text, tables, colour on a terminal only.

use std::io::{IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

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

    /// One JSON document, or with `--json` unset what `text` writes.
    pub(crate) fn print<T: Serialize>(
        &self,
        value: &T,
        text: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
    ) -> anyhow::Result<()> {
        let mut stdout = anstream::stdout().lock();
        if self.json {
            serde_json::to_writer_pretty(&mut stdout, value)?;
            writeln!(stdout)?;
        } else {
            text(&mut stdout)?;
        }
        stdout.flush()?;
        Ok(())
    }

    /// On standard error, with its causes.
    #[allow(clippy::unused_self, reason = "said through the same hand as all else")]
    pub(crate) fn complain(&self, error: &anyhow::Error) {
        let label = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
        // Nobody is left to tell if that fails.
        let _ = writeln!(anstream::stderr(), "{label}frostctl:{label:#} {error:#}");
    }
}

/// On standard error, beside what is printed.
pub(crate) fn note(text: &str) {
    // Nobody is left to tell if that fails.
    let _ = writeln!(anstream::stderr(), "frostctl: {text}");
}

/// How far something is that takes long; for a person who waits, and not for a pipe.
pub(crate) fn progress(text: &str) {
    if std::io::stderr().is_terminal() {
        note(text);
    }
}

/// Columns with two spaces between them; wrapped to the terminal's width, and on a pipe not at all.
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

/// Text from a journal, without what a terminal would obey.
pub(crate) fn plain(text: &str) -> String {
    const BYTES: usize = 4000;
    cgroup::text::one_line(text.as_ref(), BYTES)
}

/// `frostctl ... | head` is no failure.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        let json =
            cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
        io.or(json) == Some(std::io::ErrorKind::BrokenPipe)
    })
}
