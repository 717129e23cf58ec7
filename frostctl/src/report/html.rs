//! The report as one self-contained page: no script, no font, no network.

use std::fmt::Write;

use super::columns::{self, Column};
use super::findings::Finding;
use super::plot::{self, escape};
use super::summary::Report;
use super::tally::{Numbers, Pod, Verb};
use super::text::{heading, refilled, when, whose};
use crate::journal::Skipped;
use crate::output::{seconds, time};

const STYLE: &str = include_str!("page.css");

pub(super) fn page(report: &Report) -> String {
    let numbers = &report.numbers;
    let failed: u64 = numbers.verbs.iter().map(Verb::failed).sum();
    let retries: u64 = numbers.verbs.iter().map(|verb| verb.retries).sum();
    let lifted: f64 = numbers.verbs.iter().map(|verb| verb.lifted_ms).sum();
    let mut page = format!(
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>\
         <meta name='viewport' content='width=device-width, initial-scale=1'>\
         <meta name='color-scheme' content='light dark'>\
         <title>frostlock report</title><style>{STYLE}</style></head><body><main>\
         <header><h1>What happened here</h1><p>{}</p></header>",
        period(report)
    );
    page.push_str("<section class='tiles'>");
    let one_or = |number: u64, one: &'static str, many| if number == 1 { one } else { many };
    let operations = one_or(numbers.operations, "operation", "operations");
    tile(&mut page, &grouped(numbers.operations), operations, "");
    let containers = one_or(report.containers, "container", "containers");
    tile(&mut page, &grouped(report.containers), containers, "");
    tile(&mut page, &grouped(failed), "failed", if failed > 0 { "bad" } else { "" });
    tile(&mut page, &grouped(retries), one_or(retries, "retry", "retries"), "");
    tile(&mut page, &format!("{:.1} s", lifted / 1000.0), "CPU lifted", "");
    let found = report.findings.len();
    tile(&mut page, &found.to_string(), one_or(found as u64, "finding", "findings"), "");
    page.push_str("</section>");
    over_time(&mut page, report);
    findings(&mut page, &report.findings);
    durations(&mut page, report);
    verbs(&mut page, numbers);
    pods(&mut page, "Slowest pods", &numbers.slowest_pods);
    pods(&mut page, "Worst pods", &numbers.worst_pods);
    let _ = writeln!(
        page,
        "<footer>{} Percentiles are by nearest rank, over what the caller waited. \
         frostctl {}.</footer></main></body></html>",
        used(report.skipped),
        env!("CARGO_PKG_VERSION")
    );
    page
}

/// Like `when`, for people.
fn period(report: &Report) -> String {
    let numbers = &report.numbers;
    if numbers.operations == 0 {
        return heading(report);
    }
    let (first, last) = (time(numbers.first_ms), time(numbers.last_ms));
    let split = |time: &str| {
        time.trim_end_matches('Z').split_once('T').map(|(d, t)| (d.to_owned(), t.to_owned()))
    };
    let (Some(first), Some(last)) = (split(&first), split(&last)) else { return when(numbers) };
    if numbers.first_ms == 0 || numbers.clock_not_set > 0 || numbers.clock_jumped {
        return when(numbers);
    }
    let until = if first.0 == last.0 { last.1 } else { format!("{} {}", last.0, last.1) };
    let took = seconds((numbers.last_ms - numbers.first_ms) as f64 / 1000.0);
    format!("{} {} to {until} UTC, {took}", first.0, first.1)
}

fn used(skipped: Skipped) -> String {
    if skipped.total() == 0 {
        return "Every line of the journal was used.".to_owned();
    }
    format!("Of the journal {skipped}.")
}

fn tile(page: &mut String, value: &str, what: &str, class: &str) {
    let _ = write!(page, "<div class='tile {class}'><b>{value}</b><span>{what}</span></div>");
}

/// With commas between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn findings(page: &mut String, findings: &[Finding]) {
    page.push_str("<section><h2>Findings</h2>");
    if findings.is_empty() {
        page.push_str("<p class='quiet'>None.</p>");
    }
    for finding in findings {
        let _ = write!(
            page,
            "<article><h3>{}</h3><p class='whose'>{}</p><p class='summary'>{}</p>",
            escape(finding.title),
            escape(&whose(finding)),
            escape(&finding.summary)
        );
        if !finding.lives.is_empty() {
            let was_ready = finding.lives.iter().any(|life| life.ready_s.is_some());
            let legend = "<figcaption><span><i class='ready'></i>ready</span></figcaption>";
            let legend = if was_ready { legend } else { "" };
            let _ = write!(page, "<figure>{}{legend}</figure>", plot::lives(finding));
        }
        list(page, "evidence", &finding.evidence);
        list(page, "advice", &finding.advice);
        if let Some(probe) = &finding.probe {
            list(page, "arithmetic", &probe.arithmetic);
            let _ = write!(page, "<pre>{}</pre>", escape(&probe.yaml));
        }
        page.push_str("</article>");
    }
    page.push_str("</section>");
}

fn list(page: &mut String, class: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    let _ = write!(page, "<ul class='{class}'>");
    for line in lines {
        let _ = write!(page, "<li>{}</li>", escape(line));
    }
    page.push_str("</ul>");
}

fn over_time(page: &mut String, report: &Report) {
    let legend =
        plot::ENDS.map(|(class, meaning)| format!("<span><i class='{class}'></i>{meaning}</span>"));
    let _ = write!(
        page,
        "<section><h2>Operations over time</h2><figure>{}<figcaption>{}\
         <span class='per'>a bar is {}, times are UTC</span></figcaption></figure></section>",
        plot::over_time(&report.numbers.over_time),
        legend.concat(),
        width(report.numbers.over_time.width_s())
    );
}

fn width(seconds: i64) -> String {
    match seconds {
        s if s < 60 => format!("{s} s"),
        s if s < 3600 => format!("{} min", s / 60),
        s if s < 86400 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86400),
    }
}

fn durations(page: &mut String, report: &Report) {
    let _ = write!(
        page,
        "<section><h2>How long they took</h2><figure>{}<figcaption>\
         <span><i class='p50'></i>median</span><span><i class='range'></i>to p95</span>\
         <span><i class='p99'></i>p99</span><span><i class='max'></i>longest</span>\
         </figcaption></figure></section>",
        plot::durations(&report.numbers.verbs)
    );
}

fn verbs(page: &mut String, numbers: &Numbers) {
    page.push_str("<section><h2>Verbs</h2>");
    table(page, &columns::VERBS, &numbers.verbs);
    if let Some(refilled) = refilled(numbers) {
        let _ = write!(page, "<p class='quiet'>{refilled}</p>");
    }
    page.push_str("</section>");
}

fn pods(page: &mut String, title: &str, pods: &[Pod]) {
    if pods.is_empty() {
        return;
    }
    let _ = write!(page, "<section><h2>{title}</h2>");
    table(page, &columns::PODS, pods);
    page.push_str("</section>");
}

fn table<T>(page: &mut String, columns: &[Column<T>], rows: &[T]) {
    page.push_str("<div class='wide'><table><thead><tr>");
    for (head, _) in columns {
        let class = if is_text(head) { " class='text'" } else { "" };
        let _ = write!(page, "<th{class}>{}", head.to_lowercase());
    }
    page.push_str("</tr></thead><tbody>");
    for row in rows {
        page.push_str("<tr>");
        columns.iter().for_each(|(head, of)| cell(page, head, &of(row)));
        page.push_str("</tr>");
    }
    page.push_str("</tbody></table></div>");
}

/// Unlike the other columns, whose numbers stand below each other.
fn is_text(head: &str) -> bool {
    matches!(head, "FAILURES" | "SLOWEST")
}

fn cell(page: &mut String, head: &str, content: &str) {
    let _ = match head {
        "VERB" => write!(page, "<th>{}", escape(content)),
        "POD" => write!(page, "<th class='pod'>{}", namespaced(content)),
        "FAILED" if content != "0" => write!(page, "<td class='bad'>{content}"),
        _ if is_text(head) => write!(page, "<td class='text'>{}", escape(content)),
        _ => write!(page, "<td>{content}"),
    };
}

fn namespaced(pod: &str) -> String {
    match pod.split_once('/') {
        Some((namespace, name)) => format!("<i>{}/</i>{}", escape(namespace), escape(name)),
        None => escape(pod),
    }
}
