//! Plots as inline SVG. Colours come from the page, by class, so that one drawing works for light
//! and dark. Horizontal positions are in percent: text stays readable on a phone.

use std::fmt::Write;

use super::findings::{Bar, Finding};
use super::over_time::OverTime;
use super::tally::Verb;
use crate::output::{seconds, time};

const TICKS: i64 = 5;

/// The distance between two ticks of a time axis, in seconds.
const STEPS_S: [i64; 21] = [
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    2 * 60,
    5 * 60,
    10 * 60,
    15 * 60,
    30 * 60,
    3600,
    2 * 3600,
    3 * 3600,
    6 * 3600,
    12 * 3600,
    DAY_S,
    2 * DAY_S,
    7 * DAY_S,
    28 * DAY_S,
];
const DAY_S: i64 = 24 * 3600;

/// How operations ended, by class: as they are stacked.
pub(super) const ENDS: [(&str, &str); 3] =
    [("clean", "at once"), ("helped", "with a lift or a retry"), ("failed", "failed")];

/// Operations over time.
pub(super) fn over_time(over_time: &OverTime) -> String {
    const TOP: f64 = 8.0;
    const BASE: f64 = 158.0;
    let bins = over_time.bins();
    let most = bins.iter().map(|bin| bin.total()).max().unwrap_or(0).max(1);
    let y = |count: u64| BASE - (BASE - TOP) * count as f64 / most as f64;
    let (mut scale, mut svg) = (svg("scale", BASE + 24.0), svg("", BASE + 24.0));
    for count in round_counts(most) {
        let at = y(count);
        let class = if count == 0 { "axis" } else { "grid" };
        let _ = write!(scale, "<text class='end' x='100%' y='{:.1}'>{count}</text>", at + 4.0);
        let _ = write!(svg, "<line class='{class}' x1='0' x2='100%' y1='{at:.1}' y2='{at:.1}'/>");
    }
    let share = 1.0 / bins.len().max(1) as f64;
    for (index, bin) in bins.iter().enumerate() {
        let mut base = BASE;
        let parts = [bin.clean, bin.helped, bin.failed].into_iter().zip(ENDS);
        for (count, (class, meaning)) in parts.filter(|(count, _)| *count > 0) {
            // One failure among ten thousand must be visible.
            let height = (BASE - y(count)).max(2.0);
            base -= height;
            let _ = write!(
                svg,
                "<rect class='bar {class}' x='{}' y='{base:.1}' width='{}' height='{height:.1}'>\
                 <title>{count} {meaning}</title></rect>",
                percent(share * (index as f64 + 0.06)),
                percent(share * 0.88)
            );
        }
    }
    time_axis(&mut svg, over_time, bins.len(), BASE);
    format!("<div class='over-time'>{scale}</svg>{svg}</svg></div>")
}

/// From 0 up, three or four round numbers.
fn round_counts(most: u64) -> impl Iterator<Item = u64> {
    let decade = 10u64.pow((most / 3).max(1).ilog10());
    let step = [1, 2, 5, 10].map(|times| times * decade);
    let step = step.into_iter().find(|step| most / step <= 4).unwrap_or(most);
    (0..=most / step).map(move |count| count * step)
}

fn time_axis(svg: &mut String, over_time: &OverTime, bins: usize, base: f64) {
    let (from, span) = (over_time.begin_s(), over_time.width_s() * bins.max(1) as i64);
    let wide = span / 28 / DAY_S / TICKS + 1;
    let step = STEPS_S.into_iter().find(|step| span / step < TICKS).unwrap_or(wide * 28 * DAY_S);
    let mut at = (from + step - 1).div_euclid(step) * step;
    while at < from + span {
        let (x, clock) = ((at - from) as f64 / span as f64, time(at * 1000));
        let label = match step {
            step if step < 60 => clock.get(11..19),
            step if step < DAY_S => clock.get(11..16),
            _ => clock.get(..10),
        };
        // A label at the very end would be cut.
        let label = label.filter(|_| x < 0.95).unwrap_or_default();
        let _ = write!(
            svg,
            "<line class='tick' x1='{0}' x2='{0}' y1='{base}' y2='{1}'/>\
             <text class='middle' x='{0}' y='{2}'>{label}</text>",
            percent(x),
            base + 4.0,
            base + 18.0
        );
        at += step;
    }
}

/// For each verb p50, p95, p99 and the longest on one logarithmic axis.
pub(super) fn durations(verbs: &[Verb]) -> String {
    let shortest = verbs.iter().map(|verb| verb.p50_ms).fold(10.0, f64::min).max(0.1);
    let longest = verbs.iter().map(|verb| verb.max_ms).fold(20.0, f64::max);
    let ticks = decades(shortest, longest);
    let first = ticks.first().map_or(0.0, |ms| ms.log10());
    let last = ticks.last().map_or(1.0, |ms| ms.log10());
    let x = |ms: f64| ((ms.max(1e-3).log10() - first) / (last - first)).clamp(0.0, 1.0);
    let mut plot = String::from("<div class='rows durations'>");
    for verb in verbs {
        duration(&mut plot, verb, &ticks, x);
    }
    let _ = write!(plot, "<span></span>{}", svg("", 20.0));
    // This many fit on a phone.
    for tick in ticks.iter().step_by(ticks.len() / 7 + 1) {
        let label = seconds(tick / 1000.0).replace(".00", "").replace(".0 ", " ");
        let at = percent(x(*tick));
        let _ = write!(plot, "<text class='middle' x='{at}' y='14'>{label}</text>");
    }
    plot + "</svg></div>"
}

fn duration(plot: &mut String, verb: &Verb, ticks: &[f64], x: impl Fn(f64) -> f64) {
    const ROW: f64 = 30.0;
    const MIDDLE: f64 = ROW / 2.0;
    let [p50, p95, p99, max] =
        [verb.p50_ms, verb.p95_ms, verb.p99_ms, verb.max_ms].map(|ms| percent(x(ms)));
    let _ = write!(
        plot,
        "<span>{0}</span>{1}<title>{0}: p50 {2:.1} ms, p95 {3:.1} ms, p99 {4:.1} ms, max {5:.1} ms\
         </title>",
        escape(&verb.verb),
        svg("", ROW),
        verb.p50_ms,
        verb.p95_ms,
        verb.p99_ms,
        verb.max_ms
    );
    for tick in ticks {
        let at = percent(x(*tick));
        let _ = write!(plot, "<line class='grid' x1='{at}' x2='{at}' y1='0' y2='{ROW}'/>");
    }
    let (top, bottom) = (MIDDLE - 8.0, MIDDLE + 8.0);
    let _ = write!(
        plot,
        "<line class='whisker' x1='{p95}' x2='{max}' y1='{MIDDLE}' y2='{MIDDLE}'/>\
         <line class='range' x1='{p50}' x2='{p95}' y1='{MIDDLE}' y2='{MIDDLE}'/>\
         <line class='p99' x1='{p99}' x2='{p99}' y1='{top}' y2='{bottom}'/>\
         <circle class='max' cx='{max}' cy='{MIDDLE}' r='3'/>\
         <circle class='p50' cx='{p50}' cy='{MIDDLE}' r='5'/></svg>"
    );
}

/// From the last round number below to the first one above: powers of ten, and if these are few,
/// also twice and five times these.
fn decades(shortest: f64, longest: f64) -> Vec<f64> {
    let (from, to) = (shortest.log10().floor() as i32, longest.log10().ceil() as i32);
    let all = (from..=to).flat_map(|n| [1.0, 2.0, 5.0].map(|times| times * 10f64.powi(n)));
    let all: Vec<f64> = all.collect();
    let first = all.iter().rposition(|tick| *tick <= shortest).unwrap_or(0);
    let last = all.iter().position(|tick| *tick >= longest).unwrap_or(all.len() - 1);
    if last - first < 6 {
        return all.into_iter().take(last + 1).skip(first).collect();
    }
    (from..=to).map(|n| 10f64.powi(n)).collect()
}

/// The lives of one container as bars, with the kill, readiness, and the time that would have been
/// enough.
pub(super) fn lives(finding: &Finding) -> String {
    let budget = finding.probe.as_ref().map(|probe| probe.seconds as f64);
    let longest = finding.lives.iter().map(|life| life.age_s).fold(0.1, f64::max);
    // A life of hours would make a start invisible.
    let typical = finding.lives.iter().filter(|life| !life.end.is_empty()).map(|life| life.age_s);
    let typical = typical.fold(0.0, f64::max).max(budget.unwrap_or(0.0)).max(0.1);
    let end = longest.min(typical * 1.3).max(budget.map_or(0.0, |budget| budget * 1.02));
    let mut plot = String::from("<div class='rows lives'>");
    for (index, bar) in finding.lives.iter().enumerate() {
        life(&mut plot, index + 1, bar, end, budget);
    }
    if let Some(budget) = budget {
        let at = budget / end;
        let is_lower_bound = finding.probe.as_ref().is_some_and(|probe| probe.is_lower_bound);
        let _ = write!(
            plot,
            "<span></span>{}<text class='{}' x='{}' y='14'>startupProbe: {}{budget:.0} s</text>\
             </svg><span></span>",
            svg("", 20.0),
            anchor(at),
            percent(at),
            if is_lower_bound { "at least " } else { "" }
        );
    }
    plot + "</div>"
}

fn life(plot: &mut String, number: usize, bar: &Bar, end: f64, budget: Option<f64>) {
    let class = match bar.end {
        "killed" | "out of memory" => "failed",
        "by itself" => "helped",
        _ => "clean",
    };
    let to = (bar.age_s / end).min(1.0);
    let _ = write!(
        plot,
        "<span>{number}</span>{}\
         <rect class='{class} soft' x='0' y='3' width='{}' height='12' rx='2'/>",
        svg("", 18.0),
        percent(to)
    );
    if !bar.end.is_empty() {
        let _ = write!(
            plot,
            "<line class='ended {class}' x1='{0}' x2='{0}' y1='3' y2='15'/>",
            percent(to)
        );
    }
    if let Some(budget) = budget {
        let at = percent(budget / end);
        let _ = write!(plot, "<line class='budget' x1='{at}' x2='{at}' y1='0' y2='18'/>");
    }
    if let Some(ready) = bar.ready_s.filter(|ready| *ready <= end) {
        let _ = write!(
            plot,
            "<circle class='ready' cx='{}' cy='9' r='4.5'><title>ready after {}</title></circle>",
            percent(ready / end),
            seconds(ready)
        );
    }
    let state = if bar.end.is_empty() { "runs" } else { bar.end };
    let more = if bar.age_s > end { " and on" } else { "" };
    let _ = write!(plot, "</svg><span>{state}, {}{more}</span>", seconds(bar.age_s));
}

fn svg(class: &str, height: f64) -> String {
    format!("<svg class='{class}' height='{height}' aria-hidden='true'>")
}

fn percent(share: f64) -> String {
    format!("{:.2}%", share * 100.0)
}

/// A label at an end of the axis stays inside.
fn anchor(share: f64) -> &'static str {
    match share {
        share if share < 0.06 => "start",
        share if share > 0.94 => "end",
        _ => "middle",
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_of_durations_ends_at_round_numbers() {
        assert_eq!(decades(6.8, 132.0), [5.0, 10.0, 20.0, 50.0, 100.0, 200.0]);
        assert_eq!(decades(1.0, 100.0), [1.0, 10.0, 100.0]);
        assert_eq!(decades(10.0, 20.0), [10.0, 20.0]);
        assert_eq!(decades(0.1, 7_200_000.0).len(), 9);
        assert_eq!(decades(5.0, 5014.0), [1.0, 10.0, 100.0, 1000.0, 10_000.0]);
    }

    #[test]
    fn the_scale_of_counts_has_few_round_numbers() {
        for most in [1, 2, 3, 4, 7, 12, 48, 99, 101, 5000, 999_999] {
            let counts: Vec<u64> = round_counts(most).collect();
            assert!((2..=5).contains(&counts.len()), "{most}: {counts:?}");
            assert!(counts[0] == 0 && counts.iter().all(|count| *count <= most), "{counts:?}");
        }
    }
}
