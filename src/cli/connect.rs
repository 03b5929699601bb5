//! Finds the cluster: which kubeconfig, which context, which namespace, and a client for it.
//!
//! Looked at in this order, the first that is there wins: `--kubeconfig`, `$KUBECONFIG`,
//! `~/.kube/config`, `./coracle-data/kubeconfig` (where `coracle server` writes it), the service
//! account of the pod that this runs in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use jiff::Timestamp;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::call::Connection;
use super::duration;
use super::failure::Failure;
use crate::link::identity::{Facts, certificates_from_pem};

const DATA_DIR: &str = "coracle-data/kubeconfig";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Which cluster a verb talks to.
#[derive(Debug, Clone, Default, Args)]
pub struct ConnectionArgs {
    /// The kubeconfig to use [default: $KUBECONFIG, ~/.kube/config, ./coracle-data/kubeconfig]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Cluster")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig to use [default: its current one]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Cluster")]
    pub context: Option<String>,
    /// The namespace to work in [default: that of the context]
    #[arg(short, long, global = true, value_name = "NAME", help_heading = "Cluster")]
    pub namespace: Option<String>,
    /// How long one request may take; 0 waits for ever
    #[arg(
        long,
        global = true,
        value_name = "DURATION",
        default_value = "60s",
        value_parser = duration::parse,
        help_heading = "Cluster"
    )]
    pub request_timeout: Duration,
}

/// Where the way to the cluster is written.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    Files(Vec<PathBuf>),
    InCluster,
}

struct Surroundings<'a> {
    kubeconfig_variable: Option<std::ffi::OsString>,
    home: Option<PathBuf>,
    in_cluster: bool,
    exists: &'a dyn Fn(&Path) -> bool,
}

fn source(given: Option<&Path>, around: &Surroundings<'_>) -> Result<Source, Failure> {
    if let Some(file) = given {
        if (around.exists)(file) {
            return Ok(Source::Files(vec![file.to_owned()]));
        }
        return Err(Failure::other(format!(
            "there is no kubeconfig {}: name another file with --kubeconfig",
            file.display()
        )));
    }
    if let Some(variable) = around.kubeconfig_variable.as_ref().filter(|v| !v.is_empty()) {
        let named = std::env::split_paths(variable).filter(|p| !p.as_os_str().is_empty());
        let files: Vec<PathBuf> = named.filter(|p| (around.exists)(p)).collect();
        if files.is_empty() {
            return Err(Failure::other(format!(
                "none of the files in $KUBECONFIG ({}) exists: correct or unset it, or name a \
                 kubeconfig with --kubeconfig",
                variable.to_string_lossy()
            )));
        }
        return Ok(Source::Files(files));
    }
    let home = around.home.as_ref().map(|home| home.join(".kube/config"));
    let known = home.into_iter().chain([PathBuf::from(DATA_DIR)]);
    match known.into_iter().find(|file| (around.exists)(file)) {
        Some(file) => Ok(Source::Files(vec![file])),
        None if around.in_cluster => Ok(Source::InCluster),
        None => Err(Failure::other(format!(
            "no cluster found: $KUBECONFIG is not set, and there is neither ~/.kube/config nor \
             ./{DATA_DIR}. Start a cluster with `coracle server`, or name the kubeconfig of one \
             with --kubeconfig FILE"
        ))),
    }
}

fn read(files: &[PathBuf]) -> Result<Kubeconfig, Failure> {
    let mut merged = Kubeconfig::default();
    for file in files {
        let bad = |why: String| {
            Failure::other(format!("the kubeconfig {} cannot be used: {why}", file.display()))
        };
        let one = Kubeconfig::read_from(file).map_err(|error| bad(first_line(&error)))?;
        merged = merged.merge(one).map_err(|error| bad(error.to_string()))?;
    }
    Ok(merged)
}

fn first_line(error: &dyn std::fmt::Display) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// The context that will be used.
///
/// # Errors
/// There is none of that name, or none is chosen; with those that there are.
fn context<'a>(config: &'a Kubeconfig, asked: Option<&'a str>) -> Result<&'a str, Failure> {
    let names: Vec<&str> = config.contexts.iter().map(|c| c.name.as_str()).collect();
    let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    match asked.or(config.current_context.as_deref()).filter(|name| !name.is_empty()) {
        Some(name) if names.contains(&name) => Ok(name),
        Some(name) => Err(Failure::other(format!(
            "context \"{name}\" does not exist: the kubeconfig has {known}; choose one with \
             --context"
        ))),
        None => Err(Failure::other(format!(
            "the kubeconfig chooses no current context: it has {known}; choose one with --context"
        ))),
    }
}

/// A client of the cluster that the arguments and the surroundings name. Nothing is asked yet.
///
/// # Errors
/// No kubeconfig, or one that cannot be used.
pub async fn connect(args: &ConnectionArgs) -> Result<Connection, Failure> {
    let around = Surroundings {
        kubeconfig_variable: std::env::var_os("KUBECONFIG"),
        home: std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from),
        in_cluster: std::env::var_os("KUBERNETES_SERVICE_HOST").is_some(),
        exists: &|path| path.exists(),
    };
    let (mut config, origin) = match source(args.kubeconfig.as_deref(), &around)? {
        Source::InCluster => {
            let config = Config::incluster_env().map_err(|error| {
                Failure::other(format!("the service account of this pod cannot be used: {error}"))
            })?;
            (config, "the pod's service account".to_owned())
        }
        Source::Files(files) => {
            let merged = read(&files)?;
            let context = context(&merged, args.context.as_deref())?.to_owned();
            let origin: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
            let origin = origin.join(":");
            let options =
                KubeConfigOptions { context: Some(context), ..KubeConfigOptions::default() };
            let config = Config::from_custom_kubeconfig(merged, &options).await;
            let config = config.map_err(|error| {
                let why = first_line(&error);
                Failure::other(format!("the kubeconfig {origin} cannot be used: {why}"))
            })?;
            (config, origin)
        }
    };
    still_valid(&config, &origin)?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.write_timeout = None;
    // What the server cannot do now is told at once, not tried again in silence.
    config.default_retry = false;
    let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let url = config.cluster_url.clone();
    let client = kube::Client::try_from(config).map_err(|error| {
        Failure::other(format!("the kubeconfig {origin} cannot be used: {}", first_line(&error)))
    })?;
    Ok(Connection::new(client, namespace, &url, origin, args.request_timeout))
}

/// The server answers a certificate that has ended with 401, as it would any stranger; why is
/// known here.
///
/// # Errors
/// The client certificate is past its time. One that cannot be read is left to the client itself.
fn still_valid(config: &Config, origin: &str) -> Result<(), Failure> {
    let user = &config.auth_info;
    let pem = match (&user.client_certificate_data, &user.client_certificate) {
        (Some(data), _) => STANDARD.decode(data).ok(),
        (None, Some(file)) => std::fs::read(file).ok(),
        (None, None) => None,
    };
    let pem = pem.and_then(|pem| String::from_utf8(pem).ok());
    let certificates = pem.and_then(|pem| certificates_from_pem(&pem).ok()).unwrap_or_default();
    let Some(facts) = certificates.first().and_then(|der| Facts::read(der).ok()) else {
        return Ok(());
    };
    facts.check_validity(Timestamp::now()).map_err(|error| {
        Failure::other(format!(
            "the kubeconfig {origin} cannot be used: {error}; take the kubeconfig that `coracle \
             server` writes into its data directory"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(given: Option<&str>, variable: &str, there: &[&str]) -> Result<Source, String> {
        let exists = |path: &Path| there.iter().any(|t| Path::new(t) == path);
        let around = Surroundings {
            kubeconfig_variable: Some(variable.into()),
            home: Some("/home/me".into()),
            in_cluster: false,
            exists: &exists,
        };
        source(given.map(Path::new), &around).map_err(|failure| failure.to_string())
    }

    fn files(names: &[&str]) -> Result<Source, String> {
        Ok(Source::Files(names.iter().map(PathBuf::from).collect()))
    }

    #[test]
    fn the_nearest_kubeconfig_is_found() {
        let home = "/home/me/.kube/config";
        let data = "coracle-data/kubeconfig";
        let all = ["a", "b", home, data];
        assert_eq!(found(Some("a"), "b", &all), files(&["a"]));
        assert_eq!(found(None, "b:x:a", &all), files(&["b", "a"]));
        assert_eq!(found(None, "", &all), files(&[home]));
        assert_eq!(found(None, "", &[data]), files(&[data]));
        let told = found(None, "", &[]).expect_err("nothing is there");
        assert!(told.contains("no cluster found") && told.contains("coracle server"), "{told}");
        let told = found(Some("x"), "", &all).expect_err("it is not there");
        assert!(told.contains("no kubeconfig x"), "{told}");
        let told = found(None, "x:y", &all).expect_err("none is there");
        assert!(told.contains("x:y"), "{told}");
    }

    #[test]
    fn a_context_that_is_not_there_is_told_with_those_that_are() {
        let text = "contexts:\n- name: a\n  context: {cluster: c}\ncurrent-context: b\n";
        let config = Kubeconfig::from_yaml(text).expect("a kubeconfig");
        assert_eq!(context(&config, Some("a")).expect("it is there"), "a");
        let told = context(&config, None).expect_err("b is not there").to_string();
        assert!(told.contains("\"b\" does not exist: the kubeconfig has a;"), "{told}");
    }
}
