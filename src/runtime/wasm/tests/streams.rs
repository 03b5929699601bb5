//! exec and attach with a client's streams.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::runtime::{ExecError, StdioSpec, Streams};

/// The client's ends of its streams.
struct Client {
    stdin: DuplexStream,
    stdout: DuplexStream,
    stderr: DuplexStream,
}

fn client(tty: bool) -> (Client, Streams) {
    let ((stdin, theirs_in), (stdout, theirs_out), (stderr, theirs_err)) =
        (tokio::io::duplex(100), tokio::io::duplex(100), tokio::io::duplex(100));
    let streams = Streams {
        stdin: Some(Box::new(theirs_in)),
        stdout: Some(Box::new(theirs_out)),
        stderr: (!tty).then(|| Box::new(theirs_err) as _),
        tty,
    };
    (Client { stdin, stdout, stderr }, streams)
}

async fn all(stream: &mut DuplexStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("text");
    text
}

async fn line(stream: &mut DuplexStream) -> String {
    let mut text = Vec::new();
    while text.last() != Some(&b'\n') {
        text.push(stream.read_u8().await.expect("a byte"));
    }
    String::from_utf8(text).expect("text")
}

async fn sleeper(node: &Node) -> Workload {
    let (mut spec, _) = node.sample("toolbox");
    spec.args = args(&["sleep", "inf"]);
    spec.mounts = vec![mount(node.mkdir("data"), "/data", false)];
    node.start(spec).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exec_reads_what_is_typed_and_its_output_is_never_too_much() {
    let node = Node::new();
    let workload = sleeper(&node).await;
    let (mut client, streams) = client(false);
    let total = 1 << 20;
    let typing = async {
        client.stdin.write_all(&vec![b'x'; total]).await.expect("read");
        client.stdin.shutdown().await.expect("ended");
    };
    let mut out = Vec::new();
    let reading = client.stdout.read_to_end(&mut out);
    let (exit, (), read) =
        tokio::join!(workload.exec_with(args(&["cat"]), streams), typing, reading);
    read.expect("read");
    assert_eq!((exit.expect("ran").code, out.len()), (0, total));
    assert_eq!(all(&mut client.stderr).await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exec_that_is_dropped_is_ended_and_its_workload_goes_on() {
    let node = Node::new();
    let workload = sleeper(&node).await;
    let (_client, streams) = client(false);
    let exec = workload.exec_with(args(&["sleep", "inf"]), streams);
    assert!(tokio::time::timeout(Duration::from_millis(300), exec).await.is_err());
    while node.runtime.instances() > 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(workload.exit().borrow().is_none());
    let (mut client, streams) = client_without_input();
    let (error, told) =
        tokio::join!(workload.exec_with(args(&["vim"]), streams), all(&mut client.stderr));
    assert_eq!(error.expect_err("none"), ExecError::NotFound("vim".to_string()));
    assert_eq!(told, "exec: \"vim\": executable file not found in $PATH\n");
}

fn client_without_input() -> (Client, Streams) {
    let (client, streams) = client(false);
    (client, Streams { stdin: None, ..streams })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_worker_s_own_commands_see_the_files_of_the_guest() {
    let node = Node::new();
    let workload = sleeper(&node).await;
    std::fs::write(node.mkdir("data").join("file"), "content").expect("written");
    let code = async |words: &[&str]| workload.exec(args(words)).await.expect("ran").code;
    assert_eq!(code(&["test", "-d", "/data"]).await, 0);
    assert_eq!(code(&["test", "-d", "/data/file"]).await, 1);
    assert_eq!(code(&["[", "-f", "/data/file", "]"]).await, 0);
    assert_eq!(code(&["test", "-e", "/etc/passwd"]).await, 1);
    assert_eq!(code(&["sh", "-c", "test -f '/data/file'"]).await, 0);
    let refused = workload.exec(args(&["sh", "-c", "a && b"])).await.expect("ran");
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.code == 2 && told.contains("needs a shell"), "{told}");
    let (mut client, streams) = client_without_input();
    let mut packed = Vec::new();
    let (exit, read) = tokio::join!(
        workload.exec_with(args(&["tar", "cf", "-", "/data/file"]), streams),
        client.stdout.read_to_end(&mut packed)
    );
    read.expect("read");
    assert_eq!(exit.expect("ran").code, 0);
    let (mut client, streams) = self::client(false);
    let typing = async {
        client.stdin.write_all(&packed).await.expect("read");
        client.stdin.shutdown().await.expect("ended");
    };
    let unpack = args(&["tar", "-xmf", "-", "-C", "/data/copy"]);
    let (exit, ()) = tokio::join!(workload.exec_with(unpack, streams), typing);
    assert_eq!(exit.expect("ran").code, 0);
    let copy = node.mkdir("data").join("copy/data/file");
    assert_eq!(std::fs::read_to_string(copy).expect("there"), "content");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_echoes_corrects_and_interrupts() {
    let node = Node::new();
    let workload = sleeper(&node).await;
    let (mut client, streams) = client(true);
    let session = async {
        client.stdin.write_all(b"tipo\x7f\x7f\x7f").await.expect("typed");
        client.stdin.write_all(b"ypo\r").await.expect("typed");
        let echoed = line(&mut client.stdout).await;
        let answered = line(&mut client.stdout).await;
        client.stdin.write_all(b"\x03").await.expect("typed");
        (echoed, answered, all(&mut client.stdout).await)
    };
    let (exit, (echoed, answered, rest)) =
        tokio::join!(workload.exec_with(args(&["cat"]), streams), session);
    assert!(echoed.starts_with("tipo") && echoed.ends_with("ypo\r\n"), "{echoed:?}");
    assert_eq!(answered, "typo\r\n");
    assert_eq!((exit.expect("ran").code, rest.as_str()), (130, "^C\r\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_attaches_types_to_the_workload_and_sees_what_it_prints() {
    let node = Node::new();
    let (mut spec, log) = node.sample("toolbox");
    spec.args = args(&["cat"]);
    spec.stdio = StdioSpec { stdin: true, stdin_once: false, tty: false };
    let workload = node.start(spec).await;
    for word in ["first\n", "second\n"] {
        let (mut client, streams) = client(false);
        let session = async {
            client.stdin.write_all(word.as_bytes()).await.expect("typed");
            client.stdin.shutdown().await.expect("ended");
            line(&mut client.stdout).await
        };
        // It goes after the answer: the workload's input goes on.
        tokio::select! {
            _ = workload.attach(streams) => panic!("it ended"),
            told = session => assert_eq!(told, word),
        }
    }
    assert_eq!(log.text(), "first\nsecond\n");
    workload.terminate(PATIENCE);
    assert_eq!(wait(&workload).await.code, 0);
    let (_client, streams) = client(false);
    assert_eq!(workload.attach(streams).await.expect_err("over"), ExecError::NotRunning);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_that_comes_once_ends_with_its_first_client() {
    let node = Node::new();
    let (mut spec, _) = node.sample("toolbox");
    spec.args = args(&["cat"]);
    spec.stdio = StdioSpec { stdin: true, stdin_once: true, tty: false };
    let workload = node.start(spec).await;
    let (mut client, streams) = client(false);
    let session = async {
        client.stdin.write_all(b"all").await.expect("typed");
        client.stdin.shutdown().await.expect("ended");
        all(&mut client.stdout).await
    };
    let (exit, told) = tokio::join!(workload.attach(streams), session);
    assert_eq!((exit.expect("ended").code, told.as_str()), (0, "all"));
}
