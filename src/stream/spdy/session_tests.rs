use std::time::Duration;

use super::*;

fn pair() -> (Session, Incoming, Session, Incoming) {
    let (a, b) = tokio::io::duplex(8 * 1024);
    let (client, to_client) = Session::start(a, Role::Client);
    let (server, to_server) = Session::start(b, Role::Server);
    (client, to_client, server, to_server)
}

fn named(name: &str) -> Headers {
    vec![("name".to_owned(), name.to_owned())]
}

#[tokio::test]
async fn streams_are_opened_by_both_ends_and_carry_bytes_both_ways() {
    let (client, mut to_client, server, mut to_server) = pair();
    for (opener, incoming) in [(&client, &mut to_server), (&server, &mut to_client)] {
        let (opened, taken) = tokio::join!(opener.open(named("x")), incoming.next());
        let (mut opened, mut taken) = (opened.expect("opened"), taken.expect("taken"));
        assert_eq!((taken.header("name"), taken.id()), (Some("x"), opened.id()));
        opened.write_all(b"question").await.expect("written");
        opened.shutdown().await.expect("ended");
        let mut text = String::new();
        taken.read_to_string(&mut text).await.expect("read");
        taken.write_all(text.to_uppercase().as_bytes()).await.expect("written");
        drop(taken);
        text.clear();
        opened.read_to_string(&mut text).await.expect("read");
        assert_eq!(text, "QUESTION");
    }
}

#[tokio::test]
async fn a_stream_that_nobody_reads_does_not_stop_the_others() {
    let (client, _none, _server, mut to_server) = pair();
    let (stuck, held) = tokio::join!(client.open(named("stuck")), to_server.next());
    let mut stuck = stuck.expect("opened");
    let writer = tokio::spawn(async move { stuck.write_all(&vec![1; 1 << 20]).await });
    let (free, taken) = tokio::join!(client.open(named("free")), to_server.next());
    let (mut free, mut taken) = (free.expect("opened"), taken.expect("taken"));
    let sent = tokio::spawn(async move {
        free.write_all(&vec![2; 1 << 20]).await.expect("written");
    });
    let mut all = Vec::new();
    taken.read_to_end(&mut all).await.expect("read");
    assert_eq!(all.len(), 1 << 20);
    sent.await.expect("sent");
    let mut held = held.expect("taken");
    all.clear();
    held.read_to_end(&mut all).await.expect("read");
    assert_eq!(all.len(), 1 << 20);
    writer.await.expect("no panic").expect("written");
}

#[tokio::test]
async fn what_waits_in_a_session_is_bounded_also_for_a_peer_without_windows() {
    let (mut a, b) = tokio::io::duplex(1 << 16);
    let (_server, mut incoming) = Session::start(b, Role::Server);
    let mut encoder = Encoder::default();
    let mut bytes = BytesMut::new();
    let syn = |stream| Frame::SynStream {
        stream,
        associated: 0,
        priority: 0,
        fin: false,
        unidirectional: false,
        headers: named("flood"),
    };
    encoder.encode(&syn(1), &mut bytes);
    a.write_all(&bytes).await.expect("written");
    let mut held = incoming.next().await.expect("taken");
    let piece = Frame::Data { stream: 1, fin: false, data: vec![0; PIECE].into() };
    bytes.clear();
    encoder.encode(&piece, &mut bytes);
    let mut sent = 0;
    let flood = async {
        loop {
            a.write_all(&bytes).await.expect("written");
            sent += PIECE;
        }
    };
    let stopped = tokio::time::timeout(Duration::from_millis(500), flood).await;
    assert!(stopped.is_err());
    assert!((QUEUED_MAX..QUEUED_MAX + (1 << 18)).contains(&sent), "{sent}");
    // And it goes on when somebody reads.
    let mut buffer = vec![0; 1 << 20];
    held.read_exact(&mut buffer).await.expect("read");
    let more = tokio::time::timeout(Duration::from_secs(5), a.write_all(&bytes)).await;
    more.expect("in time").expect("written");
}

#[tokio::test]
async fn resets_pings_and_the_end_of_the_connection_arrive() {
    let (client, _none, server, mut to_server) = pair();
    let (opened, taken) = tokio::join!(client.open(named("x")), to_server.next());
    let (mut opened, mut taken) = (opened.expect("opened"), taken.expect("taken"));
    taken.reset();
    let error = opened.read_u8().await.expect_err("reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(taken.write(b"x").await.expect_err("reset").kind(), io::ErrorKind::BrokenPipe);
    drop((opened, taken));
    server.close();
    tokio::time::timeout(Duration::from_secs(5), client.ended()).await.expect("in time");
    assert!(to_server.next().await.is_none());
    assert!(client.open(named("late")).await.is_err());
}

#[tokio::test]
async fn a_ping_is_answered_and_a_stream_out_of_turn_refused() {
    let (mut a, b) = tokio::io::duplex(1 << 16);
    let (_server, mut incoming) = Session::start(b, Role::Server);
    let mut encoder = Encoder::default();
    let mut bytes = BytesMut::new();
    let syn = |stream| Frame::SynStream {
        stream,
        associated: 0,
        priority: 0,
        fin: true,
        unidirectional: false,
        headers: Vec::new(),
    };
    for frame in [Frame::Ping(1), Frame::Ping(2), syn(2), syn(5), syn(3)] {
        encoder.encode(&frame, &mut bytes);
    }
    a.write_all(&bytes).await.expect("written");
    let taken = incoming.next().await.expect("stream 5");
    let mut decoder = Decoder::default();
    let mut seen = Vec::new();
    while seen.len() < 5 {
        a.read_buf(decoder.input()).await.expect("answers");
        while let Some(frame) = decoder.decode().expect("frames") {
            seen.push(frame);
        }
    }
    let reset = |stream| Frame::RstStream { stream, status: 1 };
    let reply = Frame::SynReply { stream: 5, fin: false, headers: Vec::new() };
    assert!(matches!(seen.remove(0), Frame::WindowUpdate { stream: 0, .. }));
    assert_eq!(seen, [Frame::Ping(1), reset(2), reply, reset(3)]);
    assert_eq!(taken.id(), 5);
}
