//! Many starts at the same time: who waits for whom.

use super::{Case, beside_bwrap};

/// See the module's head.
pub(crate) const AT_ONCE: Case = Case {
    id: "at-once",
    title: "100 starts at once",
    unit: "ms",
    fairness: "The same commands as in Start, a hundred of each, started one after the other without waiting; until the last has ended. All \
        contenders share one tree and one store, state directory or bundle. Those who make namespaces of a network wait for the kernel, which makes \
        and destroys them one at a time.",
    peer: beside_bwrap,
};
