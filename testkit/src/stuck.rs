//! A task that no freezer can stop until it is released, in D state, like one that waits for a disk
//! without an answer.
//!
//! A thread of ours writes to a FIFO from a page that userfaultfd never delivers, and so keeps the
//! pipe's mutex. A task that opens or reads the FIFO meanwhile waits for that mutex in a sleep that
//! is neither freezable nor killable. In the container there is only a `cat`.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::pace::eventually;

/// Where such a task waits (/proc/PID/wchan).
pub const WCHAN: &str = "fifo_open";

const PAGE: usize = 4096;

// linux/userfaultfd.h; libc has none of these types.
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const UFFD_API: u64 = 0xaa;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;

/// The mutex of one FIFO, held until `release` or drop.
#[derive(Debug)]
pub struct Stuck {
    pub fifo: PathBuf,
    faults: Option<OwnedFd>,
    writer: Option<JoinHandle<()>>,
    page: usize,
    /// A FIFO without a writer would be at its end, and its reader would return.
    _open: File,
}

impl Stuck {
    /// Makes the FIFO.
    pub fn hold(fifo: &Path) -> Stuck {
        nix::unistd::mkfifo(fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        let faults = userfaultfd();
        let page = absent_page(&faults);
        // Both ends, so that opening it does not wait.
        let open = OpenOptions::new().read(true).write(true).open(fifo).unwrap();
        let (say, hear) = std::sync::mpsc::channel();
        let fd = open.as_raw_fd();
        let writer = std::thread::spawn(move || {
            say.send(nix::unistd::gettid()).unwrap();
            // SAFETY: the page stays mapped until this thread was joined.
            #[allow(unsafe_code)]
            unsafe {
                libc::write(fd, page as *const libc::c_void, PAGE);
            }
        });
        let wchan = format!("/proc/self/task/{}/wchan", hear.recv().unwrap());
        eventually(Duration::from_secs(5), "the pipe's mutex is held", || {
            std::fs::read_to_string(&wchan).is_ok_and(|wchan| wchan.contains("userfault"))
        });
        let (faults, writer) = (Some(faults), Some(writer));
        Stuck { fifo: fifo.to_owned(), faults, writer, page, _open: open }
    }

    /// Releases everything that waits for it.
    pub fn release(&mut self) {
        // Closing a userfaultfd makes the page an ordinary one and wakes its waiters.
        drop(self.faults.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
            // SAFETY: nobody else knows of the page.
            #[allow(unsafe_code)]
            unsafe {
                libc::munmap(self.page as *mut libc::c_void, PAGE);
            }
        }
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        self.release();
    }
}

fn userfaultfd() -> OwnedFd {
    // SAFETY: it takes nothing but flags, and gives a descriptor that is nobody else's.
    #[allow(unsafe_code)]
    let faults = unsafe {
        let fd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC);
        assert!(fd >= 0, "userfaultfd: {}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd as i32)
    };
    let mut api: [u64; 3] = [UFFD_API, 0, 0];
    control(&faults, UFFDIO_API, &mut api);
    faults
}

/// A page that is not there, and never will be.
fn absent_page(faults: &OwnedFd) -> usize {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping, at a place that the kernel chooses.
    #[allow(unsafe_code)]
    let page = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, protection, flags, -1, 0) };
    assert_ne!(page, libc::MAP_FAILED);
    let mut register: [u64; 4] = [page as u64, PAGE as u64, UFFDIO_REGISTER_MODE_MISSING, 0];
    control(faults, UFFDIO_REGISTER, &mut register);
    page as usize
}

fn control<const N: usize>(faults: &OwnedFd, request: libc::c_ulong, argument: &mut [u64; N]) {
    // SAFETY: each request is given as many words as its structure has.
    #[allow(unsafe_code)]
    let done = unsafe { libc::ioctl(faults.as_raw_fd(), request, argument.as_mut_ptr()) };
    assert_eq!(done, 0, "userfaultfd: {}", std::io::Error::last_os_error());
}
