//! The names in a lock file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use state::lock::Holder;

fuzz_target!(|data: &[u8]| {
    let holders = Holder::all_in(data);
    assert!(holders.len() <= 32);
    for holder in holders {
        assert!(!holder.to_string().chars().any(char::is_control));
        let text = serde_json::to_vec(&holder).expect("a holder is JSON");
        let again: Holder = serde_json::from_slice(&text).expect("it can be read again");
        assert_eq!(again, holder);
    }
});
