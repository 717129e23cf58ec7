//! Whose a freeze is that an attempt finds or leaves. Pure.
//!
//! Only a freeze that no one else may want is undone. A freeze that was there before the first attempt,
//! or that came with somebody's pause, stays.

/// About the cgroup's own freeze, not that of an ancestor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// It is not told to freeze.
    Nobody,
    /// An attempt of this operation.
    Ourselves,
    Somebody,
}

impl Owner {
    /// Who owns the freeze that the next attempt finds, after the one before has left `self`.
    pub(super) fn before_attempt(self, is_told_to_freeze: bool, is_paused: bool) -> Owner {
        match (is_told_to_freeze, self) {
            (false, _) => Owner::Nobody,
            // What an attempt without the lock has left is ours all the same.
            (true, Owner::Ourselves) if !is_paused => Owner::Ourselves,
            (true, _) => Owner::Somebody,
        }
    }

    /// Who owns the freeze that an attempt leaves, after it has found `self`.
    pub(super) fn after_attempt(self, is_told_to_freeze: bool) -> Owner {
        match (is_told_to_freeze, self) {
            (false, _) => Owner::Nobody,
            (true, Owner::Somebody) => Owner::Somebody,
            (true, Owner::Nobody | Owner::Ourselves) => Owner::Ourselves,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Owner::{self, Nobody, Ourselves, Somebody};

    #[test]
    fn before_an_attempt() {
        for (left, is_told, is_paused, met) in [
            (Nobody, false, false, Nobody),
            (Nobody, false, true, Nobody),
            // Frozen between two attempts, or before the first one.
            (Nobody, true, false, Somebody),
            (Nobody, true, true, Somebody),
            (Ourselves, false, false, Nobody),
            (Ourselves, true, false, Ourselves),
            // It has become a pause that was asked for.
            (Ourselves, true, true, Somebody),
            (Somebody, false, false, Nobody),
            (Somebody, true, false, Somebody),
            (Somebody, true, true, Somebody),
        ] {
            let found = Owner::before_attempt(left, is_told, is_paused);
            assert_eq!(found, met, "{left:?}, told {is_told}, paused {is_paused}");
        }
    }

    #[test]
    fn after_an_attempt() {
        for (met, is_told, left) in [
            (Nobody, false, Nobody),
            (Nobody, true, Ourselves),
            (Ourselves, false, Nobody),
            (Ourselves, true, Ourselves),
            (Somebody, false, Nobody),
            (Somebody, true, Somebody),
        ] {
            assert_eq!(Owner::after_attempt(met, is_told), left, "{met:?}, told {is_told}");
        }
    }
}
