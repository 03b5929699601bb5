//! What is told while the cluster comes up: a spinner for the step under way in a terminal, and a
//! line for every step that is done.

use std::io::Write as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// The steps of the start.
pub struct Progress {
    spinner: Option<ProgressBar>,
    since: Instant,
}

impl Progress {
    /// `terminal`: whether someone watches.
    pub fn new(terminal: bool) -> Self {
        let spinner = terminal.then(|| {
            let spinner = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("  {spinner} {msg}");
            spinner.set_style(
                style.unwrap_or_else(|_| ProgressStyle::default_spinner()).tick_chars("|/-\\ "),
            );
            spinner.enable_steady_tick(Duration::from_millis(100));
            spinner
        });
        Self { spinner, since: Instant::now() }
    }

    /// A step begins.
    pub fn begin(&mut self, text: impl Into<String>) {
        self.since = Instant::now();
        self.now(text);
    }

    /// What the step is at.
    pub fn now(&mut self, text: impl Into<String>) {
        if let Some(spinner) = &self.spinner {
            spinner.set_message(text.into());
        }
    }

    /// The step is done.
    pub fn done(&mut self, text: &str) {
        let line = format!("  {text} ({:.1} s)", self.since.elapsed().as_secs_f64());
        match &self.spinner {
            Some(spinner) => spinner.suspend(|| say(&line)),
            None => say(&line),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}

/// A line on standard output, at once; that nobody reads it is no reason to stop.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}
