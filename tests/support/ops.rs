//! Random operations on a tree: each is done on disk and on the value, and both must come out the same.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use rootling_backends::Dir;

use super::rng::Rng;
use super::tree::{Content, TreeValue, char_device, dir, fifo, file, symlink};

/// One operation of a program in a tree.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Create { path: PathBuf, bytes: Vec<u8> },
    Write { path: PathBuf, offset: usize, bytes: Vec<u8> },
    Truncate { path: PathBuf, length: usize },
    Unlink { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf },
    Link { from: PathBuf, to: PathBuf },
    Symlink { path: PathBuf, target: OsString },
    MakeDir { path: PathBuf, mode: u32 },
    RemoveAll { path: PathBuf },
    Chmod { path: PathBuf, mode: u32 },
    Chown { path: PathBuf, owner: (u32, u32) },
    SetXattr { path: PathBuf, name: &'static str, value: Vec<u8> },
    Device { path: PathBuf },
    Fifo { path: PathBuf },
}

const NAMES: [&[u8]; 12] = [
    b"a",
    b"b",
    b"c",
    b"lib",
    b"etc",
    b" two words ",
    b"-r",
    b"new\nline",
    b"\xff\xfe",
    b".wh.x",
    b"d.d",
    b"z",
];

/// A tree being changed at random, and what it should be.
#[derive(Debug)]
pub(crate) struct Walk {
    pub(crate) value: TreeValue,
    /// Inodes that a delta has only borrowed: changed through one name, they part from their other names.
    borrowed: BTreeSet<u64>,
    rng: Rng,
}

impl Walk {
    /// Starts from `value`; `copy_up`: what is there now lies beneath a delta.
    pub(crate) fn new(value: TreeValue, copy_up: bool, rng: Rng) -> Self {
        let borrowed = if copy_up { value.ids().collect() } else { BTreeSet::new() };
        Self { value, borrowed, rng }
    }

    /// Does `count` operations in the tree at `root` and in the value.
    pub(crate) fn run(&mut self, root: &Path, count: usize) {
        for step in 0..count {
            let Some(op) = self.next() else { continue };
            match on_disk(root, &op) {
                Ok(()) => self.on_value(&op),
                // A directory from beneath cannot be renamed through OverlayFS (redirect_dir=nofollow).
                Err(error) if error.raw_os_error() == Some(libc::EXDEV) && self.may_refuse(&op) => {}
                Err(error) => panic!("step {step}: {op:?}: {error}"),
            }
        }
    }

    fn may_refuse(&self, op: &Op) -> bool {
        matches!(op, Op::Rename { from, .. } if self.value.node(from).is_some_and(|node| node.is_dir()))
            && !self.borrowed.is_empty()
    }

    fn paths(&self, wanted: impl Fn(&super::tree::Node) -> bool) -> Vec<PathBuf> {
        self.value
            .iter()
            .filter(|(path, node)| !path.as_os_str().is_empty() && wanted(node))
            .map(|(path, _)| path.to_owned())
            .collect()
    }

    /// Returns a path in some directory, of which nothing is said.
    fn any_path(&mut self) -> PathBuf {
        let mut dirs = self.paths(|node| node.is_dir());
        dirs.push(PathBuf::new());
        dirs.retain(|dir| dir.components().count() < 6);
        let dir = self.rng.pick(&dirs).expect("the root is there").clone();
        let name = self.rng.pick(&NAMES).expect("not empty");
        dir.join(std::ffi::OsStr::from_bytes(name))
    }

    fn free_path(&mut self) -> Option<PathBuf> {
        let path = self.any_path();
        self.value.node(&path).is_none().then_some(path)
    }

    fn existing(&mut self, wanted: impl Fn(&super::tree::Node) -> bool) -> Option<PathBuf> {
        let paths = self.paths(wanted);
        self.rng.pick(&paths).cloned()
    }

    fn some_bytes(&mut self) -> Vec<u8> {
        let length = self.rng.below(9000);
        self.rng.bytes(length)
    }

    /// Returns an operation that a plain directory would allow.
    fn next(&mut self) -> Option<Op> {
        let bits = [0o755, 0o700, 0o644, 0o600, 0o444, 0o777, 0o001];
        Some(match self.rng.below(20) {
            0..=3 => Op::Create { path: self.free_path()?, bytes: self.some_bytes() },
            4..=5 => {
                let (path, bytes) = (self.existing(|node| node.is_file())?, self.some_bytes());
                Op::Write { path, offset: self.rng.below(12_000), bytes }
            }
            6 => Op::Truncate { path: self.existing(|node| node.is_file())?, length: self.rng.below(10_000) },
            7..=8 => Op::Unlink { path: self.existing(|node| !node.is_dir())? },
            9..=10 => self.rename()?,
            11 => Op::Link { from: self.existing(|node| !node.is_dir())?, to: self.free_path()? },
            12 => {
                Op::Symlink { path: self.free_path()?, target: OsString::from_vec(b"../etc/\xff".to_vec()) }
            }
            13..=14 => Op::MakeDir { path: self.free_path()?, mode: *self.rng.pick(&[0o755, 0o700, 0o711])? },
            15 => Op::RemoveAll { path: self.existing(|node| node.is_dir())? },
            16 => {
                let path = self.existing(|node| !matches!(node.content, Content::Symlink(_)))?;
                Op::Chmod { path, mode: *self.rng.pick(&bits)? }
            }
            17 => Op::Chown {
                path: self.existing(|_| true)?,
                owner: *self.rng.pick(&[(0, 0), (1000, 100), (1, 70_000)])?,
            },
            18 => {
                let name = *self.rng.pick(&["trusted.one", "trusted.two"])?;
                Op::SetXattr { path: self.existing(|_| true)?, name, value: self.rng.bytes(12) }
            }
            _ if self.rng.below(2) == 0 => Op::Fifo { path: self.free_path()? },
            _ => Op::Device { path: self.free_path()? },
        })
    }

    fn rename(&mut self) -> Option<Op> {
        let (from, to) = (self.existing(|_| true)?, self.any_path());
        let (moved, taken) = (self.value.node(&from)?, self.value.node(&to));
        let fits = match taken {
            None => true,
            // Two names of one inode: rename(2) does nothing.
            Some(_) if self.value.id(&from) == self.value.id(&to) => false,
            Some(old) if old.is_dir() => {
                moved.is_dir() && !self.value.iter().any(|(path, _)| path.parent() == Some(&to))
            }
            Some(_) => !moved.is_dir(),
        };
        let inside = to.starts_with(&from) || from.starts_with(&to);
        (fits && !inside).then_some(Op::Rename { from, to })
    }

    /// Gives a borrowed inode to this one of its names alone.
    fn copy_up(&mut self, path: &Path) {
        let Some(id) = self.value.id(path) else { return };
        if self.borrowed.contains(&id) && self.value.names_of(id) > 1 {
            self.value.unshare(path);
        } else {
            // Its last name here: from now on the inode is the delta's own, and may get new names.
            self.borrowed.remove(&id);
        }
    }

    fn on_value(&mut self, op: &Op) {
        match op {
            Op::Create { path, bytes } => drop(self.value.insert(path, file(bytes).mode(0o640))),
            Op::Write { path, offset, bytes } => {
                self.copy_up(path);
                let Content::File { bytes: old, .. } = &mut self.value.node_mut(path).content else { return };
                // write(2) of nothing changes nothing, wherever it is.
                if !bytes.is_empty() {
                    old.resize(old.len().max(offset + bytes.len()), 0);
                    old[*offset..offset + bytes.len()].copy_from_slice(bytes);
                }
            }
            Op::Truncate { path, length } => {
                self.copy_up(path);
                let Content::File { bytes, .. } = &mut self.value.node_mut(path).content else { return };
                bytes.resize(*length, 0);
            }
            Op::Unlink { path } => self.value.remove_name(path),
            Op::Rename { from, to } => {
                self.copy_up(from);
                self.value.rename(from, to);
            }
            Op::Link { from, to } => {
                self.copy_up(from);
                self.value.link(from, to.clone());
            }
            Op::Symlink { path, target } => drop(self.value.insert(path, symlink(target))),
            Op::MakeDir { path, mode } => drop(self.value.insert(path, dir().mode(*mode))),
            Op::RemoveAll { path } => self.value.remove_all(path),
            Op::Chmod { path, mode } => {
                self.copy_up(path);
                self.value.node_mut(path).mode = *mode;
            }
            Op::Chown { path, owner } => {
                self.copy_up(path);
                self.value.node_mut(path).owner = *owner;
            }
            Op::SetXattr { path, name, value } => {
                self.copy_up(path);
                self.value.node_mut(path).xattrs.insert(name.into(), value.clone());
            }
            Op::Device { path } => drop(self.value.insert(path, char_device(1, 3).mode(0o666))),
            Op::Fifo { path } => drop(self.value.insert(path, fifo().mode(0o620))),
        }
    }
}

fn on_disk(root: &Path, op: &Op) -> io::Result<()> {
    let dir = |path: &Path| Dir::open(root.join(path).parent().expect("not the root")).map_err(io_error);
    let name = |path: &Path| path.file_name().expect("not the root").to_owned();
    match op {
        Op::Create { path, bytes } => {
            let mut file = dir(path)?.create_file(name(path), 0o640).map_err(io_error)?;
            io::Write::write_all(&mut file, bytes)
        }
        Op::Write { path, offset, bytes } => open(&root.join(path))?.write_all_at(bytes, *offset as u64),
        Op::Truncate { path, length } => open(&root.join(path))?.set_len(*length as u64),
        Op::Unlink { path } => std::fs::remove_file(root.join(path)),
        Op::Rename { from, to } => std::fs::rename(root.join(from), root.join(to)),
        Op::Link { from, to } => std::fs::hard_link(root.join(from), root.join(to)),
        Op::Symlink { path, target } => std::os::unix::fs::symlink(target, root.join(path)),
        Op::MakeDir { path, mode } => dir(path)?.make_dir(name(path), *mode).map_err(io_error),
        Op::RemoveAll { path } => std::fs::remove_dir_all(root.join(path)),
        Op::Chmod { path, mode } => {
            std::fs::set_permissions(root.join(path), std::fs::Permissions::from_mode(*mode))
        }
        Op::Chown { path, owner } => std::os::unix::fs::lchown(root.join(path), Some(owner.0), Some(owner.1)),
        Op::SetXattr { path, name: attribute, value } => {
            dir(path)?.set_xattr(name(path), attribute.as_ref(), value).map_err(io_error)
        }
        Op::Device { path } => {
            let number = nix::sys::stat::makedev(1, 3);
            dir(path)?.make_node(name(path), libc::S_IFCHR | 0o666, number).map_err(io_error)
        }
        Op::Fifo { path } => dir(path)?.make_node(name(path), libc::S_IFIFO | 0o620, 0).map_err(io_error),
    }
}

fn open(path: &Path) -> io::Result<std::fs::File> {
    std::fs::OpenOptions::new().write(true).open(path)
}

fn io_error(error: rootling_backends::Error) -> io::Error {
    error.errno().unwrap_or(Errno::EIO).into()
}
