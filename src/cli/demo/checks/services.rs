//! What goes through Services: http, names, TCP, UDP, and the counting of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use anyhow::{Context, bail, ensure};

use super::{Checked, Ground, ask, until};
use crate::cli::top::facts::PodState;

pub const HELLO: u16 = 30080;
const GREETER: u16 = 30081;
pub const COUNTER: u16 = 30700;
const ECHO: u16 = 30707;

/// The pod that `Hello from POD` names.
pub fn who(answer: &str) -> Option<&str> {
    answer.split("Hello from ").nth(1)?.split(',').next()?.split_whitespace().next()
}

/// The node of every pod of an app that serves.
async fn nodes_of(ground: &Ground, app: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let pods = ground.pods(app).await?;
    let ready = pods.into_iter().filter(|pod| pod.state == PodState::Ready);
    Ok(ready.filter_map(|pod| Some((pod.key.name, pod.node?))).collect())
}

/// Through the NodePort of each worker, answers come from pods on every worker.
pub async fn http_reaches_all_workers(ground: &Ground) -> Checked {
    const EACH: usize = 12;
    let addresses = ground.addresses();
    let list: Vec<String> =
        addresses.iter().map(|(_, ip)| format!("http://{ip}:{HELLO}/")).collect();
    ground.asks(format!("GET {}, {EACH} times each", list.join(" and ")));
    let places = nodes_of(ground, "hello-http").await?;
    let mut told = Vec::new();
    for (worker, ip) in &addresses {
        let mut nodes = BTreeSet::new();
        let mut pods = BTreeSet::new();
        for _ in 0..EACH {
            let answer = ask::page(SocketAddr::new(*ip, HELLO), "/").await?;
            let pod = who(&answer).with_context(|| format!("not a greeting: {answer}"))?;
            let node = places.get(pod).with_context(|| format!("{pod} is no ready pod"))?;
            nodes.insert(node.clone());
            pods.insert(pod.to_owned());
        }
        ensure!(pods.len() == places.len(), "at {worker} only {pods:?} of {places:?} answered");
        // With more workers than pods, some worker has none.
        let most = addresses.len().min(places.len());
        ensure!(nodes.len() == most, "at {worker} only pods on {nodes:?} answered");
        told.push(format!("{} pods on {} workers at {worker}", pods.len(), nodes.len()));
    }
    Ok(told.join(", "))
}

pub async fn environment_is_set(ground: &Ground) -> Checked {
    let address = SocketAddr::new(ground.addresses()[0].1, HELLO);
    ground.asks(format!("GET http://{address}/env"));
    let text = ask::page(address, "/env").await?;
    let variables: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.split_once('=')).collect();
    let get = |name: &str| variables.get(name).copied().with_context(|| format!("no {name}"));
    let (greeting, pod, node) = (get("GREETING")?, get("POD_NAME")?, get("NODE_NAME")?);
    ensure!(greeting == "ahoy", "GREETING is {greeting}");
    let places = nodes_of(ground, "hello-http").await?;
    ensure!(places.get(pod).map(String::as_str) == Some(node), "{pod} is not on {node}");
    // Services that were there before the pod are in its environment too.
    let api = get("KUBERNETES_SERVICE_HOST")?;
    Ok(format!("GREETING={greeting} POD_NAME={pod} KUBERNETES_SERVICE_HOST={api}"))
}

/// greeter asks hello-http by name; some answers come from a pod on another worker than its own.
pub async fn names_lead_anywhere(ground: &Ground) -> Checked {
    const TIMES: usize = 20;
    let address = SocketAddr::new(ground.addresses()[0].1, GREETER);
    ground.asks(format!("GET http://{address}/ahoy, {TIMES} times"));
    let greeters = nodes_of(ground, "greeter").await?;
    let hellos = nodes_of(ground, "hello-http").await?;
    let (mut near, mut far, mut example) = (0, 0, String::new());
    for _ in 0..TIMES {
        let answer = ask::page(address, "/ahoy").await?;
        let (greeter, _) = answer.split_once(" was told: ").context("not a greeter")?;
        let hello = who(&answer).with_context(|| format!("no greeting: {answer}"))?;
        let place = |places: &BTreeMap<String, String>, pod: &str| {
            places.get(pod).cloned().with_context(|| format!("{pod} is no ready pod"))
        };
        if place(&greeters, greeter)? == place(&hellos, hello)? {
            near += 1;
        } else {
            far += 1;
            example = answer;
        }
    }
    ensure!(far > 0, "all {near} answers came from the greeter's own worker");
    Ok(format!("{near} answers from the same worker, {far} from another one: {example}"))
}

pub async fn counter_counts(ground: &Ground) -> Checked {
    let addresses = ground.addresses();
    let (first, last) = (addresses[0].1, addresses[addresses.len() - 1].1);
    let (first, last) = (SocketAddr::new(first, COUNTER), SocketAddr::new(last, COUNTER));
    ground.asks(format!("incr, incr 41 at tcp {first}; get at tcp {last}"));
    let before = number(&ask::tcp(first, &["get"]).await?)?;
    let after = number(&ask::tcp(first, &["incr", "incr 41"]).await?)?;
    let elsewhere = number(&ask::tcp(last, &["get"]).await?)?;
    ensure!(after == before + 42, "{before} became {after}");
    ensure!(elsewhere == after, "{after} here, {elsewhere} at {last}");
    Ok(format!("from {before} to {after} at both"))
}

/// The last line as a number.
pub fn number(lines: &[String]) -> anyhow::Result<i64> {
    let last = lines.last().context("no answer")?;
    last.parse().with_context(|| format!("not a number: {last}"))
}

pub async fn datagrams_come_back(ground: &Ground) -> Checked {
    let mut told = Vec::new();
    for (_, ip) in ground.addresses() {
        let address = SocketAddr::new(ip, ECHO);
        let data = format!("over the water to {address}");
        ground.asks(format!("a datagram to udp {address}"));
        let mut tries = 0;
        // Datagrams may be lost: the network promises no more.
        let back = loop {
            tries += 1;
            match ask::udp(address, data.as_bytes()).await {
                Ok(back) => break back,
                Err(error) if tries == 2 => return Err(error),
                Err(_) => {}
            }
        };
        ensure!(back == data.as_bytes(), "{:?}", String::from_utf8_lossy(&back));
        told.push(format!("{data:?}"));
    }
    Ok(told.join(", "))
}

/// The nodes' counters, read through the API server, grow by what is asked.
pub async fn requests_are_counted(ground: &Ground) -> Checked {
    const TIMES: u64 = 10;
    let address = SocketAddr::new(ground.addresses()[0].1, HELLO);
    ground.asks(format!("GET http://{address}/ {TIMES} times, and nodes/NAME/proxy/metrics"));
    let before = calls(ground).await?;
    for _ in 0..TIMES {
        ask::page(address, "/").await?;
    }
    let grown = until(|| async {
        let grown = calls(ground).await?.saturating_sub(before);
        Ok((grown >= TIMES).then_some(grown))
    })
    .await?;
    // Nobody else calls this Service.
    ensure!(grown == TIMES, "{grown} were counted");
    Ok(format!("hello-http-public has {grown} calls more"))
}

async fn calls(ground: &Ground) -> anyhow::Result<u64> {
    const LINE: &str = "coracle_service_calls_total{namespace=\"default\",\
        service=\"hello-http-public\"} ";
    let mut sum = 0;
    for (worker, _) in ground.addresses() {
        let request = http::Request::get(format!("/api/v1/nodes/{worker}/proxy/metrics"));
        let text = ground.client.request_text(request.body(Vec::new())?).await?;
        let Some(count) = text.lines().find_map(|line| line.strip_prefix(LINE)) else {
            bail!("{worker} does not count hello-http-public");
        };
        sum += count.trim().parse::<u64>()?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answering_pod_is_read_from_the_greeting() {
        assert_eq!(who("Hello from web-1\n"), Some("web-1"));
        assert_eq!(who("g was told: Hello from web-1, you asked for /x\n"), Some("web-1"));
        assert_eq!(who("nothing"), None);
    }
}
