//! `wait`: until objects have a condition, are deleted or created, or a JSONPath of them says
//! something.

use std::time::Duration;

use clap::Args;
use serde_json::Value;
use tokio::time::Instant;

use super::follow;
use super::target::{self, Narrow, elements};
use crate::cli::call::Connection;
use crate::cli::duration;
use crate::cli::failure::Failure;
use crate::cli::jsonpath::{Template, shown};
use crate::cli::out::Out;
use crate::cli::resources::Discovery;

/// What stands for waiting without an end.
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// What `wait` is asked.
#[derive(Debug, Clone, Args)]
pub struct WaitArgs {
    /// KIND[,KIND] [NAME…] or KIND/NAME…
    #[arg(required = true, value_name = "KIND [NAME]")]
    pub objects: Vec<String>,
    /// What for: condition=NAME[=VALUE], delete, create, jsonpath='{.a.b}'[=VALUE]
    #[arg(long = "for", value_name = "STATE", required = true, value_parser = State::parse)]
    pub state: State,
    /// How long at most; negative: a week
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = timeout)]
    #[arg(allow_hyphen_values = true)]
    pub timeout: Duration,
    /// Those with these labels
    #[arg(short = 'l', long, value_name = "LABELS", default_value = "", hide_default_value = true)]
    pub selector: String,
    /// Those with these fields
    #[arg(long, value_name = "FIELDS", default_value = "", hide_default_value = true)]
    pub field_selector: String,
    /// All of the kind in the namespace
    #[arg(long)]
    pub all: bool,
    /// In all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}

fn timeout(text: &str) -> Result<Duration, String> {
    match text.strip_prefix('-') {
        Some(_) => Ok(WEEK),
        None => duration::parse(text),
    }
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    Deleted,
    Created,
    /// A condition of this type (in any case) has this status.
    Condition(String, String),
    /// What this selects is this text; anything where there is none.
    JsonPath(Template, Option<String>),
}

impl State {
    /// From what stands behind `--for`.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lower = text.to_lowercase();
        if lower == "delete" {
            return Ok(Self::Deleted);
        }
        if lower == "create" {
            return Ok(Self::Created);
        }
        if let Some(rest) = text.strip_prefix("condition=") {
            let (name, value) = rest.split_once('=').unwrap_or((rest, "true"));
            if name.is_empty() {
                return Err("a condition needs a name: condition=Ready".to_owned());
            }
            return Ok(Self::Condition(name.to_owned(), value.to_owned()));
        }
        if let Some(rest) = text.strip_prefix("jsonpath=") {
            // The value stands behind the brace that closes the expression; quotes around either
            // are left from a shell that kept them.
            let rest = rest.strip_prefix('\'').unwrap_or(rest);
            let (path, value) = match rest.rfind('}') {
                None => rest.split_once('=').map_or((rest, None), |(path, v)| (path, Some(v))),
                Some(at) => {
                    let behind = rest[at + 1..].trim_start_matches('\'');
                    (&rest[..=at], behind.strip_prefix('='))
                }
            };
            if value == Some("") {
                return Err("jsonpath wait value cannot be empty".to_owned());
            }
            let value = value.map(|v| v.trim_matches(['\'', '"']).to_owned());
            return Ok(Self::JsonPath(Template::parse(path)?, value));
        }
        Err(format!(
            "unrecognized condition: {text:?}: write condition=Ready, delete, create or \
             jsonpath='{{.status.phase}}'=Running"
        ))
    }

    /// Whether an object (`None`: not there) is in the state.
    pub fn fits(&self, object: Option<&Value>) -> bool {
        match (self, object) {
            (Self::Deleted, object) => object.is_none(),
            (_, None) => false,
            (Self::Created, Some(_)) => true,
            (Self::Condition(name, status), Some(object)) => has_condition(object, name, status),
            (Self::JsonPath(template, wanted), Some(object)) => {
                let found = template.select(object);
                match wanted {
                    None => !found.is_empty(),
                    Some(wanted) => found.iter().any(|value| shown(value) == *wanted),
                }
            }
        }
    }
}

/// A condition that was told of an older generation says nothing of this one.
fn has_condition(object: &Value, name: &str, status: &str) -> bool {
    let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
    let same =
        |value: &Value, text: &str| value.as_str().unwrap_or_default().eq_ignore_ascii_case(text);
    let found = elements(&object["status"]["conditions"]);
    let Some(condition) = found.iter().find(|c| same(&c["type"], name)) else { return false };
    let told = [&condition["observedGeneration"], &object["status"]["observedGeneration"]];
    let told = told.into_iter().find_map(Value::as_i64);
    told.is_none_or(|told| told >= generation) && same(&condition["status"], status)
}

/// Waits.
///
/// # Errors
/// Bad usage, no server, an unknown kind.
pub async fn run(args: &WaitArgs, connection: &Connection, out: &mut Out) -> Result<(), Failure> {
    let discovery = Discovery::of(connection).await?;
    let targets = target::targets(&discovery, &args.objects)?;
    let selects = args.all || !args.selector.is_empty() || !args.field_selector.is_empty();
    if targets.iter().any(|target| target.names.is_empty()) && !selects {
        return Err(Failure::usage(
            "resource(s) were provided, but no name was specified: give names, -l LABELS or --all",
        ));
    }
    let narrow = Narrow {
        selector: &args.selector,
        fields: &args.field_selector,
        all_namespaces: args.all_namespaces,
    };
    let deadline = Instant::now() + args.timeout;
    let found = target::named(connection, &targets, narrow).await?;
    if found.is_empty() && args.state != State::Deleted {
        return Err(Failure::other("no matching resources found"));
    }
    for named in found {
        let late = || {
            Failure::other(format!(
                "timed out waiting for the condition on {}: see `coracle describe {}`",
                named.typed(),
                named.typed()
            ))
        };
        let done = |object: Option<&Value>| {
            if object.is_none() && matches!(args.state, State::Condition(..) | State::JsonPath(..))
            {
                let plural = named.resource.qualified();
                return Err(Failure::status(serde_json::json!({"reason": "NotFound",
                    "message": format!("{plural} \"{}\" not found", named.name)})));
            }
            Ok(args.state.fits(object).then_some(()))
        };
        match follow::until(connection, &named, Some(deadline), late, done).await {
            Ok(()) => {
                let how = match args.state {
                    State::Deleted => "deleted",
                    State::Created => "created",
                    _ => "condition met",
                };
                out.line(format!("{} {how}", named.typed()))?;
                out.flush()?;
            }
            Err(failure) => out.fail(failure)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fits(state: &str, object: &Value) -> bool {
        State::parse(state).expect(state).fits(Some(object))
    }

    #[test]
    fn states_are_recognised() {
        let object = json!({
            "metadata": {"generation": 2},
            "status": {"phase": "Running", "n": 3, "observedGeneration": 2, "conditions": [
                {"type": "Ready", "status": "True"}, {"type": "Paused", "status": "False"},
            ]},
        });
        let table = [
            ("condition=Ready", true),
            ("condition=ready=true", true),
            ("condition=Paused", false),
            ("condition=Paused=False", true),
            ("condition=Other", false),
            ("jsonpath={.status.phase}=Running", true),
            ("jsonpath='{.status.phase}'=Pending", false),
            ("jsonpath={.status.n}=3", true),
            ("jsonpath={.status.n}", true),
            ("jsonpath={.status.gone}", false),
            ("jsonpath=.status.phase=Running", true),
            ("jsonpath={.status.conditions[?(@.type==\"Ready\")].status}=True", true),
            ("delete", false),
            ("create", true),
        ];
        for (state, expected) in table {
            assert_eq!(fits(state, &object), expected, "{state}");
        }
        assert!(State::Deleted.fits(None) && !State::Created.fits(None));
        let mut newer = object;
        newer["metadata"]["generation"] = 3.into();
        assert!(!fits("condition=Ready", &newer), "it was told of an older generation");
    }

    #[test]
    fn what_is_no_state_is_refused() {
        for text in ["", "Ready", "condition=", "jsonpath={.a}=", "jsonpath={.a"] {
            assert!(State::parse(text).is_err(), "{text}");
        }
        assert_eq!(timeout("-1s"), Ok(WEEK));
    }
}
