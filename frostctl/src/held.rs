//! Holds back signals while something must not be left half done.

use std::os::fd::AsFd;

use anyhow::{Context, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Holds them until dropped. Programs started meanwhile inherit the mask; their time limits end
/// them.
#[derive(Debug)]
pub(crate) struct Held {
    came: SignalFd,
    before: SigSet,
}

impl Held {
    pub(crate) fn back() -> anyhow::Result<Held> {
        Held::these([Signal::SIGINT, Signal::SIGTERM])
    }

    pub(crate) fn these(signals: impl IntoIterator<Item = Signal>) -> anyhow::Result<Held> {
        let set = SigSet::from_iter(signals);
        let before = SigSet::thread_get_mask().context("signals")?;
        set.thread_block().context("signals")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Held { came: SignalFd::with_flags(&set, flags).context("signals")?, before })
    }

    /// Waits this long for a signal, and consumes it.
    pub(crate) fn comes_within(&self, limit: PollTimeout) -> anyhow::Result<bool> {
        match poll(&mut [PollFd::new(self.came.as_fd(), PollFlags::POLLIN)], limit) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => Ok(false),
            Ok(_) => Ok(self.came.read_signal().context("signals")?.is_some()),
            Err(error) => Err(error).context("signals"),
        }
    }

    /// Whether a signal has come so far.
    pub(crate) fn has_come(&self) -> bool {
        self.comes_within(PollTimeout::ZERO).unwrap_or(false)
    }

    /// Fails if a signal told us to end.
    pub(crate) fn obey(&self) -> anyhow::Result<()> {
        if self.has_come() {
            bail!("interrupted");
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.before.thread_set_mask();
    }
}
