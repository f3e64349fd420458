//! A command in a box with all walls and no network, from the caller's fork to the exit code.

use super::{Case, beside_bwrap};

/// See the module's head.
pub(crate) const START: Case = Case {
    id: "start",
    title: "Start: /bin/true in a box without a network",
    unit: "ms",
    fairness: "All make the namespaces mnt pid ipc uts cgroup net (shown below). rootling also forks the tree and throws the fork away, makes a \
        user namespace and maps the tree's owners, lays down its seccomp filter, masks and capabilities: its defaults. bwrap --unshare-all makes a \
        user namespace and drops all capabilities; it has no filter, maps one id and works in the tree itself. crun and runc start a bundle that was \
        written before the clock started, in the tree itself, with the masks and the three capabilities of their `spec`, without filter and, as \
        root, without user namespace; crun makes no cgroup (--cgroup-manager=disabled), runc makes one. systemd-nspawn works in the tree itself; \
        podman forks its image and keeps a record. As a user, rootling with a range of ids has newuidmap and newgidmap lend them (two processes); \
        with one id, as bwrap, crun and runc, it does not. systemd-nspawn is root's; podman of a user is not measured.",
    peer: beside_bwrap,
};
