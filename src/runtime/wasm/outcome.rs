//! How the call of a guest ended, in the words of a container's state.

use wasmtime::{Error, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use super::memory::OutOfMemory;
use crate::runtime::spec::ExitReason;

/// Killed by SIGKILL, as a shell says it.
pub const KILLED: i32 = 137;
/// Ended by SIGINT.
pub const INTERRUPTED: i32 = 130;
/// Ended by SIGTERM.
pub const TERMINATED: i32 = 143;
/// Ended by SIGABRT, which is what a trap comes nearest to.
pub const TRAPPED: i32 = 134;

/// A termination message is at most this long in Kubernetes.
const MESSAGE_BYTES_MAX: usize = 4096;

/// How the call of a guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub code: i32,
    pub reason: ExitReason,
    pub message: String,
}

impl Outcome {
    pub fn of_code(code: i32) -> Self {
        let reason = if code == 0 { ExitReason::Completed } else { ExitReason::Error };
        Self { code, reason, message: String::new() }
    }

    /// What an error out of a guest means.
    pub fn of_error(error: &Error) -> Self {
        if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
            return Self::of_code(*code);
        }
        if let Some(oom) = error.downcast_ref::<OutOfMemory>() {
            let message = oom.to_string();
            return Self { code: KILLED, reason: ExitReason::OomKilled, message };
        }
        Self { code: TRAPPED, reason: ExitReason::Error, message: trap_message(error) }
    }

    pub fn oom(&self) -> bool {
        self.reason == ExitReason::OomKilled
    }
}

/// The trap, and the functions it was in.
fn trap_message(error: &Error) -> String {
    let mut message = match error.downcast_ref::<Trap>() {
        Some(trap) => format!("{trap}"),
        None => format!("{:#}", error.root_cause()),
    };
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>()
        && !backtrace.frames().is_empty()
    {
        message.push('\n');
        message.push_str(&backtrace.to_string());
    }
    truncate(&mut message, MESSAGE_BYTES_MAX);
    message
}

fn truncate(message: &mut String, max: usize) {
    if message.len() > max {
        let end = (0..=max).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        message.truncate(end);
    }
}
