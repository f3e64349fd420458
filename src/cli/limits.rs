//! The flags that say what a box may use at most; docker's names.

use rootling_backends::Result;

use super::said;
use crate::runner::cgroup::{
    IoKind, IoRate, Limits, parse_cpus, parse_pids, parse_rate, parse_size, parse_size_or_unlimited,
};

/// Limits of a box.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Limits (settled when the box starts)")]
pub(super) struct LimitFlags {
    /// Memory, page cache included: 512m, 2g
    #[arg(short, long, value_name = "SIZE", value_parser = said(parse_size))]
    memory: Option<u64>,

    /// Memory and swap together, -1 for any swap [default: twice the memory]
    #[arg(long, value_name = "SIZE", value_parser = said(parse_size_or_unlimited), allow_hyphen_values = true)]
    memory_swap: Option<u64>,

    /// Memory that is not taken away when the host runs short
    #[arg(long, value_name = "SIZE", value_parser = said(parse_size))]
    memory_reservation: Option<u64>,

    /// Processors, as time: 1.5
    #[arg(long, value_name = "NUMBER", value_parser = said(parse_cpus))]
    cpus: Option<u64>,

    /// Share of the processors where they are short; 1024 is everybody's
    #[arg(long, value_name = "SHARES")]
    cpu_shares: Option<u64>,

    /// Processors that may be used: 0-2,7
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,

    /// Memory nodes that may be used
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,

    /// Processes and threads, -1 for as many as the host gives
    #[arg(long, value_name = "NUMBER", value_parser = said(parse_pids), allow_hyphen_values = true)]
    pids_limit: Option<u64>,

    /// Share of the disks where they are busy: 10 to 1000
    #[arg(long, value_name = "WEIGHT", visible_alias = "blkio-weight")]
    io_weight: Option<u64>,

    /// Bytes read from a disk in a second
    #[arg(long, value_name = "DISK:SIZE", value_parser = said(read_bytes), visible_alias = "io-read-bps")]
    device_read_bps: Vec<IoRate>,

    /// Bytes written to a disk in a second
    #[arg(long, value_name = "DISK:SIZE", value_parser = said(write_bytes), visible_alias = "io-write-bps")]
    device_write_bps: Vec<IoRate>,

    /// Reads from a disk in a second
    #[arg(long, value_name = "DISK:NUMBER", value_parser = said(reads), visible_alias = "io-read-iops")]
    device_read_iops: Vec<IoRate>,

    /// Writes to a disk in a second
    #[arg(long, value_name = "DISK:NUMBER", value_parser = said(writes), visible_alias = "io-write-iops")]
    device_write_iops: Vec<IoRate>,

    /// How gladly it is killed when the host is out of memory: -1000 to 1000
    #[arg(long, value_name = "SCORE", allow_hyphen_values = true)]
    oom_score_adj: Option<i32>,
}

fn read_bytes(text: &str) -> Result<IoRate> {
    parse_rate(text, IoKind::ReadBytes)
}

fn write_bytes(text: &str) -> Result<IoRate> {
    parse_rate(text, IoKind::WriteBytes)
}

fn reads(text: &str) -> Result<IoRate> {
    parse_rate(text, IoKind::ReadOperations)
}

fn writes(text: &str) -> Result<IoRate> {
    parse_rate(text, IoKind::WriteOperations)
}

impl LimitFlags {
    /// Returns the limits that were asked for, checked as far as that goes without looking at the machine.
    pub(super) fn limits(&self) -> Result<Limits> {
        let rates =
            [&self.device_read_bps, &self.device_write_bps, &self.device_read_iops, &self.device_write_iops];
        let limits = Limits {
            memory_bytes: self.memory,
            memory_swap_bytes: self.memory_swap,
            memory_reservation_bytes: self.memory_reservation,
            cpu_thousandths: self.cpus,
            cpu_shares: self.cpu_shares,
            cpuset_cpus: self.cpuset_cpus.clone(),
            cpuset_mems: self.cpuset_mems.clone(),
            pids: self.pids_limit,
            io_weight: self.io_weight,
            io_rates: rates.into_iter().flatten().cloned().collect(),
            oom_score_adj: self.oom_score_adj,
        };
        limits.check()?;
        Ok(limits)
    }

    /// Returns the first of these flags that was given, for a box that runs already.
    pub(super) fn given(&self) -> Option<&'static str> {
        let given = [
            (self.memory.is_some(), "--memory"),
            (self.memory_swap.is_some(), "--memory-swap"),
            (self.memory_reservation.is_some(), "--memory-reservation"),
            (self.cpus.is_some(), "--cpus"),
            (self.cpu_shares.is_some(), "--cpu-shares"),
            (self.cpuset_cpus.is_some(), "--cpuset-cpus"),
            (self.cpuset_mems.is_some(), "--cpuset-mems"),
            (self.pids_limit.is_some(), "--pids-limit"),
            (self.io_weight.is_some(), "--io-weight"),
            (!self.device_read_bps.is_empty(), "--device-read-bps"),
            (!self.device_write_bps.is_empty(), "--device-write-bps"),
            (!self.device_read_iops.is_empty(), "--device-read-iops"),
            (!self.device_write_iops.is_empty(), "--device-write-iops"),
            (self.oom_score_adj.is_some(), "--oom-score-adj"),
        ];
        given.into_iter().find_map(|(given, flag)| given.then_some(flag))
    }
}
