//! What the test programs of frostlock and frostctl share. Nothing that is installed is built with
//! it, and it knows none of our crates: it starts programs and reads what they leave.
//!
//! - `programs`, `runtime`: the programs under test, and the real runtimes of the lab
//! - `command`, `install`: commands that end in time; scripts and copies that can be executed
//! - `inside`, `pace`: tests that run again elsewhere; how often, and how long to wait
//! - `scratch`, `live`: a place that cleans up after itself, for the wrapper and for frostctl
//! - `cgroup`, `cpu`, `freezer`, `realtime`: what the kernel shows, and what a person does to it
//! - `load`, `stuck`: a busy machine, and a task that does not freeze
//! - `scene`, `throttled`, `table`: one container, bare or wrapped; one with a quota; its figures
//! - `fake_runtime`, `failing`: runtimes that do what a test says
//! - `terminal`, `transcript`: a caller's terminal, and what a caller sees
//! - `podman`, `recorder`: engines of the test's own

// A failed preparation fails its test, and a measurement is printed with the test's own output.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]
// `new` makes directories, cgroups and terminals: no default value does.
#![allow(clippy::new_without_default)]

pub mod cgroup;
pub mod command;
pub mod cpu;
pub mod failing;
pub mod fake_runtime;
pub mod freezer;
pub mod inside;
pub mod install;
pub mod live;
pub mod load;
pub mod pace;
pub mod podman;
pub mod programs;
pub mod realtime;
pub mod recorder;
pub mod runtime;
pub mod scene;
pub mod scratch;
pub mod stuck;
pub mod table;
pub mod terminal;
pub mod throttled;
pub mod transcript;

pub use cgroup::{cgroup_dirs, pids, remove_cgroup};
pub use command::{contents, run, succeed, text, wait};
pub use inside::{on_v2, run_inside};
pub use install::{compiled, install, program};
pub use pace::{eventually, proof, slowness};
pub use programs::{before, frostctl, frostlock, repository};
pub use runtime::{Runtime, lab, runtime, runtimes};
pub use scratch::Scratch;
