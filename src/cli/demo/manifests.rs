//! The manifests of the demo, carried in the binary, and how they are put into the cluster.

use anyhow::Context;
use kube::Client;
use serde::Deserialize;
use serde_json::Value;

use crate::client::rest;

/// The files of `manifests/demo`, in the order in which they are applied.
pub const FILES: &[(&str, &str)] = &[
    ("10-hello-http.yaml", include_str!("../../../manifests/demo/10-hello-http.yaml")),
    ("20-greeter.yaml", include_str!("../../../manifests/demo/20-greeter.yaml")),
    ("30-counter-tcp.yaml", include_str!("../../../manifests/demo/30-counter-tcp.yaml")),
    ("40-udp-echo.yaml", include_str!("../../../manifests/demo/40-udp-echo.yaml")),
    ("50-batch.yaml", include_str!("../../../manifests/demo/50-batch.yaml")),
];

/// All objects of all files, in order.
///
/// # Errors
/// A file that is no YAML, with its name.
pub fn objects() -> anyhow::Result<Vec<Value>> {
    let mut objects = Vec::new();
    for (name, text) in FILES {
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(text).with_context(|| format!("manifests/demo/{name}"))?;
        objects.extend(documents.into_iter().filter(|object| !object.is_null()));
    }
    Ok(objects)
}

/// A NodePort that a Service among `objects` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePort {
    pub service: String,
    pub port: u16,
    pub udp: bool,
}

/// The NodePorts that `objects` ask for.
pub fn node_ports(objects: &[Value]) -> Vec<NodePort> {
    let services = objects.iter().filter(|object| object["kind"] == "Service");
    let ports = services.flat_map(|service| {
        let name = service["metadata"]["name"].as_str().unwrap_or_default();
        let ports = service["spec"]["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
        ports.iter().filter_map(move |port| {
            let number = port["nodePort"].as_u64().and_then(|n| u16::try_from(n).ok())?;
            let udp = port["protocol"] == "UDP";
            Some(NodePort { service: name.to_owned(), port: number, udp })
        })
    });
    ports.collect()
}

/// Creates `object`, or patches the one of its name that is there.
///
/// # Errors
/// What the server answered, with the object's name.
pub async fn apply(client: &Client, object: &Value) -> anyhow::Result<()> {
    let called = named(object);
    let (collection, path) = paths(object).with_context(|| called.clone())?;
    match rest::create::<rest::Ignored>(client, &collection, object).await {
        Ok(_) => Ok(()),
        Err(error) if rest::is_already_exists(&error) => {
            rest::patch::<rest::Ignored>(client, &path, rest::Patch::Strategic, object)
                .await
                .map(|_| ())
                .with_context(|| called)
        }
        Err(error) => Err(error).with_context(|| called),
    }
}

/// `Deployment/hello-http`.
pub fn named(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    format!("{}/{}", text(&object["kind"]), text(&object["metadata"]["name"]))
}

#[derive(Deserialize)]
struct Identity {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    namespace: Option<String>,
}

/// The path of the object's collection and its own.
fn paths(object: &Value) -> anyhow::Result<(String, String)> {
    let Identity { api_version, kind, metadata } = Identity::deserialize(object)?;
    let root = if api_version.contains('/') { "apis" } else { "api" };
    // All kinds of the demo have a regular plural.
    let plural = format!("{}s", kind.to_lowercase());
    let namespace = metadata.namespace.as_deref().unwrap_or("default");
    let collection = format!("/{root}/{api_version}/namespaces/{namespace}/{plural}");
    let path = format!("{collection}/{}", metadata.name);
    Ok((collection, path))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_of_the_folder_is_carried() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/demo");
        let there: BTreeSet<String> = std::fs::read_dir(folder)
            .expect("the folder is there")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        let carried = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(there, carried);
    }

    #[test]
    fn every_image_is_one_that_the_binary_carries() {
        for object in objects().expect("YAML") {
            let text = object.to_string();
            for image in text.split("\"image\":\"").skip(1) {
                let image = image.split('"').next().unwrap_or_default();
                let name = image
                    .strip_prefix("coracle.dev/samples/")
                    .and_then(|image| image.strip_suffix(":v1"));
                let known = name.and_then(crate::image::samples::sample);
                assert!(known.is_some(), "{}: {image}", named(&object));
            }
        }
    }

    #[test]
    fn node_ports_are_read_with_their_protocol() {
        let ports = node_ports(&objects().expect("YAML"));
        let numbers: Vec<(u16, bool)> = ports.iter().map(|p| (p.port, p.udp)).collect();
        assert_eq!(numbers, [(30080, false), (30081, false), (30700, false), (30707, true)]);
    }

    #[test]
    fn paths_are_those_of_the_api() {
        let object = serde_json::json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        });
        let (collection, path) = paths(&object).expect("an object");
        assert_eq!(collection, "/apis/apps/v1/namespaces/default/deployments");
        assert_eq!(path, "/apis/apps/v1/namespaces/default/deployments/web");
    }
}
