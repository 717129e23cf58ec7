//! Holds signals back from the first file to the last, until frostctl can end without half a
//! change.
//!
//! Programs started meanwhile inherit the signal mask; their time limits end them instead.

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

const ENDS: [Signal; 4] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];

#[derive(Debug)]
pub(super) struct Held {
    before: SigSet,
    signals: SignalFd,
}

impl Held {
    pub(super) fn hold() -> anyhow::Result<Held> {
        let set: SigSet = ENDS.into_iter().collect();
        let before =
            set.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK).context("signals")?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .context("signals")?;
        Ok(Held { before, signals })
    }

    /// Fails if a signal told us to end.
    pub(super) fn obey(&self) -> anyhow::Result<()> {
        match self.signals.read_signal() {
            Ok(Some(_)) => anyhow::bail!("interrupted"),
            _ => Ok(()),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // It cannot fail with a mask that the kernel returned.
        let _ = self.before.thread_set_mask();
    }
}
