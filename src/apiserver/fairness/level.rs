//! A priority level: seats, and the queues in front of them.
//!
//! **Invariant:** a seat that is given up goes to somebody who waits, or is free; nobody waits
//! while a seat is free.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::oneshot;

/// A level has at most so many queues.
const QUEUES_MAX: usize = 10_000;

/// Why a request was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("concurrency-limit")]
    NoSeat,
    #[error("queue-full")]
    QueueFull,
    #[error("time-out")]
    TooLong,
}

#[derive(Default)]
struct State {
    seats: usize,
    running: usize,
    queues: Vec<VecDeque<oneshot::Sender<Seat>>>,
    /// Where the next one to run is looked for first.
    turn: usize,
    hand: usize,
    length_max: usize,
    waits: bool,
}

/// A level.
#[derive(Default)]
pub(super) struct Level {
    state: Mutex<State>,
}

/// Leave to run, given back when it is dropped: also by a request that is cut off between being
/// called and running.
pub struct Seat(Option<Arc<Level>>);

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(level) = self.0.take() {
            level.leave();
        }
    }
}

impl Level {
    /// Takes over what the object says; `response`: `limitResponse`.
    pub(super) fn configure(self: &Arc<Self>, seats: usize, response: &Value) {
        let number = |field: &str, otherwise: usize| {
            let said = response["queuing"][field].as_u64();
            said.and_then(|n| usize::try_from(n).ok()).unwrap_or(otherwise)
        };
        let mut state = self.state.lock();
        state.seats = seats;
        state.waits = response["type"] == "Queue";
        state.hand = number("handSize", 8).max(1);
        state.length_max = number("queueLengthLimit", 50);
        let queues = number("queues", 64).clamp(1, QUEUES_MAX);
        // Who waits in a queue that goes is let in by those that stay.
        while state.queues.len() > queues {
            let gone = state.queues.pop().unwrap_or_default();
            state.queues[0].extend(gone);
        }
        state.queues.resize_with(queues, VecDeque::new);
        state.start_waiting(self);
    }

    /// Waits for a seat.
    pub(super) async fn enter(
        self: &Arc<Self>,
        flow: &str,
        wait_max: Duration,
    ) -> Result<Seat, Refused> {
        let waiting = {
            let mut state = self.state.lock();
            if state.running < state.seats {
                state.running += 1;
                return Ok(Seat(Some(self.clone())));
            }
            if !state.waits || state.seats == 0 && state.queues.is_empty() {
                return Err(Refused::NoSeat);
            }
            let queue = state.queue_of(flow);
            // Who gave up waiting leaves its place.
            state.queues[queue].retain(|called| !called.is_closed());
            if state.queues[queue].len() >= state.length_max {
                return Err(Refused::QueueFull);
            }
            let (called, waiting) = oneshot::channel();
            state.queues[queue].push_back(called);
            waiting
        };
        match tokio::time::timeout(wait_max, waiting).await {
            Ok(Ok(seat)) => Ok(seat),
            _ => Err(Refused::TooLong),
        }
    }

    fn leave(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.running -= 1;
        state.start_waiting(self);
    }
}

impl State {
    /// The shortest queue of the flow's hand.
    fn queue_of(&self, flow: &str) -> usize {
        let count = self.queues.len();
        let cards = (0..self.hand as u64).map(|card| {
            let mut hasher = DefaultHasher::new();
            (card, flow).hash(&mut hasher);
            usize::try_from(hasher.finish() % count as u64).expect("less than the count")
        });
        cards.min_by_key(|queue| self.queues[*queue].len()).unwrap_or(0)
    }

    /// Gives free seats to those who wait, a queue after the other.
    fn start_waiting(&mut self, level: &Arc<Level>) {
        while self.running < self.seats {
            let count = self.queues.len();
            let next = (0..count).map(|n| (self.turn + n) % count);
            let Some(queue) = next.into_iter().find(|q| !self.queues[*q].is_empty()) else {
                return;
            };
            self.turn = (queue + 1) % count;
            let Some(called) = self.queues[queue].pop_front() else { continue };
            match called.send(Seat(Some(level.clone()))) {
                Ok(()) => self.running += 1,
                // Nobody waits there any more: the seat was never taken.
                Err(mut unused) => drop(unused.0.take()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn level(seats: usize, response: &Value) -> Arc<Level> {
        let level = Arc::new(Level::default());
        level.configure(seats, response);
        level
    }

    const SOON: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn who_waits_gets_the_seat_that_is_given_up() {
        let response = json!({"type": "Queue",
            "queuing": {"queues": 2, "handSize": 1, "queueLengthLimit": 1}});
        let level = level(1, &response);
        let seat = level.enter("a", SOON).await.expect("a free seat");
        assert_eq!(level.enter("a", SOON).await.err(), Some(Refused::TooLong));
        let waiting = tokio::spawn({
            let level = level.clone();
            async move { level.enter("a", Duration::from_secs(60)).await.is_ok() }
        });
        tokio::task::yield_now().await;
        // The one that gave up has left its place in the queue with nobody in it.
        drop(seat);
        assert!(waiting.await.expect("the task ends"));
        let _again = level.enter("b", SOON).await.expect("it was given back");
    }

    #[tokio::test]
    async fn a_flow_that_floods_leaves_others_their_turn() {
        let response = json!({"type": "Queue",
            "queuing": {"queues": 64, "handSize": 1, "queueLengthLimit": 100}});
        let level = level(1, &response);
        let seat = level.enter("x", SOON).await.expect("a free seat");
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        let flows: Vec<&str> = std::iter::repeat_n("flood", 20).chain(["meek"]).collect();
        for flow in flows {
            let (level, order) = (level.clone(), order.clone());
            tasks.push(tokio::spawn(async move {
                let seat = level.enter(flow, Duration::from_secs(60)).await.expect("its turn");
                order.lock().push(flow);
                drop(seat);
            }));
            tokio::task::yield_now().await;
        }
        drop(seat);
        for task in tasks {
            task.await.expect("the task ends");
        }
        let at = order.lock().iter().position(|flow| *flow == "meek").expect("it ran");
        assert!(at <= 2, "the meek one ran as number {at}");
    }

    #[tokio::test]
    async fn a_level_that_rejects_does_so_at_once() {
        let level = level(0, &json!({"type": "Reject"}));
        assert_eq!(level.enter("a", SOON).await.err(), Some(Refused::NoSeat));
    }
}
