//! dockerd: its file, and what the process says over its socket.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use tokio::net::UnixStream;

use super::facts::{Entries, Handler, Loaded};
use crate::configure::edit::is_ours;

const SOCKET: &str = "/run/docker.sock";

/// For its answer dockerd counts its images, which takes a while on a slow disk.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);

/// An answer has some KB.
const MOST_BYTES: usize = 4 << 20;

pub(super) fn entries(text: &str) -> anyhow::Result<Entries> {
    if text.trim().is_empty() {
        return Ok(Default::default());
    }
    let value: Value = serde_json::from_str(text)?;
    let runtimes = value["runtimes"].as_object().into_iter().flatten();
    let program = |(name, it): (&String, &Value)| Some((name.clone(), it["path"].as_str()?.into()));
    let default = value["default-runtime"].as_str().map(str::to_owned);
    Ok((runtimes.filter_map(program).collect(), default))
}

pub(super) fn loaded(handlers: &[Handler]) -> Loaded {
    match ask(Path::new(SOCKET)) {
        Ok(Some(info)) => compare(&info, handlers),
        Ok(None) => Loaded::NotRunning,
        Err(error) => Loaded::NotChecked(format!("{SOCKET}: {error:#}")),
    }
}

fn compare(info: &Value, handlers: &[Handler]) -> Loaded {
    let Some(runtimes) = info["Runtimes"].as_object() else {
        return Loaded::NotChecked("its answer names no runtimes".to_owned());
    };
    let owed = handlers.iter().filter_map(|it| {
        let path = runtimes.get(&it.name).map(|it| it["path"].as_str().unwrap_or_default());
        match path {
            None => Some(format!("it has no runtime {} yet", it.name)),
            Some(path) if Path::new(path) != it.binary => {
                Some(format!("its runtime {} runs {path}", it.name))
            }
            Some(_) => {
                let default = info["DefaultRuntime"].as_str().unwrap_or_default();
                (it.is_default != (default == it.name)).then(|| format!("its default is {default}"))
            }
        }
    });
    let mut owed: Vec<String> = owed.collect();
    owed.extend(left_over(info, handlers));
    if owed.is_empty() { Loaded::AsConfigured } else { Loaded::Otherwise(owed) }
}

/// Runtimes and default of ours that dockerd keeps after a reload, though its file no longer has
/// them.
fn left_over<'a>(info: &'a Value, handlers: &'a [Handler]) -> impl Iterator<Item = String> + 'a {
    let default = info["DefaultRuntime"].as_str().unwrap_or_default();
    let all = info["Runtimes"].as_object().into_iter().flatten();
    let ours = all.filter(|(_, it)| it["path"].as_str().is_some_and(is_ours));
    let left = ours.filter(|(name, _)| !handlers.iter().any(|it| it.name == **name));
    left.map(move |(name, _)| match name == default {
        true => format!("its default is still {name}"),
        false => format!("it still has the runtime {name}"),
    })
}

/// The output of `docker info`; `None` if nobody listens.
fn ask(socket: &Path) -> anyhow::Result<Option<Value>> {
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
    fn the_file_names_runtimes_and_a_default() {
        let text = r#"{"default-runtime":"b","runtimes":{"a":{"path":"/a"},"b":{"path":"/b"},
            "kata":{"runtimeType":"io.containerd.kata.v2"}}}"#;
        let (all, default) = entries(text).unwrap();
        let pair = |name: &str| (name.to_owned(), format!("/{name}"));
        assert_eq!((all, default.as_deref()), (vec![pair("a"), pair("b")], Some("b")));
        assert!(entries("").unwrap().0.is_empty() && entries("{").is_err());
    }

    #[test]
    fn what_the_daemon_has_is_compared() {
        let info = serde_json::json!({ "DefaultRuntime": "runc", "Runtimes": {
            "runc": { "path": "runc" }, "frostlock": { "path": "/x/frostlock" } } });
        let handler = |name: &str, binary: &str, is_default| {
            vec![Handler { name: name.to_owned(), binary: binary.into(), is_default }]
        };
        let otherwise = |what: &str| Loaded::Otherwise(vec![what.to_owned()]);
        for (configured, expected) in [
            (handler("frostlock", "/x/frostlock", false), Loaded::AsConfigured),
            (handler("frostlock", "/x/frostlock", true), otherwise("its default is runc")),
            (
                handler("other", "/x/frostlock", false),
                Loaded::Otherwise(vec![
                    "it has no runtime other yet".to_owned(),
                    "it still has the runtime frostlock".to_owned(),
                ]),
            ),
            (
                handler("frostlock", "/y/frostlock", false),
                otherwise("its runtime frostlock runs /x/frostlock"),
            ),
        ] {
            assert_eq!(compare(&info, &configured), expected);
        }
        assert_eq!(compare(&info, &[]), otherwise("it still has the runtime frostlock"));
        let mut info = info;
        info["DefaultRuntime"] = "frostlock".into();
        assert_eq!(compare(&info, &[]), otherwise("its default is still frostlock"));
        let none = compare(&serde_json::json!({}), &handler("f", "/f", false));
        assert!(matches!(none, Loaded::NotChecked(_)));
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
