//! `COPY` and `ADD` into a tree, and the directory that `WORKDIR` makes.
//!
//! ```text
//! step ─ choose ─> Chosen ─ (its digest: the step's key) ─ perform ─> files in a fork
//!          │                                                 │
//!     lists what is read                        graft, unpack, lay
//! ```
//!
//! What is chosen is listed for the key, which holds the digest of the list, and again to be copied; whoever does the step makes sure that both
//! say the same. The rules are those of docker:
//!
//! * A directory is copied by its content, anything else by its name. Links to sources are followed inside the source, those in directories
//!   are copied. The destination is made where it is missing, mode 0755, owned as `--chown` says.
//! * Links on the way to the destination, and at its end, are followed inside the tree. What then stands under the name of a file and is no
//!   directory is replaced; directories become one and take the attributes of the source, but the destination keeps its own.
//! * A directory on anything else, or anything else on a directory, is an error, as is more than one file to a name that is no directory.
//! * Files of a context belong to root, those of a stage or an image keep their owners; `--chown` is for all, `--chmod` for all but links.
//! * Times are those of the source. Hard links within one source stay links. Sockets of a context are left out. Of extended attributes those of files
//!   are copied that count for a digest: what else there is, images of docker do not carry either.
//! * With `--link` nothing that is there is followed or an error: the files are a layer of their own, that is laid over the tree.
//!
//! | module | what it is for |
//! |---|---|
//! | `choose` | sources of a step: found, listed, fetched; what is missing, and what may have been meant |
//! | `place` | where things go in the tree |
//! | `unpack` | archives that `ADD` unpacks |
//! | `lay` | what `--link` made, laid over a full tree |
//! | `remote` `checkout` | files of servers, and of repositories, that `ADD` gets |
//! | `mode` `owner` | `--chmod`, `--chown` |
//!
//! **Invariants.** Nothing outside the two trees is read or written, whatever is in them and whoever changes the context meanwhile. A
//! failure leaves a tree that the caller throws away.

mod checkout;
mod choose;
mod lay;
mod mode;
mod owner;
mod place;
mod remote;
mod unpack;

use std::fmt;
use std::path::Path;

use rootling_backends::graft::Origin;
use rootling_backends::ground::Ground;
use rootling_backends::overlay::unmark_volatile;
use rootling_backends::{Access, Context as _, Cost, Dir, Result};

pub use checkout::Checkout;
pub use choose::{Chosen, Listing, Local, Part, choose};
pub use remote::Remote;

use super::plan::CopyStep;
use crate::store::{Ephemeral, Store};

/// A fork that a step writes to, which nobody has mounted.
pub struct Destination<'a> {
    ground: Ground,
    /// The tree as it was before.
    before: Dir,
    /// Opens the tree for writing as it looks.
    open: Box<dyn Fn() -> Result<Dir> + 'a>,
}

impl fmt::Debug for Destination<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Destination").field("ground", &self.ground).finish_non_exhaustive()
    }
}

impl<'a> Destination<'a> {
    /// A fork that nobody has written to yet.
    ///
    /// What is beneath a delta is mounted for reading as long as this lives; the fork itself only while an archive is unpacked.
    pub fn of(store: &'a Store, fork: &'a Ephemeral) -> Result<Self> {
        let ground = fork.open_ground(store)?;
        let before = ground.beneath().unwrap_or(ground.own()).try_clone()?;
        let open = move || {
            // One step may unpack several archives, with a mount for each.
            unmark_volatile(fork.slot())?;
            fork.mount(store, Access::ReadWrite, true)?.open_root_for(Access::ReadWrite)
        };
        Ok(Self { ground, before, open: Box::new(open) })
    }

    /// A directory that is a tree by itself: what is in it stays, unless something takes its place.
    pub fn directory(root: Dir) -> Result<Self> {
        let (before, again) = (root.try_clone()?, root.try_clone()?);
        Ok(Self { ground: Ground::full(root), before, open: Box::new(move || again.try_clone()) })
    }
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Copied {
    /// Files and bytes, shared and copied.
    pub cost: Cost,
    /// Archives that were unpacked.
    pub unpacked: u64,
    /// What a person may want to know, each a lowercase fragment.
    pub notes: Vec<String>,
}

/// Does what the step says with what was chosen and listed for it, and fetches what was not fetched before.
///
/// `origin` is the tree that [`choose()`] looked at. O(entries), on all cores; files are shared where the file systems can.
pub fn perform(
    step: &CopyStep,
    chosen: &Chosen<'_>,
    listing: &Listing,
    origin: &Origin,
    destination: &Destination<'_>,
) -> Result<Copied> {
    let intent = || format!("{} to {}", keyword(step), step.destination);
    place::perform(step, &Work { chosen, listing, origin }, destination).context(intent)
}

/// What is copied.
#[derive(Clone, Copy)]
struct Work<'a> {
    chosen: &'a Chosen<'a>,
    listing: &'a Listing,
    origin: &'a Origin,
}

fn keyword(step: &CopyStep) -> &'static str {
    if step.is_add { "ADD" } else { "COPY" }
}

/// Makes a directory, and those it is in, mode 0755 and owned by `user` (empty for root), where there is none; returns whether there was none.
///
/// Links are followed inside the tree. Something else in its place is an error of kind `InvalidInput`.
pub fn make_dir(path: &str, user: &str, destination: &Destination<'_>) -> Result<bool> {
    let make = || {
        let led = destination.ground.lead(Path::new(path))?;
        if led.is_directory() {
            return Ok(false);
        }
        let owner = if user.is_empty() { (0, 0) } else { owner::resolve(user, &destination.before)? };
        destination.ground.make_dirs(&led.path, owner).map(|_| true)
    };
    make().context(|| format!("make the directory {path}"))
}
