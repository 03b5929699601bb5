//! What an artifact is, told by its content and never by its name.

use wasmtime::component::types::ComponentItem;
use wasmtime::{Engine, Module};

/// The two binary forms of wasm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Module,
    Component,
}

/// What an artifact is, told by its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArtifactKind {
    /// A core module with WASI preview 1 and `_start`.
    CoreCommand,
    /// A component that exports `wasi:cli/run@0.2`.
    Command,
    /// A component that exports `wasi:http/incoming-handler@0.2`.
    HttpHandler,
}

/// So many exports are named in an error.
const NAMED_EXPORTS_MAX: usize = 8;

/// Tells a module from a component by the preamble (core specification 5.5.16, component model
/// binary format).
///
/// # Errors
/// What it is instead.
pub fn form(bytes: &[u8]) -> Result<Form, String> {
    let shown = bytes.get(..8).unwrap_or(bytes);
    match shown {
        [0, b'a', b's', b'm', 1, 0, 0, 0] => Ok(Form::Module),
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0] => Ok(Form::Component),
        [] => Err("the file is empty".to_string()),
        [0, b'a', b's', b'm', ..] => {
            Err(format!("unknown version of wasm: {}", hex::encode(shown)))
        }
        [0x7f, b'E', b'L', b'F', ..] => {
            Err("it is an ELF program, for a machine rather than for wasm".to_string())
        }
        [b'(', ..] => {
            Err("it is wasm text: assemble it first, with wat2wasm or wasm-tools".to_string())
        }
        _ => Err(format!("it starts with {} rather than \\0asm", hex::encode(shown))),
    }
}

/// Tells the kind of a core module.
///
/// # Errors
/// The names it exports instead.
pub fn module_kind(module: &Module) -> Result<ArtifactKind, String> {
    match module.get_export("_start") {
        Some(wasmtime::ExternType::Func(_)) => Ok(ArtifactKind::CoreCommand),
        _ => Err(named(module.exports().map(|export| export.name().to_string()))),
    }
}

/// Tells the kind of a component.
///
/// # Errors
/// The names it exports instead.
pub fn component_kind(
    component: &wasmtime::component::Component,
    engine: &Engine,
) -> Result<ArtifactKind, String> {
    let ty = component.component_type();
    let exports = |interface: &str| ty.exports(engine).any(|(name, _)| name.starts_with(interface));
    if exports("wasi:http/incoming-handler@0.2.") {
        Ok(ArtifactKind::HttpHandler)
    } else if exports("wasi:cli/run@0.2.") {
        Ok(ArtifactKind::Command)
    } else {
        Err(named(ty.exports(engine).map(|(name, _)| name.to_string())))
    }
}

/// Whether the component asks for files, so that directories must be opened for it.
pub fn uses_files(component: &wasmtime::component::Component, engine: &Engine) -> bool {
    component.component_type().imports(engine).any(|(name, import)| {
        name.starts_with("wasi:filesystem/")
            && matches!(import.ty, ComponentItem::ComponentInstance(_))
    })
}

fn named(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.take(NAMED_EXPORTS_MAX + 1).collect();
    if names.is_empty() {
        return "nothing".to_string();
    }
    if names.len() > NAMED_EXPORTS_MAX {
        names[NAMED_EXPORTS_MAX] = "…".to_string();
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_told_by_their_first_bytes() {
        assert_eq!(form(b"\0asm\x01\0\0\0rest"), Ok(Form::Module));
        assert_eq!(form(b"\0asm\x0d\0\x01\0rest"), Ok(Form::Component));
        assert!(form(b"\0asm\x02\0\0\0").is_err_and(|problem| problem.contains("version")));
        assert!(form(b"\x7fELF").is_err_and(|problem| problem.contains("ELF")));
        assert!(form(b"(module)").is_err_and(|problem| problem.contains("text")));
        assert!(form(b"").is_err_and(|problem| problem.contains("empty")));
    }
}
