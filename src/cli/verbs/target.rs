//! Which objects a verb is about: `KIND[,KIND] [NAME…]` or `KIND/NAME…`, a selector, a namespace
//! or all.

use serde_json::Value;

use crate::cli::call::{Connection, JSON, with_query};
use crate::cli::failure::Failure;
use crate::cli::resources::{Discovery, Resource};

/// How many objects one answer of a list holds.
pub const PAGE: &str = "500";

/// Objects of one kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    pub resource: Resource,
    /// Empty: all of them.
    pub names: Vec<String>,
}

/// An object by name.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    pub resource: Resource,
    pub namespace: String,
    pub name: String,
}

impl Named {
    /// Its path.
    pub fn path(&self) -> String {
        self.resource.object_path(&self.namespace, &self.name)
    }

    /// As `deployment.apps/web`.
    pub fn typed(&self) -> String {
        format!("{}/{}", self.resource.typed(), self.name)
    }
}

/// Reads the words of a command line.
///
/// # Errors
/// A kind that the server does not serve, or both forms mixed.
pub fn targets(discovery: &Discovery, words: &[String]) -> Result<Vec<Target>, Failure> {
    let Some(first) = words.first() else {
        return Err(Failure::usage(
            "you must say which objects: a kind and names, as `pods`, `pod web` or `pod/web`",
        ));
    };
    if words.iter().any(|word| word.contains('/')) {
        return slashed(discovery, words);
    }
    let names = &words[1..];
    if let Some(empty) = names.iter().find(|name| name.is_empty()) {
        return Err(Failure::usage(format!("a name may not be empty: {empty:?}")));
    }
    let mut found: Vec<Target> = Vec::new();
    for word in first.split(',') {
        let category = discovery.category(&word.to_lowercase());
        // A kind goes before a category of that name.
        let resources = match discovery.find(word) {
            Ok(resource) => vec![resource],
            Err(failure) if category.is_empty() => return Err(failure),
            Err(_) => category,
        };
        for resource in resources {
            if !found.iter().any(|target| target.resource == *resource) {
                found.push(Target { resource: resource.clone(), names: names.to_vec() });
            }
        }
    }
    Ok(found)
}

fn slashed(discovery: &Discovery, words: &[String]) -> Result<Vec<Target>, Failure> {
    let mut found: Vec<Target> = Vec::new();
    for word in words {
        let Some((kind, name)) = word.split_once('/') else {
            return Err(Failure::usage(format!(
                "there is no need to specify a resource type as a separate argument when passing \
                 arguments in resource/name form: write `pod/web` or `pod web`, not `{word}` beside \
                 KIND/NAME"
            )));
        };
        if kind.is_empty() || name.is_empty() || name.contains('/') {
            return Err(Failure::usage(format!(
                "arguments in resource/name form must have a single resource and name: {word:?}"
            )));
        }
        let resource = discovery.find(kind)?;
        match found.last_mut().filter(|last| last.resource == *resource) {
            Some(last) => last.names.push(name.to_owned()),
            None => found.push(Target { resource: resource.clone(), names: vec![name.to_owned()] }),
        }
    }
    Ok(found)
}

/// What narrows a list.
#[derive(Debug, Clone, Copy, Default)]
pub struct Narrow<'a> {
    pub selector: &'a str,
    pub fields: &'a str,
    pub all_namespaces: bool,
}

/// The names of all objects that targets mean; where they name none, those in the namespace that
/// the selectors choose.
///
/// # Errors
/// The server refused.
pub async fn named(
    connection: &Connection,
    targets: &[Target],
    narrow: Narrow<'_>,
) -> Result<Vec<Named>, Failure> {
    let mut found = Vec::new();
    for Target { resource, names } in targets {
        if names.is_empty() {
            let objects = list(connection, resource, narrow).await?;
            found.extend(objects.into_iter().map(|object| Named {
                resource: resource.clone(),
                namespace: namespace_of(&object).to_owned(),
                name: name_of(&object).to_owned(),
            }));
        }
        found.extend(names.iter().map(|name| Named {
            resource: resource.clone(),
            namespace: connection.namespace.clone(),
            name: name.clone(),
        }));
    }
    Ok(found)
}

/// All objects of a kind that fit, page by page.
///
/// # Errors
/// The server refused.
pub async fn list(
    connection: &Connection,
    resource: &Resource,
    narrow: Narrow<'_>,
) -> Result<Vec<Value>, Failure> {
    let namespace = (!narrow.all_namespaces).then_some(connection.namespace.as_str());
    list_at(connection, resource, &resource.path(namespace), narrow).await
}

/// As [`list`], of the collection at `path`.
///
/// # Errors
/// The server refused.
pub async fn list_at(
    connection: &Connection,
    resource: &Resource,
    path: &str,
    narrow: Narrow<'_>,
) -> Result<Vec<Value>, Failure> {
    let mut found = Vec::new();
    let mut token = String::new();
    loop {
        let query = [
            ("labelSelector", narrow.selector),
            ("fieldSelector", narrow.fields),
            ("limit", PAGE),
            ("continue", &token),
        ];
        let mut page = connection.get(&with_query(path, &query), JSON).await?;
        if let Value::Array(items) = page["items"].take() {
            found.extend(items.into_iter().map(|item| with_kind(item, resource)));
        }
        match page["metadata"]["continue"].as_str().unwrap_or_default() {
            "" => return Ok(found),
            next => token = next.to_owned(),
        }
    }
}

/// Items of a list may come without their kind.
fn with_kind(mut item: Value, resource: &Resource) -> Value {
    if let Value::Object(map) = &mut item {
        map.entry("apiVersion").or_insert_with(|| resource.api_version().into());
        map.entry("kind").or_insert_with(|| resource.kind.clone().into());
    }
    item
}

/// `metadata.name`.
pub fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// `metadata.namespace`.
pub fn namespace_of(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or_default()
}

/// The elements of a list; none where it is none.
pub fn elements(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A label selector object (`spec.selector`) as the text of a query; `None` where it selects
/// nothing.
pub fn selector_text(selector: &Value) -> Option<String> {
    let map = selector.as_object()?;
    let plain = !map.contains_key("matchLabels") && !map.contains_key("matchExpressions");
    let labels = if plain { Some(map) } else { selector["matchLabels"].as_object() };
    let mut terms: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    for expression in elements(&selector["matchExpressions"]) {
        let key = expression["key"].as_str().unwrap_or_default();
        let values: Vec<&str> =
            elements(&expression["values"]).iter().filter_map(Value::as_str).collect();
        let values = values.join(",");
        terms.push(match expression["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => return None,
        });
    }
    (!terms.is_empty()).then(|| terms.join(","))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::resources::testing::discovery;

    fn read(words: &str) -> Result<Vec<String>, String> {
        let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        let found = targets(&discovery(), &words).map_err(|failure| failure.to_string())?;
        let show = |t: Target| format!("{} {}", t.resource.qualified(), t.names.join(" "));
        Ok(found.into_iter().map(|t| show(t).trim_end().to_owned()).collect())
    }

    #[test]
    fn kinds_and_names_are_read_in_both_forms() {
        let table: &[(&str, &[&str])] = &[
            ("pods", &["pods"]),
            ("po a b", &["pods a b"]),
            ("pod/a pod/b deploy/c", &["pods a b", "deployments.apps c"]),
            ("pods,deploy,po", &["pods", "deployments.apps"]),
            ("pod,no x", &["pods x", "nodes x"]),
        ];
        for (words, found) in table {
            assert_eq!(read(words).expect(words), *found, "{words}");
        }
        assert_eq!(read("all").expect("a category").len(), 6);
    }

    #[test]
    fn mixed_forms_are_bad_usage() {
        let table = [
            ("", "which objects"),
            ("pods pod/a", "no need to specify a resource type"),
            ("pod/", "single resource and name"),
            ("pod/a/b", "single resource and name"),
            ("zebras a", "doesn't have a resource type \"zebras\""),
        ];
        for (words, told) in table {
            let error = read(words).expect_err(words);
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn selector_objects_become_queries() {
        let expressions = json!([
            {"key": "tier", "operator": "In", "values": ["a", "b"]},
            {"key": "old", "operator": "DoesNotExist"},
        ]);
        let selector = json!({"matchLabels": {"app": "web"}, "matchExpressions": expressions});
        let text = selector_text(&selector).expect("it selects");
        assert_eq!(text, "app=web,tier in (a,b),!old");
        assert_eq!(selector_text(&json!({"app": "web"})).as_deref(), Some("app=web"));
        assert_eq!(selector_text(&json!({})), None);
    }
}
