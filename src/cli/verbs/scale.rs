//! `scale`: changes how many replicas a workload has, through its scale subresource.

use clap::Args;
use http::Method;
use serde_json::json;

use super::target::{self, Narrow};
use crate::cli::call::{Connection, JSON};
use crate::cli::failure::Failure;
use crate::cli::out::Out;
use crate::cli::resources::Discovery;

/// What `scale` is asked.
#[derive(Debug, Clone, Args)]
pub struct ScaleArgs {
    /// KIND NAME… or KIND/NAME…
    #[arg(required = true, value_name = "KIND [NAME]")]
    pub objects: Vec<String>,
    /// How many there shall be
    #[arg(long, value_name = "NUMBER")]
    pub replicas: u32,
    /// Only where there are so many now
    #[arg(long, value_name = "NUMBER")]
    pub current_replicas: Option<u32>,
    /// Those with these labels
    #[arg(short = 'l', long, value_name = "LABELS", default_value = "", hide_default_value = true)]
    pub selector: String,
    /// All of the kind in the namespace
    #[arg(long)]
    pub all: bool,
}

/// Scales workloads.
///
/// # Errors
/// Bad usage, no server, an unknown kind.
pub async fn run(args: &ScaleArgs, connection: &Connection, out: &mut Out) -> Result<(), Failure> {
    let discovery = Discovery::of(connection).await?;
    let targets = target::targets(&discovery, &args.objects)?;
    for target in &targets {
        if target.names.is_empty() && !args.all && args.selector.is_empty() {
            return Err(Failure::usage(
                "resource(s) were provided, but no name was specified: give names, -l LABELS or \
                 --all",
            ));
        }
        if !target.resource.subresources.iter().any(|s| s == "scale") {
            return Err(Failure::other(format!(
                "{} cannot be scaled: the server has no scale for them (a Deployment has one)",
                target.resource.qualified()
            )));
        }
    }
    let narrow = Narrow { selector: &args.selector, ..Narrow::default() };
    for named in target::named(connection, &targets, narrow).await? {
        match one(args, connection, &named).await {
            Ok(()) => out.line(format!("{} scaled", named.typed()))?,
            Err(failure) => out.fail(failure)?,
        }
    }
    Ok(())
}

async fn one(
    args: &ScaleArgs,
    connection: &Connection,
    named: &target::Named,
) -> Result<(), Failure> {
    let path = format!("{}/scale", named.path());
    let mut patch = json!({"spec": {"replicas": args.replicas}});
    if let Some(expected) = args.current_replicas {
        let scale = connection.get(&path, JSON).await?;
        let now = scale["spec"]["replicas"].as_u64().unwrap_or(0);
        if now != u64::from(expected) {
            return Err(Failure::other(format!(
                "Expected replicas to be {expected}, was {now}: {} is left as it is",
                named.typed()
            )));
        }
        // Only while it is still so.
        patch["metadata"] = json!({"resourceVersion": scale["metadata"]["resourceVersion"]});
    }
    let kind = "application/merge-patch+json";
    connection.write(Method::PATCH, &path, kind, &patch).await.map(|_| ())
}
