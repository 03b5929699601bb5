//! Which range a node gets: the next free one of the cluster's, going round, so that a range that
//! was just given back is not used again at once.
//!
//! **Invariant:** no two nodes have ranges that overlap.

use std::collections::HashSet;

use ipnet::IpNet;

/// The ranges of a cluster.
#[derive(Debug)]
pub struct Ranges {
    cluster: IpNet,
    prefix: u8,
    used: HashSet<u32>,
    next: u32,
}

impl Ranges {
    /// The ranges of length `prefix` in `cluster`.
    ///
    /// # Errors
    /// When `prefix` is not inside the cluster's range, or makes more than 2^20 ranges.
    pub fn new(cluster: IpNet, prefix: u8) -> Result<Self, String> {
        let (have, most) = (cluster.prefix_len(), cluster.max_prefix_len());
        if prefix < have || prefix > most || prefix - have > 20 {
            return Err(format!(
                "a node's range of /{prefix} does not fit the cluster's range {cluster}: choose a \
                 prefix from {have} to {}",
                most.min(have.saturating_add(20))
            ));
        }
        Ok(Self { cluster, prefix, used: HashSet::new(), next: 0 })
    }

    fn count(&self) -> u32 {
        1 << (self.prefix - self.cluster.prefix_len())
    }

    fn nth(&self, index: u32) -> IpNet {
        let mut subnets = self.cluster.subnets(self.prefix).expect("the prefix was checked");
        subnets.nth(index as usize).expect("the index is below the count")
    }

    /// The indexes of the ranges that `net` touches.
    fn touched(&self, net: IpNet) -> std::ops::Range<u32> {
        let (IpNet::V4(cluster), IpNet::V4(net)) = (self.cluster, net) else {
            let found = (0..self.count()).find(|index| self.nth(*index).contains(&net));
            return found.map_or(0..0, |index| index..index + 1);
        };
        if !cluster.contains(&net.network()) && !net.contains(&cluster.network()) {
            return 0..0;
        }
        let shift = 32 - u32::from(self.prefix);
        let base = u32::from(cluster.network());
        let index =
            |at: u32| u32::try_from(u64::from(at.saturating_sub(base)) >> shift).unwrap_or(0);
        index(u32::from(net.network()))..(index(u32::from(net.broadcast())) + 1).min(self.count())
    }

    /// Notes that a node has `net`.
    pub fn occupy(&mut self, net: IpNet) {
        self.used.extend(self.touched(net));
    }

    /// A node that had `net` is gone.
    pub fn release(&mut self, net: IpNet) {
        for index in self.touched(net) {
            self.used.remove(&index);
        }
    }

    /// A free range, which is then in use; nothing when all are.
    pub fn take(&mut self) -> Option<IpNet> {
        let count = self.count();
        let index =
            (0..count).map(|step| (self.next + step) % count).find(|i| !self.used.contains(i))?;
        self.used.insert(index);
        self.next = (index + 1) % count;
        Some(self.nth(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a range")
    }

    #[test]
    fn ranges_are_given_in_turn_and_not_reused_at_once() {
        let mut ranges = Ranges::new(net("10.128.0.0/9"), 20).expect("it fits");
        ranges.occupy(net("10.128.16.0/20"));
        assert_eq!(ranges.take(), Some(net("10.128.0.0/20")));
        assert_eq!(ranges.take(), Some(net("10.128.32.0/20")));
        ranges.release(net("10.128.0.0/20"));
        assert_eq!(ranges.take(), Some(net("10.128.48.0/20")));
    }

    #[test]
    fn a_full_cluster_has_none_left_until_one_is_given_back() {
        let mut ranges = Ranges::new(net("10.0.0.0/22"), 24).expect("it fits");
        let all: Vec<_> = std::iter::from_fn(|| ranges.take()).collect();
        assert_eq!(all.len(), 4);
        ranges.release(net("10.0.2.0/24"));
        assert_eq!(ranges.take(), Some(net("10.0.2.0/24")));
    }

    #[test]
    fn a_foreign_range_blocks_all_that_it_touches() {
        let mut ranges = Ranges::new(net("10.0.0.0/22"), 24).expect("it fits");
        ranges.occupy(net("10.0.0.0/23"));
        ranges.occupy(net("192.168.0.0/24"));
        assert_eq!(ranges.take(), Some(net("10.0.2.0/24")));
    }

    #[test]
    fn a_prefix_that_does_not_fit_is_refused() {
        assert!(Ranges::new(net("10.0.0.0/22"), 20).is_err());
        assert!(Ranges::new(net("10.0.0.0/8"), 30).is_err());
    }
}
