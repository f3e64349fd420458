//! One more wall, where the kernel has it: whatever descriptor or path a command finds, files outside the box stay shut.
//!
//! A domain of Landlock (kernel documentation, userspace-api/landlock.rst) lets a process do with files what the rest of the
//! kernel lets it, if they lie below the box's root, and nothing elsewhere. With every other wall in place there is no way
//! to reach a file elsewhere; this one holds if one of them does not. Descriptors that came from the caller stay as they are.
//!
//! Processes of different domains cannot trace each other, and each `exec` would be a domain of its own: a debugger in one could
//! not attach to a program in another. So it is for boxes that no second command joins, unless it is asked for.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;

use super::sys;

type Result<T> = nix::Result<T>;

/// LANDLOCK_ACCESS_FS_* of each version of the interface that added some: how many of the lowest bits are known.
const ACCESS_BITS: [(u32, u32); 4] = [(1, 13), (2, 14), (3, 15), (5, 16)];

/// LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET and LANDLOCK_SCOPE_SIGNAL, of version 6: nothing outside is connected to or signalled.
const SCOPES: u64 = 0b11;

/// Before this version files could not be moved between directories in any domain.
const FIRST_ABI: u32 = 2;

/// *child*: shuts everything that is not below `root`; does nothing where the kernel has no Landlock, or one that is too old.
///
/// Needs `no_new_privs`. Afterwards nothing can be mounted.
pub(super) fn shut_out(root: BorrowedFd<'_>) -> Result<()> {
    let abi = match sys::landlock_abi() {
        Ok(abi) if abi >= FIRST_ABI => abi,
        Ok(_) | Err(Errno::ENOSYS | Errno::EOPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    let known = ACCESS_BITS.iter().rev().find(|(since, _)| *since <= abi).map_or(0, |(_, bits)| *bits);
    let access = (1 << known) - 1;
    let ruleset = sys::landlock_ruleset(access, if abi >= 6 { SCOPES } else { 0 })?;
    sys::landlock_allow_below(ruleset, root, access)?;
    sys::landlock_restrict(ruleset)
}
