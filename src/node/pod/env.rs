//! The environment and the arguments of a container, as the kubelet composes them: Services of
//! the namespace, `envFrom`, `env` in order with `$(VAR)`, later over earlier. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod};

use super::expand::expand;
use super::fields::{Facts, FieldError, field, resource};

/// The data of one ConfigMap or Secret.
pub type Data = BTreeMap<String, Vec<u8>>;

/// Where ConfigMaps and Secrets of the pod's namespace are looked up.
pub trait Lookup {
    fn config_map(&self, name: &str) -> Option<&Data>;
    fn secret(&self, name: &str) -> Option<&Data>;
}

/// One Service, as far as the environment tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceLink {
    pub namespace: String,
    pub name: String,
    pub cluster_ip: IpAddr,
    /// Name, protocol, number.
    pub ports: Vec<(String, String, u16)>,
}

/// Why a container cannot be configured (`CreateContainerConfigError`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    #[error("configmap \"{0}\" not found")]
    NoConfigMap(String),
    #[error("secret \"{0}\" not found")]
    NoSecret(String),
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey { key: String, kind: &'static str, namespace: String, name: String },
    #[error("{0}")]
    Field(#[from] FieldError),
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `REDIS_MASTER` of `redis-master`.
fn variable(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

/// What one Service puts into the environment.
fn service_env(service: &ServiceLink, into: &mut BTreeMap<String, String>) {
    let prefix = variable(&service.name);
    let ip = service.cluster_ip;
    let host = match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let Some((_, _, first)) = service.ports.first() else { return };
    into.insert(format!("{prefix}_SERVICE_HOST"), ip.to_string());
    into.insert(format!("{prefix}_SERVICE_PORT"), first.to_string());
    for (i, (name, protocol, number)) in service.ports.iter().enumerate() {
        if !name.is_empty() {
            let key = format!("{prefix}_SERVICE_PORT_{}", variable(name));
            into.insert(key, number.to_string());
        }
        let scheme = protocol.to_lowercase();
        let url = format!("{scheme}://{host}:{number}");
        if i == 0 {
            into.insert(format!("{prefix}_PORT"), url.clone());
        }
        let port = format!("{prefix}_PORT_{number}_{}", protocol.to_uppercase());
        into.insert(format!("{port}_PROTO"), scheme);
        into.insert(format!("{port}_PORT"), number.to_string());
        into.insert(format!("{port}_ADDR"), ip.to_string());
        into.insert(port, url);
    }
}

/// The environment of `container`, sorted by name; `services` are all that the node knows.
pub fn environment(
    pod: &Pod,
    container: &Container,
    facts: &Facts,
    services: &[ServiceLink],
    lookup: &dyn Lookup,
) -> Result<BTreeMap<String, String>, EnvError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let links = pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
    let mut from_services = BTreeMap::new();
    for service in services {
        let kubernetes = service.namespace == "default" && service.name == "kubernetes";
        if kubernetes || (links && service.namespace == namespace) {
            service_env(service, &mut from_services);
        }
    }
    let mut own = from_sources(container, lookup)?;
    for var in container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (Some(value), _) if !value.is_empty() => {
                let known = |name: &str| own.get(name).or_else(|| from_services.get(name));
                expand(value, |name| known(name).map(String::as_str))
            }
            (_, Some(source)) => {
                match from_one(pod, container, facts, namespace, source, lookup)? {
                    Some(value) => value,
                    None => continue,
                }
            }
            _ => String::new(),
        };
        own.insert(var.name.clone(), value);
    }
    let mut all = from_services;
    all.extend(own);
    Ok(all)
}

fn from_sources(
    container: &Container,
    lookup: &dyn Lookup,
) -> Result<BTreeMap<String, String>, EnvError> {
    let mut own = BTreeMap::new();
    for source in container.env_from.iter().flatten() {
        let data = if let Some(reference) = &source.config_map_ref {
            match (lookup.config_map(&reference.name), reference.optional) {
                (Some(data), _) => data,
                (None, Some(true)) => continue,
                (None, _) => return Err(EnvError::NoConfigMap(reference.name.clone())),
            }
        } else if let Some(reference) = &source.secret_ref {
            match (lookup.secret(&reference.name), reference.optional) {
                (Some(data), _) => data,
                (None, Some(true)) => continue,
                (None, _) => return Err(EnvError::NoSecret(reference.name.clone())),
            }
        } else {
            continue;
        };
        let prefix = source.prefix.as_deref().unwrap_or_default();
        for (key, value) in data {
            own.insert(format!("{prefix}{key}"), text(value));
        }
    }
    Ok(own)
}

/// The value that one `valueFrom` gives; none where it is optional and missing.
fn from_one(
    pod: &Pod,
    container: &Container,
    facts: &Facts,
    namespace: &str,
    source: &EnvVarSource,
    lookup: &dyn Lookup,
) -> Result<Option<String>, EnvError> {
    if let Some(selector) = &source.field_ref {
        return Ok(Some(field(pod, facts, selector)?));
    }
    if let Some(selector) = &source.resource_field_ref {
        return Ok(Some(resource(pod, facts, Some(&container.name), selector)?));
    }
    let (kind, name, key, optional, data) = if let Some(s) = &source.config_map_key_ref {
        ("ConfigMap", &s.name, &s.key, s.optional, lookup.config_map(&s.name))
    } else if let Some(s) = &source.secret_key_ref {
        ("Secret", &s.name, &s.key, s.optional, lookup.secret(&s.name))
    } else {
        return Ok(None);
    };
    let optional = optional == Some(true);
    match data.map(|data| data.get(key)) {
        Some(Some(value)) => Ok(Some(text(value))),
        _ if optional => Ok(None),
        Some(None) => Err(EnvError::NoKey {
            key: key.clone(),
            kind,
            namespace: namespace.to_owned(),
            name: name.clone(),
        }),
        None if kind == "Secret" => Err(EnvError::NoSecret(name.clone())),
        None => Err(EnvError::NoConfigMap(name.clone())),
    }
}

/// argv, expanded: `command` or else the image's entrypoint, then `args` or else (where there is
/// no `command` either) the image's own. Where nobody names the program it is called `program`.
pub fn arguments(
    container: &Container,
    program: &str,
    (entrypoint, cmd): (&[String], &[String]),
    env: &BTreeMap<String, String>,
) -> Vec<String> {
    let full = |list: &Option<Vec<String>>| -> Vec<String> {
        let list = list.iter().flatten();
        list.map(|arg| expand(arg, |name| env.get(name).map(String::as_str))).collect()
    };
    let command = full(&container.command);
    let args = full(&container.args);
    let own_args = !args.is_empty() || !command.is_empty();
    let mut argv = if command.is_empty() { entrypoint.to_vec() } else { command };
    if argv.is_empty() {
        argv.push(program.to_owned());
    }
    argv.extend(if own_args { args } else { cmd.to_vec() });
    argv
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Default)]
    struct Known(BTreeMap<String, Data>, BTreeMap<String, Data>);

    impl Lookup for Known {
        fn config_map(&self, name: &str) -> Option<&Data> {
            self.0.get(name)
        }
        fn secret(&self, name: &str) -> Option<&Data> {
            self.1.get(name)
        }
    }

    fn data(pairs: &[(&str, &str)]) -> Data {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), v.as_bytes().to_vec())).collect()
    }

    fn env(container: serde_json::Value) -> Result<BTreeMap<String, String>, EnvError> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns"},
            "spec": {"containers": [container]},
        }))
        .expect("a pod");
        let mut known = Known::default();
        known.0.insert("cfg".to_owned(), data(&[("color", "red"), ("size", "1")]));
        known.1.insert("sec".to_owned(), data(&[("pass", "hunter2")]));
        let link = |namespace: &str, name: &str, port: &str, number| ServiceLink {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            cluster_ip: "10.43.0.9".parse().expect("an address"),
            ports: vec![(port.to_owned(), "TCP".to_owned(), number)],
        };
        let services = [
            link("ns", "my-db", "sql", 5432),
            link("other", "hidden", "", 80),
            link("default", "kubernetes", "https", 443),
        ];
        let container = pod.spec.as_ref().expect("a spec").containers[0].clone();
        environment(&pod, &container, &Facts::default(), &services, &known)
    }

    #[test]
    fn later_variables_see_and_replace_earlier_ones() {
        let env = env(json!({
            "name": "app",
            "envFrom": [{"configMapRef": {"name": "cfg"}},
                        {"prefix": "S_", "secretRef": {"name": "sec"}},
                        {"configMapRef": {"name": "none", "optional": true}}],
            "env": [
                {"name": "color", "value": "blue"},
                {"name": "URL", "value": "pg://$(S_pass)@$(MY_DB_SERVICE_HOST)/$(color)$(later)"},
                {"name": "later", "value": "x"},
                {"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "gone", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "no", "optional": true}}},
                {"name": "EMPTY"},
            ],
        }))
        .expect("an environment");
        assert_eq!(env["color"], "blue");
        assert_eq!(env["size"], "1");
        assert_eq!(env["URL"], "pg://hunter2@10.43.0.9/blue$(later)");
        assert_eq!(env["WHO"], "web");
        assert_eq!(env["EMPTY"], "");
        assert!(!env.contains_key("gone"));
    }

    #[test]
    fn services_of_the_namespace_and_the_api_are_told() {
        let env = env(json!({"name": "app"})).expect("an environment");
        assert_eq!(env["MY_DB_SERVICE_PORT_SQL"], "5432");
        assert_eq!(env["MY_DB_PORT_5432_TCP"], "tcp://10.43.0.9:5432");
        assert_eq!(env["MY_DB_PORT_5432_TCP_PROTO"], "tcp");
        assert_eq!(env["KUBERNETES_SERVICE_HOST"], "10.43.0.9");
        assert!(!env.keys().any(|k| k.starts_with("HIDDEN")));
    }

    #[test]
    fn what_is_missing_is_named_as_the_kubelet_names_it() {
        let message = |source: serde_json::Value| {
            env(json!({"name": "app", "env": [{"name": "X", "valueFrom": source}]}))
                .expect_err("something is missing")
                .to_string()
        };
        let map = json!({"configMapKeyRef": {"name": "none", "key": "k"}});
        assert_eq!(message(map), "configmap \"none\" not found");
        let secret = json!({"secretKeyRef": {"name": "none", "key": "k"}});
        assert_eq!(message(secret), "secret \"none\" not found");
        let key = json!({"configMapKeyRef": {"name": "cfg", "key": "k"}});
        assert_eq!(message(key), "couldn't find key k in ConfigMap ns/cfg");
    }

    #[test]
    fn arguments_expand_and_a_missing_command_is_the_program() {
        let container: Container =
            serde_json::from_value(json!({"name": "app", "args": ["--port=$(PORT)", "$$(PORT)"]}))
                .expect("a container");
        let env = [("PORT".to_owned(), "80".to_owned())].into();
        let image = (["/app".to_owned()], ["serve".to_owned()]);
        let none: (&[String], &[String]) = (&[], &[]);
        assert_eq!(arguments(&container, "hello", none, &env), ["hello", "--port=80", "$(PORT)"]);
        let image = (image.0.as_slice(), image.1.as_slice());
        assert_eq!(arguments(&container, "hello", image, &env)[0], "/app");
        let bare: Container = serde_json::from_value(json!({"name": "app"})).expect("a container");
        assert_eq!(arguments(&bare, "hello", image, &env), ["/app", "serve"]);
        let own: Container =
            serde_json::from_value(json!({"name": "app", "command": ["x"]})).expect("a container");
        assert_eq!(arguments(&own, "hello", image, &env), ["x"]);
    }
}
