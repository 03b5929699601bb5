//! One repository at one registry, as a [`Source`].

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::sync::Mutex;

use super::auth::{self, Challenge, TokenAnswer, escaped};
use super::http::{Http, redirected, shown};
use super::{Hosts, download};
use crate::base::backoff::Backoff;
use crate::base::rng::Rng;
use crate::image::blobs::digest_of;
use crate::image::keyring::Login;
use crate::image::manifest::{ACCEPTED, DOCUMENT_BYTES_MAX, Descriptor};
use crate::image::problem::Problem;
use crate::image::pull::{Fetched, Source};
use crate::image::reference::{Version, is_digest};
use crate::image::store::Store;

const REDIRECTS_MAX: usize = 5;
const TOKEN_BYTES_MAX: usize = 1 << 20;
const ERROR_BYTES_MAX: usize = 64 << 10;
/// The longest pause that a registry may ask for.
const PAUSE_MAX: std::time::Duration = std::time::Duration::from_secs(10);

/// How far logging in has come.
#[derive(Default)]
struct Session {
    /// What stands behind `Authorization:`.
    authorization: Option<HeaderValue>,
    /// The login to try when that is not taken.
    next: usize,
}

/// See the module.
pub struct Remote {
    hosts: Arc<Hosts>,
    pub(super) http: Arc<Http>,
    /// `https://HOST:PORT/v2`.
    base: String,
    repository: String,
    logins: Vec<Login>,
    session: Mutex<Session>,
    /// For a mirror: the domain that it stands for.
    domain: Option<String>,
    cluster: bool,
    /// It is only tried whether this is how it is spoken to.
    once: bool,
}

#[derive(Deserialize)]
struct Errors {
    #[serde(default)]
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Remote {
    pub(super) fn new(
        hosts: &Arc<Hosts>,
        http: Arc<Http>,
        base: String,
        repository: String,
        logins: Vec<Login>,
    ) -> Self {
        Self {
            hosts: hosts.clone(),
            http,
            base,
            repository,
            logins,
            session: Mutex::default(),
            domain: None,
            cluster: false,
            once: false,
        }
    }

    /// As a mirror of a domain.
    pub(super) fn for_domain(self, domain: &str) -> Self {
        Self { domain: Some(domain.to_owned()), ..self }
    }

    /// As the cluster's own.
    pub(super) fn of_cluster(self) -> Self {
        Self { cluster: true, ..self }
    }

    /// Only tried, not insisted on.
    pub(super) fn tried_once(self) -> Self {
        Self { once: true, ..self }
    }

    pub fn is_cluster(&self) -> bool {
        self.cluster
    }

    /// `HOST:PORT`.
    pub fn label(&self) -> String {
        let rest = self.base.split_once("://").map_or(self.base.as_str(), |(_, rest)| rest);
        rest.split('/').next().unwrap_or_default().to_owned()
    }

    fn uri(&self, path: &str) -> Result<Uri, Problem> {
        // Caches that stand for several domains tell them apart so, as with containerd.
        let query = self.domain.iter().map(|domain| format!("?ns={}", escaped(domain)));
        let text = format!("{}/{}{path}{}", self.base, self.repository, query.collect::<String>());
        text.parse().map_err(|error| Problem::refused(format!("{text} is no URL: {error}")))
    }

    /// How often and how soon something is tried again.
    pub(super) fn backoff(&self) -> (Backoff, Rng, u32) {
        let config = self.hosts.config;
        let seed = self.repository.bytes().fold(11, |h: u64, b| h.wrapping_mul(31) + u64::from(b));
        let tries = if self.once { 1 } else { config.tries_max };
        (Backoff::new(config.first_pause, PAUSE_MAX), Rng::seeded(seed), tries)
    }

    /// Asks for something below the repository. 200, 206 and 416 are answers; everything else is a
    /// problem.
    pub(super) async fn get(
        &self,
        path: &str,
        headers: HeaderMap,
    ) -> Result<Response<Incoming>, Problem> {
        let uri = self.uri(path)?;
        loop {
            let authorization = self.session.lock().await.authorization.clone();
            let response = self.follow(&uri, &headers, authorization.as_ref()).await?;
            match response.status() {
                StatusCode::OK
                | StatusCode::PARTIAL_CONTENT
                | StatusCode::RANGE_NOT_SATISFIABLE => {
                    let mut session = self.session.lock().await;
                    if session.authorization == authorization {
                        // The same login is good for the next token.
                        session.next = session.next.saturating_sub(1);
                    }
                    return Ok(response);
                }
                StatusCode::UNAUTHORIZED => {
                    self.log_in(&uri, response, authorization.as_ref()).await?;
                }
                _ => return Err(self.problem(&uri, response).await),
            }
        }
    }

    async fn follow(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response<Incoming>, Problem> {
        let mut uri = uri.clone();
        let first = uri.authority().cloned();
        for _ in 0..=REDIRECTS_MAX {
            let mut headers = headers.clone();
            let home = uri.authority() == first.as_ref();
            if let (Some(authorization), true) = (authorization, home) {
                headers.insert(header::AUTHORIZATION, authorization.clone());
            }
            let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
            let http = if home { self.http.clone() } else { self.hosts.http(&authority)? };
            let response = http.send(Method::GET, &uri, &headers, Bytes::new()).await?;
            match redirected(&uri, &response)? {
                Some(to) => uri = to,
                None => return Ok(response),
            }
        }
        Err(Problem::refused(format!("\"{}\" leads in circles", shown(&uri))))
    }

    async fn problem(&self, uri: &Uri, response: Response<Incoming>) -> Problem {
        let status = response.status();
        let retry = response.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok());
        let retry = retry.map(|after| format!(", retry after {after}s")).unwrap_or_default();
        let body = self.http.whole(response.into_body(), ERROR_BYTES_MAX).await;
        let said: String = body
            .ok()
            .and_then(|body| serde_json::from_slice::<Errors>(&body).ok())
            .into_iter()
            .flat_map(|errors| errors.errors.into_iter().take(3))
            .map(|error| format!(": {}: {}", error.code, error.message))
            .collect();
        let said: String = said.chars().filter(|c| !c.is_control()).take(500).collect();
        let text =
            format!("unexpected status from GET request to {}: {status}{said}{retry}", shown(uri));
        match status.as_u16() {
            404 => Problem::NotFound(format!("{}: not found{said}", self.named())),
            401 | 403 => Problem::Denied(format!(
                "pull access denied, repository does not exist or may require authorization: {text}"
            )),
            408 | 429 | 500..=599 => Problem::Unreachable(text),
            _ => Problem::Refused(text),
        }
    }

    fn named(&self) -> String {
        format!("{}/{}", self.label(), self.repository)
    }

    /// Answers a challenge with the next login, unless somebody else has done so meanwhile.
    async fn log_in(
        &self,
        uri: &Uri,
        response: Response<Incoming>,
        used: Option<&HeaderValue>,
    ) -> Result<(), Problem> {
        let mut session = self.session.lock().await;
        if session.authorization.as_ref() != used {
            return Ok(());
        }
        let challenges: Vec<Challenge> = response
            .headers()
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(Challenge::parse)
            .collect();
        loop {
            let login = self.logins.get(session.next);
            if session.next > self.logins.len() || (login.is_none() && session.next > 0) {
                return Err(self.problem(uri, response).await);
            }
            session.next += 1;
            // Why one login does not work matters only where no other does.
            match self.authorization(uri, &challenges, login).await {
                Ok(Some(authorization)) => {
                    session.authorization = Some(authorization);
                    return Ok(());
                }
                Ok(None) if self.logins.is_empty() => {
                    return Err(Problem::Denied(format!(
                        "pull access denied, repository does not exist or may require \
                         authorization: {} wants credentials, and the pod has no \
                         imagePullSecret for it",
                        self.label()
                    )));
                }
                Err(problem) if session.next >= self.logins.len() => return Err(problem),
                Ok(None) | Err(_) => {}
            }
        }
    }

    async fn authorization(
        &self,
        uri: &Uri,
        challenges: &[Challenge],
        login: Option<&Login>,
    ) -> Result<Option<HeaderValue>, Problem> {
        for challenge in challenges {
            let text = match (challenge, login) {
                (Challenge::Basic, Some(login)) => auth::direct(login),
                (Challenge::Basic, None) => None,
                (Challenge::Bearer { .. }, Some(Login::Bearer(token))) => {
                    Some(format!("Bearer {token}"))
                }
                (Challenge::Bearer { realm, service, scope }, login) => {
                    Some(self.token(uri, realm, service, scope, login).await?)
                }
            };
            if let Some(value) = text.and_then(|text| HeaderValue::from_str(&text).ok()) {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// Fetches a token.
    async fn token(
        &self,
        asked: &Uri,
        realm: &str,
        service: &str,
        scope: &str,
        login: Option<&Login>,
    ) -> Result<String, Problem> {
        let failed =
            |why: String| Problem::Denied(format!("failed to fetch a token from {realm:?}: {why}"));
        let scope = match scope {
            "" => format!("repository:{}:pull", self.repository),
            scope => scope.to_owned(),
        };
        let realm_uri: Uri = realm.parse().map_err(|_| failed("it is no URL".to_owned()))?;
        let plain = realm_uri.scheme_str() != Some("https");
        if plain && (asked.scheme_str() == Some("https") || realm_uri.host().is_none()) {
            return Err(failed("it is not https".to_owned()));
        }
        let authority = realm_uri.authority().map(ToString::to_string).unwrap_or_default();
        let same = realm_uri.authority() == asked.authority();
        let http = if same { self.http.clone() } else { self.hosts.http(&authority)? };
        let mut headers = HeaderMap::new();
        let response = if let Some(Login::Identity(token)) = login {
            let form = format!(
                "grant_type=refresh_token&client_id=coracle&service={}&scope={}&refresh_token={}",
                escaped(service),
                escaped(&scope),
                escaped(token)
            );
            let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
            headers.insert(header::CONTENT_TYPE, kind);
            http.send(Method::POST, &realm_uri, &headers, form.into()).await?
        } else {
            if let Some(text) = login.and_then(auth::direct) {
                let value = HeaderValue::from_str(&text).map_err(|e| failed(e.to_string()))?;
                headers.insert(header::AUTHORIZATION, value);
            }
            let joint = if realm.contains('?') { '&' } else { '?' };
            let with =
                format!("{realm}{joint}service={}&scope={}", escaped(service), escaped(&scope));
            let with: Uri = with.parse().map_err(|_| failed("it is no URL".to_owned()))?;
            http.send(Method::GET, &with, &headers, Bytes::new()).await?
        };
        let status = response.status();
        if !status.is_success() {
            let why = failed(format!("unexpected status: {status}"));
            return Err(match status.is_server_error() {
                true => Problem::Unreachable(why.to_string()),
                false => why,
            });
        }
        let body = http.whole(response.into_body(), TOKEN_BYTES_MAX).await?;
        let answer: TokenAnswer =
            serde_json::from_slice(&body).map_err(|error| failed(error.to_string()))?;
        answer.authorization().ok_or_else(|| failed("the answer holds no token".to_owned()))
    }

    async fn document_once(&self, version: &Version) -> Result<Fetched, Problem> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_str(&ACCEPTED.join(", ")).expect("ASCII"));
        let response = self.get(&format!("/manifests/{version}"), headers).await?;
        let told = response.headers().get("docker-content-digest").and_then(|v| v.to_str().ok());
        let told = told.filter(|told| is_digest(told)).map(str::to_owned);
        let max = usize::try_from(DOCUMENT_BYTES_MAX).unwrap_or(usize::MAX);
        let bytes = self.http.whole(response.into_body(), max).await?;
        let digest = digest_of(&bytes);
        let asked = match version {
            Version::Digest(asked) => Some(asked),
            Version::Tag(_) => told.as_ref(),
        };
        match asked {
            Some(asked) if *asked != digest => Err(Problem::refused(format!(
                "{} gave a manifest with digest {digest} where {asked} was asked for",
                self.label()
            ))),
            _ => Ok(Fetched { bytes, digest }),
        }
    }
}

#[async_trait]
impl Source for Remote {
    async fn document(&self, version: &Version) -> Result<Fetched, Problem> {
        let (mut backoff, mut rng, tries) = self.backoff();
        loop {
            match self.document_once(version).await {
                Err(Problem::Unreachable(why)) if backoff.failures() + 1 < tries => {
                    tracing::debug!(why, "a manifest is asked for again");
                    tokio::time::sleep(backoff.next_delay(&mut rng)).await;
                }
                other => return other,
            }
        }
    }

    async fn blob(&self, descriptor: &Descriptor, store: &Arc<Store>) -> Result<(), Problem> {
        download::blob(self, descriptor, &store.blobs).await
    }
}
