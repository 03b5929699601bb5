//! Sets of completion indexes, written as Kubernetes does: `1,3-5,7` (two neighbours as `3,4`).

use std::fmt;

/// Ranges of indexes, both ends included, ordered, without neighbours that touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// Reads what was written; what is not below `completions` or makes no sense is left out.
    pub fn parse(text: &str, completions: i32) -> Self {
        let mut all = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>())
                && first >= 0
                && first <= last
                && first < completions
            {
                all.add(first, last.min(completions - 1));
            }
        }
        all
    }

    /// Whether `index` is among them.
    pub fn has(&self, index: i32) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// Puts one in.
    pub fn insert(&mut self, index: i32) {
        self.add(index, index);
    }

    fn add(&mut self, first: i32, last: i32) {
        // The ranges that touch the new one become one with it.
        let from = self.0.partition_point(|(_, end)| end.saturating_add(1) < first);
        let to = self.0.partition_point(|(start, _)| *start <= last.saturating_add(1));
        let joined = self.0[from..to]
            .iter()
            .fold((first, last), |joined, range| (joined.0.min(range.0), joined.1.max(range.1)));
        self.0.splice(from..to, [joined]);
    }

    /// How many there are.
    pub fn total(&self) -> i32 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// How many are in both.
    pub fn shared(&self, other: &Self) -> i32 {
        let overlap = |a: &(i32, i32), b: &(i32, i32)| (a.1.min(b.1) - a.0.max(b.0) + 1).max(0);
        self.0.iter().flat_map(|a| other.0.iter().map(move |b| overlap(a, b))).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_written_and_read_as_kubernetes_does() {
        let mut all = Indexes::default();
        for index in [7, 1, 3, 5, 4, 9, 10] {
            all.insert(index);
        }
        assert_eq!(all.to_string(), "1,3-5,7,9,10");
        assert_eq!(Indexes::parse("1,3-5,7,9,10", 20), all);
        assert_eq!(all.total(), 7);
        assert!(all.has(4) && all.has(1) && all.has(10) && !all.has(2) && !all.has(11));
    }

    #[test]
    fn what_is_out_of_range_or_nonsense_is_left_out() {
        assert_eq!(Indexes::parse("0-10,12,x,4-2,-3", 3).to_string(), "0-2");
        assert_eq!(Indexes::parse("", 3).to_string(), "");
        assert_eq!(Indexes::parse("5", 3).total(), 0);
    }

    #[test]
    fn the_shared_ones_are_counted() {
        let (a, b) = (Indexes::parse("0-4,7-9", 10), Indexes::parse("3-8", 10));
        assert_eq!(a.shared(&b), 4);
    }
}
