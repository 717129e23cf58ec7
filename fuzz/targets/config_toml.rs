//! The configuration: no value out of its range, and complaints of one printable line each.

#![no_main]

use std::path::Path;

use config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (config, complaints) = Config::parse(text, Path::new("c"));
    assert!(config.runtime.as_ref().is_none_or(|name| !name.is_empty()));
    assert!(config.exclusive_wait_ms <= 4000);
    assert!(config.shared_wait_ms <= 1500);
    assert!(config.resume_wait_ms <= 1500);
    assert!((100..=10_000).contains(&config.hold_max_ms));
    assert!(config.retry_deadline_ms <= 9000);
    assert!((1..=2000).contains(&config.retry_first_delay_ms));
    assert!((1..=4000).contains(&config.retry_max_delay_ms));
    assert!(config.thaw_wait_ms <= 1000);
    assert!(config.frozen_wait_ms <= 1500);
    assert!(config.lift_program_ms <= 1000);
    assert!(config.leftovers_wait_ms <= 4000);
    assert!(config.hook_wait_ms <= 4000);
    assert!((64..=1_048_576).contains(&config.journal_max_kib));
    for complaint in complaints {
        assert!(!complaint.chars().any(char::is_control), "{complaint:?}");
    }
});
