//! What a command costs: its time from before the fork to after the wait, and how much memory it and all that it started held.
//!
//! Memory is looked at while the command runs. getrusage(2) would say it in the end, but counts what this program held when it
//! forked, and one process only.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rootling_backends::{Context, Result};

use crate::command::{finish, spawn};

/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// What one or several commands took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cost {
    pub(super) time: Duration,
    /// The greatest sum over the processes that lived at once, of the most that each had held by then.
    pub(super) peak_kib: u64,
}

impl Cost {
    /// Adds what a command took that came after.
    pub(super) fn then(self, later: Self) -> Self {
        Self { time: self.time + later.time, peak_kib: self.peak_kib.max(later.peak_kib) }
    }
}

/// Runs a command to its end.
pub(super) fn measure(command: &mut Command) -> Result<Cost> {
    watched(command, None)
}

/// Runs a command to its end that lets a daemon do the work: its memory is counted, too.
pub(super) fn measure_with_daemon(command: &mut Command, daemon: u32) -> Result<Cost> {
    // proc(5), /proc/PID/clear_refs: 5 sets the peak back to what is held now.
    let path = format!("/proc/{daemon}/clear_refs");
    std::fs::write(&path, "5").context(|| format!("write {path:?}"))?;
    watched(command, Some(daemon))
}

fn watched(command: &mut Command, daemon: Option<u32>) -> Result<Cost> {
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let start = Instant::now();
    let started = spawn(command)?;
    let roots: Vec<u32> = std::iter::once(started.1.id()).chain(daemon).collect();
    let has_ended = AtomicBool::new(false);
    let (ended, time, peak_kib) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&roots, &has_ended));
        let ended = finish(started);
        let time = start.elapsed();
        has_ended.store(true, Ordering::Relaxed);
        (ended, time, watcher.join().unwrap_or_default())
    });
    ended?;
    Ok(Cost { time, peak_kib })
}

fn watch(roots: &[u32], has_ended: &AtomicBool) -> u64 {
    let mut peak = 0;
    while !has_ended.load(Ordering::Relaxed) {
        peak = peak.max(roots.iter().map(|root| held_by(*root)).sum());
        std::thread::sleep(LOOK);
    }
    peak
}

/// Returns the peaks of a process and of all below it, summed; whoever ended meanwhile holds nothing.
fn held_by(process: u32) -> u64 {
    let directory = Path::new("/proc").join(process.to_string());
    let status = std::fs::read_to_string(directory.join("status")).unwrap_or_default();
    let tasks = std::fs::read_dir(directory.join("task")).into_iter().flatten().flatten();
    let children = tasks.map(|task| {
        let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        text.split_whitespace().filter_map(|word| word.parse().ok()).map(held_by).sum::<u64>()
    });
    peak(&status) + children.sum::<u64>()
}

fn peak(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|text| text.parse().ok());
    number.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_child_of_the_command_is_counted() {
        // dd holds its block for most of a second, and sh waits for it.
        let alone = measure(&mut crate::command::command("sh", ["-c", "sleep 0.2; true"])).unwrap();
        let script = "dd if=/dev/zero of=/dev/null bs=64M count=200 2>/dev/null; true";
        let with_child = measure(&mut crate::command::command("sh", ["-c", script])).unwrap();
        assert!(with_child.peak_kib > alone.peak_kib + 60_000, "{with_child:?} {alone:?}");
        assert!(alone.time >= Duration::from_millis(200));
    }

    #[test]
    fn costs_add_time_and_keep_the_greater_peak() {
        let cost = |milliseconds, peak_kib| Cost { time: Duration::from_millis(milliseconds), peak_kib };
        let both = cost(2, 9).then(cost(3, 4));
        assert_eq!((both.time, both.peak_kib), (Duration::from_millis(5), 9));
    }
}
