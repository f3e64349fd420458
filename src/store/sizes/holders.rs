//! Who holds which bytes, and which come free when some go: sets only, no files.
//!
//! Every node *holds* a set. Each set but the first is kept as a difference from the parent's:
//!
//! ```text
//!   holds(node) = holds(parent) - removed(node) + added(node)
//! ```
//!
//! What a node added is *introduced* by it. So the holders of a byte are the node that introduced it and, down from there, every child
//! that did not remove it: one walk along the tree of nodes, whose cost follows what changed. Where several nodes introduced the same byte
//! (clones between unrelated trees) all of them are walked. What others than the nodes hold is one more set that introduces.

use std::collections::{BTreeSet, HashMap, HashSet};

use rootling_backends::Extents;
use rootling_backends::extents::METADATA;

/// A node among the others, which are known by their places in a list.
#[derive(Debug, Default)]
pub(super) struct Holder {
    /// The node whose set this one's is a difference from.
    pub(super) parent: Option<usize>,
    /// What of the parent's set it does not hold.
    pub(super) removed: Extents,
    /// Cannot be read without its parent, so that it holds the parent's own bytes too.
    pub(super) is_delta: bool,
    /// The node in whose directory it has its tree, so that it holds that one's own bytes too.
    pub(super) shares: Option<usize>,
    /// Bytes that are in no set.
    pub(super) own_bytes: u64,
    /// What the file system calls shared although the node refers to it once.
    pub(super) elsewhere: Extents,
    /// The nodes whose parent this one is; filled in by [`Holders::new`].
    pub(super) children: Vec<usize>,
    /// The nodes that have their tree here; filled in by [`Holders::new`].
    pub(super) sharers: Vec<usize>,
}

/// All nodes.
#[derive(Debug)]
pub(super) struct Holders {
    pub(super) holders: Vec<Holder>,
    /// Sets with all that introduced them; those held by others are left out, nothing can free them.
    introduced: Vec<(Vec<usize>, Extents)>,
    /// For each holder, which of them.
    by_holder: Vec<Vec<usize>>,
    /// What all nodes hold, each byte once.
    pub(super) held: Bytes,
    /// Metadata items that only others have.
    pub(super) outside_items: u64,
}

/// An amount: bytes in no set, of data, and of btrfs's items.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Bytes {
    pub(super) own: u64,
    pub(super) data: u64,
    pub(super) items: u64,
}

impl Bytes {
    pub(super) fn of(own: u64, set: &Extents) -> Self {
        Self { own, data: set.data_bytes(), items: set.metadata_bytes() }
    }

    fn add(&mut self, set: &Extents) {
        self.data += set.data_bytes();
        self.items += set.metadata_bytes();
    }
}

impl Holders {
    /// Returns the nodes, each with what it added, beside what others hold.
    pub(super) fn new(added: Vec<(Holder, Extents)>, outside: &Extents) -> Self {
        let (mut holders, added): (Vec<Holder>, Vec<Extents>) = added.into_iter().unzip();
        for child in 0..holders.len() {
            if let Some(parent) = holders[child].parent {
                holders[parent].children.push(child);
            }
            if let Some(owner) = holders[child].shares {
                holders[owner].sharers.push(child);
            }
        }
        let swept = Swept::sweep(&added, outside);
        let mut by_holder = vec![Vec::new(); holders.len()];
        for (place, (introducers, _)) in swept.introduced.iter().enumerate() {
            introducers.iter().for_each(|&holder| by_holder[holder].push(place));
        }
        let own = holders.iter().map(|holder| holder.own_bytes).sum();
        let held = Bytes { own, ..swept.held };
        let Swept { introduced, outside_items, .. } = swept;
        Self { holders, introduced, by_holder, held, outside_items }
    }

    /// Returns what comes free if the nodes at these places go, and no others.
    pub(super) fn frees(&self, places: &[usize]) -> Bytes {
        let group: HashSet<usize> = places.iter().copied().collect();
        let among = |place: usize| group.contains(&place);
        let mut freed = Bytes::default();
        for &place in places {
            if !self.is_stood_on(place, &among) {
                freed.own += self.holders[place].own_bytes;
            }
            for &set in &self.by_holder[place] {
                let (introducers, set) = &self.introduced[set];
                if introducers[0] != place || !introducers.iter().all(|&other| among(other)) {
                    continue;
                }
                let left = introducers.iter().fold(set.clone(), |set, &by| self.left_by(by, set, &among));
                match introducers.as_slice() {
                    [_] => freed.add(&self.not_elsewhere(place, left, &among)),
                    _ => freed.add(&left),
                }
            }
        }
        freed
    }

    /// Does what would come free with this node alone depend on what the file system called shared?
    pub(super) fn depends_on_elsewhere(&self, place: usize) -> bool {
        let elsewhere = &self.holders[place].elsewhere;
        let alone = |other: usize| other == place;
        let mut sets = self.by_holder[place].iter().map(|&set| &self.introduced[set]);
        !elsewhere.is_empty()
            && sets.any(|(introducers, set)| {
                introducers.len() == 1 && !self.left_by(place, set.and(elsewhere), &alone).is_empty()
            })
    }

    /// Does a delta outside the group need this node, directly or not?
    fn is_stood_on(&self, place: usize, among: &impl Fn(usize) -> bool) -> bool {
        let holder = &self.holders[place];
        let deltas = holder.children.iter().filter(|&&child| self.holders[child].is_delta);
        let mut standing = deltas.chain(&holder.sharers);
        standing.any(|&node| !among(node) || self.is_stood_on(node, among))
    }

    /// Returns the part of `set`, which the node holds, that no descendant outside the group has from it.
    fn left_by(&self, place: usize, mut set: Extents, among: &impl Fn(usize) -> bool) -> Extents {
        let children = &self.holders[place].children;
        for &child in children.iter().filter(|&&child| !among(child)) {
            if set.is_empty() {
                return set;
            }
            set = set.and(&self.holders[child].removed);
        }
        for &child in children.iter().filter(|&&child| among(child)) {
            let removed = &self.holders[child].removed;
            let passed_on = self.left_by(child, set.minus(removed), among);
            set = set.and(removed).or(&passed_on);
        }
        set
    }

    /// Returns the part of `set`, which this node alone introduced, that the file system did not call shared; what descendants in the
    /// group hold too is shared with them.
    fn not_elsewhere(&self, place: usize, set: Extents, among: &impl Fn(usize) -> bool) -> Extents {
        let mut shared = set.and(&self.holders[place].elsewhere);
        for &child in self.holders[place].children.iter().filter(|&&child| among(child)) {
            shared = shared.and(&self.holders[child].removed);
        }
        set.minus(&shared)
    }
}

/// Who introduced what.
#[derive(Default)]
struct Swept {
    introduced: Vec<(Vec<usize>, Extents)>,
    /// What at least one node introduced.
    held: Bytes,
    /// Metadata items that only others have.
    outside_items: u64,
}

impl Swept {
    /// Goes once over all addresses.
    fn sweep(added: &[Extents], outside: &Extents) -> Self {
        let others = added.len();
        let sets = added.iter().chain([outside]).enumerate();
        let mut edges: Vec<(u64, bool, usize)> = sets
            .flat_map(|(by, set)| {
                set.ranges().iter().flat_map(move |&(start, end)| [(start, true, by), (end, false, by)])
            })
            .collect();
        edges.sort_unstable();
        let (mut swept, mut at) = (Self::default(), 0);
        let mut open: BTreeSet<usize> = BTreeSet::new();
        let mut found: HashMap<Vec<usize>, Vec<(u64, u64)>> = HashMap::new();
        for (address, opens, by) in edges {
            if address > at && !open.is_empty() {
                let length = address - at;
                match (open.first() == Some(&others), at < METADATA) {
                    (true, true) => {}
                    (true, false) => swept.outside_items += length,
                    (false, true) => swept.held.data += length,
                    (false, false) => swept.held.items += length,
                }
                if !open.contains(&others) {
                    let introducers: Vec<usize> = open.iter().copied().collect();
                    found.entry(introducers).or_default().push((at, address));
                }
            }
            at = address;
            if opens {
                open.insert(by)
            } else {
                open.remove(&by)
            };
        }
        swept.introduced = found.into_iter().map(|(by, ranges)| (by, Extents::of(ranges))).collect();
        swept
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 32 bytes of data and 32 of items.
    fn set(bits: u64) -> Extents {
        let place = |bit: u64| if bit < 32 { bit } else { METADATA + bit };
        let ones = (0..64).filter(|bit| bits >> bit & 1 == 1);
        Extents::of(ones.map(|bit| (place(bit), place(bit) + 1)).collect())
    }

    /// What a node is to be: parent, its own directory's bits, delta or full, compared with the parent or kept whole.
    type Wanted = (Option<prop::sample::Index>, u64, bool, bool);

    /// All that each node holds, without any cleverness, and the nodes.
    fn build(wanted: &[Wanted], outside: u64) -> (Vec<u64>, Holders) {
        let mut holds = Vec::new();
        let mut added = Vec::new();
        for (place, (parent, bits, is_delta, compared)) in wanted.iter().enumerate() {
            let parent = parent.filter(|_| place > 0).map(|parent| parent.index(place));
            let below = parent.map_or(0, |parent: usize| holds[parent]);
            let is_delta = *is_delta && parent.is_some();
            let all = if is_delta { below | bits } else { *bits };
            let parent = parent.filter(|_| is_delta || *compared);
            let base = parent.map_or(0, |_| below);
            let holder =
                Holder { parent, is_delta, own_bytes: 1, removed: set(base & !all), ..Holder::default() };
            added.push((holder, set(all & !base)));
            holds.push(all);
        }
        (holds, Holders::new(added, &set(outside)))
    }

    proptest! {
        #[test]
        fn what_comes_free_is_what_nobody_else_holds(
            wanted in prop::collection::vec(any::<Wanted>(), 1..12),
            going in any::<u16>(),
            outside in any::<u64>(),
        ) {
            // Few bytes are held by others, and bits are shared often enough as they are.
            let outside = outside & outside >> 7 & outside >> 13;
            let (holds, holders) = build(&wanted, outside);
            let goes = |place: &usize| going >> place & 1 == 1;
            let places: Vec<usize> = (0..holds.len()).filter(goes).collect();
            let union = |going: bool| {
                let chosen = holds.iter().enumerate().filter(|(place, _)| goes(place) == going);
                chosen.fold(0, |all, (_, bits)| all | bits)
            };
            let free = set(union(true) & !union(false) & !outside);
            let freed = holders.frees(&places);
            prop_assert_eq!((freed.data, freed.items), (free.data_bytes(), free.metadata_bytes()));
            let all = set(union(true) | union(false));
            prop_assert_eq!((holders.held.data, holders.held.items), (all.data_bytes(), all.metadata_bytes()));
        }
    }

    #[test]
    fn what_a_delta_stands_on_stays_with_it() {
        let holder = |parent, is_delta| Holder { parent, is_delta, own_bytes: 10, ..Holder::default() };
        let added = vec![
            (holder(None, false), set(0b0011)),
            (holder(Some(0), true), set(0b0100)),
            (holder(Some(1), true), set(0b1000)),
        ];
        let holders = Holders::new(added, &Extents::default());
        let freed = |places: &[usize]| {
            let bytes = holders.frees(places);
            (bytes.own, bytes.data)
        };
        assert_eq!(freed(&[0]), (0, 0));
        assert_eq!(freed(&[0, 1]), (0, 0));
        assert_eq!(freed(&[2]), (10, 1));
        assert_eq!(freed(&[1, 2]), (20, 2));
        assert_eq!(freed(&[0, 1, 2]), (30, 4));
    }

    #[test]
    fn what_is_called_shared_is_believed_unless_one_of_the_group_is_whom_it_is_shared_with() {
        let elsewhere = set(0b110);
        let first = Holder { elsewhere, ..Holder::default() };
        let second = Holder { parent: Some(0), removed: set(0b001), ..Holder::default() };
        let holders =
            Holders::new(vec![(first, set(0b111)), (second, Extents::default())], &Extents::default());
        assert_eq!(holders.frees(&[0]).data, 1);
        assert_eq!(holders.frees(&[0, 1]).data, 3);
        assert!(!holders.depends_on_elsewhere(0), "it is shared with a node anyway");
    }
}
