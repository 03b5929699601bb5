//! `logs`: what containers printed; of a pod, of a pod of a workload, or of the pods with labels.

use std::time::Duration;

use clap::Args;
use futures::stream::{FuturesUnordered, StreamExt};
use serde_json::Value;

use super::follow::line;
use super::pod;
use super::target::{self, Narrow, elements, name_of, namespace_of};
use crate::cli::call::{Connection, JSON, with_query};
use crate::cli::duration;
use crate::cli::failure::Failure;
use crate::cli::out::Out;
use crate::cli::resources::Discovery;

/// Lines of each pod where many were asked for and no --tail.
const TAIL_OF_MANY: i64 = 10;
/// Lines that wait to be printed.
const QUEUE: usize = 1024;

/// What `logs` is asked.
#[derive(Debug, Clone, Args)]
pub struct LogsArgs {
    /// POD, or KIND/NAME of a workload, then a container
    #[arg(value_name = "POD|KIND/NAME", num_args = 0..=2)]
    pub objects: Vec<String>,
    /// Go on printing what comes
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last lines; -1 all [default: all, 10 with -l]
    #[arg(long, value_name = "LINES", allow_negative_numbers = true)]
    pub tail: Option<i64>,
    /// Only what is newer than this
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub since: Option<Duration>,
    /// Only what is newer than this time (RFC 3339)
    #[arg(long, value_name = "TIME", conflicts_with = "since")]
    pub since_time: Option<String>,
    /// Of the container that ran before this one
    #[arg(short, long)]
    pub previous: bool,
    /// The container
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// All containers of the pod
    #[arg(long, conflicts_with = "container")]
    pub all_containers: bool,
    /// With the time before each line
    #[arg(long)]
    pub timestamps: bool,
    /// With pod and container before each line
    #[arg(long)]
    pub prefix: bool,
    /// Of the pods with these labels
    #[arg(short = 'l', long, value_name = "LABELS", default_value = "", hide_default_value = true)]
    pub selector: String,
    /// How many logs of pods with labels are followed at once
    #[arg(long, value_name = "NUMBER", default_value_t = 5)]
    pub max_log_requests: usize,
}

/// A log.
#[derive(Debug, Clone, PartialEq)]
struct Log {
    namespace: String,
    pod: String,
    container: String,
}

/// Prints logs.
///
/// # Errors
/// Bad usage, no server, no such pod.
pub async fn run(args: &LogsArgs, connection: &Connection, out: &mut Out) -> Result<(), Failure> {
    let mut args = args.clone();
    if args.objects.is_empty() == args.selector.is_empty() {
        return Err(Failure::usage(
            "expected 'logs (POD | TYPE/NAME) [CONTAINER_NAME]': a pod (or -l LABELS) is a required \
             argument",
        ));
    }
    if let [_, container] = args.objects.as_slice() {
        if args.container.is_some() {
            return Err(Failure::usage("only one of -c or an inline [CONTAINER] arg is allowed"));
        }
        args.container = Some(container.clone());
        args.objects.truncate(1);
    }
    if args.tail.is_some_and(|lines| lines < -1) {
        return Err(Failure::usage("--tail must be greater than or equal to -1"));
    }
    let discovery = Discovery::of(connection).await?;
    let pods = pods(&args, connection, &discovery, out).await?;
    let mut logs = Vec::new();
    for pod in &pods {
        for container in containers(&args, pod, out)? {
            logs.push(Log {
                namespace: namespace_of(pod).to_owned(),
                pod: name_of(pod).to_owned(),
                container,
            });
        }
    }
    if args.follow && logs.len() > args.max_log_requests {
        return Err(Failure::other(format!(
            "you are attempting to follow {} log streams, but maximum allowed concurrency is {}, \
             use --max-log-requests to increase the limit",
            logs.len(),
            args.max_log_requests
        )));
    }
    if logs.is_empty() {
        out.note(format!("No resources found in {} namespace.", connection.namespace))?;
    }
    if args.follow && logs.len() > 1 {
        return follow_all(&args, connection, &logs, out).await;
    }
    for log in &logs {
        let mut stream = connection.stream(&path(&args, log), "*/*").await?;
        while let Some(text) = line(&mut stream).await? {
            print(&args, log, &text, out)?;
            if args.follow {
                out.flush()?;
            }
        }
    }
    Ok(())
}

/// Prints the lines of several logs as they come.
async fn follow_all(
    args: &LogsArgs,
    connection: &Connection,
    logs: &[Log],
    out: &mut Out,
) -> Result<(), Failure> {
    let (sender, mut lines) = tokio::sync::mpsc::channel(QUEUE);
    let mut readers = FuturesUnordered::new();
    for log in logs {
        let sender = sender.clone();
        readers.push(async move {
            let mut stream = connection.stream(&path(args, log), "*/*").await?;
            while let Some(text) = line(&mut stream).await? {
                if sender.send((log, text)).await.is_err() {
                    break;
                }
            }
            Ok::<(), Failure>(())
        });
    }
    drop(sender);
    loop {
        tokio::select! {
            biased;
            told = lines.recv() => match told {
                Some((log, text)) => {
                    print(args, log, &text, out)?;
                    out.flush()?;
                }
                None => break,
            },
            Some(ended) = readers.next() => {
                if let Err(failure) = ended {
                    out.fail(failure)?;
                }
            }
        }
    }
    // The queue closes with its last reader: what that one ended with is still to be told.
    while let Some(ended) = readers.next().await {
        if let Err(failure) = ended {
            out.fail(failure)?;
        }
    }
    Ok(())
}

fn print(args: &LogsArgs, log: &Log, text: &[u8], out: &mut Out) -> Result<(), Failure> {
    if args.prefix {
        out.raw(format!("[pod/{}/{}] ", log.pod, log.container).as_bytes())?;
    }
    out.raw(text)
}

fn path(args: &LogsArgs, log: &Log) -> String {
    let path = format!(
        "/api/v1/namespaces/{}/pods/{}/log",
        crate::cli::call::escape(&log.namespace),
        crate::cli::call::escape(&log.pod)
    );
    let yes = |flag: bool| if flag { "true" } else { "" };
    let tail = match args.tail {
        None if !args.selector.is_empty() => TAIL_OF_MANY.to_string(),
        None | Some(-1) => String::new(),
        Some(lines) => lines.to_string(),
    };
    // The server counts whole seconds, at least one.
    let since = args.since.filter(|since| !since.is_zero());
    let since = since.map(|since| since.as_secs_f64().ceil().to_string()).unwrap_or_default();
    let query = [
        ("container", log.container.as_str()),
        ("follow", yes(args.follow)),
        ("previous", yes(args.previous)),
        ("sinceSeconds", &since),
        ("sinceTime", args.since_time.as_deref().unwrap_or_default()),
        ("tailLines", &tail),
        ("timestamps", yes(args.timestamps)),
    ];
    with_query(&path, &query)
}

async fn pods(
    args: &LogsArgs,
    connection: &Connection,
    discovery: &Discovery,
    out: &mut Out,
) -> Result<Vec<Value>, Failure> {
    let resource = discovery.find("pods")?;
    let Some(word) = args.objects.first() else {
        let narrow = Narrow { selector: &args.selector, ..Narrow::default() };
        return target::list(connection, resource, narrow).await;
    };
    let namespace = &connection.namespace;
    let (kind, name) = word.split_once('/').unwrap_or(("pods", word));
    let asked = discovery.find(kind)?;
    let object = connection.get(&asked.object_path(namespace, name), JSON).await?;
    if asked.kind == "Pod" && asked.group.is_empty() {
        return Ok(vec![object]);
    }
    pod::of_workload(connection, resource, &object, word, out).await.map(|pod| vec![pod])
}

/// The containers of a pod whose logs are asked for.
fn containers(args: &LogsArgs, pod: &Value, out: &mut Out) -> Result<Vec<String>, Failure> {
    let names = |field: &str| -> Vec<String> {
        elements(&pod["spec"][field])
            .iter()
            .filter_map(|c| c["name"].as_str())
            .map(str::to_owned)
            .collect()
    };
    let (own, init) = (names("containers"), names("initContainers"));
    let ephemeral = names("ephemeralContainers");
    let all: Vec<String> = [init.clone(), own.clone(), ephemeral].concat();
    if args.all_containers {
        return Ok(all);
    }
    if let Some(asked) = &args.container {
        if all.contains(asked) {
            return Ok(vec![asked.clone()]);
        }
        return Err(Failure::other(format!(
            "container {asked} is not valid for pod {}: it has {}",
            name_of(pod),
            all.join(", ")
        )));
    }
    pod::default_container(pod, out).map(|name| vec![name])
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::pod::DEFAULT_CONTAINER;
    use super::*;
    use crate::cli::out::testing;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: LogsArgs,
    }

    fn asked(line: &str) -> LogsArgs {
        let words = std::iter::once("logs").chain(line.split_whitespace());
        Line::try_parse_from(words).expect(line).args
    }

    #[test]
    fn what_is_asked_becomes_a_query() {
        let log = Log { namespace: "ns".into(), pod: "p".into(), container: "c".into() };
        let of = |line: &str| path(&asked(line), &log);
        let base = "/api/v1/namespaces/ns/pods/p/log?container=c";
        assert_eq!(of("p"), base);
        assert_eq!(
            of("p -f --tail 5 --since 1.2s --timestamps"),
            format!("{base}&follow=true&sinceSeconds=2&tailLines=5&timestamps=true")
        );
        assert_eq!(of("p -p --tail=-1"), format!("{base}&previous=true"));
        assert_eq!(of("-l app=web"), format!("{base}&tailLines=10"));
    }

    #[test]
    fn the_container_is_chosen_as_kubectl_chooses_it() {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {
            "initContainers": [{"name": "i"}], "containers": [{"name": "a"}, {"name": "b"}]}});
        let (mut out, _, told) = testing::out();
        assert_eq!(containers(&asked("p"), &pod, &mut out).expect("one"), ["a"]);
        assert_eq!(told.text(), "Defaulted container \"a\" out of: a, b, i (init)\n");
        assert_eq!(containers(&asked("p -c i"), &pod, &mut out).expect("one"), ["i"]);
        let all = containers(&asked("p --all-containers"), &pod, &mut out).expect("all");
        assert_eq!(all, ["i", "a", "b"]);
        let wrong = containers(&asked("p -c x"), &pod, &mut out).expect_err("none").to_string();
        assert_eq!(wrong, "error: container x is not valid for pod p: it has i, a, b");
        pod["metadata"]["annotations"] = json!({DEFAULT_CONTAINER: "b"});
        assert_eq!(containers(&asked("p"), &pod, &mut out).expect("one"), ["b"]);
    }
}
