//! A TCP server that keeps its count in a file of a volume.
//!
//! A line a request, a line an answer: `incr` (or `incr N`) adds and answers the count, `get`
//! answers it, `quit` closes. `PORT` (7000) is where it listens, `COUNT_FILE` (`/data/count`) where
//! the count lies, so that it outlives the container. It ends with 0 when its listener is closed.

use kit::net::{Listener, Stream};
use wasip2::io::poll::poll;

struct Counter;

wasip2::cli::command::export!(Counter);

impl wasip2::exports::cli::run::Guest for Counter {
    fn run() -> Result<(), ()> {
        let port = kit::env("PORT").and_then(|port| port.parse().ok()).unwrap_or(7000);
        let file = kit::env("COUNT_FILE").unwrap_or_else(|| "/data/count".to_string());
        serve(port, &file).map_err(|error| kit::eprint(&format!("counter-tcp: {error}\n")))
    }
}

struct Client {
    stream: Stream,
    pending: Vec<u8>,
}

fn serve(port: u16, file: &str) -> Result<(), String> {
    let mut count = load(file)?;
    let listener = Listener::bind(port)?;
    kit::print(&format!("listening on {port}, count is {count}\n"));
    let mut clients: Vec<Client> = Vec::new();
    loop {
        let mut waits = vec![listener.subscribe()];
        waits.extend(clients.iter().map(|client| client.stream.subscribe()));
        let ready = poll(&waits.iter().collect::<Vec<_>>());
        drop(waits);
        // From the back, so that removing one does not move those still to come.
        for index in ready.into_iter().rev() {
            if index > 0 {
                let client = index as usize - 1;
                if !answer(&mut clients[client], &mut count, file)? {
                    clients.swap_remove(client);
                }
                continue;
            }
            match listener.accept() {
                Ok(Some(stream)) => clients.push(Client { stream, pending: Vec::new() }),
                Ok(None) => {}
                Err(_) => {
                    kit::print(&format!("listener closed, count is {count}\n"));
                    return Ok(());
                }
            }
        }
    }
}

/// Answers the lines that have arrived; false when the client is gone.
fn answer(client: &mut Client, count: &mut i64, file: &str) -> Result<bool, String> {
    let Ok(Some(bytes)) = client.stream.read(4096) else { return Ok(false) };
    client.pending.extend_from_slice(&bytes);
    if client.pending.len() > 65_536 {
        return Ok(false);
    }
    while let Some(end) = client.pending.iter().position(|byte| *byte == b'\n') {
        let line: Vec<u8> = client.pending.drain(..=end).collect();
        let line = String::from_utf8_lossy(&line).trim().to_string();
        let mut words = line.split_whitespace();
        let reply = match (words.next(), words.next()) {
            (Some("get"), None) => format!("{count}\n"),
            (Some("incr"), by) => match by.unwrap_or("1").parse::<i64>() {
                Ok(by) => {
                    *count = count.wrapping_add(by);
                    kit::fs::write(file, count.to_string().as_bytes())?;
                    format!("{count}\n")
                }
                Err(_) => format!("error: not a number: {}\n", by.unwrap_or_default()),
            },
            (Some("quit"), _) => return Ok(false),
            (None, _) => continue,
            (Some(other), _) => format!("error: unknown command: {other}\n"),
        };
        if client.stream.write_all(reply.as_bytes()).is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn load(file: &str) -> Result<i64, String> {
    match kit::fs::read(file) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes).trim().to_string();
            if text.is_empty() {
                return Ok(0);
            }
            text.parse().map_err(|_| format!("{file}: not a number: {text}"))
        }
        Err(error) if error.is_missing() => Ok(0),
        Err(error) => Err(error.to_string()),
    }
}
