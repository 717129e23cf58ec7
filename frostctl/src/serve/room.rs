//! Which clients are connected, and which connection makes room for a new one. An idle client keeps
//! out nobody: the oldest idle connection goes first, and one address can have only a few at once.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::AbortHandle;

/// In total: a Prometheus has one, or two while the first hangs; kubelet's probes have two.
pub(super) const MOST: usize = 32;

/// Per address.
pub(super) const MOST_OF_ONE: usize = 8;

/// A client's origin. A host with IPv6 has a whole network of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    V4([u8; 4]),
    V6Network([u8; 8]),
    /// A user of this node, over a socket in its file system.
    User(u32),
}

impl Origin {
    pub(super) fn of(address: IpAddr) -> Origin {
        match address.to_canonical() {
            IpAddr::V4(address) => Origin::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Origin::V6Network([a, b, c, d, e, f, g, h])
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Free,
    /// The place of the connection at this index.
    Of(usize),
    /// All connections are being answered.
    None,
}

/// `held` is oldest first: the origin, and whether the connection is idle, with no request yet.
fn place(held: &[(Origin, bool)], from: Origin) -> Place {
    let of_one = held.iter().filter(|(origin, _)| *origin == from).count();
    let is_full_of_one = of_one >= MOST_OF_ONE;
    if !is_full_of_one && held.len() < MOST {
        return Place::Free;
    }
    let may_go =
        |(origin, is_idle): &(Origin, bool)| *is_idle && (!is_full_of_one || *origin == from);
    held.iter().position(may_go).map_or(Place::None, Place::Of)
}

#[derive(Debug)]
struct Guest {
    from: Origin,
    has_asked: Arc<AtomicBool>,
    task: AbortHandle,
}

/// The connected clients, oldest first.
#[derive(Debug, Default)]
pub(super) struct Room(Vec<Guest>);

impl Room {
    pub(super) fn is_full_for(&mut self, from: Origin) -> bool {
        self.place(from) != Place::Free
    }

    /// Makes a place if possible: ends the oldest idle connection.
    pub(super) fn make_place(&mut self, from: Origin) -> bool {
        match self.place(from) {
            Place::Free => true,
            Place::Of(index) => {
                self.0.remove(index).task.abort();
                true
            }
            Place::None => false,
        }
    }

    pub(super) fn enter(&mut self, from: Origin, has_asked: Arc<AtomicBool>, task: AbortHandle) {
        self.0.push(Guest { from, has_asked, task });
    }

    fn place(&mut self, from: Origin) -> Place {
        self.0.retain(|guest| !guest.task.is_finished());
        let one = |guest: &Guest| (guest.from, !guest.has_asked.load(Ordering::Relaxed));
        place(&self.0.iter().map(one).collect::<Vec<_>>(), from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: bool = true;
    const BUSY: bool = false;

    fn v4(last: u8) -> Origin {
        Origin::V4([10, 0, 0, last])
    }

    #[test]
    fn who_goes_for_one_more() {
        let of = |from: u8, count: usize, is_idle: bool| vec![(v4(from), is_idle); count];
        let many = |from: u8, is_idle: bool| -> Vec<_> {
            (from..from + MOST as u8).map(|it| (v4(it), is_idle)).collect()
        };
        for (held, place_is, why) in [
            (vec![], Place::Free, "nobody is here"),
            (of(1, MOST_OF_ONE - 1, IDLE), Place::Free, "one is left"),
            (of(1, MOST_OF_ONE, IDLE), Place::Of(0), "its own oldest"),
            (of(1, MOST_OF_ONE, BUSY), Place::None, "its own are all being answered"),
            (of(2, MOST_OF_ONE, IDLE), Place::Free, "what another holds"),
            ([of(2, 3, IDLE), of(1, MOST_OF_ONE, IDLE)].concat(), Place::Of(3), "no other's"),
            ([of(1, 1, BUSY), of(1, MOST_OF_ONE, IDLE)].concat(), Place::Of(1), "the idle one"),
            (many(100, IDLE), Place::Of(0), "full: the oldest of all"),
            (many(100, BUSY), Place::None, "full of those being answered"),
            ([of(50, 1, BUSY), many(100, IDLE)].concat(), Place::Of(1), "the oldest idle"),
        ] {
            assert_eq!(place(&held, v4(1)), place_is, "{why}");
        }
    }

    #[test]
    fn one_host_is_one_origin() {
        let of = |text: &str| Origin::of(text.parse().unwrap());
        assert_eq!(of("10.0.0.1"), of("::ffff:10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::2"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
    }
}
