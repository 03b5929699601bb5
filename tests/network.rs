//! The virtual network as pods see it: addresses, names, Services, other nodes, the API server.

mod common;

use common::{Cluster, Told, eventually};

/// Runs an applet in a pod of its own and answers what it printed.
fn tool(cluster: &Cluster, name: &str, args: &[&str]) -> Told {
    let args = serde_json::to_string(args).expect("JSON");
    cluster.apply(&format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: Never
  containers:
  - {{name: a, image: \"coracle.dev/samples/toolbox:v1\", args: {args}}}
"
    ));
    let path = "jsonpath={.status.containerStatuses[0].state.terminated.exitCode}";
    let pod = format!("pod/{name}");
    let code = eventually(&format!("{name} ends"), || {
        cluster.kubectl(&["get", &pod, "-o", path]).text.trim().parse::<i32>().ok()
    });
    let text = cluster.ok(&["logs", name]);
    cluster.ok(&["delete", "pod", name, "--now"]);
    Told { succeeded: code == 0, code: Some(code), text }
}

const PAIR: &str = "
apiVersion: v1
kind: Pod
metadata: {name: handler, labels: {app: handler}}
spec:
  containers:
  - name: a
    image: coracle.dev/samples/hello-http:v1
    ports: [{containerPort: 8080}]
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: sockets, labels: {app: sockets}}
spec:
  containers:
  - name: a
    image: coracle.dev/samples/counter-tcp:v1
    ports: [{containerPort: 8080}]
    env: [{name: PORT, value: \"8080\"}, {name: COUNT_FILE, value: /data/count}]
    volumeMounts: [{name: data, mountPath: /data}]
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
  volumes: [{name: data, emptyDir: {}}]
---
apiVersion: v1
kind: Service
metadata: {name: handler}
spec: {selector: {app: handler}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: sockets}
spec: {selector: {app: sockets}, ports: [{port: 7000, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, selector: {app: sockets}, ports: [{port: 7000, targetPort: 8080}]}
";

fn ip(cluster: &Cluster, pod: &str) -> String {
    cluster.ok(&["get", pod, "-o", "jsonpath={.status.podIP}"])
}

#[test]
fn two_pods_on_one_port_are_each_reached_by_address_and_service() {
    let cluster = Cluster::with_agents(1);
    cluster.apply(PAIR);
    cluster.ok(&["wait", "--for=condition=Ready", "pod/handler", "pod/sockets", "--timeout=80s"]);
    let (handler, sockets) = (ip(&cluster, "pod/handler"), ip(&cluster, "pod/sockets"));
    assert_ne!(handler, sockets);
    let said = tool(&cluster, "t1", &["wget", &format!("http://{handler}:8080/")]);
    assert!(said.succeeded && said.text.contains("Hello"), "{}", said.text);
    let said = tool(&cluster, "t2", &["nc", &sockets, "8080", "incr 5"]);
    assert!(said.succeeded && said.text.contains('5'), "{}", said.text);
    let said = tool(&cluster, "t3", &["wget", "http://handler/"]);
    assert!(said.succeeded && said.text.contains("Hello"), "{}", said.text);
    let said = tool(&cluster, "t4", &["nc", "sockets.default", "7000", "get"]);
    assert!(said.succeeded && said.text.contains('5'), "{}", said.text);
    for (name, host) in [("t5", "127.0.0.1"), ("t6", "localhost")] {
        let said = tool(&cluster, name, &["nc", "-z", host, "8080"]);
        assert!(!said.succeeded, "a third pod's loopback is its own: {}", said.text);
    }
    let cluster_ip = cluster.ok(&["get", "svc", "sockets", "-o", "jsonpath={.spec.clusterIP}"]);
    for (name, asked, wanted) in [
        ("n1", "sockets", cluster_ip.as_str()),
        ("n2", "sockets.default", &cluster_ip),
        ("n3", "sockets.default.svc.cluster.local", &cluster_ip),
        ("n4", "headless", &sockets),
        ("n5", "kubernetes.default.svc", "10.43.0.1"),
    ] {
        let said = tool(&cluster, name, &["nslookup", asked]);
        assert!(said.succeeded && said.text.contains(wanted), "{asked}: {}", said.text);
    }
    let said = tool(&cluster, "n6", &["nslookup", "nobody.default"]);
    assert!(!said.succeeded, "{}", said.text);
}

const ECHO: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: echo}
spec:
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      containers:
      - name: a
        image: coracle.dev/samples/udp-echo:v1
        ports: [{containerPort: 7007, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  type: NodePort
  selector: {app: echo}
  ports: [{port: 53, targetPort: 7007, protocol: UDP}]
";

#[test]
fn datagrams_reach_pods_by_address_service_node_port_and_across_nodes() {
    let mut cluster = Cluster::start();
    cluster.start_agent(0);
    cluster.agents_get(&["--host-address", "127.0.0.2"]);
    cluster.start_agent(1);
    cluster.wait_for_nodes(2);
    cluster.apply(ECHO);
    cluster.wait_for("ds/echo", ".status.numberReady", "2");
    let pods = cluster.ok(&["get", "pods", "-l", "app=echo", "-o", "jsonpath={..podIP}"]);
    let pods: Vec<&str> = pods.split_whitespace().collect();
    assert_eq!(pods.len(), 2);
    // One of the two lies on the other node, wherever the tool runs.
    for (index, ip) in pods.into_iter().enumerate() {
        let said = tool(&cluster, &format!("p{index}"), &["nc", "-u", ip, "7007", "to a pod"]);
        assert!(said.succeeded && said.text == "to a pod", "{ip}: {}", said.text);
    }
    let said = tool(&cluster, "s", &["nc", "-u", "echo.default.svc", "53", "to a Service"]);
    assert!(said.succeeded && said.text == "to a Service", "{}", said.text);
    let port = cluster.ok(&["get", "svc", "echo", "-o", "jsonpath={.spec.ports[0].nodePort}"]);
    for host in ["127.0.0.1", "127.0.0.2"] {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(std::time::Duration::from_secs(1))).expect("a timeout");
        let said = eventually(&format!("the node port of {host} echoes"), || {
            socket.send_to(b"to a node port", format!("{host}:{port}")).ok()?;
            let mut buffer = [0; 100];
            let (length, _) = socket.recv_from(&mut buffer).ok()?;
            Some(buffer[..length].to_vec())
        });
        assert_eq!(said, b"to a node port");
    }
}

#[test]
fn the_cluster_dns_address_answers_raw_queries_as_name_lookup_does() {
    let cluster = Cluster::with_agents(1);
    cluster.apply(PAIR);
    cluster.ok(&["wait", "--for=condition=Ready", "pod/handler", "pod/sockets", "--timeout=80s"]);
    let resolver = cluster.ok(&["get", "svc", "-n", "kube-system", "kube-dns", "-o", IP]);
    let resolver = resolver.trim();
    let service = cluster.ok(&["get", "svc", "sockets", "-o", IP]);
    for (name, asked, wanted) in [
        ("r1", "sockets.default.svc.cluster.local", service.as_str()),
        ("r2", "headless.default.svc.cluster.local", &ip(&cluster, "pod/sockets")),
        ("r3", "kubernetes.default.svc.cluster.local", "10.43.0.1"),
    ] {
        let raw = tool(&cluster, name, &["nslookup", asked, resolver]);
        assert!(raw.succeeded && raw.text.contains(wanted), "{asked}: {}", raw.text);
        let looked_up = tool(&cluster, &format!("{name}-lookup"), &["nslookup", asked]);
        assert_eq!(raw.text, looked_up.text);
    }
    let said = tool(&cluster, "r4", &["nslookup", "nobody.default.svc.cluster.local", resolver]);
    assert!(!said.succeeded && said.text.contains("NXDOMAIN"), "{}", said.text);
}

const IP: &str = "jsonpath={.spec.clusterIP}";

#[test]
fn no_host_socket_stands_behind_a_pod_address() {
    let cluster = Cluster::with_agents(1);
    let before = listening(&cluster);
    cluster.apply(PAIR);
    cluster.ok(&["wait", "--for=condition=Ready", "pod/handler", "pod/sockets", "--timeout=80s"]);
    assert_eq!(listening(&cluster), before, "pods opened sockets of the host");
    assert!(before.len() >= 2, "the kubelet API and the node link: {before:?}");
    cluster.ok(&["patch", "svc", "handler", "-p", r#"{"spec":{"type":"NodePort"}}"#]);
    eventually("the node port is open", || {
        (listening(&cluster).len() == before.len() + 1).then_some(())
    });
}

/// The sockets on which the agent's process listens.
fn listening(cluster: &Cluster) -> Vec<String> {
    let shown = std::process::Command::new("ss").args(["-Hltunp"]).output().expect("ss");
    let own = format!("pid={},", cluster.agent_pid(0));
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    let lines = text.lines().filter(|line| line.contains(&own));
    let mut found: Vec<String> =
        lines.filter_map(|l| l.split_whitespace().nth(4)).map(str::to_owned).collect();
    found.sort();
    found
}

#[test]
fn a_service_spreads_over_the_pods_of_both_nodes() {
    let mut cluster = Cluster::start();
    cluster.start_agent(0);
    // Two workers of one machine: each opens its host ports on an address of its own.
    cluster.agents_get(&["--host-address", "127.0.0.2"]);
    cluster.start_agent(1);
    cluster.wait_for_nodes(2);
    cluster.apply(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {name: hello}
spec:
  replicas: 4
  selector: {matchLabels: {app: hello}}
  template:
    metadata: {labels: {app: hello}}
    spec:
      containers:
      - name: a
        image: coracle.dev/samples/hello-http:v1
        ports: [{containerPort: 8080}]
        env: [{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
---
apiVersion: v1
kind: Service
metadata: {name: hello}
spec: {type: NodePort, selector: {app: hello}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: greeter}
spec:
  replicas: 2
  selector: {matchLabels: {app: greeter}}
  template:
    metadata: {labels: {app: greeter}}
    spec:
      containers:
      - name: a
        image: coracle.dev/samples/greeter:v1
        env: [{name: TARGET, value: \"http://hello/\"}]
",
    );
    cluster.rolled_out("deploy/hello");
    cluster.rolled_out("deploy/greeter");
    let nodes = cluster.ok(&["get", "pods", "-l", "app=hello", "-o", "jsonpath={..nodeName}"]);
    assert!(nodes.contains("node-0") && nodes.contains("node-1"), "spread: {nodes}");
    let port = cluster.ok(&["get", "svc", "hello", "-o", "jsonpath={.spec.ports[0].nodePort}"]);
    let pods = cluster.ok(&["get", "pods", "-l", "app=hello", "-o", "jsonpath={..metadata.name}"]);
    let pods: Vec<&str> = pods.split_whitespace().collect();
    for host in ["127.0.0.1", "127.0.0.2"] {
        let mut answered = std::collections::BTreeMap::<&str, usize>::new();
        eventually("the node port answers", || http_get(host, &port, "/").map(|_| ()));
        for _ in 0..40 {
            let said = http_get(host, &port, "/").expect("an answer");
            let pod = pods.iter().find(|pod| said.contains(*pod)).expect("a pod's name");
            *answered.entry(pod).or_default() += 1;
        }
        assert_eq!(answered.len(), 4, "through {host}: {answered:?}");
        assert!(answered.values().all(|count| *count >= 5), "evenly, {host}: {answered:?}");
    }
    let greeter = cluster.ok(&["get", "pods", "-l", "app=greeter", "-o", "jsonpath={..podIP}"]);
    for (index, ip) in greeter.split_whitespace().enumerate() {
        let said = tool(&cluster, &format!("g{index}"), &["wget", &format!("http://{ip}:8080/")]);
        assert!(said.succeeded && said.text.contains("Hello"), "{ip}: {}", said.text);
    }
}

#[test]
fn a_guest_reaches_the_api_server_with_its_mounted_token() {
    let cluster = Cluster::with_agents(1);
    let file = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    cluster.apply(&format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: holder}}
spec:
  restartPolicy: Never
  containers:
  - {{name: a, image: \"coracle.dev/samples/toolbox:v1\", args: [cat, {file}]}}
  - {{name: b, image: \"coracle.dev/samples/toolbox:v1\", args: [sleep, inf]}}
"
    ));
    let token = eventually("the token is mounted", || {
        let said = cluster.kubectl(&["logs", "holder", "-c", "a"]);
        (said.succeeded && said.text.split('.').count() == 3).then_some(said.text)
    });
    let bearer = format!("Authorization: Bearer {token}");
    let url = "https://kubernetes.default/api/v1/namespaces/default/pods";
    let said = tool(&cluster, "denied", &["wget", "--header", &bearer, url]);
    assert!(!said.succeeded && said.text.contains("403"), "{}", said.text);
    cluster.apply(
        "
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: views}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{kind: ServiceAccount, name: default, namespace: default}]
",
    );
    let said = eventually("the role counts", || {
        let name = format!("allowed-{}", rand());
        let said = tool(&cluster, &name, &["wget", "--header", &bearer, url]);
        said.succeeded.then_some(said.text)
    });
    assert!(said.contains("\"kind\":\"PodList\""), "{said}");
    let said = tool(&cluster, "anonymous", &["wget", url]);
    assert!(!said.succeeded && said.text.contains("403"), "{}", said.text);
    let wrong = tool(&cluster, "wrong", &["wget", "--header", &format!("{bearer}x"), url]);
    assert!(!wrong.succeeded && wrong.text.contains("401"), "{}", wrong.text);
}

fn rand() -> u128 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("after 1970").as_millis() % 1_000_000
}

fn http_get(host: &str, port: &str, path: &str) -> Option<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(format!("{host}:{port}")).ok()?;
    stream.set_read_timeout(Some(std::time::Duration::from_secs(10))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").ok()?;
    let mut said = String::new();
    stream.read_to_string(&mut said).ok()?;
    said.starts_with("HTTP/1.1 200").then_some(said)
}
