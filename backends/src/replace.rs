//! A new entry in place of another: made under a scratch name beside it, then moved over it in one step.
//!
//! Whoever looks sees the old entry or the new one, never none and never half of one; only where the file system cannot exchange two
//! names is there a moment without. A process killed in between leaves a scratch name, which [`clear`] knows by its form.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::RenameFlags;

use crate::dir::Dir;
use crate::error::{Context, Result};
use crate::{reap, sys};

const PREFIX: &str = ".rootling-patch-";

/// Scratch names that nobody else has.
#[derive(Debug)]
pub(crate) struct Scratch {
    key: u64,
    next: AtomicU64,
}

impl Scratch {
    pub(crate) fn new() -> Result<Self> {
        let mut key = [0; 8];
        sys::random(&mut key).context(|| "getrandom(8)")?;
        Ok(Self { key: u64::from_ne_bytes(key), next: AtomicU64::new(0) })
    }

    fn name(&self) -> OsString {
        format!("{PREFIX}{:016x}-{}", self.key, self.next.fetch_add(1, Ordering::Relaxed)).into()
    }

    /// Lets `make` make an entry under a scratch name in `dir`, then moves it over whatever stands under `name`.
    pub(crate) fn replace(
        &self,
        dir: &Dir,
        name: &OsStr,
        make: impl FnOnce(&OsStr) -> Result<()>,
    ) -> Result<()> {
        let made = self.name();
        let result = make(&made).and_then(|()| put(dir, &made, name));
        if result.is_err() {
            // Best effort: what stays is recognized the next time.
            reap::remove(dir, &made).ok();
        }
        result
    }
}

/// Has a name the form of a scratch name?
fn is_scratch(name: &OsStr) -> bool {
    name.as_bytes().strip_prefix(PREFIX.as_bytes()).and_then(|rest| rest.split_at_checked(16)).is_some_and(
        |(key, rest)| {
            key.iter().all(u8::is_ascii_hexdigit)
                && rest.len() > 1
                && rest[0] == b'-'
                && rest[1..].iter().all(u8::is_ascii_digit)
        },
    )
}

/// Removes from `dir` what a killed process left under scratch names; one that `source`, if there is one, has too is content.
pub(crate) fn clear(dir: &Dir, source: Option<&Dir>) -> Result<()> {
    for entry in dir.entries()?.into_iter().filter(|entry| is_scratch(&entry.name)) {
        let is_content = match source {
            Some(source) => source.stat_if_exists(&entry.name)?.is_some(),
            None => false,
        };
        if !is_content {
            reap::remove(dir, &entry.name)?;
        }
    }
    Ok(())
}

/// Moves `made` over `name`, both in `dir`; a flag that forbids it is cleared.
fn put(dir: &Dir, made: &OsStr, name: &OsStr) -> Result<()> {
    let mut result = rename(dir, made, name, RenameFlags::empty());
    if result == Err(Errno::EPERM) && reap::clear_entry_flags(dir, name) {
        result = rename(dir, made, name, RenameFlags::empty());
    }
    if let Err(Errno::EISDIR | Errno::ENOTDIR | Errno::ENOTEMPTY | Errno::EEXIST) = result {
        return put_over_another_type(dir, made, name);
    }
    result.context(|| format!("renameat({dir}, {made:?}, {name:?})"))
}

/// rename(2) puts no file over a directory and no directory over a file, but exchanges them.
fn put_over_another_type(dir: &Dir, made: &OsStr, name: &OsStr) -> Result<()> {
    match rename(dir, made, name, RenameFlags::RENAME_EXCHANGE) {
        Ok(()) => reap::remove(dir, made),
        // Not on this file system; EXDEV: OverlayFS moves no directory that is not its own; EPERM: a flag.
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::EXDEV | Errno::EPERM) => {
            reap::remove(dir, name)?;
            rename(dir, made, name, RenameFlags::empty())
                .context(|| format!("renameat({dir}, {made:?}, {name:?})"))
        }
        Err(errno) => Err(errno).context(|| format!("renameat2({dir}, {made:?}, {name:?}, RENAME_EXCHANGE)")),
    }
}

fn rename(dir: &Dir, from: &OsStr, to: &OsStr, flags: RenameFlags) -> nix::Result<()> {
    nix::fcntl::renameat2(dir, from, dir, to, flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_names_are_told_from_others() {
        let name = Scratch::new().unwrap().name();
        assert!(is_scratch(&name), "{name:?}");
        for other in
            [".rootling-patch-", ".rootling-patch-0123456789abcdef", ".rootling-patch-0123456789abcdef-"]
        {
            assert!(!is_scratch(other.as_ref()), "{other}");
        }
        assert!(!is_scratch(".rootling-patch-0123456789abcdef-1.conf".as_ref()));
    }
}
