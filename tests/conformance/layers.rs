//! Layers: what a fork changed, as an archive, turns a copy of its parent into it, on every backend.

use std::fs;
use std::path::{Path, PathBuf};

use rootling::layer::{
    ApplyOptions, CreateOptions, Packing, Whiteouts, apply, create, decompress, whole_tree,
};
use rootling_backends::{Change, DiffOptions, Dir, FS, Tree, compare};

use crate::cases::{Case, case};
use crate::setup::{Fork, Setup, with_seeds};
use crate::support::compare::assert_tree_eq;
use crate::support::ops::Walk;
use crate::support::require::Outcome;
use crate::support::rng::Rng;
use crate::support::tree::{TreeValue, dir, file, link, symlink, tree};

pub(crate) const CASES: &[Case] = &[
    case!(random_forks_come_out_of_layers),
    case!(names_of_one_inode_come_out_of_layers),
    case!(entries_of_other_types_come_out_of_layers),
];

const ROUNDS: u64 = 6;

/// Makes the layer and returns it unpacked, as a tar.
fn layer(changes: &[Change], root: &Dir) -> Vec<u8> {
    let options = CreateOptions { packing: Packing::Zstd { level: 1 }, ..CreateOptions::default() };
    let mut blob = Vec::new();
    let created = create(changes, root, &options, &mut blob).unwrap();
    assert_eq!(created.packed.size, blob.len() as u64);
    let mut tar = Vec::new();
    std::io::copy(&mut decompress(&blob[..]).unwrap().1, &mut tar).unwrap();
    assert_eq!(created.packed.diff_size, tar.len() as u64);
    tar
}

/// The layers of a chain of forks, applied one after the other, give what each fork is.
struct Receiver {
    path: PathBuf,
    root: Dir,
}

impl Receiver {
    /// Receives the base: all of a tree.
    fn new(s: &Setup, base: &Dir) -> Self {
        let path = s.slot();
        let receiver = Self { root: Dir::open(&path).unwrap(), path };
        receiver.apply(&whole_tree(base).unwrap(), base, "base");
        receiver
    }

    /// Returns the layer and how many bytes of files are in it.
    fn apply(&self, changes: &[Change], source: &Dir, what: &str) -> (Vec<u8>, u64) {
        let tar = layer(changes, source);
        let options = ApplyOptions { whiteouts: Whiteouts::Delete, ..ApplyOptions::default() };
        let applied = apply(&tar[..], &self.root, &options).unwrap();
        assert_eq!(applied.skipped, []);
        let (found, expected) = (TreeValue::read_path(&self.path), TreeValue::read(source).unwrap());
        assert_tree_eq(&found, &expected, what);
        (tar, applied.bytes)
    }

    /// Receives what a fork changed; returns how many bytes of files that took.
    fn fork(&self, s: &Setup, fork: &Fork) -> u64 {
        let times = DiffOptions { times: true };
        let (tar, bytes) = self.apply(&s.changes(fork, times), &s.root(&fork.tree), "fork");
        // In a plain directory the same changes are the same layer, to the last byte.
        let again = compare::diff_trees(&s.root(&fork.parent), &self.root, times).unwrap();
        assert!(layer(&again, &self.root) == tar, "the layer depends on where the tree lies");
        if s.makes_deltas() {
            unpack_alone(s, fork, &tar);
        }
        bytes
    }
}

/// Nothing in the layer needs what lies beneath: unpacked without that, it is the upper directory of an overlay.
fn unpack_alone(s: &Setup, fork: &Fork, tar: &[u8]) {
    let slot = s.slot();
    let upper = slot.join(FS);
    fs::create_dir(&upper).unwrap();
    let whiteouts = Whiteouts::Overlay { userxattr: s.marks_in_user() };
    let options = ApplyOptions { whiteouts, ..ApplyOptions::default() };
    apply(tar, &Dir::open(&upper).unwrap(), &options).unwrap();
    let alone = Tree::delta(slot, &fork.parent);
    assert_tree_eq(&s.view(&alone), &s.view(&fork.tree), "the layer alone, over the parent");
}

/// Such names cannot be in a layer.
fn remove_whiteout_names(root: &Path) {
    for entry in fs::read_dir(root).unwrap().map(Result::unwrap) {
        let is_dir = entry.file_type().unwrap().is_dir();
        if entry.file_name().as_encoded_bytes().starts_with(b".wh.") {
            if is_dir { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) }.unwrap();
        } else if is_dir {
            remove_whiteout_names(&entry.path());
        }
    }
}

fn random_forks_come_out_of_layers(s: &Setup) -> Outcome {
    with_seeds(ROUNDS, |seed| one_history(s, seed))
}

fn one_history(s: &Setup, seed: u64) {
    let mut rng = Rng::new(seed);
    let mut parent = s.create(&TreeValue::empty());
    grow(s, &parent, &mut rng, 120, false);
    s.backend.seal(&parent).unwrap();
    let receiver = Receiver::new(s, &s.root(&parent));
    for _ in 0..3 {
        let fork = s.fork(&parent);
        grow(s, &fork.tree, &mut rng, 60, s.makes_deltas());
        receiver.fork(s, &fork);
        s.backend.seal(&fork.tree).unwrap();
        parent = fork.tree;
    }
}

fn grow(s: &Setup, tree: &Tree, rng: &mut Rng, count: usize, copy_up: bool) {
    let mut walk = Walk::new(s.view(tree), copy_up, Rng::new(rng.next()));
    s.edit(tree, |root| {
        walk.run(root, count);
        remove_whiteout_names(root);
    });
}

fn names_of_one_inode_come_out_of_layers(s: &Setup) -> Outcome {
    let large = vec![b'x'; 100_000];
    let parent = s.parent(&tree! {
        "a" => file(&large), "b" => link("a"), "c" => link("a"), "d" => dir(), "d/e" => link("a"),
        "one" => file("one"), "other" => file("one"), "link" => symlink("one"), "second" => link("link"),
    });
    // Each story begins at the parent: what is done, and how many bytes may at most be in the layer.
    type Story = (&'static str, fn(&Path), u64);
    let stories: &[Story] = &[
        ("a name goes", |root| fs::remove_file(root.join("a")).unwrap(), 300_000),
        (
            "all names but one go",
            |root| ["a", "b", "d/e"].iter().for_each(|name| fs::remove_file(root.join(name)).unwrap()),
            0,
        ),
        ("a name comes", |root| fs::hard_link(root.join("one"), root.join("new")).unwrap(), 3),
        (
            "two become one",
            |root| {
                fs::remove_file(root.join("other")).unwrap();
                fs::hard_link(root.join("one"), root.join("other")).unwrap();
            },
            3,
        ),
        (
            "one of several is replaced by its equal",
            |root| {
                fs::copy(root.join("b"), root.join("tmp")).unwrap();
                let time = fs::metadata(root.join("b")).unwrap().modified().unwrap();
                fs::File::options().write(true).open(root.join("tmp")).unwrap().set_modified(time).unwrap();
                fs::rename(root.join("tmp"), root.join("b")).unwrap();
            },
            500_000,
        ),
        ("one name is written to", |root| fs::write(root.join("d/e"), "new").unwrap(), 400_000),
        ("a name of a link goes", |root| fs::remove_file(root.join("link")).unwrap(), 0),
        (
            "a directory with a name moves",
            |root| {
                fs::create_dir(root.join("0")).unwrap();
                fs::rename(root.join("d/e"), root.join("0/e")).unwrap();
            },
            200_000,
        ),
    ];
    for (name, story, most) in stories {
        let receiver = Receiver::new(s, &s.root(&parent));
        let fork = s.fork(&parent);
        s.edit(&fork.tree, story);
        let bytes = receiver.fork(s, &fork);
        assert!(bytes <= *most, "{name}: {bytes} bytes of files are in the layer");
    }
    Ok(())
}

fn entries_of_other_types_come_out_of_layers(s: &Setup) -> Outcome {
    let parent = s.parent(&tree! {
        "file" => file("file"), "dir" => dir(), "dir/deep" => dir(), "dir/deep/file" => file("deep"),
        "link" => symlink("dir"), "emptied" => dir(), "emptied/a" => file("a"), "emptied/b" => dir(),
        "again" => dir(), "again/old" => file("old"), "kept" => dir().mode(0o700), "kept/x" => file("x"),
    });
    let receiver = Receiver::new(s, &s.root(&parent));
    let fork = s.fork(&parent);
    s.edit(&fork.tree, |root| {
        fs::remove_file(root.join("file")).unwrap();
        fs::create_dir(root.join("file")).unwrap();
        fs::write(root.join("file/below"), "new").unwrap();
        fs::remove_dir_all(root.join("dir")).unwrap();
        fs::write(root.join("dir"), "a file now").unwrap();
        fs::remove_file(root.join("link")).unwrap();
        fs::create_dir(root.join("link")).unwrap();
        fs::remove_file(root.join("emptied/a")).unwrap();
        fs::remove_dir(root.join("emptied/b")).unwrap();
        fs::remove_dir_all(root.join("again")).unwrap();
        fs::create_dir(root.join("again")).unwrap();
        fs::write(root.join("again/new"), "new").unwrap();
        fs::write(root.join("kept/y"), "y").unwrap();
    });
    assert!(receiver.fork(s, &fork) < 100);
    Ok(())
}
