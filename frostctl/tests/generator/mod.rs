//! A journal of any length, always the same: lives of containers in pods, one after another.

use std::io::Write;

use serde_json::{Value, json};

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

pub(crate) struct Generator {
    random: Random,
    mono_ms: u64,
}

impl Generator {
    pub(crate) fn new() -> Generator {
        Generator { random: Random(88_172_645_463_325_252), mono_ms: 1_000_000 }
    }

    /// Writes this many records.
    pub(crate) fn write(&mut self, out: &mut impl Write, records: usize) {
        const VERBS: [&str; 4] = ["create", "start", "kill", "delete"];
        let (mut written, mut life) = (0, 0);
        while written < records {
            life += 1;
            let id = format!("{:064x}", u128::from(life) * 0x9e37_79b9_7f4a_7c15);
            let execs = 40 + self.random.below(120);
            let middle = (0..execs).map(|n| if n % 9 == 8 { "update" } else { "exec" });
            for verb in VERBS[..2].iter().copied().chain(middle).chain(VERBS[2..].iter().copied()) {
                if written == records {
                    return;
                }
                let record = self.record(verb, &id, life % 50);
                write_line(out, &record);
                written += 1;
                // Each eighth exec has a lift that outlives it, which adds a line.
                if verb == "exec" && written < records && self.random.below(8) == 0 {
                    write_line(out, &self.late_lift(&record));
                    written += 1;
                }
            }
        }
    }

    fn late_lift(&mut self, of: &Value) -> Value {
        self.mono_ms += 1;
        let mut record = json!({"v": 1, "verb": "lift", "of": of["verb"],
            "mono_ns": self.mono_ms * 1_000_000});
        for key in ["boot_id", "time", "id", "cgroup", "pod"] {
            record[key] = of[key].clone();
        }
        record["lifts"] = json!([self.lift("program")]);
        record
    }

    fn lift(&mut self, whose: &str) -> Value {
        const ENDED: [&str; 4] = ["done", "done", "thread limit", "node limit"];
        let ended = ENDED[self.random.below(4) as usize];
        json!({"whose": whose, "threads": 1 + self.random.below(12), "ms": 21.4, "ended": ended,
            "cpu_ms": self.random.below(50_000) as f64 / 1000.0})
    }

    fn record(&mut self, verb: &str, id: &str, pod: u64) -> Value {
        self.mono_ms += 1 + self.random.below(300);
        let ms = self.mono_ms;
        let us = |random: &mut Random, limit| random.below(limit) as f64 / 1000.0;
        let (prepare, lock) = (us(&mut self.random, 900), us(&mut self.random, 3000));
        let run = 5.0 + us(&mut self.random, 80_000);
        let is_retried = self.random.below(40) == 0;
        let is_failed = self.random.below(100) == 0;
        let mut record = json!({
            "v": 1, "boot_id": "7ead676a-e276-44cc-853b-581a890b121b",
            "time": format!("2026-01-{:02}T{:02}:{:02}:{:02}.{:03}Z", 1 + ms / 86_400_000,
                ms / 3_600_000 % 24, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000),
            "mono_ns": ms * 1_000_000, "verb": verb, "id": id,
            "cgroup": format!("/kubepods/burstable/pod{pod:036x}/{id}"),
            "runtime": "/usr/sbin/runc", "pid": 4711, "requested_by": "containerd-shim",
            "stages": {"prepare": prepare, "lock": lock, "run": run},
            "attempts": if is_retried { 2 } else { 1 }, "lock": "shared", "lock_wait_ms": lock,
            "run_ms": run, "exit": {"code": i32::from(is_failed)},
            "verdict": if is_failed { "failed" } else { "ok" },
            "quota": {"container": {"quota_us": 5000, "period_us": 100_000}, "pod": null},
            "init_pid": 4242,
            "pod": {"namespace": "default", "name": format!("pod-{pod}"),
                "uid": format!("{pod:036x}"), "container": "main"},
        });
        if is_retried || is_failed {
            let failure = if self.random.below(2) == 0 { "freeze failed" } else { "failed" };
            record["tries"] = json!([{"ms": run / 2.0, "failure": failure, "delay_ms": 100.125}]);
        }
        if self.random.below(10) == 0 {
            record["lifts"] = json!([self.lift("runtime"), self.lift("program")]);
        }
        if self.random.below(200) == 0 {
            record["lift_refused"] = json!("no note: ENOSPC: No space left on device");
        }
        if verb == "kill" {
            record["signal"] = json!("15");
        }
        record
    }
}

fn write_line(out: &mut impl Write, record: &Value) {
    serde_json::to_writer(&mut *out, record).expect("written");
    out.write_all(b"\n").expect("written");
}
