//! Discovery: which groups, versions and resources there are, in the old form (a document a
//! group and version) and the aggregated one (`apidiscovery.k8s.io`, v2 and v2beta1).

use http::HeaderMap;
use serde_json::{Value, json};

use super::catalog::Catalog;
use crate::api::kinds::{Kind, KindTable, Scope, Subresource};

/// An aggregated form that a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregated {
    V2,
    V2Beta1,
}

impl Aggregated {
    /// The best aggregated form in `Accept`, if one comes before plain JSON.
    pub fn asked(headers: &HeaderMap) -> Option<Self> {
        let texts = headers.get_all(http::header::ACCEPT).iter();
        let texts: Vec<&str> = texts.filter_map(|v| v.to_str().ok()).collect();
        for clause in texts.iter().flat_map(|t| t.split(',')) {
            let has = |param: &str| clause.split(';').any(|p| p.trim() == param);
            if !clause.trim_start().starts_with("application/json") {
                continue;
            }
            if !has("as=APIGroupDiscoveryList") || !has("g=apidiscovery.k8s.io") {
                return None;
            }
            match (has("v=v2"), has("v=v2beta1")) {
                (true, _) => return Some(Self::V2),
                (_, true) => return Some(Self::V2Beta1),
                _ => {}
            }
        }
        None
    }

    /// Its version.
    pub fn version(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::V2Beta1 => "v2beta1",
        }
    }

    /// As `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::V2 => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            Self::V2Beta1 => {
                "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
            }
        }
    }
}

/// The document of a discovery path, or `None` for a path that is none.
pub fn document(catalog: &Catalog, path: &str, host: &str) -> Option<Value> {
    let table = catalog.table();
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    match parts.as_slice() {
        ["api"] => Some(json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": host}],
        })),
        ["apis"] => Some(json!({
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": groups(table).map(|g| group(table, g)).collect::<Vec<_>>(),
        })),
        ["api", version] if catalog.serves("", version) => Some(resources(table, "", version)),
        ["apis", name] => groups(table).find(|g| g == name).map(|g| {
            let mut document = group(table, g);
            document["kind"] = "APIGroup".into();
            document["apiVersion"] = "v1".into();
            document
        }),
        ["apis", name, version] if !name.is_empty() && catalog.serves(name, version) => {
            Some(resources(table, name, version))
        }
        _ => None,
    }
}

fn groups(table: &KindTable) -> impl Iterator<Item = &str> {
    table.groups().iter().map(|g| g.group.as_str()).filter(|g| !g.is_empty())
}

fn group(table: &KindTable, name: &str) -> Value {
    let versions: Vec<Value> = versions(table, name)
        .map(|v| json!({"groupVersion": format!("{name}/{v}"), "version": v}))
        .collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions[0]})
}

fn versions<'a>(table: &'a KindTable, group: &'a str) -> impl Iterator<Item = &'a str> {
    let found = table.groups().iter().find(|g| g.group == group);
    found.into_iter().flat_map(|g| g.versions.iter().map(String::as_str))
}

fn resources(table: &KindTable, group: &str, version: &str) -> Value {
    let mut found = Vec::new();
    for kind in table.in_version(group, version) {
        let namespaced = kind.scope == Scope::Namespaced;
        let mut resource = json!({
            "name": kind.plural,
            "singularName": kind.singular,
            "namespaced": namespaced,
            "kind": kind.kind,
            "verbs": kind.verbs(),
        });
        put_names(&mut resource, kind);
        found.push(resource);
        for subresource in subresources(kind) {
            let of = subresource.kind(kind);
            let mut entry = json!({
                "name": format!("{}/{}", kind.plural, subresource.name()),
                "singularName": "",
                "namespaced": namespaced,
                "kind": if of.kind.is_empty() { &kind.kind } else { of.kind },
                "verbs": subresource.verbs(),
            });
            if !of.version.is_empty() {
                entry["group"] = of.group.into();
                entry["version"] = of.version.into();
            }
            found.push(entry);
        }
    }
    let group_version =
        if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": found,
    })
}

fn put_names(resource: &mut Value, kind: &Kind) {
    if !kind.short_names.is_empty() {
        resource["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        resource["categories"] = json!(kind.categories);
    }
}

fn subresources(kind: &Kind) -> Vec<Subresource> {
    let mut list = kind.subresources.to_vec();
    list.sort_by_key(|s| s.name());
    list
}

/// The aggregated document of `/api` (the core group) or `/apis` (the others).
pub fn aggregated(catalog: &Catalog, core: bool, form: Aggregated) -> Value {
    let table = catalog.table();
    let items: Vec<Value> = table
        .groups()
        .iter()
        .filter(|g| g.group.is_empty() == core)
        .map(|g| {
            let versions: Vec<Value> = g
                .versions
                .iter()
                .map(|version| {
                    let rows = table.in_version(&g.group, version);
                    let rows: Vec<Value> = rows.into_iter().map(|k| discovered(k)).collect();
                    json!({"version": version, "freshness": "Current", "resources": rows})
                })
                .collect();
            let mut metadata = json!({"creationTimestamp": null});
            if !g.group.is_empty() {
                metadata["name"] = g.group.clone().into();
            }
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{}", form.version()),
        "metadata": {},
        "items": items,
    })
}

fn discovered(kind: &Kind) -> Value {
    let scope = match kind.scope {
        Scope::Namespaced => "Namespaced",
        Scope::Cluster => "Cluster",
    };
    let own = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
    let mut resource = json!({
        "resource": kind.plural,
        "responseKind": own,
        "scope": scope,
        "singularResource": kind.singular,
        "verbs": kind.verbs(),
    });
    put_names(&mut resource, kind);
    let below: Vec<Value> = subresources(kind)
        .into_iter()
        .map(|subresource| {
            let of = subresource.kind(kind);
            let response = match (of.kind, of.version) {
                ("", _) => own.clone(),
                (name, "") => json!({"group": kind.group, "version": kind.version, "kind": name}),
                (name, version) => json!({"group": of.group, "version": version, "kind": name}),
            };
            json!({
                "subresource": subresource.name(),
                "responseKind": response,
                "verbs": subresource.verbs(),
            })
        })
        .collect();
    if !below.is_empty() {
        resource["subresources"] = below.into();
    }
    resource
}
