//! The reading end: `kubectl logs` with all its options, across rotated segments.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{LogFile, Segment, segments};

/// What a reader may ask for (`PodLogOptions`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    pub follow: bool,
    pub previous: bool,
    /// A run of its own instead of the newest or the one before.
    pub run: Option<u32>,
    pub since: Option<Timestamp>,
    /// Only the last so many lines.
    pub tail: Option<u64>,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
    /// Each line begins with its time.
    pub timestamps: bool,
    /// Only `stdout` or only `stderr`.
    pub stream: Option<&'static str>,
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("the container has no log of a run before")]
    NoPrevious,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads one run of one container from the place that the options say.
pub struct LogReader {
    dir: PathBuf,
    options: LogOptions,
    writer: Option<Arc<LogFile>>,
    at: Option<(Segment, BufReader<File>)>,
    run: u32,
    left: Option<u64>,
    /// A record that was not whole yet when it was read.
    pending: Vec<u8>,
}

/// How much is handed on at once, about.
const CHUNK: usize = 32 << 10;

impl LogReader {
    /// Finds the run and the first line; `writer` is the log that the container writes now.
    pub fn open(
        dir: PathBuf,
        writer: Option<Arc<LogFile>>,
        options: LogOptions,
    ) -> Result<Self, LogError> {
        let all = segments(&dir);
        let newest = writer.as_ref().map(|w| w.run()).or(all.last().map(|s| s.run)).unwrap_or(0);
        let run = match (options.run, options.previous) {
            (Some(run), _) => run,
            (None, false) => newest,
            (None, true) => all
                .iter()
                .map(|s| s.run)
                .filter(|r| *r < newest)
                .max()
                .ok_or(LogError::NoPrevious)?,
        };
        let writer = writer.filter(|w| w.run() == run && options.follow);
        let left = options.limit_bytes;
        let mut reader = Self { dir, options, writer, at: None, run, left, pending: Vec::new() };
        reader.seek()?;
        Ok(reader)
    }

    fn seek(&mut self) -> io::Result<()> {
        let mut own = segments(&self.dir);
        own.retain(|s| s.run == self.run);
        let Some(mut wanted) = self.options.tail else {
            if let Some(first) = own.first() {
                self.enter(*first, 0)?;
            }
            return Ok(());
        };
        for segment in own.iter().rev() {
            let (offset, found) = tail_offset(&segment.path(&self.dir), wanted)?;
            wanted -= found;
            self.enter(*segment, offset)?;
            if wanted == 0 {
                break;
            }
        }
        Ok(())
    }

    fn enter(&mut self, segment: Segment, offset: u64) -> io::Result<()> {
        let mut file = File::open(segment.path(&self.dir))?;
        file.seek(SeekFrom::Start(offset))?;
        self.at = Some((segment, BufReader::with_capacity(CHUNK, file)));
        Ok(())
    }

    /// Goes on to the next segment; false where there is none yet.
    fn next_segment(&mut self) -> io::Result<bool> {
        let number = self.at.as_ref().map_or(0, |(segment, _)| segment.number);
        let next = segments(&self.dir).into_iter().find(|s| s.run == self.run && s.number > number);
        match next {
            Some(segment) => {
                self.pending.clear();
                self.enter(segment, 0)?;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// The next piece of output, or none at the present end.
    pub fn read_some(&mut self) -> io::Result<Option<Bytes>> {
        let mut out = Vec::new();
        while out.len() < CHUNK && self.left != Some(0) {
            let read = match &mut self.at {
                Some((_, file)) => file.read_until(b'\n', &mut self.pending)?,
                None => 0,
            };
            if read == 0 {
                // Looked for only at the end: a writer rotates only after its last write.
                if self.next_segment()? {
                    continue;
                }
                break;
            }
            if self.pending.last() == Some(&b'\n') {
                let record = std::mem::take(&mut self.pending);
                self.take(&record, &mut out);
            }
        }
        Ok(Some(Bytes::from(out)).filter(|out| !out.is_empty()))
    }

    /// Puts what is wanted of one record (`TIME STREAM TAG TEXT\n`) to `out`.
    fn take(&mut self, record: &[u8], out: &mut Vec<u8>) {
        let mut parts = record.splitn(4, |b| *b == b' ');
        let (Some(time), Some(stream), Some(tag), Some(text)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return;
        };
        if self.options.stream.is_some_and(|wanted| wanted.as_bytes() != stream) {
            return;
        }
        if let Some(since) = self.options.since {
            let at = std::str::from_utf8(time).ok().and_then(|t| t.parse::<Timestamp>().ok());
            if at.is_some_and(|at| at < since) {
                return;
            }
        }
        let begin = out.len();
        if self.options.timestamps {
            out.extend_from_slice(time);
            out.push(b' ');
        }
        out.extend_from_slice(if tag == b"P" { &text[..text.len() - 1] } else { text });
        if let Some(left) = &mut self.left {
            let fits = usize::try_from(*left).unwrap_or(usize::MAX);
            out.truncate(begin + fits.min(out.len() - begin));
            *left -= (out.len() - begin) as u64;
        }
    }

    /// Sends everything to `sink`, and, where the options say so, what is yet to be written; ends
    /// when the run has ended or nobody listens any more.
    pub async fn pump(mut self, sink: mpsc::Sender<Bytes>) -> io::Result<()> {
        let mut progress = self.writer.as_ref().map(|w| w.progress());
        loop {
            let finished = progress.as_mut().is_none_or(|p| p.borrow_and_update().finished);
            loop {
                let (reader, chunk) = tokio::task::spawn_blocking(move || {
                    let mut reader = self;
                    let chunk = reader.read_some();
                    (reader, chunk)
                })
                .await
                .map_err(io::Error::other)?;
                self = reader;
                match chunk? {
                    Some(chunk) => {
                        if sink.send(chunk).await.is_err() {
                            return Ok(());
                        }
                    }
                    None => break,
                }
            }
            if finished || self.left == Some(0) {
                return Ok(());
            }
            let Some(progress) = &mut progress else { return Ok(()) };
            tokio::select! {
                () = sink.closed() => return Ok(()),
                changed = progress.changed() => if changed.is_err() { return Ok(()) },
            }
        }
    }
}

/// Where the last `lines` lines of a file begin, and how many of them it has.
fn tail_offset(path: &Path, lines: u64) -> io::Result<(u64, u64)> {
    let mut file = File::open(path)?;
    let mut end = file.metadata()?.len();
    if lines == 0 {
        return Ok((end, 0));
    }
    let whole = end;
    let mut newlines = 0;
    let mut block = vec![0u8; CHUNK];
    while end > 0 {
        let size = (CHUNK as u64).min(end);
        let from = end - size;
        let part = &mut block[..usize::try_from(size).expect("at most a chunk")];
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(part)?;
        for (i, byte) in part.iter().enumerate().rev() {
            if *byte != b'\n' {
                continue;
            }
            let after = from + i as u64 + 1;
            // The newline at the very end closes the last line; it begins none.
            if after < whole {
                newlines += 1;
                if newlines == lines {
                    return Ok((after, lines));
                }
            }
        }
        end = from;
    }
    Ok((0, if whole == 0 { 0 } else { newlines + 1 }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::clock::{Clock, FakeClock, SharedClock};
    use crate::node::config::LogSettings;
    use crate::node::logs::Logs;
    use crate::runtime::{LogSink, Stdio};

    struct Bench {
        _dir: tempfile::TempDir,
        clock: Arc<FakeClock>,
        logs: Logs,
    }

    fn bench(file_bytes_max: u64, files_max: usize, line_bytes_max: usize) -> Bench {
        let dir = tempfile::tempdir().expect("a directory");
        let clock = FakeClock::at("2026-03-04T05:06:07.089Z".parse().expect("a time"));
        let settings = LogSettings { file_bytes_max, files_max, line_bytes_max };
        let logs = Logs::new(dir.path().to_owned(), settings, clock.clone() as SharedClock);
        Bench { _dir: dir, clock, logs }
    }

    impl Bench {
        fn begin(&self, run: u32) -> Arc<LogFile> {
            self.logs.begin("ns", "pod", "uid", "app", run).expect("a log")
        }

        fn read(&self, options: LogOptions) -> Result<String, LogError> {
            let dir = self.logs.pod_dir("ns", "pod", "uid").join("app");
            let mut reader = LogReader::open(dir, self.logs.current("uid", "app"), options)?;
            let mut text = Vec::new();
            while let Some(chunk) = reader.read_some()? {
                text.extend_from_slice(&chunk);
            }
            Ok(String::from_utf8(text).expect("text"))
        }
    }

    #[test]
    fn lines_are_written_in_the_cri_format() {
        let b = bench(1 << 20, 5, 8);
        let log = b.begin(1);
        log.write(Stdio::Stdout, b"hel");
        log.write(Stdio::Stderr, b"oops\n");
        log.write(Stdio::Stdout, b"lo\n0123456789\ntail");
        log.finish();
        let dir = b.logs.pod_dir("ns", "pod", "uid").join("app");
        let text =
            std::fs::read_to_string(Segment { run: 1, number: 1 }.path(&dir)).expect("a file");
        let at = "2026-03-04T05:06:07.089000000Z";
        let expected = [
            "stderr F oops",
            "stdout F hello",
            "stdout P 01234567",
            "stdout F 89",
            "stdout P tail",
        ];
        let lines: Vec<String> = expected.iter().map(|line| format!("{at} {line}\n")).collect();
        assert_eq!(text, lines.concat());
        assert_eq!(b.read(LogOptions::default()).expect("read"), "oops\nhello\n0123456789\ntail");
    }

    #[test]
    fn the_options_of_kubectl_logs_pick_what_is_read() {
        let b = bench(1 << 20, 5, 100);
        let log = b.begin(1);
        for i in 0..5 {
            log.write(Stdio::Stdout, format!("line {i}\n").as_bytes());
            b.clock.advance(Duration::from_secs(10));
        }
        log.write(Stdio::Stderr, b"bad\n");
        let read = |options| b.read(options).expect("read");
        let base = LogOptions::default;
        assert_eq!(read(LogOptions { tail: Some(2), ..base() }), "line 4\nbad\n");
        assert_eq!(read(LogOptions { tail: Some(0), ..base() }), "");
        assert_eq!(read(LogOptions { tail: Some(99), ..base() }).lines().count(), 6);
        assert_eq!(read(LogOptions { limit_bytes: Some(9), ..base() }), "line 0\nli");
        assert_eq!(read(LogOptions { stream: Some("stderr"), ..base() }), "bad\n");
        let since = b.clock.now() - Duration::from_secs(10);
        assert_eq!(read(LogOptions { since: Some(since), ..base() }), "line 4\nbad\n");
        let stamped = read(LogOptions { tail: Some(1), timestamps: true, ..base() });
        assert_eq!(stamped, "2026-03-04T05:06:57.089000000Z bad\n");
    }

    #[test]
    fn rotation_keeps_the_newest_segments_and_tail_reads_across_them() {
        let b = bench(200, 3, 100);
        let log = b.begin(1);
        for i in 0..60 {
            log.write(Stdio::Stdout, format!("line {i}\n").as_bytes());
        }
        let dir = b.logs.pod_dir("ns", "pod", "uid").join("app");
        assert_eq!(segments(&dir).len(), 3);
        let all = b.read(LogOptions::default()).expect("read");
        assert!(all.ends_with("line 58\nline 59\n") && !all.contains("line 0\n"), "{all}");
        let tail = b.read(LogOptions { tail: Some(7), ..LogOptions::default() }).expect("read");
        assert_eq!(tail, (53..60).map(|i| format!("line {i}\n")).collect::<String>());
    }

    #[test]
    fn previous_is_the_run_before_and_older_ones_are_gone() {
        let b = bench(1 << 20, 5, 100);
        let previous = LogOptions { previous: true, ..LogOptions::default() };
        b.begin(1).write(Stdio::Stdout, b"one\n");
        assert!(matches!(b.read(previous.clone()), Err(LogError::NoPrevious)));
        b.begin(2).write(Stdio::Stdout, b"two\n");
        b.begin(5);
        assert_eq!(b.read(previous).expect("read"), "two\n");
        assert_eq!(b.read(LogOptions::default()).expect("read"), "");
        let dir = b.logs.pod_dir("ns", "pod", "uid").join("app");
        assert!(segments(&dir).iter().all(|s| s.run == 2));
        assert_eq!(b.logs.tail("ns", "pod", "uid", "app", 2), "two\n");
    }

    #[tokio::test]
    async fn following_goes_on_across_rotation_and_ends_with_the_run() {
        let b = bench(100, 5, 100);
        let log = b.begin(1);
        log.write(Stdio::Stdout, b"first\n");
        let dir = b.logs.pod_dir("ns", "pod", "uid").join("app");
        let options = LogOptions { follow: true, ..LogOptions::default() };
        let reader = LogReader::open(dir, b.logs.current("uid", "app"), options).expect("a reader");
        let (sender, mut receiver) = mpsc::channel(4);
        let pump = tokio::spawn(reader.pump(sender));
        let mut text = String::new();
        for i in 0..20 {
            while !text.ends_with(&if i == 0 { "first\n".to_owned() } else { format!("l{i}\n") }) {
                let chunk = receiver.recv().await.expect("the log goes on");
                text.push_str(std::str::from_utf8(&chunk).expect("text"));
            }
            log.write(Stdio::Stdout, format!("l{}\n", i + 1).as_bytes());
        }
        log.finish();
        while let Some(chunk) = receiver.recv().await {
            text.push_str(std::str::from_utf8(&chunk).expect("text"));
        }
        pump.await.expect("no panic").expect("read");
        assert!(text.ends_with("l19\nl20\n"), "{text}");
    }
}
