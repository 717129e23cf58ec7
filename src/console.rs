//! A terminal on its way from the runtime to the caller.
//!
//! Callers accept one connection on their console socket and take one message from it: containerd
//! after `create` has returned, conmon at once. A runtime connects early, before the stage in which
//! it may fail to freeze. So every attempt gets a private socket to send its terminal to, and the
//! first that arrives is handed on the moment it does, through the one connection of ours to the
//! caller's socket.
//!
//! That is made when the first attempt connects, as the bare runtime's would be, and hung up at our
//! end: a caller in accept(2) hears of a runtime that fails without a terminal, and one that gives up
//! after a while does not give up on a long hook. Should we become the runtime after a failed attempt,
//! the caller finds that first connection hung up, as after the bare runtime's failure.

use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    UnixAddr, recvmsg, sendmsg, sockopt,
};
use nix::sys::time::TimeVal;

use crate::invocation::Value;
use cgroup::process;
use state::state_dir;

/// sun_path holds 108 bytes with the final NUL.
const SOCKET_PATH_BYTES: usize = 107;

/// runc sends the name of the terminal along, a path below /dev/pts or what it was in /proc/self/fd.
const MESSAGE_BYTES: usize = 4096;

/// How long a caller whose queue is full may keep us, in seconds.
const CONNECT_MAX_SECONDS: i64 = 1;

/// Between the runtime and the caller's console socket.
#[derive(Debug)]
pub(crate) struct Console {
    /// Until the terminal is delivered.
    caller: Option<Caller>,
    listener: UnixListener,
    path: PathBuf,
    /// The runtime's connection, from its accept until its message.
    runtime: Option<UnixStream>,
}

impl Console {
    /// Stands in for the caller's console socket. Returns the arguments for the runtime. `None`
    /// leaves the runtime to connect itself, and means that no attempt can be repeated: when the
    /// caller's socket is not one, or a private path would be too long for a socket.
    pub(crate) fn stand_in(
        socket: &Value,
        directory: &Path,
        args: &[OsString],
    ) -> Option<(Console, Vec<OsString>)> {
        let caller = Caller::find(Path::new(&socket.text)).ok()?;
        let (listener, path) = listen(directory).ok()?;
        let args = socket.replaced(args, path.as_os_str());
        Some((Console { caller: Some(caller), listener, path, runtime: None }, args))
    }

    /// What to wait for.
    pub(crate) fn waits_on(&self) -> BorrowedFd<'_> {
        match &self.runtime {
            Some(connection) => connection.as_fd(),
            None => self.listener.as_fd(),
        }
    }

    /// Does what can be done without waiting. Whether the terminal has reached the caller.
    pub(crate) fn relay(&mut self) -> bool {
        if self.caller.is_none() {
            return true;
        }
        if self.runtime.is_none() {
            self.accept();
        }
        let Some(connection) = &self.runtime else { return false };
        match receive(connection) {
            Ok((name, terminal)) => {
                // Whether the caller is still there is its own affair; a bare runtime's message
                // would have been lost as well.
                if let Some(caller) = self.caller.take() {
                    let _ = caller.send(&name, &terminal);
                }
                true
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            // It hung up without a terminal: this attempt is failing.
            Err(_) => {
                self.runtime = None;
                false
            }
        }
    }

    /// Takes the runtime's connection, if it has made one, and makes ours to the caller.
    fn accept(&mut self) {
        let Ok((connection, _)) = self.listener.accept() else { return };
        let _ = connection.set_nonblocking(true);
        self.runtime = Some(connection);
        if let Some(caller) = &mut self.caller {
            let _ = caller.connect();
        }
    }

    /// Whether the caller has its terminal, so that no further attempt can be made.
    pub(crate) fn is_delivered(&self) -> bool {
        self.caller.is_none()
    }

    /// Drops what a failed attempt may have left in the queue.
    pub(crate) fn begin_attempt(&mut self) {
        self.runtime = None;
        while self.listener.accept().is_ok() {}
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn listen(directory: &Path) -> io::Result<(UnixListener, PathBuf)> {
    if let Some(parent) = directory.parent() {
        state_dir::make_private(parent)?;
    }
    state_dir::make_private(directory)?;
    sweep(directory);
    let path = directory.join(process::own_pid().to_string());
    if path.as_os_str().len() > SOCKET_PATH_BYTES {
        return Err(io::Error::other("the path of a private console socket would be too long"));
    }
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path)?;
    listener.set_nonblocking(true)?;
    Ok((listener, path))
}

/// Removes the sockets of wrappers that were killed.
fn sweep(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.parse::<i32>().ok());
        let is_stale = pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
        if is_stale {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Who listens on the caller's console socket.
#[derive(Debug)]
struct Caller {
    address: UnixAddr,
    /// Made before it is connected, as there may be no descriptor to be had when it is needed.
    socket: OwnedFd,
    is_connected: bool,
}

impl Caller {
    /// An error where there is nobody to connect to, which the runtime is to say in its own words.
    fn find(path: &Path) -> io::Result<Caller> {
        let address = UnixAddr::new(path)?;
        let socket = |kind| socket::socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None);
        // A socket of another type finds out who is there without taking the one connection.
        match socket::connect(socket(SockType::Datagram)?.as_raw_fd(), &address) {
            Err(Errno::EPROTOTYPE) => {}
            Err(error) => return Err(error.into()),
            Ok(()) => return Err(io::Error::other("not a stream socket")),
        }
        let socket = socket(SockType::Stream)?;
        let limit = TimeVal::new(CONNECT_MAX_SECONDS, 0);
        socket::setsockopt(&socket, sockopt::SendTimeout, &limit)?;
        Ok(Caller { address, socket, is_connected: false })
    }

    /// Once, whatever further attempts do.
    fn connect(&mut self) -> io::Result<()> {
        if !self.is_connected {
            socket::connect(self.socket.as_raw_fd(), &self.address)?;
            self.is_connected = true;
        }
        Ok(())
    }

    fn send(mut self, name: &[u8], terminal: &OwnedFd) -> io::Result<()> {
        self.connect()?;
        let descriptors = [terminal.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&descriptors)];
        let (to, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_NOSIGNAL);
        sendmsg::<UnixAddr>(to, &[IoSlice::new(name)], &control, flags, None)?;
        Ok(())
    }
}

fn receive(from: &UnixStream) -> io::Result<(Vec<u8>, OwnedFd)> {
    let mut bytes = vec![0; MESSAGE_BYTES];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<UnixAddr>(from.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    let length = message.bytes;
    let mut descriptors = message.cmsgs()?.filter_map(|control| match control {
        ControlMessageOwned::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptor = descriptors.next().and_then(|received| received.first().copied());
    drop(descriptors);
    let terminal = descriptor.map(sys::own).ok_or(io::ErrorKind::UnexpectedEof)?;
    bytes.truncate(length);
    Ok((bytes, terminal))
}
