//! `wasi:http` handlers.

use super::*;
use crate::runtime::{StartError, WorkloadEvent};

#[tokio::test]
async fn a_handler_answers_with_a_fresh_instance_and_holds_none_while_idle() {
    let node = Node::new();
    let (mut spec, log) = node.sample("hello-http");
    env(&mut spec, "POD_NAME", "web-1");
    spec.http_ports = vec![80];
    let ip = spec.network.ip();
    let workload = node.start(spec).await;
    assert_eq!(node.runtime.instances(), 0);
    let hello = node.get(&format!("http://{ip}/")).await;
    assert_eq!(hello, (200, "Hello from web-1\n".to_string()), "{}", log.text());
    let (_, path) = node.get(&format!("http://{ip}/a/b?c=d")).await;
    assert_eq!(path, "Hello from web-1, you asked for /a/b?c=d\n");
    assert_eq!(node.get(&format!("http://{ip}/env")).await.1, "POD_NAME=web-1\n");
    let (_, headers) = node.get(&format!("http://{ip}/headers")).await;
    assert!(!headers.contains("coracle"), "{headers}");
    assert_eq!(node.get(&format!("http://{ip}/status/418")).await.0, 418);
    assert_eq!(workload.stats().requests, 5);
    for _ in 0..1000 {
        if node.runtime.instances() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(node.runtime.instances(), 0);
    assert_eq!(workload.stats().memory_bytes, 0);
}

#[tokio::test]
async fn a_body_goes_in_and_out_as_it_comes() {
    let node = Node::new();
    let (spec, log) = node.sample("hello-http");
    let url = format!("http://{}:8080/echo", spec.network.ip());
    let _workload = node.start(spec).await;
    let body = "0123456789abcdef".repeat(20_000);
    let request = Request::post(url).body(crate::net::full(body.clone())).expect("a request");
    let answer = node.fabric.host().request(request).await.expect("an answer");
    let echoed = answer.into_body().collect().await.expect("whole").to_bytes();
    assert!(echoed == body.as_bytes(), "{} bytes; {}", echoed.len(), log.text());
}

#[tokio::test]
async fn a_trap_is_500_for_that_request_and_told_in_the_log() {
    let node = Node::new();
    let (spec, log) = node.sample("hello-http");
    let url = format!("http://{}:8080", spec.network.ip());
    let workload = node.start(spec).await;
    let mut events = workload.events();
    assert_eq!(node.get(&format!("{url}/exit")).await.0, 500);
    let WorkloadEvent::RequestTrapped { message } = events.recv().await.expect("told");
    assert!(message.contains("unreachable"), "{message}");
    until_logged(&log, "unreachable").await;
    assert_eq!(node.get(&format!("{url}/")).await.0, 200, "the container goes on");
    assert!(workload.exit().borrow().is_none());
}

#[tokio::test]
async fn a_handler_reaches_another_pod_through_the_network() {
    let node = Node::new();
    let (mut hello, _) = node.sample("hello-http");
    env(&mut hello, "POD_NAME", "web-1");
    let target = format!("http://{}:8080", hello.network.ip());
    let _hello = node.start(hello).await;
    let (mut greeter, log) = node.sample("greeter");
    env(&mut greeter, "POD_NAME", "front-1");
    env(&mut greeter, "TARGET", &target);
    let url = format!("http://{}:8080/", greeter.network.ip());
    let _greeter = node.start(greeter).await;
    let answer = node.get(&url).await;
    assert_eq!(answer, (200, "front-1 was told: Hello from web-1\n".to_string()), "{}", log.text());
}

#[tokio::test]
async fn handlers_that_call_each_other_in_circles_are_told_so() {
    let node = Node::new();
    let (mut greeter, log) = node.sample("greeter");
    let url = format!("http://{}:8080", greeter.network.ip());
    env(&mut greeter, "TARGET", &url);
    let _greeter = node.start(greeter).await;
    let (status, body) = node.get(&format!("{url}/")).await;
    assert_eq!(status, 508, "{body} {}", log.text());
}

#[tokio::test]
async fn past_its_instances_a_workload_answers_503_and_when_to_come_back() {
    let node = Node::with(|config| {
        config.instances_per_workload_max = 1;
        config.queue_timeout = Duration::from_millis(50);
    });
    // Calls itself, and so waits for the one instance that it is.
    let (mut greeter, _) = node.sample("greeter");
    let url = format!("http://{}:8080", greeter.network.ip());
    env(&mut greeter, "TARGET", &url);
    let _greeter = node.start(greeter).await;
    let (status, body) = node.get(&format!("{url}/")).await;
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("all instances are busy"), "{body}");
}

#[tokio::test]
async fn two_handlers_of_a_pod_cannot_have_one_port() {
    let node = Node::new();
    let (one, _) = node.sample("hello-http");
    let (mut two, _) = node.sample("hello-http");
    two.network = one.network.clone();
    let workload = node.start(one).await;
    assert_eq!(node.start_error(two.clone()).await, StartError::PortInUse { port: 8080 });
    workload.kill();
    wait(&workload).await;
    node.start(two).await;
}

#[tokio::test]
async fn asked_to_end_a_handler_finishes_what_it_has_begun() {
    let node = Node::new();
    let (spec, _) = node.sample("hello-http");
    let url = format!("http://{}:8080", spec.network.ip());
    let workload = node.start(spec).await;
    // A request whose body has not come yet is in flight.
    let (send, chunks) = tokio::sync::mpsc::channel(1);
    let chunks = futures::stream::unfold(chunks, async |mut chunks| {
        let frame = chunks.recv().await.map(http_body::Frame::data);
        frame.map(|frame| (Ok::<_, crate::net::BoxError>(frame), chunks))
    });
    let body = http_body_util::StreamBody::new(Box::pin(chunks)).boxed_unsync();
    let request = Request::post(format!("{url}/echo")).body(body).expect("a request");
    let answer = node.fabric.host().request(request).await.expect("its head");
    workload.terminate(Duration::from_secs(3600));
    assert!(workload.exit().borrow().is_none());
    send.send(bytes::Bytes::from_static(b"late")).await.expect("taken");
    drop(send);
    assert_eq!(answer.into_body().collect().await.expect("whole").to_bytes(), "late");
    assert_eq!(wait(&workload).await.code, 0);
    let request = Request::get(url).body(crate::net::empty()).expect("a request");
    assert!(node.fabric.host().request(request).await.is_err(), "it listens no more");
}

#[tokio::test]
async fn a_handler_that_does_not_fit_its_limit_never_starts() {
    let node = Node::new();
    let (mut spec, _) = node.sample("hello-http");
    spec.limits.memory_bytes_max = Some(65_536);
    let error = node.start_error(spec).await;
    assert!(matches!(error, StartError::Instantiate { code: 137, oom: true, .. }), "{error:?}");
}
