//! What a session knows of its streams, without I/O: who may send how much, who waits for what.
//!
//! ```text
//!            SYN_STREAM                    FIN sent and received, RST
//!   (none) ────────────▶ open ──────────────────────────────────────▶ (none)
//!                          │ handle dropped                             ▲
//!                          └────────▶ detached: what comes is dropped ──┘
//! ```
//!
//! *Flow control.* What was read is given back by WINDOW_UPDATE, for peers that look at it.
//! `spdystream`, which kubectl has, neither sends nor minds those, so a sender is bound by windows
//! only once its peer has sent one; what such a peer sends too much is bounded by not reading
//! from the connection.
//!
//! **Invariant:** `queued` is the sum of what all streams hold; no more is read once it is past
//! [`QUEUED_MAX`].

use std::collections::{HashMap, VecDeque};
use std::task::{Context, Waker};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::frame::{Frame, Headers};

/// Bytes of one session that may wait to be read by its streams.
pub const QUEUED_MAX: usize = 4 << 20;
/// Streams of one session at once.
pub const STREAMS_MAX: usize = 1024;
/// Control frames that may wait to be written.
const CONTROL_MAX: usize = 4096;
/// What a stream may send before it is given more.
const INITIAL_WINDOW: i64 = 64 * 1024;
/// What all streams of the peer may send besides the initial window.
const SESSION_WINDOW: u32 = QUEUED_MAX as u32 / 2;
/// What was read is given back in pieces of this size.
const GIVE_BACK_AT: u32 = 16 * 1024;

const SETTING_INITIAL_WINDOW: u32 = 7;
pub const PROTOCOL_ERROR: u32 = 1;
pub const REFUSED_STREAM: u32 = 3;
pub const CANCEL: u32 = 5;

/// Which end of the connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Client,
    Server,
}

#[derive(Default)]
pub struct StreamState {
    pub received: VecDeque<Bytes>,
    pub fin_received: bool,
    pub fin_sent: bool,
    pub reset: bool,
    /// Nobody reads from it any more.
    pub detached: bool,
    /// Where the answer to this end's SYN_STREAM goes.
    pub reply: Option<oneshot::Sender<()>>,
    window: i64,
    given_back: u32,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl StreamState {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

/// What came of a frame.
pub enum Came {
    Nothing,
    /// The peer has opened a stream.
    Stream(u32, Headers),
}

pub struct State {
    role: Role,
    pub streams: HashMap<u32, StreamState>,
    /// Frames that go out before all data.
    pub control: VecDeque<Frame>,
    pub queued: usize,
    /// Nothing is opened any more.
    pub closing: bool,
    /// The connection has ended.
    pub ended: bool,
    next_id: u32,
    last_peer: u32,
    obeys_windows: bool,
    initial_window: i64,
    window: i64,
    given_back: u32,
}

impl State {
    pub fn new(role: Role) -> Self {
        Self {
            role,
            streams: HashMap::new(),
            // One stream that is not read must not use up what all of them may send.
            control: VecDeque::from([Frame::WindowUpdate { stream: 0, delta: SESSION_WINDOW }]),
            queued: 0,
            closing: false,
            ended: false,
            next_id: if role == Role::Client { 1 } else { 2 },
            last_peer: 0,
            obeys_windows: false,
            initial_window: INITIAL_WINDOW,
            window: INITIAL_WINDOW,
            given_back: 0,
        }
    }

    /// Opens a stream of this end; `None` where there is no more room for one.
    pub fn open(&mut self, headers: Headers, reply: oneshot::Sender<()>) -> Option<u32> {
        let full = self.streams.len() >= STREAMS_MAX;
        if full || self.closing || self.ended || self.next_id > super::frame::MAX_31 {
            return None;
        }
        let id = self.next_id;
        self.next_id += 2;
        let window = self.initial_window;
        let stream = StreamState { window, reply: Some(reply), ..StreamState::default() };
        self.streams.insert(id, stream);
        self.control.push_back(Frame::SynStream {
            stream: id,
            associated: 0,
            priority: 0,
            fin: false,
            unidirectional: false,
            headers,
        });
        Some(id)
    }

    /// Takes a frame of the peer in.
    ///
    /// # Errors
    /// The peer asks for more than is kept.
    pub fn take(&mut self, frame: Frame) -> Result<Came, &'static str> {
        if self.control.len() > CONTROL_MAX {
            return Err("the peer does not read the answers that it asks for");
        }
        match frame {
            Frame::SynStream { stream, fin, unidirectional, headers, .. } => {
                return Ok(self.syn_stream(stream, fin, unidirectional, headers));
            }
            Frame::SynReply { stream, fin, .. } => {
                if let Some(state) = self.streams.get_mut(&stream) {
                    if let Some(reply) = state.reply.take() {
                        // The opener may have given up.
                        let _ = reply.send(());
                    }
                    if fin {
                        self.finished(stream);
                    }
                }
            }
            Frame::Headers { stream, fin: true, .. } => self.finished(stream),
            Frame::Headers { .. } => {}
            Frame::Data { stream, fin, data } => self.data(stream, fin, data),
            Frame::RstStream { stream, .. } => {
                if let Some(mut state) = self.streams.remove(&stream) {
                    state.reset = true;
                    state.reply = None;
                    state.wake();
                    if !state.detached {
                        self.streams.insert(stream, state);
                    }
                }
            }
            Frame::Ping(id) => {
                let from_client = id % 2 == 1;
                if from_client == (self.role == Role::Server) {
                    self.control.push_back(Frame::Ping(id));
                }
            }
            Frame::GoAway { .. } => self.closing = true,
            Frame::Settings(settings) => {
                for (_, value) in settings.iter().filter(|(id, _)| *id == SETTING_INITIAL_WINDOW) {
                    self.obeys_windows = true;
                    let more = i64::from(*value) - self.initial_window;
                    self.initial_window = i64::from(*value);
                    for stream in self.streams.values_mut() {
                        stream.window += more;
                        stream.wake();
                    }
                }
            }
            Frame::WindowUpdate { stream, delta } => self.window_update(stream, delta),
        }
        Ok(Came::Nothing)
    }

    fn syn_stream(&mut self, id: u32, fin: bool, one_way: bool, headers: Headers) -> Came {
        let theirs = (id % 2 == 1) == (self.role == Role::Server);
        if !theirs || id <= self.last_peer {
            self.control.push_back(Frame::RstStream { stream: id, status: PROTOCOL_ERROR });
            return Came::Nothing;
        }
        self.last_peer = id;
        if self.closing || self.streams.len() >= STREAMS_MAX {
            self.control.push_back(Frame::RstStream { stream: id, status: REFUSED_STREAM });
            return Came::Nothing;
        }
        let window = self.initial_window;
        let (fin_received, fin_sent) = (fin, one_way);
        let stream = StreamState { window, fin_received, fin_sent, ..StreamState::default() };
        self.streams.insert(id, stream);
        self.control.push_back(Frame::SynReply { stream: id, fin: false, headers: Vec::new() });
        Came::Stream(id, headers)
    }

    fn data(&mut self, id: u32, fin: bool, data: Bytes) {
        let length = data.len();
        match self.streams.get_mut(&id) {
            Some(stream) if !stream.detached && !stream.fin_received && !stream.reset => {
                if !data.is_empty() {
                    self.queued += length;
                    stream.received.push_back(data);
                }
                if let Some(reader) = stream.reader.take() {
                    reader.wake();
                }
            }
            // Nobody wants it, but the session's window is to come back.
            _ => self.read(None, length),
        }
        if fin {
            self.finished(id);
        }
    }

    fn finished(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.fin_received = true;
            if let Some(reader) = stream.reader.take() {
                reader.wake();
            }
            self.forget_if_done(id);
        }
    }

    fn window_update(&mut self, id: u32, delta: u32) {
        self.obeys_windows = true;
        let max = i64::from(super::frame::MAX_31);
        if id == 0 {
            self.window = (self.window + i64::from(delta)).min(max);
            self.streams.values_mut().filter_map(|s| s.writer.take()).for_each(Waker::wake);
        } else if let Some(stream) = self.streams.get_mut(&id) {
            stream.window = (stream.window + i64::from(delta)).min(max);
            if let Some(writer) = stream.writer.take() {
                writer.wake();
            }
        }
    }

    /// Counts bytes that were read (or dropped), and gives them back to the peer.
    pub fn read(&mut self, stream: Option<u32>, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(super::frame::MAX_31);
        self.given_back = self.given_back.saturating_add(bytes);
        if self.given_back >= GIVE_BACK_AT {
            let delta = std::mem::take(&mut self.given_back);
            self.control.push_back(Frame::WindowUpdate { stream: 0, delta });
        }
        let Some(id) = stream else { return };
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.given_back = stream.given_back.saturating_add(bytes);
        if stream.given_back >= GIVE_BACK_AT && !stream.fin_received {
            let delta = std::mem::take(&mut stream.given_back);
            self.control.push_back(Frame::WindowUpdate { stream: id, delta });
        }
    }

    /// How much of `wanted` a stream may send now; `None`: nothing, and `cx` is woken once it may.
    pub fn allowed(&mut self, id: u32, wanted: usize, cx: &mut Context<'_>) -> Option<usize> {
        let stream = self.streams.get_mut(&id)?;
        if !self.obeys_windows {
            return Some(wanted);
        }
        let room = stream.window.min(self.window);
        if room <= 0 {
            stream.writer = Some(cx.waker().clone());
            return None;
        }
        Some(wanted.min(usize::try_from(room).unwrap_or(usize::MAX)))
    }

    pub fn sent(&mut self, id: u32, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.window -= bytes;
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.window -= bytes;
        }
    }

    pub fn wait_to_read(&mut self, id: u32, cx: &mut Context<'_>) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.reader = Some(cx.waker().clone());
        }
    }

    /// Whether a stream can still be written to.
    pub fn writable(&self, id: u32) -> bool {
        self.streams.get(&id).is_some_and(|s| !s.reset && !s.fin_sent) && !self.ended
    }

    /// Marks this end's half as ended.
    pub fn fin_sent(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.fin_sent = true;
            self.forget_if_done(id);
        }
    }

    /// Nobody holds the stream any more: what it has received is dropped.
    pub fn detach(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.detached = true;
        let waiting: usize = stream.received.drain(..).map(|chunk| chunk.len()).sum();
        self.queued -= waiting;
        self.read(None, waiting);
        self.forget_if_done(id);
    }

    /// Breaks a stream off.
    pub fn reset(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let over = stream.reset || self.ended || (stream.fin_received && stream.fin_sent);
        if !over {
            self.control.push_back(Frame::RstStream { stream: id, status: CANCEL });
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.reset = true;
            stream.wake();
        }
    }

    fn forget_if_done(&mut self, id: u32) {
        let done = self
            .streams
            .get(&id)
            .is_some_and(|s| s.detached && (s.reset || (s.fin_received && s.fin_sent)));
        if done {
            self.streams.remove(&id);
        }
    }

    pub fn go_away(&mut self) {
        if !self.closing {
            self.closing = true;
            self.control.push_back(Frame::GoAway { last: self.last_peer, status: 0 });
        }
    }

    /// The connection is over: nothing is read or written any more.
    pub fn end(&mut self) {
        self.ended = true;
        self.closing = true;
        for stream in self.streams.values_mut() {
            stream.reset |= !stream.fin_received;
            stream.reply = None;
            stream.wake();
        }
    }
}
