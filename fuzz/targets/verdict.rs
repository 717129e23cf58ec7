//! What a tenant gives and a runtime quotes in its error: a program's name, a directory, a hook's
//! output. In each of the log's formats it must not pass for a failure that is worth another attempt,
//! and what is added to the error must not break the log.

#![no_main]

use frostlock::runtime_log::{explained, last_error, whole_error};
use frostlock::verdict::{Failure, judge};
use libfuzzer_sys::fuzz_target;
use state::Verb;

/// The shapes in which it is quoted, `{}` as it is and `{q}` as Go quotes it; the tests of
/// src/verdict.rs have all messages that were seen.
const AROUND: [&str; 9] = [
    "exec failed: unable to start container process: exec: {q}: executable file not found in $PATH",
    "exec failed: unable to start container process: exec {}: no such file or directory",
    "exec failed: parsing {} as int for uid failed: strconv.Atoi: parsing {q}: invalid syntax",
    "runc create failed: unable to start container process: error during container init: error \
     running createRuntime hook #0: exit status 3, stdout: {}, stderr: {}",
    "runc create failed: unable to start container process: error during container init: error \
     setting cgroup config for procHooks process: {}: no such file or directory",
    "container_linux.go:380: starting container process caused: exec: {q}: executable file not found",
    "executable file `{}` not found in $PATH: No such file or directory",
    "the container {q} is paused",
    "error in executing command: {}\n\nCaused by:\n    {} was given",
];

const WHY: &str = "frostlock: 2 \"attempts\" in 0.3 s\\n";

fuzz_target!(|data: &[u8]| {
    let Some((form, tenants)) = data.split_first() else { return };
    let form = AROUND[usize::from(*form) % AROUND.len()];
    let tenants = String::from_utf8_lossy(tenants);
    let message = form.replace("{q}", &go_quoted(&tenants)).replace("{}", &tenants);
    let json = serde_json::json!({ "level": "error", "msg": message, "time": "t" });
    let pretty = serde_json::to_string_pretty(&json).expect("it is JSON");
    let json = json.to_string();
    let logrus = format!("time=\"t\" level=error msg={}\n", go_quoted(&message));
    let noise = "time=\"t\" level=warning msg=\"unable to freeze\"\n";
    let raw = format!("{message}\n");
    for log in [&json, &pretty, &logrus, &format!("{noise}{logrus}"), &raw] {
        let error = whole_error(log).expect("there is an error");
        for verb in Verb::ALL {
            // To these a tenant gives no text but the id, which is checked by the runtime.
            if !matches!(verb, Verb::Update | Verb::Pause) {
                assert_eq!(judge(verb, &error), Failure::Other, "{verb}: {error}");
            }
        }
        let _ = last_error(log);
    }
    for log in [&json, &pretty] {
        assert_eq!(whole_error(log).as_deref(), Some(&*message));
        let longer = explained(log.as_bytes(), WHY).expect("there is an error to explain");
        let longer = String::from_utf8(longer).expect("both parts are UTF-8");
        assert_eq!(whole_error(&longer), Some(format!("{message} ({WHY})")));
    }
    assert!(explained(logrus.as_bytes(), WHY).is_some());
    // In a line without quotes `level=` may be a tenant's, and then nothing is added.
    for log in [&logrus, &raw] {
        let Some(longer) = explained(log.as_bytes(), WHY) else { continue };
        let why = longer.len() - log.len();
        let is_inserted = |at: usize| {
            log.as_bytes()[..at] == longer[..at] && log.as_bytes()[at..] == longer[at + why..]
        };
        assert!((0..=log.len()).any(is_inserted), "not a byte of the runtime's own is changed");
    }
});

/// As strconv.Quote as far as it matters here: no quote and no line break stays as it is.
fn go_quoted(text: &str) -> String {
    format!("{text:?}").replace("\\'", "'")
}
