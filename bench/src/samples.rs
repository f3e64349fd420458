//! Every number that was measured, and who could not be.

use std::path::Path;

use rootling_backends::Error;

use crate::stats::Summary;

/// Where a number belongs: what, where, of which tree, by whom.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) case: &'static str,
    pub(crate) file_system: &'static str,
    pub(crate) tree: &'static str,
    pub(crate) contender: String,
}

/// One number: milliseconds, or calls.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) key: Key,
    pub(crate) round: usize,
    pub(crate) value: f64,
}

/// Somebody who could not take part.
#[derive(Debug, Clone)]
pub(crate) struct NotRun {
    pub(crate) key: Key,
    pub(crate) reason: String,
}

/// All of a run, in the order in which it was measured.
#[derive(Debug)]
pub(crate) struct Samples {
    scratch: String,
    pub(crate) taken: Vec<Sample>,
    pub(crate) not_run: Vec<NotRun>,
    /// How many processors could be had, before each round of forks.
    pub(crate) processors: Vec<f64>,
    /// File system, tree, contender, what was proved.
    pub(crate) proofs: Vec<String>,
}

impl Samples {
    /// `scratch` is the path that no reason shows.
    pub(crate) fn new(scratch: &Path) -> Self {
        let scratch = scratch.to_string_lossy().into_owned();
        Self { scratch, taken: Vec::new(), not_run: Vec::new(), processors: Vec::new(), proofs: Vec::new() }
    }

    pub(crate) fn add(&mut self, key: Key, round: usize, value: f64) {
        self.taken.push(Sample { key, round, value });
    }

    /// Notes who did not run, and the whole chain of why.
    pub(crate) fn fail(&mut self, key: Key, error: &Error) {
        let reason = error.chain().join(": ");
        let reason = reason.replace(&self.scratch, "SCRATCH").replace(['|', '\n'], " ");
        self.not_run.push(NotRun { key, reason });
    }

    /// Returns all places that have numbers, in the order in which they came.
    pub(crate) fn keys(&self) -> Vec<Key> {
        let mut keys: Vec<Key> = Vec::new();
        for sample in &self.taken {
            if !keys.contains(&sample.key) {
                keys.push(sample.key.clone());
            }
        }
        keys
    }

    /// Returns what can be said of one place; `None` where nothing was measured.
    pub(crate) fn summary(&self, key: &Key) -> Option<Summary> {
        let of_key = self.taken.iter().filter(|sample| sample.key == *key);
        Summary::of(of_key.map(|sample| sample.value).collect())
    }

    /// Returns the median of one place.
    pub(crate) fn median(
        &self,
        case: &'static str,
        file_system: &'static str,
        tree: &'static str,
        contender: &str,
    ) -> Option<f64> {
        let key = Key { case, file_system, tree, contender: contender.to_owned() };
        self.summary(&key).map(|summary| summary.median)
    }
}
