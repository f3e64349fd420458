//! How many system calls it takes, of all processes.

use rootling_backends::{Context, Error, ErrorKind, Result};

use super::{Place, Runner};
use crate::cases::SYSCALLS;
use crate::command::timed;
use crate::samples::Samples;

/// Counts three times each.
pub(super) fn count(runners: &[Runner], place: &Place, samples: &mut Samples) -> Result<()> {
    let report = place.directory.join("strace");
    for runner in runners {
        for round in 1..=3 {
            if let Err(error) = timed(&mut runner.counted(&["/bin/true"], &report)?) {
                samples.fail(place.key(SYSCALLS.id, &runner.name), &error);
                break;
            }
            let text = std::fs::read_to_string(&report).context(|| format!("read({report:?})"))?;
            match total(&text) {
                Some(calls) => samples.add(place.key(SYSCALLS.id, &runner.name), round, calls),
                None => return Err(Error::new(ErrorKind::Corrupt, "strace -c printed no total")),
            }
        }
    }
    Ok(())
}

/// Reads the last line of `strace -c`: share, seconds, usecs per call, calls, errors, `total`; some columns may be empty.
fn total(text: &str) -> Option<f64> {
    let line = text.lines().rfind(|line| line.trim_end().ends_with("total"))?;
    line.split_whitespace().filter(|word| !word.contains('.')).nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_calls_are_read_whether_or_not_some_failed() {
        let with_errors = "100.00    0.001234           4       239        12 total\n";
        assert_eq!(super::total(with_errors), Some(239.0));
        assert_eq!(super::total("100.00    0.000000           0        40           total"), Some(40.0));
        assert_eq!(super::total("strace: nothing"), None);
    }
}
