//! Commands that the worker serves itself in the context of a workload, so that `kubectl cp` and
//! simple probes need nothing in an image: `tar`, `test` (and `[`), and `sh -c` with one simple
//! command.
//!
//! They see the files of the workload and nothing else: every path is looked up below the
//! directories that were opened for the guest, and links do not lead out of them.

mod sh;
mod tar;
mod test;
mod tree;

use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;

pub use self::sh::simple_command;
pub use self::tree::Tree;
use super::pipe::Pipe;
use super::stdio::Outputs;
use crate::runtime::spec::Stdio;

/// A command of the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Builtin {
    Tar,
    Test,
    /// `test` that wants a `]` at its end.
    Bracket,
}

impl Builtin {
    /// By the last part of its path.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "tar" => Some(Self::Tar),
            "test" => Some(Self::Test),
            "[" => Some(Self::Bracket),
            _ => None,
        }
    }
}

/// The streams of a command, for code that blocks.
pub struct Console {
    stdin: Pipe,
    left: Bytes,
    outputs: Arc<Outputs>,
    runtime: Handle,
}

impl Console {
    /// Of a task on the runtime that this is called on.
    pub fn new(stdin: Pipe, outputs: Arc<Outputs>) -> Self {
        Self { stdin, left: Bytes::new(), outputs, runtime: Handle::current() }
    }

    fn write(&self, stream: Stdio, bytes: &[u8]) -> io::Result<()> {
        self.runtime.block_on(self.outputs.write_all(stream, bytes))
    }

    /// A line on standard error.
    fn complain(&self, line: &str) {
        // Where nobody listens the exit code still tells.
        let _ = self.write(Stdio::Stderr, format!("{line}\n").as_bytes());
    }
}

/// Standard output of a console.
struct Screen<'a>(&'a Console);

impl Write for Screen<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(Stdio::Stdout, bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard input of a console.
struct Keyboard<'a>(&'a mut Console);

impl Read for Keyboard<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.left.is_empty() {
            let read = self.0.runtime.block_on(self.0.stdin.read(buffer.len().max(1)));
            self.0.left = read.unwrap_or_default();
        }
        let piece = self.0.left.split_to(self.0.left.len().min(buffer.len()));
        buffer[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }
}

/// Runs a command to its end and answers its exit code. It blocks.
pub fn run(builtin: Builtin, args: &[String], tree: &Tree, console: &mut Console) -> i32 {
    match builtin {
        Builtin::Tar => tar::run(args, tree, console),
        Builtin::Test => test::run(&args[1..], tree, console),
        Builtin::Bracket => match args[1..].split_last() {
            Some((last, rest)) if last == "]" => test::run(rest, tree, console),
            _ => {
                console.complain("[: missing ]");
                2
            }
        },
    }
}
