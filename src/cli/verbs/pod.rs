//! Which pod and which container a verb means that reaches into one.

use serde_json::Value;

use super::target::{self, Narrow, elements, name_of, selector_text};
use crate::cli::call::{Connection, JSON};
use crate::cli::failure::Failure;
use crate::cli::out::Out;
use crate::cli::resources::{Discovery, Resource};

pub const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The pod that `POD` or `KIND/NAME` names, of a workload or a Service one of its pods; with the
/// object that was named.
///
/// # Errors
/// There is none.
pub async fn named(
    connection: &Connection,
    word: &str,
    out: &mut Out,
) -> Result<(Value, Value), Failure> {
    let discovery = Discovery::of(connection).await?;
    let (kind, name) = word.split_once('/').unwrap_or(("pods", word));
    let asked = discovery.find(kind)?;
    let object = connection.get(&asked.object_path(&connection.namespace, name), JSON).await?;
    if asked.kind == "Pod" && asked.group.is_empty() {
        return Ok((object.clone(), object));
    }
    let pod = of_workload(connection, discovery.find("pods")?, &object, word, out).await?;
    Ok((pod, object))
}

/// The pod of a workload that says most: a running one, the oldest of them.
///
/// # Errors
/// It has none.
pub async fn of_workload(
    connection: &Connection,
    pods: &Resource,
    object: &Value,
    word: &str,
    out: &mut Out,
) -> Result<Value, Failure> {
    let selector = selector_text(&object["spec"]["selector"])
        .ok_or_else(|| Failure::other(format!("{word} has no pods: it selects none")))?;
    let narrow = Narrow { selector: &selector, ..Narrow::default() };
    let mut found = target::list(connection, pods, narrow).await?;
    found.sort_by_key(|pod| {
        let age = pod["metadata"]["creationTimestamp"].as_str().unwrap_or_default();
        (pod["status"]["phase"] != "Running", age.to_owned())
    });
    let count = found.len();
    let first = found.into_iter().next().ok_or_else(|| {
        Failure::other(format!(
            "{word} has no pods (yet): see `coracle get pods -l {selector}` and `coracle describe \
             {word}`"
        ))
    })?;
    if count > 1 {
        out.note(format!("Found {count} pods, using pod/{}", name_of(&first)))?;
    }
    Ok(first)
}

/// The names of the containers of a pod in one field of its spec.
pub fn names(pod: &Value, field: &str) -> Vec<String> {
    let all = elements(&pod["spec"][field]).iter().filter_map(|c| c["name"].as_str());
    all.map(str::to_owned).collect()
}

/// The container that is meant where none is named: the annotated one, else the first.
///
/// # Errors
/// The output is closed.
pub fn default_container(pod: &Value, out: &mut Out) -> Result<String, Failure> {
    let (own, init) = (names(pod, "containers"), names(pod, "initContainers"));
    let annotated = pod["metadata"]["annotations"][DEFAULT_CONTAINER].as_str();
    if let Some(name) = annotated.filter(|name| own.iter().any(|own| own == name)) {
        return Ok(name.to_owned());
    }
    let first = own.first().cloned().unwrap_or_default();
    if own.len() + init.len() + names(pod, "ephemeralContainers").len() > 1 {
        let listed: Vec<String> =
            own.iter().cloned().chain(init.iter().map(|name| format!("{name} (init)"))).collect();
        out.note(format!("Defaulted container \"{first}\" out of: {}", listed.join(", ")))?;
    }
    Ok(first)
}

/// The container of a pod that a command is to run in.
///
/// # Errors
/// The pod has no such container, or has ended.
pub fn container(pod: &Value, asked: Option<&str>, out: &mut Out) -> Result<String, Failure> {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        return Err(Failure::other(format!(
            "cannot exec into a container in a completed pod; current phase is {phase}"
        )));
    }
    let Some(asked) = asked else { return default_container(pod, out) };
    let fields = ["containers", "initContainers", "ephemeralContainers"];
    let all: Vec<String> = fields.iter().flat_map(|field| names(pod, field)).collect();
    if all.iter().any(|name| name == asked) {
        return Ok(asked.to_owned());
    }
    let name = name_of(pod);
    let all = all.join(", ");
    Err(Failure::other(format!("container {asked} is not valid for pod {name}: it has {all}")))
}
