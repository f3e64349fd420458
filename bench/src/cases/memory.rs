//! The memory of the process that was started and waits for the command: what a machine with many boxes pays for each.

use super::{Case, beside_bwrap};

const FAIRNESS: &str = "One process of each, the one that the caller started. bwrap and rootling have a process 1 in the box too, which shares most \
    pages with it, systemd-nspawn a second process, podman a conmon that is not counted. Pages of the program's file count, also those that several share.";

/// See the module's head.
pub(crate) const MEMORY: Case = Case {
    id: "memory",
    title: "Memory of who waits: VmRSS",
    unit: "MiB",
    fairness: FAIRNESS,
    peer: beside_bwrap,
};

/// The most that it ever was.
pub(crate) const PEAK: Case = Case {
    id: "peak",
    title: "Memory of who waits, at its highest: VmHWM",
    unit: "MiB",
    fairness: FAIRNESS,
    peer: beside_bwrap,
};
