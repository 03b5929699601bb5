//! What of a Pod the state machine needs: which containers there are, in which order they run,
//! when they are restarted, and which hooks and probes they have.
//!
//! **Invariant:** `containers` holds the init containers first, in spec order, then the others in
//! spec order, then the ephemeral ones; an index into it names a container for as long as the pod
//! lives, since Kubernetes lets nobody add or remove one but append an ephemeral one.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec, Probe};

/// Which part a container plays in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs to completion before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: runs beside the pod's containers.
    Sidecar,
    Main,
    /// Added while the pod runs, for somebody to look around (`kubectl debug`): it counts for
    /// nothing and never runs again.
    Ephemeral,
}

/// When a container that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

impl RestartPolicy {
    fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            Some("Always") => Some(Self::Always),
            Some("OnFailure") => Some(Self::OnFailure),
            Some("Never") => Some(Self::Never),
            _ => None,
        }
    }
}

/// The three probes of a container; also the index into its counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProbeKind {
    Startup = 0,
    Readiness = 1,
    Liveness = 2,
}

impl ProbeKind {
    pub const ALL: [Self; 3] = [Self::Startup, Self::Readiness, Self::Liveness];

    /// As it is written in events.
    pub fn word(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }

    /// The probe of this kind that `container` declares.
    pub fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
        }
    }
}

/// How many results in a row change what a probe says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbePlan {
    pub success_threshold: u32,
    pub failure_threshold: u32,
    /// The grace period of a container that this probe ends, where it is not the pod's.
    pub grace: Option<Duration>,
}

impl ProbePlan {
    fn of(probe: &Probe) -> Self {
        let at_least_one = |n: Option<i32>, default: u32| {
            n.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(default)
        };
        Self {
            success_threshold: at_least_one(probe.success_threshold, 1),
            failure_threshold: at_least_one(probe.failure_threshold, 3),
            grace: probe.termination_grace_period_seconds.map(seconds),
        }
    }
}

/// One rule of `restartPolicyRules`: exit codes on which the container is restarted whatever its
/// policy says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartRule {
    /// `In` or, where false, `NotIn`.
    pub within: bool,
    pub codes: Vec<i32>,
}

/// One container, as the state machine needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPlan {
    pub name: String,
    pub role: Role,
    pub image: String,
    pub restart: RestartPolicy,
    pub rules: Vec<RestartRule>,
    /// By [`ProbeKind`].
    pub probes: [Option<ProbePlan>; 3],
    pub post_start: bool,
    pub pre_stop: bool,
}

impl ContainerPlan {
    fn of(container: &Container, role: Role, restart: RestartPolicy) -> Self {
        let lifecycle = container.lifecycle.as_ref();
        let rules = container.restart_policy_rules.iter().flatten();
        Self {
            name: container.name.clone(),
            role,
            image: container.image.clone().unwrap_or_default(),
            restart,
            rules: rules
                .filter(|rule| rule.action == "Restart")
                .filter_map(|rule| rule.exit_codes.as_ref())
                .map(|codes| RestartRule {
                    within: codes.operator == "In",
                    codes: codes.values.clone().unwrap_or_default(),
                })
                .collect(),
            probes: ProbeKind::ALL.map(|kind| kind.of(container).map(ProbePlan::of)),
            post_start: lifecycle.is_some_and(|l| l.post_start.is_some()),
            pre_stop: lifecycle.is_some_and(|l| l.pre_stop.is_some()),
        }
    }

    /// Whether a run that ended with `code` is followed by another.
    pub fn restarts_after(&self, code: i32) -> bool {
        if self.rules.iter().any(|rule| rule.codes.contains(&code) == rule.within) {
            return true;
        }
        match self.restart {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => code != 0,
            RestartPolicy::Never => false,
        }
    }

    /// As events name it: `spec.containers{app}`.
    pub fn field_path(&self) -> String {
        match self.role {
            Role::Main => format!("spec.containers{{{}}}", self.name),
            Role::Ephemeral => format!("spec.ephemeralContainers{{{}}}", self.name),
            Role::Init | Role::Sidecar => format!("spec.initContainers{{{}}}", self.name),
        }
    }
}

/// One pod, as the state machine needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPlan {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub restart: RestartPolicy,
    pub grace: Duration,
    pub active_deadline: Option<Duration>,
    pub containers: Vec<ContainerPlan>,
}

impl PodPlan {
    /// Reads it off a Pod; what the API server would have refused falls back to the defaults.
    pub fn of(pod: &Pod) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let restart =
            RestartPolicy::parse(spec.restart_policy.as_deref()).unwrap_or(RestartPolicy::Always);
        let mut containers = Vec::new();
        for container in spec.init_containers.iter().flatten() {
            let own = RestartPolicy::parse(container.restart_policy.as_deref());
            let (role, policy) = match (own, restart) {
                (Some(RestartPolicy::Always), _) => (Role::Sidecar, RestartPolicy::Always),
                (Some(policy), _) => (Role::Init, policy),
                (None, RestartPolicy::Never) => (Role::Init, RestartPolicy::Never),
                // An init container that succeeded is done, also where the pod is to run always.
                (None, _) => (Role::Init, RestartPolicy::OnFailure),
            };
            containers.push(ContainerPlan::of(container, role, policy));
        }
        for container in &spec.containers {
            let own = RestartPolicy::parse(container.restart_policy.as_deref());
            containers.push(ContainerPlan::of(container, Role::Main, own.unwrap_or(restart)));
        }
        for container in &ephemeral(&spec) {
            let never = RestartPolicy::Never;
            containers.push(ContainerPlan::of(container, Role::Ephemeral, never));
        }
        Self {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            restart,
            grace: seconds(spec.termination_grace_period_seconds.unwrap_or(30)),
            active_deadline: spec.active_deadline_seconds.map(seconds),
            containers,
        }
    }

    /// As the kubelet names a pod in messages: `web_default(6a3c…)`.
    pub fn full_name(&self) -> String {
        format!("{}_{}({})", self.name, self.namespace, self.uid)
    }

    pub fn has_init(&self) -> bool {
        self.containers.first().is_some_and(|c| matches!(c.role, Role::Init | Role::Sidecar))
    }

    pub fn of_role(&self, role: Role) -> impl DoubleEndedIterator<Item = usize> + '_ {
        self.containers.iter().enumerate().filter(move |(_, c)| c.role == role).map(|(i, _)| i)
    }
}

/// The ephemeral containers of a pod as the containers that they are but for their name.
pub fn ephemeral(spec: &PodSpec) -> Vec<Container> {
    spec.ephemeral_containers.iter().flatten().map(as_container).collect()
}

fn as_container(container: &EphemeralContainer) -> Container {
    let EphemeralContainer {
        args,
        command,
        env,
        env_from,
        image,
        image_pull_policy,
        name,
        resources,
        security_context,
        stdin,
        stdin_once,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
        // Ports, probes and hooks are not allowed; whose processes it sees means nothing here.
        ..
    } = container.clone();
    Container {
        args,
        command,
        env,
        env_from,
        image,
        image_pull_policy,
        name,
        resources,
        security_context,
        stdin,
        stdin_once,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
        ..Container::default()
    }
}

/// A count of seconds from the API; a negative one is none.
pub fn seconds(n: i64) -> Duration {
    Duration::from_secs(u64::try_from(n).unwrap_or(0))
}
