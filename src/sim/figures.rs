//! Percentiles, the disk's own speed, and the table.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// The value at `share` (0.5: the median) of samples.
pub fn percentile(samples: &mut [Duration], share: f64) -> Duration {
    samples.sort_unstable();
    let at = ((samples.len().max(1) - 1) as f64 * share).round() as usize;
    samples.get(at).copied().unwrap_or_default()
}

/// The median time of `fdatasync` after an append of 1 KiB.
///
/// # Errors
/// What the disk says.
pub fn fdatasync(dir: &Path) -> std::io::Result<Duration> {
    let path = dir.join("fdatasync");
    let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
    let mut samples = Vec::with_capacity(100);
    for _ in 0..100 {
        file.write_all(&[7; 1024])?;
        let start = Instant::now();
        file.sync_data()?;
        samples.push(start.elapsed());
    }
    std::fs::remove_file(&path)?;
    Ok(percentile(&mut samples, 0.5))
}

/// Milliseconds with two decimals.
pub fn ms(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1000.0)
}

/// Seconds with two decimals.
pub fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

/// Figures with their names, printed as they come.
#[derive(Debug, Default)]
pub struct Table(Vec<(String, String)>);

impl Table {
    /// Adds a figure.
    pub fn add(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push((name.into(), value.into()));
    }

    /// The lines of the table.
    pub fn lines(&self) -> Vec<String> {
        let width = self.0.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        self.0.iter().map(|(name, value)| format!("{name:<width$}   {value}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_samples() {
        let mut samples: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&mut samples, 0.99), Duration::from_millis(99));
        assert_eq!(percentile(&mut [], 0.5), Duration::ZERO);
    }

    #[test]
    fn figures_stand_in_columns() {
        let mut table = Table::default();
        table.add("a", "1");
        table.add("long", "2");
        assert_eq!(table.lines(), ["a      1", "long   2"]);
    }
}
