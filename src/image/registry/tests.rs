//! The distribution API, as clients use it and misuse it.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::blobs::digest_of;
use super::super::manifest::{OCI_MANIFEST, WASM_CONFIG, WASM_LAYER};
use super::*;

/// May read everything, and write below `team/`.
struct Team(bool);

#[async_trait]
impl Access for Team {
    fn is_known(&self) -> bool {
        self.0
    }

    async fn may(&self, verb: Verb, repository: &str) -> Result<(), String> {
        match verb == Verb::Get || repository.starts_with("team/") {
            true => Ok(()),
            false => Err(format!("cannot {} images in {repository}", verb.as_str())),
        }
    }
}

struct Bench {
    _dir: tempfile::TempDir,
    registry: Arc<Registry>,
}

struct Told {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Told {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    fn code(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).expect("JSON");
        body["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let registry = Registry::open(dir.path()).expect("a registry");
        Self { _dir: dir, registry }
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Told {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_vec())).expect("a request");
        let response = self.registry.serve(&Team(true), request).await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        Told { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    async fn push_blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = digest_of(bytes);
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        let told = self.ask("POST", &path, &[], bytes).await;
        assert_eq!(told.status, 201, "{:?}", told.body);
        digest
    }

    async fn push_image(&self, repository: &str, tag: &str, wasm: &[u8]) -> String {
        let layer = self.push_blob(repository, wasm).await;
        let config = self.push_blob(repository, b"{}").await;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": {"mediaType": WASM_CONFIG, "digest": config, "size": 2},
            "layers": [{"mediaType": WASM_LAYER, "digest": layer, "size": wasm.len()}],
        });
        let text = manifest.to_string();
        let path = format!("/v2/{repository}/manifests/{tag}");
        let told = self.ask("PUT", &path, &[("content-type", OCI_MANIFEST)], text.as_bytes()).await;
        assert_eq!(told.status, 201, "{:?}", told.body);
        assert_eq!(told.header("docker-content-digest"), digest_of(text.as_bytes()));
        digest_of(text.as_bytes())
    }
}

#[tokio::test]
async fn what_is_pushed_is_pulled() {
    let bench = Bench::new();
    let digest = bench.push_image("team/app", "1", b"wasm").await;
    let by_tag = bench.ask("GET", "/v2/team/app/manifests/1", &[], b"").await;
    assert_eq!((by_tag.status, by_tag.header("content-type")), (200, OCI_MANIFEST));
    assert_eq!(digest_of(&by_tag.body), digest);
    let head = bench.ask("HEAD", &format!("/v2/team/app/manifests/{digest}"), &[], b"").await;
    assert_eq!(head.header("content-length"), by_tag.body.len().to_string());
    assert!(head.body.is_empty());
    let blob = format!("/v2/team/app/blobs/{}", digest_of(b"wasm"));
    assert_eq!(&bench.ask("GET", &blob, &[], b"").await.body[..], b"wasm");
    let part = bench.ask("GET", &blob, &[("range", "bytes=1-2")], b"").await;
    assert_eq!((part.status, &part.body[..]), (206, &b"as"[..]));
    assert_eq!(part.header("content-range"), "bytes 1-2/4");
    assert_eq!(bench.ask("GET", &blob, &[("range", "bytes=9-")], b"").await.status, 416);
    // A blob of another repository is none of this one.
    let elsewhere = format!("/v2/team/other/blobs/{}", digest_of(b"wasm"));
    assert_eq!(bench.ask("GET", &elsewhere, &[], b"").await.code(), "BLOB_UNKNOWN");
}

#[tokio::test]
async fn an_upload_in_pieces_must_follow_itself() {
    let bench = Bench::new();
    let begun = bench.ask("POST", "/v2/team/app/blobs/uploads/", &[], b"").await;
    assert_eq!(begun.status, 202);
    let at = begun.header("location").to_owned();
    let first = bench.ask("PATCH", &at, &[("content-range", "0-3")], b"0123").await;
    assert_eq!((first.status, first.header("range")), (202, "0-3"));
    let gap = bench.ask("PATCH", &at, &[("content-range", "5-6")], b"56").await;
    assert_eq!((gap.status, gap.header("range")), (416, "0-3"));
    let state = bench.ask("GET", &at, &[], b"").await;
    assert_eq!((state.status, state.header("range")), (204, "0-3"));
    let digest = digest_of(b"012345");
    let end = bench.ask("PUT", &format!("{at}?digest={digest}"), &[], b"45").await;
    assert_eq!(end.status, 201, "{:?}", end.body);
    assert_eq!(end.header("location"), format!("/v2/team/app/blobs/{digest}"));
    assert_eq!(bench.ask("GET", &at, &[], b"").await.code(), "BLOB_UPLOAD_UNKNOWN");

    let begun = bench.ask("POST", "/v2/team/app/blobs/uploads/", &[], b"").await;
    let at = begun.header("location").to_owned();
    let lie = bench.ask("PUT", &format!("{at}?digest={digest}"), &[], b"other").await;
    assert_eq!((lie.status, lie.code().as_str()), (400, "DIGEST_INVALID"));
    let begun = bench.ask("POST", "/v2/team/app/blobs/uploads/", &[], b"").await;
    assert_eq!(bench.ask("DELETE", begun.header("location"), &[], b"").await.status, 204);
}

#[tokio::test]
async fn an_upload_goes_on_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let bench = Bench { registry: Registry::open(dir.path()).expect("opened"), _dir: dir };
    let begun = bench.ask("POST", "/v2/team/app/blobs/uploads/", &[], b"").await;
    let at = begun.header("location").to_owned();
    bench.ask("PATCH", &at, &[], b"begin").await;
    let bench = Bench { registry: Registry::open(bench._dir.path()).expect("again"), ..bench };
    let digest = digest_of(b"begin and end");
    let end = bench.ask("PUT", &format!("{at}?digest={digest}"), &[], b" and end").await;
    assert_eq!(end.status, 201, "{:?}", end.body);
}

#[tokio::test]
async fn who_may_not_is_told_so_in_the_registrys_form() {
    let bench = Bench::new();
    let request = Request::get("/v2/").body(Body::empty()).expect("a request");
    let nobody = bench.registry.serve(&Team(false), request).await;
    assert_eq!(nobody.status(), 401);
    assert_eq!(nobody.headers()["www-authenticate"], "Basic realm=\"coracle\"");
    assert_eq!(nobody.headers()["docker-distribution-api-version"], "registry/2.0");
    let denied = bench.ask("POST", "/v2/other/app/blobs/uploads/", &[], b"").await;
    assert_eq!((denied.status, denied.code().as_str()), (403, "DENIED"));
    assert_eq!(bench.ask("GET", "/v2/", &[], b"").await.status, 200);
    assert_eq!(bench.ask("POST", "/v2/", &[], b"").await.status, 405);
    assert_eq!(bench.ask("GET", "/v2/none/tags/list", &[], b"").await.code(), "NAME_UNKNOWN");
}

#[tokio::test]
async fn blobs_are_mounted_and_manifests_need_theirs() {
    let bench = Bench::new();
    bench.push_image("team/app", "1", b"wasm").await;
    let digest = digest_of(b"wasm");
    let path = format!("/v2/team/copy/blobs/uploads/?mount={digest}&from=team/app");
    assert_eq!(bench.ask("POST", &path, &[], b"").await.status, 201);
    let path = format!("/v2/team/copy/blobs/uploads/?mount={digest}&from=team/none");
    assert_eq!(bench.ask("POST", &path, &[], b"").await.status, 202);
    let manifest = json!({"mediaType": OCI_MANIFEST, "layers": [
        {"mediaType": WASM_LAYER, "digest": digest_of(b"gone"), "size": 4}]});
    let put = |text: String| {
        let bench = &bench;
        async move { bench.ask("PUT", "/v2/team/copy/manifests/1", &[], text.as_bytes()).await }
    };
    assert_eq!(put(manifest.to_string()).await.code(), "MANIFEST_BLOB_UNKNOWN");
    assert_eq!(put("{}".to_owned()).await.code(), "MANIFEST_INVALID");
    let wrong = json!({"layers": [{"mediaType": WASM_LAYER, "digest": digest, "size": 5}]});
    assert_eq!(put(wrong.to_string()).await.code(), "SIZE_INVALID");
    let right = json!({"layers": [{"mediaType": WASM_LAYER, "digest": digest, "size": 4}]});
    assert_eq!(put(right.to_string()).await.status, 201);
}

#[tokio::test]
async fn lists_come_in_pages_and_deletion_removes() {
    let bench = Bench::new();
    for tag in ["b", "a", "c"] {
        bench.push_image("team/app", tag, tag.as_bytes()).await;
    }
    bench.push_image("team/zoo/bear", "1", b"x").await;
    let first = bench.ask("GET", "/v2/team/app/tags/list?n=2", &[], b"").await;
    assert_eq!(first.json(), json!({"name": "team/app", "tags": ["a", "b"]}));
    assert_eq!(first.header("link"), "</v2/team/app/tags/list?n=2&last=b>; rel=\"next\"");
    let rest = bench.ask("GET", "/v2/team/app/tags/list?n=2&last=b", &[], b"").await;
    assert_eq!((rest.json()["tags"].clone(), rest.header("link")), (json!(["c"]), ""));
    let catalog = bench.ask("GET", "/v2/_catalog", &[], b"").await;
    assert_eq!(catalog.json(), json!({"repositories": ["team/app", "team/zoo/bear"]}));
    assert_eq!(bench.ask("DELETE", "/v2/team/app/manifests/a", &[], b"").await.status, 202);
    assert_eq!(bench.ask("GET", "/v2/team/app/manifests/a", &[], b"").await.status, 404);
    let digest = bench.ask("GET", "/v2/team/app/manifests/b", &[], b"").await;
    let path = format!("/v2/team/app/manifests/{}", digest.header("docker-content-digest"));
    assert_eq!(bench.ask("DELETE", &path, &[], b"").await.status, 202);
    assert_eq!(bench.ask("DELETE", &path, &[], b"").await.code(), "MANIFEST_UNKNOWN");
    let left = bench.ask("GET", "/v2/team/app/tags/list", &[], b"").await;
    assert_eq!(left.json()["tags"], json!(["c"]));
}

#[tokio::test]
async fn referrers_are_found_by_their_subject() {
    let bench = Bench::new();
    let subject = bench.push_image("team/app", "1", b"wasm").await;
    let empty = bench.push_blob("team/app", b"{}").await;
    for kind in ["x/signature", "x/sbom"] {
        let manifest = json!({
            "mediaType": OCI_MANIFEST, "artifactType": kind,
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2},
            "layers": [], "annotations": {"for": kind},
            "subject": {"mediaType": OCI_MANIFEST, "digest": subject, "size": 1},
        });
        let text = manifest.to_string();
        let path = format!("/v2/team/app/manifests/{}", digest_of(text.as_bytes()));
        let told = bench.ask("PUT", &path, &[], text.as_bytes()).await;
        assert_eq!((told.status, told.header("oci-subject")), (201, subject.as_str()));
    }
    let path = format!("/v2/team/app/referrers/{subject}");
    let all = bench.ask("GET", &path, &[], b"").await;
    assert_eq!(all.json()["manifests"].as_array().expect("a list").len(), 2);
    let some = bench.ask("GET", &format!("{path}?artifactType=x/sbom"), &[], b"").await;
    assert_eq!(some.header("oci-filters-applied"), "artifactType");
    assert_eq!(some.json()["manifests"][0]["annotations"]["for"], "x/sbom");
    let none = bench.ask("GET", &format!("/v2/team/x/referrers/{subject}"), &[], b"").await;
    assert_eq!((none.status, none.json()["manifests"].clone()), (200, json!([])));
}

#[tokio::test]
async fn only_what_nobody_names_is_collected() {
    let bench = Bench::new();
    let old = bench.push_image("team/app", "1", b"old").await;
    let new = bench.push_image("team/app", "1", b"new").await;
    bench.push_blob("team/app", b"loose").await;
    let kept = bench.registry.collect(Ages::default()).await.expect("collected");
    assert_eq!(kept, Collected::default());
    let now = Ages { loose: Duration::ZERO, untagged: Duration::ZERO };
    let collected = bench.registry.collect(now).await.expect("collected");
    // The manifest that lost its tag, its layer, and the loose blob.
    assert_eq!((collected.manifests, collected.blobs), (1, 3));
    assert_eq!(
        bench.ask("GET", &format!("/v2/team/app/manifests/{old}"), &[], b"").await.status,
        404
    );
    assert_eq!(
        bench.ask("GET", &format!("/v2/team/app/manifests/{new}"), &[], b"").await.status,
        200
    );
    let blob = |bytes: &[u8]| format!("/v2/team/app/blobs/{}", digest_of(bytes));
    assert_eq!(bench.ask("HEAD", &blob(b"new"), &[], b"").await.status, 200);
    assert_eq!(bench.ask("HEAD", &blob(b"old"), &[], b"").await.status, 404);
    assert_eq!(bench.ask("HEAD", &blob(b"loose"), &[], b"").await.status, 404);
}

proptest! {
    #[test]
    fn ranges_stay_inside(text in "(bytes=)?[0-9]{0,4}-?[0-9]{0,4},?", size in 0u64..1000) {
        if let Part::Of(first, last) = part(&text, size) {
            prop_assert!(first <= last && last < size);
        }
    }
}
