//! How much memory the process holds that was started and waits for the command.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use rootling_backends::{Context, Error, ErrorKind, Result};

use super::{Place, Runner};
use crate::cases::{MEMORY, PEAK};
use crate::command::{finish, spawn};
use crate::samples::Samples;

/// Says that it is there, and stays long enough to be looked at.
const STAY: [&str; 3] = ["/bin/sh", "-c", "echo up; exec sleep 1"];

/// Weighs each three times.
pub(super) fn weigh(runners: &[Runner], place: &Place, samples: &mut Samples) -> Result<()> {
    for runner in runners {
        for round in 1..=3 {
            match weigh_one(runner) {
                Ok(Weight { now, peak }) => {
                    samples.add(place.key(MEMORY.id, &runner.name), round, now);
                    samples.add(place.key(PEAK.id, &runner.name), round, peak);
                }
                Err(error) if runner.is_ours() => return Err(error.context(runner.name.clone())),
                Err(error) => {
                    samples.fail(place.key(MEMORY.id, &runner.name), &error);
                    break;
                }
            }
        }
    }
    Ok(())
}

/// In MiB.
#[derive(Debug, PartialEq)]
struct Weight {
    now: f64,
    peak: f64,
}

fn weigh_one(runner: &Runner) -> Result<Weight> {
    let mut command = runner.command(&STAY)?;
    let (name, mut child) = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let mut line = String::new();
    if let Some(stdout) = &mut child.stdout {
        BufReader::new(stdout).read_line(&mut line).context(|| format!("read what {name} says"))?;
    }
    let path = format!("/proc/{}/status", child.id());
    let status = std::fs::read_to_string(&path).context(|| format!("read({path:?})"));
    finish((name, child))?;
    match read(&status?) {
        Some(weight) if line.trim() == "up" => Ok(weight),
        _ => Err(Error::new(ErrorKind::FailedPrecondition, "it did not wait for the command")),
    }
}

/// proc(5), /proc/PID/status: VmRSS and VmHWM in KiB; a process that has ended has neither.
fn read(status: &str) -> Option<Weight> {
    let field = |name: &str| -> Option<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<f64>().ok()? / 1024.0)
    };
    Some(Weight { now: field("VmRSS")?, peak: field("VmHWM")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_mib_and_an_ended_process_has_none() {
        let status = "Name:\tx\nVmHWM:\t    4096 kB\nVmRSS:\t    3072 kB\n";
        assert_eq!(read(status), Some(Weight { now: 3.0, peak: 4.0 }));
        assert_eq!(read("Name:\tx\nState:\tZ (zombie)\n"), None);
    }
}
