//! Which requests a webhook or a policy is about: rules, and selectors over labels.

use std::sync::Arc;

use serde_json::Value;

use super::{Operation, Request};
use crate::api::Object;
use crate::api::meta::list;
use crate::api::selector::LabelSelector;
use crate::api::status::ApiError;
use crate::apiserver::catalog::{Catalog, Resource};
use crate::apiserver::registry::Registry;

/// `admissionregistration.k8s.io`: what steers admission cannot be steered by it.
const GROUP: &str = "admissionregistration.k8s.io";

/// One rule.
#[derive(Debug)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: String,
    /// Empty: any.
    names: Vec<String>,
}

fn texts(value: &Value) -> Vec<String> {
    list(value).iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn among(all: &[String], word: &str) -> bool {
    all.iter().any(|one| one == "*" || one == word)
}

impl Rule {
    fn parse(source: &Value) -> Self {
        Self {
            operations: texts(&source["operations"]),
            groups: texts(&source["apiGroups"]),
            versions: texts(&source["apiVersions"]),
            resources: texts(&source["resources"]),
            scope: source["scope"].as_str().unwrap_or("*").to_owned(),
            names: texts(&source["resourceNames"]),
        }
    }

    fn fits(
        &self,
        operation: Operation,
        resource: &Resource,
        subresource: &str,
        name: &str,
    ) -> bool {
        let kind = &resource.kind;
        let scope = match self.scope.as_str() {
            "Cluster" => !resource.namespaced(),
            "Namespaced" => resource.namespaced(),
            _ => true,
        };
        let resource_fits = self.resources.iter().any(|wanted| {
            let (of, sub) = wanted.split_once('/').unwrap_or((wanted, ""));
            (of == "*" || of == kind.plural) && (sub == "*" || sub == subresource)
        });
        scope
            && resource_fits
            && among(&self.operations, operation.word())
            && among(&self.groups, &kind.group)
            && among(&self.versions, &kind.version)
            && (self.names.is_empty() || self.names.iter().any(|n| n == name))
    }
}

/// Which requests are meant.
#[derive(Debug)]
pub(super) struct Matcher {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    namespaces: LabelSelector,
    objects: LabelSelector,
    /// Other versions of what a rule names are meant too.
    equivalent: bool,
    /// Without rules everything is meant.
    any: bool,
}

impl Matcher {
    /// Of a webhook.
    pub(super) fn of_webhook(hook: &Value) -> Self {
        Self::parse(hook, "rules", false)
    }

    /// Of `matchConstraints`.
    pub(super) fn of_constraints(constraints: &Value) -> Self {
        Self::parse(constraints, "resourceRules", false)
    }

    /// Of a binding's `matchResources`, whose rules may be left out.
    pub(super) fn of_binding(resources: &Value) -> Self {
        Self::parse(resources, "resourceRules", true)
    }

    fn parse(source: &Value, rules: &str, may_be_empty: bool) -> Self {
        let selector = |field: &str| match &source[field] {
            Value::Null => LabelSelector::default(),
            // What cannot be read selects nothing: it was refused when it was written.
            said => LabelSelector::from_object(said).unwrap_or_else(|_| LabelSelector::nothing()),
        };
        let rules: Vec<Rule> = list(&source[rules]).iter().map(Rule::parse).collect();
        Self {
            any: may_be_empty && rules.is_empty(),
            rules,
            excluded: list(&source["excludeResourceRules"]).iter().map(Rule::parse).collect(),
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
            equivalent: source["matchPolicy"] != "Exact",
        }
    }

    /// Whether the request is meant; and the resource in whose version it is to be told.
    pub(super) async fn matches(
        &self,
        registry: &Registry,
        request: &Request<'_>,
        object: &Object,
    ) -> Result<Option<Arc<Resource>>, ApiError> {
        let catalog = registry.catalog();
        let Some(resource) = self.resource(&catalog, request, object) else { return Ok(None) };
        if !self.objects.is_empty() && !self.selects_object(request, object) {
            return Ok(None);
        }
        if !self.namespaces.is_empty() && !self.selects_namespace(registry, request, object).await?
        {
            return Ok(None);
        }
        Ok(Some(resource))
    }

    fn resource(
        &self,
        catalog: &Catalog,
        request: &Request<'_>,
        object: &Object,
    ) -> Option<Arc<Resource>> {
        let at = request.attributes;
        let own = &request.resource.kind;
        if own.group == GROUP {
            return None;
        }
        let (sub, name) = (at.subresource.as_str(), request.name(object));
        let fits = |rules: &[Rule], resource: &Resource| {
            rules.iter().any(|rule| rule.fits(request.operation, resource, sub, name))
        };
        let itself = || catalog.resource(&own.group, &own.version, &own.plural).cloned();
        if self.any {
            return itself().filter(|resource| !fits(&self.excluded, resource));
        }
        let found = if fits(&self.rules, request.resource) {
            itself()
        } else if self.equivalent {
            let same = catalog.table().rows().iter().filter(|row| row.storage == own.storage);
            same.filter_map(|row| catalog.resource(&row.group, &row.version, &row.plural))
                .find(|resource| fits(&self.rules, resource))
                .cloned()
        } else {
            None
        };
        found.filter(|resource| !fits(&self.excluded, resource))
    }

    fn selects_object(&self, request: &Request<'_>, object: &Object) -> bool {
        let selected = |object: &Object| {
            object.is_object() && self.objects.matches_labels(&object["metadata"]["labels"])
        };
        let new = request.operation != Operation::Delete && selected(object);
        new || request.old.is_some_and(selected)
    }

    /// What lives in no namespace is selected, but for namespaces themselves.
    async fn selects_namespace(
        &self,
        registry: &Registry,
        request: &Request<'_>,
        object: &Object,
    ) -> Result<bool, ApiError> {
        let is_namespace = request.attributes.group.is_empty() && request.kind == "Namespace";
        if is_namespace && request.attributes.subresource.is_empty() {
            let shown = match request.operation {
                Operation::Delete => request.old.unwrap_or(object),
                _ => object,
            };
            return Ok(self.namespaces.matches_labels(&shown["metadata"]["labels"]));
        }
        if !request.resource.namespaced() {
            return Ok(true);
        }
        let namespace = &request.attributes.namespace;
        let found = registry.get(("", "namespaces"), "", namespace).await?;
        let Some(found) = found else {
            return Err(ApiError::not_found("", "namespaces", namespace));
        };
        Ok(self.namespaces.matches_labels(&found["metadata"]["labels"]))
    }
}

/// An object of one version of a kind, in another.
pub(super) fn convert(from: &Resource, to: &Resource, object: &Object) -> Object {
    if from.api_version == to.api_version || !object.is_object() {
        return object.clone();
    }
    let mut converted = object.clone();
    if let Some(conversion) = from.strategy.conversion() {
        conversion.to_stored(&mut converted);
    }
    if let Some(conversion) = to.strategy.conversion() {
        conversion.to_served(&mut converted);
    }
    converted["apiVersion"] = to.api_version.clone().into();
    converted["kind"] = Value::from(to.kind.kind.to_string());
    converted
}
