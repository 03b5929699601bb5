//! The records of the cluster's zone, as Kubernetes' DNS specification 1.1.0 gives them.
//!
//! | name | record |
//! |---|---|
//! | `svc.ns.svc.DOMAIN` | its cluster IPs; headless: the ready endpoints; ExternalName: CNAME |
//! | `host.svc.ns.svc.DOMAIN` | the endpoint of that hostname (or of that dashed address) |
//! | `_port._proto.svc.ns.svc.DOMAIN` | SRV |
//! | `1-2-3-4.ns.pod.DOMAIN` | 1.2.3.4 |
//! | `dns-version.DOMAIN` | TXT 1.1.0 |
//! | reverse names | PTR to a Service or to a headless Service's endpoint |
//!
//! Pure: tables in, records out.

use std::net::IpAddr;

use crate::net::ports::Protocol;
use crate::net::service::ServiceTable;
use crate::net::tables::Tables;

/// What is asked for. Anything else than these has no records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    A,
    Aaaa,
    Srv,
    Ptr,
    Cname,
    Txt,
    Ns,
    Soa,
    Any,
    Other,
}

/// One record; names are without a dot at their end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    Address(IpAddr),
    Cname(String),
    Srv { port: u16, target: String },
    Ptr(String),
    Txt(String),
    Ns(String),
    Soa,
}

/// The answer to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Records for the name; addresses of SRV targets beside them. None: the name exists without
    /// a record of the kind (NODATA).
    Records { records: Vec<Record>, additional: Vec<(String, IpAddr)> },
    /// NXDOMAIN.
    NoSuchName,
    /// Not a name of this zone.
    NotOurs,
}

impl Answer {
    fn records(records: Vec<Record>) -> Self {
        Self::Records { records, additional: Vec::new() }
    }

    /// Starts with another record each turn, so that clients that take the first one spread.
    pub(crate) fn rotate(&mut self, turn: usize) {
        if let Self::Records { records, .. } = self
            && !records.is_empty()
        {
            let by = turn % records.len();
            records.rotate_left(by);
        }
    }

    fn addresses(ips: impl IntoIterator<Item = IpAddr>, kind: Kind) -> Self {
        let wanted = |ip: &IpAddr| match kind {
            Kind::A => ip.is_ipv4(),
            Kind::Aaaa => ip.is_ipv6(),
            _ => kind == Kind::Any,
        };
        Self::records(ips.into_iter().filter(wanted).map(Record::Address).collect())
    }
}

/// The zone of a cluster over the tables of a node.
pub(crate) struct Zone<'a> {
    pub(crate) tables: &'a Tables,
    /// Without a dot at its end.
    pub(crate) domain: &'a str,
    pub(crate) dns_ip: IpAddr,
}

impl Zone<'_> {
    /// Looks a whole name up (lower case, no dot at its end).
    pub(crate) fn find(&self, name: &str, kind: Kind) -> Answer {
        if let Some(ip) = reverse(name) {
            return self.pointer(ip, kind);
        }
        let Some(below) = name.strip_suffix(self.domain) else { return Answer::NotOurs };
        if below.is_empty() {
            return Answer::records(match kind {
                Kind::Soa => vec![Record::Soa],
                Kind::Ns => vec![Record::Ns(format!("ns.dns.{}", self.domain))],
                Kind::Any => {
                    vec![Record::Soa, Record::Ns(format!("ns.dns.{}", self.domain))]
                }
                _ => Vec::new(),
            });
        }
        let Some(below) = below.strip_suffix('.') else { return Answer::NotOurs };
        let labels: Vec<&str> = below.split('.').collect();
        match labels.as_slice() {
            ["svc" | "pod"] => Answer::records(Vec::new()),
            ["dns"] => Answer::records(Vec::new()),
            ["ns", "dns"] => Answer::addresses([self.dns_ip], kind),
            ["dns-version"] => Answer::records(match kind {
                Kind::Txt | Kind::Any => vec![Record::Txt("1.1.0".into())],
                _ => Vec::new(),
            }),
            [.., "svc"] => self.service(&labels[..labels.len() - 1], kind),
            [.., "pod"] => self.pod(&labels[..labels.len() - 1], kind),
            _ => Answer::NoSuchName,
        }
    }

    fn service(&self, labels: &[&str], kind: Kind) -> Answer {
        let Some((namespace, labels)) = labels.split_last() else { return Answer::NoSuchName };
        let Some((name, labels)) = labels.split_last() else {
            let known = self.tables.services.keys().any(|(ns, _)| ns == namespace);
            return if known { Answer::records(Vec::new()) } else { Answer::NoSuchName };
        };
        let key = ((*namespace).to_owned(), (*name).to_owned());
        let Some(service) = self.tables.services.get(&key).map(|s| &s.table) else {
            return Answer::NoSuchName;
        };
        match labels {
            [] => self.whole(service, kind),
            [port, protocol] if port.starts_with('_') && protocol.starts_with('_') => {
                self.port(service, &port[1..], &protocol[1..], kind)
            }
            // `_tcp.svc…` has ports below it: it exists, without records.
            ["_tcp" | "_udp"] => Answer::records(Vec::new()),
            [host] => self.endpoint(service, host, kind),
            _ => Answer::NoSuchName,
        }
    }

    /// A Service under its own name.
    fn whole(&self, service: &ServiceTable, kind: Kind) -> Answer {
        if let Some(external) = &service.external_name {
            return Answer::records(vec![Record::Cname(external.clone())]);
        }
        if kind == Kind::Srv {
            return self.srv(service, |_, _| true);
        }
        if !service.headless {
            return Answer::addresses(service.cluster_ips.iter().copied(), kind);
        }
        Answer::addresses(ready_ips(service), kind)
    }

    fn port(&self, service: &ServiceTable, port: &str, protocol: &str, kind: Kind) -> Answer {
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Answer::NoSuchName,
        };
        let matches = |p: &str, q: Protocol| p == port && q == protocol;
        if !service.ports.iter().any(|p| matches(&p.name, p.protocol)) {
            return Answer::NoSuchName;
        }
        match kind {
            Kind::Srv | Kind::Any => self.srv(service, matches),
            _ => Answer::records(Vec::new()),
        }
    }

    fn srv(&self, service: &ServiceTable, matches: impl Fn(&str, Protocol) -> bool) -> Answer {
        let base = self.fqdn(service);
        let mut records = Vec::new();
        let mut additional = Vec::new();
        for port in service.ports.iter().filter(|p| matches(&p.name, p.protocol)) {
            if !service.headless {
                records.push(Record::Srv { port: port.port, target: base.clone() });
                continue;
            }
            for endpoint in port.endpoints.iter().filter(|e| e.ready) {
                let host = endpoint.hostname.clone().unwrap_or_else(|| dashed(endpoint.ip));
                let target = format!("{host}.{base}");
                records.push(Record::Srv { port: endpoint.port, target: target.clone() });
                if !additional.contains(&(target.clone(), endpoint.ip)) {
                    additional.push((target, endpoint.ip));
                }
            }
        }
        if !service.headless {
            additional.extend(service.cluster_ips.iter().map(|ip| (base.clone(), *ip)));
        }
        Answer::Records { records, additional }
    }

    /// An endpoint under its Service's name. A ClusterIP Service's endpoints have names too, as
    /// CoreDNS gives them.
    fn endpoint(&self, service: &ServiceTable, host: &str, kind: Kind) -> Answer {
        let mut ips: Vec<IpAddr> = Vec::new();
        for endpoint in service.ports.iter().flat_map(|p| &p.endpoints).filter(|e| e.ready) {
            let named = match &endpoint.hostname {
                Some(name) => name.eq_ignore_ascii_case(host),
                None => dashed(endpoint.ip) == host,
            };
            if named && !ips.contains(&endpoint.ip) {
                ips.push(endpoint.ip);
            }
        }
        if ips.is_empty() { Answer::NoSuchName } else { Answer::addresses(ips, kind) }
    }

    fn pod(&self, labels: &[&str], kind: Kind) -> Answer {
        match labels {
            [_namespace] => Answer::records(Vec::new()),
            [ip, _namespace] => match undashed(ip) {
                Some(ip) => Answer::addresses([ip], kind),
                None => Answer::NoSuchName,
            },
            _ => Answer::NoSuchName,
        }
    }

    fn pointer(&self, ip: IpAddr, kind: Kind) -> Answer {
        let mut names = Vec::new();
        if let Some(service) = self.tables.cluster_ips.get(&ip) {
            names.push(self.fqdn(&service.table));
        }
        for service in self.tables.services.values().filter(|s| s.table.headless) {
            let endpoints = service.table.ports.iter().flat_map(|p| &p.endpoints);
            for endpoint in endpoints.filter(|e| e.ip == ip && e.ready) {
                let host = endpoint.hostname.clone().unwrap_or_else(|| dashed(ip));
                let name = format!("{host}.{}", self.fqdn(&service.table));
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        if ip == self.dns_ip && names.is_empty() {
            names.push(format!("ns.dns.{}", self.domain));
        }
        if names.is_empty() {
            let ours = self.tables.cluster.iter().any(|cidr| cidr.contains(&ip));
            return if ours { Answer::NoSuchName } else { Answer::NotOurs };
        }
        names.sort();
        Answer::records(match kind {
            Kind::Ptr | Kind::Any => names.into_iter().map(Record::Ptr).collect(),
            _ => Vec::new(),
        })
    }

    fn fqdn(&self, service: &ServiceTable) -> String {
        format!("{}.{}.svc.{}", service.name, service.namespace, self.domain)
    }
}

fn ready_ips(service: &ServiceTable) -> Vec<IpAddr> {
    let mut ips = Vec::new();
    for endpoint in service.ports.iter().flat_map(|p| &p.endpoints).filter(|e| e.ready) {
        if !ips.contains(&endpoint.ip) {
            ips.push(endpoint.ip);
        }
    }
    ips
}

/// `10.0.0.1` as `10-0-0-1`, `fd00::1` as `fd00--1`.
fn dashed(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}

fn undashed(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<std::net::Ipv4Addr>().ok().map(IpAddr::V4);
    v4.or_else(|| label.replace('-', ":").parse::<std::net::Ipv6Addr>().ok().map(IpAddr::V6))
}

/// The address that a reverse name stands for.
fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let bytes: Vec<u8> =
            digits.split('.').rev().map(str::parse).collect::<Result<_, _>>().ok()?;
        let bytes: [u8; 4] = bytes.try_into().ok()?;
        return Some(bytes.into());
    }
    let nibbles = name.strip_suffix(".ip6.arpa")?;
    let text: String = nibbles.split('.').rev().collect();
    if text.len() != 32 || nibbles.len() != 63 {
        return None;
    }
    u128::from_str_radix(&text, 16).ok().map(|bits| IpAddr::from(bits.to_be_bytes()))
}
