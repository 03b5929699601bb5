//! What becomes of pods on a real node: starts, ends, limits, probes, volumes, crashes.

mod common;

use common::{Cluster, eventually};

fn pod(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n{spec}\n")
}

fn get(cluster: &Cluster, object: &str, path: &str) -> String {
    cluster.kubectl(&["get", object, "-o", &format!("jsonpath={{{path}}}")]).text
}

#[test]
fn a_program_reads_its_config_and_its_exit_code_is_told() {
    let cluster = Cluster::with_agents(1);
    cluster.apply(
        "
apiVersion: v1
kind: ConfigMap
metadata: {name: batch}
data: {config: \"limit = 1000\\noutput = /out/result\\nexit = 7\\n\"}
",
    );
    cluster.apply(&pod(
        "batch",
        "
  restartPolicy: Never
  volumes:
  - {name: config, configMap: {name: batch}}
  - {name: out, emptyDir: {}}
  containers:
  - name: batch
    image: coracle.dev/samples/batch:v1
    volumeMounts: [{name: config, mountPath: /etc/batch}, {name: out, mountPath: /out}]
  - name: reader
    image: coracle.dev/samples/toolbox:v1
    args: [sleep, inf]
    volumeMounts: [{name: out, mountPath: /out, readOnly: true}]
",
    ));
    let state = ".status.containerStatuses[?(@.name==\"batch\")].state.terminated";
    cluster.wait_for("pod/batch", &format!("{state}.exitCode"), "7");
    assert_eq!(get(&cluster, "pod/batch", &format!("{state}.reason")), "Error");
    cluster.wait_for("pod/batch", ".status.phase", "Running");
}

#[test]
fn init_containers_run_in_order_and_hand_files_on() {
    let cluster = Cluster::with_agents(1);
    cluster.apply(&pod(
        "ordered",
        "
  restartPolicy: Never
  volumes: [{name: work, emptyDir: {}}]
  initContainers:
  - name: first
    image: coracle.dev/samples/toolbox:v1
    args: [wget, -O, /work/page, \"https://kubernetes.default/version\"]
    volumeMounts: [{name: work, mountPath: /work}]
  - name: second
    image: coracle.dev/samples/toolbox:v1
    args: [cat, /work/page]
    volumeMounts: [{name: work, mountPath: /work}]
  containers:
  - name: main
    image: coracle.dev/samples/toolbox:v1
    args: [ls, /work]
    volumeMounts: [{name: work, mountPath: /work}]
",
    ));
    cluster.wait_for("pod/ordered", ".status.phase", "Succeeded");
    assert!(cluster.ok(&["logs", "ordered", "-c", "second"]).contains("gitVersion"));
    assert_eq!(cluster.ok(&["logs", "ordered", "-c", "main"]), "page\n");
    let ends =
        get(&cluster, "pod/ordered", ".status.initContainerStatuses[*].state.terminated.reason");
    assert_eq!(ends, "Completed Completed");
}

#[test]
fn a_crashing_container_backs_off_and_its_last_log_stays() {
    let cluster = Cluster::with_agents(1);
    cluster.apply(&pod(
        "crasher",
        "
  containers:
  - name: a
    image: coracle.dev/samples/toolbox:v1
    args: [cat, /no/such/file]
",
    ));
    let waiting = ".status.containerStatuses[0].state.waiting.reason";
    cluster.wait_for("pod/crasher", waiting, "CrashLoopBackOff");
    let told = cluster.ok(&["events", "--for", "pod/crasher"]);
    assert!(told.contains("BackOff") && told.contains("restarting failed container"), "{told}");
    let previous = cluster.ok(&["logs", "crasher", "--previous"]);
    assert!(previous.contains("/no/such/file"), "{previous}");
    let table = cluster.ok(&["get", "pod", "crasher", "--no-headers"]);
    assert!(table.contains("CrashLoopBackOff"), "{table}");
}

#[test]
fn memory_past_the_limit_ends_only_that_container() {
    let cluster = Cluster::with_agents(1);
    cluster.apply(&pod(
        "hog",
        "
  restartPolicy: Never
  containers:
  - name: hog
    image: coracle.dev/samples/memhog:v1
    resources: {limits: {memory: 64Mi}}
",
    ));
    cluster.apply(&pod(
        "neighbour",
        "
  containers:
  - {name: web, image: \"coracle.dev/samples/hello-http:v1\"}
",
    ));
    let end = ".status.containerStatuses[0].state.terminated";
    cluster.wait_for("pod/hog", &format!("{end}.reason"), "OOMKilled");
    assert_eq!(get(&cluster, "pod/hog", &format!("{end}.exitCode")), "137");
    cluster.wait_for("pod/neighbour", ".status.phase", "Running");
    assert_eq!(get(&cluster, "pod/neighbour", ".status.containerStatuses[0].restartCount"), "0");
}

#[test]
fn probes_decide_who_is_ready_and_who_is_restarted() {
    let cluster = Cluster::with_agents(1);
    cluster.apply(&pod(
        "probed",
        "
  containers:
  - name: good
    image: coracle.dev/samples/hello-http:v1
    ports: [{containerPort: 8080}]
    readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
    livenessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
    startupProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
",
    ));
    cluster.apply(&pod(
        "unready",
        "
  containers:
  - name: a
    image: coracle.dev/samples/hello-http:v1
    ports: [{containerPort: 8080}]
    readinessProbe: {httpGet: {path: /status/500, port: 8080}, periodSeconds: 1}
",
    ));
    cluster.apply(&pod(
        "sick",
        "
  containers:
  - name: a
    image: coracle.dev/samples/toolbox:v1
    args: [sleep, inf]
    livenessProbe: {exec: {command: [cat, /gone]}, periodSeconds: 1, failureThreshold: 1}
",
    ));
    cluster.ok(&["wait", "--for=condition=Ready", "pod/probed", "--timeout=80s"]);
    eventually("the sick container is restarted", || {
        let count = get(&cluster, "pod/sick", ".status.containerStatuses[0].restartCount");
        (count.parse::<u32>().unwrap_or(0) > 0).then_some(())
    });
    let told = cluster.ok(&["events", "--for", "pod/sick"]);
    assert!(told.contains("Unhealthy") && told.contains("Killing"), "{told}");
    assert_eq!(get(&cluster, "pod/unready", ".status.containerStatuses[0].ready"), "false");
    let told = cluster.ok(&["events", "--for", "pod/unready"]);
    assert!(told.contains("Readiness probe failed"), "{told}");
    assert_eq!(get(&cluster, "pod/probed", ".status.containerStatuses[0].restartCount"), "0");
}

#[test]
fn volumes_and_environment_are_what_the_spec_names() {
    let cluster = Cluster::with_agents(1);
    cluster.apply(
        "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue, size: large}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {password: hunter2}
",
    );
    cluster.apply(&pod(
        "env",
        "
  restartPolicy: Never
  containers:
  - name: a
    image: coracle.dev/samples/toolbox:v1
    args: [env]
    envFrom: [{configMapRef: {name: settings}, prefix: CM_}]
    env:
    - {name: PLAIN, value: one}
    - {name: JOINED, value: $(PLAIN)-two}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: keys, key: password}}}
    - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
    resources: {limits: {cpu: \"1\"}}
",
    ));
    cluster.wait_for("pod/env", ".status.phase", "Succeeded");
    let said = cluster.ok(&["logs", "env"]);
    let lines: Vec<&str> = said.lines().collect();
    for wanted in
        ["CM_colour=blue", "CM_size=large", "JOINED=one-two", "PASSWORD=hunter2", "POD_NAME=env"]
    {
        assert!(lines.contains(&wanted), "{wanted}: {said}");
    }
    assert!(lines.contains(&"CPU=1") && said.contains("POD_IP=10.128."), "{said}");
    assert!(!said.contains("HOME=/root"), "nothing of the host: {said}");
    cluster.apply(&pod(
        "files",
        "
  restartPolicy: Never
  volumes:
  - name: all
    projected:
      sources:
      - {configMap: {name: settings, items: [{key: colour, path: c/colour}]}}
      - {secret: {name: keys}}
      - {downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}
  containers:
  - name: a
    image: coracle.dev/samples/toolbox:v1
    args: [cat, /all/c/colour, /all/password, /all/name]
    volumeMounts: [{name: all, mountPath: /all}]
  - name: one
    image: coracle.dev/samples/toolbox:v1
    args: [cat, /etc/only]
    volumeMounts: [{name: all, mountPath: /etc/only, subPath: password}]
  - name: token
    image: coracle.dev/samples/toolbox:v1
    args: [cat, /var/run/secrets/kubernetes.io/serviceaccount/namespace]
",
    ));
    cluster.wait_for("pod/files", ".status.phase", "Succeeded");
    assert_eq!(cluster.ok(&["logs", "files", "-c", "a"]), "bluehunter2files");
    assert_eq!(cluster.ok(&["logs", "files", "-c", "one"]), "hunter2");
    assert_eq!(cluster.ok(&["logs", "files", "-c", "token"]), "default");
}

#[test]
fn a_killed_agent_finds_its_pods_and_says_what_died() {
    let mut cluster = Cluster::with_agents(1);
    cluster.apply(&pod(
        "web",
        "
  containers:
  - {name: web, image: \"coracle.dev/samples/hello-http:v1\"}
",
    ));
    cluster.ok(&["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"]);
    cluster.kill_agent(0);
    cluster.start_agent(0);
    cluster.wait_for("pod/web", ".status.containerStatuses[0].restartCount", "1");
    let last = ".status.containerStatuses[0].lastState.terminated.exitCode";
    assert_eq!(get(&cluster, "pod/web", last), "137");
    cluster.ok(&["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"]);
}
