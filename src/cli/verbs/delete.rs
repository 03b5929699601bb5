//! `delete`: takes objects away, by name, by manifest, by label or all of a kind, and waits until
//! they are gone.

use std::time::Duration;

use clap::{Args, ValueEnum};
use http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::apply::DryRun;
use super::follow;
use super::target::{self, Named, Narrow};
use crate::cli::call::{Connection, JSON, with_query};
use crate::cli::duration;
use crate::cli::failure::Failure;
use crate::cli::manifest;
use crate::cli::out::Out;
use crate::cli::resources::Discovery;

/// What becomes of what belongs to a deleted object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Cascade {
    Background,
    Foreground,
    Orphan,
}

/// What `delete` is asked.
#[derive(Debug, Clone, Args)]
pub struct DeleteArgs {
    /// KIND[,KIND] NAME… or KIND/NAME…
    #[arg(value_name = "KIND [NAME]")]
    pub objects: Vec<String>,
    /// The objects in these manifests: files, folders, or - for the input
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-", conflicts_with = "objects")]
    pub filename: Vec<String>,
    /// Folders with all that is below them
    #[arg(short = 'R', long)]
    pub recursive: bool,
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
    /// Seconds that a pod gets to end; its own otherwise
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, default_value_t = -1)]
    #[arg(hide_default_value = true)]
    pub grace_period: i64,
    /// At once, and without waiting for the node to confirm
    #[arg(long)]
    pub force: bool,
    /// As --grace-period=1
    #[arg(long, conflicts_with = "grace_period")]
    pub now: bool,
    /// What becomes of what belongs to the object
    #[arg(long, value_enum, default_value = "background", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "background")]
    pub cascade: Cascade,
    /// Whether to wait until the objects are gone
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1)]
    #[arg(default_missing_value = "true", require_equals = true)]
    pub wait: bool,
    /// How long to wait; 0 for ever
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = duration::parse)]
    pub timeout: Duration,
    /// What is not there is no failure
    #[arg(long)]
    pub ignore_not_found: bool,
    /// Whether anything is deleted
    #[arg(long, value_enum, default_value = "none", default_missing_value = "client")]
    #[arg(num_args = 0..=1, require_equals = true)]
    pub dry_run: DryRun,
    /// How to print: name
    #[arg(short, long, value_parser = ["name"])]
    pub output: Option<String>,
}

/// Deletes objects.
///
/// # Errors
/// Bad usage, no server, an unknown kind, objects that are still there in the end.
pub async fn run(
    args: &DeleteArgs,
    connection: &Connection,
    namespace_given: bool,
    out: &mut Out,
) -> Result<(), Failure> {
    let grace = grace(args)?;
    let discovery = Discovery::of(connection).await?;
    let objects = which(args, connection, namespace_given, &discovery, out).await?;
    if grace == Some(0) && args.force && args.dry_run == DryRun::None {
        out.note(
            "Warning: Immediate deletion does not wait for confirmation that the running resource \
             has been terminated. The resource may continue to run on the cluster indefinitely.",
        )?;
    }
    // Selected objects may be gone already: that is what was asked for.
    let ignore = args.ignore_not_found || args.all || !args.selector.is_empty();
    let mut deleted = Vec::new();
    for named in objects {
        match one(args, connection, &named, grace).await {
            Ok(uid) => {
                out.line(told(args, &named, grace))?;
                deleted.push((named, uid));
            }
            Err(failure) if failure.is_not_found() && ignore => {}
            Err(failure) => out.fail(failure)?,
        }
    }
    out.flush()?;
    if deleted.is_empty() && !out.failed() {
        out.note("No resources found")?;
    }
    if args.wait && args.dry_run == DryRun::None {
        gone(args, connection, deleted, out).await?;
    }
    Ok(())
}

/// The grace period that is asked for.
fn grace(args: &DeleteArgs) -> Result<Option<i64>, Failure> {
    match (args.grace_period, args.force, args.now) {
        (0, false, _) => Err(Failure::usage(
            "--grace-period=0 deletes without waiting for the node: say --force too, or use \
             --grace-period=1",
        )),
        (1.., true, _) => Err(Failure::usage(
            "--force and --grace-period greater than 0 cannot be specified together",
        )),
        (_, true, true) => Err(Failure::usage("--force and --now cannot be specified together")),
        (_, true, _) => Ok(Some(0)),
        (_, _, true) => Ok(Some(1)),
        (seconds @ 0.., ..) => Ok(Some(seconds)),
        _ => Ok(None),
    }
}

async fn which(
    args: &DeleteArgs,
    connection: &Connection,
    namespace_given: bool,
    discovery: &Discovery,
    out: &mut Out,
) -> Result<Vec<Named>, Failure> {
    if !args.filename.is_empty() {
        return of_manifests(args, connection, namespace_given, discovery, out);
    }
    let targets = target::targets(discovery, &args.objects)?;
    let selects = !args.selector.is_empty() || !args.field_selector.is_empty();
    for target in &targets {
        match (target.names.is_empty(), args.all, selects) {
            (false, true, _) => {
                return Err(Failure::usage("name cannot be provided when --all is specified"));
            }
            (false, _, true) => {
                return Err(Failure::usage("name cannot be provided when a selector is specified"));
            }
            (true, false, false) => {
                return Err(Failure::usage(
                    "resource(s) were provided, but no name was specified: give names, -l LABELS \
                     or --all",
                ));
            }
            _ => {}
        }
        if !target.names.is_empty() && args.all_namespaces {
            return Err(Failure::usage(
                "a resource cannot be retrieved by name across all namespaces",
            ));
        }
    }
    let narrow = Narrow {
        selector: &args.selector,
        fields: &args.field_selector,
        all_namespaces: args.all_namespaces,
    };
    target::named(connection, &targets, narrow).await
}

fn of_manifests(
    args: &DeleteArgs,
    connection: &Connection,
    namespace_given: bool,
    discovery: &Discovery,
    out: &mut Out,
) -> Result<Vec<Named>, Failure> {
    let mut found = Vec::new();
    for manifest in manifest::read(&args.filename, args.recursive)? {
        match discovery.of_object(manifest.api_version(), manifest.kind()) {
            Ok(resource) => {
                let own = manifest.namespace().unwrap_or(&connection.namespace).to_owned();
                if namespace_given && resource.namespaced && own != connection.namespace {
                    return Err(Failure::other(format!(
                        "{}: the namespace from the provided object \"{own}\" does not match the \
                         namespace \"{}\". You must pass '--namespace={own}' to perform this \
                         operation.",
                        manifest.place, connection.namespace
                    )));
                }
                found.push(Named {
                    resource: resource.clone(),
                    namespace: own,
                    name: manifest.name().to_owned(),
                });
            }
            Err(Failure::Other(why)) => {
                let why = format!("unable to recognize \"{}\": {why}", manifest.place);
                out.fail(Failure::Other(why))?;
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(found)
}

/// Deletes an object. Answers its uid.
async fn one(
    args: &DeleteArgs,
    connection: &Connection,
    named: &Named,
    grace: Option<i64>,
) -> Result<String, Failure> {
    let path = named.path();
    if args.dry_run == DryRun::Client {
        connection.get(&path, JSON).await?;
        return Ok(String::new());
    }
    let mut options = json!({
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "propagationPolicy": format!("{:?}", args.cascade),
    });
    if let Some(seconds) = grace {
        options["gracePeriodSeconds"] = seconds.into();
    }
    let dry_run = if args.dry_run == DryRun::Server { "All" } else { "" };
    let path = with_query(&path, &[("dryRun", dry_run)]);
    let answer = connection.write(Method::DELETE, &path, JSON, &options).await?;
    // The answer is the object, or a Status about it.
    let uid = [&answer["metadata"]["uid"], &answer["details"]["uid"]];
    Ok(uid.into_iter().find_map(Value::as_str).unwrap_or_default().to_owned())
}

fn told(args: &DeleteArgs, named: &Named, grace: Option<i64>) -> String {
    if args.output.is_some() {
        return named.typed();
    }
    let how = if grace == Some(0) { "force deleted" } else { "deleted" };
    let dry = match args.dry_run {
        DryRun::None => "",
        DryRun::Client => " (dry run)",
        DryRun::Server => " (server dry run)",
    };
    format!("{} \"{}\" {how}{dry}", named.resource.typed(), named.name)
}

/// Waits until the objects are gone, or others are in their place.
async fn gone(
    args: &DeleteArgs,
    connection: &Connection,
    deleted: Vec<(Named, String)>,
    out: &mut Out,
) -> Result<(), Failure> {
    let deadline = (!args.timeout.is_zero()).then(|| Instant::now() + args.timeout);
    for (named, uid) in deleted {
        let late = || {
            Failure::other(format!(
                "timed out waiting for {} to be gone after {}: it has finalizers, or its node \
                 does not answer; look with `coracle get {} -o yaml`",
                named.typed(),
                duration::human(args.timeout),
                named.typed()
            ))
        };
        let done = |object: Option<&Value>| {
            let same = object.is_some_and(|o| uid.is_empty() || o["metadata"]["uid"] == *uid);
            Ok((!same).then_some(()))
        };
        match follow::until(connection, &named, deadline, late, done).await {
            Ok(()) => {}
            // Who may delete but not get cannot wait.
            Err(failure) if failure.reason() == "Forbidden" => {}
            Err(failure) => out.fail(failure)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: DeleteArgs,
    }

    fn asked(line: &str) -> Result<Option<i64>, String> {
        let words = std::iter::once("delete").chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        grace(&line.args).map_err(|failure| failure.to_string())
    }

    #[test]
    fn grace_and_force_are_weighed() {
        assert_eq!(asked("pod a"), Ok(None));
        assert_eq!(asked("pod a --grace-period=5"), Ok(Some(5)));
        assert_eq!(asked("pod a --grace-period 0 --force"), Ok(Some(0)));
        assert_eq!(asked("pod a --force"), Ok(Some(0)));
        assert_eq!(asked("pod a --now"), Ok(Some(1)));
        assert!(asked("pod a --grace-period=0").expect_err("no force").contains("--force"));
        assert!(asked("pod a --grace-period=5 --force").is_err());
        assert!(asked("pod a -f x").is_err());
    }
}
