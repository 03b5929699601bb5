use super::*;

fn node_port(mut table: ServiceTable, port: u16) -> ServiceTable {
    table.ports[0].node_port = Some(port);
    table
}

/// Waits until the host port answers at all.
async fn opened(port: u16) -> SocketAddr {
    let at = SocketAddr::new(ip("127.0.0.1"), port);
    while tokio::net::TcpStream::connect(at).await.is_err() {
        tokio::task::yield_now().await;
    }
    at
}

#[tokio::test]
async fn a_node_port_hands_http_over_and_keeps_the_clients_address() {
    let fabric = fabric("a");
    let server = pod(&fabric, "server", "10.128.0.2");
    let _guard = server.serve_http(8080, Arc::new(Echo("web"))).expect("a free port");
    let port = free_port();
    let endpoints = vec![endpoint("10.128.0.2:8080", "a")];
    fabric.set_service(node_port(tcp_service("web", Some("10.43.0.5"), endpoints), port));
    let at = opened(port).await;
    let say = "GET /p HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let heard = over_host(at, say).await.expect("an answer");
    assert!(heard.starts_with("HTTP/1.1 200 OK"), "{heard}");
    assert!(heard.ends_with("web GET /p host=x peer=127.0.0.1 body="), "{heard}");
    assert_eq!(fabric.counters()[0].total.requests, 1);

    fabric.remove_service("default", "web");
    while tokio::net::TcpStream::connect(at).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_node_port_splices_to_a_plain_listener_and_spreads() {
    let fabric = fabric("a");
    for (name, at) in [("x", "10.128.0.3"), ("y", "10.128.0.4")] {
        greet(&pod(&fabric, name, at), "0.0.0.0:8080", if name == "x" { "x" } else { "y" });
    }
    let port = free_port();
    let endpoints = vec![endpoint("10.128.0.3:8080", "a"), endpoint("10.128.0.4:8080", "a")];
    fabric.set_service(node_port(tcp_service("web", Some("10.43.0.5"), endpoints), port));
    let at = opened(port).await;
    let mut heard = Vec::new();
    for _ in 0..6 {
        heard.push(over_host(at, "").await.expect("a greeting"));
    }
    heard.sort();
    assert_eq!(heard.concat(), "xxxyyy");
}

#[tokio::test]
async fn a_node_port_without_endpoints_resets() {
    let fabric = fabric("a");
    let port = free_port();
    fabric.set_service(node_port(tcp_service("web", Some("10.43.0.5"), vec![]), port));
    let at = opened(port).await;
    let error = over_host(at, "").await.expect_err("nobody there");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_port_in_use_is_told_and_taken_once_it_is_free() {
    let fabric = fabric("a");
    let mut events = fabric.host_port_events();
    let squatter = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = squatter.local_addr().expect("bound");
    greet(&pod(&fabric, "x", "10.128.0.3"), "0.0.0.0:8080", "x");
    let endpoints = vec![endpoint("10.128.0.3:8080", "a")];
    let table = tcp_service("web", Some("10.43.0.5"), endpoints);
    fabric.set_service(node_port(table, address.port()));
    let event = events.recv().await.expect("news");
    assert_eq!((event.address, event.protocol), (address, Protocol::Tcp));
    let owner = HostPortOwner::Service { namespace: "default".into(), name: "web".into() };
    assert_eq!(event.owner, owner);
    let reason = event.error.expect("a reason");
    assert!(reason.contains(&address.to_string()) && reason.contains("free"), "{reason}");
    assert_eq!(fabric.failed_host_ports().len(), 1);
    drop(squatter);
    let event = events.recv().await.expect("news");
    assert_eq!(event.error, None);
    assert_eq!(over_host(address, "").await.expect("a greeting"), "x");
    assert!(fabric.failed_host_ports().is_empty());
}

#[tokio::test]
async fn a_host_port_leads_to_its_pod_and_closes_with_it() {
    let fabric = fabric("a");
    let port = free_port();
    let mut spec = NamespaceSpec::new("x", ip("10.128.0.3"), "default", "x");
    spec.host_ports =
        vec![HostPort { host_ip: None, host_port: port, protocol: Protocol::Tcp, port: 8080 }];
    greet(&fabric.attach(spec), "0.0.0.0:8080", "x");
    let at = opened(port).await;
    assert_eq!(over_host(at, "").await.expect("a greeting"), "x");
    fabric.detach("x");
    while tokio::net::TcpStream::connect(at).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn datagrams_through_a_node_port_come_back_to_their_sender() {
    let fabric = fabric("a");
    let server = pod(&fabric, "x", "10.128.0.3").bind_udp(addr("0.0.0.0:53")).expect("a port");
    tokio::spawn(async move {
        loop {
            let asked = server.recv().await.expect("an open socket");
            let _ = server.send_to(asked.data, asked.from);
        }
    });
    fabric.set_node(NodeRoute {
        name: "a".into(),
        pod_cidrs: vec!["10.128.0.0/20".parse().expect("a CIDR")],
        peer_addr: None,
    });
    assert_eq!(fabric.host().ip(), ip("10.128.0.1"));
    let port = free_port();
    let endpoints = vec![endpoint("10.128.0.3:53", "a")];
    let mut table = node_port(tcp_service("names", Some("10.43.0.9"), endpoints), port);
    table.ports[0].protocol = Protocol::Udp;
    fabric.set_service(table);
    let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    client.connect(("127.0.0.1", port)).await.expect("an address");
    let mut buffer = [0; 64];
    let len = loop {
        // Until the port is open the kernel answers with an error.
        let _ = client.send(b"hello").await;
        let wait = std::time::Duration::from_millis(50);
        if let Ok(Ok(len)) = tokio::time::timeout(wait, client.recv(&mut buffer)).await {
            break len;
        }
    };
    assert_eq!(&buffer[..len], b"hello");
}
