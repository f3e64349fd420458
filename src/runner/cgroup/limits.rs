//! What a box may use at most: plain data, and the words in which people write it.
//!
//! The words are docker's. Nothing here looks at the machine: whether a limit can be enforced is found out by
//! `settings` and by making the cgroup.

use std::path::PathBuf;

use rootling_backends::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// The value that stands for "no limit" where one can be asked for: `-1` on the command line.
pub const UNLIMITED: u64 = u64::MAX;

/// Upper limits and shares of a box; what is `None` is not limited and needs nothing of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Memory, page cache included, in bytes. Beyond it the kernel reclaims, then kills in the box.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Memory and swap together, in bytes; [`UNLIMITED`] for any swap. `None` means twice the memory, as docker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_swap_bytes: Option<u64>,
    /// Memory that the kernel tries not to take away when it runs short, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_reservation_bytes: Option<u64>,
    /// Processor time, in thousandths of one processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_thousandths: Option<u64>,
    /// Share of the processors where they are short: 2 to 262144, 1024 is everybody's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_shares: Option<u64>,
    /// Processors that may be used, as the kernel writes lists: `0-2,7`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes that may be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpuset_mems: Option<String>,
    /// Processes and threads; [`UNLIMITED`] for as many as the host gives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// Share of the disks where they are busy: 10 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_weight: Option<u64>,
    /// Rates of single disks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_rates: Vec<IoRate>,
    /// How gladly the kernel kills the box when the whole machine is out of memory: -1000 to 1000. Needs no
    /// cgroup; the command's processes inherit it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
}

/// How fast a disk may be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoRate {
    /// The disk: a block device, not one of its partitions.
    pub device: PathBuf,
    /// What is counted.
    pub what: IoKind,
    /// How much of it in a second: bytes or operations.
    pub per_second: u64,
}

/// What an [`IoRate`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IoKind {
    /// Bytes read.
    ReadBytes,
    /// Bytes written.
    WriteBytes,
    /// Reads.
    ReadOperations,
    /// Writes.
    WriteOperations,
}

impl IoKind {
    /// Returns the flag that asks for it.
    pub fn flag(self) -> &'static str {
        match self {
            Self::ReadBytes => "--device-read-bps",
            Self::WriteBytes => "--device-write-bps",
            Self::ReadOperations => "--device-read-iops",
            Self::WriteOperations => "--device-write-iops",
        }
    }
}

impl Limits {
    /// Returns whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns whether a cgroup has to be made for them.
    pub fn need_cgroup(&self) -> bool {
        *self != Self { oom_score_adj: self.oom_score_adj, ..Self::default() }
    }

    /// Checks what can be said without looking at the machine.
    pub fn check(&self) -> Result<()> {
        within("--cpu-shares", self.cpu_shares, 2, 262_144)?;
        within("--cpus, in thousandths,", self.cpu_thousandths, 10, 1_000_000_000)?;
        within("--io-weight", self.io_weight, 10, 1000)?;
        within("--pids-limit", self.pids, 1, UNLIMITED)?;
        // What the kernel counts in pages must be at least one.
        within("--memory", self.memory_bytes, 4096, i64::MAX.cast_unsigned())?;
        within("--memory-reservation", self.memory_reservation_bytes, 4096, i64::MAX.cast_unsigned())?;
        if let Some(score) = self.oom_score_adj
            && !(-1000..=1000).contains(&score)
        {
            return Err(invalid(format!("--oom-score-adj {score} is not within -1000 and 1000")));
        }
        match (self.memory_bytes, self.memory_swap_bytes) {
            (None, Some(_)) => {
                return Err(invalid("--memory-swap limits memory and swap together: it needs --memory"));
            }
            (Some(memory), Some(both)) if both < memory => {
                return Err(invalid(format!("--memory-swap {both} is less than --memory {memory}"))
                    .hint("give the sum of memory and swap"));
            }
            _ => {}
        }
        for (flag, list) in [("--cpuset-cpus", &self.cpuset_cpus), ("--cpuset-mems", &self.cpuset_mems)] {
            if let Some(text) = list {
                parse_list(text).map_err(|error| error.context(format!("{flag} {text}")))?;
            }
        }
        match self.io_rates.iter().find(|rate| rate.per_second == 0) {
            Some(rate) => Err(invalid(format!("{} {:?} of 0 in a second", rate.what.flag(), rate.device))),
            None => Ok(()),
        }
    }
}

fn within(flag: &str, value: Option<u64>, least: u64, most: u64) -> Result<()> {
    match value {
        Some(value) if !(least..=most).contains(&value) => {
            Err(invalid(format!("{flag} {value} is not within {least} and {most}")))
        }
        _ => Ok(()),
    }
}

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

/// Reads a size in docker's words: `4096`, `512m`, `1.5g`, `64KiB`; units are powers of 1024, in any case.
pub fn parse_size(text: &str) -> Result<u64> {
    let wrong = || invalid(format!("{text:?} is not a size")).hint("write it as 512m or 1.5g");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return Err(wrong()),
    };
    let thousandths = parse_decimal(number, 9).ok_or_else(wrong)?;
    let bytes = (u128::from(thousandths) << shift) / 1_000_000_000;
    u64::try_from(bytes).ok().filter(|bytes| i64::try_from(*bytes).is_ok()).ok_or_else(wrong)
}

/// As [`parse_size`]; `-1` is [`UNLIMITED`].
pub fn parse_size_or_unlimited(text: &str) -> Result<u64> {
    if text == "-1" { Ok(UNLIMITED) } else { parse_size(text) }
}

/// Reads a number of processes; `-1` is [`UNLIMITED`].
pub fn parse_pids(text: &str) -> Result<u64> {
    match text {
        "-1" | "max" => Ok(UNLIMITED),
        _ => text.parse().map_err(|_| invalid(format!("{text:?} is not a number of processes"))),
    }
}

/// Reads a number of processors (`1.5`) and returns thousandths.
pub fn parse_cpus(text: &str) -> Result<u64> {
    parse_decimal(text, 3)
        .ok_or_else(|| invalid(format!("{text:?} is not a number of processors")).hint("write it as 1.5"))
}

/// Reads `DEVICE:RATE`, the rate being bytes as [`parse_size`] reads them, or a number of operations.
pub fn parse_rate(text: &str, what: IoKind) -> Result<IoRate> {
    let example = match what {
        IoKind::ReadBytes | IoKind::WriteBytes => "/dev/sda:10m",
        IoKind::ReadOperations | IoKind::WriteOperations => "/dev/sda:1000",
    };
    let wrong = || invalid(format!("{text:?} is no device and rate")).hint(format!("write it as {example}"));
    let (device, rate) = text.rsplit_once(':').ok_or_else(wrong)?;
    let per_second = match what {
        IoKind::ReadBytes | IoKind::WriteBytes => parse_size(rate)?,
        IoKind::ReadOperations | IoKind::WriteOperations => rate.parse().map_err(|_| wrong())?,
    };
    if !device.starts_with('/') {
        return Err(wrong());
    }
    Ok(IoRate { device: device.into(), what, per_second })
}

/// Reads a list as the kernel writes them, `0-2,7`; the numbers come sorted and once (cpuset(7), List format).
pub fn parse_list(text: &str) -> Result<Vec<u32>> {
    let wrong = || invalid(format!("{text:?} is no list of numbers")).hint("write it as 0-2,7");
    let mut numbers = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) =
            (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
        // No machine has more; a list must not be a way to make us allocate.
        if first > last || last >= 1 << 16 {
            return Err(wrong());
        }
        numbers.extend(first..=last);
    }
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}

/// Reads digits with at most one point and returns the value times ten to the power of `places`; digits beyond
/// are cut off.
fn parse_decimal(text: &str, places: u32) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let kept: String = fraction.chars().chain(std::iter::repeat('0')).take(places as usize).collect();
    let kept: u64 = if kept.is_empty() { 0 } else { kept.parse().ok()? };
    whole.checked_mul(10_u64.checked_pow(places)?)?.checked_add(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_read_in_dockers_words() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("10b", 10),
            ("1k", 1024),
            ("512m", 512 << 20),
            ("512MB", 512 << 20),
            ("2g", 2 << 30),
            ("1.5G", 3 << 29),
            ("64KiB", 64 << 10),
            ("1 t", 1 << 40),
            (".5k", 512),
        ] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "m", "-1", "+5", "1.2.3", "5x", "5mm", "1e3", "9999999p", " 5", "٣", "0x10", "."] {
            let error = parse_size(text).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
            assert!(error.first_hint().is_some());
        }
        assert_eq!(parse_size_or_unlimited("-1").unwrap(), UNLIMITED);
    }

    #[test]
    fn processors_are_thousandths() {
        for (text, thousandths) in [("1", 1000), ("1.5", 1500), ("0.01", 10), ("2.0009", 2000), (".25", 250)]
        {
            assert_eq!(parse_cpus(text).unwrap(), thousandths, "{text}");
        }
        for text in ["", "-1", "one", "1,5", "99999999999999999999"] {
            parse_cpus(text).expect_err(text);
        }
    }

    #[test]
    fn lists_are_the_kernels() {
        assert_eq!(parse_list("0-2,7,1\n").unwrap(), [0, 1, 2, 7]);
        for text in ["", "3-1", "a", "1-", "-1", "0,,1", "0-99999999", "0-2:1/2"] {
            parse_list(text).expect_err(text);
        }
    }

    #[test]
    fn rates_name_a_device() {
        let rate = parse_rate("/dev/disk/by-path/a:b:10m", IoKind::ReadBytes).unwrap();
        assert_eq!((rate.device, rate.per_second), ("/dev/disk/by-path/a:b".into(), 10 << 20));
        assert_eq!(parse_rate("/dev/sda:100", IoKind::WriteOperations).unwrap().per_second, 100);
        for (text, what) in [
            ("/dev/sda", IoKind::ReadBytes),
            ("sda:10m", IoKind::ReadBytes),
            ("/dev/sda:10m", IoKind::ReadOperations),
            (":1", IoKind::ReadOperations),
        ] {
            parse_rate(text, what).expect_err(text);
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let refused = |limits: Limits| limits.check().unwrap_err().to_string();
        let memory = |memory, swap| Limits {
            memory_bytes: memory,
            memory_swap_bytes: Some(swap),
            ..Limits::default()
        };
        assert!(refused(memory(None, 1 << 20)).contains("needs --memory"));
        assert!(refused(memory(Some(2 << 20), 1 << 20)).contains("less than"));
        memory(Some(2 << 20), UNLIMITED).check().unwrap();
        assert!(refused(Limits { pids: Some(0), ..Limits::default() }).contains("--pids-limit 0"));
        assert!(refused(Limits { cpu_shares: Some(1), ..Limits::default() }).contains("--cpu-shares"));
        assert!(
            refused(Limits { oom_score_adj: Some(1001), ..Limits::default() }).contains("--oom-score-adj")
        );
        assert!(
            refused(Limits { cpuset_cpus: Some("x".into()), ..Limits::default() }).contains("--cpuset-cpus")
        );
    }

    #[test]
    fn nothing_asked_is_nothing_written() {
        assert!(Limits::default().is_empty());
        assert_eq!(serde_json::to_string(&Limits::default()).unwrap(), "{}");
        let score = Limits { oom_score_adj: Some(500), ..Limits::default() };
        assert!(!score.is_empty() && !score.need_cgroup());
        assert!(Limits { pids: Some(5), ..Limits::default() }.need_cgroup());
    }

    proptest! {
        #[test]
        fn whole_sizes_are_what_was_written(number in 0_u64..1 << 20, unit in 0_usize..4) {
            let text = format!("{number}{}", ["", "k", "m", "g"][unit]);
            prop_assert_eq!(parse_size(&text).unwrap(), number << (10 * unit));
        }

        #[test]
        fn a_larger_number_is_never_a_smaller_size(a in 0_u64..1 << 30, b in 0_u64..1 << 30, f in 0_u32..1000) {
            let size = |n: u64| parse_size(&format!("{n}.{f:03}m")).unwrap();
            prop_assert_eq!(a.cmp(&b), size(a).cmp(&size(b)));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,20}") {
            drop((parse_size(&text), parse_cpus(&text), parse_list(&text), parse_pids(&text)));
            drop(parse_rate(&text, IoKind::ReadBytes));
        }

        #[test]
        fn lists_read_back(numbers in proptest::collection::btree_set(0_u32..300, 1..20)) {
            let text = numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
            prop_assert_eq!(parse_list(&text).unwrap(), numbers.into_iter().collect::<Vec<_>>());
        }
    }
}
