//! What people get wrong: each mistake is told once, clearly, and disturbs nothing else.

mod common;

use std::process::{Command, Stdio};

use common::{Cluster, Told, eventually};

/// Runs the binary until it ends by itself.
fn coracle(args: &[&str]) -> Told {
    let mut child = Command::new(env!("CARGO_BIN_EXE_coracle"))
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    eventually("the program ends by itself", || child.try_wait().expect("a child"));
    Told::of(&child.wait_with_output().expect("it ended"))
}

fn waiting(cluster: &Cluster, pod: &str, reason: &str) -> String {
    let state = ".status.containerStatuses[0].state.waiting";
    cluster.wait_for(pod, &format!("{state}.reason"), reason);
    cluster.ok(&["get", pod, "-o", &format!("jsonpath={{{state}.message}}")])
}

fn pod(name: &str, image: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  containers: [{{name: a, image: \"{image}\"}}]
"
    )
}

#[test]
fn manifests_are_refused_by_the_name_of_what_is_wrong() {
    let cluster = Cluster::start();
    let told = cluster.refused(&["apply", "-f", "-"], "kind: [Pod\n  a: b: c\n");
    assert!(told.contains("error converting YAML to JSON") || told.contains("yaml"), "{told}");
    let unknown = pod("p", "x").replace("containers:", "containres: []\n  containers:");
    let told = cluster.refused(&["apply", "-f", "-"], &unknown);
    assert!(told.contains("strict decoding error: unknown field \"spec.containres\""), "{told}");
    let told = cluster.ok_with(&["apply", "--validate=warn", "-f", "-"], &unknown);
    assert!(told.contains("Warning: unknown field \"spec.containres\""), "{told}");
    let wrong = pod("q", "x").replace("spec:", "spec:\n  hostNetwork: [1]");
    let told = cluster.refused(&["create", "-f", "-"], &wrong);
    assert!(told.contains("cannot unmarshal array into Go struct field"), "{told}");
    let told = cluster.refused(&["apply", "-f", "-"], &pod("Not_A_Name", "x"));
    assert!(told.contains("metadata.name: Invalid value: \"Not_A_Name\""), "{told}");
    let told = cluster.refused(&["apply", "-n", "nowhere", "-f", "-"], &pod("p", "x"));
    assert!(told.contains("namespaces \"nowhere\" not found"), "{told}");
    let no_kind = "apiVersion: v1\nkind: Sandwich\nmetadata: {name: a}\n";
    let told = cluster.refused(&["apply", "-f", "-"], no_kind);
    assert!(told.contains("no matches for kind \"Sandwich\" in version \"v1\""), "{told}");
}

#[test]
fn images_that_cannot_run_are_told_on_their_pod_and_disturb_nobody() {
    let cluster = Cluster::with_agents(1);
    let file = |name: &str, bytes: &[u8]| {
        let path = cluster.path().join(name);
        std::fs::write(&path, bytes).expect("a file");
        format!("file:{}", path.display())
    };
    let corrupt = file("corrupt.wasm", b"\0asm\x01\0\0\0garbage");
    let text = file("text.wasm", b"hello");
    let import =
        wat::parse_str(r#"(module (import "env" "frobnicate" (func)) (func (export "_start")))"#);
    let import = file("import.wasm", &import.expect("a module"));
    cluster.apply(&pod("good", "coracle.dev/samples/hello-http:v1"));
    cluster.apply(&pod("missing", "file:/no/such/file.wasm"));
    cluster.apply(&pod("corrupt", &corrupt));
    cluster.apply(&pod("text", &text));
    cluster.apply(&pod("import", &import));
    cluster.apply(&pod("name", "UPPER//case"));

    let told = waiting(&cluster, "pod/missing", "ErrImagePull");
    assert!(told.contains("/no/such/file.wasm"), "{told}");
    for (name, word) in
        [("corrupt", "corrupt.wasm"), ("text", "text.wasm"), ("import", "frobnicate")]
    {
        let pod = format!("pod/{name}");
        let told = eventually(&format!("{name} says what is wrong"), || {
            let events = cluster.kubectl(&["events", "--for", &pod, "--no-headers"]).text;
            (events.contains("Warning")).then_some(events)
        });
        let state = cluster.ok(&["get", &pod, "-o", "jsonpath={..state}"]);
        assert!(told.contains(word) || state.contains(word), "{name}: {told} {state}");
    }
    let told = waiting(&cluster, "pod/name", "InvalidImageName");
    assert!(told.contains("UPPER//case"), "{told}");
    cluster.ok(&["wait", "--for=condition=Ready", "pod/good", "--timeout=60s"]);
    let mounts = "a, volumeMounts: [{name: v, mountPath: /v}]";
    let missing = pod("late", "coracle.dev/samples/hello-http:v1")
        .replace("{name: a", &format!("{{name: {mounts}"))
        .replace("spec:", "spec:\n  volumes: [{name: v, configMap: {name: absent}}]");
    cluster.apply(&missing);
    let events = eventually("the missing ConfigMap is told", || {
        let events = cluster.kubectl(&["events", "--for", "pod/late"]).text;
        events.contains("FailedMount").then_some(events)
    });
    assert!(events.contains("configmap \"absent\" not found"), "{events}");
}

#[test]
fn a_server_that_cannot_start_says_why_and_what_to_do() {
    let cluster = Cluster::start();
    let dir = cluster.path().join("second");
    let dir = dir.to_str().expect("a path");
    let port = cluster.url().replace("https://", "");
    let told = coracle(&["server", "--listen", &port, "--data-dir", dir]);
    assert_eq!(told.code, Some(1), "{}", told.text);
    assert!(told.text.contains("the port is in use") && told.text.contains(&port), "{}", told.text);
    let taken = cluster.server_dir();
    let taken = taken.to_str().expect("a path");
    let told = coracle(&["server", "--listen", "127.0.0.1:0", "--data-dir", taken]);
    assert_eq!(told.code, Some(1), "{}", told.text);
    assert!(told.text.contains("in use") && told.text.contains(taken), "{}", told.text);
    let (url, token) = (cluster.url(), cluster.server_dir().join("join-token"));
    let agent = ["agent", "--server", &url, "--token-file", &token.to_string_lossy()];
    for verb in [&["server", "--listen", "127.0.0.1:0"][..], &agent] {
        let told = coracle(&[verb, &["--data-dir", "/proc/no"]].concat());
        assert_eq!(told.code, Some(1), "{}", told.text);
        let says = |word| told.text.contains(word);
        assert!(says("/proc/no") && says("--data-dir"), "{}", told.text);
    }
    let told = coracle(&["server", "--listen", "nonsense"]);
    assert_eq!(told.code, Some(2), "{}", told.text);
    let told = coracle(&["server", "--store", "mysql"]);
    assert_eq!(told.code, Some(2), "{}", told.text);
    assert!(told.text.contains("--store"), "{}", told.text);
    assert_eq!(coracle(&["sandwich"]).code, Some(2));
    cluster.ok(&["get", "ns"]);
}

#[test]
fn an_agent_with_a_wrong_token_or_name_says_so() {
    let cluster = Cluster::start();
    let dir = cluster.path().join("agent");
    let dir = dir.to_str().expect("a path");
    let url = cluster.url();
    let token = std::fs::read_to_string(cluster.server_dir().join("join-token")).expect("a token");
    let join = |token: &str, name: &str| {
        coracle(&[
            "agent",
            "--server",
            &url,
            "--token",
            token,
            "--node-name",
            name,
            "--data-dir",
            dir,
            "--listen",
            "127.0.0.1:0",
        ])
    };
    let other = format!("K10{}::{}", "0".repeat(64), token.split("::").nth(1).expect("two parts"));
    let told = join(&other, "w");
    assert_eq!(told.code, Some(1), "{}", told.text);
    assert!(told.text.contains("is for another cluster"), "{}", told.text);
    let secret = token.rsplit_once('.').expect("a secret").0;
    let told = join(&format!("{secret}.{}", "x".repeat(16)), "w");
    assert_eq!(told.code, Some(1), "{}", told.text);
    assert!(told.text.contains("Unauthorized"), "{}", told.text);
    let told = join("nonsense", "w");
    assert_eq!(told.code, Some(2), "{}", told.text);
    assert!(told.text.contains("--token is not a join token"), "{}", told.text);
    let told = join(&token, "Not_A_Name");
    assert_eq!(told.code, Some(2), "{}", told.text);
    assert!(told.text.contains("--node-name"), "{}", told.text);
}

#[test]
fn requests_without_rights_are_401_and_403() {
    let cluster = Cluster::start();
    let ca = cluster.server_dir().join("pki/ca.crt");
    let ask = |path: &str, more: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["-sS", "--cacert"]).arg(&ca).arg(format!("{}{path}", cluster.url()));
        Told::of(&command.args(more).output().expect("curl")).text
    };
    let told = ask("/api/v1/pods", &[]);
    assert!(told.contains("\"code\":403"), "{told}");
    let who = "User \\\"system:anonymous\\\" cannot list resource \\\"pods\\\"";
    assert!(told.contains(who), "{told}");
    assert!(ask("/version", &[]).contains("gitVersion"));
    let told = ask("/api/v1/pods", &["-H", "Authorization: Bearer wrong"]);
    assert!(told.contains("\"code\":401") && told.contains("Unauthorized"), "{told}");
}

#[test]
fn a_full_disk_refuses_writes_serves_reads_and_is_over_once_there_is_space() {
    let cluster = Cluster::start_on_disk_of(48 << 20);
    cluster.ok(&["create", "configmap", "before", "--from-literal=a=b"]);
    let filler = cluster.server_dir().join("filler");
    let mut file = std::fs::File::create(&filler).expect("a file");
    while std::io::Write::write_all(&mut file, &[0; 1 << 16]).is_ok() {}
    let large = format!("--from-literal=a={}", "x".repeat(100_000));
    let told = eventually("the store has no space left", || {
        let name = format!("m-{}", count());
        let told = cluster.kubectl(&["create", "configmap", &name, &large]);
        (!told.succeeded).then_some(told.text)
    });
    assert!(told.contains("free some space on the store's disk"), "{told}");
    let manifest = cluster.path().join("map.yaml");
    let map = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: own}}\ndata: {{a: {}}}\n",
        "x".repeat(100_000)
    );
    std::fs::write(&manifest, map).expect("a file");
    let (manifest, kubeconfig) = (manifest.to_string_lossy(), cluster.kubeconfig());
    let kubeconfig = kubeconfig.to_string_lossy();
    let told = coracle(&["apply", "-f", &manifest, "--kubeconfig", &kubeconfig]);
    assert_eq!(told.code, Some(1), "{}", told.text);
    assert!(told.text.contains("free some space on the store's disk"), "{}", told.text);
    assert!(cluster.ok(&["get", "configmap", "before", "-o", "jsonpath={.data.a}"]).contains('b'));
    drop(file);
    std::fs::remove_file(&filler).expect("removed");
    eventually("writes go on", || {
        cluster.kubectl(&["create", "configmap", "after", &large]).succeeded.then_some(())
    });
    cluster.ok(&["get", "configmap", "before", "after"]);
}

fn count() -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}

/// A certificate for `system:masters` from the cluster's own CA that ended yesterday.
fn expired_identity(cluster: &Cluster) -> (String, String) {
    let pki = cluster.server_dir().join("pki");
    let read = |name: &str| std::fs::read_to_string(pki.join(name)).expect("the CA's files");
    let key = rcgen::KeyPair::from_pem(&read("ca.key")).expect("a key");
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read("ca.crt"), key).expect("a CA");
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "late");
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
    params.extended_key_usages.push(rcgen::ExtendedKeyUsagePurpose::ClientAuth);
    let yesterday = time::OffsetDateTime::now_utc() - time::Duration::days(1);
    params.not_before = yesterday - time::Duration::days(1);
    params.not_after = yesterday;
    let own = rcgen::KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&own, &issuer).expect("a certificate");
    (certificate.pem(), own.serialize_pem())
}

#[test]
fn an_expired_certificate_is_told_by_name_and_disturbs_nobody() {
    let cluster = Cluster::start();
    let (certificate, key) = expired_identity(&cluster);
    let write = |name: &str, text: &str| {
        let path = cluster.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let (crt, key) = (write("late.crt", &certificate), write("late.key", &key));
    let config = std::fs::read_to_string(cluster.kubeconfig()).expect("a kubeconfig");
    let kept = config.lines().filter(|line| !line.contains("client-"));
    let late = kept.collect::<Vec<_>>().join("\n").replace(
        "  user:\n",
        &format!("  user:\n    client-certificate: {crt}\n    client-key: {key}\n"),
    );
    let late = write("late.kubeconfig", &late);
    let told = coracle(&["get", "pods", "--kubeconfig", &late]);
    assert_eq!(told.code, Some(1), "{}", told.text);
    assert!(told.text.contains("expired") && told.text.contains("late"), "{}", told.text);
    let told = cluster.kubectl(&["get", "pods", "--kubeconfig", &late]);
    assert!(!told.succeeded && told.text.contains("expired certificate"), "{}", told.text);
    cluster.ok(&["get", "pods"]);
}
