//! What the benches share: percentiles, tables, the disk's own speed, resident memory.
#![allow(dead_code)]

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long each measurement runs.
pub fn measured_for() -> Duration {
    let seconds = std::env::var("BENCH_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(4.0);
    Duration::from_secs_f64(seconds)
}

/// Where durable benches write: beside the build, since `/tmp` may be memory.
pub fn scratch() -> tempfile::TempDir {
    let target = concat!(env!("CARGO_MANIFEST_DIR"), "/target");
    tempfile::Builder::new().prefix("bench-").tempdir_in(target).expect("a scratch directory")
}

/// The value at `share` (0.5: the median) of unsorted samples.
pub fn percentile(samples: &mut [Duration], share: f64) -> Duration {
    samples.sort_unstable();
    let at = ((samples.len().max(1) - 1) as f64 * share).round() as usize;
    samples.get(at).copied().unwrap_or_default()
}

/// How many 1 KiB records a second `threads` threads append to one file, each followed by
/// `fdatasync`, and the median of the syncs.
pub fn bare_log(dir: &Path, threads: usize) -> (f64, Duration) {
    let path = dir.join("bare.log");
    let until = Instant::now() + measured_for() / 2;
    let start = Instant::now();
    let mut samples: Vec<Duration> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                let file = OpenOptions::new().append(true).create(true).open(&path);
                let mut file = file.expect("a file");
                scope.spawn(move || {
                    let mut samples = Vec::new();
                    while Instant::now() < until {
                        file.write_all(&[7; 1024]).expect("room");
                        let before = Instant::now();
                        file.sync_data().expect("a sync");
                        samples.push(before.elapsed());
                    }
                    samples
                })
            })
            .collect();
        workers.into_iter().flat_map(|w| w.join().expect("a writer")).collect()
    });
    let rate = samples.len() as f64 / start.elapsed().as_secs_f64();
    std::fs::remove_file(&path).expect("the file");
    (rate, percentile(&mut samples, 0.5))
}

/// This process's resident memory in MiB.
pub fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    let kib: f64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    kib / 1024.0
}

/// Prints a table whose first row is its head.
pub fn print_table(rows: &[Vec<String>]) {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
        println!("{}", cells.join("  "));
    }
    println!();
}

/// A row of a table.
pub fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

/// Milliseconds with two decimals.
pub fn ms(duration: Duration) -> String {
    format!("{:.2}", duration.as_secs_f64() * 1000.0)
}
