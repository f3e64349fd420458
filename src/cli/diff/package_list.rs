//! `diff --packages`: which packages came, went, or have another version.

use rootling_backends::Result;

use super::super::output::{self, Output};
use super::ends::Sides;
use crate::packages::{self, Happened, PackageChange};

/// Prints the packages that differ; returns whether any do.
pub(super) fn print(output: Output, sides: &Sides) -> Result<bool> {
    let [old, new] = sides.roots().map(packages::installed);
    let (old, new) = (old?, new?);
    if old.is_empty() && new.is_empty() {
        output.say("neither has a package database of dpkg, apk, pacman or rpm");
    }
    let changes = packages::difference(&old, &new);
    output.data(&changes, || table(output, &changes));
    Ok(!changes.is_empty())
}

fn table(output: Output, changes: &[PackageChange]) -> String {
    let shown = |text: &str| output::plain_text(text.as_ref()).into_owned();
    if output.quiet {
        return changes.iter().map(|change| format!("{}\n", shown(&change.name))).collect();
    }
    if changes.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<String>> = changes
        .iter()
        .map(|change| {
            let version = |version: &Option<String>| version.as_deref().map_or_else(|| "-".to_owned(), shown);
            let size = |size: Option<u64>| size.map_or_else(|| "-".to_owned(), output::bytes);
            vec![
                word(change.change).to_owned(),
                shown(&change.name),
                shown(&change.architecture),
                version(&change.old_version),
                version(&change.new_version),
                size(change.new_size_bytes.or(change.old_size_bytes)),
                change.manager.name().to_owned(),
            ]
        })
        .collect();
    output::table(&["CHANGE", "PACKAGE", "ARCH", "OLD", "NEW", "SIZE", "BY"], &rows)
}

fn word(change: Happened) -> &'static str {
    match change {
        Happened::Added => "added",
        Happened::Removed => "removed",
        Happened::Upgraded => "upgraded",
        Happened::Downgraded => "downgraded",
        Happened::Changed => "changed",
    }
}
