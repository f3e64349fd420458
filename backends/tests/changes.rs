//! The change searches against the full comparison: after random edits both must say the same.
//!
//! Needs root and `ROOTLING_TEST_DIR`, a directory of a writable file system; the btrfs case runs where that is
//! btrfs. `ROOTLING_TEST_RUNS` makes more runs of each case, `ROOTLING_TEST_SEED` repeats one.

#![expect(clippy::print_stderr, reason = "a test that skips says why")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rootling_backends::compare::diff_trees;
use rootling_backends::overlay::OverlayFs;
use rootling_backends::{
    Access, Backend, Baseline, Change, DiffOptions, Dir, ForkOptions, Form, Times, Tree,
};

/// xorshift64*: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}

/// A directory for one test, emptied by the backend that filled it.
struct Store<'a> {
    path: PathBuf,
    backend: &'a dyn Backend,
}

impl<'a> Store<'a> {
    /// Returns a store in ROOTLING_TEST_DIR, or says why there is none.
    fn open(backend: &'a dyn Backend, name: &str) -> Option<Self> {
        let Some(directory) = std::env::var_os("ROOTLING_TEST_DIR") else {
            eprintln!("skipped: ROOTLING_TEST_DIR does not name a directory to work in");
            return None;
        };
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: tree searches and overlay mounts need root");
            return None;
        }
        let path = Path::new(&directory).join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Some(Self { path, backend })
    }

    fn slot(&self, name: &str) -> PathBuf {
        let slot = self.path.join(name);
        fs::create_dir(&slot).unwrap();
        slot
    }
}

impl Drop for Store<'_> {
    fn drop(&mut self) {
        self.backend.reap(&self.path).unwrap();
    }
}

fn seeds() -> Vec<u64> {
    match std::env::var("ROOTLING_TEST_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => {
            (1..=std::env::var("ROOTLING_TEST_RUNS").map_or(12, |runs| runs.parse().unwrap())).collect()
        }
    }
}

/// Returns all paths below `root` whose type fits.
fn paths(root: &Path, directories: bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            let is_dir = entry.file_type().unwrap().is_dir();
            if is_dir {
                pending.push(entry.path());
            }
            if is_dir == directories {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// Does one random thing to the tree at `root`. What fails (a name taken, a directory moved into itself) is no edit.
fn edit(root: &Path, random: &mut Random, subvolumes: Option<&dyn Backend>) {
    let (files, mut dirs) = (paths(root, false), paths(root, true));
    dirs.push(root.to_owned());
    let dir = dirs[random.below(dirs.len())].clone();
    let new = dir.join(format!("n{}", random.below(40)));
    let other_dir = dirs[random.below(dirs.len())].clone();
    let file = if files.is_empty() { new.clone() } else { files[random.below(files.len())].clone() };
    let done = match random.below(18) {
        0..3 => fs::File::create_new(&new).and_then(|mut file| write!(file, "{}", random.below(1 << 20))),
        3 => fs::create_dir(&new),
        4 => fs::OpenOptions::new().append(true).open(&file).and_then(|mut file| file.write_all(b"more")),
        5 | 6 => forge(&file, random),
        7 => fs::set_permissions(&file, fs::Permissions::from_mode(0o600 + random.below(0o100) as u32)),
        8 => fs::set_permissions(&dir, fs::Permissions::from_mode(0o700 + random.below(0o100) as u32)),
        9 => fs::remove_file(&file),
        10 => fs::rename(&file, &new),
        11 => fs::rename(&dir, other_dir.join(format!("n{}", random.below(40)))),
        12 => fs::hard_link(&file, &new),
        13 => symlink(format!("t{}", random.below(9)), &new),
        14 if dir != root => fs::remove_dir_all(&dir).and_then(|()| fs::write(&dir, "was a directory")),
        15 => fs::remove_file(&file).and_then(|()| fs::create_dir(&file)),
        16 => {
            let attribute = format!("user.a{}", random.below(3));
            let parent = Dir::open(file.parent().unwrap()).unwrap();
            drop(parent.set_xattr(file.file_name().unwrap(), attribute.as_ref(), b"value"));
            Ok(())
        }
        17 => match subvolumes {
            Some(backend) if fs::create_dir(&new).is_ok() => {
                backend.create(&new).unwrap();
                Ok(())
            }
            _ if dir != root => fs::remove_dir_all(&dir).and_then(|()| fs::create_dir(&dir)),
            _ => Ok(()),
        },
        _ => Ok(()),
    };
    drop(done);
}

/// Rewrites a file in place with as many other bytes and puts its times back.
fn forge(path: &Path, random: &mut Random) -> std::io::Result<()> {
    let before = fs::symlink_metadata(path)?;
    if !before.is_file() {
        return Ok(());
    }
    let bytes: Vec<u8> = (0..before.size()).map(|_| b'a' + random.below(26) as u8).collect();
    fs::OpenOptions::new().write(true).open(path)?.write_all(&bytes)?;
    let times = Times {
        accessed: (before.atime(), before.atime_nsec()),
        modified: (before.mtime(), before.mtime_nsec()),
    };
    let parent = Dir::open(path.parent().unwrap()).unwrap();
    parent.set_times(path.file_name().unwrap(), times).map_err(std::io::Error::other)
}

fn full_comparison(backend: &dyn Backend, tree: &Tree, parent: &Tree, options: DiffOptions) -> Vec<Change> {
    let view = |tree| backend.mount(tree, Access::ReadOnly, false).open_root().unwrap();
    diff_trees(&view(parent), &view(tree), options).unwrap()
}

/// Compares search and full comparison, with and without times; returns how many changes there were.
fn check(backend: &dyn Backend, tree: &Tree, parent: &Tree, baseline: &Baseline, seed: u64) -> usize {
    let mut count = 0;
    for times in [true, false] {
        let options = DiffOptions { times };
        let found = backend.changes(tree, parent, baseline, options).unwrap();
        assert_eq!(found, full_comparison(backend, tree, parent, options), "seed {seed}, times {times}");
        count = found.len();
    }
    count
}

/// Edits the tree through a mount of its own.
fn edit_mounted(backend: &dyn Backend, tree: &Tree, random: &mut Random, edits: usize, nested: bool) {
    let mount = backend.mount(tree, Access::ReadWrite, false).open(Access::ReadWrite).unwrap();
    let root = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
    let root = if tree.form == Form::Full { tree.fs() } else { root.join(".") };
    for _ in 0..edits {
        edit(&root, random, nested.then_some(backend));
    }
}

/// base -> tree (edited, compared) -> snapshot of it -> edited on, compared with the snapshot and with the base
/// -> a fork of the snapshot, edited and compared.
fn story(backend: &dyn Backend, seed: u64, nested: bool) {
    let Some(store) = Store::open(backend, &format!("story-{}-{seed}-{nested}", backend.kind())) else {
        return;
    };
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let base = Tree::full(store.slot("base"));
    backend.create(&base.slot).unwrap();
    edit_mounted(backend, &base, &mut random, 150, nested);
    backend.seal(&base).unwrap();

    if seed.is_multiple_of(8) {
        // Let the base grow older than the clock's ticks: searches tell what was only read by its ctime.
        std::thread::sleep(std::time::Duration::from_millis(2100));
    }
    let slot = store.slot("tree");
    let forked = backend.fork(&base, &slot, ForkOptions::default()).unwrap();
    let tree = match forked.form {
        Form::Full => Tree::full(slot),
        Form::Delta => Tree::delta(slot, &base),
    };
    assert_eq!(check(backend, &tree, &base, &forked.baseline, seed), 0, "a fresh fork differs, seed {seed}");
    edit_mounted(backend, &tree, &mut random, 25, nested);
    assert_ne!(check(backend, &tree, &base, &forked.baseline, seed), 0);

    let slot = store.slot("snapshot");
    let taken = backend.snapshot(&tree, Some((&base, &forked.baseline)), &slot).unwrap();
    let snapshot = match taken.form {
        Form::Full => Tree::full(slot),
        Form::Delta => Tree::delta(slot, &base),
    };
    assert_eq!(check(backend, &tree, &snapshot, &taken.baseline, seed), 0, "seed {seed}");
    edit_mounted(backend, &tree, &mut random, 25, nested);
    check(backend, &tree, &snapshot, &taken.baseline, seed);
    check(backend, &tree, &base, &forked.baseline, seed);

    let slot = store.slot("again");
    let forked = backend.fork(&snapshot, &slot, ForkOptions::default()).unwrap();
    let again = match forked.form {
        Form::Full => Tree::full(slot),
        Form::Delta => Tree::delta(slot, &snapshot),
    };
    assert_eq!(check(backend, &again, &snapshot, &forked.baseline, seed), 0, "seed {seed}");
    edit_mounted(backend, &again, &mut random, 25, nested);
    check(backend, &again, &snapshot, &forked.baseline, seed);
    assert_eq!(backend.check(&snapshot, true).unwrap(), []);
}

#[test]
fn overlay_changes_equal_a_full_comparison() {
    let seeds = if std::env::var_os("ROOTLING_TEST_DIR").is_some() { seeds() } else { vec![0] };
    for seed in seeds {
        story(&OverlayFs::new(false), seed, false);
    }
}

#[cfg(feature = "btrfs")]
mod btrfs {
    use super::*;
    use rootling_backends::btrfs::Btrfs;

    fn is_btrfs() -> bool {
        let Some(directory) = std::env::var_os("ROOTLING_TEST_DIR") else {
            eprintln!("skipped: ROOTLING_TEST_DIR does not name a directory to work in");
            return false;
        };
        let status = nix::sys::statfs::statfs(Path::new(&directory)).unwrap();
        let is_btrfs = status.filesystem_type() == nix::sys::statfs::BTRFS_SUPER_MAGIC;
        if !is_btrfs {
            eprintln!("skipped: ROOTLING_TEST_DIR is not on btrfs");
        }
        is_btrfs
    }

    #[test]
    fn btrfs_changes_equal_a_full_comparison() {
        for seed in if is_btrfs() { seeds() } else { Vec::new() } {
            story(&Btrfs::new(false), seed, false);
        }
    }

    #[test]
    fn btrfs_changes_in_nested_subvolumes_equal_a_full_comparison() {
        for seed in if is_btrfs() { seeds() } else { Vec::new() } {
            story(&Btrfs::new(false), seed, true);
        }
    }

    /// A delta is flattened into a subvolume: inode numbers of the two sides have nothing to do with each other.
    #[test]
    fn btrfs_fork_of_a_delta_finds_its_changes() {
        for seed in if is_btrfs() { seeds() } else { Vec::new() } {
            let (overlay, backend) = (OverlayFs::new(false), Btrfs::new(false));
            let Some(store) = Store::open(&backend, &format!("delta-{seed}")) else { return };
            let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            let base = Tree::full(store.slot("base"));
            backend.create(&base.slot).unwrap();
            edit_mounted(&backend, &base, &mut random, 150, false);
            let slot = store.slot("delta");
            overlay.fork(&base, &slot, ForkOptions::default()).unwrap();
            let delta = Tree::delta(slot, &base);
            edit_mounted(&overlay, &delta, &mut random, 20, false);
            overlay.seal(&delta).unwrap();
            let tree = Tree::full(store.slot("tree"));
            let forked = backend.fork(&delta, &tree.slot, ForkOptions::default()).unwrap();
            assert_eq!(check(&backend, &tree, &delta, &forked.baseline, seed), 0, "seed {seed}");
            edit_mounted(&backend, &tree, &mut random, 20, false);
            assert_ne!(check(&backend, &tree, &delta, &forked.baseline, seed), 0, "seed {seed}");
        }
    }
}
