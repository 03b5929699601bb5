//! A small cluster for the tests of the view: one worker well, one just lost.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::facts::{
    DeploymentFacts, EventFacts, NodeFacts, NodeState, PodFacts, PodState, ServiceFacts, SliceFacts,
};
use super::model::{Observed, Picture};
use super::rates::Rate;
use crate::client::Key;

fn key(name: &str) -> Key {
    Key::new("default", name)
}

fn node(n: u8, state: NodeState) -> NodeFacts {
    NodeFacts {
        name: format!("demo-worker-{n}"),
        state,
        cordoned: false,
        address: format!("127.0.0.{n}"),
    }
}

fn pod(name: &str, node: u8, state: PodState, word: &str) -> PodFacts {
    let mut parts: Vec<&str> = name.split('-').collect();
    let deployment = (parts.len() > 2).then(|| {
        parts.truncate(parts.len() - 2);
        key(&parts.join("-"))
    });
    PodFacts {
        key: key(name),
        node: (node > 0).then(|| format!("demo-worker-{node}")),
        state,
        word: word.to_owned(),
        restarts: 0,
        deployment,
        container: "main".to_owned(),
        ip: String::new(),
    }
}

fn deployment(name: &str, ready: i32, wanted: i32) -> DeploymentFacts {
    DeploymentFacts { key: key(name), wanted, ready }
}

fn service(name: &str, ports: &str) -> ServiceFacts {
    ServiceFacts {
        key: key(name),
        cluster_ip: "10.43.0.7".to_owned(),
        ports: vec![ports.to_owned()],
    }
}

fn event(seconds: i64, warning: bool, reason: &str, about: &str, message: &str) -> EventFacts {
    EventFacts {
        at: at(-seconds),
        warning,
        reason: reason.to_owned(),
        about: about.to_owned(),
        message: message.to_owned(),
        count: 1,
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).expect("a timestamp")
}

pub fn observed() -> Observed {
    let mut restarted = pod("counter-tcp-6c8-hh7", 1, PodState::NotReady, "Running");
    restarted.restarts = 2;
    Observed {
        now: at(0),
        nodes: vec![node(2, NodeState::Unknown), node(1, NodeState::Ready)],
        pods: vec![
            pod("hello-http-7d4-aaa", 1, PodState::Ready, "Running"),
            pod("hello-http-7d4-bbb", 2, PodState::Terminating, "Terminating"),
            pod("hello-http-7d4-ccc", 2, PodState::NotReady, "Running"),
            pod("hello-http-7d4-ddd", 0, PodState::Pending, "Pending"),
            pod("greeter-5f9-q2x", 1, PodState::Starting, "ContainerCreating"),
            pod("udp-echo-9b1-zzz", 2, PodState::Failed, "CrashLoopBackOff"),
            pod("batch", 1, PodState::Succeeded, "Completed"),
            restarted,
        ],
        deployments: vec![
            deployment("hello-http", 1, 3),
            deployment("greeter", 0, 2),
            deployment("counter-tcp", 0, 1),
            deployment("udp-echo", 0, 1),
        ],
        services: vec![service("hello-http", "80:30080/TCP"), service("greeter", "80/TCP")],
        slices: vec![
            SliceFacts { service: key("hello-http"), ready: 1, all: 2 },
            SliceFacts { service: key("hello-http"), ready: 1, all: 1 },
        ],
        events: vec![
            event(200, false, "Scheduled", "pod/batch", "Successfully assigned default/batch"),
            event(4, true, "NodeNotReady", "node/demo-worker-2", "Node is not ready"),
            event(1, false, "Started", "pod/hello-http-7d4-aaa", "Started container hello"),
        ],
        rates: BTreeMap::from([(key("hello-http"), Rate(12.5))]),
    }
}

pub fn picture() -> Picture {
    Picture::of(observed())
}
