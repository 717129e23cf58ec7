//! The queue in front of a lock: first come, first served.
//!
//! flock gives a free lock to whichever process tries first, and wakes all that wait. With eight exec
//! loops beside four updaters, up to five updates had their turn while another one waited. So there are
//! tickets. Drawing a ticket locks the byte of its number in the turnstile file; its holder waits until
//! no lower byte is locked. The kernel unlocks the byte of a holder that dies, and no two wait for the
//! same turn, so nobody can jump the queue.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::mode::Mode;
use super::wait::{self, Refusal, Wait};
use crate::state_dir::is_at;
use sys::ByteRange;

/// A place at the head of the queue; dropping it lets the next one move up.
#[derive(Debug)]
pub(super) struct Turn {
    _file: File,
}

/// Joins the queue and waits for our turn.
pub(super) fn enter(wait: &mut Wait<'_>, path: &Path) -> Result<Turn, Refusal> {
    loop {
        // Held only while a ticket is drawn.
        let file = wait.lock(path, Mode::Exclusive)?;
        let Some(ticket) = draw(&file) else {
            // On a full disk there are no tickets: the holder of the flock has the turn, in no order.
            return Ok(Turn { _file: file });
        };
        sys::flock(&file, libc::LOCK_UN)?;
        let ahead = ByteRange { first: FIRST, length: ticket - FIRST };
        if ahead.length > 0 {
            wait.until(|blocking| ahead.lock(&file, libc::F_RDLCK, blocking))?;
        }
        if is_at(&file, path) {
            return Ok(Turn { _file: file });
        }
    }
}

/// Whether someone has a ticket. An operation that got none on a full disk is not seen.
pub(super) fn is_taken(path: &Path) -> io::Result<bool> {
    has_tickets(&wait::open(path, false)?)
}

/// Removes the file, unless someone stands in it: later ones would queue in a new file, and then only
/// flock(2) would decide which of the two queues is next.
pub(super) fn remove_if_empty(path: &Path) -> io::Result<()> {
    let file = wait::open(path, false)?;
    // No one can draw a ticket meanwhile.
    sys::flock(&file, libc::LOCK_EX | libc::LOCK_NB)?;
    if is_at(&file, path) && !has_tickets(&file)? {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

fn has_tickets(file: &File) -> io::Result<bool> {
    ByteRange { first: FIRST, length: 0 }.is_locked(file)
}

/// The first ticket. No one is ahead of it, and a range of length 0 would mean "to the end of the
/// file".
const FIRST: i64 = 1;

/// Takes the next number and locks its byte. The file contains the last number drawn.
fn draw(file: &File) -> Option<i64> {
    let mut last = [0; 8];
    // A new file is shorter; one that was emptied starts again.
    let last = match file.read_exact_at(&mut last, 0) {
        Ok(()) => i64::from_le_bytes(last),
        Err(_) => 0,
    };
    let ticket = last.checked_add(1).filter(|ticket| *ticket >= FIRST)?;
    file.write_all_at(&ticket.to_le_bytes(), 0).ok()?;
    ByteRange { first: ticket, length: 1 }.lock(file, libc::F_WRLCK, false).ok()?;
    Some(ticket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn enter_within(path: &Path, limit: Duration) -> Option<Turn> {
        enter(&mut Wait::new(limit, path), path).ok()
    }

    #[test]
    fn one_at_a_time_and_the_next_when_it_leaves() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("turn");
        let first = enter_within(&path, Duration::ZERO).unwrap();
        assert!(enter_within(&path, Duration::ZERO).is_none());
        drop(first);
        assert!(enter_within(&path, Duration::ZERO).is_some());
    }

    #[test]
    fn garbage_in_the_file_stops_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("turn");
        for content in [&[0xff_u8; 8][..], &i64::MAX.to_le_bytes(), b"abc", &[0; 100]] {
            std::fs::write(&path, content).unwrap();
            let turn = enter_within(&path, Duration::ZERO);
            assert!(turn.is_some(), "{content:?}");
            assert!(enter_within(&path, Duration::ZERO).is_none(), "{content:?}");
        }
    }

    #[test]
    fn a_file_emptied_meanwhile_still_keeps_others_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("turn");
        let turn = enter_within(&path, Duration::ZERO).unwrap();
        std::fs::write(&path, "").unwrap();
        // It draws the same number, which is taken, so it queues without one. The lock itself still
        // excludes; only the order is lost.
        drop(enter_within(&path, Duration::ZERO));
        drop(turn);
        assert!(enter_within(&path, Duration::ZERO).is_some());
    }
}
