//! From a container of a Pod to a running workload: image, environment, mounts, log, start.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};
use sha2::{Digest, Sha256};

use super::env::{arguments, environment};
use super::fields::Facts;
use super::kernel::{self, NodeFacts, Parts};
use super::state::OUTLIVES;
use super::volumes::Volumes;
use crate::image::{ImageError, Module, PullPolicy, PulledImage};
use crate::net::{Namespace, NamespaceSpec};
use crate::node::agent::Node;
use crate::node::logs::LogFile;
use crate::node::resources::limit;
use crate::node::sources;
use crate::runtime::oci::ContainerError;
use crate::runtime::oci::spec::SandboxSpec;
use crate::runtime::{ArtifactKind, Limits, Mount, StartError, StdioSpec, Workload, WorkloadSpec};

/// A container as it is started.
pub struct Launch {
    pub node: Arc<Node>,
    pub pod: Arc<Pod>,
    pub container: Arc<Container>,
    pub run: u32,
    pub facts: Facts,
    pub volumes: Arc<Volumes>,
    pub network: Arc<Namespace>,
    /// What the pod's namespace is made from, also where it shares the host's.
    pub network_spec: NamespaceSpec,
    pub image: PulledImage,
    /// Held while the pod's sandbox is made.
    pub sandbox: Arc<tokio::sync::Mutex<()>>,
}

/// What was started.
pub struct Launched {
    pub workload: Workload,
    pub container_id: String,
    pub log: Arc<LogFile>,
    /// Where it may leave its termination message.
    pub termination: Option<std::path::PathBuf>,
}

/// Why nothing runs.
pub enum LaunchError {
    /// The container's waiting reason and message.
    Refused { reason: &'static str, message: String },
    /// It was started and ended at once (an http handler whose start traps).
    Ended { code: i32, oom: bool, message: String, container_id: String },
}

fn refused(reason: &'static str) -> impl Fn(String) -> LaunchError {
    move |message| LaunchError::Refused { reason, message }
}

/// `imagePullPolicy`, which the API server has defaulted.
pub fn pull_policy(container: &Container) -> PullPolicy {
    match container.image_pull_policy.as_deref() {
        Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        _ => PullPolicy::IfNotPresent,
    }
}

/// The waiting reason of an image that is not there, and what to say of it.
pub fn image_failure(error: ImageError) -> (&'static str, String) {
    let reason = error.reason();
    match error {
        // The event says already that pulling failed, and of what.
        ImageError::Pull { problem, .. } => (reason, problem.to_string()),
        other => (reason, other.to_string()),
    }
}

/// 64 hexadecimal digits, others for every run.
fn run_id(pod: &Pod, container: &str, run: u32) -> String {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    hex::encode(Sha256::digest(format!("{uid}/{container}/{run}")))
}

/// What of this node shows in its containers.
pub(super) fn with_facts<T>(node: &Node, use_them: impl FnOnce(&NodeFacts<'_>) -> T) -> T {
    let of_host = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let (resolv_conf, hosts) = (of_host("/etc/resolv.conf"), of_host("/etc/hosts"));
    let memory = node.allocatable.get("memory").copied().unwrap_or(0);
    use_them(&NodeFacts {
        cluster_dns: node.config.cluster_dns,
        cluster_domain: &node.config.cluster_domain,
        memory_bytes: u64::try_from(memory).unwrap_or(0),
        profiles: &node.config.data_dir.join("seccomp"),
        host_resolv_conf: &resolv_conf,
        host_hosts: &hosts,
    })
}

/// What a program is called where nobody names it: the last part of its image.
fn program(image: &str) -> String {
    let path = image.split('@').next().unwrap_or(image);
    let file = path.rsplit('/').next().unwrap_or(path);
    let name = file.split(':').next().unwrap_or(file);
    name.strip_suffix(".wasm").unwrap_or(name).to_owned()
}

impl Launch {
    async fn environment(&self) -> Result<BTreeMap<String, String>, LaunchError> {
        let refused = refused("CreateContainerConfigError");
        let references = sources::of_pod(&self.pod);
        let found =
            self.node.sources.find(&references).await.map_err(|e| refused(e.to_string()))?;
        let services = self.node.services.load();
        let own = environment(&self.pod, &self.container, &self.facts, &services, &found)
            .map_err(|e| refused(e.to_string()))?;
        let image = self.image.config.env.iter().filter_map(|pair| pair.split_once('='));
        let mut all: BTreeMap<String, String> =
            image.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        all.insert("HOSTNAME".to_owned(), hostname(&self.pod));
        all.extend(own);
        Ok(all)
    }

    /// The file for the termination message as a mount; an http handler never ends, so it has none.
    fn termination(&self, kind: ArtifactKind) -> Result<Option<Mount>, LaunchError> {
        if kind == ArtifactKind::HttpHandler {
            return Ok(None);
        }
        let path = self.container.termination_message_path.as_deref();
        let guest = path.unwrap_or("/dev/termination-log").to_owned();
        let file = self.volumes.termination_file(&self.container.name, self.run);
        let host = file.map_err(|e| refused("CreateContainerError")(e.to_string()))?;
        Ok(Some(Mount { host, guest, read_only: false }))
    }

    /// Starts it; returns once a command runs or an http handler is armed.
    pub async fn start(self) -> Result<Launched, LaunchError> {
        let class = self.pod.spec.as_ref().and_then(|s| s.runtime_class_name.clone());
        let image = self.container.image.as_deref().unwrap_or_default();
        match (class.as_deref(), self.image.module().cloned()) {
            (Some("wasm"), None) => Err(refused("CreateContainerError")(format!(
                "{image} is a container image, but runtimeClassName is wasm: leave it out, or use \
                 an image that holds a wasm module"
            ))),
            (Some("runc"), Some(_)) => Err(refused("CreateContainerError")(format!(
                "{image} is a wasm image, but runtimeClassName is runc: leave it out, or use a \
                 container image"
            ))),
            (_, None) => self.start_container().await,
            (_, Some(module)) => self.start_wasm(module).await,
        }
    }

    /// argv of a container of the kernel, which has no name of its own to fall back on.
    fn container_args(&self, env: &BTreeMap<String, String>) -> Result<Vec<String>, LaunchError> {
        let config = &self.image.config;
        let own = self.container.command.as_ref().is_some_and(|command| !command.is_empty());
        let mut args = arguments(&self.container, "", (&config.entrypoint, &config.cmd), env);
        if !own && config.entrypoint.is_empty() {
            args.remove(0);
        }
        match args.is_empty() {
            true => Err(refused("CreateContainerError")(
                "no command specified: neither the container nor its image names one".to_owned(),
            )),
            false => Ok(args),
        }
    }

    /// The image as directories.
    async fn layers(&self) -> Result<Vec<std::path::PathBuf>, LaunchError> {
        let (layers, image) = (Arc::clone(&self.node.layers), self.image.layers().to_vec());
        let unpacked = tokio::task::spawn_blocking(move || layers.of_image(&image)).await;
        let unpacked = unpacked.unwrap_or_else(|error| Err(error.to_string()));
        unpacked.map_err(|why| {
            refused("CreateContainerError")(format!("image \"{}\": {why}", self.image.reference))
        })
    }

    async fn start_container(self) -> Result<Launched, LaunchError> {
        let create = refused("CreateContainerError");
        let node = &self.node;
        let Some(containers) = &node.containers else {
            let why = node.no_containers.clone().unwrap_or_default();
            return Err(create(format!(
                "image \"{}\" is a container image, which this node cannot run: {why}; \
                 runtimeClassName runc keeps a pod off such nodes",
                self.image.reference
            )));
        };
        let env = self.environment().await?;
        let args = self.container_args(&env)?;
        let lookup = |name: &str| env.get(name).map(String::as_str);
        let mounts = self.volumes.mounts(&self.pod, &self.container, lookup);
        let mut mounts =
            mounts.map_err(|e| refused("CreateContainerConfigError")(e.to_string()))?;
        let termination = self.termination(ArtifactKind::Command)?;
        mounts.extend(termination.clone());
        let meta = &self.pod.metadata;
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let (namespace, name, uid) = (text(&meta.namespace), text(&meta.name), text(&meta.uid));
        let own = &self.container.name;
        let log = node.logs.begin(&namespace, &name, &uid, own, self.run);
        let log = log.map_err(|e| create(format!("no log: {e}")))?;
        let order = node.logs.order(&namespace, &name, &uid, own, self.run);
        let id = run_id(&self.pod, own, self.run);
        let parts = Parts {
            id: id.clone(),
            layers: self.layers().await?,
            image: &self.image.config,
            args,
            env,
            mounts,
            log: serde_json::to_value(&order).expect("plain data"),
        };
        let spec = with_facts(node, |facts| {
            kernel::container_spec(&self.pod, &self.container, facts, parts)
        });
        let spec = spec.map_err(refused("CreateContainerConfigError"))?;
        let sandbox = self.join_sandbox(containers).await?;
        match containers.start(&sandbox, spec).await {
            Ok(container) => {
                node.logs.watch(&log, &order);
                Ok(Launched {
                    workload: Workload::from(container),
                    container_id: format!("{OUTLIVES}{id}"),
                    log,
                    termination: termination.map(|mount| mount.host),
                })
            }
            Err(ContainerError::Config(message)) => {
                Err(refused("CreateContainerConfigError")(message))
            }
            Err(ContainerError::Create(message)) => Err(refused("RunContainerError")(message)),
            Err(ContainerError::Io(error)) => Err(create(error.to_string())),
        }
    }

    /// The sandbox of the pod, made and joined to its virtual network.
    async fn join_sandbox(
        &self,
        containers: &crate::runtime::oci::Containers,
    ) -> Result<SandboxSpec, LaunchError> {
        let failed =
            |e: std::io::Error| refused("CreateContainerError")(format!("pod sandbox: {e}"));
        let spec = with_facts(&self.node, |facts| {
            kernel::sandbox_spec(&self.pod, &self.network_spec, facts)
        });
        let _one_at_a_time = self.sandbox.lock().await;
        containers.sandbox(&spec).await.map_err(failed)?;
        if !spec.host_network && !self.network.has_kernel() {
            self.network.join_kernel(containers.network(&spec).map_err(failed)?);
        }
        Ok(spec)
    }

    async fn start_wasm(self, module: Module) -> Result<Launched, LaunchError> {
        let env = self.environment().await?;
        let prepared = self.node.runtime.prepare(&module.path, &module.digest).await;
        let kind = prepared.map_err(|e| refused("CreateContainerError")(e.to_string()))?;
        let mounts = self
            .volumes
            .mounts(&self.pod, &self.container, |name| env.get(name).map(String::as_str));
        let mut mounts =
            mounts.map_err(|e| refused("CreateContainerConfigError")(e.to_string()))?;
        let termination = self.termination(kind)?;
        mounts.extend(termination.clone());
        let meta = &self.pod.metadata;
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let (namespace, name, uid) = (text(&meta.namespace), text(&meta.name), text(&meta.uid));
        let container = &self.container;
        let log = self.node.logs.begin(&namespace, &name, &uid, &container.name, self.run);
        let log = log.map_err(|e| refused("CreateContainerError")(format!("no log: {e}")))?;
        let config = &self.image.config;
        let image = container.image.as_deref().unwrap_or_default();
        let tcp = container.ports.iter().flatten();
        let tcp = tcp.filter(|p| p.protocol.as_deref().unwrap_or("TCP") == "TCP");
        let container_id = format!("wasm://{}", run_id(&self.pod, &container.name, self.run));
        let spec = WorkloadSpec {
            label: format!("{namespace}/{name}/{}", container.name),
            artifact: module.path,
            digest: module.digest,
            args: arguments(container, &program(image), (&config.entrypoint, &config.cmd), &env),
            env: env.into_iter().collect(),
            working_dir: container.working_dir.clone().or_else(|| config.working_dir.clone()),
            mounts,
            limits: Limits {
                memory_bytes_max: limit(container, "memory"),
                cpu_millis_max: limit(container, "cpu"),
            },
            http_ports: tcp.filter_map(|p| u16::try_from(p.container_port).ok()).collect(),
            network: Arc::clone(&self.network),
            logs: Arc::clone(&log) as _,
            stdio: StdioSpec {
                stdin: container.stdin == Some(true),
                stdin_once: container.stdin_once == Some(true),
                tty: container.tty == Some(true),
            },
        };
        match self.node.runtime.start(spec).await {
            Ok(workload) => {
                let termination = termination.map(|mount| mount.host);
                Ok(Launched { workload, container_id, log, termination })
            }
            Err(StartError::Instantiate { code, oom, message }) => {
                log.finish();
                Err(LaunchError::Ended { code, oom, message, container_id })
            }
            Err(StartError::Prepare(error)) => {
                Err(refused("CreateContainerError")(error.to_string()))
            }
            Err(error) => Err(refused("RunContainerError")(error.to_string())),
        }
    }
}

/// What the pod calls itself.
pub fn hostname(pod: &Pod) -> String {
    let spec = pod.spec.as_ref();
    let named = spec.and_then(|s| s.hostname_override.clone().or_else(|| s.hostname.clone()));
    let name = named.filter(|n| !n.is_empty()).or_else(|| pod.metadata.name.clone());
    let mut name = name.unwrap_or_default();
    name.truncate(63);
    name.trim_end_matches(['-', '.']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_called_as_its_image() {
        let table = [
            ("file:/tmp/hello-http.wasm", "hello-http"),
            ("coracle.dev/samples/batch:v1", "batch"),
            ("oci:/images/layout:tag", "layout"),
            ("registry:5000/team/app@sha256:ab", "app"),
        ];
        for (image, name) in table {
            assert_eq!(program(image), name, "{image}");
        }
    }

    #[test]
    fn a_long_name_is_cut_for_the_hostname() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": format!("{}-x", "a".repeat(62))}
        }))
        .expect("a pod");
        assert_eq!(hostname(&pod), "a".repeat(62));
    }
}
