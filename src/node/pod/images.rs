//! Getting the image of a container: what the kubelet tells about it, in its words, and the secrets
//! that open registries.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::env::Lookup;
use super::launch::pull_policy;
use super::state::Note;
use crate::image::{ImageError, Keyring, Prefer, PullRequest, PulledImage};
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

impl Pull {
    pub fn new(node: &Arc<Node>, pod: &Pod, container: &Container) -> Self {
        let image = container.image.clone().unwrap_or_default();
        let class = pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_deref());
        let prefer = if class == Some("runc") { Prefer::Linux } else { Prefer::Wasm };
        let request = PullRequest { prefer, ..PullRequest::new(image, pull_policy(container)) };
        Self { node: Arc::clone(node), secrets: pull_secrets(pod), request }
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
                    pulled = &mut pull => break pulled?,
                    _ = ticks.tick() => {
                        if let Some((done, total)) = self.node.images.progress(&image) {
                            let message = format!("Pulling image \"{image}\": {done} of {total} bytes are here");
                            say(note(false, "Pulling", message));
                        }
                    }
                }
            }
        };
        let took = go_duration(self.node.clock.monotonic().saturating_sub(began));
        say(note(
            false,
            "Pulled",
            format!(
                "Successfully pulled image \"{image}\" in {took} ({took} including waiting). Image size: {} bytes.",
                pulled.size
            ),
        ));
        Ok(pulled)
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
