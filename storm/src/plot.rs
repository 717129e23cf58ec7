//! The plot of a report, as SVG: failures on the left, times on the right, both sides in each row.

use std::fmt::Write;

use crate::report::{Report, Verdict};
use crate::side::Side;
use crate::tally::{Series, Step};

const WIDTH: f64 = 1120.0;
const MARGIN: f64 = 28.0;
const TOP: f64 = 132.0;
const ROW: f64 = 56.0;
const BAR: f64 = 14.0;
/// Left edge and width of the panels.
const FAILED: (f64, f64) = (112.0, 330.0);
const TIMES: (f64, f64) = (600.0, 440.0);
const FOOT: f64 = 112.0;

const INK: &str = "#1f2328";
const FAINT: &str = "#6e7781";
const GRID: &str = "#e4e7eb";
/// Distinguishable for everybody, and in print.
const COLORS: [&str; 2] = ["#d55e00", "#0072b2"];

/// kubelet's time limit for a probe.
const PROBE_LIMIT_MS: f64 = 1000.0;

pub(crate) fn svg(report: &Report) -> String {
    let rows = Step::ALL.len() as f64;
    let height = TOP + rows * ROW + FOOT;
    let mut drawing = Drawing { text: String::new() };
    drawing.raw(&format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" font-family="Inter, 'Helvetica Neue', Helvetica, Arial, 'DejaVu Sans', sans-serif">"#
    ));
    drawing.raw(&format!(r##"<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>"##));
    heading(&mut drawing, report);
    let scale = Scale::of(report);
    axes(&mut drawing, &scale, rows);
    for (at, step) in Step::ALL.into_iter().enumerate() {
        row(&mut drawing, report, &scale, step, TOP + at as f64 * ROW);
    }
    foot(&mut drawing, report, TOP + rows * ROW);
    drawing.raw("</svg>");
    drawing.text
}

struct Drawing {
    text: String,
}

/// How a text is set.
struct Style {
    size: f64,
    color: &'static str,
    anchor: &'static str,
    bold: bool,
}

const PLAIN: Style = Style { size: 13.0, color: INK, anchor: "start", bold: false };
const SMALL: Style = Style { size: 11.5, color: FAINT, anchor: "start", bold: false };

impl Drawing {
    fn raw(&mut self, line: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{line}");
    }

    fn write(&mut self, x: f64, y: f64, style: &Style, words: &str) {
        let Style { size, color, anchor, bold } = style;
        let weight = if *bold { " font-weight=\"600\"" } else { "" };
        let words = escaped(words);
        self.raw(&format!(
            r#"<text x="{x:.1}" y="{y:.1}" font-size="{size}" fill="{color}" text-anchor="{anchor}"{weight}>{words}</text>"#
        ));
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), color: &str, width: f64) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.raw(&format!(
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{color}" stroke-width="{width}" stroke-linecap="round"/>"#
        ));
    }

    fn bar(&mut self, at: (f64, f64), size: (f64, f64), color: &str) {
        let ((x, y), (width, height)) = (at, size);
        self.raw(&format!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" rx="2" fill="{color}"/>"#
        ));
    }

    fn dot(&mut self, at: (f64, f64), radius: f64, color: &str, filled: bool) {
        let (x, y) = at;
        let fill = if filled { color } else { "#ffffff" };
        self.raw(&format!(
            r#"<circle cx="{x:.1}" cy="{y:.1}" r="{radius}" fill="{fill}" stroke="{color}" stroke-width="2"/>"#
        ));
    }
}

/// The axis of times, in whole decades.
struct Scale {
    from: f64,
    to: f64,
}

impl Scale {
    fn of(report: &Report) -> Scale {
        let times = report.sides.iter().flat_map(|side| {
            side.sum.steps.values().flat_map(|series| [series.p50_ms, series.p99_ms])
        });
        let (mut least, mut most) = (1.0_f64, 1000.0_f64);
        for time in times.filter(|&time| time > 0.0) {
            (least, most) = (least.min(time), most.max(time));
        }
        Scale { from: least.log10().floor().max(-2.0), to: most.log10().ceil() }
    }

    fn x(&self, ms: f64) -> f64 {
        let part = (ms.max(1e-9).log10() - self.from) / (self.to - self.from);
        TIMES.0 + TIMES.1 * part.clamp(0.0, 1.0)
    }

    fn decades(&self) -> impl Iterator<Item = f64> {
        (self.from as i32..=self.to as i32).map(|power| 10_f64.powi(power))
    }
}

fn heading(drawing: &mut Drawing, report: &Report) {
    let Some(side) = report.sides.first() else { return };
    let options = &side.options;
    let server = side.server.split('~').next().unwrap_or_default();
    let kills =
        if options.kills > 0 { format!(", {} kills", options.kills) } else { String::new() };
    let title = Style { size: 21.0, bold: true, ..PLAIN };
    drawing.write(MARGIN, 40.0, &title, &format!("Resize storm, {server}{kills}"));
    let minutes = options.seconds / 60.0;
    let shape = format!(
        "{} pods at a time with limits of 5m to 50m, {} containers, {} busy threads; resized every {} s, probed every {} s; {minutes:.1} min a side, seed {}",
        options.pods,
        options.containers,
        options.threads,
        options.resize_period,
        options.probe_period,
        options.seed,
    );
    drawing.write(MARGIN, 62.0, &Style { size: 12.5, ..SMALL }, &shape);
    for (at, side) in report.sides.iter().enumerate() {
        let x = WIDTH - MARGIN - 190.0 + at as f64 * 90.0;
        drawing.bar((x, 28.0), (14.0, 14.0), color(side));
        drawing.write(x + 20.0, 40.0, &Style { bold: true, ..PLAIN }, &side.options.label);
    }
}

fn axes(drawing: &mut Drawing, scale: &Scale, rows: f64) {
    let head = Style { bold: true, ..PLAIN };
    let bottom = TOP + rows * ROW - 6.0;
    drawing.write(FAILED.0, TOP - 34.0, &head, "Failed, % of all attempts");
    drawing.write(TIMES.0, TOP - 34.0, &head, "Time, ms");
    let middle = Style { anchor: "middle", ..SMALL };
    for percent in [0, 25, 50, 75, 100] {
        let x = FAILED.0 + FAILED.1 * f64::from(percent) / 100.0;
        drawing.line((x, TOP - 8.0), (x, bottom), GRID, 1.0);
        drawing.write(x, TOP - 14.0, &middle, &percent.to_string());
    }
    for decade in scale.decades() {
        let x = scale.x(decade);
        drawing.line((x, TOP - 8.0), (x, bottom), GRID, 1.0);
        drawing.write(x, TOP - 14.0, &middle, &format!("{decade}"));
    }
    legend(drawing, TIMES.0 + 150.0, TOP - 38.0);
}

fn legend(drawing: &mut Drawing, x: f64, y: f64) {
    drawing.line((x, y), (x + 60.0, y), FAINT, 2.0);
    drawing.dot((x, y), 4.5, FAINT, true);
    drawing.dot((x + 40.0, y), 3.5, FAINT, false);
    drawing.line((x + 60.0, y - 5.0), (x + 60.0, y + 5.0), FAINT, 2.0);
    drawing.write(x + 72.0, y + 4.0, &SMALL, "p50, p95, p99, failures included");
}

fn row(drawing: &mut Drawing, report: &Report, scale: &Scale, step: Step, top: f64) {
    let middle = top + (ROW - 8.0) / 2.0;
    let name = Style { anchor: "end", bold: true, ..PLAIN };
    drawing.write(FAILED.0 - 14.0, middle + 4.0, &name, step.name());
    if step == Step::Exec {
        let x = scale.x(PROBE_LIMIT_MS);
        drawing.line((x, top), (x, top + ROW - 8.0), "#b31d28", 1.5);
        drawing.write(x + 5.0, top + 6.0, &Style { color: "#b31d28", ..SMALL }, "limit");
    }
    let count = report.sides.len();
    for (at, side) in report.sides.iter().enumerate() {
        let centre = middle + (at as f64 - (count as f64 - 1.0) / 2.0) * (BAR + 6.0);
        let series = side.sum.of(step);
        failures(drawing, &series, centre, color(side));
        times(drawing, &series, scale, centre, color(side));
    }
}

fn failures(drawing: &mut Drawing, series: &Series, centre: f64, color: &str) {
    let share = series.failed as f64 / series.attempts.max(1) as f64;
    // Zero failures get a mark too, or it would look like a missing measurement.
    let width = (FAILED.1 * share).max(if series.attempts > 0 { 2.0 } else { 0.0 });
    drawing.bar((FAILED.0, centre - BAR / 2.0), (width, BAR), color);
    let words = match (series.attempts, series.failed) {
        (0, _) => "none made".to_owned(),
        (attempts, failed) => format!("{failed} of {attempts}"),
    };
    let style = if series.failed > 0 { Style { color: INK, ..SMALL } } else { SMALL };
    drawing.write(FAILED.0 + width + 8.0, centre + 4.0, &style, &words);
}

fn times(drawing: &mut Drawing, series: &Series, scale: &Scale, centre: f64, color: &str) {
    if series.attempts == 0 {
        return;
    }
    let [p50, p95, p99] = [series.p50_ms, series.p95_ms, series.p99_ms].map(|ms| scale.x(ms));
    drawing.line((p50, centre), (p99, centre), color, 2.0);
    drawing.line((p99, centre - 5.0), (p99, centre + 5.0), color, 2.0);
    drawing.dot((p95, centre), 3.5, color, false);
    drawing.dot((p50, centre), 4.5, color, true);
    drawing.write(p99 + 8.0, centre + 4.0, &SMALL, &in_words(series.p99_ms));
    let before = Style { anchor: "end", ..SMALL };
    drawing.write(p50 - 9.0, centre + 4.0, &before, &in_words(series.p50_ms));
}

fn in_words(ms: f64) -> String {
    match ms {
        ms if ms >= 10_000.0 => format!("{:.0} s", ms / 1000.0),
        ms if ms >= 1000.0 => format!("{:.1} s", ms / 1000.0),
        ms if ms >= 10.0 => format!("{ms:.0}"),
        ms => format!("{ms:.1}"),
    }
}

fn foot(drawing: &mut Drawing, report: &Report, top: f64) {
    drawing.line((MARGIN, top + 8.0), (WIDTH - MARGIN, top + 8.0), GRID, 1.0);
    for (at, side) in report.sides.iter().enumerate() {
        let y = top + 34.0 + at as f64 * 22.0;
        drawing.bar((MARGIN, y - 10.0), (10.0, 10.0), color(side));
        drawing.write(MARGIN + 18.0, y, &PLAIN, &summary(side));
    }
    let (words, color) = match &report.verdict {
        Verdict::Shown => ("Bare fails, wrapped does not.", "#1a7f37"),
        Verdict::Done => ("", INK),
        Verdict::NotShown => ("Not shown: nothing failed bare.", "#9a6700"),
        Verdict::Failed(_) => ("The wrapped side has failed.", "#b31d28"),
    };
    let y = top + 40.0 + report.sides.len() as f64 * 22.0;
    drawing.write(MARGIN, y, &Style { color, bold: true, ..PLAIN }, words);
}

fn summary(side: &Side) -> String {
    let sum = &side.sum;
    let mut words = format!(
        "{} pods, {} restarts, {} probes took over 1 s, {} times 3 in a row failed",
        sum.pods,
        sum.restarted(),
        sum.late_probes,
        sum.unhealthy
    );
    if let Some(budget) = &side.budget {
        let spent: u64 = budget.endings.keys().map(|verb| budget.spent(verb)).sum();
        let _ = write!(words, ", {spent} of {} operations met a spent budget", budget.operations);
    }
    if !side.afterwards.is_empty() {
        let _ = write!(words, ", {} things wrong afterwards", side.afterwards.len());
    }
    words
}

fn color(side: &Side) -> &'static str {
    COLORS[usize::from(side.options.label == "wrapped")]
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_say_cannot_break_the_drawing() {
        assert_eq!(escaped("a<b> & \"c\""), "a&lt;b&gt; &amp; &quot;c&quot;");
    }

    #[test]
    fn times_are_set_in_a_few_characters() {
        let all = [0.34, 9.96, 12.4, 999.6, 1234.0, 12_345.0].map(in_words);
        assert_eq!(all, ["0.3", "10.0", "12", "1000", "1.2 s", "12 s"]);
    }
}
