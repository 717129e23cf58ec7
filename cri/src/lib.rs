//! A small blocking client of the Container Runtime Interface, CRI v1, on a unix socket.
//!
//! Every call has a time limit. The server's errors are passed on with their gRPC code, word for word.
//! A [`Client`] finds a restarted server by itself. It serves one caller at a time: each thread has its
//! own.
//!
//! The messages are those of [`v1`], generated from Kubernetes' own definition.

mod error;

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use k8s_cri::v1;
pub use tonic::Code;

pub use crate::error::Error;

use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

pub type Result<T> = std::result::Result<T, Error>;

/// The default of kubelet's `--runtime-request-timeout`.
const REQUEST: Duration = Duration::from_secs(120);
/// kubelet allows twice as much for a sandbox.
const SANDBOX: Duration = Duration::from_secs(240);
/// For calls that only look.
const LOOK: Duration = Duration::from_secs(20);
/// How long a stop or an exec may take beyond the time that it was given.
const BEYOND: Duration = Duration::from_secs(30);
/// Later than the server's own deadline, whose error text is better.
const LATE: Duration = Duration::from_secs(1);
const CONNECT: Duration = Duration::from_secs(5);
/// As kubelet has it; the list of a full node is larger than gRPC's 4 MiB.
const ANSWER_BYTES: usize = 16 << 20;

/// A connection to a CRI server, such as containerd or CRI-O.
pub struct Client {
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
    service: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    most: Duration,
}

/// The result of a command in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed {
    pub exit_code: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Client {
    /// Connects to the server at this socket, which must answer.
    pub fn connect(socket: &Path) -> Result<Client> {
        let client = Client::lazy(socket)?;
        client.version()?;
        Ok(client)
    }

    /// The same without a request: the first call finds out whether there is a server.
    pub fn lazy(socket: &Path) -> Result<Client> {
        let unusable = |why: String| Error::Unusable { socket: socket.to_owned(), why };
        let path = socket.to_str().ok_or_else(|| unusable("its path is not UTF-8".to_owned()))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| unusable(format!("no runtime for it: {error}")))?;
        let endpoint = Endpoint::from_shared(format!("unix://{path}"))
            .map_err(|error| unusable(error.to_string()))?
            .connect_timeout(CONNECT);
        let channel = {
            let _entered = runtime.enter();
            endpoint.connect_lazy()
        };
        let images =
            ImageServiceClient::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES);
        let service = RuntimeServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES);
        Ok(Client { socket: socket.to_owned(), runtime, service, images, most: Duration::MAX })
    }

    /// Limits every call to this time, whatever its own limit.
    #[must_use]
    pub fn at_most(mut self, limit: Duration) -> Client {
        self.most = limit;
        self
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks who the server is; for CRI version v1.
    pub fn version(&self) -> Result<v1::VersionResponse> {
        let request = v1::VersionRequest { version: "v1".to_owned() };
        self.call(
            "Version",
            LOOK,
            request,
            |mut to, request| async move { to.version(request).await },
        )
    }

    /// With `verbose`, containerd's `info` has its running configuration under `config`.
    pub fn status(&self, verbose: bool) -> Result<v1::StatusResponse> {
        let request = v1::StatusRequest { verbose };
        self.call(
            "Status",
            LOOK,
            request,
            |mut to, request| async move { to.status(request).await },
        )
    }

    /// With containerd, the images of its namespace `k8s.io`, including the sandbox's.
    pub fn list_images(&self) -> Result<Vec<v1::Image>> {
        let request = v1::ListImagesRequest::default();
        let mut images = self.images.clone();
        let send = |_, request| async move { images.list_images(request).await };
        Ok(self.call("ListImages", LOOK, request, send)?.images)
    }

    /// Creates and starts a sandbox, and gives its id.
    pub fn run_pod_sandbox(&self, config: &v1::PodSandboxConfig) -> Result<String> {
        self.run_pod_sandbox_by("", config)
    }

    /// The same with the runtime that a RuntimeClass names as its handler.
    pub fn run_pod_sandbox_by(
        &self,
        handler: &str,
        config: &v1::PodSandboxConfig,
    ) -> Result<String> {
        let request = v1::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: handler.to_owned(),
        };
        let send = |mut to: Service, request| async move { to.run_pod_sandbox(request).await };
        Ok(self.call("RunPodSandbox", SANDBOX, request, send)?.pod_sandbox_id)
    }

    /// Ends every process of a sandbox; a missing sandbox is no error.
    pub fn stop_pod_sandbox(&self, sandbox: &str) -> Result<()> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: sandbox.to_owned() };
        let send = |mut to: Service, request| async move { to.stop_pod_sandbox(request).await };
        self.call("StopPodSandbox", REQUEST, request, send).map(drop)
    }

    /// Removes a sandbox with its containers; a missing sandbox is no error.
    pub fn remove_pod_sandbox(&self, sandbox: &str) -> Result<()> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: sandbox.to_owned() };
        let send = |mut to: Service, request| async move { to.remove_pod_sandbox(request).await };
        self.call("RemovePodSandbox", REQUEST, request, send).map(drop)
    }

    pub fn list_pod_sandboxes(&self) -> Result<Vec<v1::PodSandbox>> {
        let request = v1::ListPodSandboxRequest::default();
        let send = |mut to: Service, request| async move { to.list_pod_sandbox(request).await };
        Ok(self.call("ListPodSandbox", LOOK, request, send)?.items)
    }

    /// With `verbose`, `info` has the server's own description of it.
    pub fn pod_sandbox_status(
        &self,
        sandbox: &str,
        verbose: bool,
    ) -> Result<v1::PodSandboxStatusResponse> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: sandbox.to_owned(), verbose };
        let send = |mut to: Service, request| async move { to.pod_sandbox_status(request).await };
        self.call("PodSandboxStatus", LOOK, request, send)
    }

    /// Creates a container in a sandbox and gives its id; `pod` is the configuration of the sandbox.
    pub fn create_container(
        &self,
        sandbox: &str,
        config: &v1::ContainerConfig,
        pod: &v1::PodSandboxConfig,
    ) -> Result<String> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config.clone()),
            sandbox_config: Some(pod.clone()),
        };
        let send = |mut to: Service, request| async move { to.create_container(request).await };
        Ok(self.call("CreateContainer", REQUEST, request, send)?.container_id)
    }

    pub fn start_container(&self, container: &str) -> Result<()> {
        let request = v1::StartContainerRequest { container_id: container.to_owned() };
        let send = |mut to: Service, request| async move { to.start_container(request).await };
        self.call("StartContainer", REQUEST, request, send).map(drop)
    }

    /// SIGTERM, and after `grace` SIGKILL; a missing container is no error.
    pub fn stop_container(&self, container: &str, grace: Duration) -> Result<()> {
        let request = v1::StopContainerRequest {
            container_id: container.to_owned(),
            timeout: whole_seconds(grace),
        };
        let send = |mut to: Service, request| async move { to.stop_container(request).await };
        self.call("StopContainer", grace + REQUEST, request, send).map(drop)
    }

    /// A missing container is no error; a running one is stopped by force.
    pub fn remove_container(&self, container: &str) -> Result<()> {
        let request = v1::RemoveContainerRequest { container_id: container.to_owned() };
        let send = |mut to: Service, request| async move { to.remove_container(request).await };
        self.call("RemoveContainer", REQUEST, request, send).map(drop)
    }

    pub fn list_containers(&self) -> Result<Vec<v1::Container>> {
        let request = v1::ListContainersRequest::default();
        let send = |mut to: Service, request| async move { to.list_containers(request).await };
        Ok(self.call("ListContainers", LOOK, request, send)?.containers)
    }

    /// With `verbose`, `info` has the server's own description of it: for containerd JSON with the pid
    /// and the runtime's spec.
    pub fn container_status(
        &self,
        container: &str,
        verbose: bool,
    ) -> Result<v1::ContainerStatusResponse> {
        let request = v1::ContainerStatusRequest { container_id: container.to_owned(), verbose };
        let send = |mut to: Service, request| async move { to.container_status(request).await };
        self.call("ContainerStatus", LOOK, request, send)
    }

    /// Changes the limits of a container; fields that are 0 stay as they are.
    pub fn update_container_resources(
        &self,
        container: &str,
        resources: v1::LinuxContainerResources,
    ) -> Result<()> {
        let request = v1::UpdateContainerResourcesRequest {
            container_id: container.to_owned(),
            linux: Some(resources),
            ..Default::default()
        };
        let send =
            |mut to: Service, request| async move { to.update_container_resources(request).await };
        self.call("UpdateContainerResources", REQUEST, request, send).map(drop)
    }

    /// Runs a command in a container to its end. The server kills it after `timeout`, in whole seconds
    /// and at least one.
    pub fn exec_sync(
        &self,
        container: &str,
        command: &[&str],
        timeout: Duration,
    ) -> Result<Executed> {
        let request = v1::ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            // 0 means no timeout.
            timeout: whole_seconds(timeout).max(1),
        };
        let send = |mut to: Service, request| async move { to.exec_sync(request).await };
        let answer = self.call("ExecSync", timeout + BEYOND, request, send)?;
        let v1::ExecSyncResponse { stdout, stderr, exit_code } = answer;
        Ok(Executed { exit_code, stdout, stderr })
    }

    fn call<Q, A, F>(
        &self,
        name: &'static str,
        limit: Duration,
        message: Q,
        send: impl FnOnce(Service, Request<Q>) -> F,
    ) -> Result<A>
    where
        F: Future<Output = std::result::Result<Response<A>, Status>>,
    {
        let limit = limit.min(self.most);
        let mut request = Request::new(message);
        request.set_timeout(limit);
        let answer = send(self.service.clone(), request);
        let ended = self.runtime.block_on(async {
            notice().await;
            tokio::time::timeout(limit.saturating_add(LATE), answer).await
        });
        match ended {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(Error::of(name, &self.socket, status)),
            Err(_elapsed) => Err(Error::TimedOut { call: name, limit }),
        }
    }
}

/// Between two calls nothing reads from the connection. If the server has closed it meanwhile, we must
/// notice before a request goes into it and fails.
async fn notice() {
    // One turn is for the driver, one for the task of the connection, one for that of the channel.
    for _ in 0..3 {
        tokio::task::yield_now().await;
    }
}

type Service = RuntimeServiceClient<Channel>;

/// CRI counts in whole seconds, so a part of a second is rounded up.
fn whole_seconds(time: Duration) -> i64 {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    i64::try_from(seconds).unwrap_or(i64::MAX)
}
