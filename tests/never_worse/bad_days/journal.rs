//! A journal that is torn, huge, or written by many at once, and ids that would forge a record.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use testkit::{Scratch, text};

use crate::{is_seven, seven, within_limit};

fn operation(scratch: &Scratch, seven: &Path, id: &str) {
    is_seven(&within_limit(scratch.wrapped(seven).args(["delete", id])));
}

#[test]
fn a_torn_last_line_spoils_only_itself() {
    let scratch = Scratch::new();
    let seven = seven(&scratch);
    operation(&scratch, &seven, "a");
    let path = scratch.state().join("journal.jsonl");
    let torn = fs::read_to_string(&path).unwrap() + "{\"v\":1,\"verb\":\"del";
    fs::write(&path, torn).unwrap();
    operation(&scratch, &seven, "b");
    let text = fs::read_to_string(&path).unwrap();
    let ids: Vec<_> = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .map(|record| record["id"].clone())
        .collect();
    assert_eq!(ids, [json!("a"), json!("b")]);
}

#[test]
fn one_of_100_mb_is_rotated() {
    let scratch = Scratch::new();
    let seven = seven(&scratch);
    operation(&scratch, &seven, "a");
    let path = scratch.state().join("journal.jsonl");
    fs::File::options().write(true).open(&path).unwrap().set_len(100 << 20).unwrap();
    operation(&scratch, &seven, "b");
    assert_eq!(scratch.journal().len(), 1);
    assert_eq!(fs::metadata(scratch.state().join("journal.jsonl.1")).unwrap().len(), 100 << 20);
}

#[test]
fn an_id_forges_no_record() {
    let scratch = Scratch::new();
    let seven = seven(&scratch);
    operation(&scratch, &seven, "a\"}\n{\"v\":1,\"verb\":\"create\",\"id\":\"b\"}\n");
    operation(&scratch, &seven, "\u{2028}\u{85}\r");
    let raw = fs::read(scratch.state().join("journal.jsonl")).unwrap();
    assert_eq!(raw.iter().filter(|&&byte| byte == b'\n').count(), 2);
    assert!(!text(&raw).contains(['\r', '\u{2028}', '\u{85}']));
    assert!(scratch.journal().iter().all(|record| record["verb"] == "delete"));
}

/// As many as fit into the journal and its predecessor.
#[test]
fn eight_writers_rotate_and_lose_nothing() {
    const WRITERS: usize = 8;
    let scratch = Scratch::new();
    let seven = seven(&scratch);
    let config = scratch.path("config.toml");
    fs::write(&config, "[journal]\nmax_kib = 64\n").unwrap();
    operation(&scratch, &seven, "0-000");
    let path = scratch.state().join("journal.jsonl");
    let size = fs::metadata(&path).unwrap().len() + 8;
    // One and a half times the size: one rotation.
    let each = (3 * 64 * 1024 / 2 / size) as usize / WRITERS;
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (scratch, seven, config) = (&scratch, &seven, &config);
            scope.spawn(move || {
                for number in 0..each {
                    let id = format!("{writer}-{number:03}");
                    let mut command = scratch.wrapped(seven);
                    command.args(["kill", &id]).env("FROSTLOCK_CONFIG", config);
                    is_seven(&within_limit(&mut command));
                }
            });
        }
    });
    let older = fs::read_to_string(scratch.state().join("journal.jsonl.1")).unwrap();
    let newer = fs::read_to_string(&path).unwrap();
    assert!(older.len() <= 64 * 1024 && newer.len() <= 64 * 1024);
    let mut ids: Vec<String> = older
        .lines()
        .chain(newer.lines())
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|record| record["verb"] == "kill")
        .map(|record| record["id"].as_str().unwrap().to_owned())
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), WRITERS * each);
}
