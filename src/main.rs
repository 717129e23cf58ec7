//! The binary: everything is in the library.
//!
//! There is no Rust entry point: std's ignores SIGPIPE and opens closed descriptors before we could see
//! how the caller left them, and the container would inherit both.

#![no_main]
// Needed for the names of the entry point and of the mark.
#![allow(unsafe_code)]

/// The section by which another frostlock recognises this one, whatever its name, and reads its
/// version; to run it for that would run the runtime (`config::locate`). It is here and not in a
/// library, because a section ends up in every program that links a library.
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
