//! The limits of a throttled container are changed: with the systemd driver on cgroup v1, that
//! freezes it.

use std::process::Stdio;

use serde_json::{Value, json};
use testkit::table::{Series, Table, Took};
use testkit::throttled::{Via, timed};
use testkit::{Runtime, Scratch, proof, runtime};

use crate::pod::{Container, Pod};
use crate::{RUNTIMES, in_a_node};

/// How many bare updates must fail; in the five of a short run one is enough.
fn needed(of: usize) -> usize {
    if proof() { (of * 4).div_ceil(5) } else { 1 }
}
const LOOPS: usize = 8;

fn rounds(via: Via) -> usize {
    match via {
        _ if proof() => 50,
        Via::Bare => 5,
        _ => 10,
    }
}

#[test]
fn an_update_of_a_throttled_container() {
    in_a_node("update::inside");
}

#[test]
#[ignore = "runs in a node"]
fn inside() {
    let mut table =
        Table::new("M3: update of a container with 8 busy loops on 1 ms in 100 ms, systemd driver");
    for runtime in RUNTIMES.map(runtime) {
        let bare = updates(&Scratch::new(), &runtime, Via::Bare);
        table.row(&runtime.name, "bare", &bare);
        table.claim(bare.failed() >= needed(bare.n()), || {
            format!("{}: not shown: bare: {} failed", runtime.name, bare.failed())
        });
        let scratch = Scratch::new();
        let wrapped = updates(&scratch, &runtime, Via::Wrapped);
        table.row(&runtime.name, "wrapped", &wrapped);
        table.claim(wrapped.failed() == 0, || {
            format!("{}: wrapped: {}", runtime.name, wrapped.failures())
        });
        let records: Vec<Value> = scratch.journal();
        let of = records.iter().filter(|record| record["verb"] == "update");
        let once = of.clone().filter(|record| record["attempts"] == 1).count();
        table.line(format!("{:<36} {once} of {} at the first attempt", "", of.clone().count()));
        for record in of.filter(|record| record["verdict"] != "ok") {
            table.line(record.to_string());
        }
    }
    table.finish();
}

fn updates(scratch: &Scratch, runtime: &Runtime, via: Via) -> Series {
    let pod = Pod::next();
    let busy = Container::planned(scratch, runtime, via, &pod, "c", "throttled").busy(LOOPS);
    let first = set(&busy, 0);
    assert_eq!(first.failure, None, "of a container that is not throttled yet");
    (1..=rounds(via))
        .map(|round| {
            busy.until_throttled();
            set(&busy, round)
        })
        .collect()
}

/// The first round sets what a limit of 10m already has; the others differ from each other.
fn set(container: &Container<'_>, round: usize) -> Took {
    let (shares, memory) = (2 + round as i64, (64 + round as i64) << 20);
    let resources = json!({
        "cpu": { "quota": 1000, "period": 100_000, "shares": shares },
        "memory": { "limit": memory },
    });
    let file = container.scratch.path("resources.json");
    std::fs::write(&file, resources.to_string()).unwrap();
    let mut update = container.command("update");
    update.args(["--resources", "-", &container.id]);
    update.stdin(Stdio::from(std::fs::File::open(&file).unwrap()));
    let mut took = timed(&mut update, crate::pod::LIMIT);
    let stands = [
        container.read("cpu", "cpu.cfs_quota_us"),
        container.read("cpu", "cpu.cfs_period_us"),
        container.read("cpu", "cpu.shares"),
        container.read("memory", "memory.limit_in_bytes"),
    ];
    if took.failure.is_none() && stands != [1000, 100_000, shares, memory] {
        took.failure = Some(format!("the limits are {stands:?}"));
    }
    took
}
