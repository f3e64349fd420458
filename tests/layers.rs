//! Image layers onto what lies beneath: each is unpacked on a fork of it, and alone as an OverlayFS layer over it; both
//! must show the same tree.

#![expect(clippy::print_stderr, reason = "a test that cannot run says why; a failed one panics")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use rootling::layer::{Applied, ApplyOptions, Compression, Limits, Whiteouts, apply, unpack};
use rootling_backends::compare::diff_trees;
use rootling_backends::{
    Access, DiffOptions, Dir, Error, ErrorKind, Mount, Overlay, Result, Times, Upper, replicate,
};
use sha2::{Digest, Sha256};

use crate::layer::{Place, Tar, checksummed, field, gzip, header, is_root, options};

// ---------------------------------------------------------------- both ways

/// A lower tree, a fork of it, and an empty directory to lie over it; and a canary beside them all.
struct Stack {
    temp: tempfile::TempDir,
    lower: Dir,
    fork: Dir,
    upper: Dir,
}

impl Stack {
    fn on(lower: impl FnOnce(&Dir)) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let [below, fork, upper] = ["lower", "fork", "upper"].map(|name| {
            fs::create_dir(temp.path().join(name)).unwrap();
            Dir::open(temp.path().join(name)).unwrap()
        });
        fs::create_dir(temp.path().join("canary")).unwrap();
        fs::write(temp.path().join("canary/file"), "alive").unwrap();
        lower(&below);
        replicate::replicate(&below, &fork, &replicate::Options::default()).unwrap();
        Self { temp, lower: below, fork, upper }
    }

    fn of(tar: Tar) -> Self {
        Self::on(|lower| {
            apply(&tar.end()[..], lower, &options()).unwrap();
        })
    }

    fn flat(&self, layer: &[u8]) -> Result<Applied> {
        apply(layer, &self.fork, &ApplyOptions { whiteouts: Whiteouts::Delete, ..options() })
    }

    fn alone(&self, layer: &[u8], userxattr: bool) -> Result<Applied> {
        apply(layer, &self.upper, &ApplyOptions { whiteouts: Whiteouts::Overlay { userxattr }, ..options() })
    }

    /// Returns what the kernel shows of the layer over the lower tree. A root without an entry gets what forks give it.
    fn shown(&self, applied: &Applied, userxattr: bool) -> Dir {
        if !applied.root_is_told {
            self.upper.set_times(".", Times::of(&self.lower.stat_self().unwrap())).unwrap();
        }
        let lowers = ["upper", "lower"].map(|name| self.temp.path().join(name)).to_vec();
        Mount::Overlay(Overlay { lowers, upper: None, volatile: false, userxattr }).open_root().unwrap()
    }

    fn assert_canary(&self, what: &str) {
        assert_eq!(fs::read(self.temp.path().join("canary/file")).unwrap(), b"alive", "{what}");
        assert_eq!(fs::read_dir(self.temp.path().join("canary")).unwrap().count(), 1, "{what}");
        assert_eq!(fs::read_dir(self.temp.path()).unwrap().count(), 4, "{what}");
    }
}

/// What a tree holds, in short: `dir/`, `file=content`, `link>target`, `device!`.
fn shape(root: &Dir) -> Vec<String> {
    let mut shape = Vec::new();
    let mut directories = vec![(root.try_clone().unwrap(), String::new())];
    while let Some((dir, path)) = directories.pop() {
        for entry in dir.entries().unwrap() {
            let name = entry.name.to_str().unwrap();
            let path = format!("{path}{name}");
            match dir.stat(name).unwrap().st_mode & libc::S_IFMT {
                libc::S_IFDIR => {
                    directories.push((dir.open_dir(name).unwrap(), format!("{path}/")));
                    shape.push(format!("{path}/"));
                }
                libc::S_IFLNK => shape.push(format!("{path}>{}", dir.read_link(name).unwrap().display())),
                libc::S_IFREG => {
                    let mut text = String::new();
                    dir.open_file(name).unwrap().read_to_string(&mut text).unwrap();
                    shape.push(format!("{path}={text}"));
                }
                _ => shape.push(format!("{path}!")),
            }
        }
    }
    shape.sort();
    shape
}

fn needs_root() -> bool {
    if !is_root() {
        eprintln!("skipped: mounting overlays needs root");
    }
    !is_root()
}

/// Can a layer be unpacked alone?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alone {
    Yes,
    NeedsLower,
    DoesNotFit,
}
use Alone::{DoesNotFit, NeedsLower, Yes};

fn wh(tar: Tar, paths: &[&str]) -> Tar {
    paths.iter().fold(tar, |tar, path| tar.file(path, b""))
}

/// Lower tree, layer, what must be left, and whether the layer can be understood alone.
type Case = (&'static str, Tar, Tar, &'static [&'static str], Alone);

fn t() -> Tar {
    Tar::new()
}

fn whiteout_cases() -> Vec<Case> {
    let two = || t().dir("d").file("d/x", b"1").file("d/y", b"2");
    let deep = || two().dir("d/sub").file("d/sub/z", b"3").file("top", b"4");
    vec![
        ("a file", two(), wh(t().dir("d"), &["d/.wh.x"]), &["d/", "d/y=2"], Yes),
        ("a tree", deep(), wh(t(), &[".wh.d"]), &["top=4"], Yes),
        (
            "own, then whiteout",
            two(),
            wh(t().dir("d").file("d/x", b"n"), &["d/.wh.x"]),
            &["d/", "d/x=n", "d/y=2"],
            Yes,
        ),
        (
            "whiteout, then own",
            two(),
            wh(t().dir("d"), &["d/.wh.x"]).file("d/x", b"n"),
            &["d/", "d/x=n", "d/y=2"],
            Yes,
        ),
        (
            "whiteout, then own directory",
            deep(),
            wh(t(), &[".wh.d"]).dir("d").file("d/n", b"n"),
            &["d/", "d/n=n", "top=4"],
            Yes,
        ),
        (
            "own directory, then whiteout",
            deep(),
            wh(t().dir("d").file("d/n", b"n"), &[".wh.d"]),
            &["d/", "d/n=n", "top=4"],
            Yes,
        ),
        (
            "whiteout, then implied",
            deep(),
            wh(t(), &[".wh.d"]).file("d/sub/n", b"n"),
            &["d/", "d/sub/", "d/sub/n=n", "top=4"],
            Yes,
        ),
        (
            "implied, then whiteout",
            deep(),
            wh(t().file("d/sub/n", b"n"), &[".wh.d"]),
            &["d/", "d/sub/", "d/sub/n=n", "top=4"],
            Yes,
        ),
        (
            "opaque first",
            deep(),
            wh(t().dir("d"), &["d/.wh..wh..opq"]).file("d/n", b"n"),
            &["d/", "d/n=n", "top=4"],
            Yes,
        ),
        (
            "opaque last",
            deep(),
            wh(t().dir("d").file("d/n", b"n"), &["d/.wh..wh..opq"]),
            &["d/", "d/n=n", "top=4"],
            Yes,
        ),
        ("opaque before its directory", deep(), wh(t(), &["d/.wh..wh..opq"]).dir("d"), &["d/", "top=4"], Yes),
        (
            "opaque over what is implied",
            deep(),
            wh(t().dir("d").file("d/sub/n", b"n"), &["d/.wh..wh..opq"]),
            &["d/", "d/sub/", "d/sub/n=n", "top=4"],
            Yes,
        ),
        ("opaque without an entry", deep(), wh(t(), &["d/.wh..wh..opq"]), &["d/", "top=4"], NeedsLower),
        ("opaque root", deep(), wh(t().dir("n"), &[".wh..wh..opq"]), &["n/"], NeedsLower),
        ("opaque over and over", deep(), wh(t().dir("d"), &["d/.wh..wh..opq"; 9]), &["d/", "top=4"], Yes),
        (
            "whiteouts in an opaque directory",
            deep(),
            wh(t().dir("d"), &["d/.wh.x", "d/.wh..wh..opq", "d/.wh.no"]),
            &["d/", "top=4"],
            Yes,
        ),
        (
            "whiteouts below an opaque directory",
            deep(),
            wh(t().dir("d").dir("d/sub"), &["d/sub/.wh.z", "d/.wh..wh..opq", "d/sub/.wh..wh..opq"]),
            &["d/", "d/sub/", "top=4"],
            Yes,
        ),
        ("whiteout of nothing", two(), wh(t().dir("d"), &["d/.wh.no"]), &["d/", "d/x=1", "d/y=2"], Yes),
        ("whiteout in nothing", two(), wh(t(), &["no/.wh.x"]), &["d/", "d/x=1", "d/y=2"], NeedsLower),
        (
            "whiteout in a new directory",
            two(),
            wh(t().dir("n"), &["n/.wh.x"]),
            &["d/", "d/x=1", "d/y=2", "n/"],
            DoesNotFit,
        ),
        (
            "whiteout below a whiteout",
            deep(),
            wh(t(), &[".wh.d", "d/.wh.x", "d/sub/.wh..wh..opq"]),
            &["top=4"],
            Yes,
        ),
        (
            "whiteout below a file",
            two(),
            wh(t().file("f", b"f"), &["f/.wh.x"]),
            &["d/", "d/x=1", "d/y=2", "f=f"],
            Yes,
        ),
        ("whiteout without the parent's entry", two(), wh(t(), &["d/.wh.x"]), &["d/", "d/y=2"], NeedsLower),
        (
            "the parent's entry comes late",
            two(),
            wh(t(), &["d/.wh.x"]).file("d/n", b"n").dir("d"),
            &["d/", "d/n=n", "d/y=2"],
            Yes,
        ),
        (
            "AUFS's own",
            two(),
            wh(t().dir(".wh..wh.plnk"), &[".wh..wh.plnk/1.2", ".wh..wh.aufs", ".wh..wh.orph"]),
            &["d/", "d/x=1", "d/y=2"],
            Yes,
        ),
    ]
}

fn replacement_cases() -> Vec<Case> {
    let two = || t().dir("d").file("d/x", b"1").file("f", b"2").symlink("l", "d");
    vec![
        ("a file over a directory", two(), t().file("d", b"n"), &["d=n", "f=2", "l>d"], Yes),
        (
            "a directory over a file",
            two(),
            t().dir("f").file("f/n", b"n"),
            &["d/", "d/x=1", "f/", "f/n=n", "l>d"],
            Yes,
        ),
        (
            "a directory over a link",
            two(),
            t().dir("l").file("l/n", b"n"),
            &["d/", "d/x=1", "f=2", "l/", "l/n=n"],
            Yes,
        ),
        ("a link over a directory", two(), t().symlink("d", "x"), &["d>x", "f=2", "l>d"], Yes),
        (
            "a directory over its like",
            two(),
            t().dir("d").file("d/n", b"n"),
            &["d/", "d/n=n", "d/x=1", "f=2", "l>d"],
            Yes,
        ),
        ("a file, then a directory", two(), t().file("d", b"n").dir("d"), &["d/", "f=2", "l>d"], Yes),
        (
            "a directory, a file, a directory",
            two(),
            t().dir("d").file("d/n", b"n").file("d", b"").dir("d"),
            &["d/", "f=2", "l>d"],
            Yes,
        ),
        (
            "a link, then a directory behind it",
            two(),
            t().dir("n").symlink("d", "n").file("d/m", b"m"),
            &["d>n", "f=2", "l>d", "n/", "n/m=m"],
            Yes,
        ),
        ("a device 0:0", two(), t().block(null_device("c")), &["d/", "d/x=1", "f=2", "l>d"], Yes),
    ]
}

/// A character device that OverlayFS takes for a whiteout.
fn null_device(name: &str) -> [u8; 512] {
    let mut block = header(b'3', name.as_bytes(), b"", 0);
    field(&mut block, 329, b"0000000\0");
    field(&mut block, 337, b"0000000\0");
    checksummed(block)
}

fn link_cases() -> Vec<Case> {
    let usr = || t().dir("usr").dir("usr/lib").file("usr/lib/y", b"1").file("usr/lib/z", b"2");
    vec![
        (
            "a linked parent",
            usr().symlink("lib", "usr/lib"),
            t().file("lib/x", b"n"),
            &["lib>usr/lib", "usr/", "usr/lib/", "usr/lib/x=n", "usr/lib/y=1", "usr/lib/z=2"],
            NeedsLower,
        ),
        (
            "an absolute one",
            usr().symlink("lib", "/usr/lib"),
            t().file("lib/x", b"n"),
            &["lib>/usr/lib", "usr/", "usr/lib/", "usr/lib/x=n", "usr/lib/y=1", "usr/lib/z=2"],
            NeedsLower,
        ),
        (
            "a whiteout behind one",
            usr().symlink("lib", "usr/lib"),
            wh(t(), &["lib/.wh.y"]),
            &["lib>usr/lib", "usr/", "usr/lib/", "usr/lib/z=2"],
            NeedsLower,
        ),
        (
            "own and whiteout by two names",
            usr().symlink("lib", "/usr/lib"),
            wh(t().file("lib/y", b"n"), &["usr/lib/.wh.y"]),
            &["lib>/usr/lib", "usr/", "usr/lib/", "usr/lib/y=n", "usr/lib/z=2"],
            NeedsLower,
        ),
        (
            "an opaque marker behind one",
            usr().symlink("lib", "usr/lib"),
            wh(t().file("lib/x", b"n"), &["lib/.wh..wh..opq"]),
            &["lib>usr/lib", "usr/", "usr/lib/", "usr/lib/x=n"],
            NeedsLower,
        ),
        (
            "one of its own",
            usr(),
            wh(t().symlink("lib", "/usr/lib").dir("usr").dir("usr/lib").file("lib/x", b"n"), &["lib/.wh.y"]),
            &["lib>/usr/lib", "usr/", "usr/lib/", "usr/lib/x=n", "usr/lib/z=2"],
            Yes,
        ),
        (
            "one of its own to what is beneath",
            usr(),
            t().symlink("lib", "usr/lib").file("lib/x", b"n"),
            &["lib>usr/lib", "usr/", "usr/lib/", "usr/lib/x=n", "usr/lib/y=1", "usr/lib/z=2"],
            NeedsLower,
        ),
        (
            "a hard link to what is beneath",
            t().file("f", b"1"),
            t().link("g", "f"),
            &["f=1", "g=1"],
            NeedsLower,
        ),
        (
            "a hard link below what is beneath",
            t().dir("d").file("d/f", b"1"),
            t().link("g", "d/f"),
            &["d/", "d/f=1", "g=1"],
            NeedsLower,
        ),
        (
            "a hard link of its own",
            t().file("f", b"1"),
            t().file("f", b"2").link("g", "f"),
            &["f=2", "g=2"],
            Yes,
        ),
        (
            "a hard link over its target's other name",
            t().file("f", b"1").link("g", "f"),
            t().link("g", "f"),
            &["f=1", "g=1"],
            NeedsLower,
        ),
    ]
}

#[test]
fn layers_take_away_and_add_the_same_on_a_fork_and_alone() {
    if needs_root() {
        return;
    }
    for (name, lower, layer, expected, alone) in
        whiteout_cases().into_iter().chain(replacement_cases()).chain(link_cases())
    {
        let layer = layer.end();
        let stack = Stack::of(lower);
        stack.flat(&layer).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(shape(&stack.fork), expected, "{name}");
        let told = stack.alone(&layer, true);
        match alone {
            NeedsLower => assert_eq!(told.unwrap_err().kind(), ErrorKind::NeedsLower, "{name}"),
            DoesNotFit => assert!(!told.unwrap().fits(&stack.upper, &stack.lower).unwrap(), "{name}"),
            Yes => {
                let applied = told.unwrap_or_else(|error| panic!("{name}: {error:?}"));
                assert!(applied.fits(&stack.upper, &stack.lower).unwrap(), "{name}");
                let shown = stack.shown(&applied, true);
                assert_eq!(shape(&shown), expected, "{name}, alone");
                let found = diff_trees(&stack.fork, &shown, DiffOptions { times: true }).unwrap();
                assert_eq!(found, [], "{name}");
            }
        }
    }
}

/// OverlayFS lists whiteouts that lie where nothing is merged.
#[test]
fn whiteouts_are_written_only_where_something_is_merged() {
    if needs_root() {
        return;
    }
    let stack = Stack::of(t().dir("d").file("d/x", b"1"));
    let layer = wh(t().dir("d"), &["d/.wh.x", "d/.wh..wh..opq", "d/.wh.y"]).end();
    let applied = stack.alone(&layer, false).unwrap();
    assert_eq!(shape(&stack.upper), ["d/"]);
    assert_eq!(stack.upper.xattrs("d").unwrap(), [("trusted.overlay.opaque".into(), b"y".to_vec())]);
    assert_eq!((applied.whiteouts, applied.whiteout_directories.len(), applied.entries), (3, 0, 1));
}

#[test]
fn the_root_s_own_entry_counts_and_without_one_the_roots_must_look_alike() {
    let stack = Stack::of(t().file("f", b"1"));
    let applied = stack.alone(&t().dir("./").end(), true).unwrap();
    assert!(applied.root_is_told && applied.fits(&stack.upper, &stack.lower).unwrap());
    assert_eq!(stack.upper.stat_self().unwrap().st_mode & 0o7777, 0o750);
    let stack = Stack::of(t().dir("./"));
    let applied = stack.alone(&t().file("f", b"1").end(), true).unwrap();
    assert!(!applied.root_is_told && !applied.fits(&stack.upper, &stack.lower).unwrap());
}

// ---------------------------------------------------------------- attributes

#[test]
fn directories_keep_what_no_entry_changes_and_get_what_one_says() {
    let acl = {
        let entry = |tag: u16, bits: u16, id: u32| {
            [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat()
        };
        let entries = [
            entry(1, 7, u32::MAX),
            entry(2, 7, 1234),
            entry(4, 5, u32::MAX),
            entry(16, 7, u32::MAX),
            entry(32, 0, u32::MAX),
        ];
        [&2_u32.to_le_bytes()[..], &entries.concat()].concat()
    };
    let lower = || {
        let attributes =
            [("SCHILY.xattr.user.old", &b"1"[..]), ("SCHILY.xattr.system.posix_acl_default", &acl[..])];
        t().pax(&attributes)
            .dir("kept")
            .file("kept/old", b"")
            .pax(&attributes)
            .dir("told")
            .file("told/old", b"")
    };
    let stack = Stack::of(lower());
    let layer = wh(t().file("kept/new", b"n").dir("told"), &["told/.wh.old"]).file("told/new", b"n").end();
    stack.flat(&layer).unwrap();
    let meta = |path: &str| fs::metadata(stack.fork.path().join(path)).unwrap();
    for path in ["kept", "told"] {
        assert_eq!((meta(path).mtime(), meta(path).mtime_nsec()), (1000, 0), "{path}");
        assert_eq!(meta(path).mode() & 0o7777, 0o750, "{path}");
    }
    let names = |path: &str| -> Vec<String> {
        stack.fork.xattrs(path).unwrap().into_iter().map(|(name, _)| name.into_string().unwrap()).collect()
    };
    assert_eq!(names("kept"), ["system.posix_acl_default", "user.old"]);
    assert_eq!(names("told"), Vec::<String>::new());
    for path in ["kept/new", "told/new"] {
        let dir = stack.fork.open_dir(path.split('/').next().unwrap()).unwrap();
        assert_eq!(dir.xattrs("new").unwrap(), [], "{path} inherits nothing");
        assert_eq!(meta(path).mode() & 0o7777, 0o750, "{path}");
    }
}

#[test]
fn labels_are_told_of_once_and_overlay_s_own_attributes_are_never_taken() {
    for whiteouts in [Whiteouts::Delete, Whiteouts::Overlay { userxattr: true }] {
        let place = Place::new();
        let label: (&str, &[u8]) = ("SCHILY.xattr.security.selinux", b"x");
        let layer = t()
            .pax(&[label, ("SCHILY.xattr.user.kept", b"1")])
            .dir("d")
            .pax(&[label])
            .file("d/f", b"")
            .pax(&[
                ("SCHILY.xattr.user.overlay.opaque", b"y"),
                ("SCHILY.xattr.trusted.overlay.overlay.opaque", b"y"),
            ])
            .dir("e")
            .pax(&[("LIBARCHIVE.xattr.user.overlay.whiteout", b"")])
            .file("e/f", b"")
            .end();
        let applied = apply(&layer[..], &place.root, &ApplyOptions { whiteouts, ..options() }).unwrap();
        assert_eq!(applied.skipped_count, 4, "{applied:?}");
        assert_eq!(applied.skipped.iter().filter(|skipped| skipped.reason.contains("selinux")).count(), 1);
        assert_eq!(place.root.xattrs("d").unwrap(), [("user.kept".into(), b"1".to_vec())]);
        assert_eq!(place.root.xattrs("e").unwrap(), []);
    }
}

#[test]
fn capabilities_of_both_versions_are_kept() {
    if needs_root() {
        return;
    }
    let two =
        [&0x0200_0001_u32.to_le_bytes()[..], &[0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
    let three = [&0x0300_0001_u32.to_le_bytes()[..], &two[4..], &1000_u32.to_le_bytes()].concat();
    let key = "SCHILY.xattr.security.capability";
    let layer = t().pax(&[(key, &two)]).file("two", b"").pax(&[(key, &three)]).file("three", b"").end();
    let stack = Stack::of(t());
    for (dir, applied) in [(&stack.fork, stack.flat(&layer)), (&stack.upper, stack.alone(&layer, true))] {
        assert_eq!(applied.unwrap().skipped, []);
        for (name, value) in [("two", &two), ("three", &three)] {
            assert_eq!(dir.xattrs(name).unwrap(), [("security.capability".into(), value.clone())], "{name}");
        }
    }
}

// ---------------------------------------------------------------- hostile layers

#[test]
fn hostile_layers_touch_nothing_outside() {
    let lower = || {
        t().symlink("up", "../../canary")
            .symlink("root", "/")
            .symlink("far", "/../../../canary")
            .file("f", b"")
    };
    let refused: Vec<(&str, Tar, &str)> = vec![
        ("whiteout of no name", wh(t(), &["d/.wh."]), "no name"),
        ("whiteout of the directory", wh(t(), &["d/.wh.."]), "no name"),
        ("whiteout of the parent", wh(t(), &["d/.wh..."]), "no name"),
        ("a whiteout's inside", wh(t(), &[".wh.d/x"]), ".wh."),
        ("dotdot", wh(t(), &["../canary/.wh.file"]), "\"..\""),
        ("absolute", wh(t(), &["/canary/.wh..wh..opq"]), "absolute"),
    ];
    for (name, layer, expected) in refused {
        let (stack, layer) = (Stack::of(lower()), layer.end());
        for told in [stack.flat(&layer), stack.alone(&layer, true)] {
            let error = told.expect_err(name);
            assert!(format!("{error:?}").contains(expected), "{name}: {error:?}");
            assert_ne!(error.kind(), ErrorKind::NeedsLower, "{name}");
        }
        stack.assert_canary(name);
    }
    for path in [
        "up/.wh.file",
        "up/.wh..wh..opq",
        "far/.wh.file",
        "root/.wh..wh..opq",
        "root/.wh.f",
        ".wh.up",
        ".wh.root",
    ] {
        let (stack, layer) = (Stack::of(lower()), wh(t(), &[path]).end());
        stack.flat(&layer).unwrap();
        drop(stack.alone(&layer, true));
        stack.assert_canary(path);
    }
    let stack = Stack::of(lower());
    stack.flat(&wh(t(), &["root/.wh..wh..opq"]).end()).unwrap();
    assert_eq!(shape(&stack.fork), Vec::<String>::new(), "the link leads to the tree's own root");
}

/// Each of the markers would list all that is there.
#[test]
fn many_markers_over_many_entries_are_cheap() {
    let mut layer = t().dir("d");
    for number in 0..20_000 {
        layer = layer.file(&format!("d/{number}"), b"");
        layer = wh(layer, &["d/.wh..wh..opq", ".wh.d", ".wh..wh..opq"]);
    }
    let (stack, layer) = (Stack::of(t().dir("d").file("d/x", b"1")), layer.end());
    let start = std::time::Instant::now();
    stack.flat(&layer).unwrap();
    assert_eq!(fs::read_dir(stack.fork.path().join("d")).unwrap().count(), 20_000);
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}

// ---------------------------------------------------------------- any layer on any tree

#[derive(Debug, Clone)]
enum Op {
    Dir(u32),
    File(u32),
    Symlink(String),
    HardLink(String),
    Whiteout,
    Opaque,
}

fn paths() -> impl Strategy<Value = String> {
    prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("c")], 1..4)
        .prop_map(|parts| parts.join("/"))
}

fn ops(with_whiteouts: bool) -> impl Strategy<Value = Vec<(String, Op)>> {
    let weight = if with_whiteouts { 3 } else { 0 };
    let targets = (prop_oneof![Just(""), Just("/"), Just("../")], paths())
        .prop_map(|(prefix, path)| format!("{prefix}{path}"));
    let op = prop_oneof![
        5 => (0_u32..0o10000).prop_map(Op::Dir),
        5 => (0_u32..1000).prop_map(Op::File),
        1 => targets.prop_map(Op::Symlink),
        1 => paths().prop_map(Op::HardLink),
        weight => Just(Op::Whiteout),
        weight => Just(Op::Opaque),
    ];
    prop::collection::vec((paths(), op), 0..12)
}

/// Writes one change; `number` makes its time and attributes its own.
fn write_op(tar: Tar, path: &str, op: &Op, number: usize) -> Tar {
    let (parent, name) = path.rsplit_once('/').map_or(("", path), |(parent, name)| (parent, name));
    let beside = |name: &str| if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") };
    let time = format!("{}.{:09}", 1_000_000 + number, number * 7);
    let value = number.to_string();
    let attributes: Vec<(&str, &[u8])> = match number % 3 {
        0 => vec![("mtime", time.as_bytes()), ("SCHILY.xattr.user.n", value.as_bytes())],
        _ => vec![("mtime", time.as_bytes())],
    };
    let with_mode = |kind: u8, mode: u32, size: usize| {
        let mut block = header(kind, path.as_bytes(), b"", size as u64);
        field(&mut block, 100, format!("{mode:07o}\0").as_bytes());
        checksummed(block)
    };
    match op {
        Op::Dir(mode) => tar.pax(&attributes).block(with_mode(b'5', *mode, 0)),
        Op::File(seed) => {
            let data = seed.to_string();
            tar.pax(&attributes).block(with_mode(b'0', 0o600 | seed & 0o77, data.len())).data(data.as_bytes())
        }
        Op::Symlink(target) => tar.pax(&attributes[..1]).symlink(path, target),
        Op::HardLink(target) => tar.link(path, target),
        Op::Whiteout => tar.file(&beside(&format!(".wh.{name}")), b""),
        Op::Opaque => tar.file(&format!("{path}/.wh..wh..opq"), b""),
    }
}

/// Writes a layer; with parents, each has an entry before what is in it, as most writers do.
fn write_layer(ops: &[(String, Op)], with_parents: bool) -> Vec<u8> {
    let mut tar = Tar::new();
    let mut told = BTreeSet::new();
    for (number, (path, op)) in ops.iter().enumerate() {
        let ends: Vec<_> = path.match_indices('/').map(|(end, _)| end).collect();
        for end in ends.into_iter().filter(|_| with_parents) {
            if told.insert(&path[..end]) {
                tar = write_op(tar, &path[..end], &Op::Dir(0o755), number + 100);
            }
        }
        tar = write_op(tar, path, op, number);
    }
    tar.end()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 128, ..ProptestConfig::default() })]

    /// What the kernel shows of a layer over a tree is what the layer makes of a fork of that tree: type, content, mode,
    /// owner, attributes, links, times of every entry. What one way refuses the other does not take.
    #[test]
    fn a_layer_alone_is_what_it_is_on_a_fork(
        beneath in ops(false),
        layer in ops(true),
        with_parents in prop::bool::weighted(0.8),
        userxattr in any::<bool>(),
    ) {
        if needs_root() {
            return Ok(());
        }
        let stack = Stack::on(|lower| {
            for (number, (path, op)) in beneath.iter().enumerate() {
                // What cannot be is left out.
                drop(apply(&write_op(Tar::new(), path, op, number + 1000).end()[..], lower, &options()));
            }
        });
        let layer = write_layer(&layer, with_parents);
        let (flat, alone) = (stack.flat(&layer), stack.alone(&layer, userxattr));
        match (&flat, &alone) {
            (Ok(_), Ok(applied)) if applied.fits(&stack.upper, &stack.lower).unwrap() => {
                let shown = stack.shown(applied, userxattr);
                let found = diff_trees(&stack.fork, &shown, DiffOptions { times: true }).unwrap();
                prop_assert!(found.is_empty(), "{found:#?}\n{:?}\n{:?}", shape(&stack.fork), shape(&shown));
            }
            (_, Ok(applied)) if !applied.fits(&stack.upper, &stack.lower).unwrap() => {}
            (Err(_), Err(_)) => {}
            (_, Err(error)) if error.kind() == ErrorKind::NeedsLower => {}
            _ => prop_assert!(false, "{flat:?}\n{alone:?}"),
        }
        stack.assert_canary("any layer");
    }
}

// ---------------------------------------------------------------- the pipeline

fn sum(bytes: &[u8]) -> ([u8; 32], u64) {
    (Sha256::digest(bytes).into(), bytes.len() as u64)
}

/// Files of many sizes, up to several of the pipe's buffers.
fn large_layer() -> Tar {
    let mut tar = t().dir("d");
    for (number, size) in [0_usize, 1, 511, 4096, 100_000, 1 << 20, 5_000_000].into_iter().enumerate() {
        let data: Vec<u8> = (0..size).map(|at| (at * 31 / 7 + number) as u8).collect();
        tar = tar.file(&format!("d/{number}"), &data);
    }
    tar
}

#[test]
fn the_pipeline_unpacks_hashes_and_copies_in_one_pass() {
    let mut tar = large_layer().end();
    tar.extend_from_slice(&[0; 20_000]);
    tar.extend_from_slice(b"and more behind the end");
    let zstd = zstd::encode_all(&tar[..], 1).unwrap();
    for (compression, blob) in
        [(Compression::None, tar.clone()), (Compression::Gzip, gzip(&tar)), (Compression::Zstd, zstd)]
    {
        let place = Place::new();
        let mut copy = Vec::new();
        let mut told = 0;
        let options = ApplyOptions { whiteouts: Whiteouts::Delete, ..options() };
        let done = unpack(&blob[..], &mut copy, &place.root, &options, &mut |_| told += 1).unwrap();
        assert_eq!(done.compression, compression);
        assert_eq!((done.blob.sha256, done.blob.bytes), sum(&blob), "{compression}");
        assert_eq!((done.tar.sha256, done.tar.bytes), sum(&tar), "{compression}");
        assert!(copy == blob, "{compression}");
        let applied = done.tree.unwrap();
        assert_eq!((applied.entries, told, applied.archive_bytes), (8, 8, tar.len() as u64));
        assert_eq!(fs::metadata(place.at("d/6")).unwrap().len(), 5_000_000);
    }
}

/// The blob is whole all the same: it need not be fetched again to be unpacked on a fork.
#[test]
fn a_layer_that_is_none_alone_is_still_hashed_and_copied() {
    let tar = Tar(t().link("first", "nowhere").0.into_iter().chain(large_layer().0).collect()).end();
    let (place, blob, mut copy) = (Place::new(), gzip(&tar), Vec::new());
    let options = ApplyOptions { whiteouts: Whiteouts::Overlay { userxattr: true }, ..options() };
    let done = unpack(&blob[..], &mut copy, &place.root, &options, &mut |_| {}).unwrap();
    assert_eq!(done.tree.unwrap_err().kind(), ErrorKind::NeedsLower);
    assert_eq!((done.tar.sha256, done.tar.bytes), sum(&tar));
    assert!(copy == blob);
}

/// Fails, or panics, after some bytes.
struct Failing<'a>(&'a [u8], Option<&'static str>);

impl Read for Failing<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            return Err(io::Error::other(self.1.expect("it panics")));
        }
        self.0.read(into)
    }
}

/// Takes so many bytes and no more.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(data.len()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOSPC))?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn failure(blob: impl Read + Send, copy: &mut (dyn Write + Send), limits: Limits) -> Error {
    let options = ApplyOptions { limits, ..options() };
    unpack(blob, copy, &Place::new().root, &options, &mut |_| {}).unwrap_err()
}

#[test]
fn the_first_cause_of_a_failure_is_told_whichever_thread_has_it() {
    let tar = large_layer().end();
    let blob = gzip(&tar);
    let told = |error: Error| format!("{error:?}");
    let none = &mut io::sink();
    let cut =
        told(failure(Failing(&blob[..blob.len() / 2], Some("the line is dead")), none, Limits::default()));
    assert!(cut.contains("read layer") && cut.contains("the line is dead"), "{cut}");
    let short = told(failure(&blob[..blob.len() / 2], none, Limits::default()));
    assert!(short.contains("unpack gzip"), "{short}");
    let mut damaged = blob.clone();
    damaged[blob.len() / 2] ^= 0xff;
    let damaged = told(failure(&damaged[..], none, Limits::default()));
    assert!(damaged.contains("unpack gzip"), "{damaged}");
    let full = failure(&blob[..], &mut Full(10), Limits::default());
    assert_eq!(full.kind(), ErrorKind::NoSpace, "{full:?}");
    let bad = t().file("good", b"").link("bad", "nowhere").0.into_iter().chain(large_layer().0).collect();
    let bad = told(failure(&Tar(bad).end()[..], none, Limits::default()));
    assert!(bad.contains("unpack member \"bad\""), "{bad}");
    let bomb = gzip(&vec![0; 64 << 20]);
    let bomb = told(failure(&bomb[..], none, Limits { archive_bytes: 1 << 20, ..Limits::default() }));
    assert!(bomb.contains("longer than 1048576 bytes"), "{bomb}");
    for limits in [Limits { members: 3, ..Limits::default() }, Limits { bytes: 1000, ..Limits::default() }] {
        failure(&blob[..], none, limits);
    }
    let result = std::panic::catch_unwind(|| {
        failure(Failing(&blob[..blob.len() / 2], None), &mut io::sink(), Limits::default())
    });
    let payload = result.unwrap_err();
    assert_eq!(payload.downcast_ref::<String>().map(String::as_str), Some("it panics"));
}

/// The lower tree of a fork in a store is an overlay: links there lead through a mount of no place.
#[test]
fn a_layer_goes_onto_a_mounted_fork() {
    if needs_root() {
        return;
    }
    let stack = Stack::of(t().dir("usr").dir("usr/lib").file("usr/lib/y", b"1").symlink("lib", "/usr/lib"));
    let at = |name: &str| stack.temp.path().join(name);
    for name in ["work", "top"] {
        fs::create_dir(at(name)).unwrap();
    }
    let root = stack.lower.stat_self().unwrap();
    Dir::open(at("top")).unwrap().set_mode_following_symlinks(".", root.st_mode & 0o7777).unwrap();
    Dir::open(at("top")).unwrap().set_times(".", Times::of(&root)).unwrap();
    let upper = Upper { dir: at("top"), work: at("work") };
    let overlay =
        Overlay { lowers: vec![at("lower")], upper: Some(upper), volatile: false, userxattr: false };
    let fork = Mount::Overlay(overlay).open_root_for(Access::ReadWrite).unwrap();
    let layer = wh(t().file("lib/x", b"2").link("lib/z", "lib/y"), &["lib/.wh.y", "usr/lib/.wh.x"]).end();
    apply(&layer[..], &fork, &ApplyOptions { whiteouts: Whiteouts::Delete, ..options() }).unwrap();
    stack.flat(&layer).unwrap();
    assert_eq!(shape(&fork), ["lib>/usr/lib", "usr/", "usr/lib/", "usr/lib/x=2", "usr/lib/z=1"]);
    assert_eq!(diff_trees(&stack.fork, &fork, DiffOptions { times: true }).unwrap(), []);
}

// ---------------------------------------------------------------- against umoci

/// Writes an image of layers as umoci reads it.
fn write_layout(dir: &Path, layers: &[Vec<u8>]) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let blob = |bytes: &[u8], media: &str| {
        let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(blobs.join(&hex), bytes).unwrap();
        let media = format!("application/vnd.oci.image.{media}");
        serde_json::json!({ "mediaType": media, "digest": format!("sha256:{hex}"), "size": bytes.len() })
    };
    let layers: Vec<_> = layers.iter().map(|tar| blob(tar, "layer.v1.tar")).collect();
    let ids: Vec<_> = layers.iter().map(|layer| layer["digest"].clone()).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {}, "rootfs": { "type": "layers", "diff_ids": ids },
    });
    let config = blob(config.to_string().as_bytes(), "config.v1+json");
    let manifest = serde_json::json!({ "schemaVersion": 2, "config": config, "layers": layers });
    let mut manifest = blob(manifest.to_string().as_bytes(), "manifest.v1+json");
    manifest["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": "x" });
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// What umoci does otherwise: it keeps AUFS's directory, and makes the device that OverlayFS would take for a whiteout.
const UMOCI_DIFFERS: &[&str] = &["AUFS's own", "a device 0:0"];

#[test]
fn layers_come_out_as_with_umoci() {
    if needs_root() {
        return;
    }
    if Command::new("umoci").arg("--version").output().is_err() {
        eprintln!("skipped: umoci is not installed");
        return;
    }
    let mut differences = Vec::new();
    for (name, lower, layer, expected, _) in
        whiteout_cases().into_iter().chain(replacement_cases()).chain(link_cases())
    {
        let temp = tempfile::tempdir().unwrap();
        write_layout(&temp.path().join("image"), &[lower.end(), layer.end()]);
        let mut umoci = Command::new("umoci");
        umoci.args(["raw", "unpack", "--image", "image:x", "out"]).current_dir(temp.path());
        let output = umoci.output().unwrap();
        let theirs = match output.status.success() {
            true => shape(&Dir::open(temp.path().join("out")).unwrap()),
            false => vec![String::from_utf8_lossy(&output.stderr).into_owned()],
        };
        if theirs != expected && !UMOCI_DIFFERS.contains(&name) {
            differences.push(format!("{name}: {theirs:?} instead of {expected:?}"));
        }
    }
    assert!(differences.is_empty(), "{differences:#?}");
}
