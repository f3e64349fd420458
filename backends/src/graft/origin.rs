//! What is copied from: a tree as it looks, and where its files can be cloned.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;

use crate::dir::Dir;
use crate::error::Result;
use crate::walk::vanishing;

/// A tree that is copied from.
#[derive(Debug)]
pub struct Origin {
    root: Dir,
    /// The directories that a stack is made of, top first.
    layers: Vec<Dir>,
}

impl Origin {
    /// A tree that is a directory.
    pub fn plain(root: Dir) -> Self {
        Self { root, layers: Vec::new() }
    }

    /// A tree that is shown by a mount: `layers` are the directories it is made of, top first, in which its files can be cloned. They
    /// must not change meanwhile.
    pub fn stacked(root: Dir, layers: Vec<Dir>) -> Self {
        Self { root, layers }
    }

    /// Returns the root of the tree as it looks.
    pub fn root(&self) -> &Dir {
        &self.root
    }

    pub(super) fn open(&self, path: &Path) -> Result<Reading> {
        let dir = self.root.open_deep(path)?;
        let mut layers = Vec::new();
        for layer in &self.layers {
            layers.extend(vanishing(layer.open_deep(path))?);
        }
        Ok(Reading { dir, layers })
    }
}

/// A directory that is read.
pub(super) struct Reading {
    pub(super) dir: Dir,
    layers: Vec<Dir>,
}

impl Reading {
    /// Opens a file where it can be cloned: the topmost layer that has the name of something that shows has that.
    pub(super) fn open_file(&self, name: &OsStr) -> Result<File> {
        for layer in &self.layers {
            if let Some(file) = vanishing(layer.open_file(name))? {
                return Ok(file);
            }
        }
        self.dir.open_file(name)
    }
}
