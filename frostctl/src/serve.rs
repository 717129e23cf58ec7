//! `serve`: the metrics over HTTP, for a Prometheus that asks the node itself.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};

use crate::exit::Exit;
use crate::metrics::Source;
use crate::output;

/// Further ones wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 16;

/// A request of Prometheus has some 300 bytes; hyper takes no smaller limit.
const REQUEST_BYTES: usize = 8192;

const HEADER_LIMIT: Duration = Duration::from_secs(5);

/// More than a reading takes that waits for another's lock.
const CONNECTION_LIMIT: Duration = Duration::from_secs(15);

/// Two scrapes closer than this get the same answer, however many ask.
const FRESH: Duration = Duration::from_secs(1);

/// After a failed accept, which is most often one for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answer Prometheus over HTTP, at /metrics
#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    source: Source,

    /// Where to listen; what is not loopback shows names of pods to whoever asks
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9764")]
    listen: SocketAddr,
}

#[derive(Debug)]
struct Server {
    source: Source,
    latest: Mutex<Option<(Instant, Bytes)>>,
}

impl Serve {
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.listen())
    }

    async fn listen(&self) -> anyhow::Result<Exit> {
        let listener = TcpListener::bind(self.listen)
            .await
            .with_context(|| format!("cannot listen at {}: try another --listen", self.listen))?;
        output::note(&format!("listening at http://{}/metrics", listener.local_addr()?));
        let source = self.source.clone();
        let server = Arc::new(Server { source, latest: Mutex::new(None) });
        let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        loop {
            let place = Arc::clone(&room).acquire_owned().await?;
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let server = Arc::clone(&server);
            tokio::spawn(async move {
                // A caller that is slow, or goes away, is not our failure.
                let _ = tokio::time::timeout(CONNECTION_LIMIT, connection(server, stream)).await;
                drop(place);
            });
        }
    }
}

/// One request each: a connection that is kept would keep its place.
async fn connection(server: Arc<Server>, stream: TcpStream) -> hyper::Result<()> {
    let service = service_fn(move |request| {
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
            "/" => plain(StatusCode::OK, "frostlock: the metrics are at /metrics\n".into()),
            _ => plain(StatusCode::NOT_FOUND, "the metrics are at /metrics\n".into()),
        }
    }

    /// The lock is held over the reading, so that those who ask meanwhile get what it brings.
    async fn metrics(&self) -> anyhow::Result<Bytes> {
        let mut latest = self.latest.lock().await;
        if let Some((_, text)) = latest.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return Ok(text.clone());
        }
        let source = self.source.clone();
        let text = Bytes::from(tokio::task::spawn_blocking(move || source.text()).await??);
        *latest = Some((Instant::now(), text.clone()));
        Ok(text)
    }
}

fn plain(status: StatusCode, text: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TEXT));
    response
}
