//! A closed-loop http client in a process of its own: so many connections, each asking again as
//! soon as it was answered.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

/// What the client saw.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub per_second: f64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub failed: u64,
}

/// Runs the client as a child of this program.
pub fn run(address: &str, connections: usize, time: Duration) -> Load {
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["load", address, &connections.to_string(), &time.as_millis().to_string()])
        .output()
        .expect("the client ran");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [per_second, p50, p99, failed] = numbers[..] else {
        panic!("the client said {text:?} {:?}", String::from_utf8_lossy(&output.stderr))
    };
    Load { per_second, p50_us: p50 as u64, p99_us: p99 as u64, failed: failed as u64 }
}

/// The child.
pub fn child(args: &[String]) {
    let [address, connections, time] = args else { panic!("load ADDRESS CONNECTIONS MS") };
    let connections: usize = connections.parse().expect("a number");
    let time = Duration::from_millis(time.parse().expect("a number"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("one");
    let start = Instant::now();
    let (mut micros, failed) = runtime.block_on(async {
        let clients = (0..connections).map(|_| client(address.clone(), start + time));
        let all = futures::future::join_all(clients).await;
        let failed: u64 = all.iter().map(|(_, failed)| failed).sum();
        (all.into_iter().flat_map(|(micros, _)| micros).collect::<Vec<u32>>(), failed)
    });
    let seconds = start.elapsed().as_secs_f64();
    micros.sort_unstable();
    let at = |part: f64| micros.get((micros.len() as f64 * part) as usize).copied().unwrap_or(0);
    println!("{} {} {} {failed}", micros.len() as f64 / seconds, at(0.5), at(0.99));
}

async fn client(address: String, until: Instant) -> (Vec<u32>, u64) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (mut micros, mut failed) = (Vec::new(), 0);
    let request = format!("GET / HTTP/1.1\r\nhost: {address}\r\n\r\n");
    let mut buffer = vec![0; 4096];
    while Instant::now() < until {
        let Ok(mut stream) = tokio::net::TcpStream::connect(&address).await else {
            failed += 1;
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        while Instant::now() < until {
            let start = Instant::now();
            if stream.write_all(request.as_bytes()).await.is_err() {
                failed += 1;
                break;
            }
            let mut len = 0;
            let whole = loop {
                match stream.read(&mut buffer[len..]).await {
                    Ok(0) | Err(_) => break false,
                    Ok(more) => len += more,
                }
                if is_whole(&buffer[..len]) {
                    break true;
                }
            };
            if !whole || !buffer.starts_with(b"HTTP/1.1 200") {
                failed += 1;
                break;
            }
            micros.push(start.elapsed().as_micros() as u32);
        }
    }
    (micros, failed)
}

fn is_whole(answer: &[u8]) -> bool {
    let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    let body = &answer[head + 4..];
    match text.split("content-length: ").nth(1) {
        Some(len) => len.split("\r\n").next().and_then(|len| len.parse().ok()) == Some(body.len()),
        None => body.ends_with(b"0\r\n\r\n"),
    }
}

/// Waits until something answers there.
pub fn wait_for(address: &str) {
    for _ in 0..600 {
        if let Ok(mut stream) = TcpStream::connect(address) {
            let asked = stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            let mut line = String::new();
            let read = BufReader::new(&stream).read_line(&mut line);
            if asked.is_ok() && read.is_ok() && line.starts_with("HTTP/1.1 200") {
                return;
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("nothing answers at {address}");
}
