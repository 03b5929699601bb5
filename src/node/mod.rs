//! The worker: it is a kubelet.
