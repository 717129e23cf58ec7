//! The limits of a throttled container, read at every moment.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use testkit::scene::{MS, limits};

/// Reads the limits about a thousand times a second, and keeps wrong ones.
pub(crate) struct Sampler {
    is_on: Arc<Mutex<bool>>,
    is_over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<(u64, Vec<String>)>>,
}

impl Sampler {
    pub(crate) fn start(cgroup: PathBuf) -> Sampler {
        let is_on = Arc::new(Mutex::new(false));
        let is_over = Arc::new(AtomicBool::new(false));
        let (on, over) = (Arc::clone(&is_on), Arc::clone(&is_over));
        let thread = std::thread::spawn(move || {
            let (mut samples, mut wrong) = (0, Vec::new());
            while !over.load(Ordering::Relaxed) {
                let on = on.lock().unwrap();
                for (file, value) in limits().iter().filter(|_| *on) {
                    match fs::read_to_string(cgroup.join(file)) {
                        Ok(text) if text != format!("{value}\n") => {
                            wrong.push(format!("{file} {text:?}"));
                        }
                        // A delete has removed it.
                        _ => {}
                    }
                    samples += 1;
                }
                drop(on);
                std::thread::sleep(MS);
            }
            (samples / limits().len() as u64, wrong)
        });
        Sampler { is_on, is_over, thread: Some(thread) }
    }

    /// After this has returned, no earlier state is read any more.
    pub(crate) fn watch(&self, on: bool) {
        *self.is_on.lock().unwrap() = on;
    }

    pub(crate) fn finish(&mut self) -> Option<(u64, Vec<String>)> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.take().and_then(|thread| thread.join().ok())
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.finish();
    }
}
