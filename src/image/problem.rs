//! Why a source has not given an image: what decides whether another one is asked.

use std::io;

/// Why there is nothing. The text names what is wrong and, where there is one, the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The source answers, and does not have it.
    #[error("{0}")]
    NotFound(String),
    /// It wants to know who asks, or those who ask may not.
    #[error("{0}")]
    Denied(String),
    /// It does not answer, also not after several tries.
    #[error("{0}")]
    Unreachable(String),
    /// What it gave cannot be used.
    #[error("{0}")]
    Refused(String),
    /// The disk of this machine.
    #[error("content store: {0}")]
    Disk(String),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Disk(error.to_string())
    }
}

impl Problem {
    pub fn refused(why: impl Into<String>) -> Self {
        Self::Refused(why.into())
    }

    /// The same problem, with what was being done in front.
    #[must_use]
    pub fn doing(self, what: &str) -> Self {
        let with = |text: String| format!("{what}: {text}");
        match self {
            Self::NotFound(text) => Self::NotFound(with(text)),
            Self::Denied(text) => Self::Denied(with(text)),
            Self::Unreachable(text) => Self::Unreachable(with(text)),
            Self::Refused(text) => Self::Refused(with(text)),
            Self::Disk(text) => Self::Disk(text),
        }
    }
}
