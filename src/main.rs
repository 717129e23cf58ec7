//! The binary: everything is in the library.
//!
//! No Rust entry point: the one of std ignores SIGPIPE and opens closed descriptors before we could
//! see how the caller left them, and the container would inherit both.

#![no_main]
// For the names of the entry point and of the mark.
#![allow(unsafe_code)]

/// The section by which another frostlock knows this one, whatever it is called, and reads its version,
/// as to run it would run the runtime (`config::locate`). It is here and in no library, as a section ends
/// up in every program that a library is linked into.
#[used]
#[unsafe(link_section = ".frostlock")]
static MARK: [u8; MARKED_WITH.len()] = bytes(MARKED_WITH);

const MARKED_WITH: &str = concat!("frostlock ", env!("CARGO_PKG_VERSION"));

const fn bytes<const LENGTH: usize>(text: &str) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    let mut at = 0;
    while at < LENGTH {
        bytes[at] = text.as_bytes()[at];
        at += 1;
    }
    bytes
}

#[unsafe(no_mangle)]
extern "C" fn main(_argc: i32, _argv: *const *const u8) -> i32 {
    frostlock::program::main()
}
