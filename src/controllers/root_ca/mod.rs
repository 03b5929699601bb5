//! Puts the cluster's CA into every namespace, as the ConfigMap `kube-root-ca.crt` that pods mount.

pub(crate) mod run;
