//! What stands at one path of a tree, as a member of an archive, and which of its attributes go along.
//!
//! | attributes | in a layer |
//! |---|---|
//! | `user.*`, `trusted.*`, `security.*`, POSIX ACLs | yes, as they are |
//! | `security.capability` of a user namespace (version 3) | as version 2: whose root it is for says another machine nothing |
//! | OverlayFS's own marks | no: they speak to one mount |
//! | labels of SELinux and Smack, `security.evm`, XFS's second form of an ACL | no: they are the machine's |
//! | NFS and CIFS ACLs, properties of btrfs and all other | no: they are the file system's |
//! | names with `=` | no, noted: archives cannot hold them |

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStringExt;

use nix::sys::stat::{FileStat, fstat, major, minor};
use rootling_backends::attributes::{Attributes, Xattrs};
use rootling_backends::{Context, Dir, EntryType, Error, ErrorKind, Result};

use super::super::member::{Content, Member};
use super::super::write::can_hold_xattr;

const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];
const PORTABLE: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
const MACHINE: [&[u8]; 4] = [b"security.selinux", b"security.SMACK64", b"security.evm", b"trusted.SGI_ACL_"];
const CAPABILITY: &[u8] = b"security.capability";

/// Reads what is not a file, without its path.
pub(super) fn member(dir: &Dir, name: &OsStr, stat: &FileStat) -> Result<Member> {
    let attributes = Attributes::of_entry(dir, name, stat, Xattrs::WithoutOverlay)?;
    let number = |part: u64| u32::try_from(part).expect("Linux has 32 bits of device numbers");
    let (high, low) = (number(major(stat.st_rdev)), number(minor(stat.st_rdev)));
    let content = match EntryType::of_mode(stat.st_mode) {
        EntryType::Directory => Content::Directory,
        EntryType::Symlink => Content::Symlink { target: dir.read_link(name)?.into_vec() },
        EntryType::CharDevice => Content::CharDevice { major: high, minor: low },
        EntryType::BlockDevice => Content::BlockDevice { major: high, minor: low },
        EntryType::Fifo => Content::Fifo,
        EntryType::File | EntryType::Socket => {
            let message = format!("{name:?} in {dir} became something else meanwhile");
            return Err(Error::new(ErrorKind::Busy, message));
        }
    };
    Ok(of(attributes, content))
}

/// Reads the attributes of an open file, without its path.
pub(super) fn file_member(file: &File, dir: &Dir, name: &OsStr) -> Result<(Member, FileStat)> {
    let stat = fstat(file).context(|| format!("fstat({dir}, {name:?})"))?;
    if EntryType::of_mode(stat.st_mode) != EntryType::File {
        let message = format!("{name:?} in {dir} became something else meanwhile");
        return Err(Error::new(ErrorKind::Busy, message));
    }
    let what = dir.path().join(name);
    let attributes = Attributes::of_open(file, &stat, Xattrs::WithoutOverlay, &what.display())?;
    let size = u64::try_from(stat.st_size).expect("no file has a negative size");
    Ok((of(attributes, Content::File { size, digest: None }), stat))
}

fn of(attributes: Attributes, content: Content) -> Member {
    let Attributes { mode, user, group, times, xattrs } = attributes;
    let is_link = matches!(content, Content::Symlink { .. });
    let bytes = |(name, value): (OsString, Vec<u8>)| (name.into_vec(), value);
    Member {
        path: Vec::new(),
        content,
        mode: if is_link { 0o777 } else { mode },
        uid: user,
        gid: group,
        mtime: (times.modified.0, u32::try_from(times.modified.1).expect("below a second")),
        xattrs: xattrs.into_iter().map(bytes).collect(),
    }
}

/// Takes out what means nothing on another machine, and returns what a person may miss.
pub(super) fn keep_portable(xattrs: &mut Vec<(Vec<u8>, Vec<u8>)>) -> Vec<String> {
    let begins = |name: &[u8], with: &[&[u8]]| with.iter().any(|prefix| name.starts_with(prefix));
    let mut missed = Vec::new();
    xattrs.retain(|(name, _)| {
        let is_portable = ACLS.contains(&&name[..]) || begins(name, &PORTABLE) && !begins(name, &MACHINE);
        let can_hold = can_hold_xattr(name);
        if is_portable && !can_hold {
            let shown = String::from_utf8_lossy(name);
            missed.push(format!("attribute {shown}: archives have no attributes with = in their names"));
        }
        is_portable && can_hold
    });
    for (_, value) in xattrs.iter_mut().filter(|(name, _)| name == CAPABILITY) {
        forget_root(value);
    }
    missed
}

/// Turns a capability of version 3 into one of version 2 (linux/capability.h, `struct vfs_ns_cap_data`: little endian, the revision in the
/// top byte of the first word, five words and the id of root).
fn forget_root(value: &mut Vec<u8>) {
    if value.len() == 24 && value[3] == 3 {
        value[3] = 2;
        value.truncate(20);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_a_machine_stays_there() {
        let names = [
            "security.SMACK64EXEC",
            "security.evm",
            "security.ima",
            "security.selinux",
            "system.nfs4_acl",
            "system.posix_acl_access",
            "trusted.SGI_ACL_FILE",
            "trusted.mine",
            "btrfs.compression",
            "user.a=b",
            "user.mine",
        ];
        let mut xattrs: Vec<_> = names.iter().map(|name| (name.as_bytes().to_vec(), vec![1])).collect();
        let missed = keep_portable(&mut xattrs);
        let kept: Vec<_> = xattrs.iter().map(|(name, _)| std::str::from_utf8(name).unwrap()).collect();
        assert_eq!(kept, ["security.ima", "system.posix_acl_access", "trusted.mine", "user.mine"]);
        assert_eq!(missed.len(), 1);
        assert!(missed[0].contains("user.a=b"));
    }

    #[test]
    fn capabilities_forget_whose_root_they_are_for() {
        let words = |revision: u32| [revision, 1 << 10, 0, 0, 0].map(u32::to_le_bytes).concat();
        let mut third = words(0x0300_0001);
        third.extend_from_slice(&100_000_u32.to_le_bytes());
        let second = words(0x0200_0001);
        for value in [third, second.clone()] {
            let mut xattrs = vec![(CAPABILITY.to_vec(), value)];
            assert_eq!(keep_portable(&mut xattrs), [""; 0]);
            assert_eq!(xattrs[0].1, second);
        }
    }
}
