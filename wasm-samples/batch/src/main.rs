//! A job: reads its config file, counts primes, writes the result to a volume and ends with the
//! exit code that its config chose. A core module with WASI preview 1.
//!
//! The config file is the first argument, by default `/etc/batch/config`; a line `key=value` each:
//! `limit` (how far to count), `output` (where the result goes, by default `/out/result`), `exit`.

use std::process::ExitCode;

struct Config {
    limit: usize,
    output: String,
    exit: u8,
}

fn main() -> ExitCode {
    let path = std::env::args().nth(1).unwrap_or_else(|| "/etc/batch/config".to_string());
    match run(&path) {
        Ok(exit) => ExitCode::from(exit),
        Err(message) => {
            eprintln!("batch: {message}");
            ExitCode::from(2)
        }
    }
}

fn run(path: &str) -> Result<u8, String> {
    let config = read(path)?;
    let primes = count_primes(config.limit);
    let text = format!("{primes} primes up to {}\n", config.limit);
    std::fs::write(&config.output, &text).map_err(|e| format!("{}: {e}", config.output))?;
    print!("{text}");
    Ok(config.exit)
}

fn read(path: &str) -> Result<Config, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let mut config = Config { limit: 1000, output: "/out/result".to_string(), exit: 0 };
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |what: &str| format!("{path}:{}: {what}: {line}", number + 1);
        let (key, value) = line.split_once('=').ok_or_else(|| wrong("not key=value"))?;
        match key.trim() {
            "limit" => config.limit = value.trim().parse().map_err(|_| wrong("not a number"))?,
            "output" => config.output = value.trim().to_string(),
            "exit" => config.exit = value.trim().parse().map_err(|_| wrong("not 0 to 255"))?,
            _ => return Err(wrong("unknown key")),
        }
    }
    Ok(config)
}

fn count_primes(limit: usize) -> usize {
    let mut composite = vec![false; limit + 1];
    let mut primes = 0;
    for n in 2..=limit {
        if !composite[n] {
            primes += 1;
            for multiple in (n * n..=limit).step_by(n) {
                composite[multiple] = true;
            }
        }
    }
    primes
}
