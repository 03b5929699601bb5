use proptest::prelude::*;

use super::*;

fn queue(capacity: usize) -> (Arc<Queue>, Arc<Meter>) {
    let meter = Meter::new(usize::MAX);
    (Queue::new(capacity, meter.clone(), None), meter)
}

fn write(queue: &Queue, bytes: &'static [u8]) -> Result<usize, NetError> {
    queue.try_write(&mut Bytes::from_static(bytes))
}

#[test]
fn what_was_accepted_is_read_before_the_end() {
    let (queue, meter) = queue(16);
    assert_eq!(write(&queue, b"hello"), Ok(5));
    queue.finish();
    assert_eq!(meter.queued(), 5);
    assert_eq!(queue.try_read(3), Ok(Some(Bytes::from_static(b"hel"))));
    assert_eq!(queue.try_read(9), Ok(Some(Bytes::from_static(b"lo"))));
    assert_eq!(queue.try_read(9), Ok(None));
    assert_eq!(meter.queued(), 0);
}

#[test]
fn a_full_queue_takes_a_part_and_then_blocks() {
    let (queue, _) = queue(4);
    assert_eq!(write(&queue, b"hello"), Ok(4));
    assert_eq!(write(&queue, b"o"), Err(NetError::WouldBlock));
    assert_eq!(queue.writable(), Ok(0));
}

#[test]
fn a_reset_lets_queued_bytes_be_read_and_then_says_so() {
    let (queue, _) = queue(16);
    write(&queue, b"ab").expect("room");
    queue.reset();
    assert_eq!(queue.try_read(9), Ok(Some(Bytes::from_static(b"ab"))));
    assert_eq!(queue.try_read(9), Err(NetError::ConnectionReset));
    assert_eq!(write(&queue, b"x"), Err(NetError::ConnectionReset));
}

#[test]
fn a_shut_reader_swallows_and_a_gone_reader_breaks_the_pipe() {
    let (queue, meter) = queue(4);
    write(&queue, b"abcd").expect("room");
    queue.shut_reader();
    assert_eq!(queue.try_read(9), Ok(None));
    assert_eq!(write(&queue, b"more than fits"), Ok(14));
    assert_eq!(meter.queued(), 0);
    assert!(!queue.drop_reader(), "nothing was left unread");
    assert_eq!(write(&queue, b"x"), Err(NetError::BrokenPipe));
}

#[test]
fn a_pod_over_its_share_holds_little_in_each_queue_but_never_nothing() {
    let meter = Meter::new(8 * 1024);
    let first = Queue::new(STREAM_CAPACITY, meter.clone(), None);
    let second = Queue::new(STREAM_CAPACITY, meter.clone(), None);
    assert_eq!(first.try_write(&mut Bytes::from(vec![0; 10_000])), Ok(10_000));
    assert_eq!(second.writable(), Ok(CAPACITY_UNDER_PRESSURE));
    drop(first);
    assert_eq!(second.writable(), Ok(STREAM_CAPACITY));
}

#[derive(Debug, Clone)]
enum Op {
    Write(usize),
    Read(usize),
    Finish,
    Reset,
    Shut,
    DropReader,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0usize..5000).prop_map(Op::Write),
        8 => (1usize..6000).prop_map(Op::Read),
        1 => Just(Op::Finish),
        1 => Just(Op::Reset),
        1 => Just(Op::Shut),
        1 => Just(Op::DropReader),
    ]
}

/// The queue as one flat list of bytes.
#[derive(Default)]
struct Model {
    bytes: VecDeque<u8>,
    fin: bool,
    reset: bool,
    shut: bool,
    gone: bool,
}

impl Model {
    fn write(&mut self, data: &[u8], capacity: usize) -> Result<usize, NetError> {
        if data.is_empty() {
            return Ok(0);
        }
        match () {
            () if self.reset => Err(NetError::ConnectionReset),
            () if self.fin || self.gone => Err(NetError::BrokenPipe),
            () if self.shut => Ok(data.len()),
            () if self.bytes.len() == capacity => Err(NetError::WouldBlock),
            () => {
                let taken = data.len().min(capacity - self.bytes.len());
                self.bytes.extend(&data[..taken]);
                Ok(taken)
            }
        }
    }
}

proptest! {
    #[test]
    fn the_queue_does_as_a_flat_list_of_bytes_would(ops in prop::collection::vec(op(), 1..120)) {
        const CAPACITY: usize = 10_000;
        let (queue, meter) = queue(CAPACITY);
        let mut model = Model::default();
        let mut next = 0u8;
        for op in ops {
            match op {
                Op::Write(len) => {
                    let data: Vec<u8> = (0..len).map(|_| { next = next.wrapping_add(1); next }).collect();
                    let expected = model.write(&data, CAPACITY);
                    prop_assert_eq!(queue.try_write(&mut Bytes::from(data)), expected);
                }
                Op::Read(max) => match queue.try_read(max) {
                    Ok(Some(bytes)) => {
                        prop_assert!(!bytes.is_empty() && bytes.len() <= max);
                        let expected: Vec<u8> = model.bytes.drain(..bytes.len()).collect();
                        prop_assert_eq!(&bytes[..], &expected[..]);
                    }
                    Ok(None) => prop_assert!(
                        model.shut || model.gone || (model.fin && !model.reset && model.bytes.is_empty())
                    ),
                    Err(NetError::ConnectionReset) => {
                        prop_assert!(model.reset && model.bytes.is_empty());
                    }
                    Err(error) => {
                        prop_assert_eq!(error, NetError::WouldBlock);
                        prop_assert!(model.bytes.is_empty() && !model.fin);
                    }
                },
                Op::Finish => { queue.finish(); model.fin = true; }
                Op::Reset => {
                    queue.reset();
                    model.reset |= !(model.fin && model.bytes.is_empty());
                    model.fin = true;
                }
                Op::Shut => { queue.shut_reader(); model.shut = true; model.bytes.clear(); }
                Op::DropReader => {
                    prop_assert_eq!(queue.drop_reader(), !model.bytes.is_empty());
                    model.gone = true;
                    model.bytes.clear();
                }
            }
            prop_assert_eq!(meter.queued(), model.bytes.len());
        }
        drop(queue);
        prop_assert_eq!(meter.queued(), 0);
    }
}
