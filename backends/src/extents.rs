//! Sets of bytes on a disk, by address: what trees hold, and what is left when one is taken from another.
//!
//! An address is the file system's own: a byte of the device on XFS and ext4, a logical byte on btrfs, where the pieces of one extent are
//! counted as the whole, because that is what one reference keeps. Addresses from [`METADATA`] on are not places: on btrfs they stand for
//! what a leaf of a subvolume's tree says of one inode, so that bookkeeping which two snapshots share is shared here too.

/// Where the addresses of no place begin: no disk is as large.
pub const METADATA: u64 = 1 << 63;

/// A set of bytes: ranges in ascending order that neither overlap nor touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extents {
    ranges: Vec<(u64, u64)>,
}

impl Extents {
    /// Returns the set of all bytes in some ranges, each given by its start and its end, in any order.
    pub fn of(mut ranges: Vec<(u64, u64)>) -> Self {
        ranges.retain(|(start, end)| start < end);
        ranges.sort_unstable();
        let mut set = Self::default();
        ranges.into_iter().for_each(|(start, end)| set.push(start, end));
        set
    }

    /// Returns the bytes that lie in at least two of some ranges, given as above.
    pub fn repeated(ranges: &[(u64, u64)]) -> Self {
        let mut sorted = ranges.to_vec();
        sorted.sort_unstable();
        let (mut seen_to, mut set) = (0, Self::default());
        for (start, end) in sorted {
            if start < seen_to {
                set.push(start, end.min(seen_to));
            }
            seen_to = seen_to.max(end);
        }
        set
    }

    /// Adds a range that starts nowhere before the last one.
    fn push(&mut self, start: u64, end: u64) {
        match self.ranges.last_mut() {
            _ if start >= end => {}
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => self.ranges.push((start, end)),
        }
    }

    /// Returns the ranges, ascending: start and end of each.
    pub fn ranges(&self) -> &[(u64, u64)] {
        &self.ranges
    }

    /// Is nothing in it?
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Returns how many bytes of data are in it.
    pub fn data_bytes(&self) -> u64 {
        self.ranges.iter().filter(|range| range.0 < METADATA).map(|(start, end)| end - start).sum()
    }

    /// Returns how many bytes of btrfs's bookkeeping are in it, as the items have them: the blocks they lie in are larger.
    pub fn metadata_bytes(&self) -> u64 {
        self.ranges.iter().filter(|range| range.0 >= METADATA).map(|(start, end)| end - start).sum()
    }

    /// Returns what is in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let (mut a, mut b) = (self.ranges.as_slice(), other.ranges.as_slice());
        let mut set = Self::default();
        while let (Some(first), Some(second)) = (a.first(), b.first()) {
            set.push(first.0.max(second.0), first.1.min(second.1));
            if first.1 <= second.1 { a = &a[1..] } else { b = &b[1..] }
        }
        set
    }

    /// Returns what is in one of them, or in both.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        let (mut a, mut b) = (self.ranges.as_slice(), other.ranges.as_slice());
        let mut set = Self { ranges: Vec::with_capacity(a.len().max(b.len())) };
        loop {
            let from = match (a.first(), b.first()) {
                (None, None) => return set,
                (Some(first), Some(second)) if second < first => &mut b,
                (Some(_), _) => &mut a,
                (None, _) => &mut b,
            };
            set.push(from[0].0, from[0].1);
            *from = &from[1..];
        }
    }

    /// Returns what is in this one and not in `other`.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let mut taken = other.ranges.as_slice();
        let mut set = Self::default();
        for &(mut start, end) in &self.ranges {
            while let Some(&(from, to)) = taken.first() {
                if from >= end {
                    break;
                }
                set.push(start, from);
                start = start.max(to);
                if to > end {
                    break;
                }
                taken = &taken[1..];
            }
            set.push(start, end);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bits of a number as a set of 64 bytes, in a wild order of pieces.
    fn set(bits: u64) -> Extents {
        let ones = (0..64).rev().filter(|bit| bits >> bit & 1 == 1);
        Extents::of(ones.map(|bit| (bit, bit + 1)).collect())
    }

    #[test]
    fn sets_of_bytes_do_what_bits_do() {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        for _ in 0..3000 {
            // Sparse and dense ones, with long runs and without.
            let (a, b) = (next() & next() | next() & 0xffff, next() | !next() >> 20);
            assert_eq!(set(a).and(&set(b)), set(a & b));
            assert_eq!(set(a).or(&set(b)), set(a | b));
            assert_eq!(set(a).minus(&set(b)), set(a & !b));
            assert_eq!(set(b).minus(&set(a)), set(b & !a));
            assert_eq!(set(a).data_bytes(), u64::from(a.count_ones()));
            let both: Vec<_> = [set(a).ranges(), set(b).ranges()].concat();
            assert_eq!(Extents::repeated(&both), set(a & b));
        }
    }

    #[test]
    fn ranges_that_touch_become_one_and_empty_ones_none() {
        let set = Extents::of(vec![(30, 40), (10, 20), (20, 30), (50, 50), (35, 60)]);
        assert_eq!(set.ranges(), [(10, 60)]);
        assert_eq!(Extents::of(vec![(METADATA, METADATA + 7), (1, 3)]).metadata_bytes(), 7);
    }
}
