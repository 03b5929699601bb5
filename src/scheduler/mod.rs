//! The scheduler: gives every pod without a node one.
//!
//! ```text
//!  informers ──▶ queue ──pop──▶ decide(snapshot, pod) ──▶ assume ──▶ bind (POST pods/binding)
//!     │            ▲                  │ no node fits          │ refused
//!     ▼            └──── backoff ◀────┴───────────────────────┘
//!  snapshot (nodes, and what their pods have claimed, assumed ones included)
//! ```
//!
//! | module | is |
//! |---|---|
//! | [`model`] | nodes and pods, as far as scheduling looks at them |
//! | [`snapshot`] | every node with what is claimed on it |
//! | [`filter`] | the rules that refuse a node, a file a rule |
//! | [`score`] | the rules that rank the nodes that are left, a file a rule |
//! | [`plan`] | [`plan::decide`]: a pure function of a snapshot and a pod |
//! | [`queue`] | which pod is next, and what wakes those that found no node |
//! | [`run`] | the loop |
//!
//! **Invariant:** a pod is assumed on its node before the binding is sent, so that the next decision
//! sees it; what the API refuses is forgotten again.

pub mod config;
pub mod filter;
pub mod model;
pub mod plan;
pub mod queue;
pub mod run;
pub mod score;
pub mod snapshot;

pub use config::{SchedulerConfig, Scoring};
pub use run::run;
