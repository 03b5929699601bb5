use proptest::prelude::*;

use super::*;

fn text() -> impl Strategy<Value = String> {
    "[a-z0-9:/ ._-]{0,40}"
}

fn headers() -> impl Strategy<Value = Headers> {
    // Values of one name stand together, as they come back.
    proptest::collection::btree_map(
        "[a-z][a-z0-9-]{0,20}",
        proptest::collection::vec(text(), 1..3),
        0..6,
    )
    .prop_map(|map| {
        map.into_iter()
            .flat_map(|(name, values)| values.into_iter().map(move |v| (name.clone(), v)))
            .collect()
    })
}

fn frame() -> impl Strategy<Value = Frame> {
    let id = || 0..=MAX_31;
    prop_oneof![
        (id(), id(), 0..8_u8, any::<bool>(), any::<bool>(), headers()).prop_map(
            |(stream, associated, priority, fin, unidirectional, headers)| Frame::SynStream {
                stream,
                associated,
                priority,
                fin,
                unidirectional,
                headers
            }
        ),
        (id(), any::<bool>(), headers()).prop_map(|(stream, fin, headers)| Frame::SynReply {
            stream,
            fin,
            headers
        }),
        (id(), any::<u32>()).prop_map(|(stream, status)| Frame::RstStream { stream, status }),
        proptest::collection::vec((0..0x100_0000_u32, any::<u32>()), 0..5)
            .prop_map(Frame::Settings),
        any::<u32>().prop_map(Frame::Ping),
        (id(), any::<u32>()).prop_map(|(last, status)| Frame::GoAway { last, status }),
        (id(), any::<bool>(), headers()).prop_map(|(stream, fin, headers)| Frame::Headers {
            stream,
            fin,
            headers
        }),
        (id(), id()).prop_map(|(stream, delta)| Frame::WindowUpdate { stream, delta }),
        (id(), any::<bool>(), proptest::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(stream, fin, data)| Frame::Data { stream, fin, data: data.into() }),
    ]
}

/// Joins the pieces of data frames that belong together.
fn whole(frames: Vec<Frame>) -> Vec<Frame> {
    let mut joined: Vec<Frame> = Vec::new();
    let mut open = false;
    for frame in frames {
        match (&frame, joined.last_mut()) {
            (
                Frame::Data { stream, fin, data },
                Some(Frame::Data { stream: s, fin: f, data: d }),
            ) if open && s == stream => {
                *d = [d.as_ref(), data.as_ref()].concat().into();
                *f = *fin;
            }
            _ => joined.push(frame.clone()),
        }
        open = matches!(&frame, Frame::Data { fin: false, .. });
    }
    joined
}

fn read_all(decoder: &mut Decoder, into: &mut Vec<Frame>) -> Result<(), FrameError> {
    while let Some(frame) = decoder.decode()? {
        into.push(frame);
    }
    Ok(())
}

proptest! {
    #[test]
    fn frames_are_read_back_however_they_are_cut(
        frames in proptest::collection::vec(frame(), 0..12),
        piece in 1..200_usize,
    ) {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let mut bytes = BytesMut::new();
        for frame in &frames {
            encoder.encode(frame, &mut bytes);
        }
        let mut read = Vec::new();
        for piece in bytes.chunks(piece) {
            decoder.input().extend_from_slice(piece);
            read_all(&mut decoder, &mut read).expect("what was written can be read");
        }
        prop_assert!(decoder.input().is_empty());
        prop_assert_eq!(whole(read), whole(frames));
    }

    #[test]
    fn no_bytes_make_the_decoder_panic_or_grow(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..20),
    ) {
        let mut decoder = Decoder::default();
        let mut read = Vec::new();
        for piece in pieces {
            decoder.input().extend_from_slice(&piece);
            if read_all(&mut decoder, &mut read).is_err() {
                break;
            }
            prop_assert!(decoder.input().len() <= HEAD + CONTROL_BYTES_MAX);
        }
    }

    #[test]
    fn nonsense_behind_a_good_head_is_an_error_and_no_panic(
        kind in 1..10_u16,
        flags in any::<u8>(),
        payload in proptest::collection::vec(any::<u8>(), 0..100),
        plain in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let mut bytes = BytesMut::new();
        control(&mut bytes, kind, flags, &payload);
        // And one whose block is compressed as it should be, but holds nonsense.
        let mut block = BytesMut::from(&[0; 4][..]);
        Encoder::default().deflated(&plain, &mut block);
        control(&mut bytes, 8, flags, &block);
        let mut decoder = Decoder::default();
        decoder.input().extend_from_slice(&bytes);
        let _ = read_all(&mut decoder, &mut Vec::new());
    }
}

#[test]
fn a_bomb_in_a_header_block_is_refused() {
    let plain = vec![0; 10 * HEADER_BYTES_MAX];
    let mut block = BytesMut::from(&[0, 0, 0, 1][..]);
    Encoder::default().deflated(&plain, &mut block);
    assert!(block.len() < CONTROL_BYTES_MAX, "it is small on the wire");
    let mut bytes = BytesMut::new();
    control(&mut bytes, 2, 0, &block);
    let mut decoder = Decoder::default();
    decoder.input().extend_from_slice(&bytes);
    assert_eq!(decoder.decode(), Err(FrameError::Headers("it is too large")));
}

#[test]
fn what_is_too_large_or_of_another_version_is_refused_and_the_unknown_is_skipped() {
    let decoded = |bytes: &[u8]| {
        let mut decoder = Decoder::default();
        decoder.input().extend_from_slice(bytes);
        decoder.decode()
    };
    let large = [0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff];
    assert_eq!(decoded(&large), Err(FrameError::TooLarge(0xff_ffff)));
    assert_eq!(decoded(&[0x80, 2, 0, 1, 0, 0, 0, 0]), Err(FrameError::Version(2)));
    assert_eq!(decoded(&[0x80, 3, 0, 6, 0, 0, 0, 0]), Err(FrameError::Length(6)));
    let mut bytes = BytesMut::new();
    control(&mut bytes, 10, 0, b"credentials of somebody");
    Encoder::default().encode(&Frame::Ping(7), &mut bytes);
    assert_eq!(decoded(&bytes), Ok(Some(Frame::Ping(7))));
}

#[test]
fn the_headers_of_a_go_client_are_understood() {
    // What spdystream sends first for `kubectl exec`: SYN_STREAM 1 with `Streamtype: error`,
    // compressed at Go's best level; made with zlib level 9 and the same dictionary.
    let mut deflate = Compress::new(Compression::best(), true);
    deflate.set_dictionary(&DICTIONARY).expect("fresh");
    let plain = b"\0\0\0\x01\0\0\0\x0astreamtype\0\0\0\x05error";
    let mut block = Vec::with_capacity(200);
    deflate.compress_vec(plain, &mut block, FlushCompress::Sync).expect("compressed");
    let mut payload = vec![0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    payload.extend_from_slice(&block);
    let mut bytes = BytesMut::new();
    control(&mut bytes, 1, 0, &payload);
    let mut decoder = Decoder::default();
    decoder.input().extend_from_slice(&bytes);
    let Ok(Some(Frame::SynStream { stream: 1, headers, .. })) = decoder.decode() else {
        panic!("a stream is opened");
    };
    assert_eq!(headers, [("streamtype".to_owned(), "error".to_owned())]);
}
