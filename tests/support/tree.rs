//! Trees as values: written down with [`tree!`], made on disk, read back, compared.
//!
//! A value holds everything that a fork has to keep: type, content and holes, permission bits, owner, extended
//! attributes (ACLs and capabilities among them), modification time, and which names are one inode.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::FileStat;
use nix::unistd::Whence;
use rootling_backends::{Dir, EntryType, Result, Times};

/// What stands at a path.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// Bytes, and how many whole 64 KiB blocks of them are holes.
    File {
        bytes: Vec<u8>,
        holes: usize,
    },
    Directory,
    Symlink(OsString),
    Char(u64),
    Block(u64),
    Fifo,
    Socket,
}

const BLOCK: usize = 64 * 1024;
/// The modification time of everything that does not say another.
const MTIME: (i64, i64) = (1_600_000_000, 123_456_789);

/// One inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) content: Content,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: (i64, i64),
    pub(crate) xattrs: BTreeMap<OsString, Vec<u8>>,
}

impl Node {
    fn new(content: Content, mode: u32) -> Self {
        Self { content, mode, owner: (0, 0), mtime: MTIME, xattrs: BTreeMap::new() }
    }

    pub(crate) fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    pub(crate) fn owner(self, user: u32, group: u32) -> Self {
        Self { owner: (user, group), ..self }
    }

    pub(crate) fn mtime(self, seconds: i64, nanoseconds: i64) -> Self {
        Self { mtime: (seconds, nanoseconds), ..self }
    }

    pub(crate) fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.xattrs.insert(name.into(), value.to_owned());
        self
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.content == Content::Directory
    }

    pub(crate) fn is_file(&self) -> bool {
        matches!(self.content, Content::File { .. })
    }

    pub(crate) fn entry_type(&self) -> EntryType {
        match self.content {
            Content::File { .. } => EntryType::File,
            Content::Directory => EntryType::Directory,
            Content::Symlink(_) => EntryType::Symlink,
            Content::Char(_) => EntryType::CharDevice,
            Content::Block(_) => EntryType::BlockDevice,
            Content::Fifo => EntryType::Fifo,
            Content::Socket => EntryType::Socket,
        }
    }
}

pub(crate) fn file(bytes: impl AsRef<[u8]>) -> Node {
    Node::new(Content::File { bytes: bytes.as_ref().to_owned(), holes: 0 }, 0o644)
}

/// A file of `size` bytes that is one hole but for `data`.
pub(crate) fn sparse(size: usize, data: &[(usize, &[u8])]) -> Node {
    let mut bytes = vec![0; size];
    let mut filled = vec![false; size / BLOCK];
    for (offset, part) in data {
        bytes[*offset..offset + part.len()].copy_from_slice(part);
        for block in filled.iter_mut().take((offset + part.len() - 1) / BLOCK + 1).skip(offset / BLOCK) {
            *block = true;
        }
    }
    let holes = filled.iter().filter(|filled| !**filled).count();
    Node::new(Content::File { bytes, holes }, 0o644)
}

pub(crate) fn dir() -> Node {
    Node::new(Content::Directory, 0o755)
}

pub(crate) fn symlink(target: impl AsRef<OsStr>) -> Node {
    Node::new(Content::Symlink(target.as_ref().to_owned()), 0o777)
}

pub(crate) fn char_device(major: u64, minor: u64) -> Node {
    Node::new(Content::Char(nix::sys::stat::makedev(major, minor)), 0o600)
}

pub(crate) fn block_device(major: u64, minor: u64) -> Node {
    Node::new(Content::Block(nix::sys::stat::makedev(major, minor)), 0o660)
}

pub(crate) fn fifo() -> Node {
    Node::new(Content::Fifo, 0o622)
}

pub(crate) fn socket() -> Node {
    Node::new(Content::Socket, 0o755)
}

/// Who an entry of an ACL is for that names nobody.
pub(crate) const NOBODY: u32 = u32::MAX;

/// The kernel's own form of an ACL (linux/posix_acl_xattr.h): version 2, then tag, permissions, id.
pub(crate) fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

/// A further name of the inode at another path.
#[derive(Debug)]
pub(crate) struct Link(pub(crate) PathBuf);

pub(crate) fn link(to: impl Into<PathBuf>) -> Link {
    Link(to.into())
}

/// What may stand on the right side in [`tree!`].
pub(crate) trait Put {
    fn put(self, tree: &mut TreeValue, path: PathBuf);
}

impl Put for Node {
    fn put(self, tree: &mut TreeValue, path: PathBuf) {
        tree.insert(path, self);
    }
}

impl Put for Link {
    fn put(self, tree: &mut TreeValue, path: PathBuf) {
        tree.link(&self.0, path);
    }
}

/// Writes a tree down: `tree! { "etc" => dir(), "etc/passwd" => file("root"), "same" => link("etc/passwd") }`.
///
/// The root is there without being named; `"" => dir().mode(0o700)` names it.
macro_rules! tree {
    ($($path:expr => $node:expr),+ $(,)?) => {{
        let mut tree = $crate::support::tree::TreeValue::empty();
        $($crate::support::tree::Put::put($node, &mut tree, std::path::PathBuf::from($path));)+
        tree
    }};
}
pub(crate) use tree;

/// A whole tree: names, and the inodes they stand for.
#[derive(Debug, Clone)]
pub(crate) struct TreeValue {
    names: BTreeMap<PathBuf, u64>,
    nodes: HashMap<u64, Node>,
    next: u64,
}

impl TreeValue {
    /// Returns a tree that is only a root of mode 0755.
    pub(crate) fn empty() -> Self {
        let mut tree = Self { names: BTreeMap::new(), nodes: HashMap::new(), next: 0 };
        tree.insert(PathBuf::new(), dir());
        tree
    }

    /// Puts a new inode at `path`, in place of whatever stood there.
    pub(crate) fn insert(&mut self, path: impl Into<PathBuf>, node: Node) -> u64 {
        let (path, id) = (path.into(), self.next);
        self.next += 1;
        self.remove_name(&path);
        self.nodes.insert(id, node);
        self.names.insert(path, id);
        id
    }

    /// Gives what stands at `to` a further name.
    pub(crate) fn link(&mut self, to: &Path, path: PathBuf) {
        let id = self.names[to];
        self.remove_name(&path);
        self.names.insert(path, id);
    }

    /// Takes one name away, and the inode with its last name.
    pub(crate) fn remove_name(&mut self, path: &Path) {
        if let Some(id) = self.names.remove(path)
            && !self.names.values().any(|other| *other == id)
        {
            self.nodes.remove(&id);
        }
    }

    /// Takes a path and everything below it away.
    pub(crate) fn remove_all(&mut self, path: &Path) {
        let below: Vec<PathBuf> = self.below(path).cloned().collect();
        for name in below {
            self.remove_name(&name);
        }
    }

    /// Moves a path and everything below it; what stood at `to` goes.
    pub(crate) fn rename(&mut self, from: &Path, to: &Path) {
        self.remove_name(to);
        let moved: Vec<PathBuf> = self.below(from).cloned().collect();
        for name in moved {
            let id = self.names.remove(&name).expect("just listed");
            let rest = name.strip_prefix(from).expect("listed below it");
            let target = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
            self.names.insert(target, id);
        }
    }

    fn below<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = &'a PathBuf> {
        self.names.keys().filter(move |name| name.starts_with(path))
    }

    /// Gives `path` an inode of its own, as copy-up does.
    pub(crate) fn unshare(&mut self, path: &Path) {
        let node = self.node(path).expect("the path exists").clone();
        self.insert(path, node);
    }

    pub(crate) fn id(&self, path: impl AsRef<Path>) -> Option<u64> {
        self.names.get(path.as_ref()).copied()
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.nodes.keys().copied()
    }

    pub(crate) fn names_of(&self, id: u64) -> usize {
        self.names.values().filter(|other| **other == id).count()
    }

    /// Returns all names of what stands at a path.
    pub(crate) fn names_at(&self, path: &Path) -> Vec<&Path> {
        let id = self.id(path);
        self.names.iter().filter(|(_, other)| Some(**other) == id).map(|(name, _)| name.as_path()).collect()
    }

    pub(crate) fn node(&self, path: impl AsRef<Path>) -> Option<&Node> {
        self.names.get(path.as_ref()).map(|id| &self.nodes[id])
    }

    pub(crate) fn node_mut(&mut self, path: impl AsRef<Path>) -> &mut Node {
        let id = self.names[path.as_ref()];
        self.nodes.get_mut(&id).expect("every name has an inode")
    }

    /// Returns paths and inodes, parents first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Path, &Node)> {
        self.names.iter().map(|(path, id)| (path.as_path(), &self.nodes[id]))
    }

    /// Returns for each path the first name of its inode: equal maps, equal hard links.
    pub(crate) fn first_names(&self) -> BTreeMap<&Path, &Path> {
        let mut first = HashMap::new();
        self.names
            .iter()
            .map(|(path, id)| (path.as_path(), *first.entry(*id).or_insert(path.as_path())))
            .collect()
    }

    /// Returns the same tree with all times equal, for comparisons without them.
    pub(crate) fn without_times(mut self) -> Self {
        self.nodes.values_mut().for_each(|node| node.mtime = MTIME);
        self
    }

    // ------------------------------------------------------------ disk

    /// Makes the tree in `root`, an existing empty directory, whose own attributes are set too.
    pub(crate) fn make(&self, root: &Path) {
        let root = Dir::open(root).unwrap();
        let mut made: HashMap<u64, &Path> = HashMap::new();
        for (path, id) in self.names.iter().skip(1) {
            let (parent, name) = parent_of(&root, path).unwrap();
            if let Some(first) = made.get(id) {
                let (old_parent, old_name) = parent_of(&root, first).unwrap();
                parent.make_link(name, &old_parent, old_name).unwrap();
                continue;
            }
            let node = &self.nodes[id];
            create(&parent, name, node).unwrap();
            if !node.is_dir() {
                finish(&parent, name, node).unwrap();
            }
            made.insert(*id, path);
        }
        // Children change their directory's time, and a default ACL would be inherited: directories come last.
        for (path, id) in self.names.iter().rev().filter(|(_, id)| self.nodes[*id].is_dir()) {
            let (parent, name) = parent_of(&root, path).unwrap();
            finish(&parent, name, &self.nodes[id]).unwrap();
        }
    }

    /// Reads what is below an open directory.
    pub(crate) fn read(root: &Dir) -> Result<Self> {
        let mut reader = Reader { tree: Self::empty(), inodes: HashMap::new() };
        *reader.tree.node_mut("") = read_node(root, OsStr::new("."), &root.stat_self()?)?;
        reader.directory(root, Path::new(""))?;
        Ok(reader.tree)
    }

    /// Reads the directory at a path.
    pub(crate) fn read_path(path: &Path) -> Self {
        Self::read(&Dir::open(path).unwrap()).unwrap()
    }
}

/// Walks to the directory that holds `path`, one name at a time: paths may be longer than PATH_MAX.
fn parent_of<'a>(root: &Dir, path: &'a Path) -> Result<(Dir, &'a OsStr)> {
    let mut parent = root.try_clone()?;
    let Some(name) = path.file_name() else { return Ok((parent, OsStr::new("."))) };
    for part in path.parent().into_iter().flat_map(Path::components) {
        parent = parent.open_dir(part.as_os_str())?;
    }
    Ok((parent, name))
}

fn create(parent: &Dir, name: &OsStr, node: &Node) -> Result<()> {
    match &node.content {
        Content::Directory => parent.make_dir(name, 0o700),
        Content::Symlink(target) => parent.make_symlink(name, target),
        Content::Char(device) => parent.make_node(name, libc::S_IFCHR | 0o600, *device),
        Content::Block(device) => parent.make_node(name, libc::S_IFBLK | 0o600, *device),
        Content::Fifo => parent.make_node(name, libc::S_IFIFO | 0o600, 0),
        Content::Socket => parent.make_node(name, libc::S_IFSOCK | 0o600, 0),
        Content::File { bytes, holes } => {
            let made = parent.create_file(name, 0o600)?;
            made.set_len(bytes.len() as u64).unwrap();
            for (index, block) in bytes.chunks(BLOCK).enumerate() {
                if *holes == 0 || block.iter().any(|byte| *byte != 0) {
                    made.write_all_at(block, (index * BLOCK) as u64).unwrap();
                }
            }
            Ok(())
        }
    }
}

fn finish(parent: &Dir, name: &OsStr, node: &Node) -> Result<()> {
    parent.set_owner(name, node.owner.0, node.owner.1)?;
    for (attribute, value) in &node.xattrs {
        parent.set_xattr(name, attribute, value)?;
    }
    if !matches!(node.content, Content::Symlink(_)) {
        parent.set_mode_following_symlinks(name, node.mode)?;
    }
    parent.set_times(name, Times { accessed: node.mtime, modified: node.mtime })
}

struct Reader {
    tree: TreeValue,
    /// By device, number and time of change: an overlay over two subvolumes shows equal numbers.
    inodes: HashMap<(u64, u64, i64, i64), PathBuf>,
}

impl Reader {
    fn directory(&mut self, dir: &Dir, path: &Path) -> Result<()> {
        for entry in dir.entries()? {
            let path = path.join(&entry.name);
            let stat = dir.stat(&entry.name)?;
            let is_dir = EntryType::of_mode(stat.st_mode) == EntryType::Directory;
            if !is_dir && stat.st_nlink > 1 {
                let inode = (stat.st_dev, stat.st_ino, stat.st_ctime, stat.st_ctime_nsec);
                if let Some(first) = self.inodes.get(&inode).cloned() {
                    self.tree.link(&first, path);
                    continue;
                }
                self.inodes.insert(inode, path.clone());
            }
            self.tree.insert(path.clone(), read_node(dir, &entry.name, &stat)?);
            if is_dir {
                self.directory(&dir.open_dir(&entry.name)?, &path)?;
            }
        }
        Ok(())
    }
}

fn read_node(dir: &Dir, name: &OsStr, stat: &FileStat) -> Result<Node> {
    let content = match EntryType::of_mode(stat.st_mode) {
        EntryType::File => read_file(dir, name)?,
        EntryType::Directory => Content::Directory,
        EntryType::Symlink => Content::Symlink(dir.read_link(name)?),
        EntryType::CharDevice => Content::Char(stat.st_rdev),
        EntryType::BlockDevice => Content::Block(stat.st_rdev),
        EntryType::Fifo => Content::Fifo,
        EntryType::Socket => Content::Socket,
    };
    let xattrs = dir.xattrs(name)?.into_iter().filter(|(name, _)| !is_of_the_host(name)).collect();
    Ok(Node {
        content,
        mode: stat.st_mode & 0o7777,
        owner: (stat.st_uid, stat.st_gid),
        mtime: (stat.st_mtime, stat.st_mtime_nsec),
        xattrs,
    })
}

/// Is an attribute the host's own? XFS shows root a second, raw form of each ACL; a security module labels every file.
fn is_of_the_host(attribute: &OsStr) -> bool {
    attribute == "security.selinux" || attribute.as_bytes().starts_with(b"trusted.SGI_ACL_")
}

fn read_file(dir: &Dir, name: &OsStr) -> Result<Content> {
    let mut file = dir.open_file(name)?;
    let mut bytes = Vec::new();
    let holes = hole_blocks(file.as_fd());
    std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
    Ok(Content::File { bytes, holes })
}

/// Counts the whole 64 KiB blocks without data, and rewinds.
fn hole_blocks(file: std::os::fd::BorrowedFd<'_>) -> usize {
    use nix::unistd::lseek;
    let end = lseek(file, 0, Whence::SeekEnd).unwrap();
    let (mut holes, mut at, block) = (0, 0, BLOCK as i64);
    while at < end {
        // ENXIO: no data up to the end.
        let data = lseek(file, at, Whence::SeekData).unwrap_or(end);
        let first = (at + block - 1) / block;
        holes += (data / block - first).max(0);
        at = if data < end { lseek(file, data, Whence::SeekHole).unwrap() } else { end };
    }
    lseek(file, 0, Whence::SeekSet).unwrap();
    usize::try_from(holes).expect("not negative")
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { bytes, holes } => {
                let start = OsStr::from_bytes(&bytes[..bytes.len().min(24)]);
                write!(f, "File({} bytes, {holes} holes, {start:?})", bytes.len())
            }
            Self::Directory => f.write_str("Directory"),
            Self::Symlink(target) => write!(f, "Symlink({target:?})"),
            Self::Char(device) => write!(f, "Char({device:#x})"),
            Self::Block(device) => write!(f, "Block({device:#x})"),
            Self::Fifo => f.write_str("Fifo"),
            Self::Socket => f.write_str("Socket"),
        }
    }
}
