//! What becomes of pods when their worker is killed with SIGKILL.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use parking_lot::Mutex;

use super::services::{COUNTER, HELLO, number, who};
use super::{Checked, Ground, ask, objects, until};
use crate::base::shutdown::Shutdown;
use crate::cli::top::facts::{NodeFacts, NodeState, PodState};

/// A killed worker's pods run elsewhere within this.
const MOVED_WITHIN: Duration = Duration::from_secs(15);
/// The pause between two requests.
const PAUSE: Duration = Duration::from_millis(10);
/// How long requests go on when the pods have moved.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// The apps whose pods must all be there again, and how many of each.
const APPS: [(&str, usize); 4] =
    [("hello-http", 6), ("greeter", 2), ("counter-tcp", 1), ("udp-echo", 1)];

/// Killed and started again at once: the pods are the same ones, their containers ended with 137
/// and were started again, and what lay in their volumes is still there.
pub async fn restarts_truly(ground: &Ground) -> Checked {
    let pod = ground.pods("counter-tcp").await?.into_iter().next().context("no counter")?;
    let worker = pod.node.clone().context("the counter is on no node")?;
    let restarts = pod.restarts;
    let (_, address) = other_than(ground, &worker)?;
    let address = SocketAddr::new(address, COUNTER);
    ground.asks(format!("SIGKILL to {worker}, its restart, then get at tcp {address}"));
    let before = number(&ask::tcp(address, &["incr 100"]).await?)?;
    ground.cluster.kill_worker(&worker).await?;
    ground.cluster.start_worker(&worker)?;
    let ended = until(|| async {
        let pod = ground.pods_api().get(&pod.key.name).await?;
        let statuses = pod.status.and_then(|s| s.container_statuses).unwrap_or_default();
        let again = statuses.into_iter().find(|s| s.restart_count == restarts + 1);
        let Some(status) = again else { return Ok(None) };
        let ended = status.last_state.and_then(|state| state.terminated);
        Ok(status.ready.then_some(ended).flatten())
    })
    .await?;
    ensure!(ended.exit_code == 137, "the container ended with {}", ended.exit_code);
    let after = until(|| async { Ok(ask::tcp(address, &["get"]).await.ok()) }).await?;
    let after = number(&after)?;
    ensure!(after == before, "the count was {before} and is {after}");
    // The others on that worker are back as well before the next check begins.
    until(|| all_serve(ground, None)).await?;
    Ok(format!("exit code 137, 1 restart, the count is still {after}"))
}

/// A worker that is not `name`.
fn other_than(ground: &Ground, name: &str) -> anyhow::Result<(String, IpAddr)> {
    let others = ground.addresses().into_iter().find(|(worker, _)| worker != name);
    others.context("there is no other worker")
}

/// Whether as many pods as asked for serve, and none of them on `dead`.
async fn all_serve(ground: &Ground, dead: Option<&str>) -> anyhow::Result<Option<()>> {
    for (app, wanted) in APPS {
        let pods = ground.pods(app).await?;
        let serving = pods
            .iter()
            .filter(|pod| pod.state == PodState::Ready && pod.node.as_deref() != dead)
            .count();
        if serving != wanted {
            return Ok(None);
        }
    }
    Ok(Some(()))
}

/// One request of the stream that runs while a worker dies.
#[derive(Debug)]
struct Sent {
    at: Instant,
    failed: Option<String>,
}

/// Requests through the Service, one after the other, until `stop`.
async fn stream(address: SocketAddr, sent: Arc<Mutex<Vec<Sent>>>, stop: Shutdown) {
    while !stop.is_cancelled() {
        let at = Instant::now();
        let failed = match ask::page(address, "/").await {
            Ok(answer) if who(&answer).is_some() => None,
            Ok(answer) => Some(format!("not a greeting: {answer}")),
            Err(error) => Some(format!("{error:#}")),
        };
        sent.lock().push(Sent { at, failed });
        tokio::time::sleep(PAUSE).await;
    }
}

async fn node_state(ground: &Ground, name: &str) -> anyhow::Result<NodeState> {
    let nodes: Api<Node> = Api::all(ground.client.clone());
    Ok(NodeFacts::of(&nodes.get(name).await?).state)
}

pub async fn pods_move(ground: &Ground) -> Checked {
    let pods = ground.pods("hello-http").await?;
    let victim = pods.iter().filter_map(|pod| pod.node.clone()).max().context("no pods")?;
    let moving = pods.iter().filter(|pod| pod.node.as_ref() == Some(&victim)).count();
    let (survivor, address) = other_than(ground, &victim)?;
    let address = SocketAddr::new(address, HELLO);
    ground.asks(format!("SIGKILL to {victim}, GET http://{address}/ again and again"));

    let sent = Arc::new(Mutex::new(Vec::new()));
    let stop = Shutdown::new();
    let streaming = tokio::spawn(stream(address, Arc::clone(&sent), stop.clone()));
    let watched = watch_move(ground, &victim).await;
    tokio::time::sleep(AFTERWARDS).await;
    stop.cancel();
    streaming.await?;
    let Moved { down_after, down_at, moved_after } = watched?;

    let sent = std::mem::take(&mut *sent.lock());
    let before = sent.iter().filter(|s| s.failed.is_some() && s.at < down_at).count();
    let after: Vec<&Sent> = sent.iter().filter(|s| s.at >= down_at).collect();
    let failures: Vec<&str> = after.iter().filter_map(|s| s.failed.as_deref()).collect();
    ensure!(
        failures.is_empty(),
        "{} of {} requests failed after it was marked down, first: {}",
        failures.len(),
        after.len(),
        failures[0]
    );
    ensure!(moved_after <= MOVED_WITHIN, "they moved only after {moved_after:?}");
    Ok(format!(
        "marked down after {:.1} s, all pods ({moving} of hello-http moved to {survivor} or beyond) \
         serve after {:.1} s; {} requests since, 0 failed ({before} of {} before)",
        down_after.as_secs_f64(),
        moved_after.as_secs_f64(),
        after.len(),
        sent.len() - after.len(),
    ))
}

/// When what happened.
struct Moved {
    down_after: Duration,
    down_at: Instant,
    moved_after: Duration,
}

async fn watch_move(ground: &Ground, victim: &str) -> anyhow::Result<Moved> {
    let killed = Instant::now();
    ground.cluster.kill_worker(victim).await?;
    while node_state(ground, victim).await? == NodeState::Ready {
        tokio::time::sleep(PAUSE).await;
    }
    let down_at = Instant::now();
    until(|| all_serve(ground, Some(victim))).await?;
    let moved_after = killed.elapsed();
    Ok(Moved { down_after: down_at - killed, down_at, moved_after })
}

/// The worker that was killed is started again: it is Ready, and gets and serves pods.
pub async fn worker_returns(ground: &Ground) -> Checked {
    let mut dead = None;
    for (worker, address) in ground.addresses() {
        if node_state(ground, &worker).await? != NodeState::Ready {
            dead = Some((worker, address));
        }
    }
    let (worker, address) = dead.context("no worker is down")?;
    ground.asks(format!("the start of {worker}, 8 replicas, GET http://{address}:{HELLO}/"));
    let since = Instant::now();
    ground.cluster.start_worker(&worker)?;
    until(|| async { Ok((node_state(ground, &worker).await? == NodeState::Ready).then_some(())) })
        .await?;
    let ready = since.elapsed();
    // Its old pods were deleted while it was away: they end now that it hears of it.
    objects::scale(ground, 8).await?;
    let pods = ground.pods("hello-http").await?;
    let there = pods.iter().filter(|pod| pod.node.as_ref() == Some(&worker)).count();
    ensure!(there > 0, "none of the new pods is on {worker}");
    let answer = ask::page(SocketAddr::new(address, HELLO), "/").await?;
    Ok(format!("Ready after {:.1} s, {there} new pods on it, {answer}", ready.as_secs_f64()))
}
