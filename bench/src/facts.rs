//! The machine and the programs, without names of hosts, users or their paths.

use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use crate::command::{command, output};
use crate::options::Options;

/// What a reader needs to judge the numbers.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) date: String,
    pub(crate) kernel: String,
    pub(crate) cores: usize,
    processor: String,
    memory: String,
    load: String,
    revision: String,
    programs: Vec<String>,
    quick: bool,
    started: Instant,
    elapsed: Duration,
    /// Ticks of all kinds, and those stolen by the hypervisor, at the start.
    ticks: Option<(u64, u64)>,
    stolen: Option<f64>,
}

const PROGRAMS: [(&str, &str); 16] = [
    ("cp", "--version"),
    ("btrfs", "--version"),
    ("mkfs.xfs", "-V"),
    ("podman", "--version"),
    ("crun", "--version"),
    ("runc", "--version"),
    ("bwrap", "--version"),
    ("unshare", "--version"),
    ("systemd-nspawn", "--version"),
    ("strace", "--version"),
    ("skopeo", "--version"),
    ("umoci", "--version"),
    ("containerd", "--version"),
    ("docker-registry", "--version"),
    ("buildah", "--version"),
    ("dockerd", "--version"),
];

impl Facts {
    /// Looks around.
    pub(crate) fn gather(options: &Options) -> Self {
        let first_line = |command: &mut Command| {
            output(command).ok().and_then(|text| text.lines().next().map(|line| line.trim().to_owned()))
        };
        let programs = PROGRAMS.iter().map(|(program, flag)| {
            let version = first_line(&mut command(program, [flag]));
            version.unwrap_or_else(|| format!("{program}: not installed"))
        });
        let revision = first_line(&mut command("git", ["describe", "--always", "--dirty", "--exclude=*"]));
        Self {
            date: date(SystemTime::now()),
            // The version alone: what follows it names a build, not a kernel.
            kernel: read("/proc/sys/kernel/osrelease").split('-').next().unwrap_or_default().to_owned(),
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            processor: field("/proc/cpuinfo", "model name"),
            memory: field("/proc/meminfo", "MemTotal"),
            load: read("/proc/loadavg"),
            revision: revision.unwrap_or_else(|| "unknown".to_owned()),
            programs: programs.collect(),
            quick: options.quick,
            started: Instant::now(),
            elapsed: Duration::ZERO,
            ticks: ticks(),
            stolen: None,
        }
    }

    /// Looks again at the end.
    pub(crate) fn finish(&mut self) {
        self.elapsed = self.started.elapsed();
        self.stolen = self.ticks.zip(ticks()).and_then(|(before, after)| {
            let all = after.0.checked_sub(before.0).filter(|all| *all > 0)?;
            #[expect(clippy::cast_precision_loss, reason = "a share of ticks, shown with one digit")]
            let share = after.1.checked_sub(before.1)? as f64 * 100.0 / all as f64;
            Some(share)
        });
    }

    /// Returns one line for each fact.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!("date {}, rootling {}", self.date, self.revision),
            format!(
                "Linux {}, {} cores of {}, memory {}",
                self.kernel, self.cores, self.processor, self.memory
            ),
            format!(
                "load at the start {}; {} s; {} of processor time stolen by the hypervisor",
                self.load.split(' ').take(3).collect::<Vec<_>>().join(" "),
                self.elapsed.as_secs(),
                self.stolen.map_or("unknown share".to_owned(), |share| format!("{share:.1} %")),
            ),
            "file systems: each in a sparse 20 GiB file by loop device, made and mounted with defaults"
                .to_owned(),
            self.programs.join("; "),
        ];
        if self.quick {
            lines.push("a quick run: few rounds".to_owned());
        }
        lines
    }

    /// Returns the name of the run's directory.
    pub(crate) fn directory(&self) -> String {
        format!("{}-{}-{}c", self.date, self.kernel, self.cores)
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// Returns the first value of a field of a file of `name: value` lines.
fn field(path: &str, name: &str) -> String {
    let text = read(path);
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_prefix(':'));
    line.map_or("unknown".to_owned(), |value| value.trim().to_owned())
}

/// proc(5), /proc/stat: user nice system idle iowait irq softirq steal.
fn ticks() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    let numbers: Vec<u64> =
        text.lines().next()?.split_whitespace().skip(1).take(8).flat_map(str::parse).collect();
    Some((numbers.iter().sum(), *numbers.get(7)?))
}

/// Returns a moment's day as YYYY-MM-DD, in UTC.
fn date(moment: SystemTime) -> String {
    let seconds = moment.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let mut day = seconds / 86_400;
    let mut year = 1970;
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_over_leap_years() {
        let day = |days: u64| date(SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400 + 86_399));
        assert_eq!(day(0), "1970-01-01");
        assert_eq!(day(11_016), "2000-02-29");
        assert_eq!(day(20_514), "2026-03-02");
    }
}
