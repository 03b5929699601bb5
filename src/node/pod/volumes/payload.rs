//! What the files of configMap, secret, downwardAPI and projected volumes are. Pure: the data is
//! looked up beforehand, tokens are handed in.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, Pod, ServiceAccountTokenProjection, Volume,
};

use crate::node::pod::env::{Data, Lookup};
use crate::node::pod::fields::{Facts, FieldError, field, resource};

/// One file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub bytes: Vec<u8>,
    pub mode: u32,
}

/// The files by their path below the volume.
pub type Payload = BTreeMap<String, File>;

/// Why a volume's files cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    #[error("configmap \"{0}\" not found")]
    NoConfigMap(String),
    #[error("secret \"{0}\" not found")]
    NoSecret(String),
    #[error("references non-existent {kind} key: {key}")]
    NoKey { kind: &'static str, key: String },
    #[error("{0}")]
    Field(#[from] FieldError),
    #[error("no token for audience {0:?}")]
    NoToken(String),
    #[error("a projected source of kind {0} is not supported by this node")]
    Unsupported(&'static str),
}

/// Whether the files of `volume` are made from a payload.
pub fn has_payload(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
}

/// The token projections of a volume.
pub fn tokens(volume: &Volume) -> impl Iterator<Item = &ServiceAccountTokenProjection> {
    let sources = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
    sources.filter_map(|source| source.service_account_token.as_ref())
}

/// The ConfigMaps and Secrets that a volume names.
pub fn references(volume: &Volume) -> (Vec<&str>, Vec<&str>) {
    let mut maps: Vec<&str> = volume.config_map.iter().map(|c| c.name.as_str()).collect();
    let mut secrets: Vec<&str> =
        volume.secret.iter().filter_map(|s| s.secret_name.as_deref()).collect();
    for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
        maps.extend(source.config_map.iter().map(|c| c.name.as_str()));
        secrets.extend(source.secret.iter().map(|s| s.name.as_str()));
    }
    (maps, secrets)
}

fn mode(own: Option<i32>, default: Option<i32>) -> u32 {
    own.or(default).and_then(|m| u32::try_from(m).ok()).unwrap_or(0o644) & 0o777
}

/// Puts the wanted keys of `data` into `into`.
fn keys(
    into: &mut Payload,
    kind: &'static str,
    data: &Data,
    items: Option<&[KeyToPath]>,
    default: Option<i32>,
    optional: bool,
) -> Result<(), PayloadError> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        let files = data.iter().map(|(key, bytes)| {
            (key.clone(), File { bytes: bytes.clone(), mode: mode(None, default) })
        });
        into.extend(files);
        return Ok(());
    };
    for item in items {
        match data.get(&item.key) {
            Some(bytes) => {
                let file = File { bytes: bytes.clone(), mode: mode(item.mode, default) };
                into.insert(item.path.clone(), file);
            }
            None if optional => {}
            None => return Err(PayloadError::NoKey { kind, key: item.key.clone() }),
        }
    }
    Ok(())
}

fn downward(
    into: &mut Payload,
    items: Option<&[DownwardAPIVolumeFile]>,
    default: Option<i32>,
    pod: &Pod,
    facts: &Facts,
) -> Result<(), PayloadError> {
    for item in items.unwrap_or_default() {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(selector), _) => field(pod, facts, selector)?,
            (None, Some(selector)) => resource(pod, facts, None, selector)?,
            (None, None) => continue,
        };
        let file = File { bytes: text.into_bytes(), mode: mode(item.mode, default) };
        into.insert(item.path.clone(), file);
    }
    Ok(())
}

/// What the pieces of a payload are looked up in.
pub struct Sources<'a> {
    pub pod: &'a Pod,
    pub facts: &'a Facts,
    pub lookup: &'a dyn Lookup,
    /// Tokens by the path of their projection.
    pub tokens: &'a BTreeMap<String, String>,
}

impl Sources<'_> {
    fn config_map(
        &self,
        into: &mut Payload,
        name: &str,
        items: Option<&[KeyToPath]>,
        default: Option<i32>,
        optional: bool,
    ) -> Result<(), PayloadError> {
        match self.lookup.config_map(name) {
            Some(data) => keys(into, "config", data, items, default, optional),
            None if optional => Ok(()),
            None => Err(PayloadError::NoConfigMap(name.to_owned())),
        }
    }

    fn secret(
        &self,
        into: &mut Payload,
        name: &str,
        items: Option<&[KeyToPath]>,
        default: Option<i32>,
        optional: bool,
    ) -> Result<(), PayloadError> {
        match self.lookup.secret(name) {
            Some(data) => keys(into, "secret", data, items, default, optional),
            None if optional => Ok(()),
            None => Err(PayloadError::NoSecret(name.to_owned())),
        }
    }

    /// The files of `volume`; empty where it is of another kind.
    pub fn payload(&self, volume: &Volume) -> Result<Payload, PayloadError> {
        let mut files = Payload::new();
        let yes = |optional: Option<bool>| optional == Some(true);
        if let Some(map) = &volume.config_map {
            let items = map.items.as_deref();
            self.config_map(&mut files, &map.name, items, map.default_mode, yes(map.optional))?;
        }
        if let Some(secret) = &volume.secret {
            let name = secret.secret_name.as_deref().unwrap_or_default();
            let items = secret.items.as_deref();
            self.secret(&mut files, name, items, secret.default_mode, yes(secret.optional))?;
        }
        if let Some(own) = &volume.downward_api {
            downward(&mut files, own.items.as_deref(), own.default_mode, self.pod, self.facts)?;
        }
        let Some(projected) = &volume.projected else { return Ok(files) };
        let default = projected.default_mode;
        for source in projected.sources.iter().flatten() {
            if let Some(map) = &source.config_map {
                let items = map.items.as_deref();
                self.config_map(&mut files, &map.name, items, default, yes(map.optional))?;
            } else if let Some(secret) = &source.secret {
                let items = secret.items.as_deref();
                self.secret(&mut files, &secret.name, items, default, yes(secret.optional))?;
            } else if let Some(own) = &source.downward_api {
                downward(&mut files, own.items.as_deref(), default, self.pod, self.facts)?;
            } else if let Some(token) = &source.service_account_token {
                let audience = || token.audience.clone().unwrap_or_default();
                let text = self
                    .tokens
                    .get(&token.path)
                    .ok_or_else(|| PayloadError::NoToken(audience()))?;
                let file = File { bytes: text.clone().into_bytes(), mode: mode(None, default) };
                files.insert(token.path.clone(), file);
            } else if source.cluster_trust_bundle.is_some() {
                return Err(PayloadError::Unsupported("clusterTrustBundle"));
            } else if source.pod_certificate.is_some() {
                return Err(PayloadError::Unsupported("podCertificate"));
            }
        }
        Ok(files)
    }
}
