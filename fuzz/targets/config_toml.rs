//! The configuration: no value out of its range, and complaints of one printable line each.

#![no_main]

use std::path::Path;

use config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (config, complaints) = Config::parse(text, Path::new("c"));
    assert!(config.runtime.as_ref().is_none_or(|name| !name.is_empty()));
    assert!(config.lock.exclusive_wait_ms <= 4000);
    assert!(config.lock.shared_wait_ms <= 1500);
    assert!(config.retry.deadline_ms <= 9000);
    assert!(config.lift.program_ms <= 1000);
    assert!(config.hook.wait_ms <= 4000);
    assert!((64..=1_048_576).contains(&config.journal.max_kib));
    for complaint in complaints {
        assert!(!complaint.chars().any(char::is_control), "{complaint:?}");
    }
});
