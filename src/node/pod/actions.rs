//! What probes and lifecycle hooks do: ask over http, connect, execute, wait. The outcome is `Ok`
//! or what the kubelet would write of it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Request, header};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::spec::seconds;
use crate::net::{self, Namespace};
use crate::runtime::Workload;

/// As much of an answer is shown in an event.
const OUTPUT_BYTES_MAX: usize = 10 << 10;

/// Where an action acts.
#[derive(Clone)]
pub struct Target {
    /// The node's own namespace: it dials as the kubelet does.
    pub host: Arc<Namespace>,
    pub pod_ip: IpAddr,
    pub container: Arc<Container>,
    pub workload: Arc<Workload>,
}

fn shown(bytes: &[u8]) -> String {
    let end = bytes.len().min(OUTPUT_BYTES_MAX);
    String::from_utf8_lossy(&bytes[..end]).trim_end().to_owned()
}

impl Target {
    fn port(&self, port: &IntOrString) -> Result<u16, String> {
        let wrong = |port: &str| format!("strconv.Atoi: parsing {port:?}: invalid syntax");
        match port {
            IntOrString::Int(number) => {
                u16::try_from(*number).map_err(|_| format!("invalid port number: {number}"))
            }
            IntOrString::String(name) => {
                let named = self.container.ports.iter().flatten();
                let found = named.into_iter().find(|p| p.name.as_deref() == Some(name));
                let number = found.map(|p| p.container_port).or_else(|| name.parse().ok());
                number.and_then(|n| u16::try_from(n).ok()).ok_or_else(|| wrong(name))
            }
        }
    }

    fn address(&self, host: Option<&str>, port: u16) -> Result<SocketAddr, String> {
        let ip = match host.filter(|h| !h.is_empty()) {
            Some(host) => host.parse().map_err(|_| format!("lookup {host}: no such host"))?,
            None => self.pod_ip,
        };
        Ok(SocketAddr::new(ip, port))
    }

    async fn http(&self, action: &HTTPGetAction) -> Result<(), String> {
        let address = self.address(action.host.as_deref(), self.port(&action.port)?)?;
        let scheme = action.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
        let path = action.path.as_deref().unwrap_or("/");
        let slash = if path.starts_with('/') { "" } else { "/" };
        let url = format!("{scheme}://{address}{slash}{path}");
        let mut request = Request::get(&url)
            .header(header::USER_AGENT, "kube-probe/1.37")
            .header(header::ACCEPT, "*/*")
            .body(net::empty())
            .map_err(|e| format!("parse {url:?}: {e}"))?;
        for custom in action.http_headers.iter().flatten() {
            let name = HeaderName::from_bytes(custom.name.as_bytes());
            let value = HeaderValue::from_str(&custom.value);
            if let (Ok(name), Ok(value)) = (name, value) {
                request.headers_mut().insert(name, value);
            }
        }
        let response = self.host.request(request).await;
        let response = response.map_err(|e| format!("Get \"{url}\": {e}"))?;
        let status = response.status().as_u16();
        if (200..400).contains(&status) {
            return Ok(());
        }
        let mut body = response.into_body();
        let mut text = Vec::new();
        while let Some(Ok(frame)) = body.frame().await {
            text.extend_from_slice(frame.data_ref().map(AsRef::as_ref).unwrap_or_default());
            if text.len() >= OUTPUT_BYTES_MAX {
                break;
            }
        }
        tracing::debug!(url, status, body = %shown(&text), "an http probe failed");
        Err(format!("HTTP probe failed with statuscode: {status}"))
    }

    async fn tcp(&self, action: &TCPSocketAction) -> Result<(), String> {
        let address = self.address(action.host.as_deref(), self.port(&action.port)?)?;
        match self.host.connect(address).await {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("dial tcp {address}: connect: {error}")),
        }
    }

    async fn exec(&self, action: &ExecAction) -> Result<(), String> {
        let command = action.command.clone().unwrap_or_default();
        match self.workload.exec(command).await {
            Ok(result) if result.code == 0 => Ok(()),
            Ok(result) => {
                let mut output = result.stdout;
                output.extend_from_slice(&result.stderr);
                let text = shown(&output);
                let code = format!("command exited with code {}", result.code);
                Err(if text.is_empty() { code } else { text })
            }
            Err(error) => Err(error.to_string()),
        }
    }

    async fn grpc(&self, action: &GRPCAction) -> Result<(), String> {
        let port = u16::try_from(action.port).map_err(|_| "invalid port number".to_owned())?;
        let address = self.address(None, port)?;
        let stream = self.host.connect(address).await;
        let stream = stream.map_err(|e| format!("dial tcp {address}: connect: {e}"))?;
        super::grpc::check(stream, address, action.service.as_deref().unwrap_or_default()).await
    }

    /// One try of a probe.
    pub async fn probe(&self, probe: &Probe) -> Result<(), String> {
        let limit = seconds(i64::from(probe.timeout_seconds.unwrap_or(1)).max(1));
        let action = async {
            if let Some(action) = &probe.http_get {
                self.http(action).await
            } else if let Some(action) = &probe.tcp_socket {
                self.tcp(action).await
            } else if let Some(action) = &probe.exec {
                self.exec(action).await
            } else if let Some(action) = &probe.grpc {
                self.grpc(action).await
            } else {
                Err("the probe has no handler".to_owned())
            }
        };
        match tokio::time::timeout(limit, action).await {
            Ok(result) => result,
            Err(_) => Err(match &probe.exec {
                Some(exec) => format!(
                    "command timed out: {:?} timed out after {limit:?}",
                    exec.command.clone().unwrap_or_default().join(" ")
                ),
                None => "context deadline exceeded".to_owned(),
            }),
        }
    }

    /// A lifecycle hook; how long it may take is its caller's affair.
    pub async fn hook(&self, handler: &LifecycleHandler) -> Result<(), String> {
        if let Some(action) = &handler.exec {
            self.exec(action).await
        } else if let Some(action) = &handler.http_get {
            self.http(action).await
        } else if let Some(sleep) = &handler.sleep {
            tokio::time::sleep(seconds(sleep.seconds)).await;
            Ok(())
        } else {
            Err("invalid handler: it needs exec, httpGet or sleep".to_owned())
        }
    }
}

/// The pause between two tries of a probe, and before the first.
pub fn pauses(probe: &Probe) -> (Duration, Duration) {
    let of = |n: Option<i32>, default: i64| seconds(n.map_or(default, i64::from));
    let period = of(probe.period_seconds, 10).max(Duration::from_secs(1));
    (of(probe.initial_delay_seconds, 0), period)
}
