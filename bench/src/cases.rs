//! What is measured, and what makes it fair or unfair: one file for each.

mod at_once;
pub(crate) mod build;
mod changes;
mod delete;
mod durable;
mod exec;
mod first_write;
mod fork;
pub(crate) mod history;
pub(crate) mod images;
mod memory;
mod run;
mod scale;
pub(crate) mod snapshotter;
mod start;
mod syscalls;

pub(crate) use at_once::AT_ONCE;
pub(crate) use changes::CHANGES;
pub(crate) use delete::DELETE;
pub(crate) use durable::DURABLE;
pub(crate) use exec::EXEC;
pub(crate) use first_write::FIRST_WRITE;
pub(crate) use fork::FORK;
pub(crate) use memory::{MEMORY, PEAK};
pub(crate) use run::RUN;
pub(crate) use scale::{SCALE_ENTER, SCALE_FORK, SCALE_LEAK, SCALE_LOG, SCALE_LS, SCALE_RM};
pub(crate) use start::START;
pub(crate) use syscalls::SYSCALLS;

/// One benchmark.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    /// The word in `raw.csv`.
    pub(crate) id: &'static str,
    /// The heading.
    pub(crate) title: &'static str,
    /// What the numbers count.
    pub(crate) unit: &'static str,
    /// How one contender differs from the next in what it does.
    pub(crate) fairness: &'static str,
    /// The right peer of each of rootling's contenders: the one that does the same work by the same means.
    pub(crate) peer: fn(contender: &str) -> &'static [&'static str],
}

/// All of them, in the order of the report.
pub(crate) const ALL: [Case; 60] = [
    FORK,
    DURABLE,
    FIRST_WRITE,
    CHANGES,
    DELETE,
    START,
    RUN,
    EXEC,
    AT_ONCE,
    MEMORY,
    PEAK,
    SYSCALLS,
    history::SNAPSHOT[0],
    history::SNAPSHOT[1],
    history::DIFF[0],
    history::DIFF[1],
    history::FORK[0],
    history::FORK[1],
    history::RESTORE[0],
    history::RESTORE[1],
    history::WRITTEN[0],
    history::WRITTEN[1],
    images::COLD[0],
    images::COLD[1],
    images::COLD[2],
    images::COLD[3],
    images::SHARED[0],
    images::SHARED[1],
    images::SHARED[2],
    images::SHARED[3],
    images::PUSH[0],
    images::PUSH[1],
    images::PUSH[2],
    images::PUSH[3],
    build::STEPS_COLD,
    build::STEPS_CACHED,
    build::STAGES,
    build::STAGES_CACHED,
    build::FILES,
    build::CHANGED,
    build::BIG,
    build::BIG_KNOWN,
    build::BIG_USED,
    snapshotter::PREPARE,
    snapshotter::USAGE,
    snapshotter::WALK,
    snapshotter::COMMIT[0],
    snapshotter::COMMIT[1],
    snapshotter::REMOVE,
    snapshotter::LAYER[0],
    snapshotter::LAYER[1],
    snapshotter::PULL[0],
    snapshotter::PULL[1],
    snapshotter::START,
    SCALE_ENTER,
    SCALE_FORK,
    SCALE_RM,
    SCALE_LOG,
    SCALE_LS,
    SCALE_LEAK,
];

/// The peer that does to a tree what the backend does: the first that took part is compared with.
fn same_means(contender: &str) -> &'static [&'static str] {
    match contender {
        "rootling overlay" => &["podman overlay"],
        "rootling btrfs" => &["btrfs subvolume snapshot", "podman btrfs"],
        "rootling reflink" => &["cp -a --reflink=always"],
        "rootling copy" => &["cp -a --reflink=never"],
        _ => &[],
    }
}

/// The small program that makes the same namespaces as the same kind of user; of those that join a box, the fastest that has a state.
fn beside_bwrap(contender: &str) -> &'static [&'static str] {
    match contender {
        _ if !contender.starts_with("rootling") => &[],
        _ if contender.contains(" exec, user") => &["crun exec, user of one id"],
        _ if contender.contains(" exec") => &["crun exec"],
        _ if contender.contains(", user") => &["bwrap, user of one id"],
        _ if contender.contains(", host network") => &["bwrap, host network"],
        _ => &["bwrap"],
    }
}
