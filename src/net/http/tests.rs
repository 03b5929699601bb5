use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::net::tests::{Echo, addr, endpoint, fabric, get, pod, tcp_service, text};
use crate::net::{NetError, RequestError};

#[tokio::test]
async fn raw_bytes_to_a_handlers_port_are_parsed_as_http() {
    let fabric = fabric("a");
    let client = pod(&fabric, "client", "10.128.0.2");
    let server = pod(&fabric, "server", "10.128.0.3");
    let _guard = server.serve_http(80, Arc::new(Echo("web"))).expect("a free port");
    let mut stream = client.connect(addr("10.128.0.3:80")).await.expect("a handler");
    let request =
        b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc";
    stream.write_all(request).await.expect("room");
    let mut heard = String::new();
    stream.read_to_string(&mut heard).await.expect("an answer");
    assert!(heard.ends_with("web POST /a host=h peer=10.128.0.2 body=abc"), "{heard}");
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_served_too() {
    let fabric = fabric("a");
    let client = pod(&fabric, "client", "10.128.0.2");
    let server = pod(&fabric, "server", "10.128.0.3");
    let _guard = server.serve_http(80, Arc::new(Echo("web"))).expect("a free port");
    let stream = client.connect(addr("10.128.0.3:80")).await.expect("a handler");
    let io = hyper_util::rt::TokioIo::new(stream);
    let exec = hyper_util::rt::TokioExecutor::new();
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(exec, io).await.expect("http2");
    tokio::spawn(connection);
    let answer = send.send_request(get("http://h/b")).await.expect("an answer");
    assert_eq!(answer.version(), http::Version::HTTP_2);
}

#[tokio::test]
async fn a_request_on_the_node_is_handed_over_as_it_would_look_on_the_wire() {
    let fabric = fabric("a");
    let client = pod(&fabric, "client", "10.128.0.2");
    let server = pod(&fabric, "server", "10.128.0.3");
    let _guard = server.serve_http(8080, Arc::new(Echo("web"))).expect("a free port");
    let endpoints = vec![endpoint("10.128.0.3:8080", "a")];
    fabric.set_service(tcp_service("web", Some("10.43.0.5"), endpoints));
    let request = http::Request::post("http://web.default/c?d").body(full("hey"));
    let answer = client.request(request.expect("a request")).await.expect("an answer");
    assert_eq!(text(answer).await, "web POST /c?d host=web.default peer=10.128.0.2 body=hey");
    let counters = &fabric.counters()[0].total;
    assert_eq!((counters.requests, counters.connections), (1, 0));
    let own = server.request(get("http://localhost:8080/")).await.expect("an answer");
    assert_eq!(text(own).await, "web GET / host=localhost:8080 peer=127.0.0.1 body=");
}

#[tokio::test]
async fn a_plain_listener_is_spoken_to_in_http1_and_its_connection_is_used_again() {
    let fabric = fabric("a");
    let client = pod(&fabric, "client", "10.128.0.2");
    let server = pod(&fabric, "server", "10.128.0.3");
    let listener = server.listen(addr("0.0.0.0:80"), 4).expect("a free port");
    tokio::spawn(async move {
        let mut stream = listener.accept().await.expect("the only connection");
        let mut seen = 0;
        let mut buffer = vec![0; 4096];
        loop {
            let len = stream.read(&mut buffer).await.expect("a request");
            let request = String::from_utf8_lossy(&buffer[..len]).to_lowercase();
            assert!(request.starts_with("get /n http/1.1\r\n"), "{request}");
            assert!(request.contains("host: 10.128.0.3\r\n"), "{request}");
            seen += 1;
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{seen}");
            stream.write_all(answer.as_bytes()).await.expect("room");
        }
    });
    for expected in ["1", "2", "3"] {
        let answer = client.request(get("http://10.128.0.3/n")).await.expect("an answer");
        assert_eq!(text(answer).await, expected);
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_sent_says_why() {
    let fabric = fabric("a");
    let client = pod(&fabric, "client", "10.128.0.2");
    pod(&fabric, "server", "10.128.0.3");
    fabric.set_service(tcp_service("empty", Some("10.43.0.5"), vec![]));
    let ask = async |uri: &str| client.request(get(uri)).await.expect_err("no answer");
    let refused = NetError::ConnectionRefused;
    for uri in ["http://10.128.0.3/", "http://empty/", "http://127.0.0.1:1/"] {
        let error = ask(uri).await;
        assert!(
            matches!(&error, RequestError::Connect { error, .. } if *error == refused),
            "{uri}: {error:?}"
        );
    }
    let error = ask("http://nope.default.svc.cluster.local./").await;
    assert!(matches!(&error, RequestError::Resolve { error: NetError::NameNotFound, .. }));
    assert!(matches!(ask("ftp://x/").await, RequestError::Uri(_)));
    assert!(matches!(ask("/path").await, RequestError::Uri(_)));
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_passed_over() {
    let fabric = fabric("a");
    let client = pod(&fabric, "client", "10.128.0.2");
    pod(&fabric, "dead", "10.128.0.3");
    let server = pod(&fabric, "server", "10.128.0.4");
    let _guard = server.serve_http(8080, Arc::new(Echo("alive"))).expect("a free port");
    let endpoints = vec![endpoint("10.128.0.3:8080", "a"), endpoint("10.128.0.4:8080", "a")];
    fabric.set_service(tcp_service("web", Some("10.43.0.5"), endpoints));
    for _ in 0..6 {
        let answer = client.request(get("http://web/")).await.expect("an answer");
        assert!(text(answer).await.starts_with("alive"));
    }
}

#[tokio::test]
async fn a_dropped_handler_lets_requests_finish_and_refuses_new_ones() {
    let fabric = fabric("a");
    let client = pod(&fabric, "client", "10.128.0.2");
    let server = pod(&fabric, "server", "10.128.0.3");
    let guard = server.serve_http(80, Arc::new(Echo("web"))).expect("a free port");
    let mut stream = client.connect(addr("10.128.0.3:80")).await.expect("a handler");
    stream
        .write_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n")
        .await
        .expect("room");
    tokio::task::yield_now().await;
    drop(guard);
    let refused = client.connect(addr("10.128.0.3:80")).await.err();
    assert_eq!(refused, Some(NetError::ConnectionRefused));
    stream.write_all(b"ok").await.expect("room");
    let mut heard = String::new();
    stream.read_to_string(&mut heard).await.expect("an answer and the end");
    assert!(heard.ends_with("body=ok"), "{heard}");
    server.serve_http(80, Arc::new(Echo("again"))).expect("free again");
}
