//! Unpacks a tar into a tree.
//!
//! Members are placed in the order of the archive: a later one replaces an earlier one of the same path, and two
//! directories become one with the later attributes. What cannot be kept but does not change what the tree
//! means to a program is skipped and told of ([`Applied::skipped`]); everything else is an error that names the
//! member. After an error the tree is half made: the caller throws it away.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use nix::errno::Errno;
use nix::sys::stat::{Mode, fchmod, futimens, makedev};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown};
use rootling_backends::{Context, Dir, EntryType, Error, ErrorKind, Result};

use super::content::Writer;
use super::member::{Content, Member};
use super::place::{Parent, Place, explain_owner, times};
use super::read::{Archive, Entry, Limits};

/// What names with the prefix `.wh.` mean.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Whiteouts {
    /// Nothing: the archive is a whole root filesystem, and they are names like others.
    #[default]
    Plain,
}

/// How to unpack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplyOptions {
    /// What names with the prefix `.wh.` mean.
    pub whiteouts: Whiteouts,
    /// Take the SHA-256 of every file on its way.
    pub digests: bool,
    /// Give everything to the owners the archive names; without, all belongs to the caller.
    pub owners: bool,
    /// What the archive may ask for.
    pub limits: Limits,
}

impl Default for ApplyOptions {
    /// A root filesystem with its owners, without digests.
    fn default() -> Self {
        Self { whiteouts: Whiteouts::Plain, digests: false, owners: true, limits: Limits::default() }
    }
}

/// What came of an archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Members placed.
    pub entries: u64,
    /// Directories that no member told of.
    pub implied: u64,
    /// Sum of the sizes of the files placed, holes included.
    pub bytes: u64,
    /// Bytes written: without the holes.
    pub bytes_written: u64,
    /// Length of the tar, all that follows its end included.
    pub archive_bytes: u64,
    /// What was left out: the first hundred.
    pub skipped: Vec<Skipped>,
    /// How much was left out.
    pub skipped_count: u64,
}

/// A member, or a side of one, that could not be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Where.
    pub path: Vec<u8>,
    /// What and why, as a lowercase fragment.
    pub reason: String,
}

const SKIPPED_SHOWN: usize = 100;
const BUFFER_BYTES: usize = 256 << 10;

impl Applied {
    fn skip(&mut self, path: &[u8], reason: String) {
        self.skipped_count += 1;
        if self.skipped.len() < SKIPPED_SHOWN {
            self.skipped.push(Skipped { path: path.to_vec(), reason });
        }
    }
}

/// Unpacks a tar that is not packed (see [`decompress`](super::decompress)) into `root`, an empty directory.
pub fn apply(reader: impl Read, root: &Dir, options: &ApplyOptions) -> Result<Applied> {
    apply_with(reader, root, options, &mut |_| {})
}

/// Unpacks like [`apply`], and reports each member once it is placed.
///
/// A path that comes twice is reported twice: the later one counts, and where it is not a directory nothing
/// reported below it counts any more. The path is that in the tree, and directories that were made because a
/// member needed them are reported before it. Nothing skipped is reported.
pub fn apply_with(
    reader: impl Read,
    root: &Dir,
    options: &ApplyOptions,
    report: &mut dyn FnMut(&Member),
) -> Result<Applied> {
    let mut archive = Archive::new(reader, options.limits);
    let place = Place::new(root, options.owners)?;
    let mut apply =
        Apply { place, options, applied: Applied::default(), report, buffer: vec![0; BUFFER_BYTES] };
    loop {
        let offset = archive.offset();
        let Some(entry) = archive.next_entry()? else { break };
        let name = String::from_utf8_lossy(&entry.member.path).into_owned();
        apply.member(&mut archive, entry).context(|| format!("unpack member {name:?} at offset {offset}"))?;
    }
    apply.finish()?;
    apply.applied.archive_bytes = archive.offset();
    Ok(apply.applied)
}

struct Apply<'a> {
    place: Place<'a>,
    options: &'a ApplyOptions,
    applied: Applied,
    report: &'a mut dyn FnMut(&Member),
    buffer: Vec<u8>,
}

impl Apply<'_> {
    fn member<R: Read>(&mut self, archive: &mut Archive<R>, mut entry: Entry) -> Result<()> {
        let path = std::mem::take(&mut entry.member.path);
        if entry.has_text_acl
            && !entry.member.xattrs.iter().any(|(name, _)| name.starts_with(b"system.posix_acl_"))
        {
            self.applied.skip(&path, "its ACL is in a form that needs the archive's user names".to_owned());
        }
        if path.is_empty() {
            self.place.root_directory(entry.member.clone());
            return self.placed(&entry.member);
        }
        let (parent, name, real) = self.parent(&path)?;
        entry.member.path = real;
        let is_placed = match &entry.member.content {
            Content::Directory => self.place.directory(&parent, name, entry.member.clone()).map(|()| true),
            Content::File { .. } => self.file(archive, &parent, name, &mut entry).map(|()| true),
            Content::Symlink { target } => {
                let target = OsStr::from_bytes(target);
                self.place.replace(&parent, name, |dir, name| dir.make_symlink(name, target))?;
                self.place.attributes(&parent.dir, name, &entry.member).map(|()| true)
            }
            Content::HardLink { target } => {
                let target = self.link(&parent, name, &entry.member.path, target)?;
                entry.member.content = Content::HardLink { target };
                Ok(true)
            }
            Content::CharDevice { .. } | Content::BlockDevice { .. } | Content::Fifo => {
                self.node(&parent, name, &entry.member)
            }
        }?;
        for note in self.place.take_notes() {
            self.applied.skip(&entry.member.path, note);
        }
        if is_placed { self.placed(&entry.member) } else { Ok(()) }
    }

    fn placed(&mut self, member: &Member) -> Result<()> {
        self.applied.entries += 1;
        self.applied.bytes += member.size();
        (self.report)(member);
        Ok(())
    }

    fn parent<'p>(&mut self, path: &'p [u8]) -> Result<(Rc<Parent>, &'p OsStr, Vec<u8>)> {
        let (report, implied) = (&mut self.report, &mut self.applied.implied);
        self.place.parent(path, &mut |member| {
            *implied += 1;
            report(member);
        })
    }

    // ------------------------------------------------------------ files

    fn file<R: Read>(
        &mut self,
        archive: &mut Archive<R>,
        parent: &Parent,
        name: &OsStr,
        entry: &mut Entry,
    ) -> Result<()> {
        let file = self.place.replace(parent, name, |dir, name| dir.create_file(name, 0o600))?;
        let mut writer = Writer::new(&file, self.options.digests);
        let call = |what: &str| format!("{what}({}, {name:?})", parent.dir);
        match &entry.map {
            None => self.copy(archive, &mut writer, entry.member.size(), &call)?,
            Some(map) => {
                for region in &map.regions {
                    writer.hole(region.offset - writer.position());
                    self.copy(archive, &mut writer, region.length, &call)?;
                }
                writer.hole(map.real_size - writer.position());
            }
        }
        let (digest, written) = writer.finish().context(|| call("ftruncate"))?;
        self.applied.bytes_written += written;
        entry.member.content = Content::File { size: entry.member.size(), digest };

        let member = &entry.member;
        if !member.xattrs.is_empty() {
            return self.place.attributes(&parent.dir, name, member);
        }
        // The same by descriptor: no names to resolve, and most files have no extended attributes.
        if self.options.owners {
            let (user, group) = (Some(Uid::from_raw(member.uid)), Some(Gid::from_raw(member.gid)));
            fchown(&file, user, group)
                .context(|| call("fchown"))
                .map_err(|error| explain_owner(error, member))?;
        }
        fchmod(&file, Mode::from_bits_truncate(member.mode)).context(|| call("fchmod"))?;
        let times = times(member);
        let (accessed, modified) = (
            TimeSpec::new(times.accessed.0, times.accessed.1),
            TimeSpec::new(times.modified.0, times.modified.1),
        );
        futimens(&file, &accessed, &modified).context(|| call("futimens"))
    }

    fn copy<R: Read>(
        &mut self,
        archive: &mut Archive<R>,
        writer: &mut Writer<'_>,
        mut length: u64,
        call: &dyn Fn(&str) -> String,
    ) -> Result<()> {
        while length > 0 {
            let step = usize::try_from(length).map_or(BUFFER_BYTES, |length| length.min(BUFFER_BYTES));
            let read = archive.read_data(&mut self.buffer[..step])?;
            // A map is checked against the data, a size is the data's: only a bug gets here.
            if read == 0 {
                return Err(Error::new(ErrorKind::Corrupt, "the data ends before the file"));
            }
            writer.data(&self.buffer[..read]).context(|| call("pwrite"))?;
            length -= read as u64;
        }
        Ok(())
    }

    // ------------------------------------------------------------ everything else

    /// Returns the path of the first name in the tree.
    fn link(&mut self, parent: &Parent, name: &OsStr, path: &[u8], target: &[u8]) -> Result<Vec<u8>> {
        let shown = String::from_utf8_lossy(target);
        let missing = || {
            let message = format!("the target of the hard link, {shown:?}, is not in the archive before it");
            Error::new(ErrorKind::InvalidInput, message)
        };
        let (old_parent, old_name, old_path) = match self.place.existing(target) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => return Err(missing()),
            other => other?,
        };
        let stat = old_parent.dir.stat_if_exists(old_name)?.ok_or_else(missing)?;
        if EntryType::of_mode(stat.st_mode) == EntryType::Directory {
            let message = format!("the target of the hard link, {shown:?}, is a directory");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        if path != old_path {
            self.place.replace(parent, name, |dir, name| dir.make_link(name, &old_parent.dir, old_name))?;
        }
        Ok(old_path)
    }

    /// Makes a device or pipe, and returns whether it could be made.
    fn node(&mut self, parent: &Parent, name: &OsStr, member: &Member) -> Result<bool> {
        let (kind, device) = match member.content {
            Content::CharDevice { major: 0, minor: 0 } => {
                self.applied.skip(&member.path, "character device 0:0 is a whiteout to OverlayFS".to_owned());
                return Ok(false);
            }
            Content::CharDevice { major, minor } => (libc::S_IFCHR, makedev(major.into(), minor.into())),
            Content::BlockDevice { major, minor } => (libc::S_IFBLK, makedev(major.into(), minor.into())),
            _ => (libc::S_IFIFO, 0),
        };
        match self.place.replace(parent, name, |dir, name| dir.make_node(name, kind | 0o600, device)) {
            // mknod(2) of a device needs CAP_MKNOD in the first user namespace.
            Err(error) if error.errno() == Some(Errno::EPERM) => {
                self.applied.skip(&member.path, "this user may not make devices".to_owned());
                return Ok(false);
            }
            other => other?,
        }
        self.place.attributes(&parent.dir, name, member).map(|()| true)
    }

    fn finish(&mut self) -> Result<()> {
        let applied = &mut self.applied;
        self.place.finish(&mut |path, note| applied.skip(path, note))
    }
}
