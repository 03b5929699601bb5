//! Coracle: Kubernetes for WebAssembly, light enough for an edge box.
//!
//! The house has five floors, and imports point down only:
//!
//! | floor | module | is |
//! |---|---|---|
//! | 0 | [`base`] | clock, randomness, backoff, shutdown |
//! | 0 | [`api`] | what a Kubernetes object is: kinds, schema, patches, validation |
//! | 1 | [`store`] | revisions, compare-and-swap, watch |
//! | 1 | [`link`] | identity (keys, certificates) and mTLS connections with streams on them |
//! | 1 | [`stream`] | exec, attach and port-forward on the wire: WebSocket channels, SPDY |
//! | 1 | [`net`] | the virtual network of the pods |
//! | 1 | [`runtime`] | wasm workloads (and, later, containers) |
//! | 1 | [`image`] | from an image reference to a file of a known digest |
//! | 2 | [`apiserver`] | the Kubernetes API over the store |
//! | 2 | [`client`] | `kube::Client` in process or over TLS, informers |
//! | 3 | [`scheduler`], [`controllers`], [`node`] | what acts on objects |
//! | 4 | [`cli`], [`sim`] | wiring; a large cluster of hollow nodes |
//!
//! **Invariant:** components meet only through API objects, and only [`apiserver`] touches
//! [`store`]. `tests/architecture.rs` holds the floors.

pub mod api;
pub mod apiserver;
pub mod base;
pub mod cli;
pub mod client;
pub mod controllers;
pub mod image;
pub mod link;
pub mod net;
pub mod node;
pub mod runtime;
pub mod scheduler;
pub mod sim;
pub mod store;
pub mod stream;
