//! A pod's namespace of the kernel's network: its sockets, and what its kernel is told.
//!
//! ```text
//!   eth0 10.128.0.7/32 ─ default route        nothing is connected to it: eth0 and its peer are
//!                                             both in the namespace
//!   TCP that leaves   ─ nat redirect ─▶ 127.0.0.1:15001    accept() and SO_ORIGINAL_DST
//!   UDP that leaves   ─ mark, lo, tproxy ─▶ 127.0.0.1:15001    recvmsg() and IP_ORIGDSTADDR
//!   TCP that comes    ─ a transparent socket bound to the client's address, marked, so that the
//!                       answers are routed back to it
//!   UDP that comes    ─ the same
//! ```
//! No packet ever enters or leaves the namespace: what crosses its border are bytes in the hands
//! of the agent. Without the agent a pod reaches itself and nobody else.
//!
//! Sockets are made by one thread that enters the namespace for each; they stay usable outside.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock, Weak, mpsc};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::sys;
use crate::net::{Caught, CaughtDatagram, KernelNamespace, Refused};

/// Where what leaves the pod is caught. Containers cannot use this port.
const CATCH: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15001);
/// On packets that are to be delivered in the namespace though their address is not of it.
const MARK_HERE: u32 = 0xc0;
/// On packets of the agent's own sockets that speak for somebody else.
const MARK_OURS: u32 = 0xc1;
/// The table of routes for the first.
const ROUTES: u32 = 100;
/// How long a container may take to answer a handshake within its own kernel.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Addresses that datagrams were delivered from, each with a socket.
const SENDERS: usize = 256;
/// As in `net`.
const DATAGRAM_MAX: usize = 65_507;
const BACKLOG: i32 = 1024;

type Task = Box<dyn FnOnce() + Send>;

/// The thread that enters namespaces. It belongs to none of them between two tasks.
fn thread() -> &'static mpsc::Sender<Task> {
    static THREAD: OnceLock<mpsc::Sender<Task>> = OnceLock::new();
    THREAD.get_or_init(|| {
        let (sender, tasks) = mpsc::channel::<Task>();
        std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn(move || tasks.into_iter().for_each(|task| task()))
            .expect("a thread can be started");
        sender
    })
}

/// Does something within a namespace, on a thread of its own.
fn within<T: Send + 'static>(
    namespace: &Arc<File>,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (sender, answer) = mpsc::sync_channel(1);
    let namespace = Arc::clone(namespace);
    let task = Box::new(move || {
        let done = sys::enter_network(namespace.as_fd()).and_then(|()| work());
        // Whoever asked has gone.
        let _ = sender.send(done);
    });
    thread().send(task).map_err(|_| io::Error::other("the thread of namespaces has ended"))?;
    answer.recv().map_err(|_| io::Error::other("the thread of namespaces has ended"))?
}

fn socket(kind: Type, at: Option<SocketAddr>) -> io::Result<Socket> {
    let protocol = if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP };
    let socket = Socket::new(Domain::IPV4, kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if let Some(at) = at {
        socket.bind(&SockAddr::from(at))?;
    }
    Ok(socket)
}

/// A socket that may have an address of somebody else, and whose packets say so.
fn foreign(kind: Type, from: SocketAddr) -> io::Result<Socket> {
    let socket = socket(kind, None)?;
    socket.set_ip_transparent_v4(true)?;
    socket.set_mark(MARK_OURS)?;
    socket.set_reuse_address(true)?;
    match socket.bind(&SockAddr::from(from)) {
        // The same client may have two connections to two pods from what it takes for one port.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && kind == Type::STREAM => {
            socket.bind(&SockAddr::from(SocketAddr::new(from.ip(), 0)))?;
        }
        other => other?,
    }
    Ok(socket)
}

/// See the module.
pub struct KernelNet {
    namespace: Arc<File>,
    ip: IpAddr,
    tcp: tokio::net::TcpListener,
    udp: AsyncFd<Socket>,
    /// Sockets that datagrams are delivered from, by the address that they have.
    senders: Mutex<HashMap<SocketAddr, Arc<Socket>>>,
    /// Sockets of the pod's wasm, by their port.
    bound: Mutex<HashMap<u16, Weak<tokio::net::UdpSocket>>>,
    nft: std::path::PathBuf,
}

impl KernelNet {
    /// Opens the catching sockets in the namespace mounted at `path`. Call it in a runtime.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open(path: &Path, ip: IpAddr, nft: &Path) -> io::Result<Self> {
        let namespace = Arc::new(File::open(path)?);
        let (tcp, udp) = within(&namespace, || {
            let tcp = socket(Type::STREAM, None)?;
            tcp.set_reuse_address(true)?;
            tcp.bind(&SockAddr::from(CATCH))?;
            tcp.listen(BACKLOG)?;
            let udp = socket(Type::DGRAM, None)?;
            udp.set_ip_transparent_v4(true)?;
            sys::want_original_destination(udp.as_fd())?;
            udp.bind(&SockAddr::from(CATCH))?;
            Ok((tcp, udp))
        })?;
        Ok(Self {
            namespace,
            ip,
            tcp: tokio::net::TcpListener::from_std(tcp.into())?,
            udp: sys::watched(udp, Interest::READABLE)?,
            senders: Mutex::default(),
            bound: Mutex::default(),
            nft: nft.to_path_buf(),
        })
    }

    fn is_own(&self, ip: IpAddr) -> bool {
        ip == self.ip || ip.is_loopback()
    }

    /// The socket that a datagram `from` an address leaves by.
    fn sender(&self, from: SocketAddr) -> io::Result<Arc<Socket>> {
        let mut senders = self.senders.lock();
        if let Some(known) = senders.get(&from) {
            return Ok(Arc::clone(known));
        }
        if senders.len() >= SENDERS {
            // They are cheap to make again, so none is worth a clock.
            senders.clear();
        }
        let made = within(&self.namespace, move || foreign(Type::DGRAM, from))?;
        let made = Arc::new(made);
        senders.insert(from, Arc::clone(&made));
        Ok(made)
    }
}

impl KernelNamespace for KernelNet {
    fn connect(
        &self,
        from: SocketAddr,
        to: SocketAddr,
    ) -> BoxFuture<'static, io::Result<tokio::net::TcpStream>> {
        let own = self.is_own(from.ip()) || from.is_ipv6();
        let made = within(&self.namespace, move || {
            let socket =
                if own { socket(Type::STREAM, None)? } else { foreign(Type::STREAM, from)? };
            // Connecting begins here: the socket's namespace is that of its making anyway, and the
            // handshake within one kernel is done at once.
            match socket.connect(&SockAddr::from(to)) {
                Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
                other => other?,
            }
            Ok(socket)
        });
        Box::pin(async move {
            let stream = tokio::net::TcpStream::from_std(made?.into())?;
            let connected = tokio::time::timeout(CONNECT_TIMEOUT, stream.writable()).await;
            connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            match stream.take_error()? {
                Some(error) => Err(error),
                None => {
                    stream.set_nodelay(true)?;
                    Ok(stream)
                }
            }
        })
    }

    fn listen(&self, at: SocketAddr) -> io::Result<tokio::net::TcpListener> {
        let at = as_v4(at)?;
        let made = within(&self.namespace, move || {
            let socket = socket(Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&SockAddr::from(at))?;
            socket.listen(BACKLOG)?;
            Ok(socket)
        })?;
        tokio::net::TcpListener::from_std(made.into())
    }

    fn bind_udp(&self, at: SocketAddr) -> io::Result<Arc<tokio::net::UdpSocket>> {
        let at = as_v4(at)?;
        let made = within(&self.namespace, move || socket(Type::DGRAM, Some(at)))?;
        let socket = Arc::new(tokio::net::UdpSocket::from_std(made.into())?);
        let mut bound = self.bound.lock();
        bound.retain(|_, socket| socket.strong_count() > 0);
        bound.insert(at.port(), Arc::downgrade(&socket));
        Ok(socket)
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<Caught>> {
        Box::pin(async {
            let (socket, client) = self.tcp.accept().await?;
            let to = socket2::SockRef::from(&socket).original_dst_v4()?;
            let to = to.as_socket().ok_or_else(|| io::Error::other("no address of IPv4"))?;
            Ok(Caught { socket, client, to })
        })
    }

    fn recv(&self) -> BoxFuture<'_, io::Result<CaughtDatagram>> {
        Box::pin(async {
            let mut buffer = vec![0u8; DATAGRAM_MAX];
            let (len, from, to) = self
                .udp
                .async_io(Interest::READABLE, |socket| {
                    sys::recv_original(socket.as_fd(), &mut buffer)
                })
                .await?;
            Ok(CaughtDatagram { from, to, data: Bytes::copy_from_slice(&buffer[..len]) })
        })
    }

    fn send(&self, from: SocketAddr, to: SocketAddr, data: &[u8]) -> io::Result<()> {
        if self.is_own(from.ip()) {
            let bound = self.bound.lock().get(&from.port()).and_then(Weak::upgrade);
            if let Some(socket) = bound {
                return socket.try_send_to(data, to).map(drop);
            }
        }
        match self.sender(as_v4(from)?)?.send_to(data, &SockAddr::from(to)) {
            Ok(_) => Ok(()),
            // A full buffer loses datagrams, as it may; nobody listening is told to no one here.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn refuse(&self, refused: Refused) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            let (namespace, nft) = (Arc::clone(&self.namespace), self.nft.clone());
            let script = refused_script(&refused);
            let run = tokio::task::spawn_blocking(move || {
                let child = within(&namespace, move || start_nft(&nft))?;
                feed(child, &script)
            });
            run.await.map_err(io::Error::other)?
        })
    }
}

/// Pods have IPv4 here; what listens on all addresses of IPv6 listens on those of IPv4 too.
fn as_v4(at: SocketAddr) -> io::Result<SocketAddr> {
    match at.ip().to_canonical() {
        IpAddr::V4(ip) => Ok(SocketAddr::new(ip.into(), at.port())),
        IpAddr::V6(ip) if ip.is_unspecified() => {
            // The listener on 0.0.0.0 is often there as well, and one is enough.
            Ok(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), at.port()))
        }
        IpAddr::V6(ip) if ip.is_loopback() => {
            Ok(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), at.port()))
        }
        IpAddr::V6(_) => Err(io::ErrorKind::AddrNotAvailable.into()),
    }
}

/// Starts nft in the namespaces of the calling thread.
pub fn start_nft(nft: &Path) -> io::Result<std::process::Child> {
    Command::new(nft)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
}

/// Gives a tool its script and waits until it has done all of it.
pub fn feed(mut child: std::process::Child, script: &str) -> io::Result<()> {
    use std::io::Write;
    let mut stdin = child.stdin.take().expect("it was piped");
    let written = stdin.write_all(script.as_bytes());
    drop(stdin);
    let output = child.wait_with_output()?;
    if output.status.success() {
        return written;
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(said.lines().take(3).collect::<Vec<_>>().join("; ")))
}

/// What the kernel of a new namespace is told, in nft's words.
pub fn rules(ip: IpAddr) -> String {
    let (here, ours, port) = (MARK_HERE, MARK_OURS, CATCH.port());
    format!(
        "table ip coracle {{
 set refused_tcp {{ type ipv4_addr . inet_service; }}
 set refused_udp {{ type ipv4_addr . inet_service; }}
 chain steer {{
  type route hook output priority mangle; policy accept;
  meta mark {ours} ct mark set {ours} return
  ct mark {ours} ct direction reply meta mark set {here} return
  ip daddr 127.0.0.0/8 return
  ip daddr {ip} return
  meta l4proto udp meta mark set {here}
 }}
 chain divert {{
  type nat hook output priority -100; policy accept;
  meta mark {ours} return
  ip daddr 127.0.0.0/8 return
  ip daddr {ip} return
  ip daddr . tcp dport @refused_tcp return
  meta l4proto tcp redirect to :{port}
 }}
 chain guard {{
  type filter hook output priority filter; policy accept;
  ip daddr . tcp dport @refused_tcp reject with tcp reset
  ip daddr . udp dport @refused_udp reject
 }}
 chain take {{
  type filter hook prerouting priority mangle; policy accept;
  meta mark {here} meta l4proto udp tproxy to 127.0.0.1:{port} accept
 }}
}}
"
    )
}

/// The interfaces and routes of a new namespace, in the words of `ip -batch`.
pub fn links(ip: IpAddr) -> String {
    format!(
        "link set lo up
link add eth0 type veth peer name eth0-void
addr add {ip}/32 dev eth0
link set eth0-void up
link set eth0 up
route add default dev eth0 src {ip}
rule add fwmark {MARK_HERE} lookup {ROUTES}
route add local default dev lo table {ROUTES}
"
    )
}

fn refused_script(refused: &Refused) -> String {
    let mut script = String::new();
    for (set, list) in [("refused_tcp", &refused.tcp), ("refused_udp", &refused.udp)] {
        script.push_str(&format!("flush set ip coracle {set}\n"));
        let v4 = list.iter().filter(|(ip, _)| ip.is_ipv4());
        let elements: Vec<String> = v4.map(|(ip, port)| format!("{ip} . {port}")).collect();
        if !elements.is_empty() {
            let all = elements.join(", ");
            script.push_str(&format!("add element ip coracle {set} {{ {all} }}\n"));
        }
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_replaces_what_was() {
        let ip: IpAddr = [10, 43, 0, 9].into();
        let refused = Refused { tcp: vec![(ip, 80), (ip, 81)], udp: Vec::new() };
        assert_eq!(
            refused_script(&refused),
            "flush set ip coracle refused_tcp\n\
             add element ip coracle refused_tcp { 10.43.0.9 . 80, 10.43.0.9 . 81 }\n\
             flush set ip coracle refused_udp\n"
        );
    }

    #[test]
    fn the_addresses_of_a_pod_are_of_ipv4() {
        let v4 = |text: &str| as_v4(text.parse().expect("an address")).ok().map(|a| a.to_string());
        assert_eq!(v4("[::]:80").as_deref(), Some("0.0.0.0:80"));
        assert_eq!(v4("[::1]:80").as_deref(), Some("127.0.0.1:80"));
        assert_eq!(v4("[2001:db8::1]:80"), None);
    }
}
