//! Kubernetes' conformance suite, as far as it needs an API server and controllers and no node:
//! each test here walks the steps of one there. `docs/conformance.md` says which is which.

mod apps;
mod auth;
mod clients;
mod custom;
mod events;
mod extension;
mod garbage;
mod harness;
mod machinery;
mod more;
mod network;
mod node;
mod quota;
mod storage;
