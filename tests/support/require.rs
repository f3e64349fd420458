//! `ROOTLING_REQUIRE`: which file systems must not be skipped.
//!
//! A machine without root or without `mkfs.xfs` skips what it cannot test and says why; one that names the file systems in
//! `ROOTLING_REQUIRE=btrfs,xfs` (or `all`) fails instead.

use libtest_mimic::{Completion, Failed};

use super::host::FileSystem;

/// Why a trial was not run.
#[derive(Debug, Clone)]
pub(crate) struct Skip(pub(crate) String);

impl Skip {
    pub(crate) fn because(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// What a trial comes to when it does not fail by a panic.
pub(crate) type Outcome = Result<(), Skip>;

/// Turns an outcome into what the harness prints: `ignored (reason)`.
pub(crate) fn completion(outcome: Outcome) -> Result<Completion, Failed> {
    Ok(match outcome {
        Ok(()) => Completion::Completed,
        Err(Skip(reason)) => Completion::ignored_with(reason),
    })
}

/// Reports a missing precondition: skipped, or failed where this file system was asked for.
pub(crate) fn missing(sort: FileSystem, reason: &str) -> Result<Completion, Failed> {
    let required = std::env::var("ROOTLING_REQUIRE").unwrap_or_default();
    if required.split(',').any(|word| word == "all" || word == sort.name()) {
        return Err(format!("ROOTLING_REQUIRE asks for {sort}: {reason}").into());
    }
    Ok(Completion::ignored_with(reason))
}
