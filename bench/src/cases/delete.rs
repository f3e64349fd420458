//! The fork is thrown away, edits and all.

use super::{Case, same_means};

/// See the module's head.
pub(crate) const DELETE: Case = Case {
    id: "delete",
    title: "Delete: the edited fork is gone",
    unit: "ms",
    fairness: "Until the name is gone. What a deleted subvolume held is freed by a kernel thread afterwards: the bench waits for that, but nobody is charged. \
        rootling first looks for whatever may stand in the way (immutable flags, nested subvolumes, foreign mounts); rm -rf and the bare \
        ioctl do not.",
    peer: same_means,
};
