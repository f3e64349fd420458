//! Trees that are plain directories: the reflink and the copy backend, which differ in one thing only, whether files
//! share their data.

use std::path::Path;

use crate::backend::{
    Backend, Baseline, Capabilities, FS, Finding, ForkOptions, Forked, Form, Kind, Reaped, Snapshotted, Tree,
};
use crate::change::{Change, DiffOptions};
use crate::delta::write_delta;
use crate::dir::Dir;
use crate::entry::CloneMode;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::fence::{self, Fence};
use crate::flatten::flatten_noting_directories;
use crate::mount::{Access, Mount};
use crate::reap::reap;
use crate::replicate::{Options, replicate, replicate_noting_directories};
use crate::{candidates, merge};

/// A plain-directory backend: clones or copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plain {
    kind: Kind,
    /// Where OverlayFS's marks go in deltas.
    userxattr: bool,
    /// May a snapshot be a delta? It takes an overlay mount to read one.
    deltas: bool,
}

impl Plain {
    /// Returns the backend that clones. `userxattr`: OverlayFS's marks in deltas go to `user.`, not `trusted.` (in a user
    /// namespace).
    pub fn reflink(userxattr: bool) -> Self {
        Self { kind: Kind::Reflink, userxattr, deltas: true }
    }

    /// Returns the backend that copies; `userxattr` as above.
    pub fn copy(userxattr: bool) -> Self {
        Self { kind: Kind::Copy, userxattr, deltas: true }
    }

    /// The same with snapshots that are copies of the whole tree: for where deltas cannot be written, or not be read.
    #[must_use]
    pub fn without_deltas(self) -> Self {
        Self { deltas: false, ..self }
    }

    fn clone_mode(&self, always: bool) -> Result<CloneMode> {
        match (self.kind, always) {
            (Kind::Reflink, true) => Ok(CloneMode::Always),
            (Kind::Reflink, false) => Ok(CloneMode::Auto),
            (_, false) => Ok(CloneMode::Never),
            (_, true) => {
                let error = Error::new(ErrorKind::Unsupported, "the copy backend cannot clone files");
                Err(error.hint("use the reflink backend, or allow copying"))
            }
        }
    }

    /// Opens a sealed tree as it looks.
    fn root(&self, tree: &Tree) -> Result<Dir> {
        tree.mount(Access::ReadOnly, self.userxattr, false).open_root()
    }
}

impl Backend for Plain {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            constant_time_fork: false,
            shares_data: self.kind == Kind::Reflink,
            fork_form: Form::Full,
            // A file that goes while the whole tree is copied is an error.
            live_snapshot: self.deltas,
        }
    }

    fn create(&self, slot: &Path) -> Result<()> {
        merge::clear_umask();
        Dir::open(slot)?.make_dir(FS, 0o755)
    }

    fn fork(&self, parent: &Tree, slot: &Path, options: ForkOptions) -> Result<Forked> {
        if options.outermost_only {
            let message = format!("backend {} has no subvolumes to snapshot", self.kind);
            return Err(Error::new(ErrorKind::CrossDevice, message));
        }
        let clone = self.clone_mode(options.always_clone)?;
        let (slot, target) = make_target(slot)?;
        let (cost, directories) = match parent.form {
            Form::Full => {
                replicate_noting_directories(&Dir::open(parent.fs())?, &target, &Options::from(clone))?
            }
            Form::Delta => flatten_noting_directories(&parent.layers(), &target, self.userxattr, clone)?,
        };
        let baseline =
            if options.ephemeral { Baseline::None } else { fence::set(&slot, &target, &directories)? };
        Ok(Forked { form: Form::Full, baseline, cost })
    }

    /// The new fence comes before everything that looks at the tree: what is written meanwhile is behind it and is found next time.
    /// Between the two the file system is synced, so that from then on writing to a page that is already mapped is seen too.
    fn snapshot(&self, tree: &Tree, parent: Option<(&Tree, &Baseline)>, slot: &Path) -> Result<Snapshotted> {
        let clone = self.clone_mode(false)?;
        require_full(tree)?;
        let (own, source) = (Dir::open(&tree.slot)?, Dir::open(tree.fs())?);
        let fence = if fence::is_supported(&source)? { Some(Fence::mark(&own)?) } else { None };
        source.sync_file_system()?;
        let (_, target) = make_target(slot)?;
        let (form, cost, directories) = match parent.filter(|_| self.deltas) {
            None => {
                let directories = fence::directories(&source)?;
                (Form::Full, replicate(&source, &target, &Options::from(clone))?, directories)
            }
            Some((parent, baseline)) => {
                let root = self.root(parent)?;
                let found = fence::search(&own, &source, &root, baseline, DiffOptions { times: true })?;
                match write_delta(&found.changes, &source, &root, &target, self.userxattr, clone) {
                    Ok(cost) => (Form::Delta, cost, found.directories),
                    // OverlayFS's own marks in the tree: only a full copy can hold them.
                    Err(error) if error.kind() == ErrorKind::Unsupported => {
                        reap(target.path())?;
                        let (_, target) = make_target(slot)?;
                        (Form::Full, replicate(&source, &target, &Options::from(clone))?, found.directories)
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let baseline = match fence {
            Some(fence) => {
                fence::write_directories(&own, &fence, &directories)?;
                fence.baseline()
            }
            None => Baseline::None,
        };
        Ok(Snapshotted { form, baseline, cost })
    }

    /// A plain directory has no switch: nothing to do.
    fn seal(&self, _tree: &Tree) -> Result<()> {
        Ok(())
    }

    fn barrier(&self, directory: &Path) -> Result<()> {
        Dir::open(directory)?.sync_file_system()
    }

    fn mount(&self, tree: &Tree, access: Access, volatile: bool) -> Mount {
        tree.mount(access, self.userxattr, volatile)
    }

    /// A delta on the parent's own layers holds the names of all that may differ; a full tree is searched by its fence.
    fn changes(
        &self,
        tree: &Tree,
        parent: &Tree,
        baseline: &Baseline,
        options: DiffOptions,
    ) -> Result<Vec<Change>> {
        let (slot, new, old) = (Dir::open(&tree.slot)?, self.root(tree)?, self.root(parent)?);
        let found = candidates::compare_stacks((parent, &old), (tree, &new), options)?;
        if let Some(changes) = found {
            return Ok(changes);
        }
        let baseline = if tree.form == Form::Full { baseline } else { &Baseline::None };
        Ok(fence::search(&slot, &new, &old, baseline, options)?.changes)
    }

    /// A fence behind all that was done. O(directories).
    fn baseline(&self, tree: &Tree) -> Result<Baseline> {
        let (slot, root) = (Dir::open(&tree.slot)?, Dir::open(tree.fs())?);
        fence::set(&slot, &root, &fence::directories(&root)?)
    }

    fn reap(&self, slot: &Path) -> Result<Reaped> {
        reap(slot)
    }

    fn check(&self, tree: &Tree, _sealed: bool) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for path in tree.layers() {
            match std::fs::symlink_metadata(&path) {
                Ok(found) if found.is_dir() => {}
                Ok(_) => findings.push(Finding { path, problem: "is not a directory".into() }),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    findings.push(Finding { path, problem: "is missing".into() });
                }
                Err(error) => return Err(Error::io(format!("lstat({path:?})"), error)),
            }
        }
        Ok(findings)
    }
}

/// Makes the directory of a new tree, open to nobody until it is finished.
fn make_target(slot: &Path) -> Result<(Dir, Dir)> {
    let slot = Dir::open(slot)?;
    slot.make_dir(FS, 0o700)?;
    let target = slot.open_dir(FS)?;
    Ok((slot, target))
}

fn require_full(tree: &Tree) -> Result<()> {
    match tree.form {
        Form::Full => Ok(()),
        Form::Delta => {
            let message = format!("{:?} is a delta: not a tree of a plain-directory backend", tree.slot);
            Err(Error::new(ErrorKind::InvalidInput, message))
        }
    }
    .context(|| format!("snapshot {:?}", tree.slot))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::diff_trees;
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::PathBuf;

    struct Stage {
        temp: tempfile::TempDir,
        plain: Plain,
        base: Tree,
        tree: Tree,
        baseline: Baseline,
    }

    fn slot(temp: &tempfile::TempDir, name: &str) -> PathBuf {
        let slot = temp.path().join(name);
        fs::create_dir(&slot).unwrap();
        slot
    }

    /// A sealed base with some files, and a fork of it.
    fn stage() -> Stage {
        let temp = tempfile::tempdir().unwrap();
        let plain = Plain { kind: Kind::Reflink, userxattr: true, deltas: true };
        let base = Tree::full(slot(&temp, "base"));
        plain.create(&base.slot).unwrap();
        for dir in ["a/b/c", "x/y", "empty"] {
            fs::create_dir_all(base.fs().join(dir)).unwrap();
        }
        for file in ["a/one", "a/two", "a/b/three", "a/b/c/deep", "x/y/deep", "top"] {
            fs::write(base.fs().join(file), file).unwrap();
        }
        fs::hard_link(base.fs().join("top"), base.fs().join("top-link")).unwrap();
        let tree = Tree::full(slot(&temp, "tree"));
        let forked = plain.fork(&base, &tree.slot, ForkOptions::default()).unwrap();
        Stage { temp, plain, base, tree, baseline: forked.baseline }
    }

    impl Stage {
        fn changes(&self) -> Vec<String> {
            let options = DiffOptions::default();
            let found = self.plain.changes(&self.tree, &self.base, &self.baseline, options).unwrap();
            let all = diff_trees(&dir(&self.base), &dir(&self.tree), options).unwrap();
            assert_eq!(found, all, "the fence and the full comparison disagree");
            found.iter().map(|change| format!("{} {}", change.kind.letter(), change.path.display())).collect()
        }
    }

    fn dir(tree: &Tree) -> Dir {
        Dir::open(tree.fs()).unwrap()
    }

    #[test]
    fn a_fresh_fork_has_no_changes() {
        assert_eq!(stage().changes(), Vec::<String>::new());
    }

    #[test]
    fn an_edit_of_equal_size_with_its_mtime_put_back_is_found() {
        let stage = stage();
        let path = stage.tree.fs().join("a/b/three");
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, "a/b/THREE").unwrap();
        fs::File::open(&path).unwrap().set_modified(modified).unwrap();
        assert_eq!(stage.changes(), ["C a/b/three"]);
    }

    #[test]
    fn touching_without_changing_is_no_change() {
        let stage = stage();
        let path = stage.tree.fs().join("a/one");
        fs::write(&path, "a/one").unwrap();
        fs::write(stage.tree.fs().join("a/passing"), "").unwrap();
        fs::remove_file(stage.tree.fs().join("a/passing")).unwrap();
        assert_eq!(stage.changes(), Vec::<String>::new());
    }

    #[test]
    fn directories_that_change_places_are_compared_whole() {
        let stage = stage();
        let path = |name: &str| stage.tree.fs().join(name);
        fs::rename(path("a/b/c"), path("c")).unwrap();
        fs::rename(path("x/y"), path("a/b/c")).unwrap();
        fs::rename(path("c"), path("x/y")).unwrap();
        assert_eq!(stage.changes(), ["C a/b/c/deep", "C x/y/deep"]);
    }

    #[test]
    fn deletions_additions_and_new_types_are_found() {
        let stage = stage();
        let path = |name: &str| stage.tree.fs().join(name);
        fs::remove_dir_all(path("a/b")).unwrap();
        fs::write(path("a/b"), "now a file").unwrap();
        fs::remove_dir_all(path("x")).unwrap();
        fs::remove_file(path("a/two")).unwrap();
        fs::create_dir_all(path("a/two/new")).unwrap();
        fs::set_permissions(path("empty"), PermissionsExt::from_mode(0o700)).unwrap();
        assert_eq!(stage.changes(), ["C a/b", "C a/two", "A a/two/new", "C empty", "D x"]);
    }

    #[test]
    fn without_its_dirs_file_or_after_a_step_back_the_fence_is_not_believed() {
        let mut stage = stage();
        let path = |name: &str| stage.tree.fs().join(name);
        fs::write(path("a/one"), "changed").unwrap();
        let file = stage.tree.slot.join(fence::DIRS);
        let mut bytes = fs::read(&file).unwrap();
        bytes[40] ^= 1;
        fs::write(&file, bytes).unwrap();
        assert_eq!(stage.changes(), ["C a/one"]);
        let Baseline::Fence { ctime, clock_offset_ns, .. } = &mut stage.baseline else { panic!("no fence") };
        ctime.0 += 3600;
        *clock_offset_ns += 3_600_000_000_000;
        assert_eq!(stage.changes(), ["C a/one"]);
    }

    #[test]
    fn a_snapshot_flattened_again_equals_the_tree_and_the_next_search_starts_there() {
        let stage = stage();
        let path = |name: &str| stage.tree.fs().join(name);
        fs::remove_dir_all(path("x")).unwrap();
        fs::remove_file(path("a/two")).unwrap();
        fs::create_dir(path("a/two")).unwrap();
        fs::write(path("a/two/inner"), "inner").unwrap();
        fs::hard_link(path("a/b/c/deep"), path("linked")).unwrap();
        let parent = Some((&stage.base, &stage.baseline));
        let snapshotted = stage.plain.snapshot(&stage.tree, parent, &slot(&stage.temp, "snap")).unwrap();
        assert_eq!(snapshotted.form, Form::Delta);
        let delta = Tree::delta(stage.temp.path().join("snap"), &stage.base);

        let flat = Tree::full(slot(&stage.temp, "flat"));
        stage.plain.fork(&delta, &flat.slot, ForkOptions::default()).unwrap();

        let times = DiffOptions { times: true };
        assert_eq!(diff_trees(&dir(&stage.tree), &dir(&flat), times).unwrap(), []);
        let inode = |name: &str| fs::metadata(flat.fs().join(name)).unwrap().ino();
        assert_eq!(inode("linked"), inode("a/b/c/deep"));
        fs::write(path("a/one"), "later").unwrap();
        let own = Dir::open(&stage.tree.slot).unwrap();
        let found =
            fence::search(&own, &dir(&stage.tree), &dir(&flat), &snapshotted.baseline, times).unwrap();
        let paths: Vec<_> = found.changes.iter().map(|change| change.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["a/one"]);
    }

    #[test]
    fn a_tree_with_a_whiteout_of_its_own_is_snapshotted_whole() {
        let stage = stage();
        dir(&stage.tree).make_node("own", libc::S_IFCHR, 0).unwrap();
        let parent = Some((&stage.base, &stage.baseline));
        let snapshotted = stage.plain.snapshot(&stage.tree, parent, &slot(&stage.temp, "snap")).unwrap();
        assert_eq!(snapshotted.form, Form::Full);
        let snap = Tree::full(stage.temp.path().join("snap"));
        assert_eq!(diff_trees(&dir(&stage.tree), &dir(&snap), DiffOptions { times: true }).unwrap(), []);
    }

    #[test]
    fn a_tree_that_is_gone_is_found() {
        let stage = stage();
        assert_eq!(stage.plain.check(&stage.tree, false).unwrap(), []);
        reap(&stage.tree.slot).unwrap();
        assert_eq!(stage.plain.check(&stage.tree, false).unwrap().len(), 1);
        assert!(!stage.tree.slot.join(OsStr::new(FS)).exists());
    }
}
