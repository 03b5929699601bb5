//! Credentials for registries, as `imagePullSecrets` hold them: `.dockerconfigjson` and the older
//! `.dockercfg`. An entry is for a host, whose parts may be globs, and for what lies below a path;
//! the more specific one is tried first (Kubernetes' `credentialprovider`).

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::reference::{DEFAULT_DOMAIN, Name};

/// No secret has so many entries.
const ENTRIES_MAX: usize = 10_000;
/// What Docker calls its own registry in these files.
const DOCKER_HOSTS: [&str; 3] = ["index.docker.io", "registry-1.docker.io", DEFAULT_DOMAIN];

/// How to log in.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    Basic {
        user: String,
        password: String,
    },
    /// A refresh token of the registry's token server.
    Identity(String),
    /// A token that the registry takes as it is.
    Bearer(String),
}

impl fmt::Debug for Login {
    /// Tells nothing that is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { user, .. } => write!(f, "Basic({user})"),
            Self::Identity(_) => f.write_str("Identity"),
            Self::Bearer(_) => f.write_str("Bearer"),
        }
    }
}

#[derive(Debug, Clone)]
struct Entry {
    host: String,
    /// Without slashes at the ends.
    path: String,
    login: Login,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Keyring(Vec<Entry>);

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Auth {
    pub username: String,
    pub password: String,
    pub auth: String,
    #[serde(alias = "identity_token")]
    pub identitytoken: String,
    pub registrytoken: String,
}

impl Auth {
    /// # Errors
    /// It says nothing that could be used.
    pub fn login(self) -> Result<Login, String> {
        if !self.registrytoken.is_empty() {
            return Ok(Login::Bearer(self.registrytoken));
        }
        if !self.identitytoken.is_empty() {
            return Ok(Login::Identity(self.identitytoken));
        }
        if !self.auth.is_empty() {
            let decoded = STANDARD
                .decode(self.auth.trim_end_matches('='))
                .or_else(|_| STANDARD.decode(&self.auth));
            let text = decoded.ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let text = text.ok_or("its auth is no base64")?;
            let text = text.trim_end_matches('\0');
            let (user, password) = text.split_once(':').ok_or("its auth is not USER:PASSWORD")?;
            return Ok(Login::Basic { user: user.to_owned(), password: password.to_owned() });
        }
        if self.username.is_empty() && self.password.is_empty() {
            return Err("it has neither username and password nor auth".to_owned());
        }
        Ok(Login::Basic { user: self.username, password: self.password })
    }
}

impl Keyring {
    /// Adds what a `.dockerconfigjson` holds.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn add_docker_config(&mut self, bytes: &[u8]) -> Result<(), String> {
        let read: DockerConfig = serde_json::from_slice(bytes)
            .map_err(|error| format!(".dockerconfigjson cannot be read: {error}"))?;
        self.add(read.auths)
    }

    /// Adds what a `.dockercfg` holds.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn add_docker_cfg(&mut self, bytes: &[u8]) -> Result<(), String> {
        let read: BTreeMap<String, Auth> = serde_json::from_slice(bytes)
            .map_err(|error| format!(".dockercfg cannot be read: {error}"))?;
        self.add(read)
    }

    fn add(&mut self, auths: BTreeMap<String, Auth>) -> Result<(), String> {
        for (key, auth) in auths {
            if self.0.len() >= ENTRIES_MAX {
                return Err("the secret has more than 10,000 entries".to_owned());
            }
            let login =
                auth.login().map_err(|why| format!("the entry {key:?} is of no use: {why}"))?;
            let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
            let bare = bare.unwrap_or(&key);
            let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
            let path = path.trim_end_matches('/');
            let path = match path {
                "v1" | "v2" => "",
                path => path.strip_prefix("v1/").or(path.strip_prefix("v2/")).unwrap_or(path),
            };
            self.0.push(Entry { host: host.to_owned(), path: path.to_owned(), login });
        }
        // The longer path first, then the host without a glob.
        self.0.sort_by_key(|entry| (std::cmp::Reverse(entry.path.len()), entry.host.contains('*')));
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What may open this image, the most specific first.
    pub fn logins(&self, name: &Name) -> Vec<Login> {
        let fitting = self.0.iter().filter(|entry| {
            let docker = name.domain == DEFAULT_DOMAIN && DOCKER_HOSTS.contains(&&*entry.host);
            (docker || host_matches(&entry.host, &name.domain))
                && below(&entry.path, &name.repository)
        });
        fitting.map(|entry| entry.login.clone()).collect()
    }
}

fn below(path: &str, repository: &str) -> bool {
    repository
        .strip_prefix(path)
        .is_some_and(|rest| path.is_empty() || rest.is_empty() || rest.starts_with('/'))
}

/// Whether a host with globs in its parts is this one, port included.
fn host_matches(pattern: &str, host: &str) -> bool {
    let split = |text: &str| match text.rsplit_once(':') {
        Some((host, port)) => (host.to_owned(), port.to_owned()),
        None => (text.to_owned(), String::new()),
    };
    let ((pattern, pattern_port), (host, port)) = (split(pattern), split(host));
    let (patterns, parts): (Vec<_>, Vec<_>) =
        (pattern.split('.').collect(), host.split('.').collect());
    pattern_port == port
        && patterns.len() == parts.len()
        && patterns
            .iter()
            .zip(&parts)
            .all(|(pattern, part)| glob(pattern.as_bytes(), part.as_bytes()))
}

/// `*` is any text, `?` any character.
pub(super) fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, matched)) => {
                    p = at + 1;
                    t = matched + 1;
                    star = Some((at, matched + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Reference;

    fn users(keyring: &Keyring, image: &str) -> Vec<String> {
        let Ok(Reference::Registry(name)) = Reference::parse(image) else { panic!("{image}") };
        keyring
            .logins(&name)
            .into_iter()
            .map(|login| match login {
                Login::Basic { user, .. } => user,
                other => format!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn the_more_specific_entry_is_tried_first() {
        let mut keyring = Keyring::default();
        let auth = STANDARD.encode("hub:secret:with:colons");
        let text = format!(
            r#"{{"auths": {{
                "https://index.docker.io/v1/": {{"auth": "{auth}"}},
                "*.example.com": {{"username": "glob", "password": "p"}},
                "r.example.com/team": {{"username": "team", "password": "p"}},
                "r.example.com:5000": {{"username": "port", "password": "p"}},
                "t.example": {{"identitytoken": "t"}}}}}}"#
        );
        keyring.add_docker_config(text.as_bytes()).expect("read");
        assert_eq!(users(&keyring, "nginx"), ["hub"]);
        assert_eq!(users(&keyring, "r.example.com/team/app"), ["team", "glob"]);
        assert_eq!(users(&keyring, "r.example.com/teams/app"), ["glob"]);
        assert_eq!(users(&keyring, "r.example.com:5000/x"), ["port"]);
        assert_eq!(users(&keyring, "t.example/x"), ["Identity"]);
        assert_eq!(users(&keyring, "a.b.example.com/x"), [""; 0]);
        let mut old = Keyring::default();
        old.add_docker_cfg(br#"{"q.io": {"username": "u", "password": "p"}}"#).expect("read");
        assert_eq!(users(&old, "q.io/a/b:1"), ["u"]);
    }

    #[test]
    fn secrets_that_say_nothing_are_told() {
        let mut keyring = Keyring::default();
        let told = keyring.add_docker_config(br#"{"auths": {"a.io": {}}}"#).expect_err("empty");
        assert!(told.contains("\"a.io\""), "{told}");
        let told = keyring.add_docker_config(br#"{"auths": {"a.io": {"auth": "%"}}}"#);
        assert!(told.expect_err("no base64").contains("base64"));
        assert!(keyring.add_docker_cfg(b"[").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_secret_makes_it_panic(bytes: Vec<u8>, pattern in "[a*?.]{0,12}", text in "[a.]{0,12}") {
            let mut keyring = Keyring::default();
            let _ = keyring.add_docker_config(&bytes);
            let _ = keyring.add_docker_cfg(&bytes);
            let _ = host_matches(&pattern, &text);
            proptest::prop_assert!(glob(b"*", text.as_bytes()));
            proptest::prop_assert!(host_matches(&text, &text));
        }
    }
}
