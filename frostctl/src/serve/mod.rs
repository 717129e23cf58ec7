//! `serve`: the metrics over HTTP, for a Prometheus that scrapes the node itself.

mod listen;
mod room;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Mutex;
use tokio::task::yield_now;

use crate::exit::Exit;
use crate::metrics::Source;
use crate::output;
use listen::{Listen, Listener, Stream};
use room::{Origin, Room};

/// A request of Prometheus has some 300 bytes; hyper accepts no smaller limit.
const REQUEST_BYTES: usize = 8192;

/// From the connection to the end of the request. Prometheus sends both at once.
const HEADER_LIMIT: Duration = Duration::from_millis(800);

/// Longer than a reading that waits for another's lock.
const CONNECTION_LIMIT: Duration = Duration::from_secs(15);

/// Scrapes within this time get the same answer, however many there are.
const FRESH: Duration = Duration::from_secs(1);

/// After a failed accept, most often because no descriptors are left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// For a --textfile, which is replaced once a minute: numbers that nobody renews must not look
/// current.
const STALE: Duration = Duration::from_secs(300);

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answer Prometheus over HTTP, at /metrics, and probes at /healthz
#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    source: Source,

    /// Answer with what `frostctl metrics --textfile FILE` wrote last, and read nothing else, which
    /// needs no rights. Once FILE is older than 5 minutes, the answer is an error
    #[arg(long, value_name = "FILE", conflicts_with_all = ["journal", "state", "pod_hours", "audit"])]
    textfile: Option<PathBuf>,

    /// Where to listen; beyond loopback, whoever asks sees the names of pods. A socket (unix:/PATH)
    /// has mode 0660
    #[arg(long, value_name = "ADDRESS:PORT|unix:/PATH", default_value = "127.0.0.1:9764")]
    listen: Listen,
}

#[derive(Debug)]
struct Server {
    source: Source,
    textfile: Option<PathBuf>,
    latest: Mutex<Option<(Instant, Bytes)>>,
}

impl Serve {
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.listen())
    }

    async fn listen(&self) -> anyhow::Result<Exit> {
        let listener = Listener::bind(&self.listen).await?;
        output::note(&format!("listening at {}", listener.name()?));
        let (source, textfile) = (self.source.clone(), self.textfile.clone());
        let server = Arc::new(Server { source, textfile, latest: Mutex::new(None) });
        let mut room = Room::default();
        loop {
            let Ok((stream, from)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            if room.is_full_for(from) {
                see_who_has_asked().await;
            }
            if room.make_place(from) {
                serve(&server, &mut room, stream, from);
            }
        }
    }
}

/// Lets connections with a pending request run first, so that none of them counts as idle. The
/// first turn polls the sockets, the second the connections.
async fn see_who_has_asked() {
    yield_now().await;
    yield_now().await;
}

fn serve(server: &Arc<Server>, room: &mut Room, stream: Box<dyn Stream>, from: Origin) {
    let has_asked = Arc::new(AtomicBool::new(false));
    let connection = connection(Arc::clone(server), stream, Arc::clone(&has_asked));
    let task = tokio::spawn(async move {
        // A caller that is slow or goes away is not our failure.
        let _ = tokio::time::timeout(CONNECTION_LIMIT, connection).await;
    });
    room.enter(from, has_asked, task.abort_handle());
}

/// One request each: a kept connection would keep its place.
async fn connection(
    server: Arc<Server>,
    stream: Box<dyn Stream>,
    has_asked: Arc<AtomicBool>,
) -> hyper::Result<()> {
    let service = service_fn(move |request| {
        has_asked.store(true, Ordering::Relaxed);
        let server = Arc::clone(&server);
        async move { Ok::<_, Infallible>(server.answer(&request).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .max_buf_size(REQUEST_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

impl Server {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n".into());
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/metrics" => match self.metrics().await {
                Ok(text) => plain(StatusCode::OK, text),
                Err(error) => {
                    output::note(&format!("{error:#}"));
                    plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n").into())
                }
            },
            // Tells only whether somebody answers. The journal's state is in /metrics, which takes
            // its time.
            "/healthz" => plain(StatusCode::OK, "ok\n".into()),
            "/" => plain(StatusCode::OK, "frostlock: the metrics are at /metrics\n".into()),
            _ => plain(StatusCode::NOT_FOUND, "the metrics are at /metrics\n".into()),
        }
    }

    /// The lock is held during the reading, so that callers who wait meanwhile get its result.
    async fn metrics(&self) -> anyhow::Result<Bytes> {
        let mut latest = self.latest.lock().await;
        if let Some((_, text)) = latest.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return Ok(text.clone());
        }
        let (source, textfile) = (self.source.clone(), self.textfile.clone());
        let text = tokio::task::spawn_blocking(move || match textfile {
            Some(path) => fresh(&path),
            None => source.text(),
        });
        let text = Bytes::from(text.await??);
        *latest = Some((Instant::now(), text.clone()));
        Ok(text)
    }
}

/// A file from the future, as after the clock was set, is not stale.
fn fresh(path: &Path) -> anyhow::Result<String> {
    let read = || std::fs::metadata(path).and_then(|it| it.modified());
    let modified = read().with_context(|| path.display().to_string())?;
    let age = modified.elapsed().unwrap_or_default();
    ensure!(age < STALE, "{} is {} s old: who writes it?", path.display(), age.as_secs());
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

fn plain(status: StatusCode, text: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TEXT));
    response
}
