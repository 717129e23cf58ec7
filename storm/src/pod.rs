//! One pod, managed like kubelet would.

use std::path::PathBuf;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use frostlock_cri::{Client, v1};

use crate::config;
use crate::plan::{self, IDLE, Milli, Plan};
use crate::probe::{self, Probed};
use crate::slice::Slice;
use crate::storm::Storm;
use crate::tally::Step;

/// The time between two looks at the containers, and before a retry: kubelet's generic PLEG looks
/// as often.
const LOOK: Duration = Duration::from_secs(1);
/// SIGTERM has no effect on a shell that is process 1.
const GRACE: Duration = Duration::from_secs(1);
/// The limit of a removal, with its retries.
const REMOVAL: Duration = Duration::from_secs(90);

#[derive(Debug)]
struct Container {
    /// `None` before its first start, and when it must be created again.
    id: Option<String>,
    attempt: u32,
    /// The last update failed: which limit is in force is not known.
    unsure: bool,
}

#[derive(Debug)]
pub(crate) struct Pod<'a> {
    storm: &'a Storm,
    client: Client,
    plan: Plan,
    slot: usize,
    slice: Slice,
    /// The limit of its busy container, from the pod's spec.
    limit: Milli,
    /// The same, as last set on the slice.
    slice_limit: Option<Milli>,
    slice_unsure: bool,
    sandbox: Option<String>,
    attempt: u32,
    containers: Vec<Container>,
}

impl<'a> Pod<'a> {
    pub(crate) fn new(storm: &'a Storm, slot: usize, plan: Plan) -> anyhow::Result<Pod<'a>> {
        let containers = (0..storm.options.containers)
            .map(|_| Container { id: None, attempt: 0, unsure: false })
            .collect();
        Ok(Pod {
            storm,
            client: Client::lazy(&storm.options.socket)?,
            slot,
            slice: Slice { name: plan.slice() },
            limit: plan.limit,
            slice_limit: None,
            slice_unsure: false,
            sandbox: None,
            attempt: 0,
            containers,
            plan,
        })
    }

    /// Lives until its time is over, or the storm's.
    pub(crate) fn live(&mut self, probe_period: Duration) -> anyhow::Result<()> {
        self.storm.tally.pod();
        let began = Instant::now();
        let ends = (began + self.plan.life).min(self.storm.clock.ends);
        let prober = Client::lazy(&self.storm.options.socket)?;
        let probed = Probed::default();
        let over = AtomicBool::new(false);
        let first = probe_period.mul_f64(self.plan.first_probe);
        let probes = probe::Probes {
            storm: self.storm,
            slot: self.slot,
            probed: &probed,
            over: &over,
            probe_period,
        };
        std::thread::scope(|scope| {
            scope.spawn(|| probes.run(&prober, first));
            let mut resizes = self.plan.resizes.clone().into_iter().peekable();
            while Instant::now() < ends {
                self.sync(&probed);
                let next = Instant::now() + LOOK;
                while let Some(resize) =
                    resizes.next_if(|resize| began + resize.after < next.min(ends))
                {
                    sleep_until(began + resize.after);
                    self.resize(resize.limit);
                }
                sleep_until(next.min(ends));
            }
            over.store(true, Ordering::Relaxed);
        });
        Ok(())
    }

    /// Creates what is missing. A failure is counted, and retried at the next look.
    fn sync(&mut self, probed: &Probed) {
        if self.slice_limit.is_none() && !self.set_slice(self.limit) {
            return;
        }
        let dead = self.sandbox.as_deref().is_some_and(|sandbox| !self.is_ready(sandbox));
        if dead && !self.end_sandbox(probed) {
            return;
        }
        let Some(sandbox) = self.sandbox.clone().or_else(|| self.run_sandbox()) else { return };
        self.sandbox = Some(sandbox.clone());
        for at in 0..self.containers.len() {
            self.check(at, probed);
            if self.containers[at].id.is_none() && !self.start(at, &sandbox) {
                return;
            }
            if at == 0 {
                put(probed, self.containers[at].id.clone());
            }
        }
    }

    /// An unknown status is no reason to create it again.
    fn is_ready(&self, sandbox: &str) -> bool {
        match self.client.pod_sandbox_status(sandbox, false) {
            Ok(answer) => answer
                .status
                .is_some_and(|status| status.state() == v1::PodSandboxState::SandboxReady),
            Err(error) => !error.is_not_found(),
        }
    }

    fn run_sandbox(&mut self) -> Option<String> {
        let config = config::sandbox(&self.plan.uid, self.attempt, &self.slice.name);
        // The name of a failed sandbox may still be reserved.
        self.attempt += 1;
        self.storm.tally.time(Step::Sandbox, || self.client.run_pod_sandbox(&config)).ok()
    }

    /// A sandbox has died, and its containers with it.
    fn end_sandbox(&mut self, probed: &Probed) -> bool {
        put(probed, None);
        self.storm.tally.restart("the sandbox is not ready");
        let Some(sandbox) = self.sandbox.clone() else { return true };
        let tally = &self.storm.tally;
        let ended = tally.time(Step::Stop, || self.client.stop_pod_sandbox(&sandbox)).is_ok()
            && tally.time(Step::Remove, || self.client.remove_pod_sandbox(&sandbox)).is_ok();
        if ended {
            self.sandbox = None;
            for container in &mut self.containers {
                container.id = None;
            }
        }
        ended
    }

    /// Counts and removes a container that has ended.
    fn check(&mut self, at: usize, probed: &Probed) {
        let Some(id) = self.containers[at].id.clone() else { return };
        let how = match self.client.container_status(&id, false) {
            Ok(answer) => {
                let Some(status) = answer.status else { return };
                if status.state() == v1::ContainerState::ContainerRunning {
                    return;
                }
                format!("{:?}, {}, exit code {}", status.state(), status.reason, status.exit_code)
            }
            Err(error) if error.is_not_found() => "the container is gone".to_owned(),
            Err(_) => return,
        };
        if at == 0 {
            put(probed, None);
        }
        self.storm.tally.restart(&how);
        let _ = self.storm.tally.time(Step::Remove, || self.client.remove_container(&id));
        self.containers[at].id = None;
    }

    fn start(&mut self, at: usize, sandbox: &str) -> bool {
        let pod = config::sandbox(&self.plan.uid, self.attempt.saturating_sub(1), &self.slice.name);
        let attempt = self.containers[at].attempt;
        self.containers[at].attempt += 1;
        let options = &self.storm.options;
        let threads = if at == 0 { options.threads_of(self.slot) } else { 0 };
        let limit = self.limit_of(at);
        let container = config::container(at, attempt, limit, threads, &options.image);
        let tally = &self.storm.tally;
        let create = || self.client.create_container(sandbox, &container, &pod);
        let Ok(id) = tally.time(Step::Create, create) else { return false };
        let started = tally.time(Step::Start, || self.client.start_container(&id)).is_ok();
        if started {
            self.containers[at].unsure = false;
            self.containers[at].id = Some(id);
        } else {
            let _ = tally.time(Step::Remove, || self.client.remove_container(&id));
        }
        started
    }

    /// In place: the slice first if it grows, the containers first if they shrink.
    fn resize(&mut self, limit: Milli) {
        let grows = limit > self.limit;
        self.limit = limit;
        if grows && !self.set_slice(limit) {
            return;
        }
        let updated = self.update(0);
        // kubelet does not shrink the slice if the container's update failed.
        if !grows && updated {
            self.set_slice(limit);
        }
    }

    /// The first container is busy; the others wait beside it.
    fn limit_of(&self, at: usize) -> Milli {
        if at == 0 { self.limit } else { IDLE }
    }

    /// A pod's limit is the sum.
    fn of_all(&self, busy: Milli) -> Milli {
        busy + IDLE * (self.containers.len() as Milli).saturating_sub(1)
    }

    /// True without a container: it will be created with the new limit.
    fn update(&mut self, at: usize) -> bool {
        let Some(id) = self.containers[at].id.clone() else { return true };
        let resources = config::resources(self.limit_of(at));
        let update = || self.client.update_container_resources(&id, resources);
        let updated = self.storm.tally.time(Step::Update, update).is_ok();
        self.containers[at].unsure = !updated;
        updated
    }

    fn set_slice(&mut self, limit: Milli) -> bool {
        let of_all = self.of_all(limit);
        let (slice, node) = (&self.slice, &self.storm.node);
        let set = || match self.slice_limit {
            None => slice.start(node, of_all),
            Some(_) => slice.set(node, of_all),
        };
        let done = self.storm.tally.time(Step::Slice, set).is_ok();
        self.slice_unsure = !done;
        if done {
            self.slice_limit = Some(limit);
        }
        done
    }

    /// After the storm: retries what failed, as kubelet would, until everything is as last
    /// requested. Returns what still differs.
    pub(crate) fn settle(&mut self) -> Vec<String> {
        let nobody = Probed::default();
        self.sync(&nobody);
        let undone = self.slice_limit.is_some_and(|slice| slice != self.limit);
        if self.slice_unsure || undone || self.containers.iter().any(|container| container.unsure) {
            let deadline = Instant::now() + Duration::from_secs(20);
            loop {
                self.settle_once();
                let unsure = self.slice_unsure || self.containers.iter().any(|one| one.unsure);
                if !unsure || Instant::now() >= deadline {
                    break;
                }
                std::thread::sleep(LOOK);
            }
        }
        self.differences()
    }

    /// Up and then down again, whichever it was.
    fn settle_once(&mut self) {
        let most = self.slice_limit.map_or(self.limit, |slice| slice.max(self.limit));
        self.set_slice(most);
        for at in 0..self.containers.len() {
            self.update(at);
        }
        if most != self.limit {
            self.set_slice(self.limit);
        }
    }

    fn differences(&self) -> Vec<String> {
        let Some(limit) = self.slice_limit else { return Vec::new() };
        let of_all = self.of_all(limit);
        let cgroup = self.slice.cgroup();
        let mut found =
            self.storm.node.differences(&cgroup, [plan::slice_quota_us(of_all); 2], None);
        for (at, container) in self.containers.iter().enumerate() {
            let Some(id) = &container.id else { continue };
            let scope: PathBuf = cgroup.join(format!("cri-containerd-{id}.scope"));
            found.extend(self.storm.node.of_container(&scope, self.limit_of(at)));
        }
        found
    }

    /// Like kubelet, retries until the pod is gone; at the deadline, returns what is in the way.
    pub(crate) fn remove(&mut self) -> Option<String> {
        let deadline = Instant::now() + REMOVAL;
        loop {
            match self.remove_once() {
                Ok(()) => return None,
                Err(error) if Instant::now() >= deadline => {
                    return Some(format!("pod {} cannot be removed: {error:#}", self.plan.uid));
                }
                Err(_) => std::thread::sleep(LOOK),
            }
        }
    }

    fn remove_once(&mut self) -> anyhow::Result<()> {
        let tally = &self.storm.tally;
        for container in &mut self.containers {
            if let Some(id) = &container.id {
                tally.time(Step::Stop, || self.client.stop_container(id, GRACE))?;
                tally.time(Step::Remove, || self.client.remove_container(id))?;
                container.id = None;
            }
        }
        if let Some(sandbox) = &self.sandbox {
            tally.time(Step::Stop, || self.client.stop_pod_sandbox(sandbox))?;
            tally.time(Step::Remove, || self.client.remove_pod_sandbox(sandbox))?;
            self.sandbox = None;
        }
        if self.slice_limit.is_some() {
            self.slice.stop()?;
            self.slice_limit = None;
        }
        Ok(())
    }
}

/// Waits for a probe in progress.
fn put(probed: &Probed, id: Option<String>) {
    *probed.write().unwrap_or_else(PoisonError::into_inner) = id;
}

fn sleep_until(time: Instant) {
    std::thread::sleep(time.saturating_duration_since(Instant::now()));
}
