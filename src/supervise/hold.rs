//! The lock of one operation: which mode it holds, and how the wait for it ended.

use std::time::{Duration, Instant};

use super::operation::Operation;
use crate::container::Container;
use crate::outcome::LockUse;
use crate::policy::Held;
use cgroup::Identity;
use state::intent;
use state::lock::{Acquired, Guard, Holder, LockFiles, Mode};

/// A shorter time is what locking a free file takes.
const A_WAIT: Duration = Duration::from_millis(1);

#[derive(Debug, Default)]
pub(super) struct Hold {
    guard: Option<Guard>,
    /// From the last attempt to take it.
    lock: LockUse,
}

impl Hold {
    /// Takes the lock that the policy asks for; gives how long that took.
    pub(super) fn take(operation: &Operation<'_>, container: &mut Container) -> (Hold, Duration) {
        let wanted = operation.policy.lock.zip(container.identity());
        let Some((lock, identity)) = wanted else { return (Hold::default(), Duration::ZERO) };
        let since = Instant::now();
        let mut acquired = acquire(operation, &identity, lock.mode, lock.wait);
        while matches!(acquired, Acquired::Held(_))
            && has_moved(operation, container, since.elapsed())
        {
            let Some(identity) = container.identity() else { break };
            drop(acquired);
            let left = lock.wait.saturating_sub(since.elapsed());
            acquired = acquire(operation, &identity, lock.mode, left);
            if since.elapsed() >= lock.wait {
                break;
            }
        }
        (Hold::of(acquired, lock.mode), since.elapsed())
    }

    fn of(acquired: Acquired, mode: Mode) -> Hold {
        let (guard, lock) = match acquired {
            Acquired::Held(guard) => (Some(guard), LockUse::Held(mode)),
            Acquired::Nested(holder) => (None, LockUse::Nested(holder)),
            Acquired::TimedOut { holders } => (None, LockUse::TimedOut(holders)),
            Acquired::Unavailable(why) => (None, LockUse::Unavailable(why.to_string())),
        };
        Hold { guard, lock }
    }

    /// Takes it again after `let_go`, for the next attempt.
    pub(super) fn take_again(
        &mut self,
        operation: &Operation<'_>,
        container: &Container,
        left: Duration,
    ) {
        if let Some((lock, identity)) = operation.policy.lock.zip(container.identity()) {
            let acquired = acquire(operation, &identity, lock.mode, lock.wait.min(left));
            *self = Hold::of(acquired, lock.mode);
        }
    }

    pub(super) fn let_go(&mut self) {
        self.guard = None;
    }

    pub(super) fn is_held(&self) -> bool {
        self.guard.is_some()
    }

    pub(super) fn is_exclusive(&self) -> bool {
        self.guard.as_ref().is_some_and(Guard::is_exclusive)
    }

    pub(super) fn lock(&self) -> &LockUse {
        &self.lock
    }

    pub(super) fn into_lock(self) -> LockUse {
        self.lock
    }

    /// Undoes what killed operations have left, if there is anything, and only under the exclusive
    /// lock. If this operation has a shared one, or none, like `kill`, the exclusive lock is taken just
    /// for this.
    pub(super) fn recover(
        &mut self,
        operation: &Operation<'_>,
        container: &Container,
    ) -> Vec<String> {
        let Some(cgroup) = container.identity() else { return Vec::new() };
        if !operation.policy.mends || !intent::is_due(operation.state, &cgroup) {
            return Vec::new();
        }
        let recover = || intent::recover(operation.state, &cgroup, || container.is_paused());
        if self.is_exclusive() {
            return recover();
        }
        // An operation whose own wait for the lock timed out does not wait again.
        let since = Instant::now();
        let limit = match (self.guard.take(), operation.policy.lock) {
            (Some(_), Some(lock)) => lock.wait,
            _ => Duration::ZERO,
        };
        let acquired = acquire(operation, &cgroup, Mode::Exclusive, limit);
        let recovered = match &acquired {
            Acquired::Held(_) => recover(),
            _ => Vec::new(),
        };
        drop(acquired);
        if let LockUse::Held(mode) = self.lock {
            let left = limit.saturating_sub(since.elapsed());
            *self = Hold::of(acquire(operation, &cgroup, mode, left), mode);
        }
        recovered
    }

    /// Gives the lock back and removes its files, unless another operation uses them.
    pub(super) fn retire(&mut self, operation: &Operation<'_>, container: &Container) {
        if let Some(guard) = self.alone(operation, container) {
            guard.retire();
        }
    }

    /// The same, with our record of the container, which is removed under the lock.
    pub(super) fn forget(&mut self, operation: &Operation<'_>, container: &Container) {
        let guard = self.alone(operation, container);
        container.forget();
        if let Some(guard) = guard {
            guard.retire();
        }
    }

    /// The lock for this operation alone. An operation that shares it, or a foreground `run` that gave
    /// it back long before, gets it only if no other operation uses it.
    fn alone(&mut self, operation: &Operation<'_>, container: &Container) -> Option<Guard> {
        let guard = self.guard.take();
        // An operation whose policy has no lock, such as `kill`, takes none here either.
        let may_lock = guard.is_some() || operation.policy.lock.is_some();
        guard.filter(Guard::is_exclusive).or_else(|| {
            let identity = container.identity().filter(|_| may_lock)?;
            match acquire(operation, &identity, Mode::Exclusive, Duration::ZERO) {
                Acquired::Held(guard) => Some(guard),
                _ => None,
            }
        })
    }
}

/// Whether the lock is free, and earlier holders have left nothing to undo.
pub(super) fn is_open(operation: &Operation<'_>, container: &Container) -> bool {
    let identity = container.identity().filter(|_| operation.policy.lock.is_some());
    let Some(identity) = identity else { return false };
    let Ok(directory) = operation.state.locks() else { return false };
    LockFiles::of(&identity, &directory).is_open_to_shared()
        && !intent::is_due(operation.state, &identity)
}

/// The operation ahead of us may have deleted the container, and another may have made it again,
/// perhaps in another cgroup. Then that cgroup's lock is the right one. Without a wait there was no
/// time for that.
fn has_moved(operation: &Operation<'_>, container: &mut Container, waited: Duration) -> bool {
    if waited < A_WAIT || operation.invocation.verb.makes_a_container() {
        return false;
    }
    let now = operation.container();
    if now.identity().is_none() {
        return false;
    }
    let before = std::mem::replace(container, now);
    before.identity() != container.identity()
}

fn acquire(
    operation: &Operation<'_>,
    identity: &Identity,
    mode: Mode,
    limit: Duration,
) -> Acquired {
    let directory = match operation.state.locks() {
        Ok(directory) => directory,
        Err(error) => return Acquired::Unavailable(error),
    };
    let gives_it_back_at_once =
        operation.policy.lock.is_some_and(|lock| lock.held == Held::NotAtAll);
    let invocation = operation.invocation;
    let holder = (!gives_it_back_at_once)
        .then(|| Holder::ourselves(invocation.verb.as_str(), &invocation.id))
        .flatten();
    LockFiles::of(identity, &directory).acquire(mode, limit, holder.as_ref())
}
