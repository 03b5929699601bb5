//! The node's Lease, renewed on a thread and a tokio runtime of its own: whatever guests and pods
//! do, the node's heartbeat is not late for it.

use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node as ApiNode;
use serde_json::json;

use super::config::LeaseSettings;
use crate::base::clock::{SharedClock, rfc3339_micros};
use crate::base::shutdown::Shutdown;
use crate::client::rest::{self, Ignored, Patch};

const NAMESPACE: &str = "kube-node-lease";

/// Makes a client on the runtime that it is called in.
pub type ClientSource = Arc<dyn Fn() -> Result<kube::Client, kube::Error> + Send + Sync>;

/// What the heartbeat needs.
pub struct Heartbeat {
    pub node_name: String,
    pub settings: LeaseSettings,
    pub client: ClientSource,
    pub clock: SharedClock,
    pub shutdown: Shutdown,
}

impl Heartbeat {
    /// Starts the thread; it ends with the shutdown.
    ///
    /// # Errors
    /// When the system gives no thread or no runtime.
    pub fn start(self) -> std::io::Result<std::thread::JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new()
            .name("node-lease".to_owned())
            .spawn(move || runtime.block_on(self.run()))
    }

    async fn run(self) {
        let mut client = None;
        loop {
            let mut pause = self.settings.renew_every;
            let result = async {
                if client.is_none() {
                    client = Some((self.client)()?);
                }
                self.renew(client.as_ref().expect("made above")).await
            };
            let within = tokio::time::timeout(self.settings.duration / 2, result);
            match within.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the node's Lease could not be renewed");
                    pause = pause.min(std::time::Duration::from_secs(1));
                }
                Err(_) => {
                    tracing::warn!("the API server did not answer the renewal of the node's Lease");
                    // Perhaps the connection is stuck; a new client has a new one.
                    client = None;
                    pause = std::time::Duration::ZERO;
                }
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn renew(&self, client: &kube::Client) -> Result<(), kube::Error> {
        let spec = json!({
            "holderIdentity": self.node_name,
            "leaseDurationSeconds": self.settings.duration.as_secs(),
            "renewTime": rfc3339_micros(self.clock.now()),
        });
        let path = rest::object::<Lease>(NAMESPACE, &self.node_name);
        let body = json!({"spec": spec});
        match rest::patch::<Ignored>(client, &path, Patch::Merge, &body).await {
            Err(error) if rest::is_not_found(&error) => {}
            other => return other.map(drop),
        }
        let mut metadata = json!({"name": self.node_name, "namespace": NAMESPACE});
        let node = rest::cluster_object::<ApiNode>(&self.node_name);
        if let Some(node) = rest::found(rest::get_partial(client, &node).await)? {
            metadata["ownerReferences"] = json!([{
                "apiVersion": "v1", "kind": "Node",
                "name": self.node_name, "uid": node.metadata.uid,
            }]);
        }
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": metadata, "spec": spec,
        });
        let all = rest::collection::<Lease>(NAMESPACE);
        rest::create::<Ignored>(client, &all, &lease).await.map(drop)
    }
}
