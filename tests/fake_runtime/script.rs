//! What the fake runtime is told to do: shared by the program and by the tests that script it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// For `VERB ID`, else `VERB`, else `*`: what each attempt does. The last one stands for all that
/// follow. Attempts are counted for each verb and id.
pub type Script = BTreeMap<String, Vec<Attempt>>;

/// One start of the runtime, in the order in which it happens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Attempt {
    /// Run, and waited for, before anything else; for `create` the container's directory is there
    /// already, its state is not. Its end does not matter.
    pub hook: Vec<String>,
    /// Written to the container's freezer on v1 before the delay, as by somebody else at that moment.
    pub freezer: String,
    /// What becomes of `--console-socket`: nothing, `hang up`, or `send` for a terminal on which a
    /// `cat` answers.
    pub console: String,
    pub delay_us: u64,
    /// Up to so much more, at random.
    pub jitter_us: u64,
    /// What a foreground `run` or `exec` starts and waits for; named in `--pid-file`.
    pub child: Vec<String>,
    pub stdout: String,
    pub stderr: String,
    /// An error message for `--log`, in its format.
    pub log: String,
    /// Goes on for ever.
    pub hang: bool,
    /// The signal to die of, if not 0.
    pub signal: i32,
    pub exit: i32,
    /// `create` leaves its directory behind although it fails, `delete` although it succeeds.
    pub keep_state: bool,
}
