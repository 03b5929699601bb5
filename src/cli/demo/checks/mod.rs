//! `demo --once`: the promises of the demo, each checked with real requests, a line each.
//!
//! ```text
//! ok    PROMISE · asked: … · came back: … · 12 ms
//! FAIL  PROMISE · asked: … · came back: … · 5000 ms
//! ```
//!
//! A check is an `async fn` over [`Ground`] that says what it asks ([`Ground::asks`]) and answers
//! with what came back, as a value or as an error. They run one after the other, and each leaves
//! the cluster as the next one expects it; one that fails does not stop the others.

mod ask;
mod batch;
mod failover;
mod objects;
mod services;

use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use parking_lot::Mutex;

use super::cluster::Cluster;
use super::progress::say;
use crate::cli::top::facts::PodFacts;

/// What the checks stand on.
pub struct Ground {
    cluster: Arc<Cluster>,
    client: Client,
    asked: Mutex<String>,
}

type Checked = anyhow::Result<String>;

/// One promise.
struct Check {
    promise: &'static str,
    patience: Duration,
    run: for<'a> fn(&'a Ground) -> BoxFuture<'a, Checked>,
}

/// A row: the promise, the seconds that its check may take, the check.
macro_rules! checks {
    ($(($promise:literal, $seconds:literal, $check:path)),* $(,)?) => {
        &[$(Check {
            promise: $promise,
            patience: Duration::from_secs($seconds),
            run: |ground| Box::pin($check(ground)),
        }),*]
    };
}

const CHECKS: &[Check] = checks![
    ("the API knows its users, and no one else", 10, objects::strangers_are_refused),
    ("every worker is a Ready node", 10, objects::nodes_are_ready),
    ("one Service, pods on all workers", 20, services::http_reaches_all_workers),
    ("a program sees its env, ConfigMap and pod", 10, services::environment_is_set),
    ("a pod calls a Service by its DNS name, across workers", 20, services::names_lead_anywhere),
    ("a TCP program counts in its volume", 10, services::counter_counts),
    ("datagrams come back", 10, services::datagrams_come_back),
    ("requests are counted per Service", 15, services::requests_are_counted),
    ("a job reads its config, writes its volume, ends", 20, batch::result_is_logged),
    ("a program's exit code is its pod's", 30, batch::exit_code_is_told),
    ("logs are read through the API", 10, objects::logs_are_read),
    ("scaling up adds pods that serve", 30, objects::scaling_adds_pods),
    ("a killed and restarted worker tells truly, and keeps volumes", 30, failover::restarts_truly),
    ("a killed worker's pods move, and no request fails", 40, failover::pods_move),
    ("the worker comes back", 30, failover::worker_returns),
];

/// Runs all checks; success when all hold.
///
/// # Errors
/// None but those of the checks, which become lines.
pub async fn run(cluster: &Arc<Cluster>, client: Client) -> anyhow::Result<ExitCode> {
    let ground = Ground { cluster: Arc::clone(cluster), client, asked: Mutex::new(String::new()) };
    let mut failed = 0;
    for check in CHECKS {
        ground.asked.lock().clear();
        let since = Instant::now();
        let ended = tokio::time::timeout(check.patience, (check.run)(&ground)).await;
        let ended =
            ended.unwrap_or_else(|_| Err(anyhow::anyhow!("nothing within {:?}", check.patience)));
        failed += usize::from(ended.is_err());
        let (holds, came) = match ended {
            Ok(came) => (true, came),
            Err(error) => (false, format!("{error:#}")),
        };
        let asked = ground.asked.lock().clone();
        say(&line(holds, check.promise, &asked, &came, since.elapsed()));
        if !holds && let Err(error) = ground.cluster.check() {
            say(&format!("{error:#}"));
        }
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether, after the end, none of the processes runs and the directory is gone; its line.
pub fn nothing_left(ids: &[u32], dir: &std::path::Path) -> bool {
    let since = Instant::now();
    let runs = |id: &&u32| {
        let pid = i32::try_from(**id).ok().and_then(rustix::process::Pid::from_raw);
        pid.is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
    };
    let left: Vec<u32> = ids.iter().filter(runs).copied().collect();
    let asked = format!("processes {ids:?} and {}", dir.display());
    let came = match (left.is_empty(), dir.exists()) {
        (true, false) => "all gone".to_owned(),
        (false, _) => format!("processes {left:?} still run"),
        (true, true) => "the directory is still there".to_owned(),
    };
    let holds = left.is_empty() && !dir.exists();
    say(&line(holds, "nothing is left behind", &asked, &came, since.elapsed()));
    holds
}

fn line(holds: bool, promise: &str, asked: &str, came: &str, took: Duration) -> String {
    let verdict = if holds { "ok  " } else { "FAIL" };
    // A line each, whatever a program answered.
    let flat = |text: &str| text.trim().replace('\n', " / ");
    format!(
        "{verdict}  {promise} · asked: {} · came back: {} · {} ms",
        flat(asked),
        flat(came),
        took.as_millis()
    )
}

impl Ground {
    /// Tells what is asked, for the line.
    fn asks(&self, what: impl Into<String>) {
        *self.asked.lock() = what.into();
    }

    /// The addresses of the workers that are told by the demo.
    fn addresses(&self) -> Vec<(String, IpAddr)> {
        self.cluster.addresses()
    }

    fn pods_api(&self) -> Api<Pod> {
        Api::default_namespaced(self.client.clone())
    }

    /// The pods of an app, as the view sees them.
    async fn pods(&self, app: &str) -> anyhow::Result<Vec<PodFacts>> {
        let params = ListParams::default().labels(&format!("app={app}"));
        let list = self.pods_api().list(&params).await?;
        Ok(list.iter().map(PodFacts::of).collect())
    }
}

/// Asks until the answer is there. The check's own patience ends it.
async fn until<T, F>(mut look: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<Option<T>>>,
{
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_one_line() {
        let took = Duration::from_millis(7);
        assert_eq!(
            line(true, "it counts", "incr", "1\n2\n", took),
            "ok    it counts · asked: incr · came back: 1 / 2 · 7 ms"
        );
        assert!(line(false, "p", "a", "b", took).starts_with("FAIL  p"));
    }

    #[test]
    fn what_is_left_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(!nothing_left(&[], dir.path()));
        assert!(!nothing_left(&[std::process::id()], &dir.path().join("none")));
        assert!(nothing_left(&[], &dir.path().join("none")));
    }
}
