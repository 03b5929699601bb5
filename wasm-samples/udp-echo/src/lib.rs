//! Sends every datagram back to where it came from. `PORT` (7007) is where it listens. It ends
//! with 0 when its socket is closed.

struct Echo;

wasip2::cli::command::export!(Echo);

impl wasip2::exports::cli::run::Guest for Echo {
    fn run() -> Result<(), ()> {
        let port = kit::env("PORT").and_then(|port| port.parse().ok()).unwrap_or(7007);
        echo(port).map_err(|error| kit::eprint(&format!("udp-echo: {error}\n")))
    }
}

fn echo(port: u16) -> Result<(), String> {
    let socket = kit::net::Udp::bind(port)?;
    kit::print(&format!("echoing on {port}\n"));
    while let Ok(datagrams) = socket.receive() {
        for datagram in datagrams {
            socket.send(&datagram.data, datagram.remote_address)?;
        }
    }
    Ok(())
}
