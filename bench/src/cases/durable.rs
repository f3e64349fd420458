//! The same fork, until it would survive a power cut.

use super::{Case, same_means};

/// See the module's head.
pub(crate) const DURABLE: Case = Case {
    id: "fork-durable",
    title: "Fork and syncfs: a writable copy that survives a power cut",
    unit: "ms",
    fairness: "The fork above and a syncfs right after it, on a loop device over the machine's own disk: the numbers scatter with that disk. \
        Nothing else was dirty.",
    peer: same_means,
};
