//! Sets of fields, and who manages them: what `metadata.managedFields` holds (`FieldsV1`,
//! structured-merge-diff).
//!
//! A set is kept in the form in which it is written, so that nothing is converted: a JSON object
//! whose members are the elements of a path (`f:NAME` a field, `k:{…}` an element of a list by its
//! keys, `v:…` one by its value), nested.
//!
//! ```text
//! {"f:spec":{"f:replicas":{},"f:ports":{"k:{\"port\":80}":{".":{},"f:port":{}}}}}
//!     │            └ in the set              └ in the set (".") and below it as well
//!     └ only on the way
//! ```
//!
//! **Invariant:** a node that is not in the set has something below it.

mod managed;
mod node;
mod set;
#[cfg(test)]
mod tests;
mod walk;

pub use managed::{Entry, Managers, Operation, Writer};
pub use node::Node;
pub(crate) use node::element;
pub use set::FieldSet;
pub use walk::{Compared, applied, compare, created};
