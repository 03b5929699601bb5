//! Taking up the containers of a pod that ran on while there was no agent.

use std::sync::Arc;

use super::effects;
use super::kernel;
use super::launch::{Launched, with_facts};
use super::state::{Event, Life, OUTLIVES, Terminated};
use super::worker::Worker;
use crate::net::Namespace;
use crate::runtime::Workload;

/// Looks after every container that ran when the last agent ended: it runs still, or has ended
/// meanwhile and says how, or is gone.
pub(super) async fn containers(worker: &mut Worker) {
    let states = worker.state.containers.iter().enumerate();
    let running: Vec<(usize, u32, String)> = states
        .filter_map(|(i, state)| match &state.life {
            Life::Running(running) => {
                let id = running.container_id.strip_prefix(OUTLIVES)?;
                Some((i, state.run, id.to_owned()))
            }
            _ => None,
        })
        .collect();
    let Some(containers) = worker.node.containers.clone() else {
        for (container, run, id) in running {
            lose(worker, container, run, id);
        }
        return;
    };
    let uid = worker.plan.uid.clone();
    let kept: Vec<&str> = running.iter().map(|(_, _, id)| id.as_str()).collect();
    containers.remove_others(&uid, &kept).await;
    for (index, run, id) in running {
        let Some(spec) = worker.container(index) else { continue };
        match containers.recover(&uid, &id).await {
            Some(found) => {
                let launched = launched(worker, &spec.name, run, &id, Workload::from(found));
                match launched {
                    Ok(launched) => {
                        effects::started(worker, index, run, &spec, launched);
                        worker.soon(Event::Recovered { container: index, run });
                    }
                    Err(error) => {
                        tracing::error!(%error, "a container that runs cannot be taken up");
                        lose(worker, index, run, id);
                    }
                }
            }
            None => lose(worker, index, run, id),
        }
    }
}

fn launched(
    worker: &Worker,
    name: &str,
    run: u32,
    id: &str,
    workload: Workload,
) -> std::io::Result<Launched> {
    let plan = &worker.plan;
    let logs = &worker.node.logs;
    let log = logs.begin(&plan.namespace, &plan.name, &plan.uid, name, run)?;
    let order = logs.order(&plan.namespace, &plan.name, &plan.uid, name, run);
    logs.watch(&log, &order);
    Ok(Launched {
        workload,
        container_id: format!("{OUTLIVES}{id}"),
        log,
        termination: Some(worker.volumes.termination_path(name, run)),
    })
}

fn lose(worker: &Worker, container: usize, run: u32, id: String) {
    let exit = Terminated {
        code: 137,
        reason: "Error".to_owned(),
        message: "The container could not be located when the agent was started".to_owned(),
        started_at: worker.state.containers[container].running().map(|r| r.started_at),
        finished_at: worker.now().wall,
        container_id: Some(format!("{OUTLIVES}{id}")),
    };
    worker.soon(Event::Exited { container, run, exit });
}

/// Joins a pod's new virtual namespace to the kernel's that an earlier agent made.
pub(super) fn network(worker: &Worker, namespace: &Arc<Namespace>) {
    let Some(containers) = &worker.node.containers else { return };
    if !containers.has_sandbox(&worker.plan.uid) {
        return;
    }
    let spec = with_facts(&worker.node, |facts| {
        kernel::sandbox_spec(&worker.pod, namespace.spec(), facts)
    });
    // One that is not whole is made anew by the first container.
    if spec.host_network || !containers.is_whole(&spec) {
        return;
    }
    match containers.network(&spec) {
        Ok(kernel) => namespace.join_kernel(kernel),
        Err(error) => {
            tracing::error!(pod = worker.plan.name, %error, "the network of a pod's containers cannot be taken up");
        }
    }
}
