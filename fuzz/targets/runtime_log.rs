//! What a runtime has written into its log.

#![no_main]

use frostlock::runtime_log::{last_error, whole_error};
use frostlock::verdict::{Failure, judge};
use libfuzzer_sys::fuzz_target;
use state::Verb;

fuzz_target!(|data: &[u8]| {
    let log = String::from_utf8_lossy(data);
    let before = last_error(&log);
    assert!(before.as_ref().is_none_or(|error| error.len() <= log.len()));
    assert!(before.is_some() || log.trim().is_empty() || log.contains("level"));
    // Whatever stands there already, the last error is the one that comes after it.
    let more = format!("{log}\n{{\"level\":\"error\",\"msg\":\"unable to freeze\"}}\n");
    assert_eq!(last_error(&more).as_deref(), Some("unable to freeze"));
    // However it is written down, what stands behind a hook's words is theirs.
    let said = format!("runc create failed: exit status 3, stdout: , stderr: {log}");
    for log in [serde_json::json!({ "level": "error", "msg": said }).to_string(), said] {
        let error = whole_error(&log).unwrap_or_default();
        assert_eq!(judge(Verb::Create, &error), Failure::Other);
        assert_eq!(judge(Verb::Exec, &error), Failure::Other);
    }
});
