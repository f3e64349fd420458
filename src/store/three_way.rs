//! Merging by file: which of the changes that *they* made to a common base can be made to *ours* as well.
//!
//! Pure: it decides over two lists of changes against one base and opens no file. What both sides did alike is nothing to do; what
//! only they did is taken; what only we did stays; a path that both changed, each its own way, is a conflict, as is a path that
//! one side changed in a directory which the other took away.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};

use rootling_backends::{Change, ChangeKind, EntryType, Result};
use serde::{Deserialize, Serialize};

use super::path_text;

/// What is to be done to ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// Their changes that ours takes, sorted by path, parents first.
    pub take: Vec<Change>,
    /// The paths that a person has to settle, sorted.
    pub conflicts: Vec<Conflict>,
}

/// A path that both sides changed, each its own way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Conflict {
    /// Where; relative to the root.
    #[serde(with = "path_text")]
    pub path: PathBuf,
    /// What ours did there.
    pub ours: ChangeKind,
    /// What they did there.
    pub theirs: ChangeKind,
}

/// Decides over `theirs` and `ours`, each what its side changed against the base, sorted by path and with times.
///
/// `same` says whether the two sides have the same entry at a path now, times aside; it is asked only of paths that both changed.
pub fn decide(theirs: &[Change], ours: &[Change], same: impl Fn(&Path) -> Result<bool>) -> Result<Decision> {
    let ours = Ours(ours.iter().map(|change| (change.path.as_path(), change)).collect());
    let mut decision = Decision::default();
    let mut settled_below = BTreeSet::new();
    for change in theirs {
        // What is below a conflict is part of it.
        if change.path.ancestors().any(|ancestor| settled_below.contains(ancestor)) {
            continue;
        }
        match ours.verdict(change, &same)? {
            Verdict::Take => decision.take.push(change.clone()),
            Verdict::Nothing => {}
            Verdict::Conflict(kind) => {
                let path = change.path.clone();
                if !path.as_os_str().is_empty() {
                    settled_below.insert(change.path.as_path());
                }
                decision.conflicts.push(Conflict { path, ours: kind, theirs: change.kind });
            }
        }
    }
    Ok(decision)
}

enum Verdict {
    Take,
    Nothing,
    Conflict(ChangeKind),
}

/// Our changes by path. The order of paths by component is enough here: what is below a path follows it without a gap.
struct Ours<'a>(BTreeMap<&'a Path, &'a Change>);

impl Ours<'_> {
    fn verdict(&self, theirs: &Change, same: impl Fn(&Path) -> Result<bool>) -> Result<Verdict> {
        // Times alone are not worth a conflict.
        if let Some(ours) = self.0.get(theirs.path.as_path()).filter(|ours| !ours.is_time_only()) {
            return both(theirs, ours, same);
        }
        if theirs.is_time_only() && self.0.contains_key(theirs.path.as_path()) {
            // Ours stays: then what is taken back again leaves nothing, not even a time.
            return Ok(Verdict::Nothing);
        }
        if let Some(gone) = self.gone_above(&theirs.path) {
            // They took away what is away already, with all around it.
            let agreed = theirs.kind == ChangeKind::Deleted && gone.kind == ChangeKind::Deleted;
            return Ok(if agreed || theirs.is_time_only() {
                Verdict::Nothing
            } else {
                Verdict::Conflict(gone.kind)
            });
        }
        let takes_away = theirs.kind == ChangeKind::Deleted || theirs.aspects.kind;
        match self.kept_below(&theirs.path).filter(|_| takes_away) {
            Some(kept) => Ok(Verdict::Conflict(kept.kind)),
            None => Ok(Verdict::Take),
        }
    }

    /// Returns our change that made a directory above `path` something else.
    fn gone_above(&self, path: &Path) -> Option<&Change> {
        let above = path.ancestors().skip(1).filter_map(|ancestor| self.0.get(ancestor).copied());
        above
            .into_iter()
            .find(|change| change.kind == ChangeKind::Deleted || change.entry_type != EntryType::Directory)
    }

    /// Returns a change of ours below `path` that would be lost with it.
    fn kept_below(&self, path: &Path) -> Option<&Change> {
        let after = (Bound::Excluded(path), Bound::Unbounded);
        let below = self.0.range::<Path, _>(after).map(|(_, change)| *change);
        below
            .take_while(|change| change.path.starts_with(path))
            .find(|change| change.kind != ChangeKind::Deleted && !change.is_time_only())
    }
}

fn both(theirs: &Change, ours: &Change, same: impl Fn(&Path) -> Result<bool>) -> Result<Verdict> {
    use ChangeKind::Deleted;
    match (theirs.kind, ours.kind) {
        (Deleted, Deleted) => return Ok(Verdict::Nothing),
        _ if theirs.is_time_only() => return Ok(Verdict::Nothing),
        (Deleted, _) | (_, Deleted) => return Ok(Verdict::Conflict(ours.kind)),
        _ => {}
    }
    Ok(if same(&theirs.path)? { Verdict::Nothing } else { Verdict::Conflict(ours.kind) })
}

#[cfg(test)]
mod tests {
    use rootling_backends::Aspects;

    use super::*;

    /// `A path`, `D path/`, `C path mode`: a slash at the end is a directory.
    fn changes(list: &[&str]) -> Vec<Change> {
        let change = |text: &&str| {
            let mut words = text.split(' ');
            let (letter, path) = (words.next().unwrap(), words.next().unwrap());
            let mut aspects = Aspects::default();
            let kind = match letter {
                "A" => ChangeKind::Added,
                "D" => ChangeKind::Deleted,
                _ => ChangeKind::Modified,
            };
            match (kind, words.next()) {
                (ChangeKind::Modified, Some("type")) => aspects.kind = true,
                (ChangeKind::Modified, Some("times")) => aspects.times = true,
                (ChangeKind::Modified, _) => aspects.content = true,
                _ => {}
            }
            let entry_type = if path.ends_with('/') { EntryType::Directory } else { EntryType::File };
            Change { path: path.trim_end_matches('/').into(), kind, entry_type, aspects }
        };
        list.iter().map(change).collect()
    }

    #[track_caller]
    fn check(theirs: &[&str], ours: &[&str], take: &[&str], conflicts: &[&str]) {
        let decided = decide(&changes(theirs), &changes(ours), |path| Ok(path.ends_with("same"))).unwrap();
        assert_eq!(decided.take, changes(take), "taken of {theirs:?} over {ours:?}");
        let paths: Vec<_> =
            decided.conflicts.iter().map(|conflict| conflict.path.to_str().unwrap()).collect();
        assert_eq!(paths, conflicts, "conflicts of {theirs:?} over {ours:?}");
    }

    #[test]
    fn what_only_they_did_is_taken() {
        check(&["C a", "D b", "A c/", "A c/d"], &["C x"], &["C a", "D b", "A c/", "A c/d"], &[]);
    }

    #[test]
    fn what_both_did_alike_is_nothing_to_do() {
        check(&["C same", "D gone", "A d/same"], &["C same", "D gone", "A d/same"], &[], &[]);
    }

    #[test]
    fn what_each_did_its_own_way_is_a_conflict() {
        check(&["C a", "D b", "C c"], &["C a", "C b", "D c"], &[], &["a", "b", "c"]);
    }

    #[test]
    fn a_directory_is_not_taken_away_over_what_we_made_in_it() {
        check(&["D dir/"], &["A dir/new"], &[], &["dir"]);
        check(&["D dir/"], &["D dir/old"], &["D dir/"], &[]);
        check(&["C dir type"], &["C dir/old"], &[], &["dir"]);
        // A name that begins alike is not below it.
        check(&["D dir/"], &["C dir-ty", "C dir.x"], &["D dir/"], &[]);
    }

    #[test]
    fn what_is_made_in_a_directory_that_we_took_away_is_one_conflict_each() {
        check(&["C dir/a", "A dir/b/", "A dir/b/c"], &["D dir/"], &[], &["dir/a", "dir/b"]);
        check(&["A new/", "A new-x", "A new/x"], &["A new", "A new-x"], &[], &["new", "new-x"]);
        check(&["D dir/a"], &["D dir/"], &[], &[]);
    }

    #[test]
    fn times_alone_are_never_a_conflict() {
        check(&["C dir/ times", "A dir/a"], &["C dir/ times", "A dir/b"], &["A dir/a"], &[]);
        check(&["C a"], &["C a times"], &["C a"], &[]);
        check(&["C a times"], &["C a"], &[], &[]);
        check(&["D dir/"], &["C dir/ times"], &["D dir/"], &[]);
        check(&["D dir/"], &["C dir/ times", "A dir/new"], &[], &["dir"]);
    }
}
