//! What the processes of a box have used.
//!
//! Read from the cgroup, whichever version counts it: version 2 counts processor time in every cgroup and the rest
//! where a controller is enabled. For a box without a cgroup it is summed up over its processes in /proc, which
//! forgets what processes used that have ended.

use std::collections::BTreeMap;
use std::path::Path;

use rootling_backends::{Error, ErrorKind, Result, small_file};
use serde::Serialize;

use super::directory::Directory;

/// One reading; `None` is what this machine does not count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Memory in use now, page cache included where a cgroup counts it.
    pub memory_bytes: Option<u64>,
    /// The most that it ever was.
    pub memory_peak_bytes: Option<u64>,
    /// What it may be.
    pub memory_limit_bytes: Option<u64>,
    /// How often the kernel killed in the box because it had no more memory.
    pub oom_kills: Option<u64>,
    /// Processor time used since the box started, in microseconds.
    pub cpu_us: Option<u64>,
    /// Periods of 0.1 s in which it wanted more processor time than it may have.
    pub cpu_throttled_periods: Option<u64>,
    /// Processes and threads now; without a pids controller, processes.
    pub pids: Option<u64>,
    /// How many there may be.
    pub pids_limit: Option<u64>,
    /// Bytes read from disks.
    pub io_read_bytes: Option<u64>,
    /// Bytes written to disks.
    pub io_write_bytes: Option<u64>,
}

/// Reads the files of a cgroup.
pub(super) fn read<'a>(
    unified: Option<&Directory>,
    v1: &dyn Fn(&str) -> Option<&'a Directory>,
    processes: usize,
) -> Result<Stats> {
    let mut stats = Stats::default();
    if let Some(directory) = unified {
        read_v2(directory, &mut stats);
    }
    if let Some(memory) = v1("memory") {
        stats.memory_bytes = memory.number("memory.usage_in_bytes");
        stats.memory_peak_bytes = memory.number("memory.max_usage_in_bytes");
        // "No limit" is the largest number of whole pages.
        stats.memory_limit_bytes = memory.number("memory.limit_in_bytes").filter(|limit| *limit < 1 << 62);
        stats.oom_kills = memory.read("memory.oom_control").ok().and_then(|text| keyed(&text, "oom_kill"));
    }
    if let Some(cpu) = v1("cpu") {
        stats.cpu_throttled_periods = cpu.read("cpu.stat").ok().and_then(|text| keyed(&text, "nr_throttled"));
    }
    if let Some(cpuacct) = v1("cpuacct") {
        stats.cpu_us = cpuacct.number("cpuacct.usage").map(|ns| ns / 1000);
    }
    if let Some(pids) = v1("pids") {
        stats.pids = pids.number("pids.current");
        stats.pids_limit = pids.number("pids.max");
    }
    if let Some(io) = v1("blkio")
        && let Ok(text) = io.read("blkio.throttle.io_service_bytes")
    {
        stats.io_read_bytes = Some(sum_v1(&text, "Read"));
        stats.io_write_bytes = Some(sum_v1(&text, "Write"));
    }
    stats.pids = stats.pids.or(Some(processes as u64));
    Ok(stats)
}

fn read_v2(directory: &Directory, stats: &mut Stats) {
    let text = |name: &str| directory.read(name).ok();
    if let Some(text) = text("cpu.stat") {
        stats.cpu_us = keyed(&text, "usage_usec");
        stats.cpu_throttled_periods = keyed(&text, "nr_throttled");
    }
    stats.memory_bytes = directory.number("memory.current");
    stats.memory_peak_bytes = directory.number("memory.peak");
    stats.memory_limit_bytes = directory.number("memory.max");
    stats.oom_kills = text("memory.events").and_then(|text| keyed(&text, "oom_kill"));
    stats.pids = directory.number("pids.current");
    stats.pids_limit = directory.number("pids.max");
    if let Some(text) = text("io.stat") {
        stats.io_read_bytes = Some(sum_v2(&text, "rbytes="));
        stats.io_write_bytes = Some(sum_v2(&text, "wbytes="));
    }
}

/// `key value` in lines.
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix([' ', ':'])?.trim().parse().ok())
}

/// `8:0 rbytes=1 wbytes=2 ...`, a line for each device.
fn sum_v2(text: &str, key: &str) -> u64 {
    text.split_whitespace().filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok()).sum()
}

/// `8:0 Read 1`, lines for each device; the last line is a total of all kinds.
fn sum_v1(text: &str, kind: &str) -> u64 {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        (words.next() == Some(kind)).then(|| words.next()?.parse::<u64>().ok()).flatten()
    });
    lines.sum()
}

impl Stats {
    /// Sums up over the processes of a box without a cgroup, whose command is `command`: its first process and all
    /// that descend from it, and, where we may look, all others in its pid namespace. Costs a directory read of /proc
    /// and two files for each process of the machine; `NotFound` where the command has ended.
    pub fn of_processes(command: i32) -> Result<Self> {
        let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let ours = namespace(std::process::id().cast_signed());
        let wanted = namespace(command).filter(|wanted| ours.as_ref() != Some(wanted));
        let parents = parents()?;
        let Some(init) = parents.get(&command).copied() else {
            return Err(Error::new(ErrorKind::NotFound, format!("process {command} of the box has ended")));
        };
        let descends = |pid: i32| {
            // As many steps as there are processes: ids may be used again while we look.
            let mut chain =
                std::iter::successors(Some(pid), |pid| parents.get(pid).copied()).take(parents.len());
            chain.any(|ancestor| ancestor == init)
        };
        let mut total = Self { pids: Some(0), ..Self::default() };
        for pid in parents.keys().copied() {
            if descends(pid) || (wanted.is_some() && namespace(pid) == wanted) {
                total.add(&of_process(pid));
            }
        }
        Ok(total)
    }

    fn add(&mut self, other: &Self) {
        let sum = |a: Option<u64>, b: Option<u64>| match b {
            Some(b) => Some(a.unwrap_or(0).saturating_add(b)),
            None => a,
        };
        self.memory_bytes = sum(self.memory_bytes, other.memory_bytes);
        self.cpu_us = sum(self.cpu_us, other.cpu_us);
        self.pids = sum(self.pids, other.pids);
        self.io_read_bytes = sum(self.io_read_bytes, other.io_read_bytes);
        self.io_write_bytes = sum(self.io_write_bytes, other.io_write_bytes);
    }
}

/// The parent of every process: field 4 of proc_pid_stat(5).
fn parents() -> Result<BTreeMap<i32, i32>> {
    let entries = std::fs::read_dir("/proc").map_err(|error| Error::io("readdir(\"/proc\")", error))?;
    let all = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    Ok(all
        .filter_map(|pid| {
            // One that ends while we look is none.
            let stat = small_file::read_record(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?))
        })
        .collect())
}

/// What one process used; a file that cannot be read counts nothing.
fn of_process(pid: i32) -> Stats {
    let text = |name: &str| small_file::read_record(Path::new("/proc").join(pid.to_string()).join(name)).ok();
    let io = text("io");
    Stats {
        // The second line of `smaps_rollup` would divide what is shared, and takes a thousand times as long.
        memory_bytes: text("statm").and_then(|text| rss(&text)),
        cpu_us: text("stat").and_then(|text| cpu_time(&text)),
        pids: Some(1),
        io_read_bytes: io.as_deref().and_then(|text| keyed(text, "read_bytes")),
        io_write_bytes: io.as_deref().and_then(|text| keyed(text, "write_bytes")),
        ..Stats::default()
    }
}

/// Resident pages without those of files and shared memory, as bytes: fields 2 and 3 of proc_pid_statm(5).
fn rss(statm: &str) -> Option<u64> {
    let mut fields = statm.split(' ').skip(1).map(str::parse::<u64>);
    let (resident, shared) = (fields.next()?.ok()?, fields.next()?.ok()?);
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(resident.saturating_sub(shared) * u64::try_from(page).ok()?)
}

/// Fields 14 and 15 of proc_pid_stat(5), in clock ticks; the name before them may hold anything.
fn cpu_time(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11).map(str::parse::<u64>);
    let ticks = fields.next()?.ok()? + fields.next()?.ok()?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    Some(ticks * 1_000_000 / u64::try_from(per_second).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_read() {
        assert_eq!(keyed("usage_usec 12\nuser_usec 3\n", "usage_usec"), Some(12));
        assert_eq!(keyed("oom_kill_disable 0\noom_kill 4\n", "oom_kill"), Some(4));
        assert_eq!(keyed("read_bytes: 7\n", "read_bytes"), Some(7));
        assert_eq!(keyed("", "read_bytes"), None);
        let v2 = "8:0 rbytes=10 wbytes=1 rios=1\n8:16 rbytes=5 wbytes=2\n";
        assert_eq!((sum_v2(v2, "rbytes="), sum_v2(v2, "wbytes=")), (15, 3));
        let v1 = "8:0 Read 10\n8:0 Write 1\n8:16 Read 5\nTotal 16\n";
        assert_eq!((sum_v1(v1, "Read"), sum_v1(v1, "Write")), (15, 1));
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 25 50 0 0 20 0 1 0 100 1 1";
        let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).unwrap().unwrap();
        assert_eq!(cpu_time(stat), Some(75 * 1_000_000 / ticks.cast_unsigned()));
        assert_eq!(rss("100 30 10 1 0 5 0").map(|bytes| bytes % 20), Some(0));
    }

    #[test]
    fn a_sum_knows_what_none_counted() {
        let mut total = Stats { pids: Some(0), ..Stats::default() };
        total.add(&Stats { pids: Some(1), cpu_us: Some(5), ..Stats::default() });
        total.add(&Stats { pids: Some(1), cpu_us: None, ..Stats::default() });
        assert_eq!((total.pids, total.cpu_us, total.memory_bytes), (Some(2), Some(5), None));
    }

    #[test]
    fn a_box_without_a_namespace_is_its_first_process_and_what_descends_from_it() {
        let mut init = std::process::Command::new("sh")
            .args(["-c", "sleep 100 & (sleep 100 & wait) & echo $!; wait"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(init.stdout.take().unwrap()), &mut line)
            .unwrap();
        let command = line.trim().parse().unwrap();
        let start = std::time::Instant::now();
        let count = loop {
            let stats = Stats::of_processes(command).unwrap();
            assert!(stats.memory_bytes.is_some() && stats.cpu_us.is_some(), "{stats:?}");
            if stats.pids == Some(4) || start.elapsed().as_secs() > 10 {
                break stats.pids;
            }
        };
        let ends = |parent: i32| [command, init.id().cast_signed()].contains(&parent);
        for (child, _) in parents().unwrap().into_iter().filter(|(_, parent)| ends(*parent)) {
            crate::runner::sys::kill(child, libc::SIGKILL);
        }
        init.kill().unwrap();
        init.wait().unwrap();
        assert_eq!(count, Some(4), "the shell, its sleep, its subshell and that one's sleep");
        assert_eq!(Stats::of_processes(i32::MAX).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
