//! containerd's own API: the containers in all its namespaces, and calls that end a task.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use cgroup::bundle::PodNames;
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::namespaces_client::NamespacesClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::version_client::VersionClient;
use containerd_client::services::v1::{
    Container as Record, DeleteTaskRequest, GetRequest, KillRequest, ListContainersRequest,
    ListNamespacesRequest,
};
use containerd_client::types::v1::Status as TaskStatus;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Request};

use super::claim::{Claim, Container, Init, Owner, Root, Seen, Source, Status, counted};
use crate::node::containerd;

/// Each costs containerd a call to a shim; a shim that hangs occupies its place until the limit.
const AT_ONCE: usize = 64;
const SIGKILL: u32 = 9;

/// Time limits: for one call, and for a whole look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// containerd itself waits 2 s for a shim to report its state.
    pub(crate) task: Duration,
    pub(crate) all: Duration,
}

/// One containerd.
#[derive(Debug)]
pub(crate) struct Containerd {
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) status: Status,
    pub(crate) said: String,
    pub(crate) pid: Option<i32>,
}

impl Containerd {
    pub(crate) fn at(socket: &Path) -> anyhow::Result<Containerd> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Containerd { socket: socket.to_owned(), runtime })
    }

    /// Everything, in bounded time. A shim that does not answer appears as [`Status::Silent`].
    pub(crate) fn look(&self, limits: Limits) -> anyhow::Result<(String, Seen)> {
        self.within(limits.all, async {
            let channel = containerd::connect(&self.socket).await?;
            let version = VersionClient::new(channel.clone()).version(()).await.map_err(why)?;
            let version = version.into_inner().version;
            let mut seen = Seen::default();
            for namespace in namespaces(&channel).await? {
                self.records(&channel, &namespace, &mut seen).await?;
                seen.complete.push(Owner::Containerd(namespace));
            }
            self.ask_tasks(&channel, &mut seen.containers, limits.task).await;
            let summary = format!("{version}, {}", counted(seen.containers.len()));
            seen.versions.insert(self.socket.clone(), version);
            Ok((summary, seen))
        })
    }

    pub(crate) fn task(
        &self,
        namespace: &str,
        id: &str,
        limit: Duration,
    ) -> anyhow::Result<Option<Task>> {
        self.within(limit + LATE, async {
            Ok(task(self.connect().await?, namespace.to_owned(), id.to_owned(), limit).await)
        })
    }

    /// Sends SIGKILL to everything in the task. A task that has already ended is no error.
    pub(crate) fn kill(&self, namespace: &str, id: &str, limit: Duration) -> anyhow::Result<()> {
        self.within(limit, async {
            let request = KillRequest {
                container_id: id.to_owned(),
                signal: SIGKILL,
                all: true,
                ..Default::default()
            };
            let channel = self.connect().await?;
            let killed = TasksClient::new(channel).kill(of(request, namespace)?).await;
            done_or_gone(killed.map(drop))
        })
    }

    /// Removes an ended task and its shim.
    pub(crate) fn delete(&self, namespace: &str, id: &str, limit: Duration) -> anyhow::Result<()> {
        self.within(limit, async {
            let request = DeleteTaskRequest { container_id: id.to_owned() };
            let channel = self.connect().await?;
            let deleted = TasksClient::new(channel).delete(of(request, namespace)?).await;
            done_or_gone(deleted.map(drop))
        })
    }

    /// One message per container: the list of a full node exceeds the maximum size of a message.
    async fn records(
        &self,
        channel: &Channel,
        namespace: &str,
        into: &mut Seen,
    ) -> anyhow::Result<()> {
        let request = of(ListContainersRequest::default(), namespace)?;
        let stream = ContainersClient::new(channel.clone()).list_stream(request).await;
        let mut stream = stream.map_err(why)?.into_inner();
        while let Some(message) = stream.message().await.map_err(why)? {
            let Some(record) = message.container else { continue };
            let (mut container, root) = known(namespace, record);
            container.socket = Some(self.socket.clone());
            into.containers.push(container);
            into.roots.extend(Some(root).filter(|root| root.path.is_dir()));
        }
        Ok(())
    }

    /// All at once: for a list, containerd asks one shim after the other, and waits 2 s for each that
    /// hangs.
    async fn ask_tasks(&self, channel: &Channel, containers: &mut [Container], limit: Duration) {
        let gate = Arc::new(Semaphore::new(AT_ONCE));
        let mut asked = JoinSet::new();
        for (number, known) in containers.iter().enumerate() {
            let (channel, gate, id) = (channel.clone(), Arc::clone(&gate), known.id.clone());
            let namespace = known.owner.namespace().unwrap_or_default().to_owned();
            asked.spawn(async move {
                let _place = gate.acquire_owned().await;
                (number, task(channel, namespace, id, limit).await)
            });
        }
        while let Some(ended) = asked.join_next().await {
            let Ok((number, Some(Task { status, said, pid }))) = ended else { continue };
            let Some(known) = containers.get_mut(number) else { continue };
            let (source, place) = (Source::Containerd, self.socket.display().to_string());
            known.claims.push(Claim { source, status, said, place });
            // The runtime's record replaces this one: it has the start time.
            known.init = pid.map(|pid| Init { pid, start: None });
        }
    }

    async fn connect(&self) -> anyhow::Result<Channel> {
        let connected = containerd::connect(&self.socket).await;
        connected.with_context(|| format!("{}", self.socket.display()))
    }

    fn within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let late = || anyhow!("no answer within {} s", limit.as_secs_f32());
        self.runtime
            .block_on(async { tokio::time::timeout(limit, work).await })
            .unwrap_or_else(|_elapsed| Err(late()))
    }
}

/// Our own limit is this much later than containerd's answer.
const LATE: Duration = Duration::from_millis(500);

/// A request in a namespace.
fn of<T>(message: T, namespace: &str) -> anyhow::Result<Request<T>> {
    let mut request = Request::new(message);
    let value = namespace.parse().with_context(|| format!("namespace {namespace:?}"))?;
    request.metadata_mut().insert("containerd-namespace", value);
    Ok(request)
}

/// containerd's message; for a failed connection, only the root cause.
fn why(status: tonic::Status) -> anyhow::Error {
    let said = status.message().to_owned();
    match anyhow::Error::from(status) {
        error if error.chain().count() > 1 => anyhow!("{}", error.root_cause()),
        _ => anyhow!("{said}"),
    }
}

fn done_or_gone(result: Result<(), tonic::Status>) -> anyhow::Result<()> {
    match result {
        Err(status) if status.code() != Code::NotFound => {
            // A kill of an ended process says "process already finished".
            let ended = status.message().contains("already finished");
            if ended { Ok(()) } else { Err(why(status)) }
        }
        _ => Ok(()),
    }
}

async fn namespaces(channel: &Channel) -> anyhow::Result<Vec<String>> {
    let request = ListNamespacesRequest::default();
    let answer = NamespacesClient::new(channel.clone()).list(request).await.map_err(why)?;
    Ok(answer.into_inner().namespaces.into_iter().map(|namespace| namespace.name).collect())
}

/// A container that containerd has, and where its runtime keeps it, as the shim was told.
fn known(namespace: &str, record: Record) -> (Container, Root) {
    let label = |key: &str| record.labels.get(key).cloned();
    let pod = PodNames {
        namespace: label("io.kubernetes.pod.namespace"),
        name: label("io.kubernetes.pod.name"),
        container: label("io.kubernetes.container.name"),
        ..PodNames::default()
    };
    let mut container = Container::new(Owner::Containerd(namespace.to_owned()), record.id);
    container.name = pod.path();
    container.is_sandbox = label("io.cri-containerd.kind").is_some_and(|kind| kind == "sandbox");
    container.is_recorded = true;
    let runtime = record.runtime.unwrap_or_default();
    container.has_runc = runtime.name.starts_with("io.containerd.runc.");
    let options = runtime.options.filter(is_runc_options);
    let options =
        options.and_then(|any| <Options as prost::Message>::decode(any.value.as_slice()).ok());
    let Options { root, binary_name } = options.unwrap_or_default();
    let root = if root.is_empty() { "/run/containerd/runc" } else { &root };
    let binary = (!binary_name.is_empty()).then(|| PathBuf::from(binary_name));
    // The shim appends the namespace.
    (container, Root { path: Path::new(root).join(namespace), binary })
}

fn is_runc_options(any: &prost_types::Any) -> bool {
    any.type_url.ends_with("containerd.runc.v1.Options")
}

/// The fields we need of containerd.runc.v1.Options, which the client crate does not have.
#[derive(Clone, PartialEq, prost::Message)]
struct Options {
    #[prost(string, tag = "6")]
    binary_name: String,
    #[prost(string, tag = "7")]
    root: String,
}

/// `None` if the container has no task.
async fn task(channel: Channel, namespace: String, id: String, limit: Duration) -> Option<Task> {
    let request = GetRequest { container_id: id, ..Default::default() };
    let request = of(request, &namespace).ok()?;
    let silent = |said: String| Task { status: Status::Silent, said, pid: None };
    let answer = tokio::time::timeout(limit, TasksClient::new(channel).get(request)).await;
    match answer {
        Err(_elapsed) => {
            Some(silent(format!("no answer from its shim within {} s", limit.as_secs_f32())))
        }
        Ok(Err(status)) if status.code() == Code::NotFound => None,
        Ok(Err(status)) => Some(silent(format!("{:?}: {}", status.code(), status.message()))),
        Ok(Ok(answer)) => answer.into_inner().process.map(|process| {
            let pid = i32::try_from(process.pid).ok().filter(|pid| *pid > 0);
            said(process.status(), pid)
        }),
    }
}

fn said(status: TaskStatus, pid: Option<i32>) -> Task {
    let meant = match status {
        TaskStatus::Created => Status::Created,
        TaskStatus::Running => Status::Running,
        TaskStatus::Stopped => Status::Stopped,
        TaskStatus::Paused | TaskStatus::Pausing => Status::Paused,
        // containerd 1.6 and 1.7 report this for a shim that did not answer.
        TaskStatus::Unknown => Status::Silent,
    };
    let said = match meant {
        Status::Silent => "UNKNOWN (its shim does not answer)".to_owned(),
        _ => status.as_str_name().to_owned(),
    };
    Task { status: meant, said, pid }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_nobody_answers_is_an_error_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("odd name\n.sock");
        let limit = Duration::from_millis(300);
        let limits = Limits { task: limit, all: limit };
        let look = || format!("{:#}", Containerd::at(&socket).unwrap().look(limits).unwrap_err());
        // The caller knows which socket it is, and tonic repeats the cause three times.
        assert_eq!(look(), "No such file or directory (os error 2)");
        // The kernel accepts connections for it, but nobody reads.
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let began = std::time::Instant::now();
        assert_eq!(look(), "no answer within 0.3 s");
        assert!(began.elapsed() < Duration::from_secs(2));
        let kill = Containerd::at(&dir.path().join("none")).unwrap().kill("n", "c", limit);
        let said = format!("{:#}", kill.unwrap_err());
        assert!(said.contains("/none: No such file") && !said.contains("transport"), "{said}");
    }

    #[test]
    fn the_options_name_root_and_binary() {
        let bytes = [b"\x32\x03/fl".as_slice(), b"\x3a\x02/r", b"\x48\x01"].concat();
        let options = <Options as prost::Message>::decode(bytes.as_slice()).unwrap();
        assert_eq!((options.binary_name.as_str(), options.root.as_str()), ("/fl", "/r"));
    }
}
