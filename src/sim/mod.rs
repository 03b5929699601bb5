//! A large cluster on one machine: a real server, and hollow nodes that speak its real API.
//!
//! ```text
//! coracle server (a process of its own, a directory of its own)
//!    ▲ TLS, HTTP/2, one connection a node, its own certificate from its own CSR
//!    │
//! hollow nodes ── register ─ Lease ─ watch spec.nodeName=… ─ status of pods ─ deletion
//! load         ── Deployments or pods
//! prober       ── single objects, read and written all the while
//! faults       ── what the plan says, with the seed's choice of nodes
//! ```
//!
//! Nothing is stubbed but the containers: a hollow node says of a pod that it runs, and does not
//! run it (as kubemark's and KWOK's nodes do). Figures are of this machine; the disk's own
//! `fdatasync` stands beside them.
//!
//! | module | is |
//! |---|---|
//! | [`hollow`] | a node |
//! | [`plan`] | what a node makes of a pod; pure |
//! | [`wire`] | one connection |
//! | [`server`] | the server's process |
//! | [`load`], [`probe`] | what is asked of the cluster, and how long it takes |
//! | [`fault`] | what goes wrong, and when |
//! | [`check`] | what must hold at the end |
//! | [`figures`] | percentiles and the table |

mod check;
pub mod fault;
mod figures;
mod hollow;
mod load;
pub mod plan;
mod probe;
mod run;
mod server;
mod wire;

use std::path::PathBuf;
use std::time::Duration;

pub use load::Workload;
pub use run::run;

/// One simulation.
#[derive(Debug, Clone)]
pub struct SimConfig {
    pub nodes: usize,
    pub pods: usize,
    pub workload: Workload,
    /// Chooses which nodes faults meet.
    pub seed: u64,
    pub faults: fault::FaultPlan,
    /// How often a node renews its Lease.
    pub heartbeat: Duration,
    /// For how long heartbeats alone are measured.
    pub idle: Duration,
    /// How long all pods may take to be Ready.
    pub patience: Duration,
    /// Where the server keeps its store; a temporary directory that is removed, where there is none.
    pub data_dir: Option<PathBuf>,
}
