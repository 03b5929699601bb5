//! The demo as people run it: the real binary, its processes, its files.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// One demo at a time: each is a cluster of its own, and the checks have deadlines.
static TURN: Mutex<()> = Mutex::new(());

const UP: Duration = Duration::from_secs(240);
const DOWN: Duration = Duration::from_secs(20);

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn demo(dir: &Path, args: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_coracle"))
        .arg("demo")
        .args(args)
        .env("TMPDIR", dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("the demo starts")
}

fn ended(child: &mut Child, patience: Duration) -> ExitStatus {
    let since = Instant::now();
    while since.elapsed() < patience {
        if let Some(status) = child.try_wait().expect("it is a child of ours") {
            return status;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = child.kill();
    panic!("the demo did not end within {patience:?}");
}

/// The command lines of all processes that name `dir`.
fn processes_of(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").expect("/proc is there").flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(&*dir.to_string_lossy())).collect()
}

fn files_of(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("the directory is there").flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Reads lines until one contains `mark`; the rest is read by a thread, so that nothing blocks.
fn read_until(child: &mut Child, mark: &str) -> Vec<String> {
    let out = child.stdout.take().expect("it is piped");
    let (told, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            let _ = told.send(line);
        }
    });
    let since = Instant::now();
    let mut all = Vec::new();
    while let Some(left) = UP.checked_sub(since.elapsed()) {
        let Ok(line) = lines.recv_timeout(left) else { break };
        let found = line.contains(mark);
        all.push(line);
        if found {
            return all;
        }
    }
    let _ = child.kill();
    panic!("the demo never said {mark:?}, only:\n{}", all.join("\n"));
}

fn signal(child: &Child, signal: Signal) {
    let id = i32::try_from(child.id()).expect("a process id");
    kill_process(Pid::from_raw(id).expect("not zero"), signal).expect("it runs");
}

#[test]
fn every_promise_of_the_demo_holds_and_nothing_is_left() {
    let _turn = turn();
    let dir = tempfile::tempdir().expect("a directory");
    let mut child = demo(dir.path(), &["--once"]);
    let mut out = child.stdout.take().expect("it is piped");
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = out.read_to_string(&mut text);
        text
    });
    let status = ended(&mut child, UP * 2);
    let text = reading.join().expect("the reader ends with the pipe");
    println!("{text}");
    assert!(status.success(), "{status}\n{text}");
    assert!(!text.contains("FAIL"), "{text}");
    assert!(text.lines().filter(|line| line.starts_with("ok ")).count() >= 15, "{text}");
    assert_eq!(processes_of(dir.path()), Vec::<String>::new());
    assert_eq!(files_of(dir.path()), Vec::<String>::new());
}

#[test]
fn ctrl_c_leaves_no_process_and_no_file() {
    let _turn = turn();
    let dir = tempfile::tempdir().expect("a directory");
    let mut child = demo(dir.path(), &[]);
    read_until(&mut child, "endpoints ready");
    assert_eq!(processes_of(dir.path()).len(), 3, "a server and two workers");
    signal(&child, Signal::INT);
    let status = ended(&mut child, DOWN);
    assert_eq!(status.code(), Some(0), "{status}");
    assert_eq!(processes_of(dir.path()), Vec::<String>::new());
    assert_eq!(files_of(dir.path()), Vec::<String>::new());
}

#[test]
fn a_killed_demo_takes_its_processes_with_it() {
    let _turn = turn();
    let dir = tempfile::tempdir().expect("a directory");
    let mut child = demo(dir.path(), &["--workers=1"]);
    read_until(&mut child, "workers joined");
    signal(&child, Signal::KILL);
    let status = ended(&mut child, DOWN);
    assert_eq!(status.signal(), Some(9));
    let since = Instant::now();
    while !processes_of(dir.path()).is_empty() {
        assert!(since.elapsed() < DOWN, "{:?}", processes_of(dir.path()));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn bad_usage_is_told_and_ends_with_2() {
    let run = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_coracle")).arg("demo").args(args).output();
        let out = out.expect("it runs");
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (code, told) = run(&["--workers=0"]);
    assert_eq!(code, Some(2), "{told}");
    let (code, told) = run(&["--once", "--workers=1"]);
    assert!(code == Some(2) && told.contains("--workers 2"), "{code:?} {told}");
}
