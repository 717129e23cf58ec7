//! Command lines, as /proc/PID/cmdline has them: words that end with a NUL.

#![no_main]

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use cgroup::RuntimeKind;
use frostlock::invocation::{Command, CommandLine, Value, read};
use libfuzzer_sys::fuzz_target;

const NEW: &str = "/new";

fuzz_target!(|data: &[u8]| {
    let words = data.strip_suffix(b"\0").unwrap_or(data);
    let args: Vec<_> =
        words.split(|&byte| byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect();
    for grammar in [RuntimeKind::Runc, RuntimeKind::Crun, RuntimeKind::Youki] {
        let line = read(grammar, &args);
        check_command(&line, &args);
        let _ = line.globals.log_file(grammar);
        if let Some(log) = &line.globals.log {
            let mut expected = line.clone();
            expected.globals.log = Some(Value { text: NEW.into(), ..log.clone() });
            check_replaced(grammar, &args, log, &expected);
        }
        if let Command::Supervised(invocation) = &line.command {
            if let Some(socket) = &invocation.console_socket {
                let mut changed = invocation.clone();
                changed.console_socket = Some(Value { text: NEW.into(), ..socket.clone() });
                let expected =
                    CommandLine { command: Command::Supervised(changed), ..line.clone() };
                check_replaced(grammar, &args, socket, &expected);
            }
        }
    }
});

fn check_command(line: &CommandLine, args: &[OsString]) {
    match &line.command {
        Command::Supervised(invocation) => {
            let id = invocation.id.as_bytes();
            assert!(!matches!(id, b"" | b"." | b".."));
            assert!(!id.contains(&b'/') && !id.starts_with(b"-"));
            assert!(args.contains(&invocation.id));
        }
        Command::Unreadable { reason } => {
            assert!(reason.len() <= 200);
            assert!(reason.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()));
        }
        Command::PassThrough => {}
    }
}

/// Nothing but the value changes, and the new line reads as the old one with that value.
fn check_replaced(grammar: RuntimeKind, args: &[OsString], value: &Value, expected: &CommandLine) {
    assert_eq!(value.replaced(args, &value.text), args);
    let again = value.replaced(args, OsStr::new(NEW));
    assert_eq!(again.len(), args.len());
    assert!((0..args.len()).all(|at| at == value.arg || args[at] == again[at]));
    assert_eq!(&read(grammar, &again), expected);
}
