//! Limits as the files of a cgroup: which controller, which file, which text. Pure; opens nothing.
//!
//! The two versions of the kernel's interface name and count differently. Documented in the kernel's
//! Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/{memory,cpusets,blkio-controller,pids}.rst; the
//! conversions of shares and weights are those that the OCI runtimes use (runtime-spec, config-linux.md).

use super::limits::{IoKind, Limits, UNLIMITED};

/// One part of the kernel that limits one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Controller {
    Memory,
    Cpu,
    Cpuset,
    Pids,
    Io,
}

impl Controller {
    pub(super) const ALL: [Self; 5] = [Self::Memory, Self::Cpu, Self::Cpuset, Self::Pids, Self::Io];

    /// Returns its name in the version's hierarchy.
    pub(super) fn name(self, version: Version) -> &'static str {
        match (self, version) {
            (Self::Memory, _) => "memory",
            (Self::Cpu, _) => "cpu",
            (Self::Cpuset, _) => "cpuset",
            (Self::Pids, _) => "pids",
            (Self::Io, Version::V1) => "blkio",
            (Self::Io, Version::V2) => "io",
        }
    }
}

/// The kernel's two interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Version {
    /// A hierarchy for each controller, or a few of them.
    V1,
    /// One hierarchy for all.
    V2,
}

/// One thing to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// Who asked for it, for words.
    pub(super) flag: &'static str,
    pub(super) controller: Controller,
    /// Files of which the first that exists gets its text: kernels differ.
    pub(super) files: Vec<(&'static str, String)>,
    /// Was it asked for? What was not is left out where no file exists.
    pub(super) asked: bool,
}

/// Number of a block device, as `major:minor`.
pub(super) type DeviceNumber = (u64, u64);

/// Period of processor time, in microseconds: the kernel's default.
pub(super) const PERIOD_US: u64 = 100_000;

/// Returns what has to be written, in order. `devices` are the numbers of the limits' devices, in their order.
pub(super) fn settings(
    limits: &Limits,
    version: impl Fn(Controller) -> Version,
    devices: &[DeviceNumber],
) -> Vec<Setting> {
    let mut list = List(Vec::new());
    match version(Controller::Memory) {
        Version::V1 => list.memory_v1(limits),
        Version::V2 => list.memory_v2(limits),
    }
    match version(Controller::Cpu) {
        Version::V1 => list.cpu_v1(limits),
        Version::V2 => list.cpu_v2(limits),
    }
    // Version 1 takes no process before both are set, so the nodes come along: see `Directory::inherit_cpuset`.
    list.one("--cpuset-cpus", Controller::Cpuset, "cpuset.cpus", limits.cpuset_cpus.clone());
    list.one("--cpuset-mems", Controller::Cpuset, "cpuset.mems", limits.cpuset_mems.clone());
    list.one("--pids-limit", Controller::Pids, "pids.max", limits.pids.map(number_or_max));
    match version(Controller::Io) {
        Version::V1 => list.io_v1(limits, devices),
        Version::V2 => list.io_v2(limits, devices),
    }
    list.0
}

fn number_or_max(number: u64) -> String {
    if number == UNLIMITED { "max".to_owned() } else { number.to_string() }
}

/// Docker's default: as much swap as memory.
pub(super) fn memory_and_swap(limits: &Limits) -> Option<u64> {
    Some(limits.memory_swap_bytes.unwrap_or(limits.memory_bytes?.saturating_mul(2)))
}

struct List(Vec<Setting>);

impl List {
    fn one(&mut self, flag: &'static str, controller: Controller, file: &'static str, text: Option<String>) {
        if let Some(text) = text {
            self.0.push(Setting { flag, controller, files: vec![(file, text)], asked: true });
        }
    }

    fn memory_v1(&mut self, limits: &Limits) {
        // The limit first: with swap can never be less than without.
        let number = |bytes: u64| bytes.to_string();
        self.one("--memory", Controller::Memory, "memory.limit_in_bytes", limits.memory_bytes.map(number));
        if let Some(both) = memory_and_swap(limits) {
            let text = if both == UNLIMITED { "-1".to_owned() } else { both.to_string() };
            self.swap(limits, "memory.memsw.limit_in_bytes", text);
        }
        let reservation = limits.memory_reservation_bytes.map(number);
        self.one("--memory-reservation", Controller::Memory, "memory.soft_limit_in_bytes", reservation);
    }

    fn memory_v2(&mut self, limits: &Limits) {
        let number = |bytes: u64| bytes.to_string();
        self.one("--memory", Controller::Memory, "memory.max", limits.memory_bytes.map(number));
        if let (Some(memory), Some(both)) = (limits.memory_bytes, memory_and_swap(limits)) {
            let text =
                if both == UNLIMITED { "max".to_owned() } else { both.saturating_sub(memory).to_string() };
            self.swap(limits, "memory.swap.max", text);
        }
        let reservation = limits.memory_reservation_bytes.map(number);
        self.one("--memory-reservation", Controller::Memory, "memory.low", reservation);
    }

    /// A kernel that does not count swap has no such file.
    fn swap(&mut self, limits: &Limits, file: &'static str, text: String) {
        let asked = limits.memory_swap_bytes.is_some();
        let files = vec![(file, text)];
        self.0.push(Setting { flag: "--memory-swap", controller: Controller::Memory, files, asked });
    }

    fn cpu_v1(&mut self, limits: &Limits) {
        let shares = limits.cpu_shares.map(|shares| shares.to_string());
        self.one("--cpu-shares", Controller::Cpu, "cpu.shares", shares);
        let period = limits.cpu_thousandths.map(|_| PERIOD_US.to_string());
        self.one("--cpus", Controller::Cpu, "cpu.cfs_period_us", period);
        let quota = limits.cpu_thousandths.map(|cpus| quota_us(cpus).to_string());
        self.one("--cpus", Controller::Cpu, "cpu.cfs_quota_us", quota);
    }

    fn cpu_v2(&mut self, limits: &Limits) {
        let weight = limits.cpu_shares.map(|shares| cpu_weight(shares).to_string());
        self.one("--cpu-shares", Controller::Cpu, "cpu.weight", weight);
        let max = limits.cpu_thousandths.map(|cpus| format!("{} {PERIOD_US}", quota_us(cpus)));
        self.one("--cpus", Controller::Cpu, "cpu.max", max);
    }

    fn io_v1(&mut self, limits: &Limits, devices: &[DeviceNumber]) {
        self.io_weight(limits, &["blkio.weight", "blkio.bfq.weight"], |weight| weight.to_string());
        for (rate, (major, minor)) in limits.io_rates.iter().zip(devices) {
            let file = match rate.what {
                IoKind::ReadBytes => "blkio.throttle.read_bps_device",
                IoKind::WriteBytes => "blkio.throttle.write_bps_device",
                IoKind::ReadOperations => "blkio.throttle.read_iops_device",
                IoKind::WriteOperations => "blkio.throttle.write_iops_device",
            };
            let text = format!("{major}:{minor} {}", rate.per_second);
            self.one(rate.what.flag(), Controller::Io, file, Some(text));
        }
    }

    fn io_v2(&mut self, limits: &Limits, devices: &[DeviceNumber]) {
        // Scheduler BFQ weighs from 1 to 1000, the cost model from 1 to 10000; 100 is everybody's in both.
        if let Some(weight) = limits.io_weight {
            let wide = 1 + (weight - 10) * 9999 / 990;
            let files = vec![("io.bfq.weight", weight.to_string()), ("io.weight", wide.to_string())];
            self.0.push(Setting { flag: "--io-weight", controller: Controller::Io, files, asked: true });
        }
        for (rate, (major, minor)) in limits.io_rates.iter().zip(devices) {
            let key = match rate.what {
                IoKind::ReadBytes => "rbps",
                IoKind::WriteBytes => "wbps",
                IoKind::ReadOperations => "riops",
                IoKind::WriteOperations => "wiops",
            };
            let text = format!("{major}:{minor} {key}={}", rate.per_second);
            self.one(rate.what.flag(), Controller::Io, "io.max", Some(text));
        }
    }

    fn io_weight(&mut self, limits: &Limits, files: &[&'static str], text: impl Fn(u64) -> String) {
        if let Some(weight) = limits.io_weight {
            let files = files.iter().map(|file| (*file, text(weight))).collect();
            self.0.push(Setting { flag: "--io-weight", controller: Controller::Io, files, asked: true });
        }
    }
}

/// Time in a period, in microseconds; the kernel takes no less than a millisecond.
pub(super) fn quota_us(thousandths: u64) -> u64 {
    (thousandths.saturating_mul(PERIOD_US) / 1000).max(1000)
}

/// Shares (2 to 262144) as a weight (1 to 10000).
fn cpu_weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::super::limits::IoRate;
    use super::*;
    use proptest::prelude::*;

    fn texts(limits: &Limits, version: Version) -> Vec<String> {
        let list = settings(limits, |_| version, &[(8, 0), (8, 0)]);
        let text = |setting: &Setting| {
            let files: Vec<String> =
                setting.files.iter().map(|(file, text)| format!("{file}={text}")).collect();
            files.join("|")
        };
        list.iter().map(text).collect()
    }

    #[test]
    fn every_limit_has_its_file_in_both_versions() {
        let limits = Limits {
            memory_bytes: Some(100 << 20),
            memory_swap_bytes: Some(150 << 20),
            memory_reservation_bytes: Some(50 << 20),
            cpu_thousandths: Some(1500),
            cpu_shares: Some(1024),
            cpuset_cpus: Some("0-1".into()),
            cpuset_mems: Some("0".into()),
            pids: Some(99),
            io_weight: Some(500),
            io_rates: vec![
                IoRate { device: "/dev/sda".into(), what: IoKind::ReadBytes, per_second: 1000 },
                IoRate { device: "/dev/sda".into(), what: IoKind::WriteOperations, per_second: 10 },
            ],
            oom_score_adj: None,
        };
        assert_eq!(
            texts(&limits, Version::V2),
            [
                "memory.max=104857600",
                "memory.swap.max=52428800",
                "memory.low=52428800",
                "cpu.weight=39",
                "cpu.max=150000 100000",
                "cpuset.cpus=0-1",
                "cpuset.mems=0",
                "pids.max=99",
                "io.bfq.weight=500|io.weight=4950",
                "io.max=8:0 rbps=1000",
                "io.max=8:0 wiops=10",
            ]
        );
        assert_eq!(
            texts(&limits, Version::V1),
            [
                "memory.limit_in_bytes=104857600",
                "memory.memsw.limit_in_bytes=157286400",
                "memory.soft_limit_in_bytes=52428800",
                "cpu.shares=1024",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=150000",
                "cpuset.cpus=0-1",
                "cpuset.mems=0",
                "pids.max=99",
                "blkio.weight=500|blkio.bfq.weight=500",
                "blkio.throttle.read_bps_device=8:0 1000",
                "blkio.throttle.write_iops_device=8:0 10",
            ]
        );
    }

    #[test]
    fn swap_is_limited_even_where_nobody_asked() {
        let limits = Limits { memory_bytes: Some(1000), ..Limits::default() };
        assert_eq!(texts(&limits, Version::V2), ["memory.max=1000", "memory.swap.max=1000"]);
        assert!(!settings(&limits, |_| Version::V2, &[])[1].asked);
        let any = Limits { memory_swap_bytes: Some(UNLIMITED), ..limits };
        assert_eq!(texts(&any, Version::V2)[1], "memory.swap.max=max");
        assert_eq!(texts(&any, Version::V1)[1], "memory.memsw.limit_in_bytes=-1");
    }

    #[test]
    fn nothing_asked_is_nothing_to_write() {
        assert!(texts(&Limits::default(), Version::V2).is_empty());
        assert_eq!(
            texts(&Limits { pids: Some(UNLIMITED), ..Limits::default() }, Version::V1),
            ["pids.max=max"]
        );
    }

    proptest! {
        #[test]
        fn weights_keep_the_order_and_the_kernels_range(a in 2_u64..262_145, b in 2_u64..262_145) {
            prop_assert!((1..=10_000).contains(&cpu_weight(a)));
            prop_assert!(a > b || cpu_weight(a) <= cpu_weight(b));
        }

        #[test]
        fn a_quota_is_never_more_than_asked_but_for_the_least(cpus in 10_u64..1_000_000) {
            prop_assert_eq!(quota_us(cpus), cpus * 100);
        }
    }
}
