//! Every everyday verb of an unmodified kubectl, against a real server and a real agent.

mod common;

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Cluster, eventually};

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: hello
        image: coracle.dev/samples/hello-http:v1
        ports: [{containerPort: 8080}]
        env: [{name: GREETING, value: one}]
";

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

#[test]
fn get_shows_objects_in_every_form() {
    let cluster = Cluster::with_agents(1);
    cluster.apply(WEB);
    cluster.rolled_out("deploy/web");
    let table = cluster.ok(&["get", "deploy", "web"]);
    assert!(table.starts_with("NAME   READY   UP-TO-DATE   AVAILABLE   AGE\n"), "{table}");
    assert_eq!(words(table.lines().nth(1).expect("a row"))[..4], ["web", "2/2", "2", "2"]);
    let wide = cluster.ok(&["get", "pods", "-o", "wide", "--no-headers"]);
    for row in wide.lines() {
        let row = words(row);
        assert_eq!(row[1..4], ["1/1", "Running", "0"], "{wide}");
        assert!(row[5].starts_with("10.128."), "a pod has an address of its node: {wide}");
        assert_eq!(row[6], "node-0");
    }
    let yaml = cluster.ok(&["get", "deploy", "web", "-o", "yaml"]);
    assert!(yaml.contains("kind: Deployment") && yaml.contains("progressDeadlineSeconds: 600"));
    let json = cluster.ok(&["get", "deploy", "web", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["status"]["availableReplicas"], 2);
    let path = "jsonpath={.spec.template.spec.containers[0].image}";
    let image = cluster.ok(&["get", "deploy", "web", "-o", path]);
    assert_eq!(image, "coracle.dev/samples/hello-http:v1");
    let columns = "custom-columns=N:.metadata.name,R:.spec.replicas";
    let told = cluster.ok(&["get", "deploy", "-o", columns]);
    assert_eq!(words(&told), ["N", "R", "web", "2"]);
    assert_eq!(cluster.ok(&["get", "deploy", "-o", "name"]), "deployment.apps/web\n");
    let all = cluster.ok(&["get", "all"]);
    for kind in ["pod/web-", "service/kubernetes", "deployment.apps/web", "replicaset.apps/web-"] {
        assert!(all.contains(kind), "{all}");
    }
    let told = cluster.refused(&["get", "pod", "nothing"], "");
    assert_eq!(told, "Error from server (NotFound): pods \"nothing\" not found\n");
    let told = cluster.refused(&["get", "sandwiches"], "");
    assert!(told.contains("the server doesn't have a resource type \"sandwiches\""), "{told}");
}

#[test]
fn get_watches_and_wait_waits() {
    let cluster = Cluster::with_agents(1);
    let mut watch = cluster
        .kubectl_command(&["get", "pods", "-w", "--no-headers", "--request-timeout=60s"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("kubectl");
    let lines = BufReader::new(watch.stdout.take().expect("a pipe")).lines();
    cluster.apply(WEB);
    let (mut seen, mut running) = (Vec::new(), 0);
    for line in lines.map_while(Result::ok) {
        running += usize::from(line.contains("1/1") && line.contains("Running"));
        seen.push(line);
        if running == 2 {
            break;
        }
    }
    watch.kill().expect("it was started here");
    let _ = watch.wait();
    assert!(seen.iter().any(|line| line.contains("Pending")), "{seen:?}");
    let pods = cluster.ok(&["get", "pods", "-o", "name"]);
    let pod = pods.lines().next().expect("a pod");
    cluster.ok(&["wait", "--for=condition=Ready", pod, "--timeout=60s"]);
    cluster.ok(&["wait", "--for=condition=Available", "deploy/web", "--timeout=60s"]);
    cluster.ok(&["wait", "--for=jsonpath={.status.phase}=Running", pod, "--timeout=60s"]);
    cluster.ok(&["delete", "deploy", "web", "--wait=false"]);
    cluster.ok(&["wait", "--for=delete", pod, "--timeout=60s"]);
    let told = cluster.refused(&["wait", "--for=condition=Ready", "pod/none", "--timeout=1s"], "");
    assert!(told.contains("not found"), "{told}");
}

#[test]
fn describe_and_events_tell_what_happened() {
    let cluster = Cluster::with_agents(1);
    cluster.apply(WEB);
    cluster.rolled_out("deploy/web");
    let told = cluster.ok(&["describe", "deploy", "web"]);
    for part in [
        "2 desired | 2 updated | 2 total | 2 available | 0 unavailable",
        "RollingUpdateStrategy:  25% max unavailable, 25% max surge",
        "NewReplicaSetAvailable",
        "Scaled up replica set web-",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let told = cluster.ok(&["describe", "pods", "-l", "app=web"]);
    for part in ["Successfully assigned default/web-", "QoS Class:", "Started", "node-0/127.0.0.1"]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    let told = cluster.ok(&["describe", "node", "node-0"]);
    for part in ["KubeletReady", "coracle.dev/runtime=wasm", "HolderIdentity:  node-0"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let told = cluster.ok(&["events"]);
    assert!(told.contains("ScalingReplicaSet") && told.contains("Scheduled"), "{told}");
    let told = cluster.ok(&["events", "--for", "deploy/web"]);
    assert!(told.contains("ScalingReplicaSet") && !told.contains("Scheduled"), "{told}");
    cluster.ok(&["describe", "svc", "kubernetes"]);
    cluster.ok(&["describe", "ns", "default"]);
}

#[test]
fn apply_diff_edit_and_patch_change_objects() {
    let cluster = Cluster::start();
    assert_eq!(cluster.apply(WEB), "deployment.apps/web created\n");
    assert_eq!(cluster.apply(WEB), "deployment.apps/web unchanged\n");
    let more = WEB.replace("replicas: 2", "replicas: 3");
    let diff = cluster.kubectl_with(&["diff", "-f", "-"], &more, &[]);
    assert_eq!(diff.code, Some(1), "a difference is exit code 1: {}", diff.text);
    assert!(diff.text.contains("-  replicas: 2") && diff.text.contains("+  replicas: 3"));
    assert_eq!(cluster.apply(&more), "deployment.apps/web configured\n");
    assert!(cluster.kubectl_with(&["diff", "-f", "-"], &more, &[]).succeeded);
    let replicas = || cluster.ok(&["get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"]);
    assert_eq!(replicas(), "3");

    let editor = [("EDITOR", "sed -i s/replicas:.3/replicas:\\ 4/")];
    let edited = cluster.kubectl_with(&["edit", "deploy", "web"], "", &editor);
    assert!(edited.succeeded && edited.text.contains("deployment.apps/web edited"));
    assert_eq!(replicas(), "4");

    let json = r#"[{"op":"replace","path":"/spec/replicas","value":5}]"#;
    cluster.ok(&["patch", "deploy", "web", "--type=json", "-p", json]);
    assert_eq!(replicas(), "5");
    cluster.ok(&["patch", "deploy", "web", "--type=merge", "-p", r#"{"spec":{"replicas":6}}"#]);
    assert_eq!(replicas(), "6");
    let strategic =
        r#"{"spec":{"template":{"spec":{"containers":[{"name":"more","image":"x"}]}}}}"#;
    cluster.ok(&["patch", "deploy", "web", "--type=strategic", "-p", strategic]);
    let path = "jsonpath={.spec.template.spec.containers[*].name}";
    assert_eq!(cluster.ok(&["get", "deploy", "web", "-o", path]), "more hello");

    cluster.ok(&["label", "deploy", "web", "tier=front"]);
    assert_eq!(cluster.ok(&["get", "deploy", "-l", "tier=front", "-o", "name"]).lines().count(), 1);
    let told = cluster.refused(&["label", "deploy", "web", "tier=back"], "");
    assert!(told.contains("already has a value"), "{told}");
    cluster.ok(&["label", "deploy", "web", "tier-"]);
    cluster.ok(&["annotate", "deploy", "web", "note=hello there"]);
    let path = "jsonpath={.metadata.annotations.note}";
    assert_eq!(cluster.ok(&["get", "deploy", "web", "-o", path]), "hello there");
    assert_eq!(cluster.ok(&["delete", "deploy", "web"]), "deployment.apps \"web\" deleted\n");
}

#[test]
fn create_makes_every_kind_that_kubectl_knows() {
    let cluster = Cluster::start();
    for (args, told) in [
        (&["create", "ns", "team"][..], "namespace/team created"),
        (&["create", "deployment", "d", "--image=x"], "deployment.apps/d created"),
        (&["create", "configmap", "c", "--from-literal=a=b"], "configmap/c created"),
        (&["create", "secret", "generic", "s", "--from-literal=a=b"], "secret/s created"),
        (&["create", "serviceaccount", "me"], "serviceaccount/me created"),
        (
            &["create", "role", "reader", "--verb=get", "--resource=pods"],
            "role.rbac.authorization.k8s.io/reader created",
        ),
        (
            &["create", "rolebinding", "reads", "--role=reader", "--serviceaccount=default:me"],
            "rolebinding.rbac.authorization.k8s.io/reads created",
        ),
        (
            &["create", "clusterrole", "lister", "--verb=list", "--resource=nodes"],
            "clusterrole.rbac.authorization.k8s.io/lister created",
        ),
        (
            &["create", "clusterrolebinding", "lists", "--clusterrole=lister", "--user=ann"],
            "clusterrolebinding.rbac.authorization.k8s.io/lists created",
        ),
        (&["create", "service", "clusterip", "v", "--tcp=80:8080"], "service/v created"),
        (&["create", "service", "nodeport", "n", "--tcp=80:8080"], "service/n created"),
        (&["create", "job", "j", "--image=x"], "job.batch/j created"),
        (
            &["create", "cronjob", "cj", "--image=x", "--schedule=* * * * *"],
            "cronjob.batch/cj created",
        ),
        (&["create", "quota", "q", "--hard=pods=5"], "resourcequota/q created"),
        (
            &["create", "priorityclass", "high", "--value=1000"],
            "priorityclass.scheduling.k8s.io/high created",
        ),
        (
            &["create", "poddisruptionbudget", "pdb", "--selector=a=b", "--min-available=1"],
            "poddisruptionbudget.policy/pdb created",
        ),
        (
            &["create", "ingress", "i", "--rule=a.example/=v:80"],
            "ingress.networking.k8s.io/i created",
        ),
    ] {
        assert_eq!(cluster.ok(args).trim(), told);
    }
    let token = cluster.ok(&["create", "token", "me"]);
    assert_eq!(token.trim().split('.').count(), 3, "a JSON web token: {token}");
    let told = cluster.refused(&["create", "ns", "team"], "");
    let exists = "Error from server (AlreadyExists): namespaces \"team\" already exists\n";
    assert_eq!(told, exists);
    let dry = cluster.ok(&["create", "ns", "other", "--dry-run=server", "-o", "name"]);
    assert_eq!(dry, "namespace/other\n");
    cluster.refused(&["get", "ns", "other"], "");
}

#[test]
fn rollouts_go_forward_back_and_pause() {
    let cluster = Cluster::with_agents(1);
    cluster.apply(WEB);
    cluster.rolled_out("deploy/web");
    cluster.ok(&["set", "env", "deploy/web", "GREETING=two"]);
    cluster.rolled_out("deploy/web");
    let history = cluster.ok(&["rollout", "history", "deploy/web"]);
    let numbers: Vec<&str> =
        history.lines().skip(2).filter_map(|l| words(l).first().copied()).collect();
    assert_eq!(numbers, ["1", "2"], "{history}");
    let one = cluster.ok(&["rollout", "history", "deploy/web", "--revision=1"]);
    assert!(one.contains("GREETING:") && one.contains("one"), "{one}");
    let greeting = "jsonpath={.spec.template.spec.containers[0].env[0].value}";
    assert_eq!(cluster.ok(&["get", "deploy/web", "-o", greeting]), "two");
    cluster.ok(&["rollout", "undo", "deploy/web"]);
    cluster.rolled_out("deploy/web");
    assert_eq!(cluster.ok(&["get", "deploy/web", "-o", greeting]), "one");

    cluster.ok(&["rollout", "pause", "deploy/web"]);
    cluster.ok(&["set", "image", "deploy/web", "hello=coracle.dev/samples/greeter:v1"]);
    let image = "jsonpath={.items[*].spec.containers[0].image}";
    std::thread::sleep(Duration::from_secs(2));
    let images = cluster.ok(&["get", "pods", "-l", "app=web", "-o", image]);
    assert!(!images.contains("greeter"), "a paused rollout changes no pod: {images}");
    cluster.ok(&["rollout", "resume", "deploy/web"]);
    cluster.rolled_out("deploy/web");
    let images = cluster.ok(&["get", "deploy/web", "-o", "jsonpath={..image}"]);
    assert!(images.contains("greeter"), "{images}");

    cluster.ok(&["rollout", "restart", "deploy/web"]);
    cluster.rolled_out("deploy/web");
    cluster.ok(&["scale", "deploy/web", "--replicas=4"]);
    cluster.rolled_out("deploy/web");
    cluster.wait_for("deploy/web", ".status.readyReplicas", "4");
    let told =
        cluster.refused(&["scale", "deploy/web", "--current-replicas=9", "--replicas=1"], "");
    assert!(told.contains("Expected replicas to be 9, was 4"), "{told}");
}

#[test]
fn run_expose_and_logs_reach_pods() {
    let cluster = Cluster::with_agents(1);
    cluster.ok(&[
        "run",
        "echo",
        "--image=coracle.dev/samples/toolbox:v1",
        "--restart=Never",
        "--",
        "echo",
        "hello",
        "from a pod",
    ]);
    cluster.wait_for("pod/echo", ".status.phase", "Succeeded");
    assert_eq!(cluster.ok(&["logs", "echo"]), "hello from a pod\n");
    let stamped = cluster.ok(&["logs", "echo", "--timestamps"]);
    let (time, line) = stamped.split_once(' ').expect("a timestamp");
    assert!(time.ends_with('Z') && time.contains('T'), "{stamped}");
    assert_eq!(line, "hello from a pod\n");
    assert_eq!(cluster.ok(&["logs", "echo", "-c", "echo", "--tail=1"]), "hello from a pod\n");
    let told = cluster.refused(&["logs", "echo", "-c", "other"], "");
    assert!(told.contains("container other is not valid for pod echo"), "{told}");
    let told = cluster.refused(&["logs", "echo", "--previous"], "");
    assert!(told.contains("previous terminated container \"echo\" in pod \"echo\" not found"));

    cluster.apply(WEB);
    cluster.rolled_out("deploy/web");
    cluster.ok(&["expose", "deploy", "web", "--port=80", "--target-port=8080", "--type=NodePort"]);
    let port = cluster.ok(&["get", "svc", "web", "-o", "jsonpath={.spec.ports[0].nodePort}"]);
    eventually("the NodePort answers", || {
        let said = http_get(port.parse().expect("a port"), "/")?;
        said.contains("Hello").then_some(())
    });
}

#[test]
fn logs_are_followed_to_their_end() {
    let cluster = Cluster::with_agents(1);
    let talker = "
apiVersion: v1
kind: Pod
metadata: {name: talker}
spec:
  restartPolicy: Never
  containers:
  - name: a
    image: coracle.dev/samples/counter-tcp:v1
    ports: [{containerPort: 7000}]
    env: [{name: COUNT_FILE, value: /data/count}]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
";
    cluster.apply(talker);
    cluster.ok(&["wait", "--for=condition=Ready", "pod/talker", "--timeout=60s"]);
    let mut follow = cluster
        .kubectl_command(&["logs", "-f", "talker"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl");
    let mut lines = BufReader::new(follow.stdout.take().expect("a pipe")).lines();
    let first = lines.next().expect("a line").expect("text");
    assert!(!first.is_empty());
    cluster.ok(&["delete", "pod", "talker", "--wait=false"]);
    let until = Instant::now() + Duration::from_secs(60);
    while lines.next().is_some() {
        assert!(Instant::now() < until, "the log ends with the pod");
    }
    assert!(follow.wait().expect("kubectl ends").success());
}

#[test]
fn nodes_are_cordoned_drained_and_tainted() {
    let cluster = Cluster::with_agents(2);
    cluster.apply(&WEB.replace("replicas: 2", "replicas: 4"));
    cluster.rolled_out("deploy/web");
    let told = cluster.ok(&["cordon", "node-0"]);
    assert_eq!(told, "node/node-0 cordoned\n");
    let nodes = cluster.ok(&["get", "nodes", "--no-headers"]);
    assert!(nodes.contains("Ready,SchedulingDisabled"), "{nodes}");
    cluster.ok(&["drain", "node-0", "--ignore-daemonsets", "--timeout=60s"]);
    cluster.rolled_out("deploy/web");
    let places = "jsonpath={.items[*].spec.nodeName}";
    let selector = "--field-selector=status.phase=Running";
    eventually("all pods are on the other node", || {
        let places = cluster.ok(&["get", "pods", "-l", "app=web", selector, "-o", places]);
        (words(&places) == ["node-1"; 4]).then_some(())
    });
    cluster.ok(&["uncordon", "node-0"]);
    cluster.ok(&["taint", "nodes", "node-1", "dedicated=db:NoSchedule"]);
    let path = "jsonpath={.spec.taints[0].key}={.spec.taints[0].value}";
    assert_eq!(cluster.ok(&["get", "node", "node-1", "-o", path]), "dedicated=db");
    cluster.ok(&["taint", "nodes", "node-1", "dedicated-"]);
    assert_eq!(cluster.ok(&["get", "node", "node-1", "-o", "jsonpath={.spec.taints}"]), "");
}

#[test]
fn explain_api_resources_and_auth_answer() {
    let cluster = Cluster::start();
    let told = cluster.ok(&["explain", "deployment.spec.template"]);
    assert!(told.contains("FIELD: template <PodTemplateSpec>"), "{told}");
    let told = cluster.ok(&["api-resources"]);
    let pods = told.lines().find(|l| l.starts_with("pods ")).expect("pods");
    assert_eq!(words(pods), ["pods", "po", "v1", "true", "Pod"]);
    let told = cluster.ok(&["api-resources", "--api-group=apps", "--verbs=list", "-o", "name"]);
    assert!(told.contains("deployments.apps"), "{told}");
    let told = cluster.ok(&["api-versions"]);
    assert!(told.lines().any(|l| l == "apps/v1") && told.lines().any(|l| l == "v1"), "{told}");
    assert_eq!(cluster.ok(&["auth", "can-i", "create", "pods"]), "yes\n");
    let told = cluster.refused(&["auth", "can-i", "create", "pods", "--as=nobody"], "");
    assert!(told.starts_with("no"), "{told}");
    let account = "--as=system:serviceaccount:default:default";
    let told = cluster.refused(&["get", "secrets", account], "");
    assert!(told.contains("Error from server (Forbidden): secrets is forbidden: User"), "{told}");
    let told = cluster.ok(&["auth", "whoami"]);
    assert!(told.contains("coracle-admin") && told.contains("system:masters"), "{told}");
    let told = cluster.ok(&["version"]);
    assert!(told.contains("Server Version: v1."), "{told}");
    cluster.ok(&["cluster-info"]);
}

#[test]
fn delete_by_selector_and_collection_leaves_nothing() {
    let cluster = Cluster::with_agents(1);
    cluster.apply(WEB);
    cluster.rolled_out("deploy/web");
    cluster.ok(&["create", "ns", "team"]);
    cluster.ok_with(&["apply", "-n", "team", "-f", "-"], WEB);
    cluster.ok(&["delete", "deploy", "-l", "app=web", "--cascade=foreground", "--timeout=60s"]);
    assert_eq!(cluster.ok(&["get", "pods", "-o", "name"]), "");
    cluster.ok(&["delete", "ns", "team", "--timeout=80s"]);
    assert_eq!(cluster.ok(&["get", "pods", "-A", "-o", "name"]), "");
    cluster.apply(WEB);
    cluster.rolled_out("deploy/web");
    let told = cluster.ok(&["delete", "deploy", "web", "--cascade=orphan"]);
    assert!(told.contains("deleted"), "{told}");
    let sets = cluster.ok(&["get", "rs", "-o", "name"]);
    assert_eq!(sets.lines().count(), 1, "orphaned, not deleted: {sets}");
    cluster.ok(&["delete", "rs", "--all", "--timeout=60s"]);
    cluster.ok(&["delete", "pods", "--all", "--grace-period=0", "--force", "--timeout=60s"]);
}

/// One GET through a port of this machine; `None` while nothing answers.
fn http_get(port: u16, path: &str) -> Option<String> {
    use std::io::{Read, Write};
    let address = ([127, 0, 0, 1], port).into();
    let mut stream = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").ok()?;
    let mut said = String::new();
    stream.read_to_string(&mut said).ok()?;
    Some(said)
}
