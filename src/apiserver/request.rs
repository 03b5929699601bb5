//! What a request asks for: the verb and the object, from method, path and query (Kubernetes'
//! `RequestInfo`).

use http::{Method, Uri};

use super::auth::Attributes;
use crate::api::selector::FieldSelector;
use crate::api::status::ApiError;

/// The query parameters of a request, in order.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Of a URI.
    ///
    /// # Errors
    /// 400 when it cannot be read.
    pub fn parse(uri: &Uri) -> Result<Self, ApiError> {
        axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map(|query| Self(query.0))
            .map_err(|e| ApiError::bad_request(e.to_string()))
    }

    /// As it stands behind `?`, percent-encoded.
    pub fn encode(&self) -> String {
        let pair = |(key, value): &(String, String)| format!("{}={}", escaped(key), escaped(value));
        self.0.iter().map(pair).collect::<Vec<_>>().join("&")
    }

    /// The first value of a parameter; empty where it is missing.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// Every value of a parameter.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether a flag is set, as Go's conversion of query parameters reads it.
    pub fn flag(&self, name: &str) -> bool {
        self.optional_flag(name).unwrap_or(false)
    }

    /// A flag that may be missing.
    pub fn optional_flag(&self, name: &str) -> Option<bool> {
        let (_, value) = self.0.iter().find(|(key, _)| key == name)?;
        Some(!matches!(value.to_ascii_lowercase().as_str(), "false" | "0"))
    }

    /// A number.
    ///
    /// # Errors
    /// 400 for anything else.
    pub fn number(&self, name: &str) -> Result<Option<i64>, ApiError> {
        match self.get(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!(
                    "strconv.ParseInt: parsing {text:?}: invalid syntax (parameter {name})"
                ))
            }),
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// Something about a resource.
    Resource(ResourcePath),
    /// Discovery of the core group (`/api`), `/api/v1`, `/apis`, `/apis/G`, `/apis/G/V`, or
    /// anything else.
    Other(String),
}

/// A path below a group and version that names a resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourcePath {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub subresource: Option<String>,
    /// What follows the subresource (for `proxy`).
    pub rest: String,
    /// The old `/watch/` form of the path.
    pub watch: bool,
}

/// Take a path apart. Trailing and doubled slashes count for nothing.
pub fn parse_path(path: &str) -> Asked {
    let decoded = percent_decoded(path);
    let parts: Vec<&str> = decoded.split('/').filter(|p| !p.is_empty()).collect();
    let (group, version, mut rest) = match parts.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
        _ => return Asked::Other(format!("/{}", parts.join("/"))),
    };
    let mut found = ResourcePath {
        group: group.to_owned(),
        version: version.to_owned(),
        ..ResourcePath::default()
    };
    if let (["watch", below @ ..], true) = (rest, rest.len() > 1) {
        found.watch = true;
        rest = below;
    }
    let rest: &[&str] = match rest {
        // A namespace itself, its status and its finalizers are no namespaced resources.
        ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => rest,
        ["namespaces", namespace, below @ ..] if !below.is_empty() => {
            found.namespace = Some((*namespace).to_owned());
            below
        }
        _ => rest,
    };
    found.plural = rest[0].to_owned();
    found.name = rest.get(1).map(|s| (*s).to_owned());
    found.subresource = rest.get(2).map(|s| (*s).to_owned());
    found.rest = rest.get(3..).unwrap_or_default().join("/");
    Asked::Resource(found)
}

fn percent_decoded(path: &str) -> String {
    if !path.contains('%') {
        return path.to_owned();
    }
    let bytes = path.as_bytes();
    let hex = |at: usize| bytes.get(at).and_then(|b| (*b as char).to_digit(16));
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).expect("two hexadecimal digits"));
                at += 3;
            }
            (byte, _, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The attributes that the authorizers see.
pub fn attributes(method: &Method, asked: &Asked, query: &Query) -> Attributes {
    let path = match asked {
        Asked::Resource(path) => path,
        Asked::Other(path) => {
            return Attributes {
                verb: method.as_str().to_ascii_lowercase(),
                path: path.clone(),
                ..Attributes::default()
            };
        }
    };
    let verb = match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if path.name.is_some() => "delete",
        Method::DELETE => "deletecollection",
        _ if path.watch || (path.name.is_none() && query.flag("watch")) => "watch",
        _ if path.name.is_some() => "get",
        _ => "list",
    };
    let field_selector: Vec<(String, String)> = equal_fields(query.get("fieldSelector"));
    let mut name = path.name.clone().unwrap_or_default();
    if matches!(verb, "list" | "watch" | "deletecollection") && name.is_empty() {
        let named = field_selector.iter().find(|(field, _)| field == "metadata.name");
        name = named.map(|(_, value)| value.clone()).unwrap_or_default();
    }
    // As in Kubernetes: what is below a namespace object itself carries its name as namespace.
    let is_namespace = path.group.is_empty() && path.plural == "namespaces";
    let namespace = match (&path.namespace, &path.name) {
        (None, Some(name)) if is_namespace => name.clone(),
        (namespace, _) => namespace.clone().unwrap_or_default(),
    };
    Attributes {
        verb: verb.to_owned(),
        group: path.group.clone(),
        version: path.version.clone(),
        resource: path.plural.clone(),
        subresource: path.subresource.clone().unwrap_or_default(),
        namespace,
        name,
        path: String::new(),
        field_selector,
    }
}

/// The `=` requirements of a field selector, without the checks that come once the kind is known.
/// Read as the list itself will read it: what authorizers see must be what is selected.
fn equal_fields(selector: &str) -> Vec<(String, String)> {
    let Ok(parsed) = FieldSelector::parse_any(selector) else { return Vec::new() };
    let equal = parsed.requirements().iter().filter(|requirement| requirement.equal);
    equal.map(|requirement| (requirement.field.clone(), requirement.value.clone())).collect()
}

/// Percent-encoded for a query.
pub(super) fn escaped(text: &str) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || b"-_.~:".contains(&b);
    text.bytes()
        .map(|b| if keep(b) { (b as char).to_string() } else { format!("%{b:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: &Method, uri: &str) -> String {
        let uri: Uri = uri.parse().expect("a URI");
        let query = Query::parse(&uri).expect("a query");
        let a = attributes(method, &parse_path(uri.path()), &query);
        format!(
            "{} {}/{} {}/{} {}:{} {}",
            a.verb, a.group, a.version, a.resource, a.subresource, a.namespace, a.name, a.path
        )
    }

    #[test]
    fn what_the_authorizers_see_of_a_field_selector_is_what_it_selects() {
        for (selector, expected) in [
            ("spec.nodeName=a,metadata.name!=b", vec![("spec.nodeName", "a")]),
            (r"metadata.name!=x\,spec.nodeName=a", vec![]),
            (r"metadata.name=x\,y", vec![("metadata.name", "x,y")]),
            ("nonsense,spec.nodeName=a", vec![]),
        ] {
            let expected: Vec<(String, String)> =
                expected.iter().map(|(f, v)| ((*f).to_owned(), (*v).to_owned())).collect();
            assert_eq!(equal_fields(selector), expected, "{selector}");
        }
    }

    #[test]
    fn paths_are_read_as_kubernetes_reads_them() {
        for (method, uri, expected) in [
            (Method::GET, "/api/v1/pods", "list /v1 pods/ : "),
            (Method::GET, "/api/v1/namespaces/a/pods?watch=1", "watch /v1 pods/ a: "),
            (Method::GET, "/api/v1/watch/namespaces/a/pods", "watch /v1 pods/ a: "),
            (Method::GET, "/api/v1/namespaces/a/pods/p/", "get /v1 pods/ a:p "),
            (Method::POST, "/api/v1/namespaces/a/pods/p/binding", "create /v1 pods/binding a:p "),
            (Method::GET, "/api/v1/namespaces", "list /v1 namespaces/ : "),
            (Method::GET, "/api/v1/namespaces/a", "get /v1 namespaces/ a:a "),
            (Method::PUT, "/api/v1/namespaces/a/finalize", "update /v1 namespaces/finalize a:a "),
            (
                Method::DELETE,
                "/apis/apps/v1/namespaces/a/deployments",
                "deletecollection apps/v1 deployments/ a: ",
            ),
            (
                Method::PATCH,
                "/apis/apps/v1/namespaces/a/deployments/d",
                "patch apps/v1 deployments/ a:d ",
            ),
            (
                Method::GET,
                "/api/v1/secrets?fieldSelector=metadata.name%3Dx",
                "list /v1 secrets/ :x ",
            ),
            (Method::GET, "/apis/apps/v1", "get / / : /apis/apps/v1"),
            (Method::GET, "/apis/", "get / / : /apis"),
            (Method::GET, "/livez/ping", "get / / : /livez/ping"),
            (Method::GET, "/api/v1/nodes/a%3Ab", "get /v1 nodes/ :a:b "),
        ] {
            assert_eq!(ask(&method, uri), expected, "{uri}");
        }
    }
}
