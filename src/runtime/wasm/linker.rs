//! What guests may import.
//!
//! Everything is wasmtime's implementation of WASI, with three exceptions: `wasi:sockets` ends in
//! the virtual network, `wasi:http` outgoing calls too, and `proc_exit` takes all codes from 0 to
//! 255.

use wasmtime::component::Component;
use wasmtime::{Engine, Module, UnknownImportError};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use super::recognize::{self, ArtifactKind};
use super::sockets;
use super::state::{CoreGuest, Guest};
use crate::runtime::error::PrepareError;

/// An artifact, loaded into an engine and linked, ready to be instantiated.
pub enum Linked {
    Core(wasmtime::InstancePre<CoreGuest>),
    Command(CommandPre<Guest>),
    Http(ProxyPre<Guest>),
}

impl Linked {
    pub fn kind(&self) -> ArtifactKind {
        match self {
            Self::Core(_) => ArtifactKind::CoreCommand,
            Self::Command(_) => ArtifactKind::Command,
            Self::Http(_) => ArtifactKind::HttpHandler,
        }
    }
}

/// The imports of one engine.
pub struct Linkers {
    engine: Engine,
    core: wasmtime::Linker<CoreGuest>,
    component: wasmtime::component::Linker<Guest>,
}

impl Linkers {
    /// The imports, defined for `engine`.
    ///
    /// # Errors
    /// When two definitions clash, which would be a mistake of ours.
    pub fn new(engine: &Engine) -> wasmtime::Result<Self> {
        let mut core = wasmtime::Linker::new(engine);
        wasmtime_wasi::p1::add_to_linker_async(&mut core, |guest: &mut CoreGuest| &mut guest.wasi)?;
        core.allow_shadowing(true);
        core.func_wrap(
            "wasi_snapshot_preview1",
            "proc_exit",
            |code: i32| -> wasmtime::Result<()> { Err(I32Exit(code & 0xff).into()) },
        )?;
        let mut component = wasmtime::component::Linker::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut component)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut component)?;
        component.allow_shadowing(true);
        sockets::add_to_linker(&mut component, Guest::sockets)?;
        Ok(Self { engine: engine.clone(), core, component })
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Links a core module.
    ///
    /// # Errors
    /// `NoEntry`, `UnknownImport`, `Mismatch`.
    pub fn link_module(&self, module: &Module) -> Result<Linked, PrepareError> {
        recognize::module_kind(module).map_err(|exports| PrepareError::NoEntry { exports })?;
        self.core.instantiate_pre(module).map(Linked::Core).map_err(|error| match error
            .downcast_ref::<UnknownImportError>(
        ) {
            Some(unknown) => PrepareError::UnknownImport {
                import: format!("{}::{}", unknown.module(), unknown.name()),
            },
            None => PrepareError::Mismatch(format!("{error:#}")),
        })
    }

    /// Links a component.
    ///
    /// # Errors
    /// `NoEntry`, `UnknownImport`, `Mismatch`.
    pub fn link_component(&self, component: &Component) -> Result<Linked, PrepareError> {
        let kind = recognize::component_kind(component, &self.engine)
            .map_err(|exports| PrepareError::NoEntry { exports })?;
        let pre = self.component.instantiate_pre(component).map_err(|error| refused(&error))?;
        let mismatch = |error: wasmtime::Error| PrepareError::Mismatch(format!("{error:#}"));
        match kind {
            ArtifactKind::HttpHandler => ProxyPre::new(pre).map(Linked::Http).map_err(mismatch),
            _ => CommandPre::new(pre).map(Linked::Command).map_err(mismatch),
        }
    }
}

/// The linker says `component imports instance `NAME`, but a matching implementation was not found
/// in the linker`, and for one missing function more below that.
fn refused(error: &wasmtime::Error) -> PrepareError {
    let whole = format!("{error:#}");
    let quoted: Vec<&str> = whole.split('`').skip(1).step_by(2).collect();
    let missing = whole.contains("was not found in the linker") || whole.contains("is missing");
    match quoted.as_slice() {
        [] => PrepareError::Mismatch(whole),
        names if missing => PrepareError::UnknownImport { import: names.join(" ") },
        _ => PrepareError::Mismatch(whole),
    }
}
