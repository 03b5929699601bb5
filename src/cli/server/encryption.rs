//! `--encryption-config`: Kubernetes' `EncryptionConfiguration`, as far as this server seals
//! (`aesgcm` and `identity`).

use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::api::meta::list;
use crate::store::sealed::{Seal, Sealed};

/// Reads the file.
///
/// # Errors
/// What is wrong in it, and where.
pub fn read(path: &Path) -> anyhow::Result<Vec<Sealed>> {
    let told = || format!("--encryption-config {}", path.display());
    let text = std::fs::read_to_string(path).with_context(told)?;
    let config: Value = serde_saphyr::from_str(&text).with_context(told)?;
    parse(&config).with_context(told)
}

fn parse(config: &Value) -> anyhow::Result<Vec<Sealed>> {
    if config["kind"] != "EncryptionConfiguration" {
        bail!("kind must be EncryptionConfiguration, not {}", config["kind"]);
    }
    list(&config["resources"])
        .iter()
        .enumerate()
        .map(|(index, one)| group(one).with_context(|| format!("resources[{index}]")))
        .collect()
}

fn group(one: &Value) -> anyhow::Result<Sealed> {
    let prefixes: Vec<String> = list(&one["resources"])
        .iter()
        .map(|resource| {
            let name = resource.as_str().unwrap_or_default();
            match name.split_once('.') {
                _ if name.is_empty() || name.contains('*') => {
                    Err(anyhow!("resources: name each resource, as secrets or deployments.apps"))
                }
                Some((plural, group)) => Ok(format!("/{group}/{plural}/")),
                None => Ok(format!("/{name}/")),
            }
        })
        .collect::<Result<_, _>>()?;
    let mut seals = Vec::new();
    for (index, provider) in list(&one["providers"]).iter().enumerate() {
        let found = provider.as_object().and_then(|map| map.iter().next());
        let Some((kind, settings)) = found else { bail!("providers[{index}] says nothing") };
        match kind.as_str() {
            "identity" => seals.push(Seal::Plain),
            "aesgcm" => {
                for (at, key) in list(&settings["keys"]).iter().enumerate() {
                    let told = || format!("providers[{index}].aesgcm.keys[{at}]");
                    seals.push(aes_gcm(key).with_context(told)?);
                }
            }
            other => bail!(
                "providers[{index}]: {other} is not known; this server seals with aesgcm, and \
                 reads what is not sealed with identity"
            ),
        }
    }
    if prefixes.is_empty() || seals.is_empty() {
        bail!("resources and providers must both name something");
    }
    Ok(Sealed { prefixes, seals })
}

fn aes_gcm(key: &Value) -> anyhow::Result<Seal> {
    let name = key["name"].as_str().filter(|name| (1..=255).contains(&name.len()));
    let name = name.ok_or_else(|| anyhow!("name must have 1 to 255 bytes"))?;
    let secret = STANDARD.decode(key["secret"].as_str().unwrap_or_default());
    let secret = secret.map_err(|_| anyhow!("secret must be base64"))?;
    Seal::aes_gcm(name, &secret)
        .ok_or_else(|| anyhow!("secret must have 16 or 32 bytes, not {}", secret.len()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(providers: Value) -> Value {
        json!({"kind": "EncryptionConfiguration", "resources": [
            {"resources": ["secrets", "deployments.apps"], "providers": providers}]})
    }

    #[test]
    fn the_file_of_kubernetes_is_read() {
        let secret = STANDARD.encode([7; 32]);
        let providers =
            json!([{"aesgcm": {"keys": [{"name": "k1", "secret": secret}]}}, {"identity": {}}]);
        let found = parse(&config(providers)).expect("a sound file");
        assert_eq!(found[0].prefixes, ["/secrets/", "/apps/deployments/"]);
        assert_eq!(format!("{:?}", found[0].seals), "[AesGcm(k1), Plain]");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (providers, says) in [
            (json!([{"kms": {}}]), "kms is not known"),
            (json!([]), "must both name something"),
            (
                json!([{"aesgcm": {"keys": [{"name": "k", "secret": "AAAA"}]}}]),
                "secret must have 16 or 32 bytes, not 3",
            ),
        ] {
            let error = parse(&config(providers)).expect_err(says);
            let told = format!("{error:#}");
            assert!(told.contains(says) && told.contains("resources[0]"), "{told}");
        }
    }
}
