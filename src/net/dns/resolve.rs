//! The resolver of a pod, as its C library would do it: `/etc/hosts`, then search domains by
//! `ndots`, each asked of the cluster's zone or of the node's resolvers.

use std::net::IpAddr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};

use super::zone::{Answer, Kind, Record, Zone};
use super::{upstream, wire};
use crate::net::fabric::Fabric;
use crate::net::{Namespace, NetError};

/// How many CNAMEs are followed.
const CNAMES: usize = 8;

/// Looks a name up for a pod.
pub(crate) async fn resolve(pod: &Namespace, name: &str) -> Result<Vec<IpAddr>, NetError> {
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(vec![ip.to_canonical()]);
    }
    let name = if name.is_ascii() {
        name.to_ascii_lowercase()
    } else {
        // Names in other scripts travel as punycode.
        Name::from_utf8(name).map_err(|_| NetError::InvalidArgument)?.to_ascii()
    };
    if !is_name(&name) {
        return Err(NetError::InvalidArgument);
    }
    if let Some(ips) = hosts_file(pod, &name) {
        return Ok(ips);
    }
    let fabric = pod.fabric()?;
    let mut worst = NetError::NameNotFound;
    for candidate in candidates(pod, &fabric.config().cluster_domain, &name) {
        match lookup(&fabric, candidate).await {
            Ok(ips) if ips.is_empty() => {}
            Err(NetError::NameNotFound) => {}
            Ok(ips) => return Ok(ips),
            Err(error) => worst = error,
        }
    }
    Err(worst)
}

fn is_name(name: &str) -> bool {
    let labels = name.strip_suffix('.').unwrap_or(name);
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    labels.len() <= 253
        && labels.split('.').all(|l| !l.is_empty() && l.len() <= 63 && l.chars().all(valid))
}

/// What `/etc/hosts` of the pod says.
fn hosts_file(pod: &Namespace, name: &str) -> Option<Vec<IpAddr>> {
    let name = name.trim_end_matches('.');
    if name == "localhost" || name.ends_with(".localhost") {
        return Some(vec![[127, 0, 0, 1].into(), std::net::Ipv6Addr::LOCALHOST.into()]);
    }
    let spec = pod.spec();
    let aliases: Vec<IpAddr> = spec
        .hosts
        .iter()
        .filter(|(_, names)| names.iter().any(|n| n.eq_ignore_ascii_case(name)))
        .map(|(ip, _)| *ip)
        .collect();
    if !aliases.is_empty() {
        return Some(aliases);
    }
    (name == spec.hostname && !spec.hostname.is_empty()).then(|| vec![pod.ip()])
}

/// The names that are tried for a name, in order.
fn candidates(pod: &Namespace, domain: &str, name: &str) -> Vec<String> {
    if let Some(absolute) = name.strip_suffix('.') {
        return vec![absolute.to_owned()];
    }
    let spec = pod.spec();
    let search = match &spec.search {
        Some(given) => given.clone(),
        None if spec.namespace.is_empty() => Vec::new(),
        None => vec![
            format!("{}.svc.{domain}", spec.namespace),
            format!("svc.{domain}"),
            domain.to_owned(),
        ],
    };
    let mut names: Vec<String> =
        search.iter().map(|s| format!("{name}.{}", s.trim_end_matches('.'))).collect();
    let dots = name.matches('.').count();
    let position = if dots >= usize::from(spec.ndots) { 0 } else { names.len() };
    names.insert(position, name.to_owned());
    names
}

/// One name, without search domains.
async fn lookup(fabric: &Fabric, mut name: String) -> Result<Vec<IpAddr>, NetError> {
    for _ in 0..CNAMES {
        match in_zone(fabric, &name) {
            Answer::NoSuchName => return Err(NetError::NameNotFound),
            Answer::NotOurs => return outside(fabric, &name).await,
            Answer::Records { records, .. } => match records.as_slice() {
                [Record::Cname(target)] => {
                    name = target.trim_end_matches('.').to_ascii_lowercase();
                }
                records => {
                    let ips = records.iter().filter_map(|record| match record {
                        Record::Address(ip) => Some(*ip),
                        _ => None,
                    });
                    return Ok(ips.collect());
                }
            },
        }
    }
    Err(NetError::NameNotFound)
}

fn in_zone(fabric: &Fabric, name: &str) -> Answer {
    let config = fabric.config();
    let tables = fabric.tables().read();
    let zone = Zone { tables: &tables, domain: &config.cluster_domain, dns_ip: config.dns_ip };
    let mut answer = zone.find(name, Kind::Any);
    answer.rotate(fabric.next_turn());
    answer
}

/// A name of the outside, both families at once.
async fn outside(fabric: &Fabric, name: &str) -> Result<Vec<IpAddr>, NetError> {
    let resolvers = upstream::resolvers(fabric.config());
    if resolvers.is_empty() {
        return Err(NetError::ResolverUnavailable);
    }
    let runtime = fabric.config().runtime.clone();
    let ask = |record_type: RecordType, id: u16| {
        let question = wire::ask(name, record_type, id);
        let resolvers = resolvers.clone();
        runtime.spawn(async move {
            let answer = upstream::forward(&resolvers, &question?).await?;
            Some(wire::addresses(&answer))
        })
    };
    let seed = fabric.config().clock.monotonic().subsec_nanos() as u16;
    let (v4, v6) =
        tokio::join!(ask(RecordType::A, seed), ask(RecordType::AAAA, seed.wrapping_add(1)),);
    let answers = [v4, v6].map(|answer| answer.ok().flatten());
    let mut ips = Vec::new();
    let mut error = None;
    for answer in answers {
        match answer {
            Some(Ok(found)) => ips.extend(found),
            Some(Err(ResponseCode::NXDomain)) => {
                error.get_or_insert(NetError::NameNotFound);
            }
            Some(Err(_)) | None => error = Some(NetError::ResolverUnavailable),
        }
    }
    match error {
        Some(error) if ips.is_empty() => Err(error),
        _ => Ok(ips),
    }
}
