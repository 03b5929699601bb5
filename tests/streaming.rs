//! exec, attach, cp and port-forward with unmodified clients against a real server and agent: the
//! newest kubectl over WebSocket, as older ones over SPDY, kube-rs, Python's client.

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::{Cluster, Told, eventually};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How kubectl reaches a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    WebSocket,
    Spdy,
}

const WIRES: [Wire; 2] = [Wire::WebSocket, Wire::Spdy];

impl Wire {
    fn env(self) -> [(&'static str, &'static str); 2] {
        let on = if self == Self::WebSocket { "true" } else { "false" };
        [("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", on), ("KUBECTL_PORT_FORWARD_WEBSOCKETS", on)]
    }
}

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: work}
spec:
  terminationGracePeriodSeconds: 1
  volumes:
  - {name: data, emptyDir: {}}
  containers:
  - name: tools
    image: coracle.dev/samples/toolbox:v1
    args: [sleep, inf]
    env: [{name: COLOUR, value: green}]
    volumeMounts: [{name: data, mountPath: /data}]
  - name: web
    image: coracle.dev/samples/hello-http:v1
    ports: [{containerPort: 8080}]
    env: [{name: POD_NAME, value: ahoy}]
---
apiVersion: v1
kind: Pod
metadata: {name: ear}
spec:
  terminationGracePeriodSeconds: 1
  restartPolicy: Never
  containers:
  - name: cat
    image: coracle.dev/samples/toolbox:v1
    args: [cat]
    stdin: true
";

fn cluster() -> Cluster {
    let cluster = Cluster::with_agents(1);
    cluster.apply(PODS);
    for pod in ["work", "ear"] {
        cluster.ok(&["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=90s"]);
    }
    cluster
}

/// kubectl over one wire; standard output and standard error apart.
fn run(
    cluster: &Cluster,
    wire: Wire,
    args: &[&str],
    input: &[u8],
) -> (Option<i32>, Vec<u8>, String) {
    let mut child = cluster
        .kubectl_command(args)
        .envs(wire.env())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    let fed = std::thread::spawn(move || {
        // It may end without reading all.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().expect("kubectl ends");
    fed.join().expect("no panic");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), output.stdout, err)
}

fn text(cluster: &Cluster, wire: Wire, args: &[&str]) -> (Option<i32>, String, String) {
    let (code, out, err) = run(cluster, wire, args, b"");
    (code, String::from_utf8_lossy(&out).into_owned(), err)
}

#[test]
fn kubectl_exec_runs_commands_and_tells_how_they_ended() {
    let cluster = cluster();
    for wire in WIRES {
        let exec = |args: &[&str]| {
            text(&cluster, wire, &[&["exec", "work", "-c", "tools"], args].concat())
        };
        let (code, out, err) = exec(&["--", "echo", "hello", "there"]);
        assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "hello there\n", ""), "{wire:?}");
        let (_, out, _) = exec(&["--", "env"]);
        assert!(out.contains("COLOUR=green\n"), "it has the container's environment: {out}");
        let (code, out, err) = exec(&["--", "cat", "/no/such"]);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{wire:?}");
        assert!(err.contains("cat: /no/such: No such file"), "{err}");
        assert!(err.contains("command terminated with exit code 1"), "{err}");
        let (code, _, err) = exec(&["--", "vim"]);
        assert_eq!(code, Some(127), "{err}");
        assert!(err.contains("\"vim\": executable file not found in $PATH"), "{err}");
        let (code, out, _) = exec(&["--", "sh", "-c", "echo 'one word'"]);
        assert_eq!((code, out.as_str()), (Some(0), "one word\n"));
        let (code, _, err) = exec(&["--", "sh", "-c", "ls | cat"]);
        assert!(code == Some(2) && err.contains("needs a shell"), "{err}");
        // All of a long output arrives, and standard error stays apart.
        let (code, out, _) =
            run(&cluster, wire, &["exec", "-i", "ear", "--", "cat"], &[b'x'; 1 << 20]);
        assert_eq!((code, out.len()), (Some(0), 1 << 20), "{wire:?}");
        let (code, out, _) =
            run(&cluster, wire, &["exec", "-i", "work", "-c", "tools", "--", "cat"], b"typed");
        assert_eq!((code, out.as_slice()), (Some(0), &b"typed"[..]), "{wire:?}");
    }
    let (_, out, err) = text(&cluster, Wire::WebSocket, &["exec", "work", "--", "echo", "first"]);
    assert_eq!(out, "first\n");
    assert!(err.contains("Defaulted container \"tools\" out of: tools, web"), "{err}");
    let (code, _, err) = text(&cluster, Wire::WebSocket, &["exec", "nobody", "--", "ls"]);
    assert!(code == Some(1) && err.contains("pods \"nobody\" not found"), "{err}");
    let (code, _, err) = text(&cluster, Wire::WebSocket, &["exec", "work", "-c", "x", "--", "ls"]);
    assert!(code == Some(1) && err.contains("container"), "{err}");
}

#[test]
fn an_exec_ends_with_its_client_and_leaves_the_container_alone() {
    let cluster = cluster();
    for wire in WIRES {
        let mut child = cluster
            .kubectl_command(&["exec", "work", "-c", "tools", "--", "sleep", "inf"])
            .envs(wire.env())
            .stdout(Stdio::null())
            .spawn()
            .expect("kubectl");
        std::thread::sleep(Duration::from_secs(1));
        child.kill().expect("it runs");
        child.wait().expect("it ends");
    }
    let restarts = "jsonpath={.status.containerStatuses[*].restartCount}";
    assert_eq!(cluster.ok(&["get", "pod", "work", "-o", restarts]), "0 0");
    let (code, ..) = text(&cluster, Wire::WebSocket, &["exec", "work", "--", "true"]);
    assert_eq!(code, Some(0));
}

#[test]
fn kubectl_cp_carries_files_and_directories_both_ways() {
    let cluster = cluster();
    let here = |name: &str| cluster.path().join(name).display().to_string();
    std::fs::create_dir_all(here("tree/inner")).expect("made");
    std::fs::write(here("tree/inner/deep"), "deep").expect("written");
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(here("tree/large"), &large).expect("written");
    for wire in WIRES {
        let copy = |from: &str, to: &str| {
            let (code, out, err) = text(&cluster, wire, &["cp", "-c", "tools", from, to]);
            assert_eq!(code, Some(0), "{wire:?} {from} {to}: {out} {err}");
        };
        let name = format!("{wire:?}");
        copy(&here("tree"), &format!("work:/data/{name}"));
        let (_, out, _) = text(
            &cluster,
            wire,
            &["exec", "work", "-c", "tools", "--", "cat", &format!("/data/{name}/inner/deep")],
        );
        assert_eq!(out, "deep");
        copy(&format!("work:/data/{name}"), &here(&name));
        assert!(std::fs::read(here(&format!("{name}/large"))).expect("copied") == large);
        assert_eq!(std::fs::read(here(&format!("{name}/inner/deep"))).expect("copied"), b"deep");
        // Into a directory that is there, and to a name of its own.
        copy(&here("tree/inner/deep"), &format!("work:/data/{name}/inner"));
        copy(&here("tree/inner/deep"), &format!("work:/data/{name}/named"));
        copy(&format!("work:/data/{name}/named"), &here(&format!("{name}-named")));
        assert_eq!(std::fs::read(here(&format!("{name}-named"))).expect("copied"), b"deep");
    }
    let (code, _, err) =
        text(&cluster, Wire::WebSocket, &["cp", "-c", "tools", &here("tree/large"), "work:/etc/x"]);
    assert!(code != Some(0) && err.contains("Read-only file system"), "{err}");
}

/// A port-forward that is up, and the port of this machine.
fn forwarded(cluster: &Cluster, wire: Wire, target: &str, port: &str) -> (Child, u16) {
    let mut child = cluster
        .kubectl_command(&["port-forward", "--address=127.0.0.1", target, &format!(":{port}")])
        .envs(wire.env())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl");
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    out.read_line(&mut line).expect("a line");
    // kubectl tells each connection there, and dies where nobody may read it.
    child.stdout = Some(out.into_inner());
    let number = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next());
    let Some(local) = number.and_then(|text| text.parse().ok()) else {
        let mut told = String::new();
        let _ = child.stderr.take().expect("a pipe").read_to_string(&mut told);
        panic!("{wire:?}: {line:?} {told}");
    };
    (child, local)
}

fn get(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n").expect("written");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn kubectl_port_forward_reaches_what_listens_in_a_pod() {
    let cluster = cluster();
    for wire in WIRES {
        let (mut child, port) = forwarded(&cluster, wire, "pod/work", "8080");
        for _ in 0..5 {
            let answer = get(port);
            assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("ahoy"), "{answer}");
        }
        // Many at once over the one connection.
        let all: Vec<_> = (0..10).map(|_| std::thread::spawn(move || get(port))).collect();
        for one in all {
            assert!(one.join().expect("no panic").contains("ahoy"));
        }
        child.kill().expect("it runs");
        child.wait().expect("it ends");

        let (mut child, port) = forwarded(&cluster, wire, "pod/work", "9999");
        assert_eq!(get(port), "", "nobody listens there");
        child.kill().expect("it runs");
        let mut told = String::new();
        let _ = child.stderr.take().expect("a pipe").read_to_string(&mut told);
        child.wait().expect("it ends");
        assert!(told.contains("error forwarding port 9999 to pod default/work"), "{told}");
        assert!(told.contains("connection refused"), "{told}");
    }
}

#[test]
fn kubectl_attach_and_run_join_the_streams_of_a_container() {
    let cluster = cluster();
    for wire in WIRES {
        let mut child = cluster
            .kubectl_command(&["attach", "-i", "ear"])
            .envs(wire.env())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("kubectl");
        let mut stdin = child.stdin.take().expect("a pipe");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        for word in ["one", "two"] {
            writeln!(stdin, "{word} {wire:?}").expect("written");
            let line = lines.next().expect("a line").expect("text");
            assert_eq!(line, format!("{word} {wire:?}"));
        }
        child.kill().expect("it runs");
        child.wait().expect("it ends");
    }
    // Its input did not end with the first who was attached, and its log has all of it.
    let log = cluster.ok(&["logs", "ear"]);
    assert_eq!(log, "one WebSocket\ntwo WebSocket\none Spdy\ntwo Spdy\n");
    for wire in WIRES {
        let name = format!("once-{}", format!("{wire:?}").to_lowercase());
        let args = [
            "run",
            &name,
            "-i",
            "--rm",
            "--quiet",
            "--restart=Never",
            "--image=coracle.dev/samples/toolbox:v1",
            "--pod-running-timeout=90s",
            "--",
            "cat",
        ];
        let (code, out, err) = run(&cluster, wire, &args, b"typed and gone\n");
        let out = String::from_utf8_lossy(&out);
        assert_eq!((code, out.as_ref()), (Some(0), "typed and gone\n"), "{wire:?}: {err}");
        eventually("the pod is gone", || {
            (!cluster.kubectl(&["get", "pod", &name]).succeeded).then_some(())
        });
    }
}

#[test]
fn who_may_not_exec_is_refused_over_every_wire() {
    let cluster = cluster();
    cluster.ok(&["create", "serviceaccount", "guest"]);
    cluster.ok(&["create", "role", "look", "--verb=get,list", "--resource=pods"]);
    cluster.ok(&["create", "rolebinding", "look", "--role=look", "--serviceaccount=default:guest"]);
    let who = "--as=system:serviceaccount:default:guest";
    for wire in WIRES {
        for args in [
            &["exec", "work", who, "--", "true"][..],
            &["attach", "ear", who],
            &["port-forward", "pod/work", ":8080", who],
        ] {
            let (code, _, err) = text(&cluster, wire, args);
            assert!(code == Some(1) && err.contains("cannot"), "{wire:?} {args:?}: {err}");
        }
    }
    cluster.ok(&["create", "role", "run", "--verb=create,get", "--resource=pods/exec"]);
    cluster.ok(&["create", "rolebinding", "run", "--role=run", "--serviceaccount=default:guest"]);
    eventually("the role is known", || {
        let (code, ..) = text(&cluster, Wire::WebSocket, &["exec", "work", who, "--", "true"]);
        (code == Some(0)).then_some(())
    });
}

async fn pods(cluster: &Cluster) -> Api<Pod> {
    let file = kube::config::Kubeconfig::read_from(cluster.kubeconfig()).expect("a kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(file, &Default::default()).await;
    let client = kube::Client::try_from(config.expect("a configuration")).expect("a client");
    Api::namespaced(client, "default")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kube_rs_execs_attaches_and_forwards() {
    let cluster = tokio::task::spawn_blocking(cluster).await.expect("a cluster");
    let pods = pods(&cluster).await;
    let params = AttachParams::default().container("tools").stdin(true);
    let mut process = pods.exec("work", ["cat"], &params).await.expect("executed");
    let mut stdin = process.stdin().expect("asked for");
    stdin.write_all(b"hello").await.expect("written");
    // kube's pipe tells its end only so: it does not end by being dropped.
    stdin.shutdown().await.expect("closed");
    let mut out = String::new();
    process.stdout().expect("asked for").read_to_string(&mut out).await.expect("read");
    assert_eq!(out, "hello");
    let status = process.take_status().expect("once").await.expect("a status");
    assert_eq!(status.status.as_deref(), Some("Success"));

    let params = AttachParams::default().container("tools");
    let mut process = pods.exec("work", ["false"], &params).await.expect("executed");
    let status = process.take_status().expect("once").await.expect("a status");
    assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"));

    // A terminal: what is typed is echoed, lines can be corrected, new lines begin at the left.
    let params = AttachParams::interactive_tty().container("tools");
    let mut process = pods.exec("work", ["cat"], &params).await.expect("executed");
    let mut stdin = process.stdin().expect("asked for");
    stdin.write_all(b"helpp\x7flo\x7f\x7flo\r\x04").await.expect("written");
    let mut out = String::new();
    process.stdout().expect("asked for").read_to_string(&mut out).await.expect("read");
    assert!(out.ends_with("\r\nhelplo\r\n"), "{out:?}");
    // ^C ends it.
    let mut process = pods.exec("work", ["sleep", "inf"], &params).await.expect("executed");
    process.stdin().expect("asked for").write_all(b"\x03").await.expect("written");
    let status = process.take_status().expect("once").await.expect("a status");
    assert!(status.message.unwrap_or_default().contains("130"));

    let mut forwarder = pods.portforward("work", &[8080]).await.expect("forwarded");
    let mut stream = forwarder.take_stream(8080).expect("a stream");
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n")
        .await
        .expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("ahoy"), "{answer}");
}

#[test]
fn the_python_client_execs_types_and_forwards() {
    let cluster = cluster();
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/target/python/bin/python");
    let script = cluster.path().join("client.py");
    let program = format!(
        "
from kubernetes import client, config
from kubernetes.stream import stream, portforward
config.load_kube_config({config:?})
core = client.CoreV1Api()
call = dict(name='work', namespace='default', container='tools',
            stdout=True, stderr=True, stdin=False, tty=False)
print('said', stream(core.connect_get_namespaced_pod_exec, command=['echo', 'hi'], **call))
call['stdin'] = True
shell = stream(core.connect_get_namespaced_pod_exec, command=['cat'], _preload_content=False, **call)
shell.write_stdin('typed\\n')
print('read', shell.readline_stdout(timeout=30))
shell.close()
failed = stream(core.connect_get_namespaced_pod_exec, command=['false'], _preload_content=False, **call)
failed.run_forever(timeout=30)
print('code', failed.returncode)
forward = portforward(core.connect_get_namespaced_pod_portforward, 'work', 'default', ports='8080')
http = forward.socket(8080)
http.setblocking(True)
http.sendall(b'GET / HTTP/1.1\\r\\nHost: pod\\r\\nConnection: close\\r\\n\\r\\n')
answer = b''
while True:
    data = http.recv(1024)
    if not data: break
    answer += data
http.close()
print('answer', answer.split(b'\\r\\n')[0], b'ahoy' in answer, forward.error(8080))
",
        config = cluster.kubeconfig().display().to_string(),
    );
    std::fs::write(&script, program).expect("a script");
    let output = std::process::Command::new(python).arg(&script).output();
    let told = Told::of(&output.expect("the Python client is installed (tests/run.sh does it)"));
    assert!(told.succeeded, "{}", told.text);
    let answer = "answer b'HTTP/1.1 200 OK' True None";
    for part in ["said hi", "read typed", "code 1", answer] {
        assert!(told.text.contains(part), "{part}: {}", told.text);
    }
}

/// The command line of Coracle itself, as the cluster's administrator.
fn coracle(cluster: &Cluster, args: &[&str], input: &[u8]) -> (Option<i32>, String, String) {
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_coracle"))
        .args(args)
        .env("KUBECONFIG", cluster.kubeconfig())
        .env("HOME", cluster.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    // It may end without reading all.
    let _ = stdin.write_all(input);
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn coracle_s_own_verbs_do_what_kubectl_s_do() {
    let cluster = cluster();
    let run = |args: &[&str], input: &str| coracle(&cluster, args, input.as_bytes());
    let (code, out, err) = run(&["exec", "work", "-c", "tools", "--", "echo", "hi"], "");
    assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "hi\n", ""));
    let (code, out, _) = run(&["exec", "-i", "ear", "--", "cat"], "typed");
    assert_eq!((code, out.as_str()), (Some(0), "typed"));
    let (code, _, err) = run(&["exec", "work", "--", "cat", "/no/such"], "");
    assert_eq!(code, Some(1));
    assert!(err.contains("Defaulted container \"tools\"") && err.contains("exit code 1"), "{err}");
    let (code, _, err) = run(&["exec", "-q", "work", "--", "vim"], "");
    assert!(code == Some(127) && err.contains("executable file not found"), "{err}");
    let (code, _, err) = run(&["exec", "nobody", "--", "ls"], "");
    assert_eq!(
        (code, err.as_str()),
        (Some(1), "Error from server (NotFound): pods \"nobody\" not found\n")
    );
    assert_eq!(run(&["exec", "work"], "").0, Some(2), "there is no command");

    let here = |name: &str| cluster.path().join(name).display().to_string();
    std::fs::create_dir_all(here("tree/inner")).expect("made");
    std::fs::write(here("tree/inner/deep"), "deep").expect("written");
    let copy = |from: &str, to: &str| {
        let (code, out, err) = run(&["cp", "-c", "tools", from, to], "");
        assert_eq!(code, Some(0), "{from} {to}: {out} {err}");
    };
    copy(&here("tree"), "work:/data/mine");
    copy("default/work:/data/mine", &here("back"));
    assert_eq!(std::fs::read(here("back/inner/deep")).expect("copied"), b"deep");
    copy(&here("tree/inner/deep"), "work:/data/mine");
    copy("work:/data/mine/deep", &here("renamed"));
    assert_eq!(std::fs::read(here("renamed")).expect("copied"), b"deep");
    let (code, _, err) = run(&["cp", "-c", "tools", &here("tree"), "work:/etc/x"], "");
    assert!(code == Some(1) && err.contains("Read-only file system"), "{err}");
    let (code, _, err) = run(&["cp", "-c", "tools", "work:/data/none", &here("none")], "");
    assert!(code == Some(1) && err.contains("No such file or directory"), "{err}");

    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_coracle"))
        .args(["port-forward", "pod/work", ":8080"])
        .env("KUBECONFIG", cluster.kubeconfig())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next());
    let port = port.and_then(|text| text.parse().ok()).expect("a port");
    let all: Vec<_> = (0..10).map(|_| std::thread::spawn(move || get(port))).collect();
    for one in all {
        assert!(one.join().expect("no panic").contains("ahoy"));
    }
    child.kill().expect("it runs");
    child.wait().expect("it ends");
}

#[test]
fn the_server_proxies_http_to_pods_and_services() {
    let cluster = cluster();
    cluster.apply(
        "
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
",
    );
    let raw = |path: &str| {
        cluster.kubectl(&["get", "--raw", &format!("/api/v1/namespaces/default/{path}")])
    };
    for path in ["pods/work/proxy/", "pods/work:8080/proxy/a?b=c", "pods/http:work:8080/proxy/"] {
        let told = raw(path);
        assert!(told.succeeded && told.text.contains("ahoy"), "{path}: {}", told.text);
    }
    let told = raw("pods/work:9999/proxy/");
    assert!(!told.succeeded && told.text.contains("connection refused"), "{}", told.text);
    let told = raw("services/web:http/proxy/");
    assert!(!told.succeeded && told.text.contains("no endpoints available for service"));
    cluster.ok(&["label", "pod", "work", "app=web"]);
    eventually("the service has an endpoint", || {
        let told = raw("services/web:http/proxy/");
        (told.succeeded && told.text.contains("ahoy")).then_some(())
    });
    for name in ["web", "web:80", "http:web:http"] {
        let told = raw(&format!("services/{name}/proxy/"));
        assert!(told.succeeded && told.text.contains("ahoy"), "{name}: {}", told.text);
    }
    let told = cluster.ok(&["get", "--raw", "/api/v1/nodes/node-0/proxy/healthz"]);
    assert_eq!(told, "ok");
}

#[test]
fn kubectl_debug_adds_containers_that_count_for_nothing() {
    let cluster = cluster();
    let image = "--image=coracle.dev/samples/toolbox:v1";
    cluster.ok(&["debug", "work", "--container=look", image, "--", "echo", "looking"]);
    let state = ".status.ephemeralContainerStatuses[0].state.terminated.exitCode";
    cluster.wait_for("pod/work", state, "0");
    assert_eq!(cluster.ok(&["logs", "work", "-c", "look"]), "looking\n");
    let mut child = cluster
        .kubectl_command(&["debug", "work", "-i", "-q", "--container=type", image, "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("kubectl");
    let mut stdin = child.stdin.take().expect("a pipe");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    writeln!(stdin, "typed").expect("written");
    assert!(lines.by_ref().map_while(Result::ok).any(|line| line == "typed"));
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    cluster.ok(&["wait", "--for=condition=Ready", "pod/work", "--timeout=30s"]);
    let restarts = "jsonpath={.status.containerStatuses[*].restartCount}";
    assert_eq!(cluster.ok(&["get", "pod", "work", "-o", restarts]), "0 0");
}

#[test]
fn a_pod_that_goes_ends_what_streams_to_it() {
    let cluster = cluster();
    let mut child = cluster
        .kubectl_command(&["exec", "work", "-c", "tools", "--", "sleep", "inf"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("kubectl");
    std::thread::sleep(Duration::from_secs(1));
    cluster.ok(&["delete", "pod", "work", "--wait=false"]);
    let end = Instant::now() + common::PATIENCE;
    while child.try_wait().expect("a child").is_none() {
        assert!(Instant::now() < end, "the exec goes on without its pod");
        std::thread::sleep(Duration::from_millis(100));
    }
}
