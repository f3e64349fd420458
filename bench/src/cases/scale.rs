//! What a store costs that holds much: states on each other, nodes beside each other.

use super::Case;

/// A command in a box that nothing runs in.
pub(crate) const SCALE_ENTER: Case = Case {
    id: "scale-enter",
    title: "Scale: a command in a box at rest",
    unit: "ms",
    fairness: "The program itself, from fork to wait, as `exec BOX true` without a network. The boxes of all depths lie in one store, those of a \
        width in one each; every round has one turn of each, so that what disturbs one disturbs all. Each state of a deep box has one changed file.",
    peer: beside_small,
};

/// A new box on a tree, or on what a box holds.
pub(crate) const SCALE_FORK: Case = Case {
    id: "scale-fork",
    title: "Scale: a fork",
    unit: "ms",
    fairness: "As above; durable. The fork is removed after each turn, and its removal is the next table.",
    peer: beside_small,
};

/// That box's removal.
pub(crate) const SCALE_RM: Case = Case {
    id: "scale-rm",
    title: "Scale: removal of a fork",
    unit: "ms",
    fairness: "As above; until its bytes are free.",
    peer: beside_small,
};

/// The newest twenty states of a box.
pub(crate) const SCALE_LOG: Case = Case {
    id: "scale-log",
    title: "Scale: the log of a box, twenty states",
    unit: "ms",
    fairness: "As above. What lists everything is linear in what it lists: those rows are there to say how dear one node is, and have no peer.",
    peer: beside_small,
};

/// The boxes, or the snapshots of one.
pub(crate) const SCALE_LS: Case = Case {
    id: "scale-ls",
    title: "Scale: the snapshots of one box, and all names",
    unit: "ms",
    fairness: "As above.",
    peer: beside_small,
};

/// Free space before and after a thousand forks and removals.
pub(crate) const SCALE_LEAK: Case = Case {
    id: "scale-leak",
    title: "Scale: what a thousand forks and removals leave behind",
    unit: "KiB",
    fairness: "Free blocks of a file system that nobody else writes to, after a sync, before and after; after fifty forks and removals that are not \
        counted, because directories keep the blocks that they once had.",
    peer: |_| &[],
};

fn beside_small(contender: &str) -> &'static [&'static str] {
    match contender {
        who if who.ends_with(", everything") || who.ends_with(" 1 deep") || who.ends_with(" 10 wide") => &[],
        who if who.contains(" deep") => {
            by_backend(who, &["overlay 1 deep", "reflink 1 deep", "btrfs 1 deep"])
        }
        who => by_backend(who, &["overlay 10 wide", "reflink 10 wide", "btrfs 10 wide"]),
    }
}

fn by_backend(who: &str, peers: &'static [&'static str; 3]) -> &'static [&'static str] {
    let backend = who.split(' ').next().unwrap_or_default();
    let at = peers.iter().position(|peer| peer.starts_with(backend));
    at.map_or(&[], |at| &peers[at..=at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_much_is_compared_with_the_same_that_holds_little() {
        assert_eq!(beside_small("overlay 1000 deep"), ["overlay 1 deep"]);
        assert_eq!(beside_small("btrfs 10000 wide"), ["btrfs 10 wide"]);
        assert_eq!(beside_small("btrfs 10000 wide, everything"), [""; 0]);
        assert_eq!(beside_small("btrfs 1 deep"), [""; 0]);
    }
}
