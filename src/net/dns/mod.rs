//! Names: the cluster's zone out of the Service table, answered to `ip-name-lookup`, to http
//! requests and, on the wire, at the cluster's DNS address, all from the same [`zone`].
//! Names of other zones go to the node's resolvers.

mod resolve;
mod server;
mod upstream;
mod wire;
mod zone;

pub(crate) use resolve::resolve;
pub(crate) use server::serve;
