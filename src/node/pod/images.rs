//! Getting the image of a container: what the kubelet tells about it, in its words, and the secrets
//! that open registries.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ImageVolumeSource, Pod};

use super::env::Lookup;
use super::launch::pull_policy;
use super::state::Note;
use super::volumes::Volumes;
use crate::image::{
    ImageError, Keyring, Prefer, Problem, PullPolicy, PullRequest, PulledImage, Tree,
};
use crate::node::agent::Node;
use crate::node::sources::{Kind, Reference};

/// A pull that takes longer tells how far it is, this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(15);

/// The names of a pod's pull secrets.
pub fn pull_secrets(pod: &Pod) -> BTreeSet<Reference> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let named = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    named
        .filter(|secret| !secret.name.is_empty())
        .map(|secret| Reference {
            kind: Kind::Secret,
            namespace: namespace.clone(),
            name: secret.name.clone(),
        })
        .collect()
}

/// One pull for a container.
pub struct Pull {
    node: Arc<Node>,
    secrets: BTreeSet<Reference>,
    request: PullRequest,
}

fn note(warning: bool, reason: &'static str, message: String) -> Note {
    Note { warning, reason, message, container: None }
}

/// As Go writes a duration that was cut to milliseconds: `850ms`, `1.2s`, `1m2.5s`.
fn go_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    if ms < 1000 {
        return if ms == 0 { "0s".to_owned() } else { format!("{ms}ms") };
    }
    let (hours, minutes, rest) = (ms / 3_600_000, ms / 60_000 % 60, ms % 60_000);
    let mut seconds = format!("{}.{:03}", rest / 1000, rest % 1000);
    seconds.truncate(seconds.trim_end_matches('0').trim_end_matches('.').len());
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

fn pulled_message(image: &str, took: &str, size: u64) -> String {
    format!(
        "Successfully pulled image \"{image}\" in {took} ({took} including waiting). Image size: {size} bytes."
    )
}

/// Gets the files of all image volumes of a pod.
///
/// # Errors
/// Which volume cannot be mounted, and why.
pub async fn mount(
    node: &Arc<Node>,
    pod: &Pod,
    volumes: &Volumes,
    say: &impl Fn(Note),
) -> Result<(), String> {
    let all = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    for volume in all {
        let Some(source) = volume.image.as_ref().filter(|_| !volumes.has_image(&volume.name))
        else {
            continue;
        };
        let tree = Pull::for_volume(node, pod, source).files(say).await.map_err(|error| {
            format!("MountVolume.SetUp failed for volume \"{}\" : {error}", volume.name)
        })?;
        volumes.set_image(&volume.name, tree);
    }
    Ok(())
}

impl Pull {
    pub fn new(node: &Arc<Node>, pod: &Pod, container: &Container) -> Self {
        let image = container.image.clone().unwrap_or_default();
        let class = pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_deref());
        let prefer = if class == Some("runc") { Prefer::Linux } else { Prefer::Wasm };
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let request =
            PullRequest { prefer, namespace, ..PullRequest::new(image, pull_policy(container)) };
        Self { node: Arc::clone(node), secrets: pull_secrets(pod), request }
    }

    /// A pull for an image volume.
    fn for_volume(node: &Arc<Node>, pod: &Pod, source: &ImageVolumeSource) -> Self {
        let image = source.reference.clone().unwrap_or_default();
        let policy = match source.pull_policy.as_deref() {
            Some("Always") => PullPolicy::Always,
            Some("Never") => PullPolicy::Never,
            Some(_) => PullPolicy::IfNotPresent,
            None if image.ends_with(":latest") || !image.contains([':', '@']) => PullPolicy::Always,
            None => PullPolicy::IfNotPresent,
        };
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let request = PullRequest { namespace, ..PullRequest::new(image, policy) };
        Self { node: Arc::clone(node), secrets: pull_secrets(pod), request }
    }

    /// Gets the files of the image.
    async fn files(mut self, say: &impl Fn(Note)) -> Result<Tree, ImageError> {
        let image = self.request.reference.clone();
        if self.node.images.has_files(&self.request)? {
            let message = format!("Container image \"{image}\" already present on machine");
            say(note(false, "Pulled", message));
            return self.node.images.files(&self.request).await;
        }
        say(note(false, "Pulling", format!("Pulling image \"{image}\"")));
        self.request.keyring = self.keyring(say).await;
        let began = self.node.clock.monotonic();
        let tree = match self.node.images.files(&self.request).await {
            Ok(tree) => tree,
            Err(error) => {
                say(note(true, "Failed", error.to_string()));
                return Err(error);
            }
        };
        let took = go_duration(self.node.clock.monotonic().saturating_sub(began));
        say(note(false, "Pulled", pulled_message(&image, &took, tree.size)));
        Ok(tree)
    }

    /// Gets the image; `say` tells events.
    ///
    /// # Errors
    /// See [`ImageError`].
    pub async fn run(mut self, say: impl Fn(Note)) -> Result<PulledImage, ImageError> {
        let image = self.request.reference.clone();
        if let Some(found) = self.node.images.look(&self.request).await? {
            let message = format!("Container image \"{image}\" already present on machine");
            say(note(false, "Pulled", message));
            return Ok(found);
        }
        say(note(false, "Pulling", format!("Pulling image \"{image}\"")));
        self.request.keyring = self.keyring(&say).await;
        let began = self.node.clock.monotonic();
        let pulled = {
            let pull = self.node.images.pull(&self.request);
            tokio::pin!(pull);
            let mut ticks = tokio::time::interval(PROGRESS_EVERY);
            ticks.tick().await;
            loop {
                tokio::select! {
                    pulled = &mut pull => break pulled,
                    _ = ticks.tick() => {
                        if let Some((done, total)) = self.node.images.progress(&image) {
                            let message = format!("Pulling image \"{image}\": {done} of {total} bytes are here");
                            say(note(false, "Pulling", message));
                        }
                    }
                }
            }
        };
        let pulled = match pulled {
            Ok(pulled) => pulled,
            Err(error) => return self.kept(error, &say).await,
        };
        let took = go_duration(self.node.clock.monotonic().saturating_sub(began));
        say(note(false, "Pulled", pulled_message(&image, &took, pulled.size)));
        Ok(pulled)
    }

    /// A node that is cut off runs what it has, also where the policy is to look for something newer
    /// (decision 0008): after a reboot its pods come back.
    async fn kept(self, error: ImageError, say: &impl Fn(Note)) -> Result<PulledImage, ImageError> {
        let cut_off = matches!(&error, ImageError::Pull { problem: Problem::Unreachable(_), .. });
        if !cut_off || self.request.policy != PullPolicy::Always {
            return Err(error);
        }
        let request = PullRequest { policy: PullPolicy::IfNotPresent, ..self.request };
        match self.node.images.look(&request).await {
            Ok(Some(found)) => {
                let image = &request.reference;
                say(note(true, "Failed", error.to_string()));
                say(note(
                    false,
                    "Pulled",
                    format!(
                        "Container image \"{image}\" already present on machine; no registry answers that could have a newer one"
                    ),
                ));
                Ok(found)
            }
            _ => Err(error),
        }
    }

    /// What the pull secrets hold. One that is missing or of no use is told, and the pull goes on:
    /// it may succeed without.
    async fn keyring(&self, say: &impl Fn(Note)) -> Keyring {
        let mut keyring = Keyring::default();
        if self.secrets.is_empty() {
            return keyring;
        }
        let found = match self.node.sources.find(&self.secrets).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "pull secrets could not be read");
                crate::node::sources::Found::default()
            }
        };
        let mut missing = Vec::new();
        for secret in &self.secrets {
            let Some(data) = found.secret(&secret.name) else {
                missing.push(secret.name.as_str());
                continue;
            };
            let read = match (data.get(".dockerconfigjson"), data.get(".dockercfg")) {
                (Some(bytes), _) => keyring.add_docker_config(bytes),
                (None, Some(bytes)) => keyring.add_docker_cfg(bytes),
                (None, None) => Err("it has neither .dockerconfigjson nor .dockercfg".to_owned()),
            };
            if let Err(why) = read {
                let message = format!(
                    "The image pull secret \"{}\" cannot be used: {why}; attempting to pull the image may not succeed.",
                    secret.name
                );
                say(note(true, "InvalidImagePullSecret", message));
            }
        }
        if !missing.is_empty() {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            say(note(true, "FailedToRetrieveImagePullSecret", message));
        }
        keyring
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (ms, expected) in [
            (0, "0s"),
            (7, "7ms"),
            (1000, "1s"),
            (1230, "1.23s"),
            (62_500, "1m2.5s"),
            (120_000, "2m0s"),
            (3_660_001, "1h1m0.001s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(ms)), expected);
        }
    }
}
