//! What a node decides about its runtime.

use std::path::PathBuf;
use std::time::Duration;

/// Bounds on the child process that compiles a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileLimits {
    /// Address space, bytes.
    pub memory_bytes: u64,
    /// Processor time, seconds.
    pub cpu_seconds: u64,
    /// The compiled file, bytes.
    pub file_bytes: u64,
    /// Wall-clock time.
    pub timeout: Duration,
    /// How many compile at once.
    pub parallel: usize,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self {
            memory_bytes: 2 << 30,
            cpu_seconds: 120,
            file_bytes: 1 << 30,
            timeout: Duration::from_secs(180),
            parallel: 2,
        }
    }
}

/// How to start the child process that compiles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiler {
    pub program: PathBuf,
    pub args: Vec<String>,
}

/// The component whose applets `exec` runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolbox {
    pub path: PathBuf,
    /// `sha256:…`.
    pub digest: String,
}

/// What a node decides about its runtime.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// Where the runtime keeps compiled artifacts, the key that they are sealed with, and the
    /// roots of running workloads. No volume may reach into it.
    pub state_dir: PathBuf,
    /// The program that ends up in [`super::compile::child_main`]: this one by default, by its
    /// hidden subcommand `compile-artifact`.
    pub compiler: Compiler,
    pub compile: CompileLimits,
    /// At most so many instances at once, where the machine would allow more.
    pub instances_max: Option<u32>,
    /// Instances at once of one http workload; requests past them wait.
    pub instances_per_workload_max: u32,
    /// How long a request waits for an instance before it is answered 503.
    pub queue_timeout: Duration,
    /// Requests that wait in one http workload; those past them are answered 503 at once.
    pub queue_max: u32,
    /// How many compiled artifacts stay loaded; beyond, idle ones go, least recently used first.
    pub loaded_max: usize,
    /// Threads that run guests; the number of cores by default.
    pub threads: Option<usize>,
    /// What `exec` finds its applets in.
    pub toolbox: Option<Toolbox>,
}

impl RuntimeConfig {
    /// Defaults for a node that keeps its state in `state_dir`.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            compiler: Compiler {
                // The link of a running program still opens after its file was replaced.
                program: PathBuf::from("/proc/self/exe"),
                args: vec!["compile-artifact".to_string()],
            },
            compile: CompileLimits::default(),
            instances_max: None,
            instances_per_workload_max: 256,
            queue_timeout: Duration::from_secs(10),
            queue_max: 1024,
            loaded_max: 2500,
            threads: None,
            toolbox: None,
        }
    }

    /// A runtime for tests: few instances, and the test program itself as its compiler.
    #[cfg(test)]
    pub fn for_tests(state_dir: impl Into<PathBuf>) -> Self {
        let compiler = Compiler {
            program: std::env::current_exe().expect("a test has its program"),
            args: ["--exact", "runtime::compile::tests::child", "--nocapture", "--quiet"]
                .map(str::to_string)
                .to_vec(),
        };
        Self { compiler, instances_max: Some(64), ..Self::new(state_dir) }
    }
}
