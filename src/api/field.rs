//! Paths of fields and the errors about them, worded as Kubernetes' `field` package words them.

use std::fmt;

use serde_json::Value;

use super::status::{FieldError, FieldErrorKind};

/// Where a field is: `spec.containers[0].image`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// A path of one name, or of several with dots between.
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// A field of what is here.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self::new(name) } else { Self(format!("{}.{name}", self.0)) }
    }

    /// An element of the list that is here.
    #[must_use]
    pub fn index(&self, at: usize) -> Self {
        Self(format!("{}[{at}]", self.0))
    }

    /// A value of the map that is here.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    fn error(&self, kind: FieldErrorKind, message: String) -> FieldError {
        FieldError { kind, path: self.0.clone(), message }
    }

    /// `Required value`, or `Required value: DETAIL`.
    pub fn required(&self, detail: &str) -> FieldError {
        let colon = if detail.is_empty() { "" } else { ": " };
        self.error(FieldErrorKind::Required, format!("Required value{colon}{detail}"))
    }

    /// `Invalid value: "x": DETAIL`.
    pub fn invalid(&self, value: impl Into<Value>, detail: impl fmt::Display) -> FieldError {
        let shown = show(&value.into());
        self.error(FieldErrorKind::Invalid, format!("Invalid value: {shown}: {detail}"))
    }

    /// `Unsupported value: "x": supported values: "a", "b"`.
    pub fn not_supported(&self, value: &str, supported: &[&str]) -> FieldError {
        let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let message =
            format!("Unsupported value: {value:?}: supported values: {}", list.join(", "));
        self.error(FieldErrorKind::NotSupported, message)
    }

    /// `Duplicate value: "x"`.
    pub fn duplicate(&self, value: impl Into<Value>) -> FieldError {
        self.error(FieldErrorKind::Duplicate, format!("Duplicate value: {}", show(&value.into())))
    }

    /// `Not found: "x"`.
    pub fn not_found(&self, value: impl Into<Value>) -> FieldError {
        self.error(FieldErrorKind::NotFound, format!("Not found: {}", show(&value.into())))
    }

    /// `Forbidden: DETAIL`.
    pub fn forbidden(&self, detail: impl fmt::Display) -> FieldError {
        self.error(FieldErrorKind::Forbidden, format!("Forbidden: {detail}"))
    }

    /// `Too long: may not be more than N bytes`.
    pub fn too_long(&self, max: usize) -> FieldError {
        let message = format!("Too long: may not be more than {max} bytes");
        self.error(FieldErrorKind::TooLong, message)
    }

    /// `Too many: N: must have at most M items`.
    pub fn too_many(&self, count: usize, max: usize) -> FieldError {
        let message = format!("Too many: {count}: must have at most {max} items");
        self.error(FieldErrorKind::TooMany, message)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn show(value: &Value) -> String {
    value.to_string()
}
