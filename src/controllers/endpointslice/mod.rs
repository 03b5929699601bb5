//! Tells where the pods behind a Service are: EndpointSlices, and the Endpoints object that older
//! clients still read.

pub(crate) mod endpoints;
pub(crate) mod plan;
pub(crate) mod run;
