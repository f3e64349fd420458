//! One tree made what another is, at given changes: restoring in place, taking single paths over, applying to the host.
//!
//! The order is: look (nothing is changed before everything was found fit), make directories, put files and all else in place each in
//! one step, link further names, remove, and give the directories their attributes, the deepest first. So a patch that was
//! killed or failed has changed some paths and not others, and may have left scratch names and directories with new times: whoever
//! computes the changes anew and patches again ends where one patch would have.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::Mode;
use nix::unistd::AccessFlags;

use crate::attributes::{Attributes, Xattrs};
use crate::backend::Cost;
use crate::change::{Change, ChangeKind, DiffOptions};
use crate::compare::compare_entries;
use crate::dir::{Dir, EntryType};
use crate::entry::{Copier, Quoted, open_parent};
use crate::error::{Context, Error, Result};
use crate::links::further_names;
use crate::merge::{Made, clear_umask, directory_attributes, finish_by};
use crate::replicate::Options;
use crate::walk::{self, vanishing};
use crate::{reap, replace, sys};

/// Makes `target` at `changes` what `source` is.
///
/// `changes` are what turns `target` into `source`, as [`diff_trees`](crate::compare::diff_trees) of the two, times included, says;
/// some of them do too, see [`within`](crate::within::within). Afterwards the trees are equal there: type, content with its holes, owner,
/// mode, times, extended attributes, devices, and which names are one inode. An unlisted name of a changed inode comes along where it
/// is the same but for that; one that differs otherwise is left alone, and so is everything else. Directories on the way keep
/// their attributes and flags, their times too. The changes may be partly done already, or all: a second call does the same again.
///
/// A file of which only attributes differ keeps its inode, unless it has several names. Immutable and append-only flags in the way
/// are cleared. Nothing is followed, and nothing that is mounted in `target` is changed: `Busy` names it, before anything was done.
/// O(changes and the directories they lie in), on all cores; a walk of `source` where a changed inode has names that are not listed.
/// Clears the process's umask. Nothing is synced.
pub fn patch(changes: &[Change], source: &Dir, target: &Dir, options: &Options) -> Result<Cost> {
    let started = Instant::now();
    clear_umask();
    let what = || format!("make {:?} what {:?} is", target.path(), source.path());
    let copier = Copier::new(options.clone, Xattrs::All).with_owners(options.owners).replacing()?;
    let patch = Patch { source, target, copier };
    let mut cost = patch.run(changes).context(what)?;
    cost.elapsed = started.elapsed();
    Ok(cost)
}

struct Patch<'a> {
    source: &'a Dir,
    target: &'a Dir,
    copier: Copier,
}

/// What is to be done.
#[derive(Default)]
struct Plan {
    /// Directories to make.
    new: BTreeSet<PathBuf>,
    /// Directories that stay and get the source's attributes.
    modified: BTreeSet<PathBuf>,
    /// Directories that something is done in.
    touched: BTreeSet<PathBuf>,
    /// What is put in place, by directory.
    entries: BTreeMap<PathBuf, Vec<Entry>>,
    /// What is removed, by directory.
    deleted: BTreeMap<PathBuf, Vec<OsString>>,
}

struct Entry {
    name: OsString,
    kind: EntryType,
    /// Do only attributes differ?
    attributes: bool,
}

/// A directory that stays: what it is given in the end, and the flags that were cleared meanwhile.
struct Kept {
    made: Made,
    flags: Option<i32>,
}

impl Plan {
    fn of(changes: &[Change]) -> Self {
        let mut plan = Self::default();
        for change in changes {
            let is_directory = change.entry_type == EntryType::Directory;
            match change.kind {
                ChangeKind::Deleted => {
                    let (parent, name) = plan.touch(&change.path);
                    plan.deleted.entry(parent).or_default().push(name);
                }
                ChangeKind::Modified if is_directory && !change.aspects.kind => {
                    plan.modified.insert(change.path.clone());
                }
                _ if is_directory => {
                    plan.touch(&change.path);
                    plan.new.insert(change.path.clone());
                }
                kind => {
                    let other = change.aspects.kind || change.aspects.content || change.aspects.links;
                    let attributes = kind == ChangeKind::Modified && !other;
                    plan.put(&change.path, change.entry_type, attributes);
                }
            }
        }
        plan
    }

    fn touch(&mut self, path: &Path) -> (PathBuf, OsString) {
        let parent = path.parent().unwrap_or(Path::new("")).to_owned();
        self.touched.insert(parent.clone());
        (parent, path.file_name().unwrap_or_default().to_owned())
    }

    fn put(&mut self, path: &Path, kind: EntryType, attributes: bool) {
        let (parent, name) = self.touch(path);
        self.entries.entry(parent).or_default().push(Entry { name, kind, attributes });
    }

    /// Directories that are there and stay.
    fn kept(&self) -> impl Iterator<Item = &PathBuf> {
        self.modified.union(&self.touched).filter(|path| !self.new.contains(*path))
    }
}

impl Patch<'_> {
    fn run(self, changes: &[Change]) -> Result<Cost> {
        let mut plan = Plan::of(changes);
        for (path, kind) in further_names(self.source, changes)? {
            if self.is_same(&path)? {
                plan.put(&path, kind, false);
            }
        }
        self.refuse_mounts(&plan)?;
        let mut kept = self.kept(&plan)?;
        let mut made = Vec::new();
        let done = self
            .unlock(&mut kept)
            .and_then(|()| self.make_directories(&plan, &mut made))
            .and_then(|()| self.put_entries(plan.entries))
            .and_then(|()| self.copier.make_links(self.target))
            .and_then(|()| self.remove(plan.deleted));
        // After a failure too: directories are not to stay as open as they were for this.
        let finished = self.finish(kept, made);
        done.and(finished)?;
        Ok(self.copier.cost())
    }

    /// Does an unlisted name stand for the same in both trees, but for the names beside it?
    fn is_same(&self, path: &Path) -> Result<bool> {
        let Some((to, name)) = vanishing(open_parent(self.target, path))? else { return Ok(false) };
        let (from, _) = open_parent(self.source, path)?;
        let options = DiffOptions { times: true };
        let aspects = vanishing(compare_entries((&to, name), (&from, name), options))?;
        Ok(aspects.is_some_and(|aspects| aspects.is_empty()))
    }

    // ------------------------------------------------------------ looking

    /// Fails if something is mounted on what is to be changed, or in a directory that is to go.
    fn refuse_mounts(&self, plan: &Plan) -> Result<()> {
        let gone =
            plan.deleted.iter().flat_map(|(path, names)| names.iter().map(move |name| path.join(name)));
        let put =
            plan.entries.iter().flat_map(|(path, all)| all.iter().map(move |entry| path.join(&entry.name)));
        let tasks: Vec<PathBuf> = gone.chain(put).chain(plan.new.iter().cloned()).collect();
        walk::for_each(tasks, |path, more| {
            let Some((parent, name)) = vanishing(self.parent(&path))? else { return Ok(1) };
            // A directory that is another's new self stays; any other here goes with all that is in it.
            if self.unmounted(&parent, name)? != Some(EntryType::Directory) || plan.new.contains(&path) {
                return Ok(1);
            }
            let dir = parent.open_dir(name)?;
            let entries = dir.entries_once()?;
            for entry in &entries {
                if self.unmounted(&dir, &entry.name)? == Some(EntryType::Directory) {
                    more.push(path.join(&entry.name));
                }
            }
            Ok(entries.len() + 1)
        })
    }

    /// Opens the directory that holds `path` in the target.
    fn parent<'p>(&self, path: &'p Path) -> Result<(Dir, &'p OsStr)> {
        open_parent(self.target, path).map_err(|error| match error.errno() {
            Some(Errno::EXDEV) => self.mounted_on_the_way(path),
            _ => error,
        })
    }

    /// Returns the error for a path that leads through a mount: it names the mount.
    fn mounted_on_the_way(&self, path: &Path) -> Error {
        let mut ancestors: Vec<&Path> = path.ancestors().skip(1).collect();
        ancestors.reverse();
        let is_mount = |path: &&&Path| matches!(walk::enter(self.target, path), Ok(None));
        let place = ancestors.iter().find(is_mount).map_or(path, |place| *place);
        reap::mounted(&self.target.path().join(place))
    }

    /// Returns the type of an entry of the target, `None` where there is none; fails if something is mounted on it.
    fn unmounted(&self, dir: &Dir, name: &OsStr) -> Result<Option<EntryType>> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_XDEV);
        match nix::fcntl::openat2(dir, name, how) {
            Ok(entry) => {
                let stat = nix::sys::stat::fstat(&entry).context(|| format!("fstat({dir}, {name:?})"))?;
                Ok(Some(EntryType::of_mode(stat.st_mode)))
            }
            Err(Errno::ENOENT) => Ok(None),
            Err(Errno::EXDEV) => Err(reap::mounted(&dir.path().join(name))),
            Err(errno) => Err(errno).context(|| format!("openat2({dir}, {name:?}, O_PATH)")),
        }
    }

    /// Notes what the directories that stay are given in the end: the source's attributes if they are listed, else their own.
    fn kept(&self, plan: &Plan) -> Result<Vec<Kept>> {
        let mut kept = Vec::new();
        for path in plan.kept() {
            let dir = self.open(path)?;
            let attributes = if plan.modified.contains(path) {
                self.attributes(path)?
            } else {
                Attributes::of_open(&dir, &dir.stat_self()?, Xattrs::All, &dir)?
            };
            kept.push(Kept { made: Made { path: path.clone(), attributes }, flags: None });
        }
        Ok(kept)
    }

    fn open(&self, path: &Path) -> Result<Dir> {
        walk::open_below(self.target, path).map_err(|error| match error.errno() {
            Some(Errno::EXDEV) => self.mounted_on_the_way(&path.join("x")),
            _ => error,
        })
    }

    fn attributes(&self, path: &Path) -> Result<Attributes> {
        Ok(directory_attributes(self.source, path, Xattrs::All)?.owned(self.copier.owners()))
    }

    // ------------------------------------------------------------ changing

    /// Takes from the directories what forbids to work in them, and what a killed patch left there.
    fn unlock(&self, kept: &mut [Kept]) -> Result<()> {
        for Kept { made, flags } in kept {
            let dir = self.open(&made.path)?;
            *flags = sys::inode_flags(dir.as_fd())
                .ok()
                .filter(|flags| flags & reap::FORBIDDING != 0 && reap::clear_flags(dir.as_fd()));
            let access = AccessFlags::W_OK | AccessFlags::X_OK;
            if nix::unistd::faccessat(&dir, ".", access, AtFlags::AT_EACCESS) == Err(Errno::EACCES) {
                // Best effort: what is done in it tells whether this was what lacked.
                nix::sys::stat::fchmod(&dir, Mode::S_IRWXU).ok();
            }
            let source = vanishing(walk::open_below(self.source, &made.path)).unwrap_or_default();
            replace::clear(&dir, source.as_ref())?;
        }
        Ok(())
    }

    /// Makes the new directories, parents first; one that is there already is taken as it is.
    fn make_directories(&self, plan: &Plan, made: &mut Vec<Made>) -> Result<()> {
        for path in &plan.new {
            let attributes = self.attributes(path)?;
            let (dir, name) = open_parent(self.target, path)?;
            match dir.stat_if_exists(name)?.map(|stat| EntryType::of_mode(stat.st_mode)) {
                None => dir.make_dir(name, 0o700)?,
                Some(EntryType::Directory) => {}
                Some(_) => self.copier.place(&dir, name, |scratch| dir.make_dir(scratch, 0o700))?,
            }
            made.push(Made { path: path.clone(), attributes });
        }
        self.copier.count_directories(made.len());
        Ok(())
    }

    fn put_entries(&self, entries: BTreeMap<PathBuf, Vec<Entry>>) -> Result<()> {
        walk::for_each(chunks(entries), |(path, entries), _| {
            let (from, to) = (walk::open_below(self.source, &path)?, walk::open_below(self.target, &path)?);
            for Entry { name, kind, attributes } in &entries {
                if !(*attributes && *kind == EntryType::File && self.give_attributes(&from, &to, name)?) {
                    self.copier.copy(&from, &to, &path, name, *kind)?;
                }
            }
            Ok(entries.len())
        })
    }

    /// Gives a file the source's attributes where it stands; false if it must be replaced for that.
    ///
    /// One with several names must: they may be of another tree, whose file this is too.
    fn give_attributes(&self, from: &Dir, to: &Dir, name: &OsStr) -> Result<bool> {
        let (Ok(source), Ok(file)) = (from.open_file(name), to.open_file(name)) else { return Ok(false) };
        let what = Quoted(to, name);
        let stat = nix::sys::stat::fstat(&source).context(|| format!("fstat({})", Quoted(from, name)))?;
        let now = nix::sys::stat::fstat(&file).context(|| format!("fstat({what})"))?;
        let is_single = |mode, links| EntryType::of_mode(mode) == EntryType::File && links == 1;
        if !is_single(stat.st_mode, stat.st_nlink) || !is_single(now.st_mode, now.st_nlink) {
            return Ok(false);
        }
        let attributes = Attributes::of_open(&source, &stat, Xattrs::All, &what)?.owned(self.copier.owners());
        let give = || {
            attributes.take_others_from_open(&file, &what)?;
            attributes.apply_to_open(&file, &now, &what)
        };
        match give() {
            Err(error) if error.errno() == Some(Errno::EPERM) && reap::clear_flags(file.as_fd()) => give()?,
            other => other?,
        }
        Ok(true)
    }

    fn remove(&self, deleted: BTreeMap<PathBuf, Vec<OsString>>) -> Result<()> {
        walk::for_each(chunks(deleted), |(path, names), _| {
            if let Some(dir) = vanishing(walk::open_below(self.target, &path))? {
                names.iter().try_for_each(|name| reap::remove(&dir, name))?;
            }
            Ok(names.len())
        })
    }

    /// Gives directories their attributes, then those that stayed their flags again.
    fn finish(&self, kept: Vec<Kept>, made: Vec<Made>) -> Result<()> {
        let flagged: Vec<(PathBuf, i32)> =
            kept.iter().filter_map(|kept| Some((kept.made.path.clone(), kept.flags?))).collect();
        let all = kept.into_iter().map(|kept| kept.made).chain(made).collect();
        finish_by(self.target, all, |attributes, dir| {
            attributes.take_others_from_open(dir, dir)?;
            attributes.apply_to_open(dir, &dir.stat_self()?, dir)
        })?;
        for (path, flags) in flagged {
            let dir = walk::open_below(self.target, &path)?;
            sys::set_inode_flags(dir.as_fd(), flags)
                .context(|| format!("ioctl({dir}, FS_IOC_SETFLAGS, {flags:#x})"))?;
        }
        Ok(())
    }
}

/// Turns work by directory into tasks that are not too large.
fn chunks<T>(all: BTreeMap<PathBuf, Vec<T>>) -> Vec<(PathBuf, Vec<T>)> {
    let mut chunks = Vec::new();
    for (path, mut items) in all {
        while items.len() > 2 * walk::CHUNK {
            chunks.push((path.clone(), items.split_off(items.len() - walk::CHUNK)));
        }
        chunks.push((path, items));
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::diff_trees;
    use crate::dir::Times;
    use crate::entry::CloneMode;
    use std::io::Write;

    struct Stage {
        _temp: tempfile::TempDir,
        source: Dir,
        target: Dir,
    }

    fn stage() -> Stage {
        let temp = tempfile::tempdir().unwrap();
        let root = Dir::open(temp.path()).unwrap();
        let [source, target] = ["source", "target"].map(|name| {
            root.make_dir(name, 0o755).unwrap();
            root.open_dir(name).unwrap()
        });
        Stage { _temp: temp, source, target }
    }

    fn write(dir: &Dir, name: &str, text: &str) {
        dir.create_file(name, 0o644).unwrap().write_all(text.as_bytes()).unwrap();
        dir.set_times(name, Times { accessed: (1, 0), modified: (1, 1) }).unwrap();
    }

    impl Stage {
        fn changes(&self) -> Vec<Change> {
            diff_trees(&self.target, &self.source, DiffOptions { times: true }).unwrap()
        }

        fn patch(&self) -> Cost {
            let cost = patch(&self.changes(), &self.source, &self.target, &CloneMode::Auto.into()).unwrap();
            assert_eq!(self.changes(), []);
            cost
        }
    }

    #[test]
    fn a_file_of_which_only_attributes_differ_keeps_its_inode_and_its_data() {
        let stage = stage();
        write(&stage.source, "file", "same");
        write(&stage.target, "file", "same");
        stage.target.set_mode_following_symlinks("file", 0o4600).unwrap();
        stage.target.set_xattr("file", "user.extra".as_ref(), b"1").unwrap();
        let inode = stage.target.stat("file").unwrap().st_ino;

        let cost = stage.patch();

        assert_eq!(stage.target.stat("file").unwrap().st_ino, inode);
        assert_eq!(cost.files_cloned + cost.files_copied, 0);
    }

    /// Another tree may have the same inode under a name of its own (`cp -al`): it must not change there.
    #[test]
    fn a_file_with_a_name_outside_of_the_tree_is_replaced() {
        let stage = stage();
        write(&stage.source, "file", "same");
        write(&stage.target, "file", "same");
        stage.target.set_mode_following_symlinks("file", 0o600).unwrap();
        let outside = tempfile::tempdir_in(stage._temp.path()).unwrap();
        let outside = Dir::open(outside.path()).unwrap();
        outside.make_link("backup", &stage.target, "file").unwrap();

        stage.patch();

        assert_eq!(outside.stat("backup").unwrap().st_mode & 0o777, 0o600);
        assert_eq!(stage.target.stat("file").unwrap().st_mode & 0o777, 0o644);
    }

    #[test]
    fn types_are_exchanged_in_both_directions() {
        let stage = stage();
        write(&stage.source, "now-file", "file");
        stage.source.make_dir("now-dir", 0o750).unwrap();
        write(&stage.source.open_dir("now-dir").unwrap(), "in", "in it");
        stage.source.make_symlink("now-link", OsStr::new("now-dir")).unwrap();
        for name in ["now-file", "now-link"] {
            stage.target.make_dir(name, 0o500).unwrap();
            write(&stage.target.open_dir(name).unwrap(), "old", "old");
        }
        write(&stage.target, "now-dir", "was a file");

        stage.patch();
    }

    #[test]
    fn what_a_killed_patch_left_goes_unless_the_source_has_it_too() {
        let stage = stage();
        let (left, content) = (".rootling-patch-0123456789abcdef-0", ".rootling-patch-0123456789abcdef-1");
        write(&stage.source, "file", "new");
        write(&stage.target, "file", "old!");
        write(&stage.target, left, "half");
        for dir in [&stage.source, &stage.target] {
            write(dir, content, "content");
        }
        let only: Vec<Change> =
            stage.changes().into_iter().filter(|change| change.path == Path::new("file")).collect();

        patch(&only, &stage.source, &stage.target, &CloneMode::Auto.into()).unwrap();

        assert!(stage.target.stat_if_exists(left).unwrap().is_none());
        assert!(stage.target.stat_if_exists(content).unwrap().is_some());
    }

    #[test]
    fn directories_on_the_way_keep_their_times_and_mode_and_flags() {
        let stage = stage();
        for dir in [&stage.source, &stage.target] {
            dir.make_dir("way", 0o755).unwrap();
        }
        write(&stage.source.open_dir("way").unwrap(), "new", "new");
        let way = stage.target.open_dir("way").unwrap();
        write(&way, "old", "old");
        write(&way, "immutable", "old");
        way.open_file("immutable")
            .map(|file| sys::set_inode_flags(file.as_fd(), sys::FS_IMMUTABLE_FL).ok())
            .unwrap();
        let times = Times { accessed: (5, 6), modified: (7, 8) };
        stage.target.set_times("way", times).unwrap();
        stage.target.set_mode_following_symlinks("way", 0o555).unwrap();
        let flagged = sys::set_inode_flags(way.as_fd(), sys::FS_IMMUTABLE_FL).is_ok();
        let below: Vec<Change> = stage
            .changes()
            .into_iter()
            .filter(|change| change.path.parent() == Some(Path::new("way")))
            .collect();

        patch(&below, &stage.source, &stage.target, &CloneMode::Auto.into()).unwrap();

        let stat = way.stat_self().unwrap();
        assert_eq!((Times::of(&stat).modified, stat.st_mode & 0o777), (times.modified, 0o555));
        let names: Vec<_> = way.entries().unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["new"]);
        if flagged {
            assert!(sys::inode_flags(way.as_fd()).unwrap() & sys::FS_IMMUTABLE_FL != 0);
            sys::set_inode_flags(way.as_fd(), 0).unwrap();
        }
    }

    #[test]
    fn default_acls_colour_nothing_that_is_made() {
        let stage = stage();
        // rwx for the owner, r-x for user 1, the group and all others, by default.
        let mut acl = 2_u32.to_le_bytes().to_vec();
        let entries =
            [(1_u16, 7_u16, u32::MAX), (2, 5, 1), (4, 5, u32::MAX), (16, 5, u32::MAX), (32, 5, u32::MAX)];
        for (tag, permissions, id) in entries {
            acl.extend_from_slice(&tag.to_le_bytes());
            acl.extend_from_slice(&permissions.to_le_bytes());
            acl.extend_from_slice(&id.to_le_bytes());
        }
        for dir in [&stage.source, &stage.target] {
            dir.make_dir("acl", 0o2755).unwrap();
        }
        let source = stage.source.open_dir("acl").unwrap();
        write(&source, "file", "file");
        source.make_dir("dir", 0o755).unwrap();
        source.make_node("pipe", libc::S_IFIFO | 0o644, 0).unwrap();
        for dir in [&stage.source, &stage.target] {
            if dir.set_xattr("acl", "system.posix_acl_default".as_ref(), &acl).is_err() {
                return;
            }
        }

        stage.patch();
    }

    #[test]
    fn only_the_named_paths_change_and_missing_directories_come_with_them() {
        let stage = stage();
        stage.source.make_dir("a", 0o755).unwrap();
        stage.source.open_dir("a").unwrap().make_dir("b", 0o700).unwrap();
        let b = stage.source.open_dir("a").unwrap().open_dir("b").unwrap();
        write(&b, "wanted", "wanted");
        write(&b, "other", "other");
        write(&stage.source, "top", "top");
        stage.target.make_dir("gone", 0o755).unwrap();
        let gone = stage.target.open_dir("gone").unwrap();
        write(&gone, "one", "one");
        write(&gone, "two", "two");

        let paths = [PathBuf::from("a/b/wanted"), PathBuf::from("gone/one"), PathBuf::from("nowhere")];
        let changes = crate::within::within(stage.changes(), &paths, &stage.target).unwrap();
        let listed: Vec<_> = changes.iter().map(|change| change.path.to_str().unwrap()).collect();
        assert_eq!(listed, ["a", "a/b", "a/b/wanted", "gone/one"]);
        patch(&changes, &stage.source, &stage.target, &CloneMode::Auto.into()).unwrap();

        let left: Vec<_> = stage.changes().into_iter().map(|change| change.path).collect();
        let left: Vec<_> =
            left.iter().filter_map(|path| path.to_str()).filter(|path| !path.is_empty()).collect();
        assert_eq!(left, ["a/b/other", "gone", "top"]);
    }
}
