//! What a registry's documents say: manifests, indexes and configs (OCI Image Format 1.1, Docker
//! schema 2), and which form an image has. Pure.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::reference::is_digest;
use super::{ImageConfig, Prefer};

/// A manifest, index or config larger than this is refused.
pub const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
/// No image has so many layers, no index so many manifests.
const ENTRIES_MAX: usize = 1024;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// The config of a CNCF wasm OCI artifact, and its layer.
pub const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
pub const WASM_LAYER: &str = "application/wasm";
/// The locked app of Spin.
pub const SPIN_CONFIG: &str = "application/vnd.fermyon.spin.application.v1+config";

/// Layers that are the wasm itself: CNCF TAG Runtime's wasm OCI artifact, and what older tools
/// wrote.
const WASM_LAYERS: [&str; 3] = [
    WASM_LAYER,
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.module.wasm.content.layer.v1+wasm",
];

/// What a request for a manifest accepts.
pub const ACCEPTED: [&str; 4] = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST];

/// A reference from one document to a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// Whether it is an index of several manifests.
    pub fn is_index(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_INDEX | DOCKER_LIST)
    }
}

/// What a manifest of an index is for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl Platform {
    /// `wasi/wasm`, and what others wrote for the same.
    pub fn is_wasm(&self) -> bool {
        self.architecture.starts_with("wasm") || self.os.starts_with("wasi")
    }

    /// How well this machine's processor runs it as a Linux program; smaller is better.
    fn linux_rank(&self, here: &str) -> Option<u32> {
        if self.os != "linux" || self.architecture != here {
            return None;
        }
        let variant = self.variant.as_deref().unwrap_or_default();
        match (here, variant) {
            (_, "") | ("amd64", "v1") | ("arm64", "v8") => Some(0),
            ("arm", "v7") => Some(1),
            ("arm", "v6") => Some(2),
            ("arm", "v5") => Some(3),
            // It may need instructions that are not here.
            _ => None,
        }
    }
}

/// A manifest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub config: Option<Descriptor>,
    #[serde(default)]
    pub layers: Vec<Descriptor>,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    pub artifact_type: Option<String>,
    pub subject: Option<Descriptor>,
}

/// What stands behind a tag or digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    Index(Vec<Descriptor>),
    Manifest(Box<Manifest>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    manifests: Option<Vec<Descriptor>>,
    layers: Option<Value>,
    config: Option<Value>,
    fs_layers: Option<Value>,
    media_type: Option<String>,
}

impl Document {
    /// Reads a document; what it is, it says itself.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
            return Err("the manifest is larger than 4 MiB".to_owned());
        }
        let bad = |error: serde_json::Error| format!("the manifest cannot be read: {error}");
        let shape: Shape = serde_json::from_slice(bytes).map_err(bad)?;
        let all = match shape {
            Shape { fs_layers: Some(_), .. } => {
                return Err("the image is of Docker's schema 1, which no tool writes since 2017: \
                            push it again"
                    .to_owned());
            }
            Shape { manifests: Some(_), layers: Some(_), .. }
            | Shape { manifests: Some(_), config: Some(_), .. } => {
                return Err("the manifest is both an index and an image".to_owned());
            }
            Shape { manifests: Some(manifests), .. } => Self::Index(manifests),
            Shape { layers: None, config: None, media_type, .. } => {
                let said = media_type.unwrap_or_default();
                return Err(format!("the document {said:?} is neither an image nor an index"));
            }
            _ => Self::Manifest(serde_json::from_slice(bytes).map_err(bad)?),
        };
        all.check()?;
        Ok(all)
    }

    fn check(&self) -> Result<(), String> {
        let all: Vec<&Descriptor> = match self {
            Self::Index(manifests) => manifests.iter().collect(),
            Self::Manifest(manifest) => {
                manifest.config.iter().chain(&manifest.layers).chain(&manifest.subject).collect()
            }
        };
        if all.len() > ENTRIES_MAX {
            return Err(format!(
                "the manifest has {} entries, and {ENTRIES_MAX} is the most",
                all.len()
            ));
        }
        match all.iter().find(|descriptor| !is_digest(&descriptor.digest)) {
            Some(wrong) => Err(format!("{:?} is no sha256 digest", wrong.digest)),
            None => Ok(()),
        }
    }

    /// The blobs and manifests that it names.
    pub fn descriptors(&self) -> Vec<&Descriptor> {
        match self {
            Self::Index(manifests) => manifests.iter().collect(),
            Self::Manifest(manifest) => manifest.config.iter().chain(&manifest.layers).collect(),
        }
    }
}

/// What Go calls this machine's processor.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// Of the manifests of an index, the one for this machine.
///
/// # Errors
/// There is none; with those that there are.
pub fn choose<'a>(
    manifests: &'a [Descriptor],
    prefer: Prefer,
    here: &str,
) -> Result<&'a Descriptor, String> {
    let platform = |descriptor: &Descriptor| descriptor.platform.clone().unwrap_or_default();
    let wasm = manifests.iter().find(|descriptor| platform(descriptor).is_wasm());
    let linux = manifests
        .iter()
        .filter_map(|descriptor| Some((platform(descriptor).linux_rank(here)?, descriptor)))
        .min_by_key(|(rank, _)| *rank)
        .map(|(_, descriptor)| descriptor);
    let fitting = match prefer {
        Prefer::Wasm => wasm.or(linux),
        Prefer::Linux => linux.or(wasm),
    };
    match (fitting, manifests) {
        (Some(found), _) => Ok(found),
        // What says of no manifest what it is for, is for all.
        (None, [only]) if only.platform.is_none() => Ok(only),
        (None, _) => {
            let known: Vec<String> = manifests
                .iter()
                .filter_map(|m| m.platform.as_ref())
                .map(Platform::to_string)
                .collect();
            Err(format!(
                "no match for platform in manifest: it has neither wasi/wasm nor linux/{here}, only {}",
                if known.is_empty() {
                    "manifests for no platform".to_owned()
                } else {
                    known.join(", ")
                }
            ))
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ConfigFile {
    architecture: String,
    os: String,
    variant: Option<String>,
    config: Option<ConfigBody>,
    rootfs: RootFs,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RootFs {
    diff_ids: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct ConfigBody {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    stop_signal: Option<String>,
    volumes: Option<BTreeMap<String, Value>>,
    exposed_ports: Option<BTreeMap<String, Value>>,
    labels: Option<BTreeMap<String, String>>,
}

/// What the config of a container image says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    pub image: ImageConfig,
    pub platform: Platform,
    pub diff_ids: Vec<String>,
}

impl Config {
    /// # Errors
    /// It is no config.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let file: ConfigFile = serde_json::from_slice(bytes)
            .map_err(|error| format!("the image's config cannot be read: {error}"))?;
        let body = file.config.unwrap_or_default();
        let text = |text: Option<String>| text.filter(|text| !text.is_empty());
        Ok(Self {
            image: ImageConfig {
                entrypoint: body.entrypoint.unwrap_or_default(),
                cmd: body.cmd.unwrap_or_default(),
                env: body.env.unwrap_or_default(),
                working_dir: text(body.working_dir),
                user: text(body.user),
                stop_signal: text(body.stop_signal),
                volumes: body.volumes.unwrap_or_default().into_keys().collect(),
                exposed_ports: body.exposed_ports.unwrap_or_default().into_keys().collect(),
                labels: body.labels.unwrap_or_default(),
            },
            platform: Platform {
                architecture: file.architecture,
                os: file.os,
                variant: text(file.variant),
            },
            diff_ids: file.rootfs.diff_ids,
        })
    }

    /// Whether what the image starts is a wasm file.
    pub fn starts_wasm(&self) -> bool {
        let program = self.image.entrypoint.iter().chain(&self.image.cmd).next();
        self.platform.is_wasm() || program.is_some_and(|program| program.ends_with(".wasm"))
    }

    /// Whether it does not say what to start.
    pub fn starts_nothing(&self) -> bool {
        self.image.entrypoint.is_empty() && self.image.cmd.is_empty()
    }
}

/// What an image is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// The layer that is the wasm.
    Module(Descriptor),
    /// Layers of files, and their config.
    Files { config: Descriptor },
    /// An app of Spin, whose config says which layer is to be run.
    Spin { config: Descriptor },
}

impl Form {
    /// # Errors
    /// It is of no form that can be run.
    pub fn of(manifest: &Manifest) -> Result<Self, String> {
        let config = manifest.config.clone();
        if let Some(config) = config.clone().filter(|c| c.media_type == SPIN_CONFIG) {
            return Ok(Self::Spin { config });
        }
        let modules: Vec<&Descriptor> = manifest
            .layers
            .iter()
            .filter(|layer| WASM_LAYERS.contains(&layer.media_type.as_str()))
            .collect();
        match (modules.as_slice(), config) {
            ([module], _) => Ok(Self::Module((*module).clone())),
            ([], Some(config)) if config.media_type.contains("image") => Ok(Self::Files { config }),
            ([], _) => Err(format!(
                "it is an artifact of type {:?}, which is nothing that a container can be made of",
                manifest.artifact_type.clone().unwrap_or_else(|| {
                    manifest.config.as_ref().map(|c| c.media_type.clone()).unwrap_or_default()
                })
            )),
            (more, _) => Err(format!(
                "the artifact has {} wasm layers, and which to run cannot be told",
                more.len()
            )),
        }
    }
}

#[derive(Deserialize)]
struct LockedApp {
    #[serde(default)]
    components: Vec<LockedComponent>,
}

#[derive(Deserialize)]
struct LockedComponent {
    #[serde(default)]
    id: String,
    source: LockedSource,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    files: Vec<Value>,
}

#[derive(Deserialize)]
struct LockedSource {
    digest: Option<String>,
}

/// Of a Spin app that is one plain http component: that component's layer, and its environment.
///
/// # Errors
/// The app needs more of Spin than that.
pub fn spin_component(
    config: &[u8],
    layers: &[Descriptor],
) -> Result<(Descriptor, ImageConfig), String> {
    let app: LockedApp = serde_json::from_slice(config)
        .map_err(|error| format!("the locked app of Spin cannot be read: {error}"))?;
    let [component] = app.components.as_slice() else {
        let names: Vec<&str> = app.components.iter().map(|c| c.id.as_str()).collect();
        return Err(format!(
            "the Spin app has {} components ({}): push each as an image of its own",
            names.len(),
            names.join(", ")
        ));
    };
    if !component.files.is_empty() {
        return Err(format!(
            "the component {} of the Spin app has files: mount them as a volume instead",
            component.id
        ));
    }
    let digest = component.source.digest.as_deref().unwrap_or_default();
    let modules = |layer: &&Descriptor| WASM_LAYERS.contains(&layer.media_type.as_str());
    let layer = layers.iter().filter(modules).find(|layer| layer.digest == digest);
    let layer = layer.ok_or_else(|| {
        format!("the component {} of the Spin app has no layer in the image", component.id)
    })?;
    let env = component.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    Ok((layer.clone(), ImageConfig { env, ..ImageConfig::default() }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn digest(of: u8) -> String {
        format!("sha256:{}", format!("{of:02x}").repeat(32))
    }

    fn entry(of: u8, platform: Option<(&str, &str, &str)>) -> Value {
        let mut entry = json!({"mediaType": OCI_MANIFEST, "digest": digest(of), "size": 7});
        if let Some((os, architecture, variant)) = platform {
            entry["platform"] = json!({"os": os, "architecture": architecture});
            if !variant.is_empty() {
                entry["platform"]["variant"] = json!(variant);
            }
        }
        entry
    }

    fn chosen(entries: &[Value], prefer: Prefer) -> Result<String, String> {
        let text = json!({"manifests": entries}).to_string();
        let Document::Index(all) = Document::parse(text.as_bytes())? else { panic!("an index") };
        choose(&all, prefer, "amd64").map(|found| found.digest.clone())
    }

    #[test]
    fn the_platform_is_chosen_by_what_the_pod_prefers() {
        let all = [
            entry(1, Some(("linux", "arm64", ""))),
            entry(2, Some(("linux", "amd64", "v3"))),
            entry(3, Some(("linux", "amd64", ""))),
            entry(4, Some(("wasip1", "wasm", ""))),
            entry(5, Some(("unknown", "unknown", ""))),
        ];
        assert_eq!(chosen(&all, Prefer::Wasm), Ok(digest(4)));
        assert_eq!(chosen(&all, Prefer::Linux), Ok(digest(3)));
        assert_eq!(chosen(&all[..3], Prefer::Wasm), Ok(digest(3)));
        let told = chosen(&all[..2], Prefer::Linux).expect_err("none fits");
        assert!(told.contains("linux/arm64, linux/amd64/v3"), "{told}");
        assert_eq!(chosen(&[entry(6, None)], Prefer::Wasm), Ok(digest(6)));
    }

    #[test]
    fn what_is_no_manifest_is_refused_by_name() {
        for (document, expected) in [
            (json!({"schemaVersion": 1, "fsLayers": []}), "schema 1"),
            (json!({"manifests": [], "layers": []}), "both an index and an image"),
            (json!({"mediaType": "x/y"}), "\"x/y\" is neither"),
            (json!({"layers": [{"digest": "sha256:../x", "size": 1}]}), "no sha256 digest"),
            (json!({"layers": [{"digest": digest(1), "size": -1}]}), "cannot be read"),
            (json!({"manifests": vec![entry(1, None); 1025]}), "1025 entries"),
        ] {
            let told = Document::parse(document.to_string().as_bytes()).expect_err(expected);
            assert!(told.contains(expected), "{told}");
        }
    }

    #[test]
    fn forms_are_told_by_media_types() {
        let layer = |kind: &str| json!({"mediaType": kind, "digest": digest(1), "size": 1});
        let form = |config: &str, layers: &[Value]| {
            let text = json!({"config": layer(config), "layers": layers}).to_string();
            match Document::parse(text.as_bytes()).expect("a manifest") {
                Document::Manifest(manifest) => Form::of(&manifest),
                Document::Index(_) => panic!("no index"),
            }
        };
        assert!(matches!(form(WASM_CONFIG, &[layer(WASM_LAYER)]), Ok(Form::Module(_))));
        assert!(matches!(form(OCI_CONFIG, &[]), Ok(Form::Files { .. })));
        assert!(matches!(form(SPIN_CONFIG, &[layer(WASM_LAYERS[1])]), Ok(Form::Spin { .. })));
        let two = form("x", &[layer(WASM_LAYER), layer(WASM_LAYER)]).expect_err("two");
        assert!(two.contains("2 wasm layers"), "{two}");
        let helm = form("application/vnd.cncf.helm.config.v1+json", &[]).expect_err("a chart");
        assert!(helm.contains("helm"), "{helm}");
    }

    #[test]
    fn a_spin_app_of_one_component_is_run() {
        let layers: Vec<Descriptor> = serde_json::from_value(json!([
            {"mediaType": WASM_LAYERS[1], "digest": digest(1), "size": 1}]))
        .expect("layers");
        let app = |components: Value| json!({"components": components}).to_string();
        let one = json!([{"id": "web", "source": {"digest": digest(1)}, "env": {"A": "b"}}]);
        let (layer, config) = spin_component(app(one).as_bytes(), &layers).expect("it is run");
        assert_eq!((layer.digest, config.env), (digest(1), vec!["A=b".to_owned()]));
        let two = json!([{"id": "a", "source": {}}, {"id": "b", "source": {}}]);
        let told = spin_component(app(two).as_bytes(), &layers).expect_err("two");
        assert!(told.contains("2 components (a, b)"), "{told}");
        let files = json!([{"id": "a", "source": {}, "files": [{"path": "/x"}]}]);
        let told = spin_component(app(files).as_bytes(), &layers).expect_err("files");
        assert!(told.contains("has files"), "{told}");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_parsers_panic(bytes: Vec<u8>) {
            let _ = Document::parse(&bytes);
            let _ = Config::parse(&bytes);
            let _ = spin_component(&bytes, &[]);
        }

        #[test]
        fn no_json_makes_the_parsers_panic(
            key in "(manifests|layers|config|platform|digest|size|components|rootfs)",
            value in "(\\[\\]|\\{\\}|null|-1|\"x\"|\\[\\{\\}\\]|\\[\\{\"digest\":\"sha256:0\",\"size\":1e9\\}\\])",
        ) {
            let text = format!("{{\"{key}\": {value}, \"layers\": {value}}}");
            if let Ok(Document::Manifest(manifest)) = Document::parse(text.as_bytes()) {
                let _ = Form::of(&manifest);
            }
            let _ = Config::parse(text.as_bytes());
        }
    }
}
