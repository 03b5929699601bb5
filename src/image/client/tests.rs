//! Registries as they should not be: they want tokens, break off, hang, lie, send elsewhere.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use futures::StreamExt;
use serde_json::json;

use crate::image::blobs::digest_of;
use crate::image::manifest::{OCI_MANIFEST, WASM_CONFIG, WASM_LAYER};
use crate::image::*;

const WASM: &[u8] = b"\0asm\x01\0\0\0 and so on";

type Answers = dyn Fn(&Request) -> Response + Send + Sync;

/// A registry that answers as it is told; its `HOST:PORT`.
async fn serve(answers: Arc<Answers>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let service = tower::service_fn(move |request: Request| {
        let answers = answers.clone();
        async move { Ok::<_, std::convert::Infallible>(answers(&request)) }
    });
    let router = Router::new().fallback_service(service);
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> Response {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.into()).expect("a response")
}

/// The blobs and manifests of one wasm artifact, by their paths below `/v2/team/app`.
fn artifact() -> HashMap<String, Vec<u8>> {
    let layer = digest_of(WASM);
    let config = digest_of(b"{}");
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": WASM_CONFIG, "digest": config, "size": 2},
        "layers": [{"mediaType": WASM_LAYER, "digest": layer, "size": WASM.len()}],
    });
    let text = manifest.to_string().into_bytes();
    HashMap::from([
        (format!("/manifests/{}", digest_of(&text)), text.clone()),
        ("/manifests/1".to_owned(), text),
        (format!("/blobs/{layer}"), WASM.to_vec()),
        (format!("/blobs/{config}"), b"{}".to_vec()),
    ])
}

fn plain(files: &HashMap<String, Vec<u8>>, request: &Request) -> Response {
    let path = request.uri().path().strip_prefix("/v2/team/app").unwrap_or_default();
    match files.get(path) {
        Some(bytes) => answer(200, &[], bytes.clone()),
        None => answer(404, &[], r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no"}]}"#),
    }
}

struct Bench {
    dir: tempfile::TempDir,
    images: Images,
}

fn bench(registries: &str) -> Bench {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().expect("a directory");
    let client = ClientConfig {
        idle_timeout: Duration::from_millis(400),
        first_pause: Duration::from_millis(5),
        ..ClientConfig::default()
    };
    let registries = Registries::parse(registries).expect("registries");
    let policy = Policy { client, registries, ..Policy::default() };
    let images = Images::new(&dir.path().join("store"), policy).expect("a store");
    Bench { dir, images }
}

async fn pull(bench: &Bench, reference: &str) -> Result<PulledImage, String> {
    let request = PullRequest::new(reference, PullPolicy::Always);
    bench.images.resolve(&request).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn an_artifact_is_pulled_once_and_then_is_here() {
    let asked = Arc::new(AtomicUsize::new(0));
    let (files, count) = (artifact(), asked.clone());
    let host = serve(Arc::new(move |request| {
        count.fetch_add(1, Ordering::Relaxed);
        plain(&files, request)
    }))
    .await;
    let bench = bench("{}");
    let reference = format!("{host}/team/app:1");
    let image = pull(&bench, &reference).await.expect("pulled");
    assert_eq!(std::fs::read(&image.module().expect("wasm").path).expect("there"), WASM);
    assert!(image.id.starts_with(&format!("{host}/team/app@sha256:")), "{}", image.id);
    let before = asked.load(Ordering::Relaxed);
    let request = PullRequest::new(&*reference, PullPolicy::IfNotPresent);
    assert!(bench.images.resolve(&request).await.expect("here").present);
    assert_eq!(asked.load(Ordering::Relaxed), before);
    // Only the manifest is asked for where all else is here.
    pull(&bench, &reference).await.expect("pulled");
    assert_eq!(asked.load(Ordering::Relaxed), before + 1);
    let missing = pull(&bench, &format!("{host}/team/app:2")).await.expect_err("no such tag");
    assert!(
        missing.contains("failed to resolve reference") && missing.contains("not found"),
        "{missing}"
    );
}

#[tokio::test]
async fn a_token_is_fetched_with_the_pods_secret() {
    let files = artifact();
    let me: Arc<std::sync::OnceLock<String>> = Arc::default();
    let known = me.clone();
    let host = serve(Arc::new(move |request| {
        let me = known.get().expect("set");
        let authorization = request
            .headers()
            .get("authorization")
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default();
        if request.uri().path() == "/token" {
            let query = request.uri().query().unwrap_or_default();
            assert!(query.contains("scope=repository%3Ateam%2Fapp%3Apull"), "{query}");
            // user:pass
            return match authorization == "Basic dXNlcjpwYXNz" {
                true => answer(200, &[], r#"{"token": "good"}"#),
                false => answer(401, &[], ""),
            };
        }
        if authorization != "Bearer good" {
            let challenge = format!("Bearer realm=\"http://{me}/token\",service=\"s\"");
            return answer(401, &[("www-authenticate", &challenge)], "");
        }
        plain(&files, request)
    }))
    .await;
    me.set(host.clone()).expect("set once");
    let bench = bench("{}");
    let reference = format!("{host}/team/app:1");
    let denied = pull(&bench, &reference).await.expect_err("no secret");
    assert!(denied.contains("failed to fetch a token"), "{denied}");
    let mut request = PullRequest::new(&*reference, PullPolicy::Always);
    let secret = json!({"auths": {
        &host: {"username": "user", "password": "pass"},
        // The more specific one is tried first, and does not open it.
        format!("{host}/team"): {"username": "user", "password": "old"},
    }});
    request.keyring.add_docker_config(secret.to_string().as_bytes()).expect("read");
    bench.images.resolve(&request).await.expect("opened");
}

#[tokio::test]
async fn a_registry_that_wants_a_password_is_told_from_one_that_refuses_it() {
    let host =
        serve(Arc::new(|_| answer(401, &[("www-authenticate", "Basic realm=\"x\"")], ""))).await;
    let bench = bench("{}");
    let denied = pull(&bench, &format!("{host}/team/app:1")).await.expect_err("denied");
    assert!(denied.contains("the pod has no imagePullSecret for it"), "{denied}");
    let mut request = PullRequest::new(format!("{host}/team/app:1"), PullPolicy::Always);
    let secret = json!({"auths": {&host: {"username": "u", "password": "wrong"}}});
    request.keyring.add_docker_config(secret.to_string().as_bytes()).expect("read");
    let denied = bench.images.resolve(&request).await.expect_err("denied").to_string();
    assert!(denied.contains("pull access denied") && denied.contains("401"), "{denied}");
}

#[tokio::test]
async fn what_breaks_off_is_resumed_where_it_broke() {
    let files = artifact();
    let ranges: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = ranges.clone();
    let host = serve(Arc::new(move |request| {
        if !request.uri().path().ends_with(&digest_of(WASM)) {
            return plain(&files, request);
        }
        let range = request.headers().get("range").and_then(|v| v.to_str().ok());
        seen.lock().push(range.unwrap_or_default().to_owned());
        let from = range.and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let from: usize = from.unwrap_or(0);
        // Five bytes a try, although all the rest is announced.
        let piece = WASM[from..(from + 5).min(WASM.len())].to_vec();
        let whole = from + piece.len() == WASM.len();
        let pieces: Vec<Result<Vec<u8>, std::io::Error>> = match whole {
            true => vec![Ok(piece)],
            false => vec![Ok(piece), Err(std::io::Error::other("cut"))],
        };
        // What was sent before the cut arrives.
        let pieces = futures::stream::iter(pieces).then(|piece| async move {
            if piece.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            piece
        });
        let told = format!("bytes {from}-{}/{}", WASM.len() - 1, WASM.len());
        let status = if from > 0 { 206 } else { 200 };
        answer(status, &[("content-range", &told)], Body::from_stream(pieces))
    }))
    .await;
    let bench = bench("{}");
    let image = pull(&bench, &format!("{host}/team/app:1")).await.expect("in four tries");
    assert_eq!(std::fs::read(&image.module().expect("wasm").path).expect("there"), WASM);
    assert_eq!(*ranges.lock(), ["", "bytes=5-", "bytes=10-", "bytes=15-"]);
}

#[tokio::test]
async fn lies_are_found_out_and_nothing_stays() {
    for (lie, expected) in [
        ("other bytes of the same length", "is damaged"),
        ("more", "sends more for blob"),
        ("less", "ended after"),
        ("manifest", "gave a manifest with digest"),
        ("hang", "stood still"),
        ("error", "500"),
    ] {
        let files = artifact();
        let host = serve(Arc::new(move |request| {
            let path = request.uri().path();
            let blob = path.ends_with(&digest_of(WASM));
            match lie {
                "manifest" if path.ends_with("/manifests/1") => {
                    let wrong = digest_of(b"another");
                    answer(200, &[("docker-content-digest", &wrong)], files["/manifests/1"].clone())
                }
                "other bytes of the same length" if blob => {
                    answer(200, &[], vec![b'x'; WASM.len()])
                }
                "more" if blob => answer(200, &[], [WASM, b"more"].concat()),
                "less" if blob => answer(200, &[], WASM[..4].to_vec()),
                "hang" if blob => {
                    let never = futures::stream::pending::<Result<Vec<u8>, std::io::Error>>();
                    answer(200, &[], Body::from_stream(never))
                }
                "error" if blob => answer(500, &[], "oops"),
                _ => plain(&files, request),
            }
        }))
        .await;
        let bench = bench("{}");
        let told = pull(&bench, &format!("{host}/team/app:1")).await.expect_err(lie);
        assert!(told.contains(expected), "{lie}: {told}");
        let store = bench.dir.path().join("store");
        let named = store.join("blobs/sha256").join(&digest_of(WASM)["sha256:".len()..]);
        assert!(!named.exists(), "{lie}");
        assert!(bench.images.list().is_empty(), "{lie}");
    }
}

#[tokio::test]
async fn mirrors_are_asked_first_and_their_lies_do_no_harm() {
    let files = artifact();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = asked.clone();
    let good = serve(Arc::new(move |request| {
        seen.lock().push(request.uri().to_string());
        plain(&files, request)
    }))
    .await;
    let bad = serve(Arc::new(|_| answer(200, &[], "no manifest"))).await;
    let registries = format!(
        "mirrors: {{r.example: {{endpoint: [\"http://{bad}\", \"http://{good}\"], rewrite: {{\"^my/\": \"team/\"}}}}}}"
    );
    let bench = bench(&registries);
    let image = pull(&bench, "r.example/my/app:1").await.expect("from the second mirror");
    assert!(image.id.starts_with("r.example/my/app@sha256:"), "{}", image.id);
    assert_eq!(asked.lock()[0], "/v2/team/app/manifests/1?ns=r.example");
}

#[tokio::test]
async fn credentials_do_not_follow_a_redirect() {
    let files = artifact();
    let elsewhere = serve(Arc::new(|request| {
        assert!(request.headers().get("authorization").is_none());
        answer(200, &[], WASM)
    }))
    .await;
    let host = serve(Arc::new(move |request| {
        if request.headers().get("authorization").is_none() {
            return answer(401, &[("www-authenticate", "Basic realm=\"x\"")], "");
        }
        match request.uri().path().ends_with(&digest_of(WASM)) {
            true => {
                let there = format!("http://{elsewhere}/somewhere?signature=x");
                answer(307, &[("location", &there)], "")
            }
            false => plain(&files, request),
        }
    }))
    .await;
    let bench = bench("{}");
    let mut request = PullRequest::new(format!("{host}/team/app:1"), PullPolicy::Always);
    let secret = json!({"auths": {&host: {"username": "u", "password": "p"}}});
    request.keyring.add_docker_config(secret.to_string().as_bytes()).expect("read");
    bench.images.resolve(&request).await.expect("pulled");
}

#[tokio::test]
async fn pods_that_want_the_same_image_fetch_it_once() {
    let blobs = Arc::new(AtomicUsize::new(0));
    let (files, count) = (artifact(), blobs.clone());
    let host = serve(Arc::new(move |request| {
        if request.uri().path().ends_with(&digest_of(WASM)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        plain(&files, request)
    }))
    .await;
    let bench = bench("{}");
    let reference = format!("{host}/team/app:1");
    let all = futures::future::join_all((0..8).map(|_| pull(&bench, &reference))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(blobs.load(Ordering::Relaxed), 1);
}
