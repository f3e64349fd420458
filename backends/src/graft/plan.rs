//! What is copied, by directory, and in which pieces.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Picked;
use crate::dir::EntryType;
use crate::walk;

/// What is left of one that was in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It was just made: nothing is in it, and nothing shows from beneath.
    Fresh,
    /// It was there; does anything from beneath show in it?
    Merged { beneath: bool },
}

/// Things that are in one directory, by their numbers; `None` is the directory that all are below.
pub(super) struct Task {
    pub(super) directory: Option<usize>,
    pub(super) state: State,
    pub(super) entries: Vec<usize>,
}

/// What is copied, by directory.
pub(super) struct Plan<'a> {
    pub(super) from: &'a Path,
    pub(super) to: &'a Path,
    pub(super) picked: &'a [Picked<'a>],
    /// What is in the first directory, and in each of those that are picked.
    children: Vec<Vec<usize>>,
}

impl<'a> Plan<'a> {
    pub(super) fn of(from: &'a Path, to: &'a Path, picked: &'a [Picked<'a>]) -> Self {
        let mut children = vec![Vec::new(); picked.len() + 1];
        // The directories that the present one is in, and how long their paths are.
        let mut way: Vec<(usize, usize)> = vec![(0, 0)];
        for (number, one) in picked.iter().enumerate() {
            let bytes = one.path.as_os_str().as_bytes();
            let above = bytes.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            while way.len() > 1 && way.last().is_some_and(|(_, length)| *length > above) {
                way.pop();
            }
            let (parent, _) = *way.last().expect("the first stays");
            children[parent].push(number);
            if one.kind == EntryType::Directory {
                way.push((number + 1, bytes.len()));
            }
        }
        Self { from, to, picked, children }
    }

    /// Returns where a directory is in the source and in the target.
    pub(super) fn paths(&self, directory: Option<usize>) -> (PathBuf, PathBuf) {
        match directory {
            None => (self.from.to_owned(), self.to.to_owned()),
            Some(number) => {
                let path = self.picked[number].path;
                (self.from.join(path), self.to.join(path))
            }
        }
    }

    /// Returns the tasks of what is in a directory.
    pub(super) fn tasks(&self, directory: Option<usize>, state: State) -> Vec<Task> {
        let entries = &self.children[directory.map_or(0, |number| number + 1)];
        let task = |entries: &[usize]| Task { directory, state, entries: entries.to_vec() };
        entries.chunks(walk::CHUNK).map(task).collect()
    }
}
