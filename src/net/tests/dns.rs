use super::*;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

fn cluster() -> (Arc<Fabric>, Arc<Namespace>) {
    let fabric = fabric("a");
    let client = pod(&fabric, "client", "10.128.0.2");
    fabric.set_service(tcp_service("web", Some("10.43.0.5"), vec![]));
    let mut db = tcp_service("db", None, vec![]);
    db.namespace = "data".into();
    let mut first = endpoint("10.128.0.7:5432", "a");
    first.hostname = Some("db-0".into());
    db.ports[0].endpoints = vec![first, endpoint("10.128.0.8:5432", "a")];
    fabric.set_service(db);
    let mut alias = tcp_service("alias", None, vec![]);
    alias.headless = false;
    alias.ports.clear();
    alias.external_name = Some("web.default.svc.cluster.local".into());
    fabric.set_service(alias);
    (fabric, client)
}

#[tokio::test]
async fn names_resolve_as_a_pods_resolver_would() {
    let (_fabric, client) = cluster();
    for (name, expected) in [
        ("web", &["10.43.0.5"][..]),
        ("WEB.default", &["10.43.0.5"]),
        ("web.default.svc", &["10.43.0.5"]),
        ("web.default.svc.cluster.local", &["10.43.0.5"]),
        ("web.default.svc.cluster.local.", &["10.43.0.5"]),
        ("alias", &["10.43.0.5"]),
        ("db.data", &["10.128.0.7", "10.128.0.8"]),
        ("db-0.db.data", &["10.128.0.7"]),
        ("10-128-0-8.db.data.svc", &["10.128.0.8"]),
        ("1-2-3-4.default.pod.cluster.local", &["1.2.3.4"]),
        ("client", &["10.128.0.2"]),
        ("localhost", &["127.0.0.1", "::1"]),
        ("192.0.2.1", &["192.0.2.1"]),
        ("[::1]", &["::1"]),
    ] {
        let mut found = client.resolve(name).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        found.sort();
        let expected: Vec<IpAddr> = expected.iter().map(|text| ip(text)).collect();
        assert_eq!(found, expected, "{name}");
    }
}

#[tokio::test]
async fn names_that_do_not_resolve_say_why() {
    let (_fabric, client) = cluster();
    for (name, error) in [
        ("web.other.svc.cluster.local.", NetError::NameNotFound),
        ("db-9.db.data.svc.cluster.local.", NetError::NameNotFound),
        ("not a name", NetError::InvalidArgument),
        ("", NetError::InvalidArgument),
        ("a..b", NetError::InvalidArgument),
        // No resolver knows the outside here.
        ("example.org.", NetError::ResolverUnavailable),
        ("nothing", NetError::ResolverUnavailable),
    ] {
        assert_eq!(client.resolve(name).await, Err(error), "{name}");
    }
}

#[tokio::test]
async fn host_aliases_come_before_dns_and_a_search_list_of_its_own_replaces_the_clusters() {
    let (fabric, _) = cluster();
    let mut spec = NamespaceSpec::new("own", ip("10.128.0.9"), "default", "own");
    spec.hosts = vec![(ip("192.0.2.9"), vec!["web".into()])];
    spec.search = Some(vec!["data.svc.cluster.local".into()]);
    let own = fabric.attach(spec);
    assert_eq!(own.resolve("web").await, Ok(vec![ip("192.0.2.9")]));
    assert_eq!(own.resolve("db").await.map(|ips| ips.len()), Ok(2));
}

#[tokio::test]
async fn a_headless_services_addresses_take_turns_in_front() {
    let (_fabric, client) = cluster();
    let first = client.resolve("db.data.svc.cluster.local.").await.expect("addresses")[0];
    let second = client.resolve("db.data.svc.cluster.local.").await.expect("addresses")[0];
    assert_ne!(first, second);
}

fn question(name: &str, record_type: RecordType) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), record_type));
    message.to_vec().expect("a message")
}

async fn ask_udp(client: &Namespace, name: &str, record_type: RecordType) -> Message {
    let socket = client.bind_udp(addr("0.0.0.0:0")).expect("a free port");
    socket.send_to(question(name, record_type).into(), addr("10.43.0.10:53")).expect("sent");
    let answer = socket.recv().await.expect("an open socket");
    assert_eq!(answer.from, addr("10.43.0.10:53"));
    Message::from_vec(&answer.data).expect("a message")
}

#[tokio::test]
async fn the_dns_server_answers_on_the_wire_as_the_resolver_does() {
    let (_fabric, client) = cluster();
    let answer = ask_udp(&client, "web.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!((answer.metadata.id, answer.metadata.authoritative), (7, true));
    assert!(matches!(&answer.answers[0].data, RData::A(a) if a.0.octets() == [10, 43, 0, 5]));

    let answer = ask_udp(&client, "web.default.svc.cluster.local.", RecordType::AAAA).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert!(answer.answers.is_empty());
    assert!(matches!(&answer.authorities[0].data, RData::SOA(_)), "no data says for how long");

    let answer = ask_udp(&client, "nope.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert!(matches!(&answer.authorities[0].data, RData::SOA(_)));

    let answer = ask_udp(&client, "5.0.43.10.in-addr.arpa.", RecordType::PTR).await;
    let RData::PTR(name) = &answer.answers[0].data else { panic!("{answer:?}") };
    assert_eq!(name.0.to_ascii(), "web.default.svc.cluster.local.");

    let answer = ask_udp(&client, "alias.default.svc.cluster.local.", RecordType::A).await;
    assert!(matches!(&answer.answers[0].data, RData::CNAME(_)));
    assert!(matches!(&answer.answers[1].data, RData::A(_)), "the target's address is with it");

    let answer = ask_udp(&client, "example.org.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn srv_records_name_ports_and_endpoints_with_their_addresses() {
    let (_fabric, client) = cluster();
    let name = "_http._tcp.db.data.svc.cluster.local.";
    let answer = ask_udp(&client, name, RecordType::SRV).await;
    let mut targets: Vec<(u16, String)> = answer
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::SRV(srv) => Some((srv.port, srv.target.to_ascii())),
            _ => None,
        })
        .collect();
    targets.sort();
    let expected = [
        (5432, "10-128-0-8.db.data.svc.cluster.local.".to_owned()),
        (5432, "db-0.db.data.svc.cluster.local.".to_owned()),
    ];
    assert_eq!(targets, expected);
    assert_eq!(answer.additionals.len(), 2);
}

#[tokio::test]
async fn a_long_answer_is_cut_over_udp_and_whole_over_tcp() {
    let (fabric, client) = cluster();
    let endpoints = (1..=60).map(|n| endpoint(&format!("10.128.1.{n}:80"), "a")).collect();
    fabric.set_service(tcp_service("many", None, endpoints));
    let name = "many.default.svc.cluster.local.";
    let cut = ask_udp(&client, name, RecordType::A).await;
    assert!(cut.metadata.truncation);

    let mut stream = client.connect(addr("10.43.0.10:53")).await.expect("the DNS server");
    let asked = question(name, RecordType::A);
    stream.write_u16(asked.len() as u16).await.expect("room");
    stream.write_all(&asked).await.expect("room");
    let len = stream.read_u16().await.expect("an answer");
    let mut bytes = vec![0; len.into()];
    stream.read_exact(&mut bytes).await.expect("an answer");
    let whole = Message::from_vec(&bytes).expect("a message");
    assert_eq!(whole.answers.len(), 60);
}
