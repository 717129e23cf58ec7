//! The events of containerd, for all its namespaces and across its restarts.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use containerd_client::events::{TaskExit, TaskOom};
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::namespaces_client::NamespacesClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::{ListNamespacesRequest, ListTasksRequest, SubscribeRequest};
use containerd_client::tonic::Request;
use containerd_client::tonic::metadata::MetadataValue;
use containerd_client::tonic::transport::Channel;
use containerd_client::types::Envelope;
use containerd_client::types::v1::{Process, Status};
use prost::Message;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::log::{Code, Happened, Log};
use crate::node::containerd;
use crate::output;

pub(super) const SOURCE: &str = "containerd";

const EXIT: &str = "/tasks/exit";
const OOM: &str = "/tasks/oom";

const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// After this time a subscription is in effect, and later ends are events.
const SUBSCRIBED: Duration = Duration::from_millis(500);

/// The delay between two attempts; doubled each time.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// The same for listing earlier ends: each attempt lists all tasks.
const CATCH_UP_DELAY: Duration = Duration::from_secs(5);
const LONGEST_CATCH_UP_DELAY: Duration = Duration::from_secs(60);

/// How many exits are remembered, so that memory is bounded.
const KNOWN: usize = 100_000;

/// When a container ended, for recorded exits. An id may be used again.
pub(super) type Known = HashMap<String, SystemTime>;

/// Two services of containerd may give times for the same exit that differ this much.
const SAME_EXIT: Duration = Duration::from_secs(2);

/// Runs forever: a node without containerd may get one.
pub(super) async fn follow(socket: &Path, mut known: Known, log: &Log) {
    let mut delay = FIRST_DELAY;
    let mut was_told = false;
    loop {
        let mut was_connected = false;
        let ended = events(socket, &mut known, log, &mut was_connected).await;
        if was_connected {
            (delay, was_told) = (FIRST_DELAY, false);
        }
        // Reported once, not at each attempt.
        if let Some(error) = ended.err().filter(|_| !was_told) {
            output::complain(&error.context("no events of containerd, trying again"));
            was_told = true;
        }
        sleep(delay).await;
        delay = (delay * 2).min(LONGEST_DELAY);
    }
}

async fn events(
    socket: &Path,
    known: &mut Known,
    log: &Log,
    connected: &mut bool,
) -> anyhow::Result<()> {
    let channel = timeout(CONNECT_LIMIT, containerd::connect(socket))
        .await
        .context("no connection in time")
        .and_then(|it| it)
        .with_context(|| socket.display().to_string())?;
    *connected = true;
    let known = Mutex::new(known);
    let listened = async {
        let listened = listen(channel.clone(), &known, log).await;
        listened.with_context(|| format!("{} was closed", socket.display()))
    };
    tokio::try_join!(listened, async {
        sleep(SUBSCRIBED).await;
        let missed = || missed(channel.clone(), &known, log);
        let mut failed = false;
        catch_up(CATCH_UP_DELAY, missed, |error| {
            let listening = format!("listening to {}", socket.display());
            output::note(if failed { "caught up with what ended before" } else { &listening });
            failed = error.is_some();
            error.iter().for_each(output::complain);
        })
        .await;
        Ok(())
    })?;
    Ok(())
}

/// Retries until it succeeds or the connection ends: containerd waits for a hanging shim, and so
/// does everyone who lists tasks. `tell` gets the first failure, and the success.
async fn catch_up<F>(
    mut delay: Duration,
    missed: impl Fn() -> F,
    mut tell: impl FnMut(Option<anyhow::Error>),
) where
    F: Future<Output = anyhow::Result<()>>,
{
    let mut was_told = false;
    loop {
        let caught_up = timeout(CONNECT_LIMIT, missed()).await;
        match caught_up.context("no answer in time").and_then(|it| it) {
            Ok(()) => return tell(None),
            Err(error) if !was_told => {
                tell(Some(error.context("not known what ended before, asking again")));
                was_told = true;
            }
            Err(_) => {}
        }
        sleep(delay).await;
        delay = (delay * 2).min(LONGEST_CATCH_UP_DELAY);
    }
}

/// Runs until the connection ends. containerd answers a subscription only with its first event,
/// possibly hours later.
async fn listen(channel: Channel, known: &Mutex<&mut Known>, log: &Log) -> anyhow::Result<()> {
    let filters = [EXIT, OOM].map(|topic| format!("topic==\"{topic}\"")).to_vec();
    let request = SubscribeRequest { filters };
    let mut stream = EventsClient::new(channel).subscribe(request).await?.into_inner();
    while let Some(envelope) = stream.message().await? {
        let mut known = known.lock().await;
        if let Err(error) = add(&envelope, &mut known, log) {
            let event = format!("an event of containerd's, {}", envelope.topic);
            output::complain(&error.context(event));
        }
    }
    anyhow::bail!("no more events")
}

/// No event is sent twice. Ends from before the subscription are read from tasks that are not
/// removed yet.
async fn missed(channel: Channel, known: &Mutex<&mut Known>, log: &Log) -> anyhow::Result<()> {
    let mut namespaces = NamespacesClient::new(channel.clone());
    let namespaces = namespaces.list(ListNamespacesRequest::default()).await?.into_inner();
    for namespace in namespaces.namespaces {
        let mut request = Request::new(ListTasksRequest::default());
        let name = MetadataValue::try_from(namespace.name.as_str())?;
        request.metadata_mut().insert("containerd-namespace", name);
        let tasks = TasksClient::new(channel.clone()).list(request).await?.into_inner().tasks;
        let ended = tasks.iter().filter(|task| task.status() == Status::Stopped);
        let mut known = known.lock().await;
        ended.for_each(|task| add_task(&namespace.name, task, &mut known, log));
    }
    Ok(())
}

fn add_task(namespace: &str, task: &Process, known: &mut Known, log: &Log) {
    let at = task.exited_at.as_ref().map_or_else(SystemTime::now, time);
    let is_same = |known: &SystemTime| {
        let apart = at.duration_since(*known).unwrap_or_else(|error| error.duration());
        apart < SAME_EXIT
    };
    // containerd 1.6 has the container only in `id`.
    if known.get(&task.id).is_some_and(is_same) {
        return;
    }
    known.insert(task.id.clone(), at);
    let (namespace, exit) = (Some(namespace), Some(Code { code: task.exit_status }));
    log.add(&Happened { source: SOURCE, at, namespace, id: &task.id, exec_id: None, exit });
}

fn add(envelope: &Envelope, known: &mut Known, log: &Log) -> anyhow::Result<()> {
    let event = envelope.event.as_ref().context("it is empty")?;
    let namespace = Some(envelope.namespace.as_str());
    if envelope.topic == OOM {
        let oom = TaskOom::decode(event.value.as_slice())?;
        let at = envelope.timestamp.as_ref().map_or_else(SystemTime::now, time);
        let id = oom.container_id.as_str();
        log.add(&Happened { source: SOURCE, at, namespace, id, exec_id: None, exit: None });
        return Ok(());
    }
    let ended = TaskExit::decode(event.value.as_slice())?;
    let at = ended.exited_at.as_ref().map_or_else(SystemTime::now, time);
    let is_of_exec = ended.id != ended.container_id;
    if !is_of_exec {
        if known.len() >= KNOWN {
            known.clear();
        }
        known.insert(ended.id.clone(), at);
    }
    let exec_id = is_of_exec.then_some(ended.id.as_str());
    let exit = Some(Code { code: ended.exit_status });
    log.add(&Happened { source: SOURCE, at, namespace, id: &ended.container_id, exec_id, exit });
    Ok(())
}

fn time(at: &prost_types::Timestamp) -> SystemTime {
    let seconds = Duration::from_secs(at.seconds.try_into().unwrap_or(0));
    SystemTime::UNIX_EPOCH + seconds + Duration::from_nanos(at.nanos.try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_catch_up_that_fails_is_said_at_once_and_tried_again() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (tries, mut told) = (Cell::new(0), Vec::new());
        let missed = || async {
            tries.set(tries.get() + 1);
            anyhow::ensure!(tries.get() > 1, "a shim hangs");
            Ok(())
        };
        let (delay, began) = (Duration::from_millis(200), std::time::Instant::now());
        let tell = |error: Option<_>| told.push((error.is_some(), began.elapsed()));
        runtime.block_on(catch_up(delay, missed, tell));
        assert_eq!((tries.get(), told.len()), (2, 2));
        assert!(told[0].0 && told[0].1 < delay, "{told:?}");
        assert!(!told[1].0 && told[1].1 >= delay, "{told:?}");
    }
}
