//! What the fake runtime must do: shared by the program and by the tests that script it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// For `VERB ID`, else `VERB`, else `*`: what each attempt does. The last entry is for all further
/// attempts. Attempts are counted for each verb and id.
pub type Script = BTreeMap<String, Vec<Attempt>>;

/// One start of the runtime, in the order in which things happen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Attempt {
    /// Run, and waited for, before anything else; for `create` the container's directory already
    /// exists, but its state does not. The hook's exit status does not matter.
    pub hook: Vec<String>,
    /// Written to the container's v1 freezer before the delay, as if by somebody else at that
    /// moment.
    pub freezer: String,
    /// What to do with `--console-socket`: nothing, `hang up`, or `send` for a terminal on which a
    /// `cat` answers.
    pub console: String,
    pub delay_us: u64,
    /// Up to this much more, at random.
    pub jitter_us: u64,
    /// The process that a foreground `run` or `exec` starts and waits for; its pid is in
    /// `--pid-file`.
    pub child: Vec<String>,
    pub stdout: String,
    pub stderr: String,
    /// An error message for `--log`, in its format.
    pub log: String,
    /// Runs forever.
    pub hang: bool,
    /// The signal to die of, if not 0.
    pub signal: i32,
    pub exit: i32,
    /// `create` leaves its directory behind if it fails, `delete` even if it succeeds.
    pub keep_state: bool,
}
