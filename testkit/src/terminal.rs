//! A person at a terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::pace::eventually;

const LIMIT: Duration = Duration::from_secs(10);

/// The side of a terminal with the keys and the screen.
#[derive(Debug)]
pub struct Terminal {
    keys: File,
    screen: Arc<Mutex<String>>,
}

impl Terminal {
    pub fn new(master: OwnedFd) -> Terminal {
        let keys = File::from(master);
        let mut output = keys.try_clone().unwrap();
        let screen = Arc::new(Mutex::new(String::new()));
        let shown = Arc::clone(&screen);
        // Ends with EIO when the last process has closed the other side.
        std::thread::spawn(move || {
            let mut bytes = [0; 1024];
            while let Ok(length @ 1..) = output.read(&mut bytes) {
                shown.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..length]));
            }
        });
        Terminal { keys, screen }
    }

    /// Starts a command whose controlling terminal is a new one.
    pub fn start(command: &Command) -> (Terminal, Child) {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let peer = rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY);
        let peer = peer.unwrap();
        // setsid becomes the command, since a child of ours leads no process group.
        let mut session = Command::new("setsid");
        session.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => session.env(name, value),
                None => session.env_remove(name),
            };
        }
        let child = session
            .stdin(peer.try_clone().unwrap())
            .stdout(peer.try_clone().unwrap())
            .stderr(peer)
            .spawn()
            .unwrap();
        (Terminal::new(master), child)
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(self.keys.as_fd(), size).unwrap();
    }

    pub fn types(&mut self, line: &str) {
        self.keys.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    pub fn screen(&self) -> String {
        self.screen.lock().unwrap().clone()
    }

    pub fn shows(&self, text: &str) {
        let what = format!("{text:?} on the terminal");
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually(LIMIT, &what, || self.screen().contains(text));
        }));
        assert!(seen.is_ok(), "no {what}: {:?}", self.screen());
    }

    /// What a person does to see whether a terminal works: a shell answers, and a new size arrives
    /// there. The size is delivered separately, so it is read again until it is there; and ctr 1.6
    /// reads the size before it listens for changes, so it is changed again.
    pub fn is_usable(&mut self) {
        self.types("echo answer-$((6 * 7))");
        self.shows("answer-42");
        for (rows, columns) in [(33, 101), (24, 80)] {
            let size = format!("size {rows} {columns}\r");
            eventually(LIMIT, &format!("{size:?}"), || {
                self.resize(rows, columns - 1);
                self.resize(rows, columns);
                self.types("echo size $(stty size)");
                std::thread::sleep(Duration::from_millis(50));
                self.screen().contains(&size)
            });
        }
    }
}

/// Ends it if it does not end by itself.
pub fn ends(child: &mut Child) -> ExitStatus {
    for _ in 0..1000 {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    let status = child.wait().unwrap();
    panic!("had to be killed: {status}");
}
