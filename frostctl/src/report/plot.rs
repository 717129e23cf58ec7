//! Plots as inline SVG. Colours are the page's, by class, so that light and dark need one drawing.

use std::fmt::Write;

use super::findings::Finding;
use super::tally::{Minute, Numbers, Verb};
use super::text::time;
use crate::history::seconds;

const WIDTH: f64 = 720.0;
const BINS: usize = 72;

/// Operations over time, stacked: clean, helped, failed.
pub(super) fn over_time(numbers: &Numbers) -> String {
    const HEIGHT: f64 = 150.0;
    let bins = bins(numbers);
    let top = bins.iter().map(|bin| bin.clean + bin.helped + bin.failed).max().unwrap_or(0).max(1);
    let width = WIDTH / bins.len() as f64;
    let mut svg = open(HEIGHT + 24.0, "operations over time");
    for (index, bin) in bins.iter().enumerate() {
        let mut y = HEIGHT;
        for (count, class) in [(bin.clean, "clean"), (bin.helped, "helped"), (bin.failed, "failed")]
        {
            let mut height = (HEIGHT - 16.0) * count as f64 / top as f64;
            if count > 0 {
                // One failure among ten thousand is to be seen.
                height = height.max(2.0);
            }
            y -= height;
            let x = index as f64 * width;
            let _ = write!(
                svg,
                "<rect class='{class}' x='{x:.1}' y='{y:.1}' width='{:.1}' \
                height='{height:.1}'><title>{count} {class}</title></rect>",
                (width - 1.0).max(0.8)
            );
        }
    }
    let _ = write!(
        svg,
        "<text x='0' y='11'>{top}</text>\
        <line class='axis' x1='0' x2='{WIDTH}' y1='{HEIGHT}' y2='{HEIGHT}'/>\
        <text x='0' y='{0}'>{1}</text><text class='end' x='{WIDTH}' y='{0}'>{2}</text></svg>",
        HEIGHT + 18.0,
        time(numbers.first_ms),
        time(numbers.last_ms)
    );
    svg
}

fn bins(numbers: &Numbers) -> Vec<Minute> {
    let first = numbers.minutes.keys().next().copied().unwrap_or(0);
    let last = numbers.minutes.keys().last().copied().unwrap_or(0);
    let span = (last - first + 1).max(1);
    let count = (span as usize).min(BINS);
    let mut bins = vec![Minute::default(); count];
    for (minute, counts) in &numbers.minutes {
        let index = ((minute - first) as i128 * count as i128 / span as i128) as usize;
        if let Some(bin) = bins.get_mut(index) {
            bin.clean += counts.clean;
            bin.helped += counts.helped;
            bin.failed += counts.failed;
        }
    }
    bins
}

/// For each verb p50, p95, p99 and the longest on one logarithmic axis.
pub(super) fn durations(verbs: &[Verb]) -> String {
    const LEFT: f64 = 90.0;
    const ROW: f64 = 30.0;
    let longest = verbs.iter().map(|verb| verb.max_ms).fold(10.0, f64::max);
    let decades = longest.log10().ceil().max(1.0);
    let x =
        |ms: f64| LEFT + (WIDTH - LEFT - 20.0) * (ms.max(1.0).log10() / decades).clamp(0.0, 1.0);
    let height = ROW * verbs.len() as f64;
    let mut svg = open(height + 24.0, "how long operations took");
    for decade in 0..=decades as i32 {
        let at = x(10f64.powi(decade));
        let label = seconds(10f64.powi(decade) / 1000.0).replace(".00", "").replace(".0 ", " ");
        let _ = write!(
            svg,
            "<line class='grid' x1='{at:.1}' x2='{at:.1}' y1='0' y2='{height}'/>\
            <text class='middle' x='{at:.1}' y='{}'>{label}</text>",
            height + 18.0
        );
    }
    for (index, verb) in verbs.iter().enumerate() {
        let y = ROW * index as f64 + ROW / 2.0;
        let (p50, p95, p99, max) = (x(verb.p50_ms), x(verb.p95_ms), x(verb.p99_ms), x(verb.max_ms));
        let _ = write!(
            svg,
            "<text class='end' x='{}' y='{:.1}'>{}</text>",
            LEFT - 12.0,
            y + 4.0,
            escape(&verb.verb)
        );
        let _ = write!(
            svg,
            "<g><title>{}: p50 {:.1} ms, p95 {:.1} ms, p99 {:.1} ms, max {:.1} ms</title>\
            <line class='whisker' x1='{p50:.1}' x2='{max:.1}' y1='{y}' y2='{y}'/>\
            <rect class='range' x='{p50:.1}' y='{:.1}' width='{:.1}' height='10' rx='5'/>\
            <circle class='p50' cx='{p50:.1}' cy='{y}' r='5'/>\
            <line class='p99' x1='{p99:.1}' x2='{p99:.1}' y1='{:.1}' y2='{:.1}'/>\
            <circle class='max' cx='{max:.1}' cy='{y}' r='2.5'/></g>",
            escape(&verb.verb),
            verb.p50_ms,
            verb.p95_ms,
            verb.p99_ms,
            verb.max_ms,
            y - 5.0,
            (p95 - p50).max(2.0),
            y - 8.0,
            y + 8.0
        );
    }
    svg + "</svg>"
}

/// The lives of one container as bars, with the kill, readiness, and the time that would have held.
pub(super) fn lives(finding: &Finding) -> String {
    const LEFT: f64 = 30.0;
    const ROW: f64 = 18.0;
    let budget = finding.probe.as_ref().map(|probe| probe.seconds as f64);
    let longest = finding.lives.iter().map(|life| life.age_s).fold(0.1, f64::max);
    // A life that goes on for hours would make a start invisible.
    let typical = finding.lives.iter().filter(|life| !life.end.is_empty()).map(|life| life.age_s);
    let typical = typical.fold(0.0, f64::max).max(budget.unwrap_or(0.0)).max(0.1);
    let end = longest.min(typical * 1.3).max(budget.map_or(0.0, |budget| budget * 1.08));
    let x = |s: f64| LEFT + (WIDTH - LEFT - 160.0) * (s / end).min(1.0);
    let height = ROW * finding.lives.len() as f64 + 4.0;
    let mut svg = open(height + if budget.is_some() { 22.0 } else { 0.0 }, "lives");
    for (index, life) in finding.lives.iter().enumerate() {
        let y = ROW * index as f64 + 4.0;
        let class = match life.end {
            "killed" | "out of memory" => "failed",
            "by itself" => "helped",
            _ => "clean",
        };
        let to = x(life.age_s);
        let more = if life.age_s > end { " and on" } else { "" };
        let state = if life.end.is_empty() { "runs" } else { life.end };
        let _ = write!(
            svg,
            "<text class='end' x='{}' y='{:.1}'>{}</text>\
            <rect class='{class} soft' x='{LEFT}' y='{y}' width='{:.1}' height='12' rx='2'/>\
            <text x='{:.1}' y='{:.1}'>{state}, {}{more}</text>",
            LEFT - 8.0,
            y + 10.0,
            index + 1,
            (to - LEFT).max(1.0),
            to + 8.0,
            y + 10.0,
            seconds(life.age_s)
        );
        if !life.end.is_empty() {
            let _ = write!(
                svg,
                "<rect class='{class}' x='{:.1}' y='{y}' width='4' height='12' rx='1'/>",
                (to - 4.0).max(LEFT)
            );
        }
        if let Some(ready) = life.ready_s.filter(|ready| *ready <= end) {
            let _ = write!(
                svg,
                "<circle class='ready' cx='{:.1}' cy='{:.1}' r='4.5'>\
                <title>ready after {}</title></circle>",
                x(ready),
                y + 6.0,
                seconds(ready)
            );
        }
    }
    if let Some(budget) = budget {
        let at = x(budget);
        let what = if finding.probe.as_ref().is_some_and(|probe| probe.is_lower_bound) {
            "at least "
        } else {
            ""
        };
        let _ = write!(
            svg,
            "<line class='budget' x1='{at:.1}' x2='{at:.1}' y1='0' y2='{height}'/>\
            <text class='middle' x='{at:.1}' y='{:.1}'>startupProbe {what}{budget:.0} s</text>",
            height + 16.0
        );
    }
    svg + "</svg>"
}

fn open(height: f64, title: &str) -> String {
    format!("<svg viewBox='0 0 {WIDTH} {height}' role='img'><title>{title}</title>")
}

pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}
