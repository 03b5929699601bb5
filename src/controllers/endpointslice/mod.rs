//! Tells where the pods behind a Service are: EndpointSlices, and the Endpoints object that older
//! clients still read; and for Endpoints written by hand, slices that mirror them.

pub(crate) mod endpoints;
pub(crate) mod mirror;
pub(crate) mod plan;
pub(crate) mod run;
