//! Relays a terminal from the runtime to the caller.
//!
//! Callers accept one connection on their console socket and take one message from it: containerd after
//! `create` has returned, conmon at once. A runtime connects early, before the stage in which it may
//! fail to freeze. So every attempt sends its terminal to a private socket. The first terminal that
//! arrives is handed on at once, through our single connection to the caller's socket.
//!
//! That connection is made when the first attempt connects, as the bare runtime's would be, and closed
//! when we end. So a caller in accept(2) learns of a runtime that fails without a terminal, and one
//! with a timeout does not give up on a long hook. If we become the runtime after a failed attempt, the
//! caller finds that first connection closed, as after a failure of the bare runtime.

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

/// sun_path has 108 bytes, including the final NUL.
const SOCKET_PATH_BYTES: usize = 107;

/// runc sends the name of the terminal along: a path below /dev/pts, or its name in /proc/self/fd.
const MESSAGE_BYTES: usize = 4096;

/// How long a caller whose queue is full may block us, in seconds.
const CONNECT_MAX_SECONDS: i64 = 1;

/// Stands between the runtime and the caller's console socket.
#[derive(Debug)]
pub(crate) struct Console {
    /// None once the terminal has been delivered.
    caller: Option<Caller>,
    listener: UnixListener,
    path: PathBuf,
    /// The runtime's connection, from its accept to its message.
    runtime: Option<UnixStream>,
}

impl Console {
    /// Stands in for the caller's console socket. Returns the arguments for the runtime. `None` leaves
    /// the connection to the runtime, and then no attempt can be repeated. That happens if the caller's
    /// socket is not a socket, or a private path would be too long for one.
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

    /// The descriptor to wait for.
    pub(crate) fn waits_on(&self) -> BorrowedFd<'_> {
        match &self.runtime {
            Some(connection) => connection.as_fd(),
            None => self.listener.as_fd(),
        }
    }

    /// Does what can be done without waiting.
    pub(crate) fn relay(&mut self) {
        if self.is_delivered() {
            return;
        }
        if self.runtime.is_none() {
            self.accept();
        }
        let Some(connection) = &self.runtime else { return };
        match receive(connection) {
            Ok((name, terminal)) => {
                // It is up to the caller whether it is still there; a bare runtime's message would be
                // lost as well.
                if let Some(caller) = self.caller.take() {
                    let _ = caller.send(&name, &terminal);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The runtime closed the connection without a terminal: this attempt is failing.
            Err(_) => self.runtime = None,
        }
    }

    /// Accepts the runtime's connection, if it has made one, and then connects to the caller.
    fn accept(&mut self) {
        let Ok((connection, _)) = self.listener.accept() else { return };
        let _ = connection.set_nonblocking(true);
        self.runtime = Some(connection);
        if let Some(caller) = &mut self.caller {
            let _ = caller.connect();
        }
    }

    /// Whether the caller has its terminal. Then no further attempt can be made.
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

/// Removes the sockets of killed wrappers.
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

/// The listener on the caller's console socket.
#[derive(Debug)]
struct Caller {
    address: UnixAddr,
    /// Made before it is connected, because there may be no descriptor left when it is needed.
    socket: OwnedFd,
    is_connected: bool,
}

impl Caller {
    /// An error if no one listens, which the runtime then reports in its own words.
    fn find(path: &Path) -> io::Result<Caller> {
        let address = UnixAddr::new(path)?;
        let socket = |kind| socket::socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None);
        // A socket of another type finds out who is there without using up the one connection.
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

    /// Connects once, whatever further attempts do.
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
