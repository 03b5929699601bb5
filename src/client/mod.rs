//! `kube::Client` over the API router in process or over TLS, and informers.
