//! `rollout`: follows the rollout of a workload, shows its revisions, goes back to one, restarts,
//! pauses and resumes it.

use std::time::Duration;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::follow;
use super::target::{self, Named, Narrow, elements, selector_text};
use crate::cli::call::{Connection, JSON};
use crate::cli::duration;
use crate::cli::failure::Failure;
use crate::cli::out::Out;
use crate::cli::resources::Discovery;
use crate::cli::yaml;

const REVISION: &str = "deployment.kubernetes.io/revision";
const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";
const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";
const HASH: &str = "pod-template-hash";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// What `rollout` is asked.
#[derive(Debug, Clone, Args)]
pub struct RolloutArgs {
    #[command(subcommand)]
    pub action: Action,
}

/// Which workloads.
#[derive(Debug, Clone, Args)]
pub struct Which {
    /// KIND NAME… or KIND/NAME…
    #[arg(required = true, value_name = "KIND [NAME]")]
    pub objects: Vec<String>,
    /// Those with these labels
    #[arg(short = 'l', long, value_name = "LABELS", default_value = "", hide_default_value = true)]
    pub selector: String,
}

/// What is done about a rollout.
#[derive(Debug, Clone, Subcommand)]
pub enum Action {
    /// Follow a rollout until it is done
    Status {
        #[command(flatten)]
        which: Which,
        /// Whether to go on until it is done
        #[arg(short, long, default_value_t = true, action = clap::ArgAction::Set)]
        #[arg(num_args = 0..=1, default_missing_value = "true", require_equals = true)]
        watch: bool,
        /// How long to follow; 0 for ever
        #[arg(long, value_name = "DURATION", default_value = "0", value_parser = duration::parse)]
        timeout: Duration,
    },
    /// Show the revisions
    History {
        #[command(flatten)]
        which: Which,
        /// Show the pod template of this one
        #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
        revision: i64,
    },
    /// Go back to the revision before, or to one of the history
    Undo {
        #[command(flatten)]
        which: Which,
        /// The revision to go back to; 0: the one before
        #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
        to_revision: i64,
    },
    /// Replace every pod, one after the other
    Restart {
        #[command(flatten)]
        which: Which,
    },
    /// Let changes of the workload wait
    Pause {
        #[command(flatten)]
        which: Which,
    },
    /// Go on after a pause
    Resume {
        #[command(flatten)]
        which: Which,
    },
}

/// Does what is asked about rollouts.
///
/// # Errors
/// Bad usage, no server, an unknown kind.
pub async fn run(
    args: &RolloutArgs,
    connection: &Connection,
    out: &mut Out,
) -> Result<(), Failure> {
    let (Action::Status { which, .. }
    | Action::History { which, .. }
    | Action::Undo { which, .. }
    | Action::Restart { which }
    | Action::Pause { which }
    | Action::Resume { which }) = &args.action;
    let discovery = Discovery::of(connection).await?;
    let targets = target::targets(&discovery, &which.objects)?;
    let narrow = Narrow { selector: &which.selector, ..Narrow::default() };
    for named in target::named(connection, &targets, narrow).await? {
        let done = match &args.action {
            Action::Status { watch, timeout, .. } => {
                status(connection, &named, *watch, *timeout, out).await
            }
            Action::History { revision, .. } => {
                history(connection, &discovery, &named, *revision, out).await
            }
            Action::Undo { to_revision, .. } => {
                undo(connection, &discovery, &named, *to_revision, out).await
            }
            Action::Restart { .. } => restart(connection, &named, out).await,
            Action::Pause { .. } => pause(connection, &named, true, out).await,
            Action::Resume { .. } => pause(connection, &named, false, out).await,
        };
        if let Err(failure) = done {
            out.fail(failure)?;
        }
        out.flush()?;
    }
    Ok(())
}

fn only(named: &Named, kinds: &[&str], what: &str) -> Result<(), Failure> {
    if named.resource.group == "apps" && kinds.contains(&named.resource.kind.as_str()) {
        return Ok(());
    }
    Err(Failure::other(format!(
        "{} {what} is not supported: it is for {}",
        named.resource.qualified(),
        kinds.join(", ")
    )))
}

async fn status(
    connection: &Connection,
    named: &Named,
    watch: bool,
    timeout: Duration,
    out: &mut Out,
) -> Result<(), Failure> {
    only(named, &["Deployment", "DaemonSet", "StatefulSet"], "rollout status")?;
    let deadline = (!timeout.is_zero()).then(|| Instant::now() + timeout);
    let late = || {
        Failure::other(format!(
            "timed out waiting for the rollout of {}: see `coracle describe {}`",
            named.typed(),
            named.typed()
        ))
    };
    let mut last = String::new();
    let done = |object: Option<&Value>| {
        let Some(object) = object else {
            return Err(Failure::status(json!({"reason": "NotFound",
                "message": format!("{} \"{}\" not found", named.resource.qualified(), named.name)})));
        };
        let (told, is_done) = progress(&named.resource.kind, &named.name, object)?;
        if told != last {
            out.line(&told)?;
            out.flush()?;
            last = told;
        }
        Ok((is_done || !watch).then_some(()))
    };
    follow::until(connection, named, deadline, late, done).await
}

/// How far a rollout is, in kubectl's words, and whether it is done.
fn progress(kind: &str, name: &str, object: &Value) -> Result<(String, bool), Failure> {
    let observed = number(&object["status"]["observedGeneration"]);
    let is_newer = number(&object["metadata"]["generation"]) > observed;
    match kind {
        "Deployment" if is_newer => Ok((unobserved("deployment"), false)),
        "DaemonSet" if is_newer => Ok((unobserved("daemon set"), false)),
        _ if is_newer => Ok((unobserved("statefulset"), false)),
        "Deployment" => deployment_progress(name, object),
        "DaemonSet" => Ok(daemon_set_progress(name, &object["status"])),
        _ => Ok(stateful_set_progress(object)),
    }
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

fn unobserved(what: &str) -> String {
    format!("Waiting for {what} spec update to be observed...")
}

fn deployment_progress(name: &str, object: &Value) -> Result<(String, bool), Failure> {
    let status = &object["status"];
    let is_stuck = elements(&status["conditions"]).iter().any(|condition| {
        condition["type"] == "Progressing" && condition["reason"] == "ProgressDeadlineExceeded"
    });
    if is_stuck {
        return Err(Failure::other(format!(
            "deployment {name:?} exceeded its progress deadline: see `coracle describe \
             deployment/{name}`"
        )));
    }
    let wanted = object["spec"]["replicas"].as_i64().unwrap_or(1);
    let updated = number(&status["updatedReplicas"]);
    let (replicas, available) = (number(&status["replicas"]), number(&status["availableReplicas"]));
    let told = if updated < wanted {
        format!("{updated} out of {wanted} new replicas have been updated...")
    } else if replicas > updated {
        format!("{} old replicas are pending termination...", replicas - updated)
    } else if available < updated {
        format!("{available} of {updated} updated replicas are available...")
    } else {
        return Ok((format!("deployment {name:?} successfully rolled out"), true));
    };
    Ok((format!("Waiting for deployment {name:?} rollout to finish: {told}"), false))
}

fn daemon_set_progress(name: &str, status: &Value) -> (String, bool) {
    let desired = number(&status["desiredNumberScheduled"]);
    let updated = number(&status["updatedNumberScheduled"]);
    let available = number(&status["numberAvailable"]);
    let told = if updated < desired {
        format!("{updated} out of {desired} new pods have been updated...")
    } else if available < desired {
        format!("{available} of {desired} updated pods are available...")
    } else {
        return (format!("daemon set {name:?} successfully rolled out"), true);
    };
    (format!("Waiting for daemon set {name:?} rollout to finish: {told}"), false)
}

fn stateful_set_progress(object: &Value) -> (String, bool) {
    let (spec, status) = (&object["spec"], &object["status"]);
    let wanted = spec["replicas"].as_i64().unwrap_or(1);
    let (ready, updated) = (number(&status["readyReplicas"]), number(&status["updatedReplicas"]));
    if ready < wanted {
        return (format!("Waiting for {} pods to be ready...", wanted - ready), false);
    }
    let revision = &status["updateRevision"];
    let goes_on = spec["updateStrategy"]["type"] != "OnDelete"
        && *revision != status["currentRevision"]
        && updated < wanted;
    if goes_on {
        let revision = revision.as_str().unwrap_or_default();
        return (
            format!(
                "waiting for statefulset rolling update to complete {updated} pods at revision \
                 {revision}..."
            ),
            false,
        );
    }
    (format!("statefulset rolling update complete {ready} pods"), true)
}

/// A revision of a Deployment.
#[derive(Debug, Clone, PartialEq)]
struct Revision {
    number: i64,
    cause: String,
    template: Value,
}

/// The revisions that ReplicaSets of the Deployment with this uid keep, the oldest first.
fn revisions(replica_sets: &[Value], uid: &Value) -> Vec<Revision> {
    let owned = |set: &&Value| {
        elements(&set["metadata"]["ownerReferences"])
            .iter()
            .any(|owner| owner["controller"] == true && owner["uid"] == *uid)
    };
    let mut found: Vec<Revision> = replica_sets
        .iter()
        .filter(owned)
        .filter_map(|set| {
            let annotations = &set["metadata"]["annotations"];
            let mut template = set["spec"]["template"].clone();
            if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
                labels.remove(HASH);
            }
            Some(Revision {
                number: annotations[REVISION].as_str()?.parse().ok()?,
                cause: annotations[CHANGE_CAUSE].as_str().unwrap_or("<none>").to_owned(),
                template,
            })
        })
        .collect();
    found.sort_by_key(|revision| revision.number);
    found
}

async fn revisions_of(
    connection: &Connection,
    discovery: &Discovery,
    named: &Named,
) -> Result<(Value, Vec<Revision>), Failure> {
    only(named, &["Deployment"], "rollout history")?;
    let deployment = connection.get(&named.path(), JSON).await?;
    let selector = selector_text(&deployment["spec"]["selector"]).unwrap_or_default();
    let sets = discovery.find("replicasets.apps")?;
    let path = sets.path(Some(&named.namespace));
    let narrow = Narrow { selector: &selector, ..Narrow::default() };
    let found = target::list_at(connection, sets, &path, narrow).await?;
    let revisions = revisions(&found, &deployment["metadata"]["uid"]);
    Ok((deployment, revisions))
}

async fn history(
    connection: &Connection,
    discovery: &Discovery,
    named: &Named,
    revision: i64,
    out: &mut Out,
) -> Result<(), Failure> {
    let (_, found) = revisions_of(connection, discovery, named).await?;
    if revision > 0 {
        let one = found.iter().find(|r| r.number == revision);
        let one = one.ok_or_else(|| no_revision(revision, &found))?;
        out.line(format!("{} with revision #{revision}", named.typed()))?;
        return out.raw(yaml::to_string(&json!({"template": one.template})).as_bytes());
    }
    out.line(named.typed())?;
    let mut lines = vec![vec!["REVISION".to_owned(), "CHANGE-CAUSE".to_owned()]];
    lines.extend(found.into_iter().map(|r| vec![r.number.to_string(), r.cause]));
    // As kubectl prints it: two spaces here, and an empty line at the end.
    for line in lines {
        out.line(format!("{:<10}{}", line[0], line[1]))?;
    }
    out.line("")
}

fn no_revision(revision: i64, found: &[Revision]) -> Failure {
    let known: Vec<String> = found.iter().map(|r| r.number.to_string()).collect();
    Failure::other(format!(
        "unable to find specified revision {revision} in history: there are {}",
        known.join(", ")
    ))
}

async fn undo(
    connection: &Connection,
    discovery: &Discovery,
    named: &Named,
    to: i64,
    out: &mut Out,
) -> Result<(), Failure> {
    let (deployment, found) = revisions_of(connection, discovery, named).await?;
    if deployment["spec"]["paused"] == true {
        return Err(Failure::other(format!(
            "you cannot rollback a paused deployment; resume it first with `coracle rollout \
             resume deployment/{}` and try again",
            named.name
        )));
    }
    let chosen = match to {
        0 => found.len().checked_sub(2).map(|at| &found[at]).ok_or_else(|| {
            Failure::other(format!("no rollout history found for deployment {:?}", named.name))
        })?,
        to => found.iter().find(|r| r.number == to).ok_or_else(|| no_revision(to, &found))?,
    };
    let current = &deployment["spec"]["template"];
    if *current == chosen.template {
        return out.line(format!(
            "{} skipped rollback (current template already matches revision {})",
            named.typed(),
            chosen.number
        ));
    }
    let patch = json!([{"op": "replace", "path": "/spec/template", "value": chosen.template}]);
    let kind = "application/json-patch+json";
    connection.write(Method::PATCH, &named.path(), kind, &patch).await?;
    out.line(format!("{} rolled back", named.typed()))
}

async fn restart(connection: &Connection, named: &Named, out: &mut Out) -> Result<(), Failure> {
    only(named, &["Deployment", "DaemonSet", "StatefulSet"], "rollout restart")?;
    let object = connection.get(&named.path(), JSON).await?;
    if object["spec"]["paused"] == true {
        return Err(Failure::other(format!(
            "{} can't restart paused deployment (run rollout resume first)",
            named.typed()
        )));
    }
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let annotations = json!({RESTARTED_AT: now});
    let patch = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
    connection.write(Method::PATCH, &named.path(), STRATEGIC, &patch).await?;
    out.line(format!("{} restarted", named.typed()))
}

async fn pause(
    connection: &Connection,
    named: &Named,
    paused: bool,
    out: &mut Out,
) -> Result<(), Failure> {
    let (what, done) = if paused { ("pause", "paused") } else { ("resume", "resumed") };
    only(named, &["Deployment"], &format!("rollout {what}"))?;
    let object = connection.get(&named.path(), JSON).await?;
    if (object["spec"]["paused"] == true) == paused {
        let already = if paused { "is already paused" } else { "is not paused" };
        return Err(Failure::other(format!("{} {already}", named.typed())));
    }
    let value = if paused { json!(true) } else { Value::Null };
    let patch = json!({"spec": {"paused": value}});
    connection.write(Method::PATCH, &named.path(), STRATEGIC, &patch).await?;
    out.line(format!("{} {done}", named.typed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(status: Value) -> Value {
        json!({"metadata": {"generation": 2}, "spec": {"replicas": 3}, "status": status})
    }

    #[test]
    fn progress_is_told_in_kubectls_words() {
        let table = [
            (
                json!({"observedGeneration": 1}),
                "Waiting for deployment spec update to be observed...",
            ),
            (
                json!({"observedGeneration": 2, "updatedReplicas": 1}),
                "Waiting for deployment \"web\" rollout to finish: 1 out of 3 new replicas have \
                 been updated...",
            ),
            (
                json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 4}),
                "Waiting for deployment \"web\" rollout to finish: 1 old replicas are pending \
                 termination...",
            ),
            (
                json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3,
                    "availableReplicas": 2}),
                "Waiting for deployment \"web\" rollout to finish: 2 of 3 updated replicas are \
                 available...",
            ),
        ];
        for (status, told) in table {
            let found = progress("Deployment", "web", &deployment(status)).expect("it goes on");
            assert_eq!(found, (told.to_owned(), false));
        }
        let done = json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3,
            "availableReplicas": 3});
        let found = progress("Deployment", "web", &deployment(done)).expect("it is done");
        assert_eq!(found, ("deployment \"web\" successfully rolled out".to_owned(), true));
        let stuck = json!({"observedGeneration": 2, "conditions": [
            {"type": "Progressing", "reason": "ProgressDeadlineExceeded"}]});
        let told =
            progress("Deployment", "web", &deployment(stuck)).expect_err("stuck").to_string();
        assert!(told.contains("exceeded its progress deadline"), "{told}");
    }

    #[test]
    fn revisions_are_those_of_owned_replica_sets() {
        let set = |uid: &str, number: &str| {
            json!({"metadata": {"annotations": {REVISION: number},
                    "ownerReferences": [{"uid": uid, "controller": true}]},
                "spec": {"template": {"metadata": {"labels": {"app": "a", HASH: "x"}}}}})
        };
        let sets = [set("u", "10"), set("other", "1"), set("u", "9"), set("u", "no number")];
        let found = revisions(&sets, &json!("u"));
        assert_eq!(found.iter().map(|r| r.number).collect::<Vec<_>>(), [9, 10]);
        assert_eq!(found[0].cause, "<none>");
        assert_eq!(found[0].template, json!({"metadata": {"labels": {"app": "a"}}}));
    }
}
