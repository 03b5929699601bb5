//! The TTL controller's loop.

use k8s_openapi::api::batch::v1::Job;

use super::plan;
use crate::client::meta::Key;
use crate::client::rest;
use crate::client::workqueue::{Outcome, WorkQueue};
use crate::controllers::context::{Context, quiet_conflict};

const WORKERS: usize = 2;

/// Runs until the context's shutdown.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new(context.seed("ttl after finished"));
    let to = queue.clone();
    let clock = context.clock.clone();
    context.informers.jobs.on_change(move |change| {
        if change.new.is_some_and(|job| plan::left(&job.object, clock.now()).is_some()) {
            to.add(change.key.clone());
        }
    });
    let shutdown = context.shutdown.clone();
    let reconcile = move |key: Key| {
        let context = context.clone();
        async move { quiet_conflict(reconcile(&context, &key).await) }
    };
    queue.run("ttl after finished", WORKERS, shutdown, reconcile).await;
}

async fn reconcile(context: &Context, key: &Key) -> Result<Outcome, kube::Error> {
    let Some(job) = context.informers.jobs.get(key) else {
        return Ok(Outcome::done());
    };
    match plan::left(&job.object, context.clock.now()) {
        None => return Ok(Outcome::done()),
        Some(left) if !left.is_zero() => return Ok(Outcome::again_in(left)),
        Some(_) => {}
    }
    // The time may have been changed meanwhile: what is deleted is what was looked at.
    let path = rest::object::<Job>(&key.namespace, &key.name);
    let live = rest::found(rest::get::<Job>(&context.client, &path).await)?;
    let Some(live) = live.filter(|live| live.metadata.uid == job.object.metadata.uid) else {
        return Ok(Outcome::done());
    };
    match plan::left(&live, context.clock.now()) {
        None => return Ok(Outcome::done()),
        Some(left) if !left.is_zero() => return Ok(Outcome::again_in(left)),
        Some(_) => {}
    }
    let options = rest::Delete {
        uid: live.metadata.uid,
        resource_version: live.metadata.resource_version,
        propagation: Some(rest::Propagation::Foreground),
        grace_period_seconds: None,
    };
    rest::found(rest::delete(&context.client, &path, &options).await)?;
    Ok(Outcome::done())
}
