//! What containerd's CRI says of pods: it keeps a state of its own.

use std::path::Path;
use std::time::Duration;

use frostlock_cri::{Client, Code, Error, v1};

use super::claim::{Claim, Container, Init, KUBERNETES, Owner, Source, Status};

/// `None` if the server has no CRI.
pub(crate) fn look(socket: &Path, limit: Duration) -> Result<Option<Vec<Container>>, Error> {
    let client = Client::lazy(socket)?.at_most(limit);
    let containers = match client.list_containers() {
        Err(error) if error.code() == Some(Code::Unimplemented) => return Ok(None),
        other => other?,
    };
    let sandboxes = client.list_pod_sandboxes()?;
    let place = socket.display().to_string();
    let sandboxes = sandboxes.into_iter().map(|sandbox| of_sandbox(sandbox, &place));
    let containers = containers.into_iter().map(|container| of_container(container, &place));
    Ok(Some(sandboxes.chain(containers).collect()))
}

/// The pid that it believes in: CRI gives it only when asked for one container.
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

fn of_sandbox(sandbox: v1::PodSandbox, place: &str) -> Container {
    let (status, said) = match sandbox.state() {
        v1::PodSandboxState::SandboxReady => (Status::Running, "READY"),
        v1::PodSandboxState::SandboxNotready => (Status::Stopped, "NOTREADY"),
    };
    let uid = sandbox.metadata.as_ref().map(|pod| pod.uid.clone());
    let pod = sandbox.metadata.map(|pod| format!("{}/{}", pod.namespace, pod.name));
    let mut container = claimed(sandbox.id, status, said, place);
    container.name = pod;
    container.pod_uid = uid;
    container.is_sandbox = true;
    container
}

fn of_container(listed: v1::Container, place: &str) -> Container {
    let (status, said) = match listed.state() {
        v1::ContainerState::ContainerCreated => (Status::Created, "CREATED"),
        v1::ContainerState::ContainerRunning => (Status::Running, "RUNNING"),
        v1::ContainerState::ContainerExited => (Status::Stopped, "EXITED"),
        v1::ContainerState::ContainerUnknown => (Status::Unknown, "UNKNOWN"),
    };
    let label = |key: &str| listed.labels.get(&format!("io.kubernetes.{key}"));
    let pod = label("pod.namespace").zip(label("pod.name")).zip(label("container.name"));
    let name = pod.map(|((namespace, pod), container)| format!("{namespace}/{pod}/{container}"));
    let mut container = claimed(listed.id, status, said, place);
    container.name = name;
    container.sandbox = Some(listed.pod_sandbox_id);
    container
}

fn claimed(id: String, status: Status, said: &str, place: &str) -> Container {
    let mut container = Container::new(Owner::Containerd(KUBERNETES.to_owned()), id);
    let (said, place) = (said.to_owned(), place.to_owned());
    container.claims.push(Claim { source: Source::Cri, status, said, place });
    container
}
