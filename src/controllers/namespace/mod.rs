//! Empties a Namespace that is being deleted, then lets it go.
//!
//! ```text
//!   deletionTimestamp ─▶ phase Terminating ─▶ delete the pods ─▶ delete all else, kind by kind
//!        ▲                                          │ some remain (grace, finalizers)
//!        └────────── again, told in conditions ◀────┤
//!                                                   ▼ nothing remains
//!                                           drop the finalizer `kubernetes`
//! ```

pub(crate) mod plan;
pub(crate) mod run;
