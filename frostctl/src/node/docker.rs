//! The running dockerd, asked over its socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use tokio::net::UnixStream;

use super::processes;
use super::root::Root;

/// Where it listens, unless it was told otherwise.
pub(crate) const SOCKET: &str = "/run/docker.sock";

/// For its answer dockerd counts its images, which takes a while on a slow disk.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);

/// An answer has some KB.
const MOST_BYTES: usize = 4 << 20;

/// The sockets of this node's running dockerds that their command lines name, else the usual one.
pub(crate) fn listening() -> Vec<PathBuf> {
    let running = processes::named(&Root::default(), &["dockerd"]);
    let here = running.iter().filter(|it| it.is_here);
    let mut all: Vec<PathBuf> = here.flat_map(|it| sockets_of(&it.args)).collect();
    all.sort();
    all.dedup();
    all
}

/// systemd gives the usual one to `-H fd://`. Over TCP dockerd may ask for a certificate, so the usual one
/// is then asked, too.
fn sockets_of(args: &[String]) -> Vec<PathBuf> {
    let told = processes::values(args, &["-H", "--host"]);
    let sockets: Vec<PathBuf> =
        told.filter_map(|it| it.strip_prefix("unix://")).map(PathBuf::from).collect();
    if sockets.is_empty() { vec![SOCKET.into()] } else { sockets }
}

/// The programs of its runtimes by their names, of `docker info`.
pub(crate) fn programs(info: &Value) -> Option<Vec<(String, PathBuf)>> {
    let runtimes = info["Runtimes"].as_object()?.iter();
    let program = |(name, it): (&String, &Value)| Some((name.clone(), it["path"].as_str()?.into()));
    Some(runtimes.filter_map(program).collect())
}

/// The output of `docker info`; `None` if nobody listens.
pub(crate) fn ask(socket: &Path) -> anyhow::Result<Option<Value>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = runtime.block_on(async { tokio::time::timeout(ANSWERS_WITHIN, get(socket)).await });
    let late = || format!("no answer within {} s", ANSWERS_WITHIN.as_secs());
    match asked.with_context(late)? {
        Ok(answer) => Ok(Some(body(&answer)?)),
        Err(error) => match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => Ok(None),
            _ => Err(error.into()),
        },
    }
}

/// HTTP/1.0, so that the answer is not chunked and ends with the connection.
async fn get(socket: &Path) -> std::io::Result<Vec<u8>> {
    let stream = UnixStream::connect(socket).await?;
    let mut request: &[u8] = b"GET /info HTTP/1.0\r\nHost: docker\r\n\r\n";
    while !request.is_empty() {
        stream.writable().await?;
        match stream.try_write(request) {
            Ok(written) => request = &request[written..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    let mut answer = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        stream.readable().await?;
        match stream.try_read(&mut buffer) {
            Ok(0) => return Ok(answer),
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if answer.len() > MOST_BYTES {
            return Err(std::io::Error::other("its answer is too large"));
        }
    }
}

fn body(answer: &[u8]) -> anyhow::Result<Value> {
    let answer = std::str::from_utf8(answer).context("its answer is not text")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("its answer is not HTTP")?;
    let status = head.lines().next().unwrap_or_default();
    anyhow::ensure!(status.split(' ').nth(1) == Some("200"), "it says {status:?}");
    serde_json::from_str(body).context("what it says of itself")
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn its_command_line_names_its_sockets() {
        for (line, sockets) in [
            ("dockerd", vec![SOCKET]),
            ("dockerd -H fd:// --containerd=/run/containerd/containerd.sock", vec![SOCKET]),
            (
                "dockerd --host=unix:///a.sock -H tcp://0.0.0.0:2376 -H unix:///b.sock",
                vec!["/a.sock", "/b.sock"],
            ),
        ] {
            let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(
                sockets_of(&args),
                sockets.into_iter().map(PathBuf::from).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn the_daemon_is_asked_for_a_bounded_time() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker.sock");
        assert!(ask(&socket).unwrap().is_none());
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let began = std::time::Instant::now();
        let error = ask(&socket).unwrap_err().to_string();
        assert!(error.contains("no answer within 3 s"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(10));
        drop(listener.accept().unwrap());
        let answers = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1000]).unwrap();
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n{\"Runtimes\":{}}").unwrap();
        });
        assert!(ask(&socket).unwrap().unwrap()["Runtimes"].is_object());
        answers.join().unwrap();
    }
}
