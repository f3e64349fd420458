//! A layer alone, written as an OverlayFS upper directory: what it hides beneath is marked once all its own is placed.
//!
//! Until then the tree holds nothing but the layer's own entries, so that its own win whatever the order is. What only
//! the tree beneath can tell (where a missing parent leads, what a hard link names, how a directory without an entry
//! looks) is an error of the kind [`ErrorKind::NeedsLower`].

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use rootling_backends::marks::Marks;
use rootling_backends::{EntryType, Error, ErrorKind, Result};

use super::flat::found;
use super::own::above;
use super::{Beneath, Given, Place, Told, join, split};

/// What a layer hides.
#[derive(Debug)]
pub(super) struct Delta {
    marks: Marks,
    /// Paths at which nothing from beneath shows.
    hidden: BTreeSet<Vec<u8>>,
    /// Directories in which nothing from beneath shows.
    opaque: BTreeSet<Vec<u8>>,
    /// What is hidden in directories that had no entry yet, as the archive names it.
    pending: Vec<Hidden>,
    /// Directories that something was placed in before they had an entry.
    late: BTreeSet<Vec<u8>>,
}

/// What a delta takes for granted of the tree beneath; all are paths of directories, sorted.
#[derive(Debug, Default)]
pub(in crate::layer) struct Assumed {
    /// Those that hold whiteouts: they are directories beneath, too.
    pub(in crate::layer) merged: Vec<Vec<u8>>,
    /// Those whose entries came late: they are directories beneath, or nothing.
    pub(in crate::layer) late: Vec<Vec<u8>>,
}

/// What a whiteout hides.
#[derive(Debug, Clone)]
enum Hidden {
    /// What is at a path.
    Entry(Vec<u8>),
    /// What is in the directory at a path.
    Content(Vec<u8>),
}

impl Delta {
    pub(super) fn new(marks: Marks) -> Self {
        let (hidden, opaque, late) = Default::default();
        Self { marks, hidden, opaque, pending: Vec::new(), late }
    }

    /// Notes that a directory was made for what is in it.
    pub(super) fn imply(&mut self, path: &[u8]) {
        if !self.hidden.contains(path) && !self.is_covered(path) {
            self.late.insert(path.to_vec());
        }
    }

    /// Lets nothing from beneath show at `path`, a path of the tree.
    pub(super) fn hide(&mut self, path: Vec<u8>) {
        self.hidden.insert(path);
    }

    fn add(&mut self, hidden: Hidden) {
        match hidden {
            Hidden::Entry(path) => self.hidden.insert(path),
            Hidden::Content(path) => self.opaque.insert(path),
        };
    }

    /// Does nothing from beneath show at a path because of something above it?
    fn is_covered(&self, path: &[u8]) -> bool {
        above(path).any(|above| self.hidden.contains(above) || self.opaque.contains(above))
    }
}

/// Returns the error of a layer that cannot be unpacked alone.
pub(super) fn needs_lower(path: &[u8], why: &str) -> Error {
    let shown = String::from_utf8_lossy(path);
    Error::new(ErrorKind::NeedsLower, format!("{shown:?} needs the tree beneath: {why}"))
}

impl Place<'_> {
    /// Remembers a whiteout of `path`.
    pub(super) fn hide(&mut self, path: Vec<u8>) -> Result<()> {
        self.remember(Hidden::Entry(path))
    }

    /// Remembers an opaque marker in the directory at `path`.
    pub(super) fn hide_content(&mut self, path: &[u8]) -> Result<()> {
        self.remember(Hidden::Content(path.to_vec()))
    }

    fn remember(&mut self, hidden: Hidden) -> Result<()> {
        let real = found(self.resolve(&hidden))?;
        if let Beneath::Elsewhere(delta) = &mut self.beneath {
            match real {
                Some(real) => delta.add(real),
                None => delta.pending.push(hidden),
            }
        }
        Ok(())
    }

    /// Returns the same with its path in the tree.
    fn resolve(&self, hidden: &Hidden) -> Result<Hidden> {
        Ok(match hidden {
            Hidden::Content(path) => Hidden::Content(self.find(path)?.path),
            Hidden::Entry(path) => {
                let (parent, name) = split(path);
                Hidden::Entry(join(&self.find(parent)?.path, name))
            }
        })
    }

    /// Writes OverlayFS's marks, before the directories get their attributes.
    pub(super) fn mark(&mut self, mut delta: Delta) -> Result<Assumed> {
        let mut unknown = Vec::new();
        for hidden in std::mem::take(&mut delta.pending) {
            match self.resolve(&hidden) {
                Ok(real) => {
                    if let Hidden::Content(path) = &real {
                        delta.late.insert(path.clone());
                    }
                    delta.add(real);
                }
                Err(error) if error.errno() == Some(Errno::ENOENT) => unknown.push(hidden),
                // A file, or a loop of links, is where its directory would be: nothing shows there.
                Err(error) if matches!(error.errno(), Some(Errno::ENOTDIR | Errno::ELOOP)) => {}
                Err(error) => return Err(error),
            }
        }
        self.require_alone(&delta, &unknown)?;
        let mut holders = BTreeSet::new();
        for path in &delta.hidden {
            if delta.is_covered(path) {
                continue;
            }
            let (above, name) = split(path);
            let Some(above) = found(self.find(above))? else { continue };
            let name = OsStr::from_bytes(name);
            match above.dir.stat_if_exists(name)?.map(|stat| EntryType::of_mode(stat.st_mode)) {
                Some(EntryType::Directory) => delta.marks.make_opaque(&above.dir.open_dir(name)?)?,
                Some(_) => {}
                None => {
                    delta.marks.hide(self.root, &above.dir, name)?;
                    holders.insert(above.path);
                }
            }
        }
        for path in delta.opaque.iter().filter(|path| !delta.is_covered(path)) {
            if let Some(directory) = found(self.find(path))? {
                delta.marks.make_opaque(&directory.dir)?;
            }
        }
        Ok(Assumed { merged: holders.into_iter().collect(), late: delta.late.into_iter().collect() })
    }

    /// Fails if something in the layer means what only the tree beneath can tell.
    fn require_alone(&self, delta: &Delta, unknown: &[Hidden]) -> Result<()> {
        for (path, given) in &self.directories {
            let is_known = matches!(given, Given::Told(Told { has_entry: true, .. }));
            if !is_known && !delta.hidden.contains(path) && !delta.is_covered(path) {
                return Err(needs_lower(
                    path,
                    "the layer has something in this directory, and no entry for it",
                ));
            }
        }
        for hidden in unknown {
            let (Hidden::Entry(path) | Hidden::Content(path)) = hidden;
            if !delta.is_covered(path) && !delta.hidden.contains(path) {
                return Err(needs_lower(
                    path,
                    "it is deleted from a directory that the layer has no entry for",
                ));
            }
        }
        if delta.opaque.contains(&b""[..]) {
            return Err(needs_lower(b"", "OverlayFS knows no opaque root"));
        }
        Ok(())
    }
}
