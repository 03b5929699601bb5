//! The certificate controllers' loop.

use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition,
};
use serde_json::json;

use super::plan::{self, Action};
use super::request;
use crate::client::meta::{Key, time};
use crate::client::rest;
use crate::client::workqueue::{Outcome, WorkQueue};
use crate::controllers::context::{Context, quiet_conflict};

const WORKERS: usize = 2;
/// How often requests are looked at for their age.
const SWEEP: Duration = Duration::from_secs(3600);
/// How soon a request that waits for its node is looked at again.
const WAIT: Duration = Duration::from_secs(2);
/// The shortest life of a certificate (`expirationSeconds` below it is refused by validation).
const SHORTEST: u64 = 600;

/// Runs until the context's shutdown.
pub(crate) async fn run(context: Context) {
    let queue: WorkQueue<Key> = WorkQueue::new(context.seed("csr"));
    let to = queue.clone();
    context.informers.requests.on_change(move |change| to.add(change.key.clone()));
    let handed = context.clone();
    let reconcile = move |key: Key| {
        let context = handed.clone();
        async move { quiet_conflict(look_at(&context, &key).await) }
    };
    queue.run("csr", WORKERS, context.shutdown.clone(), reconcile).await;
}

async fn look_at(context: &Context, key: &Key) -> Result<Outcome, kube::Error> {
    let Some(found) = context.informers.requests.get(key) else { return Ok(Outcome::done()) };
    let mut csr = (*found).clone();
    let names = request::parse(&csr.spec.request.0);
    let node =
        |name: &str| context.informers.nodes.get(&Key::new("", name)).map(|node| (*node).clone());
    let path = rest::cluster_object::<CertificateSigningRequest>(&key.name);
    match plan::plan(&csr, &names, node, context.clock.now()) {
        Action::Nothing => return Ok(Outcome::again_in(SWEEP)),
        Action::Wait => return Ok(Outcome::again_in(WAIT)),
        Action::Forget => {
            let options = rest::Delete::uid(csr.metadata.uid.clone().unwrap_or_default());
            rest::found(rest::delete(&context.client, &path, &options).await)?;
        }
        Action::Approve(message) => {
            push(context, &mut csr, "Approved", "AutoApproved", message);
            write(context, &format!("{path}/approval"), &csr).await?;
            tracing::info!(request = %key.name, "approved a certificate request");
        }
        Action::Fail(why) => {
            push(context, &mut csr, "Failed", "SignerValidationFailure", &why);
            write(context, &format!("{path}/status"), &csr).await?;
        }
        Action::Sign => {
            sign(context, &mut csr);
            write(context, &format!("{path}/status"), &csr).await?;
        }
    }
    Ok(Outcome::again_in(SWEEP))
}

/// Writes the request's status to one of its subresources.
async fn write(
    context: &Context,
    path: &str,
    csr: &CertificateSigningRequest,
) -> Result<(), kube::Error> {
    let body = json!({
        "metadata": {"uid": csr.metadata.uid, "resourceVersion": csr.metadata.resource_version},
        "status": csr.status,
    });
    let patched = rest::patch::<rest::Ignored>(&context.client, path, rest::Patch::Merge, &body);
    rest::found(patched.await).map(|_| ())
}

fn push(
    context: &Context,
    csr: &mut CertificateSigningRequest,
    kind: &str,
    reason: &str,
    message: &str,
) {
    let now = time(context.clock.now());
    let status = csr.status.get_or_insert_default();
    status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(now.clone()),
        last_transition_time: Some(now),
    });
}

/// Signs the request into its status, or says there why not.
fn sign(context: &Context, csr: &mut CertificateSigningRequest) {
    let longest = context.config.signing_duration.as_secs();
    let asked = csr.spec.expiration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let seconds = asked.unwrap_or(longest).clamp(SHORTEST.min(longest), longest);
    let pem = String::from_utf8_lossy(&csr.spec.request.0).into_owned();
    let usages = csr.spec.usages.clone().unwrap_or_default();
    match context.config.signer.sign(&pem, &csr.spec.signer_name, &usages, seconds) {
        Ok(certificate) => {
            csr.status.get_or_insert_default().certificate =
                Some(ByteString(certificate.into_bytes()));
        }
        Err(why) => push(context, csr, "Failed", "SigningFailure", &why),
    }
}
