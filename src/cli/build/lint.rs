//! `build --check`, and what the directive `check` of a Dockerfile asks of any build.

use std::path::Path;

use rootling_backends::{Context as _, Error, ErrorKind, Result};
use serde::Serialize;

use super::super::{Context, store};
use super::recipe::Recipe;
use crate::build::check::{Finding, Known, Options, Variables, check};
use crate::build::syntax::Dockerfile;
use crate::store::Store;

/// A Dockerfile that is looked at, with what is known beside it.
pub(super) struct Lint<'a> {
    pub(super) context: &'a Context,
    pub(super) store: &'a Store,
    pub(super) recipe: &'a Recipe,
    pub(super) file: &'a Dockerfile,
}

/// What is printed of something unwise.
#[derive(Debug, Serialize)]
struct Row<'a> {
    rule: &'static str,
    line: usize,
    message: &'a str,
    explanation: &'static str,
}

impl<'a> Row<'a> {
    fn of(finding: &'a Finding) -> Self {
        let Finding { rule, line, message } = finding;
        Self { rule: rule.name(), line: *line, message, explanation: rule.explanation() }
    }
}

impl Lint<'_> {
    /// Prints what is unwise; the exit code is 1 if something is.
    pub(super) fn print(&self) -> Result<i32> {
        let findings = self.findings(&self.options()?);
        let rows: Vec<Row<'_>> = findings.iter().map(Row::of).collect();
        let shown = &self.recipe.shown;
        self.context.output.data(&rows, || {
            let line = |row: &Row<'_>| {
                format!("{shown}:{}: {} ({}: {})\n", row.line, row.message, row.rule, row.explanation)
            };
            rows.iter().map(line).collect()
        });
        Ok(i32::from(!rows.is_empty()))
    }

    /// Refuses a file that is unwise, if it says itself that this is an error.
    pub(super) fn demand(&self) -> Result<()> {
        let options = self.options()?;
        let findings = if options.error { self.findings(&options) } else { Vec::new() };
        if findings.is_empty() {
            return Ok(());
        }
        let line =
            |finding: &Finding| format!("line {}: {} ({})", finding.line, finding.message, finding.rule);
        let lines: Vec<String> = findings.iter().map(line).collect();
        let error = Error::new(ErrorKind::InvalidInput, lines.join("\n"))
            .hint("mend it, name the rule in the directive # check=skip=RULE, or leave error=true out of it");
        Err(error.context(format!("check {}", self.recipe.shown)))
    }

    fn options(&self) -> Result<Options> {
        Options::of(self.file).context(|| format!("read the directive check of {}", self.recipe.shown))
    }

    fn findings(&self, options: &Options) -> Vec<Finding> {
        let ignored = self.recipe.context.ignored();
        let is_ignored = |path: &str| ignored.matches(Path::new(path));
        let variables = |image: &str| self.variables(image);
        let known = Known {
            ignored: (!ignored.is_empty() && !ignored.takes_back()).then_some(&is_ignored as _),
            variables: Some(&variables),
        };
        check(self.file, options, known)
    }

    /// Returns what an image sets that is in the store: nothing is pulled to look at it.
    fn variables(&self, image: &str) -> Option<Variables> {
        let node = store::find(self.store, image).ok()?;
        let pairs = node.record.config.env.iter().filter_map(|pair| pair.split_once('='));
        Some(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}
