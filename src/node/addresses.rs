//! Which pod has which address of the node's podCIDR. Pure; it is rebuilt from the stored pods at
//! the start, so a pod keeps its address over a restart of the agent.
//!
//! The first address of the range is the node's own, the last of an IPv4 one its broadcast. A
//! freed address is not given out again before the others were: what still dials it must not
//! reach a stranger.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

/// The addresses of one node.
#[derive(Debug, Default)]
pub struct Addresses {
    range: Option<IpNet>,
    by_uid: HashMap<String, IpAddr>,
    taken: BTreeMap<IpAddr, String>,
    /// Offset in the range at which the next search begins.
    next: u128,
}

/// Why a pod gets no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("the node has no podCIDR yet; a cluster assigns one to spec.podCIDR of the Node")]
    NoRange,
    #[error("no address is left in the node's podCIDR {0}")]
    Exhausted(IpNet),
}

impl Addresses {
    /// The range to take new addresses from; those given out stay.
    pub fn set_range(&mut self, range: IpNet) {
        self.range = Some(range);
    }

    pub fn range(&self) -> Option<IpNet> {
        self.range
    }

    /// The node's own address in the range.
    pub fn node_address(&self) -> Option<IpAddr> {
        self.range.map(|range| offset(range, 1))
    }

    /// The address of the pod `uid`: the one it has, else `wanted` where that is free, else a new.
    pub fn take(&mut self, uid: &str, wanted: Option<IpAddr>) -> Result<IpAddr, AddressError> {
        if let Some(ip) = self.by_uid.get(uid) {
            return Ok(*ip);
        }
        if let Some(ip) = wanted.filter(|ip| !self.taken.contains_key(ip) && self.usable(*ip)) {
            self.give(uid, ip);
            return Ok(ip);
        }
        let range = self.range.ok_or(AddressError::NoRange)?;
        let size = size(range);
        for step in 0..size {
            let at = (self.next + step) % size;
            let ip = offset(range, at);
            if self.usable(ip) && !self.taken.contains_key(&ip) {
                self.next = at + 1;
                self.give(uid, ip);
                return Ok(ip);
            }
        }
        Err(AddressError::Exhausted(range))
    }

    fn give(&mut self, uid: &str, ip: IpAddr) {
        self.by_uid.insert(uid.to_owned(), ip);
        self.taken.insert(ip, uid.to_owned());
    }

    /// Whether a pod may have `ip`: while the range is not known yet, a stored one may.
    fn usable(&self, ip: IpAddr) -> bool {
        let Some(range) = self.range else { return true };
        let broadcast = ip.is_ipv4() && ip == range.broadcast();
        range.contains(&ip) && ip != range.network() && ip != offset(range, 1) && !broadcast
    }

    /// The pod is gone.
    pub fn release(&mut self, uid: &str) {
        if let Some(ip) = self.by_uid.remove(uid) {
            self.taken.remove(&ip);
        }
    }
}

/// How many addresses are searched at most; an IPv6 range has more than anybody needs.
fn size(range: IpNet) -> u128 {
    1u128 << u32::from(range.max_prefix_len() - range.prefix_len()).min(20)
}

fn offset(range: IpNet, by: u128) -> IpAddr {
    match range.network() {
        IpAddr::V4(ip) => {
            let by = u32::try_from(by).unwrap_or(u32::MAX);
            IpAddr::V4(Ipv4Addr::from(u32::from(ip).saturating_add(by)))
        }
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip).saturating_add(by)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(range: &str) -> Addresses {
        let mut all = Addresses::default();
        all.set_range(range.parse().expect("a range"));
        all
    }

    #[test]
    fn a_range_gives_what_it_has_and_then_says_that_it_is_used_up() {
        let mut all = addresses("10.1.0.0/29");
        let given: Vec<String> =
            (0..5).map(|i| all.take(&i.to_string(), None).expect("free").to_string()).collect();
        assert_eq!(given, ["10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6"]);
        let error = all.take("x", None).expect_err("used up").to_string();
        assert_eq!(error, "no address is left in the node's podCIDR 10.1.0.0/29");
        all.release("2");
        assert_eq!(all.take("x", None).expect("free").to_string(), "10.1.0.4");
    }

    #[test]
    fn a_freed_address_waits_its_turn() {
        let mut all = addresses("10.1.0.0/28");
        let first = all.take("a", None).expect("free");
        all.release("a");
        assert_ne!(all.take("b", None).expect("free"), first);
    }

    #[test]
    fn a_pod_keeps_its_address_even_before_the_range_is_known() {
        let mut all = Addresses::default();
        let old: IpAddr = "10.1.0.9".parse().expect("an address");
        assert_eq!(all.take("a", None), Err(AddressError::NoRange));
        assert_eq!(all.take("a", Some(old)), Ok(old));
        all.set_range("10.1.0.0/24".parse().expect("a range"));
        assert_eq!(all.take("a", None), Ok(old));
        assert_ne!(all.take("b", Some(old)), Ok(old));
        let node = all.node_address().expect("the node's own");
        assert_ne!(all.take("c", Some(node)), Ok(node));
    }
}
