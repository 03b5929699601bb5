//! Where events go: one thread writes them, a line each, into a file that is begun anew when it is
//! large.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use serde_json::Value;

/// Events that wait to be written.
const QUEUE: usize = 10_000;

/// The log.
pub struct Sink {
    queue: Option<SyncSender<Vec<u8>>>,
    writer: Option<JoinHandle<()>>,
    lost: AtomicU64,
}

impl Sink {
    /// Opens `path`, to go on where it ends.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn open(path: &Path, bytes_max: u64, backups_max: usize) -> io::Result<Self> {
        let log = Log::open(path, bytes_max, backups_max)?;
        let (queue, events) = sync_channel(QUEUE);
        let writer = std::thread::Builder::new().name("audit".into());
        let writer = writer.spawn(move || log.run(&events))?;
        Ok(Self { queue: Some(queue), writer: Some(writer), lost: AtomicU64::new(0) })
    }

    /// Queues an event. What finds no room is lost.
    pub fn write(&self, event: &Value) {
        let mut line = event.to_string().into_bytes();
        line.push(b'\n');
        let queued = self.queue.as_ref().is_some_and(|queue| queue.try_send(line).is_ok());
        if !queued {
            let lost = self.lost.fetch_add(1, Ordering::Relaxed) + 1;
            if lost.is_power_of_two() {
                tracing::warn!(lost, "events of the audit log found no room");
            }
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

struct Log {
    path: PathBuf,
    file: BufWriter<File>,
    bytes: u64,
    bytes_max: u64,
    backups_max: usize,
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

impl Log {
    fn open(path: &Path, bytes_max: u64, backups_max: usize) -> io::Result<Self> {
        let file = open(path)?;
        let bytes = file.metadata()?.len();
        let file = BufWriter::new(file);
        Ok(Self { path: path.to_owned(), file, bytes, bytes_max, backups_max })
    }

    fn run(mut self, events: &Receiver<Vec<u8>>) {
        while let Ok(line) = events.recv() {
            let mut written = self.put(&line);
            // What waits already is written with it, and then it is all handed to the system.
            while let Ok(more) = events.try_recv() {
                written = written.and_then(|()| self.put(&more));
            }
            if let Err(error) = written.and_then(|()| self.file.flush()) {
                tracing::warn!(path = %self.path.display(), %error, "the audit log was not written");
            }
        }
    }

    fn put(&mut self, line: &[u8]) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.bytes_max {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// `log` becomes `log.1`, that `log.2`, and so on.
    fn rotate(&mut self) -> io::Result<()> {
        self.file.flush()?;
        let backup = |n: usize| PathBuf::from(format!("{}.{n}", self.path.display()));
        for n in (1..self.backups_max).rev() {
            match std::fs::rename(backup(n), backup(n + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        match self.backups_max {
            0 => std::fs::remove_file(&self.path)?,
            _ => std::fs::rename(&self.path, backup(1))?,
        }
        self.file = BufWriter::new(open(&self.path)?);
        self.bytes = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_lines_and_a_large_log_is_begun_anew() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("audit.log");
        let sink = Sink::open(&path, 40, 2).expect("a log");
        for n in 0..6 {
            sink.write(&json!({"number": n, "text": "x"}));
        }
        drop(sink);
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).expect(name);
        let lines = |text: &str| -> Vec<i64> {
            let event = |line: &str| serde_json::from_str::<Value>(line).expect("JSON");
            text.lines().filter_map(|line| event(line)["number"].as_i64()).collect()
        };
        assert_eq!(lines(&read("audit.log")), [5]);
        assert_eq!(lines(&read("audit.log.1")), [4]);
        assert_eq!(lines(&read("audit.log.2")), [3]);
        assert!(!dir.path().join("audit.log.3").exists());
    }
}
