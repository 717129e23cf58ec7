//! What CRI says of pods: the CRI of containerd, which keeps its own state, and that of CRI-O.

use std::path::Path;
use std::time::Duration;

use frostlock_cri::{Client, Code, Error, v1};

use super::claim::{Claim, Container, Init, Owner, Seen, Source, Status, counted};
use crate::output;

/// The pods and containers of this owner, and how many; `None` if the server has no CRI.
pub(crate) fn look(client: &Client, owner: &Owner) -> Result<Option<(String, Seen)>, Error> {
    let containers = match client.list_containers() {
        Err(error) if error.code() == Some(Code::Unimplemented) => return Ok(None),
        other => other?,
    };
    let sandboxes = client.list_pod_sandboxes()?;
    let sandboxes = sandboxes.into_iter().map(|it| of_sandbox(it, client, owner));
    let containers = containers.into_iter().map(|it| of_container(it, client, owner));
    let pods = output::count(sandboxes.len() as u64, "pod", "pods");
    let summary = format!("{pods}, {}", counted(containers.len()));
    let containers = sandboxes.chain(containers).collect();
    Ok(Some((summary, Seen { containers, ..Seen::default() })))
}

/// The pid that CRI has for one container: it gives the pid only if asked for that container alone.
pub(crate) fn believed(socket: &Path, limit: Duration, of: &Container) -> Option<Init> {
    let client = Client::lazy(socket).ok()?.at_most(limit);
    let info = if of.is_sandbox {
        client.pod_sandbox_status(&of.id, true).ok()?.info
    } else {
        client.container_status(&of.id, true).ok()?.info
    };
    let info: serde_json::Value = serde_json::from_str(info.get("info")?).ok()?;
    let pid = i32::try_from(info.get("pid")?.as_i64()?).ok()?;
    (pid > 0).then_some(Init { pid, start: None })
}

fn of_sandbox(sandbox: v1::PodSandbox, client: &Client, owner: &Owner) -> Container {
    let (status, said) = match sandbox.state() {
        v1::PodSandboxState::SandboxReady => (Status::Running, "READY"),
        v1::PodSandboxState::SandboxNotready => (Status::Stopped, "NOTREADY"),
    };
    let uid = sandbox.metadata.as_ref().map(|pod| pod.uid.clone());
    let pod = sandbox.metadata.map(|pod| format!("{}/{}", pod.namespace, pod.name));
    let mut container = claimed(sandbox.id, status, said, client, owner);
    container.name = pod;
    container.pod_uid = uid;
    container.is_sandbox = true;
    container
}

fn of_container(listed: v1::Container, client: &Client, owner: &Owner) -> Container {
    let (status, said) = match listed.state() {
        v1::ContainerState::ContainerCreated => (Status::Created, "CREATED"),
        v1::ContainerState::ContainerRunning => (Status::Running, "RUNNING"),
        v1::ContainerState::ContainerExited => (Status::Stopped, "EXITED"),
        v1::ContainerState::ContainerUnknown => (Status::Unknown, "UNKNOWN"),
    };
    let label = |key: &str| listed.labels.get(&format!("io.kubernetes.{key}"));
    let pod = label("pod.namespace").zip(label("pod.name")).zip(label("container.name"));
    let name = pod.map(|((namespace, pod), container)| format!("{namespace}/{pod}/{container}"));
    let mut container = claimed(listed.id, status, said, client, owner);
    container.name = name;
    container.sandbox = Some(listed.pod_sandbox_id);
    container
}

fn claimed(id: String, status: Status, said: &str, client: &Client, owner: &Owner) -> Container {
    let mut container = Container::new(owner.clone(), id);
    let (said, place) = (said.to_owned(), client.socket().display().to_string());
    container.socket = Some(client.socket().to_owned());
    container.claims.push(Claim { source: Source::Cri, status, said, place });
    container
}
