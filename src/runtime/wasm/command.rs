//! Programs: core modules with `_start`, components with `wasi:cli/run`.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use wasmtime::Result;

use super::artifacts::Code;
use super::linker::Linked;
use super::outcome::{Outcome, TRAPPED};
use super::state::Context;
use crate::runtime::spec::ExitReason;

/// Runs a program from its start to its end.
pub async fn run(code: &Arc<Code>, context: &Context) -> Outcome {
    // A mistake of ours must not leave a workload that never ends; the store goes either way.
    match AssertUnwindSafe(call(code, context)).catch_unwind().await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => Outcome::of_error(&error),
        Err(_) => Outcome {
            code: TRAPPED,
            reason: ExitReason::Error,
            message: "the runtime broke while it ran the program".to_string(),
        },
    }
}

async fn call(code: &Arc<Code>, context: &Context) -> Result<Outcome> {
    match &code.linked {
        Linked::Core(pre) => {
            let mut store = context.core_store(&code.engine)?;
            let instance = pre.instantiate_async(&mut store).await?;
            let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
            start.call_async(&mut store, ()).await?;
            Ok(Outcome::of_code(0))
        }
        Linked::Command(pre) => {
            let mut store = context.store(&code.engine, code.uses_files, 0)?;
            *context.sockets.lock() = Some(store.data().sockets_handle());
            let command = pre.instantiate_async(&mut store).await?;
            let ended = command.wasi_cli_run().call_run(&mut store).await?;
            Ok(Outcome::of_code(if ended.is_ok() { 0 } else { 1 }))
        }
        Linked::Http(_) => Err(wasmtime::format_err!("an http handler is no program")),
    }
}
