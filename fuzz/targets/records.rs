//! A journal as `frostctl` reads it, with records of this version, of others and of nobody: each line
//! is a record or counted as what it is, and no number in it stops a report, a timeline or a counter.
//!
//! frostctl is a program without a library, so its modules are compiled here once more.

#![no_main]
#![allow(dead_code, reason = "other commands use the rest")]

#[path = "../../frostctl/src/exit.rs"]
mod exit;
#[path = "../../frostctl/src/history.rs"]
mod history;
#[allow(unused_imports, reason = "as above")]
#[path = "../../frostctl/src/journal/mod.rs"]
mod journal;
#[path = "../../frostctl/src/lives.rs"]
mod lives;
#[path = "records/metrics.rs"]
mod metrics;
#[path = "records/node.rs"]
mod node;
#[path = "../../frostctl/src/output.rs"]
mod output;
#[path = "../../frostctl/src/progress.rs"]
mod progress;
#[path = "../../frostctl/src/report/mod.rs"]
mod report;
#[path = "../../frostctl/src/timeline.rs"]
mod timeline;

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::AsRawFd;
use std::sync::LazyLock;

use clap::Parser;
use journal::Reader;
use libfuzzer_sys::fuzz_target;
use metrics::{Counters, Pods};
use output::{Color, Output};

#[derive(Debug, Parser)]
enum Command {
    History(history::History),
    Report(report::Command),
}

/// The journal, and the commands that read it: to parse their command lines takes longer than they do.
struct Scene {
    journal: File,
    commands: Vec<(Command, Output)>,
}

static SCENE: LazyLock<Scene> = LazyLock::new(|| {
    let journal = tempfile::tempfile_in("/dev/shm").expect("a file without a name");
    let path = format!("/proc/self/fd/{}", journal.as_raw_fd());
    let command = |words: &[&str], json| {
        let words = [&["frostctl"], words, &["--journal", &path]].concat();
        (Command::try_parse_from(words).expect("a command line"), Output::new(json, Color::Never))
    };
    let commands = vec![
        command(&["history"], false),
        command(&["report", "--estimate"], false),
        // A container's id and a pod's name that the seeds have.
        command(&["history", "c1"], true),
        command(&["history", "n"], false),
        command(&["report", "--html", "/dev/null"], false),
    ];
    Scene { journal, commands }
});

fuzz_target!(|data: &[u8]| {
    let mut journal = &SCENE.journal;
    journal.set_len(0).and_then(|()| journal.rewind()).expect("our own file");
    journal.write_all(data).expect("there is room");
    every_line_is_accounted_for(journal, data);
    for (command, output) in &SCENE.commands {
        // That the journal has nothing of a container is no mistake. What is printed goes to the
        // standard output, which libFuzzer is told to close.
        let _ = match command {
            Command::History(history) => history.run(output),
            Command::Report(report) => report.run(output),
        };
    }
});

fn every_line_is_accounted_for(mut journal: &File, data: &[u8]) {
    journal.rewind().expect("our own file");
    let (mut reader, mut records) = (Reader::default(), 0);
    let (mut counters, mut pods) = (Counters::default(), Pods::default());
    let read = reader.read(journal, &mut |record| {
        records += 1;
        counters.add(record);
        pods.add(record, record.mono_ns);
    });
    read.expect("our own file");
    let lines = data.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    assert_eq!(lines.count() as u64, records + reader.skipped.total() + reader.skipped.gaps);
}
