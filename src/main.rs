//! The binary: everything is in the library.
//!
//! No Rust entry point: the one of std ignores SIGPIPE and opens closed descriptors before we could
//! see how the caller left them, and the container would inherit both.

#![no_main]
// For the name of the entry point alone.
#![allow(unsafe_code)]

#[unsafe(no_mangle)]
extern "C" fn main(_argc: i32, _argv: *const *const u8) -> i32 {
    frostlock::program::main()
}
