//! The binary: everything is in the library.
//!
//! No Rust entry point: the one of std ignores SIGPIPE and opens closed descriptors before we could
//! see how the caller left them, and the container would inherit both.

#![no_main]
// For the names of the entry point and of the mark.
#![allow(unsafe_code)]

/// The section by which another frostlock knows this one, whatever it is called (`config::locate`). It
/// is here and in no library, as a section ends up in every program that a library is linked into.
#[used]
#[unsafe(link_section = ".frostlock")]
static MARK: [u8; 9] = *b"frostlock";

#[unsafe(no_mangle)]
extern "C" fn main(_argc: i32, _argv: *const *const u8) -> i32 {
    frostlock::program::main()
}
