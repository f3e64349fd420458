//! A command in a tree, in the host's network, from the caller's fork to the exit code.

use super::Case;

/// See the module's head.
pub(crate) const RUN: Case = Case {
    id: "run",
    title: "Run: /bin/true in the tree, in the host's network",
    unit: "ms",
    fairness: "rootling forks the tree, mounts it, runs the command and throws the fork away; podman does the same and keeps a record; systemd-nspawn \
        --ephemeral forks too. bwrap, unshare + chroot and systemd-nspawn run in the tree itself: nothing is forked, nothing protected, less is done. \
        rootling and bwrap make the same namespaces (mnt pid ipc uts cgroup user; shown below), a fresh /proc and /dev; bwrap has no seccomp filter \
        and maps one id. unshare + chroot gives no /dev and drops no capability. All processes are started in the same way by the same parent.",
    peer: |contender| if contender.starts_with("rootling") { &["bwrap"] } else { &[] },
};
