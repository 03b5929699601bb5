//! The process that holds a process namespace which several containers share. It is the first in
//! it, and so inherits whatever loses its parent there: it waits for those to end, and that is all.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions};

use super::{Tools, sys};

/// The hidden subcommand.
pub const COMMAND: &str = "container-pause";

/// The whole of the hidden subcommand `container-pause`.
pub fn child_main() -> ExitCode {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => std::thread::sleep(Duration::from_millis(500)),
        }
    }
}

/// Starts one, and mounts its process namespace at `file`.
pub fn start(tools: &Tools, file: &Path) -> io::Result<u32> {
    let program = tools.program.clone();
    let file = file.to_path_buf();
    // Only children of the thread that unshares are in the new namespace.
    let thread = std::thread::Builder::new().name("pause".to_owned()).spawn(move || {
        sys::unshare(sys::CLONE_NEWPID)?;
        let mut command = Command::new(program);
        command.arg(COMMAND).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = sys::in_own_session(&mut command).spawn()?;
        let pid = child.id();
        fs::write(&file, b"")?;
        let own = PathBuf::from(format!("/proc/{pid}/ns/pid"));
        let mounted = sys::mount(&own, &file, "", sys::MS_BIND, "");
        if mounted.is_err() {
            let _ = child.kill();
        }
        mounted.map(|()| child)
    })?;
    let joined = thread.join().map_err(|_| io::Error::other("the thread of a namespace broke"));
    let mut child = joined??;
    let pid = child.id();
    // Somebody has to wait for it, as long as this process is its parent; a thread whose children
    // are in another namespace can start none itself.
    std::thread::spawn(move || child.wait());
    Ok(pid)
}

/// Ends one, and with it all that is left in its namespace.
pub fn end(pid: u32) {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    // The number may be another's by now.
    let is_pause = line.split(|b| *b == 0).any(|word| word == COMMAND.as_bytes());
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid.filter(|_| is_pause) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}
