//! `fsck`: check the store.

use rootling_backends::Result;

use super::{Context, output};
use crate::store::{Checked, Severity};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Put right what can be derived from the rest; trees are never removed
    #[arg(long)]
    repair: bool,

    /// Read every byte of imported trees and compare it with their index
    #[arg(long)]
    verify: bool,
}

/// Returns 0 for a store without problems, 1 for one with problems that are still there.
pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<i32> {
    let store = context.store()?;
    let progress = context.output.progress("checking");
    let checked = store.check(arguments.repair, arguments.verify);
    drop(progress);
    let checked = checked?;
    context.output.data(&checked, || render(&checked));
    Ok(i32::from(!checked.is_clean()))
}

fn render(checked: &Checked) -> String {
    let mut text = String::new();
    for found in &checked.problems {
        let word = match (found.severity, found.repaired) {
            (_, true) => "repaired",
            (Severity::Note, false) => "note",
            (Severity::Problem, false) => "PROBLEM",
        };
        let object = output::plain_text(found.object.as_ref());
        let problem = output::plain_text(found.problem.as_ref());
        text.push_str(&format!("{word}: {object} {problem}\n"));
    }
    let state = if checked.is_clean() { "clean" } else { "NOT CLEAN" };
    let verified =
        if checked.verified > 0 { format!(", {} verified", checked.verified) } else { String::new() };
    text.push_str(&format!("{} objects, {} names{verified}: {state}\n", checked.objects, checked.names));
    text
}
