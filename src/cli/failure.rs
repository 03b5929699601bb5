//! Why a verb failed, in the words that kubectl uses for it, with the exit code that belongs to it.

use std::io;

use serde_json::Value;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The server answered with a `Status`.
    #[error("{}", server_says(status, doing.as_deref()))]
    Server {
        status: Box<Value>,
        /// As `error when creating "web.yaml:3"`.
        doing: Option<String>,
    },
    /// The command line asks for what cannot be: exit code 2.
    #[error("error: {0}")]
    Usage(String),
    /// Anything else, in one message that names the thing and the remedy.
    #[error("error: {0}")]
    Other(String),
    /// The connection to the server failed, in kubectl's words.
    #[error("{0}")]
    Connection(String),
    /// A command that ran elsewhere ended with this exit code, which becomes ours.
    #[error("command terminated with exit code {0}")]
    Ended(i32),
    /// Whoever read the output has gone: no error of ours.
    #[error("the output was closed")]
    OutputClosed,
}

impl Failure {
    /// Bad usage.
    pub fn usage(why: impl Into<String>) -> Self {
        Self::Usage(why.into())
    }

    /// Any other failure.
    pub fn other(why: impl Into<String>) -> Self {
        Self::Other(why.into())
    }

    /// What a `Status` says.
    pub fn status(status: Value) -> Self {
        Self::Server { status: Box::new(status), doing: None }
    }

    /// Says what was being done when the server refused.
    #[must_use]
    pub fn doing(self, what: impl Into<String>) -> Self {
        match self {
            Self::Server { status, .. } => Self::Server { status, doing: Some(what.into()) },
            other => other,
        }
    }

    /// The `reason` of the server's answer; empty where there is none.
    pub fn reason(&self) -> &str {
        match self {
            Self::Server { status, .. } => status["reason"].as_str().unwrap_or_default(),
            _ => "",
        }
    }

    /// Whether the server says that the object is not there.
    pub fn is_not_found(&self) -> bool {
        self.reason() == "NotFound"
    }

    /// 1 failed, 2 bad usage, 0 for output that nobody reads.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::OutputClosed => 0,
            Self::Ended(code) => u8::try_from(*code).unwrap_or(1),
            _ => 1,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Other(error.to_string()),
        }
    }
}

fn server_says(status: &Value, doing: Option<&str>) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (reason, message) = (text(&status["reason"]), text(&status["message"]));
    let details = &status["details"];
    if reason == "Unauthorized" {
        return "error: You must be logged in to the server (Unauthorized): the credentials of \
                this kubeconfig are not (or no longer) valid for this cluster; take the \
                kubeconfig that `coracle server` writes into its data directory"
            .to_owned();
    }
    if reason == "Invalid" && !text(&details["kind"]).is_empty() {
        return invalid(&text(&details["kind"]), &text(&details["name"]), details, doing);
    }
    let message = match doing {
        Some(doing) => format!("{doing}: {message}"),
        None => message,
    };
    match reason.as_str() {
        "" | "Unknown" => format!("Error from server: {message}"),
        reason => format!("Error from server ({reason}): {message}"),
    }
}

fn invalid(kind: &str, name: &str, details: &Value, doing: Option<&str>) -> String {
    let mut causes: Vec<String> = Vec::new();
    for cause in details["causes"].as_array().into_iter().flatten() {
        let (field, message) = (cause["field"].as_str(), cause["message"].as_str());
        let told = match (field.unwrap_or_default(), message.unwrap_or_default()) {
            ("", message) => message.to_owned(),
            (field, message) => format!("{field}: {message}"),
        };
        if !causes.contains(&told) {
            causes.push(told);
        }
    }
    let place = doing.map(|doing| format!("({doing}) ")).unwrap_or_default();
    match causes.as_slice() {
        [] => format!("{place}The {kind} \"{name}\" is invalid"),
        [one] => format!("{place}The {kind} \"{name}\" is invalid: {one}"),
        many => format!("{place}The {kind} \"{name}\" is invalid: \n* {}", many.join("\n* ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn statuses_are_told_in_kubectls_words() {
        let not_found = json!({"reason": "NotFound", "message": "pods \"x\" not found"});
        let told = Failure::status(not_found.clone()).to_string();
        assert_eq!(told, "Error from server (NotFound): pods \"x\" not found");
        let told = Failure::status(not_found).doing("error when creating \"a.yaml:3\"").to_string();
        assert_eq!(
            told,
            "Error from server (NotFound): error when creating \"a.yaml:3\": pods \"x\" not found"
        );
        let cause = json!({"field": "spec.a", "message": "Required value"});
        let details = json!({"kind": "Pod", "name": "p", "causes": [cause, cause]});
        let told = Failure::status(json!({"reason": "Invalid", "details": details})).to_string();
        assert_eq!(told, "The Pod \"p\" is invalid: spec.a: Required value");
        assert_eq!(
            Failure::status(json!({"message": "broken"})).to_string(),
            "Error from server: broken"
        );
    }

    #[test]
    fn exit_codes_tell_bad_usage_from_failure() {
        assert_eq!(Failure::usage("x").exit_code(), 2);
        assert_eq!(Failure::other("x").exit_code(), 1);
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).exit_code(), 0);
    }
}
