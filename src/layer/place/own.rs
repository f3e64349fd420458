//! Which paths a layer made itself: whiteouts take away what others made.

use std::collections::HashSet;

/// The paths, as they are in the tree.
///
/// Nothing is ever taken out: where an entry of the layer's own was replaced, all there is and will be is its own.
#[derive(Debug, Default)]
pub(super) struct Own {
    made: HashSet<Box<[u8]>>,
    /// Directories that hold some of it.
    above: HashSet<Box<[u8]>>,
    /// Directories that hold nothing else.
    cleared: HashSet<Box<[u8]>>,
}

/// Whose what stands at a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// The layer's.
    Own,
    /// A directory from beneath that holds something of the layer's.
    HoldsOwn,
    /// From beneath.
    Lower,
}

impl Own {
    pub(super) fn add(&mut self, path: &[u8]) {
        self.made.insert(path.into());
        for above in above(path) {
            if !self.above.insert(above.into()) {
                break;
            }
        }
    }

    pub(super) fn whose(&self, path: &[u8]) -> Whose {
        if self.made.contains(path) {
            Whose::Own
        } else if self.above.contains(path) {
            Whose::HoldsOwn
        } else {
            Whose::Lower
        }
    }

    pub(super) fn is_cleared(&self, path: &[u8]) -> bool {
        self.cleared.contains(path)
    }

    pub(super) fn is_cleared_or_below(&self, path: &[u8]) -> bool {
        self.is_cleared(path) || above(path).any(|above| self.is_cleared(above))
    }

    pub(super) fn set_cleared(&mut self, path: &[u8]) {
        self.cleared.insert(path.into());
    }
}

/// Returns the directories that a path lies in, the nearest first, the root last.
pub(super) fn above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let parent = |path: &'_ [u8]| path.iter().rposition(|byte| *byte == b'/');
    let mut next = (!path.is_empty()).then_some(path);
    std::iter::from_fn(move || {
        let path = next?;
        let above = parent(path).map_or(&path[..0], |slash| &path[..slash]);
        next = (!above.is_empty()).then_some(above);
        Some(above)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directories_above_end_at_the_root() {
        let of = |path: &str| {
            above(path.as_bytes()).map(|path| String::from_utf8(path.to_vec()).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(of("a/b/c"), ["a/b", "a", ""]);
        assert_eq!(of("a"), [""]);
        assert_eq!(of(""), Vec::<String>::new());
    }

    #[test]
    fn what_lies_in_a_cleared_directory_is_cleared() {
        let mut own = Own::default();
        own.add(b"a/b/c");
        own.set_cleared(b"a/b");
        assert_eq!(
            [b"a/b/c".as_slice(), b"a", b"x"].map(|path| own.whose(path)),
            [Whose::Own, Whose::HoldsOwn, Whose::Lower]
        );
        assert!(own.is_cleared_or_below(b"a/b/d") && !own.is_cleared_or_below(b"a"));
    }
}
