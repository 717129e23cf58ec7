//! A terminal, and the message that carries it.

use std::fs::{File, OpenOptions};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use rustix::pty::OpenptFlags;

/// Connects to a console socket and does what the script says. The error message is runc's.
pub fn hand_out(socket: &Path, what: &str) -> Result<Option<OwnedFd>, String> {
    if what.is_empty() {
        return Ok(None);
    }
    let connection = UnixStream::connect(socket)
        .map_err(|error| format!("dial unix {}: connect: {error}", socket.display()))?;
    if what == "hang up" {
        return Ok(None);
    }
    let (master, name) = open();
    send(&connection, name.as_bytes(), &master);
    Ok(Some(master))
}

/// A terminal that answers until its master is closed, possibly long after this program has ended.
#[allow(clippy::zombie_processes)]
fn open() -> (OwnedFd, String) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags).unwrap();
    rustix::pty::grantpt(&master).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let slave = |path: &str| -> File {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NOCTTY).open(path).unwrap()
    };
    let mut cat = Command::new("cat");
    cat.stdin(slave(&name)).stdout(slave(&name)).stderr(Stdio::null()).spawn().unwrap();
    (master, name)
}

fn send(to: &UnixStream, name: &[u8], terminal: &OwnedFd) {
    let descriptors = [terminal.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    rustix::net::sendmsg(to, &[IoSlice::new(name)], &mut control, SendFlags::NOSIGNAL).unwrap();
}

/// One message, as callers receive it: the name and the terminals that came with it; neither if the
/// other end has hung up.
pub fn receive(from: &UnixStream) -> std::io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut name = vec![0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::net::recvmsg(
        from,
        &mut [IoSliceMut::new(&mut name)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    name.truncate(message.bytes);
    let terminals = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(received) => Some(received),
            _ => None,
        })
        .flatten()
        .collect();
    Ok((name, terminals))
}
