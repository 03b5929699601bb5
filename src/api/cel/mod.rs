//! The Common Expression Language as Kubernetes uses it: rules of custom resources, admission
//! policies, match conditions of webhooks (cel-spec; `k8s.io/apiserver/pkg/cel`).
//!
//! ```text
//! source ─ parse ─▶ Node ─┬─ check   (types, when a rule is written)
//!                         └─ eval    (values, under a Budget, when a rule is kept)
//! ```
//!
//! The functions of Kubernetes' libraries come from the `kube-cel` crate. Parser and evaluator are
//! our own: the crate's interpreter counts no steps, and answers `false` for a field of what is no
//! map (see decision 0010).
//!
//! **Invariant:** evaluation ends after as many steps as its [`Budget`] holds.

mod ast;
mod builtin;
mod check;
mod eval;
mod lexer;
mod library;
mod parser;
mod signatures;
#[cfg(test)]
mod tests;
mod types;
mod value;

use ast::Node;
pub use builtin::builtin_type;
pub use check::Declarations;
use check::check;
pub use eval::{Budget, EvalError, Scope, Variables};
pub use kube_cel::cel::Value;
pub use library::optional;
pub use types::{Fields, Type};
pub use value::{from_json, from_json_typed, to_json};

/// Why an expression cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ERROR: <input>:{line}:{column}: {what}\n | {text}\n | {marker}^")]
pub struct CompileError {
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    pub what: String,
    text: String,
    marker: String,
}

impl CompileError {
    /// About what stands at byte `at` of `source`.
    pub(crate) fn new(source: &str, at: usize, what: impl Into<String>) -> Self {
        let at = source.floor_char_boundary(at.min(source.len()));
        let before = &source[..at];
        let line = before.matches('\n').count() + 1;
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let column = before[start..].chars().count() + 1;
        let text = source[start..].lines().next().unwrap_or_default().to_owned();
        Self { line, column, what: what.into(), text, marker: ".".repeat(column - 1) }
    }
}

/// An expression that was understood.
#[derive(Debug)]
pub struct Program {
    source: String,
    root: Node,
}

impl Program {
    /// Reads an expression.
    ///
    /// # Errors
    /// [`CompileError`] where it is none.
    pub fn parse(source: &str) -> Result<Self, CompileError> {
        Ok(Self { source: source.to_owned(), root: parser::parse(source)? })
    }

    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Its value, in a scope.
    ///
    /// # Errors
    /// [`EvalError`] where it has none, or costs more than what is left.
    pub fn eval(&self, scope: &dyn Scope, budget: &Budget) -> Result<Value, EvalError> {
        eval::eval(&self.root, scope, budget)
    }

    /// The type of its value.
    ///
    /// # Errors
    /// Everything that cannot be right, whatever the values.
    pub fn check(&self, declared: &Declarations) -> Result<Type, Vec<CompileError>> {
        check(&self.source, &self.root, declared)
    }

    /// Whether it names a variable that it does not bind itself.
    pub fn names(&self, variable: &str) -> bool {
        self.root.names(variable)
    }
}
