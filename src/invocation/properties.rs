//! What holds for every command line, and for every correct one in any order.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const GRAMMARS: [RuntimeKind; 3] = [RuntimeKind::Runc, RuntimeKind::Crun, RuntimeKind::Youki];

/// Words that are near enough to correct ones to get past the first check.
fn likely_word() -> impl Strategy<Value = OsString> {
    let known = prop::sample::select(vec![
        "-",
        "--",
        "---help",
        "--log",
        "--log=x",
        "-l",
        "--root",
        "--root=",
        "--frob",
        "create",
        "kill",
        "exec",
        "update",
        "state",
        "delete",
        "--all",
        "-a",
        "-r",
        "-",
        "-9",
        "--resources",
        "--console-socket",
        "--bundle",
        "-b",
        "-bX",
        "-td",
        "--tty=no",
        "c1",
        "9",
        "",
        "--help",
    ]);
    prop_oneof![
        4 => known.prop_map(OsString::from),
        1 => vec(any::<u8>(), 0..12).prop_map(OsString::from_vec),
    ]
}

fn id() -> impl Strategy<Value = String> {
    "[a-z0-9][a-z0-9_.+-]{0,20}"
}

/// A flag in the notations that all three grammars share.
fn value_flag(name: &'static str) -> impl Strategy<Value = Vec<String>> {
    ("/[a-z/=]{0,9}", any::<bool>()).prop_map(move |(value, joined)| {
        if joined { vec![format!("--{name}={value}")] } else { vec![format!("--{name}"), value] }
    })
}

fn switch(name: &'static str) -> impl Strategy<Value = Vec<String>> {
    Just(vec![format!("--{name}")])
}

fn in_any_order(
    flags: impl Strategy<Value = Vec<Vec<String>>>,
) -> impl Strategy<Value = Vec<String>> {
    flags.prop_shuffle().prop_map(|flags| flags.concat())
}

fn global_flags() -> impl Strategy<Value = Vec<String>> {
    let root = Just(vec!["--root".to_owned(), "/the/root".to_owned()]);
    let rest = vec(prop_oneof![value_flag("log"), value_flag("log-format"), switch("debug")], 0..3);
    in_any_order((root, rest).prop_map(|(root, mut rest)| {
        rest.push(root);
        rest
    }))
}

fn create_flags() -> impl Strategy<Value = Vec<String>> {
    in_any_order(vec(
        prop_oneof![
            value_flag("bundle"),
            value_flag("pid-file"),
            value_flag("console-socket"),
            switch("no-pivot"),
            switch("no-new-keyring"),
        ],
        0..5,
    ))
}

fn to_args(words: &[&[String]]) -> Vec<OsString> {
    words.concat().into_iter().map(OsString::from).collect()
}

fn supervised(line: CommandLine) -> Invocation {
    match line.command {
        Command::Supervised(invocation) => invocation,
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn any_bytes_can_be_read(args in vec(vec(any::<u8>(), 0..20).prop_map(OsString::from_vec), 0..8)) {
        for grammar in GRAMMARS {
            read(grammar, &args);
        }
    }

    #[test]
    fn likely_words_can_be_read(args in vec(likely_word(), 0..10)) {
        for grammar in GRAMMARS {
            let line = read(grammar, &args);
            match &line.command {
                Command::Unreadable { reason } => {
                    prop_assert!(reason.len() <= 200);
                    prop_assert!(reason.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()));
                }
                Command::Supervised(invocation) => {
                    let id = invocation.id.as_bytes();
                    prop_assert!(!id.is_empty() && !id.contains(&b'/') && !id.starts_with(b"-"));
                    prop_assert!(args.contains(&invocation.id));
                }
                Command::PassThrough => {}
            }
        }
    }

    #[test]
    fn a_replaced_value_is_the_only_change(args in vec(likely_word(), 0..10)) {
        for grammar in GRAMMARS {
            let line = read(grammar, &args);
            let Some(log) = &line.globals.log else { continue };
            let again = log.replaced(&args, OsStr::new("/new"));
            let changed: Vec<_> = (0..args.len()).filter(|&at| args[at] != again[at]).collect();
            prop_assert_eq!(changed, vec![log.arg]);
            let mut expected = line.clone();
            expected.globals.log = Some(Value { text: "/new".into(), ..log.clone() });
            prop_assert_eq!(read(grammar, &again), expected);
        }
    }

    #[test]
    fn flags_may_come_in_any_order(
        globals in global_flags(), flags in create_flags(), id in id(),
    ) {
        let verb = ["create".to_owned()];
        let id_word = [id.clone()];
        for grammar in GRAMMARS {
            let before = to_args(&[&globals, &verb, &flags, &id_word]);
            let behind = to_args(&[&globals, &verb, &id_word, &flags]);
            let line = read(grammar, &before);
            prop_assert_eq!(&line.globals.root, &Some(PathBuf::from("/the/root")));
            let create = supervised(line);
            prop_assert_eq!((create.verb, &create.id), (Verb::Create, &OsString::from(&id)));
            if grammar != RuntimeKind::Crun {
                let late = supervised(read(grammar, &behind));
                prop_assert_eq!((&late.id, &late.bundle), (&create.id, &create.bundle));
                prop_assert_eq!(&late.pid_file, &create.pid_file);
            }
            if let Some(socket) = &create.console_socket {
                let mut expected = create.clone();
                expected.console_socket = Some(Value { text: "/new".into(), ..socket.clone() });
                let again = supervised(read(grammar, &socket.replaced(&before, OsStr::new("/new"))));
                prop_assert_eq!(again, expected);
            }
        }
    }
}
