//! Images on a real cluster: pushed, pulled, carried, refused, collected.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::{Cluster, Told, eventually};
use http::{Request, Response};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

fn toolbox() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("wasm-samples/toolbox/toolbox.wasm")
}

fn coracle(cluster: &Cluster, args: &[&str]) -> Told {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coracle"));
    command.args(args).env("KUBECONFIG", cluster.kubeconfig()).env("HOME", cluster.path());
    Told::of(&command.output().expect("the binary runs"))
}

fn done(cluster: &Cluster, args: &[&str]) -> String {
    let told = coracle(cluster, args);
    assert!(told.succeeded, "coracle {args:?}: {}", told.text);
    told.text
}

fn push(cluster: &Cluster, name: &str) -> String {
    done(cluster, &["push", &toolbox().display().to_string(), name])
}

fn pod(name: &str, image: &str, more: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: Never
{more}
  containers:
  - {{name: a, image: \"{image}\", command: [toolbox, ls, /]}}
"
    )
}

fn events(cluster: &Cluster, pod: &str) -> String {
    let path = "jsonpath={range .items[*]}{.reason}: {.message}{\"\\n\"}{end}";
    let selector = format!("involvedObject.name={pod}");
    cluster.kubectl(&["get", "events", "--field-selector", &selector, "-o", path]).text
}

fn eventually_told(cluster: &Cluster, pod: &str, wanted: &str) {
    eventually(&format!("{pod} tells {wanted:?}: {}", events(cluster, pod)), || {
        events(cluster, pod).contains(wanted).then_some(())
    });
}

/// A folder with what skopeo needs to speak to the server: its CA, and the administrator's
/// certificate where asked for.
fn certificates(cluster: &Cluster, admin: bool) -> PathBuf {
    let dir = cluster.path().join(if admin { "admin-certs" } else { "certs" });
    std::fs::create_dir_all(&dir).expect("a folder");
    let take = |path: &str, file: &str| {
        let path = format!("jsonpath={{{path}}}");
        let text = cluster.ok(&["config", "view", "--raw", "-o", &path]);
        let bytes = STANDARD.decode(text.trim()).expect("base64");
        std::fs::write(dir.join(file), bytes).expect("written");
    };
    take(".clusters[0].cluster.certificate-authority-data", "ca.crt");
    if admin {
        take(".users[0].user.client-certificate-data", "client.cert");
        take(".users[0].user.client-key-data", "client.key");
    }
    dir
}

fn skopeo(cluster: &Cluster, args: &[&str]) -> Told {
    let mut command = Command::new("skopeo");
    command.arg("--insecure-policy").args(args).env("HOME", cluster.path());
    Told::of(&command.output().expect("skopeo is installed (tests/run.sh does it)"))
}

#[test]
fn what_is_pushed_runs_by_its_short_name() {
    let cluster = Cluster::with_agents(1);
    let said = push(&cluster, "app:1");
    assert!(said.starts_with("pushed app:1 ("), "{said}");
    cluster.apply(&pod("first", "app:1", ""));
    cluster.wait_for("pod/first", ".status.phase", "Succeeded");
    let told = events(&cluster, "first");
    assert!(told.contains("Pulling: Pulling image \"app:1\""), "{told}");
    assert!(told.contains("Pulled: Successfully pulled image \"app:1\" in "), "{told}");
    let size = std::fs::metadata(toolbox()).expect("there").len();
    assert!(told.contains("Image size: ") && told.contains(" including waiting)"), "{told}");
    let id = "jsonpath={.status.containerStatuses[0].imageID}";
    let id = cluster.ok(&["get", "pod", "first", "-o", id]);
    assert!(id.starts_with("docker.io/library/app@sha256:"), "{id}");
    // By digest, and under the registry's own name.
    cluster.apply(&pod("digest", &id, ""));
    cluster.apply(&pod("local", "coracle.local/app:1", ""));
    cluster.apply(&pod("again", "app:1", ""));
    for name in ["digest", "local", "again"] {
        cluster.wait_for(&format!("pod/{name}"), ".status.phase", "Succeeded");
    }
    let told = events(&cluster, "again");
    assert!(told.contains("Container image \"app:1\" already present on machine"), "{told}");

    let listed = done(&cluster, &["images", "ls"]);
    let row = listed.lines().find(|line| line.starts_with("app ")).expect(&listed);
    assert!(row.contains(" 1 ") && row.ends_with("wasm"), "{row}");
    cluster.apply(&pod("none", "coracle.local/none:1", ""));
    eventually_told(&cluster, "none", "push it with `coracle push FILE none:TAG`");
    let waiting = ".status.containerStatuses[0].state.waiting.reason";
    cluster.wait_for("pod/none", waiting, "ImagePullBackOff");
    cluster.apply(
        &pod("never", "coracle.local/none:1", "").replace(
            "command: [toolbox, ls, /]",
            "command: [toolbox, ls, /], imagePullPolicy: Never",
        ),
    );
    cluster.wait_for("pod/never", waiting, "ErrImageNeverPull");
    cluster.apply(&pod("wrong", "No Such Name", ""));
    cluster.wait_for("pod/wrong", waiting, "InvalidImageName");
    eventually("the node tells its images", || {
        let path = "jsonpath={range .status.images[*]}{.names} {.sizeBytes}{\"\\n\"}{end}";
        let told = cluster.kubectl(&["get", "node", "node-0", "-o", path]).text;
        let line = told.lines().find(|line| line.contains("docker.io/library/app:1"))?.to_owned();
        let bytes: u64 = line.rsplit(' ').next()?.parse().ok()?;
        (bytes > size).then_some(())
    });
    done(&cluster, &["images", "rm", "app:1"]);
    let gone = coracle(&cluster, &["images", "rm", "app:1"]);
    assert!(!gone.succeeded && gone.text.contains("is not in the cluster's registry"));
}

#[test]
fn skopeo_copies_in_and_out_by_certificate_and_by_token() {
    let cluster = Cluster::with_agents(1);
    push(&cluster, "app:1");
    let host = cluster.url().replace("https://", "");
    let certs = certificates(&cluster, true).display().to_string();
    let layout = format!("oci:{}/out:1", cluster.path().display());
    let from = format!("docker://{host}/app:1");
    let told = skopeo(&cluster, &["copy", "--src-cert-dir", &certs, &from, &layout]);
    assert!(told.succeeded, "{}", told.text);
    let to = format!("docker://{host}/team/copied:2");
    let told = skopeo(&cluster, &["copy", "--dest-cert-dir", &certs, &layout, &to]);
    assert!(told.succeeded, "{}", told.text);
    cluster.apply(&pod("copied", "coracle.local/team/copied:2", ""));
    cluster.wait_for("pod/copied", ".status.phase", "Succeeded");

    // Nobody, then somebody who may not, then who may.
    let plain = certificates(&cluster, false).display().to_string();
    let to = format!("docker://{host}/team/mine:1");
    let told = skopeo(&cluster, &["copy", "--dest-cert-dir", &plain, &layout, &to]);
    // skopeo asks by HEAD first, whose answer has no words; who asks for words gets them.
    assert!(!told.succeeded && told.text.contains("unauthorized"), "{}", told.text);
    let ask = |path: &str, more: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--cacert"]).arg(cluster.server_dir().join("pki/ca.crt"));
        let url = format!("https://{host}/v2/{path}");
        Told::of(&curl.args(more).arg(url).output().expect("curl")).text
    };
    let told = ask("", &[]);
    assert!(told.contains("say who you are"), "{told}");
    cluster.apply(
        "
apiVersion: v1
kind: Namespace
metadata: {name: team}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: builder, namespace: team}
",
    );
    let token = cluster.ok(&["create", "token", "builder", "-n", "team"]);
    let login = format!("builder:{}", token.trim());
    let copy = ["copy", "--dest-cert-dir", &plain, "--dest-creds", &login, &layout];
    let told = skopeo(&cluster, &[&copy[..], &[to.as_str()]].concat());
    assert!(!told.succeeded && told.text.contains("403 (Forbidden)"), "{}", told.text);
    let told = ask("team/mine/blobs/uploads/", &["-X", "POST", "-u", &login]);
    assert!(told.contains("cannot create resource"), "{told}");
    let account = "--serviceaccount=team:builder";
    cluster.ok(&["create", "rolebinding", "b", "-n", "team", "--clusterrole=edit", account]);
    let told = skopeo(&cluster, &[&copy[..], &[to.as_str()]].concat());
    assert!(told.succeeded, "{}", told.text);
    let elsewhere = format!("docker://{host}/other/mine:1");
    let told = skopeo(&cluster, &[&copy[..], &[elsewhere.as_str()]].concat());
    assert!(!told.succeeded, "only its own namespace: {}", told.text);
    let listed = skopeo(
        &cluster,
        &[
            "list-tags",
            "--cert-dir",
            &plain,
            "--creds",
            &login,
            &format!("docker://{host}/team/mine"),
        ],
    );
    assert!(listed.succeeded && listed.text.contains("\"1\""), "{}", listed.text);
}

fn hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// What `docker save` writes: a container image whose entrypoint is a wasm file.
fn docker_archive(path: &Path, name: &str) {
    fn add(builder: &mut tar::Builder<Vec<u8>>, name: &str, bytes: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes).expect("appended");
    }
    let mut layer = tar::Builder::new(Vec::new());
    let wasm = std::fs::read(toolbox()).expect("there");
    add(&mut layer, "bin/app.wasm", &wasm);
    let layer = layer.into_inner().expect("packed");
    let config = json!({
        "os": "linux", "architecture": "amd64",
        "config": {"Entrypoint": ["/bin/app.wasm"], "Cmd": ["env"], "Env": ["FROM=image"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hash(&layer))]},
    })
    .to_string();
    let config_name = format!("{}.json", hash(config.as_bytes()));
    let manifest =
        json!([{"Config": config_name, "RepoTags": [name], "Layers": ["layer/layer.tar"]}]);
    let mut archive = tar::Builder::new(Vec::new());
    add(&mut archive, "layer/layer.tar", &layer);
    add(&mut archive, &config_name, config.as_bytes());
    add(&mut archive, "manifest.json", manifest.to_string().as_bytes());
    std::fs::write(path, archive.into_inner().expect("packed")).expect("written");
}

#[test]
fn images_are_carried_on_a_stick_under_the_names_that_manifests_use() {
    let cluster = Cluster::with_agents(1);
    push(&cluster, "registry.k8s.io/pause:3.10");
    let stick = cluster.path().join("stick.tar");
    let stick = stick.to_str().expect("a path");
    push(&cluster, "team/app:1");
    let said = done(
        &cluster,
        &["images", "export", "-o", stick, "registry.k8s.io/pause:3.10", "team/app:1"],
    );
    assert!(said.starts_with("exported 2 images"), "{said}");
    done(&cluster, &["images", "rm", "registry.k8s.io/pause:3.10", "team/app:1"]);
    assert!(!done(&cluster, &["images", "ls"]).contains("pause"));
    let said = done(&cluster, &["images", "import", stick]);
    assert!(said.contains("imported registry.k8s.io/pause:3.10"), "{said}");
    cluster.apply(&pod("pause", "registry.k8s.io/pause:3.10", ""));
    cluster.wait_for("pod/pause", ".status.phase", "Succeeded");
    // A tool of others reads it too.
    let told = skopeo(&cluster, &["inspect", "--raw", &format!("oci-archive:{stick}:1")]);
    assert!(told.succeeded && told.text.contains("application/wasm"), "{}", told.text);

    let saved = cluster.path().join("saved.tar");
    docker_archive(&saved, "ghcr.io/them/tool:v2");
    done(&cluster, &["images", "import", saved.to_str().expect("a path")]);
    let env = pod("tool", "ghcr.io/them/tool:v2", "").replace("[toolbox, ls, /]", "[toolbox, env]");
    cluster.apply(&env);
    cluster.wait_for("pod/tool", ".status.phase", "Succeeded");
    assert!(cluster.ok(&["logs", "tool"]).contains("FROM=image"));
    std::fs::write(&saved, b"nothing").expect("written");
    let told = coracle(&cluster, &["images", "import", saved.to_str().expect("a path")]);
    assert!(!told.succeeded && told.text.contains("is no tar of images"), "{}", told.text);
}

/// A registry of one wasm artifact, `team/app:1`, that wants a password, and lies where told to.
fn registry(lies: Arc<AtomicBool>) -> String {
    let mut wasm = std::fs::read(toolbox()).expect("there");
    // One more section, which says nothing: nodes have the toolbox itself and would not ask for it.
    wasm.extend(b"\x00\x05\x04test");
    let layer = format!("sha256:{}", hash(&wasm));
    let config = format!("sha256:{}", hash(b"{}"));
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.wasm.config.v0+json", "digest": config, "size": 2},
        "layers": [{"mediaType": "application/wasm", "digest": layer, "size": wasm.len()}],
    })
    .to_string();
    let wanted = format!("Basic {}", STANDARD.encode("user:pass"));
    let answer = move |request: Request<Body>| {
        let told = request.headers().get("authorization").and_then(|v| v.to_str().ok());
        if told != Some(wanted.as_str()) {
            let challenge = "Basic realm=\"test\"";
            let answer = Response::builder().status(401).header("www-authenticate", challenge);
            return answer.body(Body::empty()).expect("a response");
        }
        let path = request.uri().path();
        let body = if path.contains("/manifests/") {
            manifest.clone().into_bytes()
        } else if path.ends_with(&config) {
            b"{}".to_vec()
        } else if lies.load(Ordering::Relaxed) {
            vec![0; wasm.len()]
        } else {
            wasm.clone()
        };
        Response::new(Body::from(body))
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("set");
    let host = listener.local_addr().expect("bound").to_string();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async move {
            let answer = Arc::new(answer);
            let service = tower::service_fn(move |request: Request<Body>| {
                let answer = answer.clone();
                async move { Ok::<_, std::convert::Infallible>(answer(request)) }
            });
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            let router = axum::Router::new().fallback_service(service);
            let _ = axum::serve(listener, router).await;
        });
    });
    host
}

#[test]
fn a_private_registry_opens_to_pull_secrets_and_its_lies_are_told() {
    let cluster = Cluster::with_agents(1);
    let lies = Arc::new(AtomicBool::new(true));
    let host = registry(lies.clone());
    let image = format!("{host}/team/app:1");
    cluster.apply(&pod("closed", &image, ""));
    eventually_told(&cluster, "closed", "the pod has no imagePullSecret for it");
    let waiting = ".status.containerStatuses[0].state.waiting.reason";
    cluster.wait_for("pod/closed", waiting, "ImagePullBackOff");
    cluster.ok(&[
        "create",
        "secret",
        "docker-registry",
        "key",
        "--docker-username=user",
        "--docker-password=pass",
        &format!("--docker-server={host}"),
    ]);
    cluster.apply(&pod("lied", &image, "  imagePullSecrets: [{name: key}, {name: none}]"));
    eventually_told(&cluster, "lied", "is damaged: its bytes have digest sha256:");
    eventually_told(&cluster, "lied", "Unable to retrieve some image pull secrets (none)");
    lies.store(false, Ordering::Relaxed);
    // The ServiceAccount's secrets are the pod's.
    let patch = "{\"imagePullSecrets\": [{\"name\": \"key\"}]}";
    cluster.ok(&["patch", "serviceaccount", "default", "-p", patch]);
    cluster.apply(&pod("open", &image, ""));
    cluster.wait_for("pod/open", ".status.phase", "Succeeded");
    let told = cluster.ok(&["get", "pod", "open", "-o", "json"]);
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(told["spec"]["imagePullSecrets"][0]["name"], "key");
}

#[test]
fn images_that_no_pod_uses_make_room() {
    let mut cluster = Cluster::start();
    cluster.agents_get(&[
        "--image-gc-high-threshold=0",
        "--image-gc-low-threshold=0",
        "--image-gc-min-age-seconds=0",
        "--image-gc-period-seconds=1",
    ]);
    cluster.start_agent(0);
    cluster.wait_for_nodes(1);
    push(&cluster, "app:1");
    cluster.apply(&pod("user", "app:1", "").replace("[toolbox, ls, /]", "[toolbox, sleep, inf]"));
    cluster.wait_for("pod/user", ".status.phase", "Running");
    let kept =
        || std::fs::read_dir(cluster.path().join("node-0/images/images")).expect("there").count();
    std::thread::sleep(std::time::Duration::from_secs(3));
    // The pod's, and the one that exec runs.
    assert_eq!(kept(), 2);
    cluster.ok(&["delete", "pod", "user", "--grace-period=1"]);
    eventually("its image goes", || (kept() == 1).then_some(()));
}
