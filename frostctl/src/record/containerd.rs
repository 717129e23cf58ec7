//! The events of containerd, of all its namespaces, through its restarts.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use containerd_client::events::{TaskExit, TaskOom};
use containerd_client::services::v1::SubscribeRequest;
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::types::Envelope;
use prost::Message;
use tokio::time::{sleep, timeout};

use super::{Happened, Log};

const EXIT: &str = "/tasks/exit";
const OOM: &str = "/tasks/oom";

const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Between two tries; doubled each time.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// For ever: a node without containerd may get one.
pub(super) async fn follow(socket: &Path, log: &Log<'_>) {
    let mut delay = FIRST_DELAY;
    let mut was_told = false;
    loop {
        let mut was_connected = false;
        let ended = events(socket, log, &mut was_connected).await;
        if was_connected {
            (delay, was_told) = (FIRST_DELAY, false);
        }
        // Once, not at each try.
        if let Some(error) = ended.err().filter(|_| !was_told) {
            log.say(error.context("no events of containerd, trying again"));
            was_told = true;
        }
        sleep(delay).await;
        delay = (delay * 2).min(LONGEST_DELAY);
    }
}

async fn events(socket: &Path, log: &Log<'_>, connected: &mut bool) -> anyhow::Result<()> {
    let channel = timeout(CONNECT_LIMIT, containerd_client::connect(socket))
        .await
        .context("no connection in time")
        .and_then(|channel| Ok(channel?))
        .with_context(|| socket.display().to_string())?;
    let filters = [EXIT, OOM].map(|topic| format!("topic==\"{topic}\"")).to_vec();
    let mut stream = EventsClient::new(channel)
        .subscribe(SubscribeRequest { filters })
        .await
        .context("subscribe")?
        .into_inner();
    *connected = true;
    while let Some(envelope) = stream.message().await? {
        if let Err(error) = add(&envelope, log) {
            log.say(error.context(format!("an event of containerd's, {}", envelope.topic)));
        }
    }
    anyhow::bail!("{} was closed", socket.display())
}

fn add(envelope: &Envelope, log: &Log<'_>) -> anyhow::Result<()> {
    let event = envelope.event.as_ref().context("it is empty")?;
    let namespace = Some(envelope.namespace.as_str());
    if envelope.topic == OOM {
        let oom = TaskOom::decode(event.value.as_slice())?;
        let at = envelope.timestamp.as_ref().map_or_else(SystemTime::now, time);
        let (id, source) = (oom.container_id.as_str(), "containerd");
        log.add(&Happened { source, at, namespace, id, exec_id: None, code: None });
        return Ok(());
    }
    let exit = TaskExit::decode(event.value.as_slice())?;
    log.add(&Happened {
        source: "containerd",
        at: exit.exited_at.as_ref().map_or_else(SystemTime::now, time),
        namespace,
        id: &exit.container_id,
        exec_id: (exit.id != exit.container_id).then_some(exit.id.as_str()),
        code: Some(exit.exit_status),
    });
    Ok(())
}

fn time(at: &prost_types::Timestamp) -> SystemTime {
    let seconds = Duration::from_secs(at.seconds.try_into().unwrap_or(0));
    SystemTime::UNIX_EPOCH + seconds + Duration::from_nanos(at.nanos.try_into().unwrap_or(0))
}
