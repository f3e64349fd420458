//! The same commands, counted instead of timed: a number that no busy neighbour moves.

use super::{Case, beside_bwrap};

/// See the module's head.
pub(crate) const SYSCALLS: Case = Case {
    id: "syscalls",
    title: "System calls of running /bin/true",
    unit: "calls",
    fairness: "`strace -f -c`: all processes, those of the command inside included (its loader and libc make some 25), threads too, and newuidmap \
        and newgidmap where a user has a range of ids. The commands of Start, of Run (host network) and of Exec.",
    peer: beside_bwrap,
};
