//! What is asked of the API itself.

use anyhow::{Context, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Node;
use kube::api::{ListParams, LogParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use serde_json::json;
use std::net::SocketAddr;

use super::services::{HELLO, who};
use super::{Checked, Ground, ask, until};
use crate::cli::top::facts::{NodeFacts, NodeState, PodState};
use crate::client::rest;

/// Without a certificate: 401. As a ServiceAccount would be without rights: 403.
pub async fn strangers_are_refused(ground: &Ground) -> Checked {
    ground.asks(format!("GET {}/api/v1/nodes without a certificate", ground.cluster.url()));
    let file = Kubeconfig::read_from(ground.cluster.kubeconfig())?;
    let mut config =
        kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    config.auth_info = kube::config::AuthInfo::default();
    let stranger = Client::try_from(config)?;
    let answer = rest::get::<serde_json::Value>(&stranger, "/api/v1/nodes").await;
    match answer {
        Ok(_) => anyhow::bail!("the nodes, for anyone"),
        Err(kube::Error::Api(status)) => {
            ensure!(matches!(status.code, 401 | 403), "{} {}", status.code, status.message);
            Ok(format!("{} {}", status.code, status.message))
        }
        Err(error) => Err(error.into()),
    }
}

pub async fn nodes_are_ready(ground: &Ground) -> Checked {
    ground.asks("GET /api/v1/nodes");
    let nodes: Api<Node> = Api::all(ground.client.clone());
    let list = nodes.list(&ListParams::default()).await?;
    let facts: Vec<NodeFacts> = list.iter().map(NodeFacts::of).collect();
    let mut told = Vec::new();
    for (worker, _) in ground.addresses() {
        let node = facts.iter().find(|node| node.name == worker);
        let node = node.with_context(|| format!("no node {worker}"))?;
        ensure!(node.state == NodeState::Ready, "{worker} is {:?}", node.state);
        told.push(format!("{worker} Ready"));
    }
    Ok(told.join(", "))
}

/// What the counter wrote when it started, through `pods/log`.
pub async fn logs_are_read(ground: &Ground) -> Checked {
    let pod = ground.pods("counter-tcp").await?.into_iter().next().context("no counter")?;
    ground.asks(format!("GET pods/{}/log?tailLines=1", pod.key.name));
    let params = LogParams { tail_lines: Some(1), ..LogParams::default() };
    let text = ground.pods_api().logs(&pod.key.name, &params).await?;
    ensure!(text.starts_with("listening on 7000"), "{text:?}");
    Ok(text)
}

/// Sets the replicas of hello-http, and waits until as many serve; their names.
pub async fn scale(ground: &Ground, replicas: usize) -> anyhow::Result<Vec<String>> {
    let path = rest::object::<Deployment>("default", "hello-http");
    let body = json!({"spec": {"replicas": replicas}});
    let scale = format!("{path}/scale");
    rest::patch::<rest::Ignored>(&ground.client, &scale, rest::Patch::Merge, &body).await?;
    until(|| async {
        let pods = ground.pods("hello-http").await?;
        let mut ready: Vec<String> = pods
            .iter()
            .filter(|pod| pod.state == PodState::Ready)
            .map(|pod| pod.key.name.clone())
            .collect();
        ready.sort();
        Ok((ready.len() == replicas && pods.len() == replicas).then_some(ready))
    })
    .await
}

pub async fn scaling_adds_pods(ground: &Ground) -> Checked {
    ground.asks("replicas of hello-http from 3 to 6, then GET until each of them has answered");
    let since = std::time::Instant::now();
    let ready = scale(ground, 6).await?;
    let took = since.elapsed().as_millis();
    let address = SocketAddr::new(ground.addresses()[0].1, HELLO);
    let mut silent: Vec<&str> = ready.iter().map(String::as_str).collect();
    let mut requests = 0;
    while !silent.is_empty() {
        let answer = ask::page(address, "/").await?;
        let pod = who(&answer).with_context(|| format!("not a greeting: {answer}"))?;
        silent.retain(|name| *name != pod);
        requests += 1;
    }
    Ok(format!("6 pods Ready after {took} ms, all had answered after {requests} requests"))
}
