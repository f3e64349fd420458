//! Whose users a box has: the flag `--userns`, and what the caller can have.

use rootling_backends::{Error, ErrorKind, Result};

use super::walls::{Users, Walls};
use super::{Context, store};
use crate::runner::{Entered, IdBlock, IdMap, Join, Userns};
use crate::store::Store;

/// A user namespace, and what must be kept as long as it is used.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) userns: Userns,
    /// May it be done without, where the tree's file system cannot map owners?
    pub(super) optional: bool,
    pub(super) _block: Option<IdBlock>,
}

impl Chosen {
    pub(super) fn given(userns: Userns) -> Self {
        Self { userns, optional: false, _block: None }
    }
}

/// Chooses. An ordinary user has a user namespace of their own around all that this program does, which is what `auto`
/// and `host` mean to them. Whoever joins a namespace of a box has that box's users, without whom they could do nothing in it.
///
/// With `me` the caller shall be who they are inside, too.
pub(super) fn choose(context: &Context, store: &Store, walls: &Walls, me: bool) -> Result<Chosen> {
    let wanted = &walls.userns;
    if let (Users::Auto | Users::Box(_), Some(name)) = (wanted, walls.joined_box()) {
        // Its ids stay lent, also when it ends before what joins it. That it runs after they are kept shows that they were its own.
        let block = IdBlock::keep(&store::running(store, name)?.userns)?;
        let running = store::running(store, name)?;
        let userns = match running.userns {
            Userns::Host => Userns::Host,
            _ => Userns::Join(Join::Box(Box::new(running))),
        };
        return Ok(Chosen { userns, optional: false, _block: block });
    }
    match (wanted, &context.entered) {
        (Users::Auto, Entered::Root) => {
            let block = IdBlock::take()?;
            Ok(Chosen { userns: block.userns(), optional: true, _block: Some(block) })
        }
        (Users::Auto, entered @ Entered::Range { .. }) if me => keep_id(entered).map(Chosen::given),
        (Users::Auto | Users::Host | Users::Box(_), _) => Ok(Chosen::given(Userns::Host)),
        (Users::KeepId, entered) => keep_id(entered).map(Chosen::given),
    }
}

/// Swaps two of the ids that the user has: their own keeps its number, and root inside is the one that had it. The kernel lets no
/// ordinary user map the owners of a tree, so what is root's in the tree looks like theirs.
fn keep_id(entered: &Entered) -> Result<Userns> {
    let (users, groups, uid, gid) = match entered {
        Entered::Range { users, groups, uid, gid } => (*users, *groups, *uid, *gid),
        Entered::Root => {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "keep-id keeps the id of an ordinary user, and you are root",
            )
            .hint("run it as that user, or say who the command is: --user UID"));
        }
        Entered::Single { reason, fix } => {
            let message = format!("keep-id needs a range of ids: {reason}");
            return Err(Error::new(ErrorKind::FailedPrecondition, message).hint(fix.clone()));
        }
        Entered::Nothing => {
            return Err(Error::new(ErrorKind::FailedPrecondition, "there is no user namespace for you")
                .hint("see `rootling doctor`"));
        }
    };
    let map = |count: u32, own: u32, what: &str| {
        if own > count {
            let message = format!("keep-id needs a range up to your {what} id {own}, and yours has {count}");
            return Err(Error::new(ErrorKind::FailedPrecondition, message).hint("see `rootling doctor`"));
        }
        let range = |inside, outside, count| IdMap { inside, outside, count };
        let ranges =
            [range(0, own, 1), range(1, 1, own - 1), range(own, 0, 1), range(own + 1, own + 1, count - own)];
        Ok(ranges.into_iter().filter(|range| range.count > 0).collect::<Vec<_>>())
    };
    Ok(Userns::Private {
        uid_map: map(users, uid, "user")?,
        gid_map: map(groups, gid, "group")?,
        idmapped_tree: false,
    })
}
