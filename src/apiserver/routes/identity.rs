//! Who asks, and whether they may.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use http::request::Parts;
use serde_json::json;

use crate::api::status::{ApiError, Reason};
use crate::apiserver::auth::{Attributes, Credentials, Decision, UserInfo};
use crate::apiserver::server::ApiServer;
use crate::stream::upgrade::{BEARER_PREFIX, Offer};

const AUTHENTICATED: &str = "system:authenticated";
const UNAUTHENTICATED: &str = "system:unauthenticated";
const ANONYMOUS: &str = "system:anonymous";

/// The user behind a request.
pub(super) async fn authenticate(server: &ApiServer, parts: &Parts) -> Result<UserInfo, ApiError> {
    if let Some(user) = parts.extensions.get::<UserInfo>() {
        return Ok(with_group(user.clone()));
    }
    let mut credentials = parts.extensions.get::<Credentials>().cloned().unwrap_or_default();
    if credentials.bearer.is_none() {
        credentials.bearer = bearer(&parts.headers).or_else(|| of_websocket(&parts.headers));
    }
    match server.config.authenticator.authenticate(&credentials).await? {
        Some(user) => Ok(with_group(user)),
        None => Ok(UserInfo {
            name: ANONYMOUS.into(),
            groups: vec![UNAUTHENTICATED.into()],
            ..UserInfo::default()
        }),
    }
}

fn bearer(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned())
}

/// The token that a browser's WebSocket carries among its protocols.
fn of_websocket(headers: &HeaderMap) -> Option<String> {
    let offer = Offer::of(headers, None)?;
    let found = offer.protocols.iter().find_map(|name| name.strip_prefix(BEARER_PREFIX))?;
    let token = URL_SAFE_NO_PAD.decode(found.trim_end_matches('=')).ok()?;
    String::from_utf8(token).ok().filter(|token| !token.is_empty())
}

fn with_group(mut user: UserInfo) -> UserInfo {
    let known = |group: &String| group == AUTHENTICATED || group == UNAUTHENTICATED;
    if user.name != ANONYMOUS && !user.groups.iter().any(known) {
        user.groups.push(AUTHENTICATED.into());
    }
    user
}

/// The user that the impersonation headers name, if the one who asks may be them.
pub(super) async fn impersonate(
    server: &ApiServer,
    user: UserInfo,
    headers: &HeaderMap,
) -> Result<UserInfo, ApiError> {
    let Some(wanted) = impersonated(headers)? else { return Ok(user) };
    for attributes in impersonation(&wanted) {
        authorize(server, &user, &attributes).await?;
    }
    Ok(with_implied_groups(wanted))
}

/// The user that the headers name.
fn impersonated(headers: &HeaderMap) -> Result<Option<UserInfo>, ApiError> {
    let all = |name: &str| -> Vec<String> {
        let values = headers.get_all(name).iter();
        values.filter_map(|v| v.to_str().ok()).map(str::to_owned).collect()
    };
    let first = |name: &str| all(name).into_iter().next().unwrap_or_default();
    let mut wanted = UserInfo {
        name: first("impersonate-user"),
        uid: first("impersonate-uid"),
        groups: all("impersonate-group"),
        ..UserInfo::default()
    };
    for (header, value) in headers {
        let key = header.as_str().strip_prefix("impersonate-extra-");
        if let (Some(key), Ok(value)) = (key, value.to_str()) {
            wanted.extra.entry(key.replace("%2f", "/")).or_default().push(value.to_owned());
        }
    }
    if !wanted.name.is_empty() {
        return Ok(Some(wanted));
    }
    if wanted == UserInfo::default() {
        return Ok(None);
    }
    Err(ApiError::internal("requested impersonation without impersonating a user"))
}

fn with_implied_groups(mut wanted: UserInfo) -> UserInfo {
    if wanted.groups.is_empty() {
        if let Some((namespace, _)) = service_account(&wanted.name) {
            let namespaced = format!("system:serviceaccounts:{namespace}");
            wanted.groups.extend(["system:serviceaccounts".to_owned(), namespaced]);
        } else if wanted.name == ANONYMOUS {
            wanted.groups.push(UNAUTHENTICATED.into());
        }
    }
    with_group(wanted)
}

fn service_account(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix("system:serviceaccount:")?.split_once(':')
}

/// What must be allowed to become that user.
fn impersonation(wanted: &UserInfo) -> Vec<Attributes> {
    let UserInfo { name, uid, groups, extra } = wanted;
    let ask = |group: &str, resource: &str, subresource: &str, name: &str| Attributes {
        verb: "impersonate".into(),
        group: group.into(),
        version: "v1".into(),
        resource: resource.into(),
        subresource: subresource.into(),
        name: name.into(),
        ..Attributes::default()
    };
    let mut asks = vec![match service_account(name) {
        Some((namespace, account)) => {
            Attributes { namespace: namespace.into(), ..ask("", "serviceaccounts", "", account) }
        }
        None => ask("", "users", "", name),
    }];
    asks.extend(groups.iter().map(|group| ask("", "groups", "", group)));
    if !uid.is_empty() {
        asks.push(ask("authentication.k8s.io", "uids", "", uid));
    }
    for (key, values) in extra {
        for value in values {
            asks.push(ask("authentication.k8s.io", "userextras", key, value));
        }
    }
    asks
}

/// 403 unless the authorizer allows it.
pub(super) async fn authorize(
    server: &ApiServer,
    user: &UserInfo,
    attributes: &Attributes,
) -> Result<(), ApiError> {
    match server.config.authorizer.authorize(user, attributes).await {
        Decision::Allow => Ok(()),
        Decision::Deny(reason) => Err(forbidden(user, attributes, reason.as_deref())),
    }
}

/// 403 in Kubernetes' words.
fn forbidden(user: &UserInfo, attributes: &Attributes, reason: Option<&str>) -> ApiError {
    let Attributes { verb, group, resource, subresource, namespace, name, path, .. } = attributes;
    let who = format!("User {:?} cannot {verb}", user.name);
    let because = reason.filter(|r| !r.is_empty()).map(|r| format!(": {r}")).unwrap_or_default();
    if resource.is_empty() {
        return ApiError::new(
            Reason::Forbidden,
            format!("forbidden: {who} path {path:?}{because}"),
        )
        .with_details(json!({}));
    }
    let mut what = resource.clone();
    if !subresource.is_empty() {
        what = format!("{resource}/{subresource}");
    }
    let place = if namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {namespace:?}")
    };
    let why = format!("{who} resource {what:?} in API group {group:?} {place}{because}");
    ApiError::forbidden(group, resource, name, &why)
}
