//! What gets are measured against: hyper with the same TLS that answers every request with the same
//! bytes, in a process of its own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use coracle::base::clock::SystemClock;
use coracle::link::identity::{Ca, Identity, IdentityRequest, Usage};
use coracle::link::tls::{ALPN_HTTP1, client_config, server_config_with};
use http_body_util::Full;
use hyper_util::rt::TokioIo;

use crate::wire::Target;

pub struct Bare {
    child: Child,
    pub target: Target,
}

impl Bare {
    pub fn start(dir: &Path, body: &[u8]) -> Self {
        let dir = dir.join("bare");
        let ca = Ca::open_or_create(&dir, SystemClock::shared()).expect("a CA");
        let serving = ca.issue(&IdentityRequest {
            common_name: "bare".into(),
            organizations: Vec::new(),
            sans: vec!["localhost".into()],
            usages: vec![Usage::ServerAuth],
            lifetime: Duration::from_secs(3600),
        });
        serving.expect("a certificate").save(&dir, "bare").expect("saved");
        std::fs::write(dir.join("body"), body).expect("written");
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .arg("bare")
            .arg(&dir)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        let out = child.stdout.take().expect("a pipe");
        BufReader::new(out).read_line(&mut line).expect("an address");
        let tls = client_config(ca.certificate(), None, &[ALPN_HTTP1]).expect("a configuration");
        let address = line.trim().parse().expect("an address");
        Self { child, target: Target { address, tls } }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The child.
pub fn child(args: &[String]) {
    let dir = Path::new(&args[0]);
    let body = Bytes::from(std::fs::read(dir.join("body")).expect("the body"));
    let ca = Ca::open_or_create(dir, SystemClock::shared()).expect("the CA");
    let identity = Identity::load(dir, "bare").expect("readable").expect("there");
    let tls = server_config_with(&identity, ca.certificate(), &[ALPN_HTTP1]).expect("TLS");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("{}", listener.local_addr().expect("an address"));
        let acceptor = tokio_rustls::TlsAcceptor::from(tls);
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, body) = (acceptor.clone(), body.clone());
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = hyper::service::service_fn(move |_| {
                    let answer = http::Response::builder()
                        .header("content-type", "application/json")
                        .body(Full::new(body.clone()));
                    async move { answer }
                });
                let http = hyper::server::conn::http1::Builder::new();
                let _ = http.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
}
