//! Who calls: the person that `--user me` and `--home` mean.
//!
//! For root it is who became root by `sudo`; in a user namespace of one's own, who one is outside. A box remembers the number, so
//! that a service manager starts it for the same person.

use std::path::PathBuf;

use nix::unistd::{Gid, Group, Uid, getgrouplist};
use rootling_backends::{Context as _, Error, ErrorKind, Result, small_file};

use super::Context;
use crate::process::Person;
use crate::runner::{Entered, Userns};

/// Returns the number of who calls, on the host.
pub(super) fn uid(context: &Context) -> Result<u32> {
    match &context.entered {
        Entered::Range { uid, .. } => Ok(*uid),
        Entered::Nothing => Ok(nix::unistd::getuid().as_raw()),
        Entered::Root => {
            let sudo = std::env::var("SUDO_UID").ok().and_then(|uid| uid.parse().ok());
            Ok(sudo.unwrap_or(0))
        }
        // The kernel says who root of our user namespace is outside (user_namespaces(7)).
        Entered::Single { .. } => {
            let map = small_file::read_record("/proc/self/uid_map")?;
            let outside = map.split_whitespace().nth(1).and_then(|uid| uid.parse().ok());
            outside.ok_or_else(|| Error::new(ErrorKind::Unsupported, "/proc/self/uid_map is not as expected"))
        }
    }
}

/// Looks up who has a number on the host.
fn account(uid: u32) -> Result<nix::unistd::User> {
    let found = nix::unistd::User::from_uid(Uid::from_raw(uid)).context(|| format!("getpwuid({uid})"))?;
    found.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("the host has no account for user {uid}"))
            .hint("say who the command is by number: --user UID")
    })
}

/// Returns the home directory of who has a number on the host; `/` is nobody's.
pub(super) fn home(uid: u32) -> Result<PathBuf> {
    let account = account(uid)?;
    if account.dir.is_absolute() && account.dir.parent().is_some() {
        return Ok(account.dir);
    }
    let message = format!("the home directory of {} is {:?}", account.name, account.dir);
    Err(Error::new(ErrorKind::FailedPrecondition, message)
        .hint("leave --home out, and show what is needed with -v"))
}

/// Returns the person with the numbers that they have in a box with these users.
///
/// In a user namespace of one's own, root is who one is outside. Then either the box's users are such that one's own number is one's
/// own there as well (`keep-id`), or one is root inside.
pub(super) fn person(context: &Context, uid: u32, userns: &Userns) -> Result<Person> {
    let account = account(uid)?;
    let name = |gid: Gid| Group::from_gid(gid).ok().flatten().map(|group| group.name);
    let own = account.gid;
    // Best effort: a group that cannot be looked up is one less.
    let text = std::ffi::CString::new(account.name.clone()).unwrap_or_default();
    let groups = getgrouplist(&text, own).unwrap_or_default().into_iter().filter(|gid| *gid != own);
    let groups = groups.filter_map(|gid| Some((name(gid)?, gid.as_raw()))).collect();
    let is_themselves = matches!(context.entered, Entered::Root)
        || userns.outside(uid, own.as_raw()).is_some_and(|outside| outside == (0, 0));
    let (uid, gid) = if is_themselves { (uid, own.as_raw()) } else { (0, 0) };
    Ok(Person {
        group: if gid == 0 { "root".to_owned() } else { name(own).unwrap_or_else(|| account.name.clone()) },
        name: account.name,
        uid,
        gid,
        gecos: account.gecos.to_string_lossy().into_owned(),
        home: account.dir,
        shell: account.shell,
        groups,
    })
}
