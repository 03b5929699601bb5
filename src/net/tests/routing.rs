use super::*;

#[tokio::test]
async fn two_pods_listen_on_one_port_and_each_is_reached_by_its_own_address() {
    let fabric = fabric("a");
    let (one, two) = (pod(&fabric, "one", "10.128.0.2"), pod(&fabric, "two", "10.128.0.3"));
    let third = pod(&fabric, "third", "10.128.0.4");
    greet(&one, "0.0.0.0:8080", "I am one");
    let _handler = two.serve_http(8080, Arc::new(Echo("two"))).expect("a free port");
    assert_eq!(ask(&third, "10.128.0.2:8080").await.as_deref(), Ok("I am one"));
    let answer = third.request(get("http://10.128.0.3:8080/x?y=1")).await.expect("an answer");
    assert_eq!(text(answer).await, "two GET /x?y=1 host=10.128.0.3:8080 peer=10.128.0.4 body=");
    let refused = Err(NetError::ConnectionRefused);
    assert_eq!(ask(&third, "127.0.0.1:8080").await, refused, "loopback is private");
}

#[tokio::test]
async fn loopback_is_shared_inside_the_pod_and_a_listener_there_is_not_reached_from_outside() {
    let fabric = fabric("a");
    let (one, two) = (pod(&fabric, "one", "10.128.0.2"), pod(&fabric, "two", "10.128.0.3"));
    greet(&one, "127.0.0.1:9000", "only us");
    assert_eq!(ask(&one, "127.0.0.1:9000").await.as_deref(), Ok("only us"));
    assert_eq!(ask(&two, "10.128.0.2:9000").await, Err(NetError::ConnectionRefused));
    assert_eq!(ask(&one, "10.128.0.2:9000").await, Err(NetError::ConnectionRefused));
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_apart() {
    let fabric = fabric("a");
    let one = pod(&fabric, "one", "10.128.0.2");
    pod(&fabric, "two", "10.128.0.3");
    fabric.set_service(tcp_service("empty", Some("10.43.0.7"), vec![]));
    for (at, error) in [
        ("10.128.0.3:80", NetError::ConnectionRefused),
        ("10.128.0.99:80", NetError::HostUnreachable),
        ("10.43.0.7:80", NetError::ConnectionRefused),
        ("10.43.0.7:81", NetError::ConnectionRefused),
        ("10.43.9.9:80", NetError::HostUnreachable),
        ("169.254.169.254:80", NetError::ConnectionRefused),
        ("[fe80::1]:80", NetError::ConnectionRefused),
        ("10.128.0.3:0", NetError::InvalidArgument),
        ("0.0.0.0:80", NetError::InvalidArgument),
    ] {
        assert_eq!(ask(&one, at).await, Err(error), "{at}");
    }
}

#[tokio::test]
async fn the_hosts_loopback_is_not_a_pods() {
    let fabric = fabric("a");
    let one = pod(&fabric, "one", "10.128.0.2");
    let host = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = host.local_addr().expect("bound").port();
    let own = SocketAddr::new(ip("127.0.0.1"), port);
    assert_eq!(one.connect(own).await.err(), Some(NetError::ConnectionRefused));
    let mapped = SocketAddr::new(ip("::ffff:127.0.0.1"), port);
    assert_eq!(one.connect(mapped).await.err(), Some(NetError::ConnectionRefused));
}

#[tokio::test]
async fn the_source_address_is_the_pods_and_a_second_claim_is_refused() {
    let fabric = fabric("a");
    let (one, two) = (pod(&fabric, "one", "10.128.0.2"), pod(&fabric, "two", "10.128.0.3"));
    let listener = one.listen(addr("0.0.0.0:80"), 4).expect("a free port");
    let stream = two.connect(addr("10.128.0.2:80")).await.expect("a listener");
    let accepted = listener.accept().await.expect("a connection");
    assert_eq!(accepted.peer_addr().ip(), ip("10.128.0.3"));
    assert_eq!(accepted.peer_addr(), stream.local_addr());
    assert_eq!(accepted.local_addr(), addr("10.128.0.2:80"));
    let again = one.serve_http(80, Arc::new(Echo("x"))).err();
    assert_eq!(again, Some(NetError::AddressInUse));
    let foreign = one.listen(addr("10.128.0.3:81"), 4).err();
    assert_eq!(foreign, Some(NetError::AddressNotAvailable));
}

#[tokio::test]
async fn a_closed_listener_refuses_and_open_connections_go_on() {
    let fabric = fabric("a");
    let (one, two) = (pod(&fabric, "one", "10.128.0.2"), pod(&fabric, "two", "10.128.0.3"));
    let listener = one.listen(addr("0.0.0.0:80"), 4).expect("a free port");
    let stream = two.connect(addr("10.128.0.2:80")).await.expect("a listener");
    let accepted = listener.accept().await.expect("a connection");
    let waiting = two.connect(addr("10.128.0.2:80")).await.expect("a place in the backlog");
    assert!(one.has_listeners());
    one.stop_listening();
    assert!(!one.has_listeners());
    assert_eq!(two.connect(addr("10.128.0.2:80")).await.err(), Some(NetError::ConnectionRefused));
    assert_eq!(waiting.read_chunk(9).await, Err(NetError::ConnectionReset));
    assert_eq!(listener.accept().await.err(), Some(NetError::InvalidState));
    accepted.write_chunk(Bytes::from_static(b"still here")).await.expect("room");
    drop(accepted);
    assert_eq!(hear(stream).await, "still here");
}

#[tokio::test(start_paused = true)]
async fn a_full_backlog_makes_connects_wait_and_then_time_out() {
    let fabric = fabric("a");
    let one = pod(&fabric, "one", "10.128.0.2");
    let listener = one.listen(addr("0.0.0.0:80"), 1).expect("a free port");
    let first = one.connect(addr("10.128.0.2:80")).await.expect("room for one");
    let second = tokio::spawn({
        let one = one.clone();
        async move { one.connect(addr("10.128.0.2:80")).await.map(drop) }
    });
    tokio::task::yield_now().await;
    drop((listener.accept().await.expect("the first"), first));
    assert_eq!(second.await.expect("no panic"), Ok(()));
    let _second = listener.accept().await.expect("the second");
    let _third = one.connect(addr("10.128.0.2:80")).await.expect("room again");
    assert_eq!(one.connect(addr("10.128.0.2:80")).await.err(), Some(NetError::TimedOut));
}

#[tokio::test]
async fn a_service_spreads_evenly_and_passes_over_an_endpoint_that_refuses() {
    let fabric = fabric("a");
    let client = pod(&fabric, "client", "10.128.0.2");
    for (name, at) in [("x", "10.128.0.3"), ("y", "10.128.0.4")] {
        greet(&pod(&fabric, name, at), "0.0.0.0:8080", if name == "x" { "x" } else { "y" });
    }
    pod(&fabric, "dead", "10.128.0.5");
    let mut unready = endpoint("10.128.0.6:8080", "a");
    unready.ready = false;
    let endpoints =
        vec![endpoint("10.128.0.3:8080", "a"), endpoint("10.128.0.4:8080", "a"), unready];
    let mut table = tcp_service("web", Some("10.43.0.5"), endpoints);
    fabric.set_service(table.clone());
    let mut heard = std::collections::BTreeMap::new();
    for _ in 0..20 {
        *heard.entry(ask(&client, "10.43.0.5:80").await.expect("an endpoint")).or_insert(0) += 1;
    }
    assert_eq!(heard.into_iter().collect::<Vec<_>>(), [("x".into(), 10), ("y".into(), 10)]);

    table.ports[0].endpoints.push(endpoint("10.128.0.5:8080", "a"));
    fabric.set_service(table);
    for _ in 0..12 {
        ask(&client, "10.43.0.5:80").await.expect("a living endpoint");
    }
    let counters = fabric.counters().remove(0);
    assert_eq!((counters.total.connections, counters.total.refused), (32, 0));
    assert_eq!(counters.total.bytes_out, 32);
}

#[tokio::test]
async fn a_client_of_a_service_sees_the_services_address() {
    let fabric = fabric("a");
    let client = pod(&fabric, "client", "10.128.0.2");
    greet(&pod(&fabric, "x", "10.128.0.3"), "0.0.0.0:8080", "x");
    let endpoints = vec![endpoint("10.128.0.3:8080", "a")];
    fabric.set_service(tcp_service("web", Some("10.43.0.5"), endpoints));
    let stream = client.connect(addr("10.43.0.5:80")).await.expect("an endpoint");
    assert_eq!(stream.peer_addr(), addr("10.43.0.5:80"));
    fabric.remove_service("default", "web");
    assert_eq!(ask(&client, "10.43.0.5:80").await, Err(NetError::HostUnreachable));
}

#[tokio::test]
async fn a_virtual_address_leads_to_the_host_also_behind_a_service() {
    let fabric = fabric("a");
    let client = pod(&fabric, "client", "10.128.0.2");
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let target = VirtualTarget::Host(server.local_addr().expect("bound"));
    fabric.set_virtual(addr("198.18.0.1:6443"), target);
    let endpoints = vec![endpoint("198.18.0.1:6443", "")];
    fabric.set_service(tcp_service("kubernetes", Some("10.43.0.1"), endpoints));
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = server.accept().await.expect("a connection");
            let mut asked = String::new();
            socket.read_to_string(&mut asked).await.expect("the client's end");
            socket.write_all(asked.to_uppercase().as_bytes()).await.expect("room");
        }
    });
    for at in ["10.43.0.1:80", "198.18.0.1:6443"] {
        let mut stream = client.connect(addr(at)).await.expect("the host's server");
        stream.write_all(b"half-closed").await.expect("room");
        stream.shutdown_half(Shutdown::Write);
        assert_eq!(hear(stream).await, "HALF-CLOSED", "{at}");
    }
    assert_eq!(ask(&client, "198.18.0.1:80").await, Err(NetError::HostUnreachable));
}

#[tokio::test]
async fn datagrams_go_between_pods_and_answers_of_a_service_carry_its_address() {
    let fabric = fabric("a");
    let (one, two) = (pod(&fabric, "one", "10.128.0.2"), pod(&fabric, "two", "10.128.0.3"));
    let server = two.bind_udp(addr("0.0.0.0:53")).expect("a free port");
    let client = one.bind_udp(addr("0.0.0.0:0")).expect("a free port");
    let mut table = tcp_service("names", Some("10.43.0.9"), vec![endpoint("10.128.0.3:53", "a")]);
    table.ports[0].protocol = Protocol::Udp;
    fabric.set_service(table.clone());
    for (to, answers_from) in [("10.128.0.3:53", "10.128.0.3:53"), ("10.43.0.9:80", "10.43.0.9:80")]
    {
        client.send_to(Bytes::from_static(b"who?"), addr(to)).expect("sent");
        let asked = server.recv().await.expect("an open socket");
        assert_eq!(asked.from, SocketAddr::new(ip("10.128.0.2"), client.local_addr().port()));
        server.send_to(Bytes::from_static(b"me"), asked.from).expect("sent");
        let answer = client.recv().await.expect("an open socket");
        assert_eq!((answer.from, &answer.data[..]), (addr(answers_from), &b"me"[..]));
    }
    table.ports[0].endpoints.clear();
    fabric.set_service(table);
    let sent = client.send_to(Bytes::from_static(b"who?"), addr("10.43.0.9:80"));
    assert_eq!(sent, Err(NetError::ConnectionRefused));
    let large = client.send_to(vec![0; DATAGRAM_MAX + 1].into(), addr("10.128.0.3:53"));
    assert_eq!(large, Err(NetError::DatagramTooLarge));
}

#[tokio::test]
async fn a_detached_pod_is_gone_and_its_address_can_be_given_again() {
    let fabric = fabric("a");
    let one = pod(&fabric, "one", "10.128.0.2");
    greet(&pod(&fabric, "two", "10.128.0.3"), "0.0.0.0:80", "two");
    fabric.detach("two");
    assert_eq!(ask(&one, "10.128.0.3:80").await, Err(NetError::HostUnreachable));
    greet(&pod(&fabric, "three", "10.128.0.3"), "0.0.0.0:80", "three");
    assert_eq!(ask(&one, "10.128.0.3:80").await.as_deref(), Ok("three"));
}
