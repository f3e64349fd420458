//! Who builds: the contract, and who takes part where.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use rootling_backends::{Kind, Result};

use super::buildah::{Buildah, Program};
use super::buildkit::BuildKit;
use super::ours::Ours;
use crate::fixture::FileSystem;
use crate::trees::Archive;
use crate::turns::Party;

/// Someone with a store of its own that has the base image.
pub(super) trait Builder: fmt::Debug {
    /// Builds the Dockerfile of a directory.
    fn build(&mut self, context: &Path, image: &str) -> Result<Duration>;

    /// Shows the tree of an image. Not timed.
    fn look(&mut self, image: &str, check: &dyn Fn(&Path) -> Result<()>) -> Result<()>;
}

/// Someone who takes part.
#[derive(Debug, Clone, Copy)]
pub(super) enum Contender {
    Ours(Kind),
    Buildah(Program, &'static str),
    BuildKit(&'static str),
}

impl Contender {
    /// Returns who takes part on a file system: rootling by the backend that it takes for steps if it is not told another.
    pub(super) fn of(kind: FileSystem) -> Vec<Self> {
        let own: &[Self] = match kind {
            FileSystem::Ext4 | FileSystem::Xfs => &[Self::Ours(Kind::Overlay)],
            FileSystem::Btrfs => &[Self::Ours(Kind::Btrfs), Self::Buildah(Program::Buildah, "btrfs")],
        };
        let peers = [
            Self::Buildah(Program::Buildah, "overlay"),
            Self::Buildah(Program::Podman, "overlay"),
            Self::BuildKit("overlay2"),
        ];
        [own, &peers].concat()
    }

    /// Makes a new store for it in an empty directory, with the base image.
    pub(super) fn open(self, directory: &Path, archive: &Archive) -> Result<Box<dyn Builder>> {
        Ok(match self {
            Self::Ours(kind) => Box::new(Ours::open(kind, directory, archive)?),
            Self::Buildah(program, driver) => Box::new(Buildah::open(program, driver, directory, archive)?),
            Self::BuildKit(driver) => Box::new(BuildKit::open(driver, directory, archive)?),
        })
    }
}

impl Party for Contender {
    fn name(&self) -> String {
        match self {
            Self::Ours(kind) => format!("rootling {kind}"),
            Self::Buildah(program, driver) => format!("{} {driver}", program.name()),
            Self::BuildKit(driver) => format!("BuildKit {driver}"),
        }
    }

    fn is_ours(&self) -> bool {
        matches!(self, Self::Ours(_))
    }
}
