//! Deletes what nobody owns any more, and carries out foreground deletion and orphaning.
//!
//! ```text
//!   metadata of every kind ─▶ graph: object ◀─ owns ─▶ object
//!        an owner vanished ─▶ each dependent: any owner left? ─▶ drop the dangling references
//!                                                └─ no ─▶ delete, as its finalizers say
//!        an owner deleted in the foreground ─▶ delete dependents; the last blocking one gone ─▶
//!                                              drop `foregroundDeletion`
//!        an owner deleted with `orphan` ─▶ drop the references to it ─▶ drop `orphan`
//! ```

pub(crate) mod graph;
pub(crate) mod plan;
pub(crate) mod run;
