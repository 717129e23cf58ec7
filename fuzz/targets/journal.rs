//! A journal.

#![no_main]

use std::io::BufReader;

use journal::reader::Records;
use journal::record::Record;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let whole: Vec<_> = Records::of(data).collect();
    let lines = data.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    assert_eq!(whole.len(), lines.count());
    // It does not depend on how the bytes come in.
    let pieces: Vec<_> = Records::of(BufReader::with_capacity(7, data)).collect();
    assert_eq!(whole.len(), pieces.len());
    for (one, other) in whole.iter().zip(&pieces) {
        assert_eq!(one.as_ref().ok(), other.as_ref().ok());
        if let Ok(record) = one {
            let text = serde_json::to_vec(record).expect("a record is JSON");
            let again: Record = serde_json::from_slice(&text).expect("it can be read again");
            assert_eq!(again.id, record.id);
        }
        let _ = one.as_ref().map_err(ToString::to_string);
    }
});
