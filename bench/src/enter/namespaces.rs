//! Equal work or no number: which namespaces each contender makes, as its own command inside sees them.

use rootling_backends::{Context, Error, ErrorKind, Result};

use super::{Place, Runner};
use crate::command::output;
use crate::samples::Samples;

/// The namespaces that a process can have of its own, as `/proc/self/ns` has them.
const NAMESPACES: [&str; 7] = ["mnt", "pid", "ipc", "uts", "cgroup", "net", "user"];

/// Keeps those who can run a command here in the namespaces that they must make, and notes what they make.
pub(super) fn equal(
    runners: Vec<Runner>,
    case: &'static str,
    place: &Place,
    samples: &mut Samples,
) -> Result<Vec<Runner>> {
    let mut able = Vec::new();
    for runner in runners {
        match made(&runner) {
            Ok(made) => {
                let (who, made) = (&runner.name, made.join(" "));
                samples
                    .proofs
                    .push(format!("{} {case}: {who} makes the namespaces {made}", place.file_system));
                able.push(runner);
            }
            Err(error) if runner.is_ours() => return Err(error.context(runner.name)),
            Err(error) => samples.fail(place.key(case, &runner.name), &error),
        }
    }
    Ok(able)
}

/// Returns the namespaces that are not this process's.
fn made(runner: &Runner) -> Result<Vec<&'static str>> {
    let paths = NAMESPACES.map(|name| format!("/proc/self/ns/{name}"));
    let words: Vec<&str> = std::iter::once("/bin/readlink").chain(paths.iter().map(String::as_str)).collect();
    let text = output(&mut runner.command(&words)?)?;
    let inside: Vec<_> = text.lines().map(str::trim).filter(|line| line.contains(":[")).collect();
    if inside.len() != NAMESPACES.len() {
        let message = format!("the command inside said {:?}", text.trim());
        return Err(Error::new(ErrorKind::FailedPrecondition, message));
    }
    let mut made = Vec::new();
    for (name, path) in NAMESPACES.iter().zip(&paths) {
        let ours = std::fs::read_link(path).context(|| format!("readlink({path:?})"))?;
        if !inside.iter().any(|id| ours.as_os_str() == *id) {
            made.push(*name);
        }
    }
    match runner.must_make.iter().find(|name| !made.contains(name)) {
        None => Ok(made),
        Some(missing) => {
            let message = format!("it makes the namespaces {}, not {missing}", made.join(" "));
            Err(Error::new(ErrorKind::FailedPrecondition, message))
        }
    }
}
