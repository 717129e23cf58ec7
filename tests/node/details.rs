//! What systemd does beside frostlock, and how its units are named.

use std::process::Command;

use testkit::table::{Series, Table, Took};
use testkit::throttled::{Via, lifts, timed};
use testkit::{Scratch, proof, run, runtime, succeed};

use crate::in_a_node;
use crate::pod::{Container, LIMIT, Pod, systemctl, while_running};

const LOOPS: usize = 4;

#[test]
fn systemd_reloads_and_sets_quotas_beside_a_lift() {
    in_a_node("details::reloads");
}

/// Every reload rewrites the settings of all units, and so does a resize of the pod, while threads
/// in those cgroups are lifted.
#[test]
#[ignore = "runs in a node"]
fn reloads() {
    let rounds = if proof() { 50 } else { 8 };
    let runtime = runtime("runc-1.5.3");
    let scratch = Scratch::new();
    let pod = Pod::new("kubepods-podreload.slice");
    let container =
        Container::planned(&scratch, &runtime, Via::Wrapped, &pod, "c", "throttled").busy(LOOPS);
    // Always more than the container's, or the kernel refuses its quota.
    pod.limit(4);
    let [mut execs, mut updates, mut pauses, mut resizes, mut reloads] =
        std::array::from_fn::<_, 5, _>(|_| Series::default());
    let reload = || {
        let took = timed(Command::new("systemctl").arg("daemon-reload"), LIMIT);
        reloads.add(took);
    };
    while_running([reload], || {
        for round in 0..rounds {
            execs.add(container.timed(&["exec", "c", "true"]));
            updates.add(update(&container, 1 + round % 3));
            pauses.add(container.timed(&["pause", "c"]).and(container.timed(&["resume", "c"])));
            resizes.add(resize(&pod, 3 + round % 3));
        }
    });
    let mut table =
        Table::new("4 busy loops on 1 to 3 ms in 100 ms, beside systemctl daemon-reload");
    for (what, series) in [
        ("exec", &execs),
        ("update", &updates),
        ("pause, resume", &pauses),
        ("CPUQuota of the pod", &resizes),
        ("daemon-reload", &reloads),
    ] {
        table.row(what, "wrapped", series);
        table.claim(series.failed() == 0, || format!("{what}: {}", series.failures()));
    }
    let records = scratch.journal();
    let lifted = records.iter().filter(|record| !lifts(record).is_empty()).count();
    table.line(format!("{lifted} of {} operations lifted somebody", records.len()));
    table.claim(lifted >= rounds, || format!("not shown: {lifted} lifted"));
    table.finish();
}

fn update(container: &Container<'_>, percent: usize) -> Took {
    let quota = (percent * 1000).to_string();
    let mut took =
        container.timed(&["update", "--cpu-period", "100000", "--cpu-quota", &quota, "c"]);
    let stands = container.read("cpu", "cpu.cfs_quota_us").to_string();
    if took.failure.is_none() && stands != quota {
        took.failure = Some(format!("the quota is {stands}, want {quota}"));
    }
    took
}

/// While an exec is lifted.
fn resize(pod: &Pod, percent: usize) -> Took {
    let quota = format!("CPUQuota={percent}%");
    let mut took = timed(
        Command::new("systemctl").args(["set-property", "--runtime", &pod.slice, &quota]),
        LIMIT,
    );
    if took.failure.is_none() && pod.quota_us() != percent as i64 * 1000 {
        took.failure = Some(format!("the quota is {}, want {percent} ms", pod.quota_us()));
    }
    took
}

#[test]
fn units_are_named_as_kubelet_names_them() {
    in_a_node("details::names");
}

/// The dashes of a uid become underscores in kubelet's slices; others escape them.
#[test]
#[ignore = "runs in a node"]
fn names() {
    let runtime = runtime("runc-1.1.15");
    for slice in [
        "kubepods-pod8f0c2b1e_5d1a_4f7b.slice",
        "kubepods-besteffort-pod1234_5678.slice",
        "kubepods-burstable-pod1234\\x2d5678.slice",
    ] {
        let scratch = Scratch::new();
        let pod = Pod::new(slice);
        let made =
            Container::planned(&scratch, &runtime, Via::Wrapped, &pod, "a-b_c.d", "throttled")
                .busy(LOOPS);
        // Callers other than the shim omit --systemd-cgroup.
        let later = |words: &[&str]| {
            let mut command = Via::Wrapped.command(&scratch, &runtime);
            succeed(command.args(words).arg(&made.id));
        };
        later(&["update", "--cpu-period", "100000", "--cpu-quota", "1000"]);
        pod.limit(1);
        made.until_throttled();
        later(&["update", "--cpu-share", "77"]);
        assert_eq!(made.read("cpu", "cpu.shares"), 77);
        assert_eq!(made.read("cpu", "cpu.cfs_quota_us"), 1000);
        later(&["pause"]);
        later(&["resume"]);
        succeed(made.command("exec").args([&made.id, "true"]));
        assert_eq!(scratch.lock_files().len(), 2, "{:?}", scratch.lock_files());
        later(&["delete", "--force"]);
        assert_eq!(scratch.lock_files(), Vec::<std::path::PathBuf>::new());

        // A lifter that continues for a moment has its own record.
        let mut records = scratch.journal();
        records.retain(|record| record["verb"] != "lift");
        let verbs: Vec<_> = records.iter().map(|record| record["verb"].as_str().unwrap()).collect();
        let all = ["create", "start", "update", "update", "pause", "resume", "exec", "delete"];
        assert_eq!(verbs, all);
        for record in &records {
            assert_eq!(record["cgroup"], made.cgroup.as_str(), "{record}");
            assert_eq!(record["verdict"], "ok", "{record}");
        }
        // Recognized as the pod.
        let exec = &records[6];
        assert_eq!(exec["quota"]["pod"]["quota_us"], 1000, "{exec}");
        assert!(lifts(exec).iter().any(|lift| lift["whose"] == "runtime"), "{exec}");
        let scope = format!("cri-containerd-{}.scope", made.id);
        let state = || run(Command::new("systemctl").args(["is-active", &scope])).stdout;
        testkit::eventually(LIMIT, "the scope has ended", || !state().starts_with(b"active"));
    }
    systemctl(&["is-system-running"]);
}
