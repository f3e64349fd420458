//! Who pulls and pushes images: the contract, and who takes part where.

use std::fmt;
use std::path::Path;

use rootling_backends::{Kind, Result};

use super::containerd::Containerd;
use super::cost::Cost;
use super::ours::Ours;
use super::podman::PodmanEngine;
use super::umoci::Umoci;
use crate::fixture::FileSystem;
use crate::podman::Podman;
use crate::turns::Party;

/// Looks at a tree, or writes to it.
pub(super) type Visit<'a> = &'a dyn Fn(&Path) -> Result<()>;

/// Someone with a store of its own, empty at first. `reference` is what the registry calls an image, `tag` the last part of it.
pub(super) trait Engine: fmt::Debug {
    /// Fetches an image and unpacks it.
    fn pull(&mut self, reference: &str, tag: &str) -> Result<Cost>;

    /// Shows the tree of an image that was pulled. Not timed.
    fn look(&mut self, reference: &str, tag: &str, check: Visit<'_>) -> Result<()>;

    /// Makes a box of an image and writes to it; says whether it has such. Not timed.
    fn change(&mut self, reference: &str, tag: &str, write: Visit<'_>) -> Result<bool>;

    /// Sends the box to the registry as an image.
    fn push(&mut self, reference: &str) -> Result<Cost>;
}

/// Someone who takes part.
#[derive(Debug, Clone, Copy)]
pub(super) enum Contender {
    Ours(Kind),
    Podman(&'static str),
    Umoci,
    Containerd,
}

impl Contender {
    /// Returns who takes part on a file system.
    pub(super) fn of(kind: FileSystem) -> Vec<Self> {
        let own: &[Self] = match kind {
            FileSystem::Ext4 => &[Self::Ours(Kind::Overlay)],
            FileSystem::Xfs => &[Self::Ours(Kind::Overlay), Self::Ours(Kind::Reflink)],
            FileSystem::Btrfs => &[Self::Ours(Kind::Btrfs), Self::Ours(Kind::Overlay), Self::Podman("btrfs")],
        };
        [own, &[Self::Podman("overlay"), Self::Umoci, Self::Containerd]].concat()
    }

    /// Makes a new store for it in an empty directory.
    pub(super) fn open(self, directory: &Path) -> Result<Box<dyn Engine>> {
        Ok(match self {
            Self::Ours(kind) => Box::new(Ours::open(kind, directory)?),
            Self::Podman(driver) => Box::new(PodmanEngine::open(driver, directory)),
            Self::Umoci => Box::new(Umoci::open(directory)),
            Self::Containerd => Box::new(Containerd::open(directory)?),
        })
    }
}

impl Party for Contender {
    fn name(&self) -> String {
        match self {
            Self::Ours(kind) => format!("rootling {kind}"),
            Self::Podman(driver) => Podman::name_of(driver),
            Self::Umoci => "skopeo + umoci".to_owned(),
            Self::Containerd => "ctr overlayfs".to_owned(),
        }
    }

    fn is_ours(&self) -> bool {
        matches!(self, Self::Ours(_))
    }
}
