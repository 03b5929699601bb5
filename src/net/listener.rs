//! A listening socket: a bounded queue of connections that wait to be accepted.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::NetError;
use super::ports::Claim;
use super::stream::TcpStream;

/// Connections that wait at most, where the listener asked for more.
pub const BACKLOG_MAX: usize = 4096;

/// How long a connect waits for room in a full backlog, as a kernel resends its SYN.
const BACKLOG_WAIT: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct State {
    waiting: VecDeque<TcpStream>,
    limit: usize,
    closed: bool,
    waker: Option<Waker>,
}

/// The queue between connects and accepts.
#[derive(Debug)]
pub(crate) struct Backlog {
    state: Mutex<State>,
    room: Notify,
}

impl Backlog {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        let state = State {
            waiting: VecDeque::new(),
            limit: limit.clamp(1, BACKLOG_MAX),
            closed: false,
            waker: None,
        };
        Arc::new(Self { state: Mutex::new(state), room: Notify::new() })
    }

    /// Hands a connection to the listener, waiting for room a while.
    pub(crate) async fn push(&self, stream: TcpStream) -> Result<(), NetError> {
        let mut stream = stream;
        let deadline = tokio::time::Instant::now() + BACKLOG_WAIT;
        loop {
            let room = self.room.notified();
            match self.try_push(stream) {
                Ok(()) => return Ok(()),
                Err((NetError::WouldBlock, back)) => stream = back,
                Err((error, back)) => {
                    back.reset();
                    return Err(error);
                }
            }
            if tokio::time::timeout_at(deadline, room).await.is_err() {
                stream.reset();
                return Err(NetError::TimedOut);
            }
        }
    }

    pub(crate) fn try_push(&self, stream: TcpStream) -> Result<(), (NetError, TcpStream)> {
        let waker = {
            let mut state = self.state.lock();
            if state.closed {
                return Err((NetError::ConnectionRefused, stream));
            }
            if state.waiting.len() >= state.limit {
                return Err((NetError::WouldBlock, stream));
            }
            state.waiting.push_back(stream);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    fn try_accept(&self) -> Result<TcpStream, NetError> {
        let stream = {
            let mut state = self.state.lock();
            match state.waiting.pop_front() {
                Some(stream) => stream,
                None if state.closed => return Err(NetError::InvalidState),
                None => return Err(NetError::WouldBlock),
            }
        };
        self.room.notify_one();
        Ok(stream)
    }

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.closed || !state.waiting.is_empty() {
            return Poll::Ready(());
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Takes no more connections; those not yet accepted are reset.
    pub(crate) fn close(&self) {
        let (waiting, waker) = {
            let mut state = self.state.lock();
            state.closed = true;
            (std::mem::take(&mut state.waiting), state.waker.take())
        };
        for stream in waiting {
            stream.reset();
        }
        if let Some(waker) = waker {
            waker.wake();
        }
        self.room.notify_waiters();
    }
}

/// A listening socket of a pod. Dropping it closes it and frees the port.
#[derive(Debug)]
pub struct TcpListener {
    backlog: Arc<Backlog>,
    claim: Claim,
}

impl TcpListener {
    pub(crate) fn new(backlog: Arc<Backlog>, claim: Claim) -> Self {
        Self { backlog, claim }
    }

    /// The address that it was bound to, with the port that it got.
    pub fn local_addr(&self) -> SocketAddr {
        self.claim.address()
    }

    /// The next connection, if one waits.
    ///
    /// # Errors
    /// `WouldBlock`; `InvalidState` once the listener was closed.
    pub fn try_accept(&self) -> Result<TcpStream, NetError> {
        self.backlog.try_accept()
    }

    /// Ready when [`Self::try_accept`] would not block.
    pub fn poll_acceptable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.backlog.poll_ready(cx)
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// `InvalidState` once the listener was closed.
    pub async fn accept(&self) -> Result<TcpStream, NetError> {
        loop {
            match self.try_accept() {
                Err(NetError::WouldBlock) => {
                    std::future::poll_fn(|cx| self.poll_acceptable(cx)).await;
                }
                other => return other,
            }
        }
    }

    /// Changes how many connections may wait.
    pub fn set_backlog(&self, limit: usize) {
        self.backlog.state.lock().limit = limit.clamp(1, BACKLOG_MAX);
        self.backlog.room.notify_waiters();
    }

    /// Stops listening without giving the handle up: connects are refused, the port is free.
    pub fn close(&self) {
        self.claim.release();
        self.backlog.close();
    }

    /// A handle that closes the listener from elsewhere.
    pub fn closer(&self) -> ListenerCloser {
        ListenerCloser { backlog: self.backlog.clone(), claim: self.claim.clone_handle() }
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        self.close();
    }
}

/// Closes a [`TcpListener`] that somebody else holds, as at SIGTERM.
#[derive(Debug)]
pub struct ListenerCloser {
    backlog: Arc<Backlog>,
    claim: super::ports::ClaimHandle,
}

impl ListenerCloser {
    /// Stops the listening.
    pub fn close(&self) {
        self.claim.release();
        self.backlog.close();
    }

    /// Whether it still listens.
    pub fn is_listening(&self) -> bool {
        !self.backlog.state.lock().closed
    }
}
