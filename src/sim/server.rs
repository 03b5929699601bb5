//! The server of a simulation: a process of its own, so that what it costs can be told apart.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::config::Kubeconfig;
use tokio::process::{Child, Command};

use super::wire::{Connection, Endpoint};
use crate::link::identity::{Identity, JoinToken, certificates_from_pem};

/// How long the server may take to come up.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running server.
pub struct Server {
    program: PathBuf,
    data_dir: PathBuf,
    /// The port of the first start, which later ones keep.
    listen: String,
    child: Option<Child>,
    pub endpoint: Endpoint,
    admin: Identity,
    pub token: JoinToken,
}

impl Server {
    /// Starts a server on a directory, and waits until it serves.
    ///
    /// # Errors
    /// It ended, or is too slow.
    pub async fn start(data_dir: &Path) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this executable cannot be found")?;
        let (child, url) = launch(&program, data_dir, "127.0.0.1:0").await?;
        let kubeconfig = Kubeconfig::read_from(data_dir.join("kubeconfig"))?;
        let (ca, admin) = admin(&kubeconfig).context("the server's kubeconfig is incomplete")?;
        let token = std::fs::read_to_string(data_dir.join("join-token"))?.trim().parse()?;
        let ca = certificates_from_pem(&ca)?.into_iter().next().context("it has no CA")?;
        let endpoint = Endpoint::new(&url, ca);
        Ok(Self {
            program,
            data_dir: data_dir.to_owned(),
            listen: endpoint.address.clone(),
            child: Some(child),
            endpoint,
            admin,
            token,
        })
    }

    /// A connection of the administrator.
    ///
    /// # Errors
    /// As [`Endpoint::connect`].
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        self.endpoint.connect(Some(&self.admin), None).await
    }

    /// Who may do everything.
    pub fn admin(&self) -> &Identity {
        &self.admin
    }

    /// Kills the server, as a power cut would, and starts it again on what it left.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn crash(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        let _ = std::fs::remove_file(self.data_dir.join("ready"));
        let (child, _) = launch(&self.program, &self.data_dir, &self.listen).await?;
        self.child = Some(child);
        Ok(())
    }

    /// Seconds of processor time that it has used.
    pub fn cpu_seconds(&self) -> f64 {
        let read = || {
            let id = self.child.as_ref()?.id()?;
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
            // Behind the name, which may hold anything, in parentheses.
            let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
            let ticks: f64 =
                fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
            Some(ticks / rustix::param::clock_ticks_per_second() as f64)
        };
        read().unwrap_or(f64::NAN)
    }

    /// Its resident memory in MiB.
    pub fn resident_mib(&self) -> f64 {
        let read = || {
            let id = self.child.as_ref()?.id()?;
            let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
            let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
            line.split_whitespace().nth(1)?.parse::<f64>().ok().map(|kib| kib / 1024.0)
        };
        read().unwrap_or(f64::NAN)
    }

    /// Ends it in order; kills it when that takes too long.
    pub async fn stop(mut self) {
        let Some(mut child) = self.child.take() else { return };
        // Its standard input ends, which it takes for a signal.
        drop(child.stdin.take());
        if tokio::time::timeout(Duration::from_secs(10), child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
    }
}

async fn launch(program: &Path, data_dir: &Path, listen: &str) -> anyhow::Result<(Child, String)> {
    let log = data_dir.join("server.log");
    let out = std::fs::File::options().create(true).append(true).open(&log)?;
    let mut child = Command::new(program)
        .arg("server")
        .arg("--data-dir")
        .arg(data_dir)
        .args(["--listen", listen, "--stop-at-stdin-eof"])
        .stdin(Stdio::piped())
        .stdout(out.try_clone()?)
        .stderr(out)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("the server cannot be started")?;
    let (ready, start) = (data_dir.join("ready"), Instant::now());
    loop {
        if let Ok(url) = std::fs::read_to_string(&ready)
            && !url.trim().is_empty()
        {
            return Ok((child, url.trim().to_owned()));
        }
        if let Some(status) = child.try_wait()? {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let last: Vec<&str> = text.lines().rev().take(10).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            bail!("the server ended ({status}); it said:\n{}", last.join("\n"));
        }
        if start.elapsed() > PATIENCE {
            bail!(
                "the server does not serve after {} s; see {}",
                PATIENCE.as_secs(),
                log.display()
            );
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn admin(kubeconfig: &Kubeconfig) -> Option<(String, Identity)> {
    let text = |encoded: &str| String::from_utf8(STANDARD.decode(encoded).ok()?).ok();
    let cluster = kubeconfig.clusters.first()?.cluster.as_ref()?;
    let user = kubeconfig.auth_infos.first()?.auth_info.as_ref()?;
    let ca = text(cluster.certificate_authority_data.as_deref()?)?;
    let certificate = text(user.client_certificate_data.as_deref()?)?;
    let value = serde_json::to_value(user).ok()?;
    let key = text(value["client-key-data"].as_str()?)?;
    Some((ca, Identity::new(certificate, key).ok()?))
}
