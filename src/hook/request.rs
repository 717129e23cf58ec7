//! What a hook is asked to do, from its command line.

use std::ffi::OsString;

use oci_spec::runtime::ContainerState;

use cgroup::text;

/// The first word that makes this a hook. No runtime has a command of this name, so this works even if
/// we are installed as `runc`.
const ROLE: &str = "hook";

/// A stage is a word; a longer one also ends up in a log line.
const WORD_BYTES: usize = 64;

/// The stages of the OCI specification, and podman's own.
const STAGES: [&str; 7] = [
    "precreate",
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

const HELP: &str = "\
frostlock hook [--strict] [STAGE]: as a hook of an OCI runtime, or of podman

The container's state comes in on standard input, at precreate its configuration. STAGE is one of:

  precreate, prestart, createRuntime
      waits until neither the container's cgroup nor one above is frozen, for hook.wait_ms at most
  poststop
      removes what frostlock has of the container
  createContainer, startContainer, poststart
      only writes a record

Without a STAGE the state tells createRuntime and poststop apart.

  --strict   exit with 1 if the wait ran out, the state could not be read, or STAGE is none of these
  --help     print this, write no record; exit with 1 if it cannot be printed
  --version  print frostlock's version, in the same way

Otherwise the exit status is 0: a hook that fails costs the container.
";

/// The command line of a hook.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) strict: bool,
    stage: Option<String>,
    /// The answer to a person, who is not a runtime.
    pub(crate) answer: Option<&'static str>,
    /// What we did not understand, for the journal: to refuse it would cost a container.
    pub(crate) odd: Option<String>,
}

/// What the hook does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    WaitForThaw,
    CleanUp,
    Record,
}

impl Request {
    /// None if we are not called as a hook.
    pub(crate) fn of(args: &[OsString]) -> Option<Request> {
        let (role, args) = args.split_first()?;
        if role != ROLE {
            return None;
        }
        let mut request = Request::default();
        for arg in args {
            request.take(&text::one_line(arg, WORD_BYTES));
        }
        Some(request)
    }

    fn take(&mut self, word: &str) {
        if word == "--strict" {
            self.strict = true;
        } else if matches!(word, "--help" | "-h") {
            self.answer = Some(HELP);
        } else if matches!(word, "--version" | "-V") {
            self.answer = Some(concat!("frostlock ", env!("CARGO_PKG_VERSION"), "\n"));
        } else if self.stage.is_none() && !word.starts_with('-') && !word.is_empty() {
            self.stage = Some(word.to_owned());
        } else {
            self.odd = Some(format!("unknown argument {word}"));
        }
    }

    /// The message about an unknown stage.
    pub(crate) fn wrong_stage(&self) -> Option<String> {
        let stage = self.stage.as_deref().filter(|stage| !STAGES.contains(stage))?;
        let known = STAGES.join(", ");
        Some(format!("hook: there is no stage {stage}, nothing was done; the stages are {known}"))
    }

    /// podman's stage before the container exists: the configuration comes in, and the output replaces
    /// it.
    pub(crate) fn filters_config(&self) -> bool {
        self.stage.as_deref() == Some("precreate")
    }

    pub(crate) fn task(&self, status: Option<ContainerState>) -> Task {
        match self.stage_name(status).as_str() {
            "precreate" | "prestart" | "createRuntime" => Task::WaitForThaw,
            "poststop" => Task::CleanUp,
            _ => Task::Record,
        }
    }

    /// Without a stage on the command line, the state distinguishes the two ends of a container's life.
    pub(crate) fn stage_name(&self, status: Option<ContainerState>) -> String {
        match (&self.stage, status) {
            (Some(stage), _) => stage.clone(),
            (None, Some(ContainerState::Stopped)) => "poststop".to_owned(),
            (None, _) => "createRuntime".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &[&str]) -> Option<Request> {
        Request::of(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn only_the_first_word_makes_a_hook() {
        assert!(of(&["hook"]).is_some());
        for words in [&[][..], &["run", "hook"], &["--root", "hook", "hook"], &["hooks"], &[""]] {
            assert_eq!(of(words), None, "{words:?}");
        }
    }

    #[test]
    fn order_does_not_matter_and_nothing_is_refused() {
        for words in [["hook", "--strict", "prestart"], ["hook", "prestart", "--strict"]] {
            let request = of(&words).unwrap();
            assert!(request.strict && request.odd.is_none());
            assert_eq!(request.task(None), Task::WaitForThaw);
        }
        let request = of(&["hook", "poststop", "--what", "else"]).unwrap();
        assert_eq!(request.odd.as_deref(), Some("unknown argument else"));
        assert_eq!(request.task(None), Task::CleanUp);
    }

    #[test]
    fn a_stage_that_is_none_is_said_and_one_that_is_not() {
        let said = |words: &[&str]| of(words).unwrap().wrong_stage();
        for stage in STAGES {
            assert_eq!(said(&["hook", stage]), None);
            assert!(HELP.contains(stage), "{stage}");
        }
        assert_eq!(said(&["hook"]), None, "the state tells");
        let wrong = said(&["hook", "--strict", "pre-start"]).unwrap();
        assert!(
            wrong.starts_with("hook: there is no stage pre-start, nothing was done"),
            "{wrong}"
        );
    }

    #[test]
    fn without_a_stage_the_status_decides() {
        let request = of(&["hook"]).unwrap();
        assert_eq!(request.task(None), Task::WaitForThaw);
        assert_eq!(request.task(Some(ContainerState::Creating)), Task::WaitForThaw);
        assert_eq!(request.task(Some(ContainerState::Stopped)), Task::CleanUp);
        let other = of(&["hook", "poststart"]).unwrap();
        assert_eq!(other.task(Some(ContainerState::Stopped)), Task::Record);
    }
}
