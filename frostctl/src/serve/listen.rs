//! Where `serve` listens: an address, or a socket in the file system that only its owner and its
//! group can open.

use std::fs::File;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{Mode, umask};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};

use super::room::Origin;

/// A listener accepts at once or has a queue, which is an answer as well.
const ANSWER_WAIT: Duration = Duration::from_secs(1);

/// Leaves 0660.
const NOT_OTHERS: u32 = 0o117;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Listen {
    At(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Listen, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            let is_file = path.is_absolute() && path.file_name().is_some();
            return if is_file {
                Ok(Listen::Unix(path))
            } else {
                Err("after unix: an absolute path is needed, as in \
                     unix:/run/frostlock/metrics.sock"
                    .into())
            };
        }
        let address = text.parse().map(Listen::At);
        address.map_err(|_| {
            "neither ADDRESS:PORT with a numeric address, as 127.0.0.1:9764, nor unix:/PATH".into()
        })
    }
}

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    pub(super) async fn bind(listen: &Listen) -> anyhow::Result<Listener> {
        match listen {
            Listen::At(address) => {
                let listener = TcpListener::bind(address).await;
                let listener = listener
                    .with_context(|| format!("cannot listen at {address}: try another --listen"))?;
                Ok(Listener::Tcp(listener))
            }
            Listen::Unix(path) => Ok(Listener::Unix(bind_unix(path).await?)),
        }
    }

    /// As a client would name it.
    pub(super) fn name(&self) -> anyhow::Result<String> {
        Ok(match self {
            Listener::Tcp(listener) => format!("http://{}/metrics", listener.local_addr()?),
            Listener::Unix(listener) => {
                let address = listener.local_addr()?;
                let path = address.as_pathname().unwrap_or(Path::new(""));
                format!("unix:{}, path /metrics", path.display())
            }
        })
    }

    pub(super) async fn accept(&self) -> std::io::Result<(Box<dyn Stream>, Origin)> {
        Ok(match self {
            Listener::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                (Box::new(stream), Origin::of(from.ip()))
            }
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let user = stream.peer_cred()?.uid();
                (Box::new(stream), Origin::User(user))
            }
        })
    }
}

/// Locks the directory from the check to the bind: of two that start at once, one would otherwise
/// remove the other's socket.
async fn bind_unix(path: &Path) -> anyhow::Result<UnixListener> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let opened = File::open(directory)
        .with_context(|| format!("cannot listen at unix:{}: make its directory", path.display()))?;
    let _lock = Flock::lock(opened, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| {
        anyhow::anyhow!(
            "cannot lock {}: is another one just starting? ({error})",
            directory.display()
        )
    })?;
    remove_stale(path).await?;
    // Not by chmod: until then the socket would be open to all. There is no other thread yet.
    let before = umask(Mode::from_bits_truncate(NOT_OTHERS));
    let listener = UnixListener::bind(path);
    umask(before);
    listener.with_context(|| format!("cannot listen at unix:{}", path.display()))
}

/// Removes the socket of a server that has ended.
async fn remove_stale(path: &Path) -> anyhow::Result<()> {
    let metadata = match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        metadata => metadata.with_context(|| format!("cannot look at {}", path.display()))?,
    };
    anyhow::ensure!(
        metadata.file_type().is_socket(),
        "{} is there and is not a socket: name another path, or remove it",
        path.display()
    );
    match tokio::time::timeout(ANSWER_WAIT, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
                .with_context(|| format!("cannot remove {}, where nobody listens", path.display()))
        }
        Ok(Err(error)) if error.kind() == ErrorKind::PermissionDenied => {
            Err(error).with_context(|| format!("cannot tell who listens at {}", path.display()))
        }
        // A full queue also means that somebody listens.
        _ => anyhow::bail!(
            "somebody listens at {} already: end that one, or name another path",
            path.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_or_a_path() {
        let at = |text: &str| Ok(Listen::At(text.parse().unwrap()));
        assert_eq!("127.0.0.1:9764".parse(), at("127.0.0.1:9764"));
        assert_eq!("[::1]:9764".parse(), at("[::1]:9764"));
        assert_eq!("unix:/run/x".parse(), Ok(Listen::Unix("/run/x".into())));
        for wrong in ["", "9764", "localhost:9764", "unix:", "unix:run/x", "unix:/", "/run/x"] {
            assert!(wrong.parse::<Listen>().is_err(), "{wrong}");
        }
    }
}
