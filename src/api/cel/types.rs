//! The types of expressions.

use std::fmt;
use std::sync::Arc;

/// The fields of an object, found by name: types may contain themselves.
pub trait Fields: Send + Sync {
    /// As messages name the type.
    fn name(&self) -> String;

    /// The type of a field; `None` where there is no such field.
    fn field(&self, name: &str) -> Option<Type>;
}

/// What a value is.
#[derive(Clone)]
pub enum Type {
    /// Anything.
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    List(Arc<Type>),
    Map(Arc<Type>, Arc<Type>),
    Object(Arc<dyn Fields>),
    Optional(Arc<Type>),
    /// A type itself, as `type(x)` answers.
    Type,
    /// A type of one of Kubernetes' libraries.
    Opaque(&'static str),
}

impl Type {
    /// A list of `of`.
    pub fn list(of: Type) -> Self {
        Self::List(Arc::new(of))
    }

    /// A map from strings to `of`.
    pub fn map(of: Type) -> Self {
        Self::Map(Arc::new(Self::String), Arc::new(of))
    }

    /// Whether nothing is known of it.
    pub fn is_dyn(&self) -> bool {
        matches!(self, Self::Dyn)
    }

    fn is_number(&self) -> bool {
        matches!(self, Self::Int | Self::Uint | Self::Double)
    }

    /// Whether a value of this type may stand where `wanted` is.
    pub(super) fn fits(&self, wanted: &Type) -> bool {
        match (self, wanted) {
            (Self::Dyn, _) | (_, Self::Dyn) => true,
            (
                Self::Null,
                Self::Object(_) | Self::Timestamp | Self::Duration | Self::Optional(_),
            ) => true,
            (Self::List(a), Self::List(b)) | (Self::Optional(a), Self::Optional(b)) => a.fits(b),
            (Self::Map(a, b), Self::Map(c, d)) => a.fits(c) && b.fits(d),
            (Self::Object(a), Self::Object(b)) => a.name() == b.name(),
            (Self::Opaque(a), Self::Opaque(b)) => a == b,
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        }
    }

    /// Whether two values can be compared for being equal.
    pub(super) fn comparable(&self, other: &Type) -> bool {
        self.fits(other)
            || other.fits(self)
            || (self.is_number() && other.is_number())
            || matches!(self, Self::Null)
            || matches!(other, Self::Null)
    }

    /// What both are.
    pub(super) fn join(self, other: Type) -> Type {
        if self.fits(&other) && other.fits(&self) && !self.is_dyn() && !other.is_dyn() {
            self
        } else {
            Self::Dyn
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn => f.write_str("dyn"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Duration => f.write_str("duration"),
            Self::List(of) => write!(f, "list({of})"),
            Self::Map(key, value) => write!(f, "map({key}, {value})"),
            Self::Object(of) => f.write_str(&of.name()),
            Self::Optional(of) => write!(f, "optional_type({of})"),
            Self::Type => f.write_str("type"),
            Self::Opaque(name) => f.write_str(name),
        }
    }
}

impl fmt::Debug for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
