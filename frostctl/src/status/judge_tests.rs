use std::path::PathBuf;

use super::super::facts::{Handler, Records};
use super::*;

fn works() -> Facts {
    let binary = PathBuf::from("/usr/local/bin/frostlock");
    let last = Last {
        verb: "exec".to_owned(),
        container: "web-0".to_owned(),
        verdict: "ok".to_owned(),
        time: "2026-11-21T05:56:08Z".to_owned(),
        age_s: Some(200),
    };
    let day = Day { operations: 7, failed: 1, lifted: 2, lifted_ms: 1500.0, ..Day::default() };
    Facts {
        version: "0.1.0",
        binaries: vec![Binary {
            path: binary.clone(),
            is_there: true,
            is_executable: true,
            is_frostlock: Some(true),
            is_static: Some(true),
            version: Some("0.1.0".to_owned()),
        }],
        engines: vec![Engine {
            name: "containerd",
            file: "/etc/containerd/config.toml".into(),
            handlers: vec![Handler { name: "frostlock".to_owned(), binary, is_default: true }],
            unread: Vec::new(),
            loaded: Loaded::AsConfigured,
            reload: Some("systemctl restart containerd".to_owned()),
            wrong: None,
        }],
        config: Known::Seen(Configuration {
            file: "/etc/frostlock/config.toml".into(),
            mode: "full",
            mistakes: Vec::new(),
        }),
        switch: Known::Seen(Switch {
            path: "/run/frostlock/off".into(),
            is_off: false,
            since: None,
            reason: None,
        }),
        runtime: Known::Seen(Runtime {
            path: Some("/usr/sbin/runc".into()),
            says: Known::Seen("runc version 1.3.6".to_owned()),
            fell_back: None,
            broken: None,
        }),
        state: Known::Seen(State {
            directory: "/run/frostlock".into(),
            is_there: true,
            refused: None,
            full: None,
            remedy: None,
        }),
        containers: Known::Seen(12),
        records: Known::Seen(Records { last: Some(last), day }),
        elsewhere: Vec::new(),
    }
}

fn with(change: impl FnOnce(&mut Facts)) -> Facts {
    let mut facts = works();
    change(&mut facts);
    facts
}

fn seen<T>(known: &mut Known<T>) -> &mut T {
    match known {
        Known::Seen(it) => it,
        Known::Unseen { not_checked } => panic!("{not_checked}"),
    }
}

#[test]
fn what_works() {
    let answers = judge(&works());
    let said: Vec<String> =
        answers.iter().map(|it| format!("{}: {}", it.question, it.answer)).collect();
    assert_eq!(
        said,
        [
            "installed: /usr/local/bin/frostlock, version 0.1.0, executable, static",
            "configured: containerd: frostlock (the default) in /etc/containerd/config.toml",
            "loaded: by the running containerd, as configured",
            "mode: full",
            "switch: on",
            "runtime: /usr/sbin/runc, runc version 1.3.6",
            "state: /run/frostlock, usable",
            "containers: 12 go through it",
            "last record: 3m ago: exec of web-0, ok",
            "last 24 h: 7 operations, 1 failed, 0 repeated, 2 lifted for 1.5 s of CPU time",
        ]
    );
    assert!(answers.iter().all(|it| it.next.is_none()));
    assert_eq!(Verdict::of(&answers), Verdict::Works);
    assert_eq!(Verdict::Works.exit(), Exit::Clean);
}

#[test]
fn each_fact_has_its_judgement() {
    use Judged::{Broken, Good, Moot, NotChecked, Owed};
    type Change = fn(&mut Facts);
    let cases: [(&str, Judged, &str, Change); 35] = [
        ("installed", Owed, "no frostlock", |it| it.binaries.clear()),
        ("installed", Broken, "is not there", |it| it.binaries[0].is_there = false),
        ("installed", Broken, "not executable", |it| it.binaries[0].is_executable = false),
        ("installed", Owed, "is not frostlock", |it| it.binaries[0].is_frostlock = Some(false)),
        ("installed", NotChecked, "cannot be read", |it| it.binaries[0].is_frostlock = None),
        ("installed", Owed, "version 0.0.9", |it| it.binaries[0].version = Some("0.0.9".into())),
        ("installed", Owed, "version earlier", |it| it.binaries[0].version = None),
        ("installed", Good, "not static", |it| it.binaries[0].is_static = Some(false)),
        ("configured", Owed, "no engine", |it| it.engines[0].handlers.clear()),
        ("configured", Owed, "none of those", |it| {
            it.engines[0].wrong = Some("frostlock is none of those".into());
        }),
        ("configured", NotChecked, "not checked: x: no", |it| {
            it.engines[0].unread.push("x: no".into())
        }),
        ("configured", NotChecked, "not checked: x: no", |it| {
            it.engines[0].handlers.clear();
            it.engines[0].unread.push("x: no".into());
        }),
        ("configured", Good, "(not the default)", |it| {
            it.engines[0].handlers[0].is_default = false
        }),
        ("loaded", Owed, "containerd needs a restart: it has no frostlock", |it| {
            it.engines[0].loaded = Loaded::Otherwise(vec!["it has no frostlock".into()]);
        }),
        ("loaded", Owed, "does not run", |it| it.engines[0].loaded = Loaded::NotRunning),
        ("loaded", Owed, "CRI plugin", |it| it.engines[0].loaded = Loaded::NoCri),
        ("loaded", Good, "at each start", |it| it.engines[0].loaded = Loaded::EachTime),
        ("loaded", NotChecked, "not checked: containerd: late", |it| {
            it.engines[0].loaded = Loaded::NotChecked("late".into());
        }),
        ("loaded", Owed, "it still has", |it| {
            it.engines[0].handlers.clear();
            it.engines[0].loaded = Loaded::Otherwise(vec!["it still has it".into()]);
        }),
        ("loaded", Moot, "nothing is configured", |it| it.engines.clear()),
        ("loaded", NotChecked, "not all configurations", |it| {
            it.engines[0].handlers.clear();
            it.engines[0].unread.push("x: no".into());
        }),
        ("mode", NotChecked, "EACCES", |it| it.config = Known::unseen("EACCES")),
        ("mode", NotChecked, "FROSTLOCK_CONFIG", |it| {
            it.elsewhere.push("FROSTLOCK_CONFIG=/x".into())
        }),
        ("mode", Owed, "full; mode: what", |it| {
            seen(&mut it.config).mistakes.push("mode: what".into())
        }),
        ("mode", Good, "only records", |it| seen(&mut it.config).mode = "observe"),
        ("switch", NotChecked, "EACCES", |it| it.switch = Known::unseen("EACCES")),
        ("switch", Owed, "off since 1970-01-01T00:00:09Z: storm; every", |it| {
            let switch = seen(&mut it.switch);
            (switch.is_off, switch.since, switch.reason) = (true, Some(9), Some("storm".into()));
        }),
        ("runtime", Broken, "cannot find", |it| {
            seen(&mut it.runtime).broken = Some("cannot find the runtime".into());
        }),
        ("runtime", NotChecked, "late", |it| seen(&mut it.runtime).says = Known::unseen("late")),
        ("runtime", Owed, "fell back", |it| {
            seen(&mut it.runtime).fell_back = Some("fell back".into())
        }),
        ("state", Broken, "others can write", |it| {
            seen(&mut it.state).refused = Some("others can write to it".into());
        }),
        ("state", Broken, "no space", |it| {
            seen(&mut it.state).full = Some("no space is left".into());
            seen(&mut it.state).remedy = Some("make room".into());
        }),
        ("containers", NotChecked, "not root", |it| it.containers = Known::unseen("not root")),
        ("last record", Moot, "none yet", |it| seen(&mut it.records).last = None),
        ("last 24 h", NotChecked, "EACCES", |it| it.records = Known::unseen("EACCES")),
    ];
    for (question, judged, what, change) in cases {
        let answers = judge(&with(change));
        let found = answers.iter().find(|it| it.question == question).unwrap();
        assert_eq!(found.judged, judged, "{what}: {found:?}");
        assert!(found.answer.contains(what), "{what}: {found:?}");
        // Each answer says what to do, and nothing unchecked is called fine.
        assert_eq!(found.next.is_some(), judged >= Owed || what == "FROSTLOCK_CONFIG", "{found:?}");
        assert_eq!(found.answer.contains("not checked: "), judged == NotChecked, "{found:?}");
    }
}

#[test]
fn the_worst_answer_is_the_verdict() {
    type Change = fn(&mut Facts);
    let cases: [(Verdict, Exit, Change); 6] = [
        (Verdict::Works, Exit::Clean, |it| seen(&mut it.records).last = None),
        (Verdict::NotKnown, Exit::Found, |it| it.containers = Known::unseen("not root")),
        (Verdict::Owed, Exit::Found, |it| {
            it.containers = Known::unseen("not root");
            it.engines[0].loaded = Loaded::NotRunning;
        }),
        (Verdict::Broken, Exit::Broken, |it| {
            it.engines[0].loaded = Loaded::NotRunning;
            it.binaries[0].is_there = false;
        }),
        // No engine uses it.
        (Verdict::Owed, Exit::Found, |it| {
            it.engines[0].handlers.clear();
            seen(&mut it.runtime).broken = Some("none".into());
        }),
        (Verdict::Owed, Exit::Found, |it| {
            it.engines.clear();
            it.binaries.clear();
        }),
    ];
    for (verdict, exit, change) in cases {
        let answers = judge(&with(change));
        assert_eq!(Verdict::of(&answers), verdict, "{answers:?}");
        assert_eq!(verdict.exit(), exit);
    }
}

#[test]
fn an_age_is_as_fine_as_it_is_of_use() {
    for (seconds, said) in
        [(0, "0s"), (119, "1m 59s"), (3599, "59m"), (7_300, "2h"), (200_000, "2days")]
    {
        assert_eq!(spoken(seconds), said);
    }
}
