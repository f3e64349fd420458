//! What is allowed in a Dockerfile and unwise: BuildKit's rules, by BuildKit's names.
//!
//! Nothing but the file is looked at; who knows more (what is ignored, what images set) may say so. Values of arguments
//! are their defaults: what is unwise does not depend on who builds.

mod names;
mod options;
mod rule;
mod scope;
mod stages;
mod variables;

use std::collections::BTreeMap;

use super::syntax::Dockerfile;

pub use options::Options;
pub use rule::Rule;

/// Something unwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which rule says so.
    pub rule: Rule,
    /// The line, from 1.
    pub line: usize,
    /// What is unwise: a sentence without its full stop.
    pub message: String,
}

/// Variables, by name.
pub type Variables = BTreeMap<String, String>;

/// Who knows something of a path, or of an image.
pub type Asked<'a, T> = &'a dyn Fn(&str) -> T;

/// What is known beside the file.
#[derive(Clone, Copy, Default)]
#[expect(missing_debug_implementations, reason = "closures have none")]
pub struct Known<'a> {
    /// Is a path of the context left out of it? `None` where nothing is, or where a pattern with `!` takes files in
    /// again: then a path that is left out may have files below it that are not.
    pub ignored: Option<Asked<'a, bool>>,
    /// Returns the variables that an image sets; `None` for one that is not here.
    pub variables: Option<Asked<'a, Option<Variables>>>,
}

/// Returns all that is unwise in a file, by line.
pub fn check(file: &Dockerfile, options: &Options, known: Known<'_>) -> Vec<Finding> {
    let mut findings = Findings { options, list: Vec::new() };
    names::check(file, &mut findings);
    stages::check(file, &mut findings);
    variables::check(file, known, &mut findings);
    findings.list.sort_by_key(|finding| (finding.line, finding.rule));
    findings.list.dedup();
    findings.list
}

/// What was found so far.
struct Findings<'a> {
    options: &'a Options,
    list: Vec<Finding>,
}

impl Findings<'_> {
    fn add(&mut self, rule: Rule, line: usize, message: impl Into<String>) {
        if self.options.wants(rule) {
            self.list.push(Finding { rule, line, message: message.into() });
        }
    }
}

#[cfg(test)]
mod tests;
