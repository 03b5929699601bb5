//! `port-forward`: ports of this machine that lead into a pod, over one connection to the server.

use std::net::IpAddr;
use std::sync::Arc;

use clap::Args;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::pod;
use super::target::{elements, name_of, namespace_of};
use crate::cli::call::{Connection, escape};
use crate::cli::failure::Failure;
use crate::cli::out::Out;
use crate::stream::client::Forwarder;
use crate::stream::upgrade::{Purpose, TUNNELED_PORT_FORWARD};

/// Connections that are forwarded at once.
const CONNECTIONS_MAX: usize = 256;
/// What is read of why a connection failed.
const WHY_BYTES_MAX: u64 = 4096;

/// What `port-forward` is asked.
#[derive(Debug, Clone, Args)]
pub struct PortForwardArgs {
    /// POD, or KIND/NAME of a workload or Service
    #[arg(value_name = "POD|KIND/NAME")]
    pub object: String,
    /// A port, or one of this machine and one of the pod; by number or name
    #[arg(value_name = "[LOCAL:]REMOTE", required = true)]
    pub ports: Vec<String>,
    /// The address of this machine to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub address: IpAddr,
}

/// A port of this machine (0: any that is free) and the port of the pod that it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair {
    local: u16,
    remote: u16,
}

/// Forwards ports until it is ended or the connection breaks.
///
/// # Errors
/// Bad usage, no server, no such pod, a port that is taken, the end of the connection.
pub async fn run(
    args: &PortForwardArgs,
    connection: &Connection,
    out: &mut Out,
) -> Result<(), Failure> {
    let (pod, object) = pod::named(connection, &args.object, out).await?;
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    if phase != "Running" {
        return Err(Failure::other(format!(
            "unable to forward port because pod is not running. Current status={phase}"
        )));
    }
    let read = |text: &String| pair(text, &pod, &object);
    let pairs: Vec<Pair> = args.ports.iter().map(read).collect::<Result<_, _>>()?;
    let mut listeners = Vec::new();
    for pair in pairs {
        let address = (args.address, pair.local);
        let listener = TcpListener::bind(address).await.map_err(|error| {
            Failure::other(format!(
                "cannot listen on {}:{}: {error}; choose another port with LOCAL:REMOTE",
                args.address, pair.local
            ))
        })?;
        listeners.push((listener, pair.remote));
    }
    let path = format!(
        "/api/v1/namespaces/{}/pods/{}/portforward",
        escape(namespace_of(&pod)),
        escape(name_of(&pod))
    );
    let protocols = [TUNNELED_PORT_FORWARD];
    let (io, _) = connection.upgrade(&path, Purpose::PortForward, &protocols).await?;
    let forwarder = Arc::new(Forwarder::start(io).await);
    for (listener, remote) in &listeners {
        let local = listener.local_addr()?;
        out.line(format!("Forwarding from {local} -> {remote}"))?;
    }
    out.flush()?;
    let mut accepting = JoinSet::new();
    for (listener, remote) in listeners {
        accepting.spawn(accept(listener, remote, Arc::clone(&forwarder)));
    }
    forwarder.ended().await;
    Err(Failure::other("lost connection to pod"))
}

async fn accept(listener: TcpListener, remote: u16, forwarder: Arc<Forwarder>) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if running.len() < CONNECTIONS_MAX => {
                    running.spawn(forward(stream, remote, Arc::clone(&forwarder)));
                }
                // Dropped, it is closed.
                Ok(_) => eprintln!("E: more than {CONNECTIONS_MAX} connections at once"),
                Err(error) => {
                    eprintln!("E: a connection was not accepted: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            },
            Some(_) = running.join_next() => {}
        }
    }
}

async fn forward(mut local: TcpStream, remote: u16, forwarder: Arc<Forwarder>) {
    // An answer that is written in pieces is not to wait for acknowledgements.
    let _ = local.set_nodelay(true);
    let (mut data, error) = match forwarder.connect(remote).await {
        Ok(both) => both,
        Err(error) => return eprintln!("E: port {remote}: {error}"),
    };
    let mut why = String::new();
    let told = async {
        let _ = error.take(WHY_BYTES_MAX).read_to_string(&mut why).await;
    };
    let ((), _) = tokio::join!(told, tokio::io::copy_bidirectional(&mut local, &mut data));
    let _ = data.shutdown().await;
    if !why.is_empty() {
        eprintln!("E: an error occurred forwarding {remote}: {why}");
    }
}

/// Reads `[LOCAL:]REMOTE`; a name, and a port of a Service, becomes the port of the pod.
fn pair(text: &str, pod: &Value, object: &Value) -> Result<Pair, Failure> {
    let (local, remote) = match text.split_once(':') {
        Some((local, remote)) => (local, remote),
        None => (text, text),
    };
    let wrong = || Failure::usage(format!("{text:?} is no port, and not LOCAL:REMOTE"));
    let remote_port = if object["kind"] == "Service" {
        of_service(remote, pod, object)?
    } else {
        port_of(remote, pod).ok_or_else(|| no_port(remote, pod))?
    };
    let local = match (local, local.parse()) {
        ("", _) => 0,
        (_, Ok(port)) => port,
        // A name stands for the same number on both ends.
        (name, Err(_)) if name == remote => remote_port,
        _ => return Err(wrong()),
    };
    Ok(Pair { local, remote: remote_port })
}

fn no_port(name: &str, pod: &Value) -> Failure {
    let pod = name_of(pod);
    Failure::usage(format!("Pod '{pod}' does not have a named port '{name}'"))
}

/// The number of a port of the pod's containers.
fn port_of(text: &str, pod: &Value) -> Option<u16> {
    if let Ok(port) = text.parse::<u16>() {
        return (port > 0).then_some(port);
    }
    let containers = elements(&pod["spec"]["containers"]).iter();
    let mut ports = containers.flat_map(|container| elements(&container["ports"]));
    let found = ports.find(|port| port["name"] == text)?;
    u16::try_from(found["containerPort"].as_u64()?).ok()
}

/// The port of the pod behind a port of a Service.
fn of_service(text: &str, pod: &Value, service: &Value) -> Result<u16, Failure> {
    let ports = elements(&service["spec"]["ports"]);
    let found = ports.iter().find(|port| {
        port["name"] == text || text.parse().is_ok_and(|number: u64| port["port"] == number)
    });
    let name = name_of(service);
    let found = found.ok_or_else(|| {
        Failure::usage(format!("Service '{name}' does not have a service port '{text}'"))
    })?;
    match &found["targetPort"] {
        Value::String(name) => port_of(name, pod).ok_or_else(|| no_port(name, pod)),
        Value::Number(number) => port_of(&number.to_string(), pod)
            .ok_or_else(|| Failure::other(format!("Service '{name}' has an odd targetPort"))),
        _ => port_of(&found["port"].to_string(), pod).ok_or_else(|| no_port(text, pod)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ports_are_read_by_number_and_by_name() {
        let ports = json!([{"name": "http", "containerPort": 8080}]);
        let pod = json!({"kind": "Pod", "metadata": {"name": "p"},
            "spec": {"containers": [{"ports": ports}]}});
        let of = |text: &str| {
            let found = pair(text, &pod, &pod).map_err(|failure| failure.to_string());
            found.map(|pair| (pair.local, pair.remote))
        };
        assert_eq!(of("80"), Ok((80, 80)));
        assert_eq!(of("8000:80"), Ok((8000, 80)));
        assert_eq!(of(":80"), Ok((0, 80)));
        assert_eq!(of("http"), Ok((8080, 8080)));
        assert_eq!(of("5000:http"), Ok((5000, 8080)));
        assert!(of("x:80").expect_err("no port").contains("\"x:80\" is no port"));
        assert!(of("80:none").expect_err("no name").contains("named port 'none'"));
        let service = json!({"kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [
            {"name": "web", "port": 80, "targetPort": "http"}, {"port": 81, "targetPort": 9000},
            {"port": 82}]}});
        let of = |text: &str| {
            let found = pair(text, &pod, &service).map_err(|failure| failure.to_string());
            found.map(|pair| (pair.local, pair.remote))
        };
        assert_eq!(of("80"), Ok((80, 8080)));
        assert_eq!(of("web"), Ok((8080, 8080)));
        assert_eq!(of("1:81"), Ok((1, 9000)));
        assert_eq!(of("82"), Ok((82, 82)));
        assert!(of("83").expect_err("none").contains("service port '83'"));
    }
}
