//! Reads and writes single objects all the while, and remembers how long each took.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::json;

use super::load::NAMESPACE;
use super::wire::{Connection, Endpoint, Kind};
use crate::base::shutdown::Shutdown;
use crate::link::identity::Identity;

const EVERY: Duration = Duration::from_millis(20);
/// One in so many probes writes.
const WRITES: u64 = 4;

/// How long requests took.
#[derive(Debug, Default)]
pub struct Samples {
    pub gets: Vec<Duration>,
    pub patches: Vec<Duration>,
}

/// Probes until the shutdown; a connection that breaks is made anew.
pub async fn run(
    endpoint: Endpoint,
    identity: Identity,
    samples: Arc<Mutex<Samples>>,
    stop: Shutdown,
) {
    let probing = async {
        loop {
            if let Ok(connection) = endpoint.connect(Some(&identity), None).await {
                let _ = probe(&connection, &samples).await;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = probing => {}
    }
}

async fn probe(connection: &Connection, samples: &Mutex<Samples>) -> anyhow::Result<()> {
    let all = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "probe"},
        "data": {"count": "0"},
    });
    connection.must("POST", &all, Kind::Json, Some(&object), &[409]).await?;
    let path = format!("{all}/probe");
    for count in 1_u64.. {
        let start = Instant::now();
        if count % WRITES == 0 {
            let body = json!({"data": {"count": count.to_string()}});
            connection.must("PATCH", &path, Kind::MergePatch, Some(&body), &[]).await?;
            samples.lock().patches.push(start.elapsed());
        } else {
            connection.must("GET", &path, Kind::Json, None, &[]).await?;
            samples.lock().gets.push(start.elapsed());
        }
        tokio::time::sleep(EVERY).await;
    }
    Ok(())
}
