//! The same command, counted instead of timed: a number that no busy neighbour moves.

use super::Case;

/// See the module's head.
pub(crate) const SYSCALLS: Case = Case {
    id: "syscalls",
    title: "System calls of running /bin/true",
    unit: "calls",
    fairness: "`strace -f -c`: all processes, those of the command inside included (its loader and libc make some 20), threads too. The same \
        commands as above.",
    peer: |contender| if contender.starts_with("rootling") { &["bwrap"] } else { &[] },
};
