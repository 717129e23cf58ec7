//! The same through the running containerd: pods of its CRI, in turn by a handler that runs the
//! bare runtime and by one that runs frostlock. Each pod has its own cgroup, whose limit starves
//! all of it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use cgroup::process::Process;
use frostlock_cri::{Client, Code, Error, v1};

use super::bundle::PERIOD_US;
use super::command::Interrupts;
use super::place;
use super::pod::{self, Pod};
use super::program::{self, Shared};
use super::report::Through;
use super::rounds::{self, Maker, Side};
use super::verdict::{Ended, LIMIT};
use crate::configure::edit::is_ours;
use crate::loaded::{self, Handler};
use crate::node::containerd;
use crate::node::hierarchy::Cgroups;
use crate::node::processes::{self, Running};
use crate::node::root::Root;
use crate::node::tree::Driver;
use crate::output::plain;
use crate::program::find as in_path;

/// The namespace of the test's pods: it identifies them for a person with crictl and for the next
/// selftest.
const NAMESPACE: &str = "frostlock-selftest";

/// The limit of one call that removes a pod.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// How long until none of our sandboxes is left: containerd may still work on one that timed out.
const CLEAR_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What kubelet gives a container with the smallest CPU request.
const LEAST_SHARES: i64 = 2;

/// The containerd, and its handlers that are compared.
#[derive(Debug)]
pub(super) struct Containerd {
    socket: PathBuf,
    bare: Handler,
    frostlock: Handler,
    image: String,
    pub(super) driver: Driver,
}

impl Containerd {
    pub(super) fn programs(&self) -> (PathBuf, PathBuf) {
        (program_of(&self.frostlock), program_of(&self.bare))
    }

    pub(super) fn through(&self) -> Through {
        Through {
            socket: self.socket.clone(),
            bare: self.bare.name.clone(),
            frostlock: self.frostlock.name.clone(),
            image: self.image.clone(),
        }
    }
}

fn program_of(handler: &Handler) -> PathBuf {
    let named = handler.binary.clone().unwrap_or_else(|| "runc".into());
    // containerd looks up a bare name in its PATH, which resembles ours.
    in_path(&named).unwrap_or(named)
}

/// Finds the containerd without making or changing anything.
pub(super) fn find(socket: Option<&Path>, image: Option<&str>) -> anyhow::Result<Containerd> {
    let running = processes::read(&Root::default());
    no_kubelet(&running)?;
    let sockets: Vec<PathBuf> = match socket {
        Some(socket) => vec![socket.to_owned()],
        None => {
            let all = containerd::read(&Root::default(), &running).into_iter();
            all.filter(|it| it.running.is_some()).map(|it| it.socket).collect()
        }
    };
    let (socket, bare, frostlock) = of_sockets(&sockets)?;
    let driver = driver(&bare, &frostlock)?;
    let client = Client::lazy(&socket)?.at_most(LIMIT);
    let image = self::image(&client, image)?;
    Ok(Containerd { socket, bare, frostlock, image, driver })
}

/// kubelet ends each pod that its API server has not told it of, within seconds.
fn no_kubelet(running: &[Running]) -> anyhow::Result<()> {
    let Some(it) = running.iter().find(|it| it.comm != "containerd") else { return Ok(()) };
    bail!(
        "kubelet runs here ({}, pid {}) and ends pods that it does not know; stop it for the minute \
         that --cri takes (containers keep running), or run selftest without --cri",
        it.comm,
        it.pid
    )
}

fn of_sockets(sockets: &[PathBuf]) -> anyhow::Result<(PathBuf, Handler, Handler)> {
    if sockets.is_empty() {
        bail!("no containerd runs here; start it, or name its socket with --socket");
    }
    let mut found = Vec::new();
    let mut why = None;
    for socket in sockets {
        let handlers = loaded::ask(socket).map_err(|said| match said {
            loaded::Unasked::NoCri => {
                format!("the CRI plugin of the containerd at {} is disabled", socket.display())
            }
            said => said.to_string(),
        });
        let compared = handlers.and_then(|handlers| {
            let said = |said| format!("the containerd at {} {said}", socket.display());
            pair(&handlers).map_err(said)
        });
        match compared {
            Ok((bare, frostlock)) => found.push((socket.clone(), bare, frostlock)),
            Err(said) => why = Some(said),
        }
    }
    match (found.len(), why) {
        (0, why) => bail!(why.unwrap_or_default()),
        (1, _) => Ok(found.remove(0)),
        _ => {
            let all: Vec<String> = found.iter().map(|it| it.0.display().to_string()).collect();
            bail!(
                "several containerds run with frostlock; name one with --socket: {}",
                all.join(", ")
            )
        }
    }
}

/// The bare handler and ours; of several that run frostlock, the default.
fn pair(handlers: &[Handler]) -> Result<(Handler, Handler), String> {
    let (mut ours, others): (Vec<&Handler>, Vec<&Handler>) =
        handlers.iter().partition(|it| is_ours(program_of(it)));
    ours.sort_by_key(|it| (!it.is_default, &it.name));
    let Some(ours) = ours.first() else {
        return Err("has no runtime loaded that is frostlock: frostctl configure --runtime containerd --restart".to_owned());
    };
    // Another handler may be a virtual machine, which cannot be compared.
    let bare = others.iter().find(|it| it.name == "runc");
    let bare = bare.or_else(|| others.iter().find(|it| it.is_default));
    let Some(bare) = bare else {
        return Err("has no bare runtime to compare with: neither runc, nor a default that is not frostlock".to_owned());
    };
    Ok(((*bare).clone(), (*ours).clone()))
}

fn driver(bare: &Handler, frostlock: &Handler) -> anyhow::Result<Driver> {
    let of = |it: &Handler| match it.options.get("SystemdCgroup").map(String::as_str) {
        Some("true") => Driver::Systemd,
        _ => Driver::Cgroupfs,
    };
    match (of(bare), of(frostlock)) {
        (one, other) if one == other => Ok(one),
        (one, other) => bail!(
            "the handler {} makes its cgroups by {one} and {} by {other}, so they cannot be compared: frostctl configure --runtime containerd --restart",
            bare.name,
            frostlock.name
        ),
    }
}

/// An image that the node has: nothing is pulled. Any image works, since frostctl is mounted into
/// it.
fn image(client: &Client, told: Option<&str>) -> anyhow::Result<String> {
    let images = client.list_images()?;
    let is_there = |name: &str| {
        let is_it = |it: &v1::Image| {
            it.id == name || it.repo_tags.iter().chain(&it.repo_digests).any(|it| it == name)
        };
        images.iter().any(is_it)
    };
    let config = client.status(true)?.info.remove("config").unwrap_or_default();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap_or_default();
    // containerd 2.x has it in another plugin's configuration, which it does not report.
    let sandbox = config["sandboxImage"].as_str().filter(|it| !it.is_empty());
    if let Some(sandbox) = sandbox.filter(|it| !is_there(it)) {
        bail!(
            "the sandbox image {sandbox} is not on this node, and each pod needs it: crictl pull {sandbox}"
        );
    }
    match told {
        Some(told) if is_there(told) => Ok(told.to_owned()),
        Some(told) => bail!("the image {told} is not on this node: crictl pull {told}"),
        None => {
            let named = images.iter().filter(|it| !it.repo_tags.is_empty());
            let smallest = named.min_by_key(|it| it.size).and_then(|it| it.repo_tags.first());
            smallest.cloned().context("no image is on this node, and a pod needs one: crictl pull registry.k8s.io/pause:3.10")
        }
    }
}

/// The pods of this selftest, one at a time.
pub(super) struct Pods<'a> {
    containerd: &'a Containerd,
    cgroups: &'a Cgroups,
    interrupts: &'a Interrupts,
    own: Process,
    shared: Vec<Shared>,
    client: Client,
    /// For removals, with a longer limit.
    patient: Client,
    /// How many pods were made.
    made: usize,
    /// Of all sandboxes and containers.
    pub(super) ids: Vec<String>,
}

/// One pod that is measured.
pub(super) struct Made<'a> {
    handler: &'a str,
    config: v1::PodSandboxConfig,
    quota_us: u64,
    pod: Pod<'a>,
    sandbox: String,
    container: String,
}

impl<'a> Maker for Pods<'a> {
    const OPERATIONS: [&'static str; 8] =
        ["sandbox", "create", "start", "exec", "update", "kill", "delete", "teardown"];

    /// Until a container runs.
    const MAKING: usize = 3;

    type Container = Made<'a>;

    fn begin(&mut self, side: Side, quota_us: u64) -> anyhow::Result<Made<'a>> {
        let uid = format!("{}_{}_{}", self.own.pid, self.own.start, self.made);
        self.made += 1;
        let pod = Pod::make(self.cgroups, self.containerd.driver, &uid, quota_us)?;
        let config = sandbox(&uid, &pod.parent());
        let handler = match side {
            Side::Bare => &self.containerd.bare.name,
            Side::Frostlock => &self.containerd.frostlock.name,
        };
        let (sandbox, container) = (String::new(), String::new());
        Ok(Made { handler, config, quota_us, pod, sandbox, container })
    }

    fn run(
        &self,
        of: &mut Made<'a>,
        operation: &'static str,
        limit: Duration,
    ) -> anyhow::Result<Ended> {
        // The clients have that limit.
        if limit < LIMIT {
            return Ok(Ended::TooLong);
        }
        let client = &self.client;
        let ended = timed(|| {
            match operation {
                "sandbox" => of.sandbox = client.run_pod_sandbox_by(of.handler, &of.config)?,
                "create" => {
                    let config = self.container(of.quota_us);
                    of.container = client.create_container(&of.sandbox, &config, &of.config)?;
                }
                "start" => client.start_container(&of.container)?,
                "exec" => {
                    let command = [program::PATH, program::TRUE];
                    let done = client.exec_sync(&of.container, &command, LIMIT)?;
                    let failed = || format!("exit code {}: {}", done.exit_code, said(&done.stderr));
                    return Ok((done.exit_code != 0).then(failed));
                }
                "update" => {
                    client.update_container_resources(&of.container, resources(of.quota_us))?;
                }
                "kill" => client.stop_container(&of.container, Duration::ZERO)?,
                "delete" => client.remove_container(&of.container)?,
                _ => {
                    client.stop_pod_sandbox(&of.sandbox)?;
                    client.remove_pod_sandbox(&of.sandbox)?;
                }
            }
            Ok(None)
        });
        self.interrupts.pause()?;
        Ok(ended)
    }

    /// Throttled by its own limit or by the pod's, which is the same. Making the container was
    /// already throttled.
    fn is_throttled(&self, of: &Made<'a>) -> anyhow::Result<bool> {
        let files = [of.pod.files("")?, of.pod.files_of(&of.container)?];
        let before = files[0].throttled().map_or(0, |it| it.nr_throttled);
        rounds::is_throttled(&files, before, self.interrupts)
    }

    fn clear(&mut self, of: Made<'a>) -> anyhow::Result<()> {
        of.pod.unlimit();
        // containerd does not end frozen processes in time; a runtime whose freeze failed may leave
        // some.
        of.pod.clear()?;
        let uid = of.config.metadata.as_ref().map_or("", |it| &it.uid);
        self.remove(|it| it == uid)?;
        of.pod.clear()?;
        self.ids.extend([of.sandbox, of.container].into_iter().filter(|it| !it.is_empty()));
        Ok(())
    }
}

impl<'a> Pods<'a> {
    pub(super) fn new(
        containerd: &'a Containerd,
        cgroups: &'a Cgroups,
        interrupts: &'a Interrupts,
    ) -> anyhow::Result<Pods<'a>> {
        let own = Process::ourselves().context("cannot read /proc/self/stat: is /proc mounted?")?;
        let client = |limit| anyhow::Ok(Client::lazy(&containerd.socket)?.at_most(limit));
        Ok(Pods {
            containerd,
            cgroups,
            interrupts,
            own,
            shared: program::files()?,
            client: client(LIMIT)?,
            patient: client(ENDS_WITHIN)?,
            made: 0,
            ids: Vec::new(),
        })
    }

    fn container(&self, quota_us: u64) -> v1::ContainerConfig {
        let mount = |it: &Shared| v1::Mount {
            container_path: it.to.to_string_lossy().into_owned(),
            host_path: it.from.to_string_lossy().into_owned(),
            readonly: true,
            ..Default::default()
        };
        v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "spin".to_owned(), attempt: 0 }),
            image: Some(v1::ImageSpec {
                image: self.containerd.image.clone(),
                ..Default::default()
            }),
            command: [program::PATH, program::SPIN].map(str::to_owned).into(),
            envs: vec![v1::KeyValue {
                key: "LD_LIBRARY_PATH".to_owned(),
                value: program::library_path(&self.shared),
            }],
            mounts: self.shared.iter().map(mount).collect(),
            linux: Some(v1::LinuxContainerConfig {
                resources: Some(resources(quota_us)),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// Removes everything of ours, including what containerd made after the call had timed out.
    pub(super) fn clear_all(&self) -> anyhow::Result<()> {
        let is_ours = |name: &str| pod::is_of(name, self.own);
        place::clear(self.cgroups, is_ours)?;
        self.remove(|uid| pod::owner(uid) == Some(self.own))?;
        place::clear(self.cgroups, is_ours)
    }

    /// Removes what killed selftests have left, and says what it was.
    pub(super) fn clear_leftovers(&self) -> anyhow::Result<Vec<String>> {
        let groups = place::clear_and_name(self.cgroups, pod::is_of_the_dead)?;
        let sandboxes = self.remove(|uid| pod::owner(uid).is_some_and(|it| !it.is_alive()))?;
        Ok([sandboxes, groups].concat())
    }

    /// Removes the sandboxes with these uids, and their containers.
    fn remove(&self, is_meant: impl Fn(&str) -> bool) -> anyhow::Result<Vec<String>> {
        let deadline = Instant::now() + CLEAR_WITHIN;
        let mut removed = Vec::new();
        loop {
            let mut left = self.patient.list_pod_sandboxes()?;
            left.retain(|it| {
                let metadata = it.metadata.as_ref();
                metadata.is_some_and(|it| it.namespace == NAMESPACE && is_meant(&it.uid))
            });
            if left.is_empty() {
                return Ok(removed);
            }
            for it in &left {
                let stopped = self.patient.stop_pod_sandbox(&it.id);
                match stopped.and_then(|()| self.patient.remove_pod_sandbox(&it.id)) {
                    Ok(()) => removed.push(format!("the sandbox {}", it.id)),
                    Err(error) if Instant::now() >= deadline => {
                        bail!("the sandbox {} is still there: {error}", it.id)
                    }
                    Err(_) => {}
                }
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// If the call succeeded but its operation failed, it returns why.
fn timed(call: impl FnOnce() -> frostlock_cri::Result<Option<String>>) -> Ended {
    let began = Instant::now();
    let answer = call();
    let took = began.elapsed();
    match answer {
        Ok(_) if took >= LIMIT => Ended::TooLong,
        Ok(None) => Ended::Done(took),
        Ok(Some(why)) => Ended::Failed(why),
        Err(error) if is_late(&error) => Ended::TooLong,
        Err(error) => Ended::Failed(plain(&error.to_string())),
    }
}

/// containerd reports its own deadlines as errors of unknown code; "Timeout expired" is tonic's
/// own.
fn is_late(error: &Error) -> bool {
    matches!(error, Error::TimedOut { .. })
        || matches!(error, Error::Unreachable { why, .. } if why == "Timeout expired")
        || error.code() == Some(Code::DeadlineExceeded)
        || error.to_string().contains("context deadline exceeded")
}

fn said(bytes: &[u8]) -> String {
    plain(String::from_utf8_lossy(bytes).trim())
}

fn resources(quota_us: u64) -> v1::LinuxContainerResources {
    let us = |it: u64| i64::try_from(it).unwrap_or(i64::MAX);
    v1::LinuxContainerResources {
        cpu_period: us(PERIOD_US),
        cpu_quota: us(quota_us),
        cpu_shares: LEAST_SHARES,
        ..Default::default()
    }
}

/// With the node's network, so that no CNI is asked for an address.
fn sandbox(uid: &str, parent: &str) -> v1::PodSandboxConfig {
    let namespaces =
        v1::NamespaceOption { network: v1::NamespaceMode::Node.into(), ..Default::default() };
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "selftest".to_owned(),
            uid: uid.to_owned(),
            namespace: NAMESPACE.to_owned(),
            attempt: 0,
        }),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: parent.to_owned(),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handler(name: &str, binary: &str, is_default: bool) -> Handler {
        let binary = Some(binary.into());
        Handler { name: name.to_owned(), binary, options: Default::default(), is_default }
    }

    #[test]
    fn ours_is_compared_with_the_bare_one() {
        let (runc, ours) =
            (handler("runc", "/bin/false", true), handler("f", "/x/frostlock", false));
        let default = handler("g", "/x/frostlock-crun", true);
        let kata = handler("kata", "/bin/false", false);
        let names = |all: &[&Handler]| {
            let all: Vec<Handler> = all.iter().map(|it| (*it).clone()).collect();
            pair(&all).map(|(bare, ours)| (bare.name, ours.name))
        };
        let both = |bare: &str, ours: &str| Ok((bare.to_owned(), ours.to_owned()));
        assert_eq!(names(&[&ours, &kata, &runc]), both("runc", "f"));
        assert_eq!(
            names(&[&ours, &default, &handler("runc", "/bin/false", false)]),
            both("runc", "g")
        );
        assert_eq!(names(&[&ours, &handler("crun", "/bin/false", true)]), both("crun", "f"));
        assert!(names(&[&runc]).unwrap_err().contains("frostctl configure"));
        assert!(names(&[&default, &kata]).unwrap_err().contains("no bare runtime"));
    }

    #[test]
    fn beside_a_kubelet_it_does_nothing() {
        let running = |comm: &str| Running {
            pid: 7,
            comm: comm.to_owned(),
            args: Vec::new(),
            exe: None,
            is_here: true,
        };
        assert!(no_kubelet(&[running("containerd")]).is_ok());
        for comm in ["kubelet", "k3s-server"] {
            let error =
                no_kubelet(&[running("containerd"), running(comm)]).unwrap_err().to_string();
            assert!(error.contains(comm) && error.contains("pid 7"), "{error}");
        }
    }

    #[test]
    fn a_call_that_was_given_up_is_over_the_limit() {
        let failed =
            |code, message: &str| Error::Failed { call: "X", code, message: message.into() };
        assert_eq!(timed(|| Err(failed(Code::DeadlineExceeded, ""))), Ended::TooLong);
        let wrapped = "failed to create: context deadline exceeded: unknown";
        assert_eq!(timed(|| Err(failed(Code::Unknown, wrapped))), Ended::TooLong);
        assert!(matches!(
            timed(|| Err(failed(Code::Unknown, "unable to freeze"))),
            Ended::Failed(_)
        ));
        assert!(matches!(timed(|| Ok(None)), Ended::Done(_)));
        assert_eq!(timed(|| Ok(Some("exit code 1".into()))), Ended::Failed("exit code 1".into()));
    }
}
