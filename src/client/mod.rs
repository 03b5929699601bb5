//! What every component that acts on objects stands on: a [`kube::Client`] over the API router in
//! this process or over TLS, informers, work queues, events and leader election.
//!
//! | module | is |
//! |---|---|
//! | [`in_process()`] | a `kube::Client` whose requests never leave the process |
//! | [`rest`] | the verbs, on paths |
//! | [`meta`] | keys, times and owners of objects |
//! | [`informer`] | a local, indexed picture of one kind, kept by list and watch |
//! | [`workqueue`] | keys to work on, each once, failed ones later |
//! | [`events`] | `core/v1` Events, aggregated and rate limited |
//! | [`leader`] | one of several processes acts, by a Lease |
//!
//! **Invariant:** nothing here knows which API server answers: the same code runs in process,
//! over TLS and against another Kubernetes.

pub mod events;
mod in_process;
pub mod informer;
pub mod leader;
pub mod meta;
pub mod rest;
#[cfg(test)]
pub mod testing;
pub mod workqueue;

pub use in_process::in_process;
pub use meta::Key;
