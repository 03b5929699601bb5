//! What a store holds for its guest.

use std::sync::Arc;

use parking_lot::Mutex;
use wasmtime::component::ResourceTable;
use wasmtime::{Engine, Store, UpdateDeadline};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::files::Files;
use super::memory::{MemoryAccount, StoreMemory};
use super::outgoing::Outgoing;
use super::sockets::{SocketsCtx, SocketsHandle, SocketsView};
use super::stdio::{Output, Outputs, Stdin};
use crate::net::Namespace;
use crate::runtime::spec::Stdio;

/// Host resources (streams, sockets, files, requests) that one instance may hold.
const RESOURCES_MAX: usize = 16_384;

/// Bytes that one host call may copy out of a guest.
const HOSTCALL_BYTES_MAX: usize = 32 << 20;

/// The state of a component's store.
pub struct Guest {
    wasi: WasiCtx,
    table: ResourceTable,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    sockets: SocketsCtx,
    memory: StoreMemory,
}

/// The state of a core module's store.
pub struct CoreGuest {
    pub wasi: WasiP1Ctx,
    memory: StoreMemory,
}

/// What all instances of one workload (or of one `exec` in it) have in common.
pub struct Context {
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub working_dir: Option<String>,
    pub files: Arc<Files>,
    pub stdin: Stdin,
    pub outputs: Arc<Outputs>,
    pub network: Arc<Namespace>,
    pub memory: Arc<MemoryAccount>,
    /// The sockets of the program, while one runs.
    pub sockets: Mutex<Option<Arc<SocketsHandle>>>,
}

impl Context {
    fn wasi(&self, with_files: bool) -> wasmtime::Result<WasiCtxBuilder> {
        let output = |stream| Output { outputs: self.outputs.clone(), stream };
        let mut wasi = WasiCtxBuilder::new();
        wasi.args(&self.args)
            .envs(&self.env)
            .stdin(self.stdin.clone())
            .stdout(output(Stdio::Stdout))
            .stderr(output(Stdio::Stderr));
        if let Some(dir) = &self.working_dir {
            wasi.initial_cwd(dir);
        }
        if with_files {
            self.files.open(&mut wasi)?;
        }
        Ok(wasi)
    }

    /// A store for a component. `depth` is how many handlers have called each other to get here.
    ///
    /// # Errors
    /// When a mounted directory has gone.
    pub fn store(
        &self,
        engine: &Engine,
        with_files: bool,
        depth: u32,
    ) -> wasmtime::Result<Store<Guest>> {
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        let guest = Guest {
            wasi: self.wasi(with_files)?.build(),
            table,
            http: WasiHttpCtx::new(),
            outgoing: Outgoing::new(self.network.clone(), depth),
            sockets: SocketsCtx::new(self.network.clone()),
            memory: StoreMemory::new(self.memory.clone()),
        };
        let mut store = Store::new(engine, guest);
        store.limiter_async(|guest| &mut guest.memory);
        store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
        yield_every_tick(&mut store);
        Ok(store)
    }

    /// A store for a core module.
    ///
    /// # Errors
    /// When a mounted directory has gone.
    pub fn core_store(&self, engine: &Engine) -> wasmtime::Result<Store<CoreGuest>> {
        let memory = StoreMemory::new(self.memory.clone());
        let mut store = Store::new(engine, CoreGuest { wasi: self.wasi(true)?.build_p1(), memory });
        store.limiter_async(|guest| &mut guest.memory);
        store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
        yield_every_tick(&mut store);
        Ok(store)
    }
}

/// At every tick of the epoch the guest's `poll` returns: the executor decides what runs next.
fn yield_every_tick<T: 'static>(store: &mut Store<T>) {
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Yield(1)));
}

impl Guest {
    /// The sockets of this instance, for the linker.
    pub fn sockets(&mut self) -> SocketsView<'_> {
        SocketsView { table: &mut self.table, ctx: &mut self.sockets }
    }

    /// Reaches its listeners from outside.
    pub fn sockets_handle(&self) -> Arc<SocketsHandle> {
        self.sockets.handle()
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.outgoing, table: &mut self.table, ctx: &mut self.http }
    }
}
