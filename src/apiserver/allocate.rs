//! Cluster IPs and node ports of Services: given out when a Service is created or changed, kept on
//! update, given back when it goes.
//!
//! What is in use is held in memory and read from the stored Services at start ([`load`]): the
//! Services are the truth, so nothing can leak for longer than a run.
//!
//! Dynamic cluster IPs come from the upper part of the range first, so that the lower one is left
//! for those who name theirs (KEP-3070).
//!
//! **Invariant:** no two stored Services hold one cluster IP or one node port.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use async_trait::async_trait;
use ipnet::Ipv4Net;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::registry::{Hook, Registry, Reservation};
use crate::api::Object;
use crate::api::status::{ApiError, FieldError, FieldErrorKind};
use crate::base::rng::Rng;

/// Where node ports come from.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;

/// What is in use.
#[derive(Debug, Default)]
struct Used {
    addresses: HashSet<Ipv4Addr>,
    ports: HashSet<u16>,
}

/// The allocators of a cluster.
pub struct ServiceAllocator {
    range: Ipv4Net,
    used: Arc<Mutex<Used>>,
    rng: Mutex<Rng>,
}

/// Read what stored Services hold.
///
/// # Errors
/// 500 when the store fails.
pub async fn load(allocator: &ServiceAllocator, registry: &Registry) -> Result<(), ApiError> {
    let (services, _) = registry.list(("", "services"), None).await?;
    let mut used = allocator.used.lock();
    for service in &services {
        used.addresses.extend(address_of(service));
        used.ports.extend(ports_of(service));
    }
    Ok(())
}

/// The cluster IP that a Service holds.
fn address_of(service: &Object) -> Option<Ipv4Addr> {
    service["spec"]["clusterIP"].as_str().and_then(|ip| ip.parse().ok())
}

/// The node ports that a Service holds.
fn ports_of(service: &Object) -> BTreeSet<u16> {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let mut held: BTreeSet<u16> = ports.filter_map(node_port).collect();
    let health = &service["spec"]["healthCheckNodePort"];
    held.extend(health.as_u64().and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0));
    held
}

fn node_port(port: &Value) -> Option<u16> {
    port["nodePort"].as_u64().and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0)
}

/// What one write took; given back unless it is kept.
struct Taken {
    used: Arc<Mutex<Used>>,
    address: Option<Ipv4Addr>,
    ports: Vec<u16>,
    /// What the old object held and the new one does not: given back once the write is kept.
    left: (Option<Ipv4Addr>, Vec<u16>),
}

impl Reservation for Taken {
    fn keep(mut self: Box<Self>) {
        let mut used = self.used.lock();
        if let Some(address) = self.left.0 {
            used.addresses.remove(&address);
        }
        for port in &self.left.1 {
            used.ports.remove(port);
        }
        drop(used);
        self.address = None;
        self.ports.clear();
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut used = self.used.lock();
        if let Some(address) = self.address {
            used.addresses.remove(&address);
        }
        for port in &self.ports {
            used.ports.remove(port);
        }
    }
}

/// How a Service is reached, as far as allocation goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    External,
    Cluster,
    Node,
    Balanced,
}

impl Reach {
    fn of(service: &Object) -> Self {
        match service["spec"]["type"].as_str() {
            Some("ExternalName") => Self::External,
            Some("NodePort") => Self::Node,
            Some("LoadBalancer") => Self::Balanced,
            _ => Self::Cluster,
        }
    }

    fn has_node_ports(self) -> bool {
        matches!(self, Self::Node | Self::Balanced)
    }
}

impl ServiceAllocator {
    /// Allocators over a range of cluster IPs, with nothing in use.
    pub fn new(range: Ipv4Net, rng: Rng) -> Arc<Self> {
        Arc::new(Self { range, used: Arc::default(), rng: Mutex::new(rng) })
    }

    /// The address that a Service gets.
    fn take_address(
        &self,
        object: &mut Object,
        old: Option<&Object>,
        taken: &mut Taken,
    ) -> Result<(), ApiError> {
        if Reach::of(object) == Reach::External {
            remove(
                &mut object["spec"],
                &["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"],
            );
            return Ok(());
        }
        let asked = asked_address(object);
        let before = old.filter(|o| Reach::of(o) != Reach::External);
        let before = before.and_then(|o| o["spec"]["clusterIP"].as_str()).map(str::to_owned);
        let address = match (asked, before) {
            (None, Some(before)) => before,
            (Some(asked), before) if before.as_ref() == Some(&asked) => asked,
            (Some(asked), _) if asked == "None" => asked,
            (Some(asked), _) => self.take_this(object, &asked, taken)?,
            (None, None) => self.take_any(taken)?,
        };
        object["spec"]["clusterIP"] = address.clone().into();
        object["spec"]["clusterIPs"] = json!([address]);
        if object["spec"]["ipFamilies"].as_array().is_none_or(Vec::is_empty) {
            object["spec"]["ipFamilies"] = json!(["IPv4"]);
        }
        if !object["spec"]["ipFamilyPolicy"].is_string() {
            object["spec"]["ipFamilyPolicy"] = "SingleStack".into();
        }
        Ok(())
    }

    fn take_this(
        &self,
        object: &Object,
        asked: &str,
        taken: &mut Taken,
    ) -> Result<String, ApiError> {
        let refuse = |why: String| {
            let message =
                format!("Invalid value: [\"{asked}\"]: failed to allocate IP {asked}: {why}");
            Err(invalid(object, "spec.clusterIPs", message))
        };
        let address = match asked.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) if self.range.contains(&address) => address,
            Ok(_) => {
                return refuse(format!(
                    "the provided IP ({asked}) is not in the valid range. The range of valid IPs \
                     is {}",
                    self.range
                ));
            }
            Err(_) => {
                let message = format!("Invalid value: {asked:?}: must be a valid IP address");
                return Err(invalid(object, "spec.clusterIPs[0]", message));
            }
        };
        if !self.used.lock().addresses.insert(address) {
            return refuse("provided IP is already allocated".into());
        }
        taken.address = Some(address);
        Ok(address.to_string())
    }

    fn take_any(&self, taken: &mut Taken) -> Result<String, ApiError> {
        let first = u32::from(self.range.network());
        let size = u32::from(self.range.broadcast()) - first;
        let reserved = (size / 16).clamp(16, 256).min(size / 2);
        let start = u32::try_from(self.rng.lock().below(u64::from(size - reserved).max(1)))
            .expect("below a u32");
        let mut used = self.used.lock();
        // The upper part from a random start, round; then the part for static addresses.
        let upper = (0..size - reserved).map(|n| reserved + (start + n) % (size - reserved));
        let lower = 1..reserved;
        for offset in upper.chain(lower).filter(|offset| *offset > 0) {
            let address = Ipv4Addr::from(first + offset);
            if used.addresses.insert(address) {
                taken.address = Some(address);
                return Ok(address.to_string());
            }
        }
        Err(ApiError::internal("failed to allocate a serviceIP: range is full"))
    }

    /// The node ports that a Service gets.
    fn take_ports(
        &self,
        object: &mut Object,
        old: Option<&Object>,
        taken: &mut Taken,
    ) -> Result<(), ApiError> {
        let reach = Reach::of(object);
        let held = old.map(ports_of).unwrap_or_default();
        let mut ports = object["spec"]["ports"].as_array().cloned().unwrap_or_default();
        let without = object["spec"]["allocateLoadBalancerNodePorts"] == false;
        let mut own = BTreeSet::new();
        for (at, port) in ports.iter_mut().enumerate() {
            let asked = node_port(port);
            if !reach.has_node_ports() {
                // What the Service had while it was reached through nodes goes with the change.
                if asked.is_some_and(|p| held.contains(&p)) {
                    remove(port, &["nodePort"]);
                }
                continue;
            }
            let number = match asked.or_else(|| kept_port(port, old)) {
                Some(number) if held.contains(&number) || own.contains(&number) => number,
                Some(number) => {
                    self.take_port(object, &format!("spec.ports[{at}].nodePort"), number, taken)?
                }
                None if reach == Reach::Balanced && without => continue,
                None => self.take_any_port(taken)?,
            };
            own.insert(number);
            port["nodePort"] = number.into();
        }
        if !ports.is_empty() {
            object["spec"]["ports"] = ports.into();
        }
        self.take_health_port(object, old, taken)
    }

    /// A balanced Service that keeps traffic local has a port for the health of its nodes.
    fn take_health_port(
        &self,
        object: &mut Object,
        old: Option<&Object>,
        taken: &mut Taken,
    ) -> Result<(), ApiError> {
        let needs = Reach::of(object) == Reach::Balanced
            && object["spec"]["externalTrafficPolicy"] == "Local";
        if !needs {
            remove(&mut object["spec"], &["healthCheckNodePort"]);
            return Ok(());
        }
        let number = |o: &Object| o["spec"]["healthCheckNodePort"].as_u64().filter(|p| *p > 0);
        let before = old.and_then(number);
        let port = match number(object).or(before) {
            Some(port) if Some(port) == before => return keep_health(object, port),
            Some(port) => {
                let port = u16::try_from(port).unwrap_or(0);
                self.take_port(object, "spec.healthCheckNodePort", port, taken)?
            }
            None => self.take_any_port(taken)?,
        };
        keep_health(object, u64::from(port))
    }

    fn take_port(
        &self,
        object: &Object,
        field: &str,
        port: u16,
        taken: &mut Taken,
    ) -> Result<u16, ApiError> {
        if !NODE_PORTS.contains(&port) {
            let message = format!(
                "Invalid value: {port}: provided port is not in the valid range. The range of \
                 valid ports is {}-{}",
                NODE_PORTS.start(),
                NODE_PORTS.end()
            );
            return Err(invalid(object, field, message));
        }
        if !self.used.lock().ports.insert(port) {
            let message = format!("Invalid value: {port}: provided port is already allocated");
            return Err(invalid(object, field, message));
        }
        taken.ports.push(port);
        Ok(port)
    }

    fn take_any_port(&self, taken: &mut Taken) -> Result<u16, ApiError> {
        let count = NODE_PORTS.end() - NODE_PORTS.start() + 1;
        let start = u16::try_from(self.rng.lock().below(u64::from(count))).expect("below a u16");
        let mut used = self.used.lock();
        for n in 0..count {
            let port = NODE_PORTS.start() + (start + n) % count;
            if used.ports.insert(port) {
                taken.ports.push(port);
                return Ok(port);
            }
        }
        Err(ApiError::internal("failed to allocate a nodePort: range is full"))
    }
}

fn keep_health(object: &mut Object, port: u64) -> Result<(), ApiError> {
    object["spec"]["healthCheckNodePort"] = port.into();
    Ok(())
}

/// The node port that the same port of the old Service had.
fn kept_port(port: &Value, old: Option<&Object>) -> Option<u16> {
    let protocol = |p: &Value| p["protocol"].as_str().unwrap_or("TCP").to_owned();
    let ports = old?["spec"]["ports"].as_array()?;
    let same = |p: &&Value| p["port"] == port["port"] && protocol(p) == protocol(port);
    ports.iter().find(same).and_then(node_port)
}

/// The cluster IP that is asked for, in either field.
fn asked_address(object: &Object) -> Option<String> {
    let one = object["spec"]["clusterIP"].as_str();
    let first = object["spec"]["clusterIPs"][0].as_str();
    one.or(first).filter(|ip| !ip.is_empty()).map(str::to_owned)
}

fn remove(value: &mut Value, fields: &[&str]) {
    if let Some(map) = value.as_object_mut() {
        for field in fields {
            map.remove(*field);
        }
    }
}

fn invalid(object: &Object, path: &str, message: String) -> ApiError {
    let error = FieldError { kind: FieldErrorKind::Invalid, path: path.into(), message };
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    ApiError::invalid("", "Service", name, &[error])
}

#[async_trait]
impl Hook for ServiceAllocator {
    async fn reserve(
        &self,
        object: &mut Object,
        old: Option<&Object>,
        _dry_run: bool,
    ) -> Result<Box<dyn Reservation>, ApiError> {
        let mut taken = Taken {
            used: self.used.clone(),
            address: None,
            ports: Vec::new(),
            left: (None, Vec::new()),
        };
        if !object["spec"].is_object() {
            return Ok(Box::new(taken));
        }
        self.take_address(object, old, &mut taken)?;
        self.take_ports(object, old, &mut taken)?;
        if let Some(old) = old {
            let (now, before) = (address_of(object), address_of(old));
            let held = ports_of(object);
            taken.left.0 = before.filter(|_| before != now);
            taken.left.1 = ports_of(old).into_iter().filter(|p| !held.contains(p)).collect();
        }
        Ok(Box::new(taken))
    }

    fn release(&self, object: &Object) {
        let mut used = self.used.lock();
        if let Some(address) = address_of(object) {
            used.addresses.remove(&address);
        }
        for port in ports_of(object) {
            used.ports.remove(&port);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocator() -> Arc<ServiceAllocator> {
        ServiceAllocator::new("10.43.0.0/16".parse().expect("a range"), Rng::seeded(1))
    }

    async fn put(
        allocator: &ServiceAllocator,
        mut service: Object,
        old: Option<&Object>,
    ) -> Result<Object, String> {
        let reserved = allocator.reserve(&mut service, old, false).await.map_err(|e| e.message)?;
        reserved.keep();
        Ok(service)
    }

    #[tokio::test]
    async fn an_address_is_kept_on_update_and_given_back_at_the_end() {
        let allocator = allocator();
        let service = json!({"metadata": {"name": "a"}, "spec": {"type": "ClusterIP"}});
        let first = put(&allocator, service.clone(), None).await.expect("room");
        let ip = first["spec"]["clusterIP"].as_str().expect("an address").to_owned();
        assert!(ip.starts_with("10.43."), "{ip}");
        assert_eq!(first["spec"]["clusterIPs"], json!([ip]));
        let again = put(&allocator, service.clone(), Some(&first)).await.expect("room");
        assert_eq!(again["spec"]["clusterIP"], *ip);
        let mut other = service.clone();
        other["spec"]["clusterIP"] = ip.clone().into();
        let refused = put(&allocator, other.clone(), None).await.expect_err("taken");
        assert!(refused.contains("provided IP is already allocated"), "{refused}");
        allocator.release(&first);
        put(&allocator, other, None).await.expect("free again");
    }

    #[tokio::test]
    async fn what_a_failed_write_took_is_given_back() {
        let allocator = allocator();
        let mut service = json!({"metadata": {"name": "a"}, "spec": {
            "type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}});
        drop(allocator.reserve(&mut service, None, false).await.expect("room"));
        assert!(allocator.used.lock().addresses.is_empty());
        assert!(allocator.used.lock().ports.is_empty());
    }

    #[tokio::test]
    async fn node_ports_are_told_apart_and_kept_in_range() {
        let allocator = allocator();
        let service = |port: Value| {
            json!({"metadata": {"name": "a"}, "spec": {
            "type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}})
        };
        let first = put(&allocator, service(30080.into()), None).await.expect("room");
        assert_eq!(first["spec"]["ports"][0]["nodePort"], 30080);
        let taken = put(&allocator, service(30080.into()), None).await.expect_err("taken");
        assert!(
            taken.contains(
                "spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated"
            ),
            "{taken}"
        );
        let outside = put(&allocator, service(80.into()), None).await.expect_err("outside");
        assert!(outside.contains("The range of valid ports is 30000-32767"), "{outside}");
        let any = put(&allocator, service(Value::Null), None).await.expect("room");
        assert!(NODE_PORTS.contains(&node_port(&any["spec"]["ports"][0]).expect("a port")));
        let mut plain = first.clone();
        plain["spec"]["type"] = "ClusterIP".into();
        let plain = put(&allocator, plain, Some(&first)).await.expect("room");
        assert!(plain["spec"]["ports"][0]["nodePort"].is_null());
        put(&allocator, service(30080.into()), None).await.expect("free again");
    }

    #[tokio::test]
    async fn headless_and_external_services_hold_no_address() {
        let allocator = allocator();
        let headless = json!({"metadata": {"name": "a"}, "spec": {"clusterIP": "None"}});
        let headless = put(&allocator, headless, None).await.expect("nothing taken");
        assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
        let external = json!({"metadata": {"name": "a"}, "spec": {
            "type": "ExternalName", "externalName": "example.com"}});
        let external = put(&allocator, external, None).await.expect("nothing taken");
        assert!(external["spec"]["clusterIP"].is_null());
        assert!(allocator.used.lock().addresses.is_empty());
    }
}
