//! Programs: files, memory, time, ends.

use std::fs;
use std::time::Duration;

use super::*;
use crate::runtime::{ExecError, ExitReason};

#[tokio::test]
async fn a_job_reads_its_config_writes_its_result_and_exits_as_it_was_told() {
    let node = Node::new();
    let (mut spec, log) = node.sample("batch");
    let config = node.dir.path().join("config");
    fs::write(&config, "limit=100\noutput=/out/result\nexit=200\n").expect("written");
    let out = node.mkdir("out");
    spec.mounts = vec![mount(config, "/etc/batch/config", true), mount(out.clone(), "/out", false)];
    let exit = node.run(spec).await;
    assert_eq!((exit.code, exit.reason), (200, ExitReason::Error), "{}", log.text());
    assert_eq!(fs::read_to_string(out.join("result")).expect("written"), "25 primes up to 100\n");
    assert_eq!(log.text(), "25 primes up to 100\n");
}

#[tokio::test]
async fn the_root_shows_the_mounts_and_only_them() {
    let node = Node::new();
    let data = node.mkdir("data");
    fs::write(data.join("a file"), "x").expect("written");
    let list = async |words: &[&str]| {
        let (mut spec, log) = node.sample("toolbox");
        spec.args = args(words);
        spec.mounts =
            vec![mount(data.clone(), "/srv/data", true), mount(node.mkdir("tmp"), "/tmp", false)];
        (node.run(spec).await.code, log.text())
    };
    assert_eq!(list(&["ls", "/"]).await, (0, "srv\ntmp\n".to_string()));
    assert_eq!(list(&["ls", "/srv/data"]).await, (0, "a file\n".to_string()));
    let (code, said) = list(&["cat", "/etc/passwd"]).await;
    assert_eq!((code, said.as_str()), (1, "cat: /etc/passwd: No such file or directory\n"));
    let (code, said) = list(&["cat", "/srv/data/../../../etc/passwd"]).await;
    assert_eq!(code, 1, "{said}");
}

#[tokio::test]
async fn growth_past_the_limit_is_oomkilled_and_the_neighbour_never_notices() {
    let node = Node::new();
    let (mut hog, log) = node.sample("memhog");
    hog.limits.memory_bytes_max = Some(32 << 20);
    let (mut neighbour, _) = node.sample("toolbox");
    neighbour.args = args(&["sleep", "inf"]);
    let neighbour = node.start(neighbour).await;
    let hog = node.start(hog).await;
    let exit = wait(&hog).await;
    assert_eq!((exit.code, exit.reason), (137, ExitReason::OomKilled), "{}", log.text());
    assert!(log.text().contains("holding 16 MiB"), "{}", log.text());
    assert_eq!(hog.stats().memory_bytes, 0, "all was returned");
    assert!(neighbour.exit().borrow().is_none());

    let (mut fits, log) = node.sample("memhog");
    fits.limits.memory_bytes_max = Some(32 << 20);
    env(&mut fits, "MEMHOG_MIB", "16");
    assert_eq!(node.run(fits).await.code, 0, "{}", log.text());
}

#[tokio::test]
async fn a_trap_is_134_with_the_functions_it_was_in() {
    let node = Node::new();
    let module = wat(
        r#"(module (func $inner unreachable) (func (export "_start") call $inner) (memory (export "memory") 1))"#,
    );
    let (spec, _) = node.spec("trap", &module);
    let exit = node.run(spec).await;
    assert_eq!((exit.code, exit.reason), (134, ExitReason::Error));
    assert!(exit.message.contains("unreachable"), "{}", exit.message);
    assert!(exit.message.contains("inner"), "{}", exit.message);
}

#[tokio::test]
async fn every_exit_code_of_a_core_module_arrives() {
    let node = Node::new();
    for code in [0, 1, 126, 255] {
        let module = wat(&format!(
            r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
                (func (export "_start") (call $exit (i32.const {code})))
                (memory (export "memory") 1))"#
        ));
        let (spec, _) = node.spec("exit", &module);
        assert_eq!(node.run(spec).await.code, code);
    }
}

#[tokio::test]
async fn a_program_that_cannot_learn_of_its_end_is_ended_at_once() {
    let node = Node::new();
    let (mut spec, _) = node.sample("toolbox");
    spec.args = args(&["sleep", "inf"]);
    let workload = node.start(spec).await;
    workload.terminate(Duration::from_secs(3600));
    let exit = wait(&workload).await;
    assert_eq!((exit.code, exit.reason), (143, ExitReason::Error));
}

#[tokio::test]
async fn a_program_that_reads_its_input_ends_by_itself_when_asked() {
    let node = Node::new();
    let (mut spec, log) = node.sample("toolbox");
    spec.args = args(&["cat"]);
    let workload = node.start(spec).await;
    // It has read once it is blocked; until then it would count as one that does not.
    while !workload.reads_stdin() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    workload.terminate(Duration::from_secs(3600));
    assert_eq!(wait(&workload).await.code, 0, "{}", log.text());
}

#[tokio::test]
async fn a_busy_loop_is_killed_when_its_grace_is_over() {
    let node = Node::new();
    // Reads its input and then never ends, whatever it is told.
    let module = wat(r#"(module
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "\10\00\00\00\01\00\00\00")
            (func (export "_start")
                (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
                (loop br 0)))"#);
    let (spec, log) = node.spec("stubborn", &module);
    let workload = node.start(spec).await;
    while !workload.reads_stdin() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    workload.terminate(Duration::from_millis(50));
    let exit = wait(&workload).await;
    assert_eq!((exit.code, exit.reason), (137, ExitReason::Error), "{}", log.text());
}

#[tokio::test]
async fn spinning_guests_leave_room_for_others_and_die_when_killed() {
    let node = Node::new();
    let mut spinning = Vec::new();
    for _ in 0..8 {
        spinning.push(node.start(node.sample("spin").0).await);
    }
    let (mut spec, _) = node.sample("toolbox");
    spec.args = args(&["true"]);
    assert_eq!(node.run(spec).await.code, 0);
    for workload in &spinning {
        workload.kill();
        assert_eq!(wait(workload).await.code, 137);
    }
    assert_eq!(node.runtime.instances(), 0);
}

#[tokio::test]
async fn exec_runs_applets_in_the_context_of_the_workload() {
    let node = Node::new();
    let (mut spec, _) = node.sample("spin");
    spec.mounts = vec![mount(node.mkdir("data"), "/data", false)];
    env(&mut spec, "COLOUR", "blue");
    let workload = node.start(spec).await;
    let result = workload.exec(args(&["/bin/env"])).await.expect("there is env");
    assert_eq!((result.code, result.stdout.as_slice()), (0, &b"COLOUR=blue\n"[..]));
    let result = workload.exec(args(&["ls", "/"])).await.expect("there is ls");
    assert_eq!(result.stdout, b"data\n");
    let result = workload.exec(args(&["false"])).await.expect("there is false");
    assert_eq!(result.code, 1);
    let missing = workload.exec(args(&["bash", "-c", "true"])).await;
    assert_eq!(missing, Err(ExecError::NotFound("bash".to_string())));
    workload.kill();
    wait(&workload).await;
    assert_eq!(workload.exec(args(&["env"])).await, Err(ExecError::NotRunning));
}

#[tokio::test]
async fn exec_of_its_own_name_is_the_image_again() {
    let node = Node::new();
    let (mut spec, _) = node.sample("toolbox");
    spec.args = args(&["/bin/toolbox", "sleep", "inf"]);
    let workload = node.start(spec).await;
    let result = workload.exec(args(&["toolbox", "echo", "again"])).await.expect("itself");
    assert_eq!(result.stdout, b"again\n");
}

#[tokio::test]
async fn a_tcp_server_keeps_its_count_in_a_volume_and_ends_when_its_listener_is_closed() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let node = Node::new();
    let data = node.mkdir("data");
    for expected in
        ["5\n6\nerror: unknown command: what\n", "11\n12\nerror: unknown command: what\n"]
    {
        let (mut spec, log) = node.sample("counter-tcp");
        spec.mounts = vec![mount(data.clone(), "/data", false)];
        let at = std::net::SocketAddr::new(spec.network.ip(), 7000);
        let workload = node.start(spec).await;
        until_logged(&log, "listening on 7000").await;
        let mut stream = node.fabric.host().connect(at).await.expect("it listens");
        stream.write_all(b"incr 5\nincr\nwhat\nquit\n").await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        assert_eq!(answer, expected);
        workload.terminate(Duration::from_secs(3600));
        assert_eq!(wait(&workload).await.code, 0, "{}", log.text());
        assert!(node.fabric.host().connect(at).await.is_err());
    }
    assert_eq!(fs::read_to_string(data.join("count")).expect("kept"), "12");
}

#[tokio::test]
async fn datagrams_come_back() {
    let node = Node::new();
    let (mut spec, log) = node.sample("udp-echo");
    env(&mut spec, "PORT", "9000");
    let at = std::net::SocketAddr::new(spec.network.ip(), 9000);
    let _workload = node.start(spec).await;
    until_logged(&log, "echoing on 9000").await;
    let client = node.namespace();
    let socket = client.bind_udp("0.0.0.0:0".parse().expect("an address")).expect("bound");
    socket.send_to(bytes::Bytes::from_static(b"ping"), at).expect("sent");
    let datagram = tokio::time::timeout(PATIENCE, socket.recv()).await;
    assert_eq!(&datagram.expect("in time").expect("open").data[..], b"ping");
}

#[tokio::test]
async fn the_tools_find_pods_by_name_and_by_address() {
    let node = Node::new();
    let (mut hello, _) = node.sample("hello-http");
    env(&mut hello, "POD_NAME", "web-1");
    let ip = hello.network.ip();
    let _hello = node.start(hello).await;
    let (mut spec, log) = node.sample("toolbox");
    spec.args = args(&["wget", "-qO-", &format!("http://{ip}:8080/")]);
    assert_eq!(node.run(spec).await.code, 0, "{}", log.text());
    assert_eq!(log.text(), "Hello from web-1\n");
    let (mut spec, log) = node.sample("toolbox");
    spec.args = args(&["nc", "-z", &ip.to_string(), "8080"]);
    assert_eq!(node.run(spec).await.code, 0, "{}", log.text());
    let (mut spec, log) = node.sample("toolbox");
    spec.args = args(&["nslookup", "localhost"]);
    assert_eq!(node.run(spec).await.code, 0, "{}", log.text());
    assert!(log.text().contains("127.0.0.1"), "{}", log.text());
    let (mut spec, log) = node.sample("toolbox");
    spec.args = args(&["nslookup", "nowhere.default.svc.cluster.local"]);
    assert_eq!(node.run(spec).await.code, 1, "{}", log.text());
}
