//! A few everyday tools in one component, chosen by the first argument (or the last part of its
//! path): `ls cat env echo sleep wget nslookup nc true false`.

mod dns;

use std::fmt::Write as _;

use kit::net::{Stream, Udp, display, resolve};

struct Toolbox;

wasip2::cli::command::export!(Toolbox);

impl wasip2::exports::cli::run::Guest for Toolbox {
    fn run() -> Result<(), ()> {
        let args = wasip2::cli::environment::get_arguments();
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        // `toolbox ls /` and `ls /` are the same.
        let words = match words.first().map(|word| base(word)) {
            Some("toolbox") => &words[1..],
            _ => &words[..],
        };
        let Some((name, rest)) = words.split_first() else {
            kit::eprint("usage: toolbox ls|cat|env|echo|sleep|wget|nslookup|nc|true|false …\n");
            return Err(());
        };
        let name = base(name);
        applet(name, rest).map_err(|message| {
            if !message.is_empty() {
                kit::eprint(&format!("{name}: {message}\n"));
            }
        })
    }
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn applet(name: &str, args: &[&str]) -> Result<(), String> {
    match name {
        "ls" => ls(args),
        "cat" => cat(args),
        "env" => env(),
        "echo" => {
            kit::print(&format!("{}\n", args.join(" ")));
            Ok(())
        }
        "sleep" => sleep(args),
        "wget" => wget(args),
        "nslookup" => nslookup(args),
        "nc" => nc(args),
        "true" => Ok(()),
        "false" => Err(String::new()),
        _ => Err("applet not found".to_string()),
    }
}

fn ls(args: &[&str]) -> Result<(), String> {
    let long = args.iter().any(|arg| arg.starts_with('-') && arg.contains('l'));
    let all = args.iter().any(|arg| arg.starts_with('-') && arg.contains('a'));
    let paths: Vec<&str> = args.iter().filter(|arg| !arg.starts_with('-')).copied().collect();
    let paths = if paths.is_empty() { vec!["/"] } else { paths };
    let mut text = String::new();
    for path in &paths {
        if paths.len() > 1 {
            let _ = writeln!(text, "{path}:");
        }
        for entry in kit::fs::list(path)? {
            if entry.name.starts_with('.') && !all && entry.name != *path {
                continue;
            }
            let kind = match (long, entry.is_directory) {
                (false, _) => "",
                (true, true) => "d ",
                (true, false) => "- ",
            };
            let _ = writeln!(text, "{kind}{}", entry.name);
        }
    }
    kit::print(&text);
    Ok(())
}

fn cat(args: &[&str]) -> Result<(), String> {
    if args.is_empty() {
        let stdin = wasip2::cli::stdin::get_stdin();
        while let Ok(bytes) = stdin.blocking_read(65_536) {
            kit::print_bytes(&bytes);
        }
        return Ok(());
    }
    for path in args {
        kit::print_bytes(&kit::fs::read(path)?);
    }
    Ok(())
}

fn env() -> Result<(), String> {
    let mut text = String::new();
    for (name, value) in wasip2::cli::environment::get_environment() {
        let _ = writeln!(text, "{name}={value}");
    }
    kit::print(&text);
    Ok(())
}

fn sleep(args: &[&str]) -> Result<(), String> {
    let [time] = args else { return Err("usage: sleep SECONDS".to_string()) };
    if matches!(*time, "inf" | "infinity") {
        loop {
            wasip2::clocks::monotonic_clock::subscribe_duration(u64::MAX / 4).block();
        }
    }
    let nanoseconds = nanoseconds(time).ok_or_else(|| format!("invalid number: {time}"))?;
    wasip2::clocks::monotonic_clock::subscribe_duration(nanoseconds).block();
    Ok(())
}

/// `1`, `0.5`, `2m`. Without floating point, whose parser is larger than all of this.
fn nanoseconds(time: &str) -> Option<u64> {
    let (number, scale) = match time.strip_suffix(['s', 'm', 'h']) {
        Some(number) if time.ends_with('m') => (number, 60),
        Some(number) if time.ends_with('h') => (number, 3600),
        Some(number) => (number, 1),
        None => (time, 1),
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let digits: String = part.chars().chain(std::iter::repeat('0')).take(9).collect();
    let part: u64 = digits.parse().ok()?;
    whole.checked_mul(1_000_000_000)?.checked_add(part)?.checked_mul(scale)
}

fn wget(args: &[&str]) -> Result<(), String> {
    let usage = || "usage: wget [-q] [-S] [-O FILE|-] [--header 'NAME: VALUE'] URL".to_string();
    let (mut headers, mut show, mut output, mut url) = (Vec::new(), false, "-", None);
    let mut words = args.iter().copied();
    while let Some(word) = words.next() {
        match word {
            "-q" => {}
            "-S" => show = true,
            "-qO-" | "-O-" => output = "-",
            "-O" | "-qO" => output = words.next().ok_or_else(usage)?,
            "--header" => headers.push(words.next().ok_or_else(usage)?),
            word if word.starts_with("--header=") => headers.push(&word["--header=".len()..]),
            word if word.starts_with('-') => return Err(usage()),
            word => url = Some(word),
        }
    }
    let headers: Vec<(&str, &str)> = headers
        .iter()
        .map(|header| header.split_once(':').map(|(name, value)| (name.trim(), value.trim())))
        .collect::<Option<_>>()
        .ok_or_else(usage)?;
    let answer = kit::http::fetch(url.ok_or_else(usage)?, &headers)?;
    if show {
        kit::eprint(&format!("  HTTP/1.1 {}\n", answer.status));
        for (name, value) in &answer.headers {
            kit::eprint(&format!("  {name}: {}\n", String::from_utf8_lossy(value)));
        }
    }
    match output {
        "-" => kit::print_bytes(&answer.body),
        file => kit::fs::write(file, &answer.body)?,
    }
    if answer.status >= 400 {
        return Err(format!("server returned error: HTTP/1.1 {}", answer.status));
    }
    Ok(())
}

/// `nslookup NAME` asks as every program does; `nslookup NAME SERVER` sends a query of its own.
fn nslookup(args: &[&str]) -> Result<(), String> {
    let (name, addresses) = match args {
        [name] => (name, resolve(name)?),
        [name, server] => (name, dns::ask(name, server)?),
        _ => return Err("usage: nslookup NAME [SERVER]".to_string()),
    };
    let mut text = format!("Name:\t{name}\n");
    for address in &addresses {
        let _ = writeln!(text, "Address: {}", display(address));
    }
    kit::print(&text);
    if addresses.is_empty() { Err(format!("can't resolve '{name}'")) } else { Ok(()) }
}

/// `nc HOST PORT [WORDS…]`: sends the words as a line, or else standard input, and prints what
/// comes back; `nc -z HOST PORT` only connects; `nc -u HOST PORT WORDS…` sends the words as a
/// datagram and prints the first that comes back.
fn nc(args: &[&str]) -> Result<(), String> {
    let usage = || "usage: nc [-z|-u] HOST PORT [WORDS…]".to_string();
    let (option, args) = match args.split_first() {
        Some((option, rest)) if option.starts_with('-') => (Some(*option), rest),
        _ => (None, args),
    };
    let [host, port, words @ ..] = args else { return Err(usage()) };
    let only_connect = match option {
        None => false,
        Some("-z") => true,
        Some("-u") => {
            let port = port.parse().map_err(|_| usage())?;
            let answer = Udp::exchange(words.join(" ").as_bytes(), host, port)?;
            kit::print_bytes(&answer);
            return Ok(());
        }
        Some(_) => return Err(usage()),
    };
    let stream = Stream::connect(host, port.parse().map_err(|_| usage())?)?;
    if only_connect {
        return Ok(());
    }
    if words.is_empty() {
        let stdin = wasip2::cli::stdin::get_stdin();
        while let Ok(bytes) = stdin.blocking_read(65_536) {
            stream.write_all(&bytes)?;
        }
    } else {
        stream.write_all(format!("{}\n", words.join(" ")).as_bytes())?;
    }
    stream.finish_writing();
    while let Some(bytes) = stream.read_blocking(65_536)? {
        kit::print_bytes(&bytes);
    }
    Ok(())
}
