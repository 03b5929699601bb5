//! One task a pod: it feeds the state machine and carries its effects out.
//!
//! Whatever takes time runs in a task of its own and comes back as an [`Answer`], a closure over
//! the worker that may give the next event; so the worker itself never waits for anything but its
//! inbox. Of the Pod's updates it sees the newest only.
//!
//! **Invariant:** the state is saved to the node's store before (well: no later than) the status
//! that tells of it is sent, and the Pod is deleted from the API only after its last status was
//! written.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc, watch};

use super::actions::Target;
use super::effects;
use super::fields::Facts;
use super::limits;
use super::publish::Publisher;
use super::recover;
use super::spec::{PodPlan, ProbeKind, ephemeral, seconds};
use super::state::{Event, Note, Now, PodState, Saved, Verdict, step};
use super::status;
use super::volumes::{Volumes, memory_root};
use crate::base::shutdown::Shutdown;
use crate::client::events::EventType;
use crate::client::meta::reference;
use crate::image::PulledImage;
use crate::net::Namespace;
use crate::node::admit::Asks;
use crate::node::agent::Node;
use crate::node::io::{ContainerIo, PodPorts};
use crate::node::sources;
use crate::runtime::Workload;

/// How long after an update the API's view of readiness is compared with the node's own.
const COMPARE_AFTER: Duration = Duration::from_secs(2);
/// How often volumes that have a limit are measured, as in the kubelet.
const MEASURE_EVERY: Duration = Duration::from_secs(10);
/// How long a volume that could not be refreshed waits for the next try.
const REFRESH_AGAIN: Duration = Duration::from_secs(60);

/// What the API says of the pod now.
#[derive(Debug, Clone)]
pub enum Update {
    Pod(Arc<Pod>),
    Gone,
}

/// What a finished task changes in the worker, and the event that it gives.
pub type Answer = Box<dyn FnOnce(&mut Worker) -> Option<Event> + Send>;

/// What is kept of a pod over a restart of the agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stored {
    pub pod: Pod,
    pub saved: Saved,
}

/// How a pod begins on this node.
pub enum Beginning {
    Fresh,
    Rejected(Verdict),
    Restored(Saved),
}

/// What others may see of a pod.
pub struct View {
    pub pod: Arc<Pod>,
    pub status: Option<Arc<PodStatus>>,
    pub workloads: HashMap<String, Arc<Workload>>,
    /// The started containers, for exec and attach.
    pub io: HashMap<String, Arc<dyn ContainerIo>>,
    /// The pod's network, for port-forward; none while it has none.
    pub ports: Option<Arc<dyn PodPorts>>,
    /// The digests of the images of its containers.
    pub images: Vec<String>,
    /// What it counts as while it is not over.
    pub asks: Asks,
    /// It no longer counts against the node's resources.
    pub over: bool,
}

/// A pod's worker as others hold it.
pub struct Handle {
    pub updates: watch::Sender<Update>,
    pub view: Mutex<View>,
}

/// A started container.
#[derive(Clone)]
pub struct Live {
    pub run: u32,
    pub workload: Arc<Workload>,
    pub since: Duration,
}

/// See the module.
pub struct Worker {
    pub(super) node: Arc<Node>,
    pub(super) handle: Arc<Handle>,
    pub(super) pod: Arc<Pod>,
    pub(super) plan: PodPlan,
    pub(super) state: PodState,
    pub(super) volumes: Arc<Volumes>,
    pub(super) network: Option<Arc<Namespace>>,
    pub(super) images: Vec<Option<PulledImage>>,
    pub(super) live: Vec<Option<Live>>,
    pub(super) probes: HashMap<(usize, ProbeKind), Shutdown>,
    /// Held while the sandbox of its containers is made.
    pub(super) sandbox: Arc<tokio::sync::Mutex<()>>,
    pub(super) publisher: Publisher,
    /// Told when a ConfigMap or Secret of the pod changed.
    pub(super) changed: Arc<Notify>,
    answers: mpsc::UnboundedSender<Answer>,
    /// Ends the tasks of this pod.
    stop: Shutdown,
    pub(super) refresh_at: Option<Duration>,
    /// When its volumes are measured, where they have a limit.
    measure_at: Option<Duration>,
    compare_at: Option<Duration>,
    saved: Option<Saved>,
}

impl Worker {
    /// Starts the worker of `pod`.
    pub fn start(node: &Arc<Node>, pod: Arc<Pod>, beginning: Beginning) -> Arc<Handle> {
        let plan = PodPlan::of(&pod);
        let now = Now { wall: node.clock.now(), mono: node.clock.monotonic() };
        let state = match beginning {
            Beginning::Fresh => PodState::fresh(&plan, now),
            Beginning::Rejected(verdict) => PodState::rejected(&plan, verdict, now),
            Beginning::Restored(saved) => PodState::restore(&plan, saved, now),
        };
        let (updates, receiver) = watch::channel(Update::Pod(Arc::clone(&pod)));
        let view = View {
            pod: Arc::clone(&pod),
            status: None,
            workloads: HashMap::new(),
            io: HashMap::new(),
            ports: None,
            images: Vec::new(),
            asks: Asks::of(&pod),
            over: state.is_down(),
        };
        let handle = Arc::new(Handle { updates, view: Mutex::new(view) });
        let (answers, inbox) = mpsc::unbounded_channel();
        let count = plan.containers.len();
        let root = node.config.data_dir.join("volumes");
        let worker = Self {
            volumes: Arc::new(
                Volumes::new(&root, &plan.uid, node.config.host_paths.clone())
                    .with_memory(memory_root(&node.config.data_dir)),
            ),
            publisher: Publisher::new(pod.status.clone()),
            handle: Arc::clone(&handle),
            network: None,
            images: vec![None; count],
            live: vec![None; count],
            probes: HashMap::new(),
            sandbox: Arc::default(),
            changed: Arc::default(),
            answers,
            stop: node.shutdown.child_token(),
            refresh_at: None,
            measure_at: None,
            compare_at: None,
            saved: None,
            node: Arc::clone(node),
            pod,
            plan,
            state,
        };
        tokio::spawn(Box::new(worker).run(receiver, inbox));
        handle
    }

    pub(super) fn now(&self) -> Now {
        Now { wall: self.node.clock.now(), mono: self.node.clock.monotonic() }
    }

    pub(super) fn facts(&self) -> Facts {
        Facts {
            pod_ip: self.state.ip.map(|ip| ip.to_string()).unwrap_or_default(),
            host_ip: self.node.config.node_ip.to_string(),
            allocatable: self.node.allocatable.clone(),
        }
    }

    /// The spec of a container by its index in the plan.
    pub(super) fn container(&self, index: usize) -> Option<Arc<Container>> {
        let spec = self.pod.spec.as_ref()?;
        let all = spec.init_containers.iter().flatten().chain(&spec.containers).cloned();
        all.chain(ephemeral(spec)).nth(index).map(Arc::new)
    }

    /// Runs `work` aside; its answer comes back unless the pod is gone by then.
    pub(super) fn aside<F>(&self, work: F)
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let answers = self.answers.clone();
        let stop = self.stop.clone();
        tokio::spawn(async move {
            if let Some(answer) = stop.run_until_cancelled(work).await {
                // The worker has ended: nobody is left to tell.
                let _ = answers.send(answer);
            }
        });
    }

    /// Tells the collector of images which ones this pod is made of.
    pub(super) fn tell_images(&self) {
        let known = self.images.iter().flatten().map(|image| image.digest.clone());
        let all = known.chain(self.volumes.image_digests()).collect();
        self.handle.view.lock().images = all;
    }

    /// Gives `event` to the worker after what it is doing now.
    pub(super) fn soon(&self, event: Event) {
        let _ = self.answers.send(Box::new(move |_| Some(event)));
    }

    pub(super) fn sender(&self) -> mpsc::UnboundedSender<Answer> {
        self.answers.clone()
    }

    pub(super) fn stop_token(&self) -> Shutdown {
        self.stop.clone()
    }

    /// Boxed: a future keeps what it takes by value twice.
    async fn run(
        mut self: Box<Self>,
        mut updates: watch::Receiver<Update>,
        mut inbox: mpsc::UnboundedReceiver<Answer>,
    ) {
        let references = sources::of_pod(&self.pod);
        if !self.state.is_down() {
            self.node.sources.set(&self.plan.uid, &references, &self.changed);
        }
        let refused = self.state.is_down() && self.state.ip.is_none();
        if let Some(verdict) = self.state.verdict.clone().filter(|_| refused) {
            self.say(Note {
                warning: true,
                message: verdict.message.trim_start_matches("Pod was rejected: ").to_owned(),
                reason: effects::event_reason(&verdict.reason),
                container: None,
            });
        }
        recover::containers(&mut self).await;
        self.step(Event::Tick);
        self.take_update(&Update::Pod(Arc::clone(&self.pod)));
        if limits::has_limits(&self.pod) {
            self.measure_at = Some(self.now().mono + MEASURE_EVERY);
        }
        let shutdown = self.node.shutdown.clone();
        loop {
            self.publish();
            if self.state.is_gone() {
                break;
            }
            let pause = self.pause();
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(answer) = inbox.recv() => {
                    if let Some(event) = answer(&mut self) {
                        self.step(event);
                    }
                }
                changed = updates.changed() => {
                    let update = updates.borrow_and_update().clone();
                    // The handle lives as long as the worker, so the sender does too.
                    if changed.is_ok() {
                        self.take_update(&update);
                    }
                }
                () = self.changed.notified() => effects::refresh_volumes(&mut self),
                () = tokio::time::sleep(pause) => self.due(),
            }
        }
        self.clean_up().await;
    }

    /// How long until something is due by itself.
    fn pause(&self) -> Duration {
        let now = self.now().mono;
        let due = [
            self.state.wake_at(),
            self.publisher.retry_at(),
            self.refresh_at,
            self.measure_at,
            self.compare_at,
        ];
        let next = due.into_iter().flatten().min();
        next.map_or(Duration::from_secs(3600), |at| at.saturating_sub(now))
    }

    fn due(&mut self) {
        let now = self.now().mono;
        if self.refresh_at.is_some_and(|at| at <= now) {
            self.refresh_at = Some(now + REFRESH_AGAIN);
            effects::refresh_volumes(self);
        }
        if self.measure_at.is_some_and(|at| at <= now) {
            self.measure_at = Some(now + MEASURE_EVERY);
            limits::measure(self);
        }
        if self.compare_at.is_some_and(|at| at <= now) {
            self.compare_at = None;
            self.compare();
        }
        if self.state.wake_at().is_some_and(|at| at <= now) {
            self.step(Event::Tick);
        }
    }

    /// Somebody else (the node lifecycle controller) may have written the pod's readiness while
    /// the node was away; what the node says counts.
    fn compare(&mut self) {
        let ready = |status: Option<&PodStatus>| {
            let conditions = status.and_then(|s| s.conditions.as_ref())?;
            conditions.iter().find(|c| c.type_ == "Ready").map(|c| c.status.clone())
        };
        let theirs = ready(self.pod.status.as_ref());
        if theirs.is_some() && theirs != ready(self.publisher.written()) {
            self.publisher.write_again();
        }
    }

    fn take_update(&mut self, update: &Update) {
        let pod = match update {
            Update::Gone => return self.step(Event::Vanished),
            Update::Pod(pod) => Arc::clone(pod),
        };
        let plan = PodPlan::of(&pod);
        let pairs = plan.containers.iter().zip(&self.plan.containers);
        let images =
            pairs.enumerate().filter(|(_, (new, old))| new.image != old.image).map(|(i, _)| i);
        let images: Vec<usize> = images.collect();
        let meta = |pod: &Pod| (pod.metadata.labels.clone(), pod.metadata.annotations.clone());
        let relabelled = meta(&pod) != meta(&self.pod);
        self.pod = pod;
        self.handle.view.lock().pod = Arc::clone(&self.pod);
        if plan != self.plan {
            let count = plan.containers.len().max(self.plan.containers.len());
            self.images.resize(count, None);
            self.live.resize(count, None);
            self.plan = plan;
            self.step(Event::Changed { images });
        }
        if relabelled && !self.state.is_down() {
            effects::refresh_volumes(self);
        }
        if self.pod.metadata.deletion_timestamp.is_some() {
            let grace = self.pod.metadata.deletion_grace_period_seconds;
            self.step(Event::Deleted { grace: grace.map_or(self.plan.grace, seconds) });
        }
        self.compare_at = Some(self.now().mono + COMPARE_AFTER);
    }

    pub(super) fn step(&mut self, event: Event) {
        tracing::trace!(pod = %self.plan.name, ?event, "step");
        let (state, effects) = step(&self.plan, self.state.clone(), event, self.now());
        self.state = state;
        for effect in effects {
            effects::perform(self, effect);
        }
    }

    /// Tells an event about the pod.
    pub(super) fn say(&self, note: Note) {
        let mut about = reference(self.pod.as_ref());
        about.field_path =
            note.container.and_then(|i| self.plan.containers.get(i)).map(|c| c.field_path());
        let kind = if note.warning { EventType::Warning } else { EventType::Normal };
        self.node.recorder.event(&about, kind, note.reason, note.message);
    }

    /// Saves the state and brings the status on its way, where they changed.
    fn publish(&mut self) {
        let saved = self.state.save();
        let uid = &self.plan.uid;
        let wall = self.node.clock.now();
        if self.saved.as_ref() != Some(&saved) && !self.state.is_gone() {
            let stored = Stored { pod: self.pod.as_ref().clone(), saved: saved.clone() };
            self.node.store.put(&format!("pod/{uid}"), &stored);
            self.saved = Some(saved);
        }
        let host_ip = self.node.config.node_ip.to_string();
        let before = self.publisher.wanted();
        let status = status::status(&self.pod, &self.plan, &self.state, before, &host_ip, wall);
        let status = Arc::new(status);
        {
            let mut view = self.handle.view.lock();
            view.over = self.state.is_down();
            view.status = Some(Arc::clone(&status));
        }
        self.publisher.want(status);
        Publisher::drive(self);
    }

    /// What a probe or a hook of a running container acts on.
    pub(super) fn target(&self, container: usize, run: u32) -> Option<Target> {
        let live = self.live.get(container)?.as_ref().filter(|live| live.run == run)?;
        Some(Target {
            host: self.node.fabric.host(),
            pod_ip: self.state.ip?,
            container: self.container(container)?,
            workload: Arc::clone(&live.workload),
        })
    }

    /// The container has ended or was replaced: nothing acts on it any more.
    pub(super) fn forget_live(&mut self, container: usize, run: u32) {
        if self.live[container].as_ref().is_some_and(|live| live.run == run) {
            self.live[container] = None;
            let name = &self.plan.containers[container].name;
            let mut view = self.handle.view.lock();
            view.workloads.remove(name);
            view.io.remove(name);
            drop(view);
            for kind in ProbeKind::ALL {
                if let Some(probe) = self.probes.remove(&(container, kind)) {
                    probe.cancel();
                }
            }
        }
    }

    async fn clean_up(self: Box<Self>) {
        self.stop.cancel();
        let uid = self.plan.uid.clone();
        self.node.sources.set(&uid, &BTreeSet::new(), &self.changed);
        self.node.store.remove(&format!("pod/{uid}"));
        self.node.workers.lock().remove(&uid);
        let (node, volumes) = (Arc::clone(&self.node), Arc::clone(&self.volumes));
        let (namespace, name) = (self.plan.namespace.clone(), self.plan.name.clone());
        let removed = tokio::task::spawn_blocking(move || {
            volumes.remove().and(node.logs.remove(&namespace, &name, &uid))
        });
        if let Ok(Err(error)) = removed.await {
            tracing::warn!(pod = %self.plan.name, %error, "files of a pod could not be removed");
        }
    }
}

/// When a refresh at `at` (wall time) is due on the monotonic clock.
pub(super) fn due_at(now: Now, at: Timestamp) -> Duration {
    let left = Duration::try_from(at.duration_since(now.wall)).unwrap_or(Duration::ZERO);
    now.mono + left.max(Duration::from_secs(1))
}
