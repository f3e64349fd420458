//! The service of containerd that makes trees of layers and layers of trees: blobs in a real containerd's store, trees that are held in ours.
//!
//! | file | idea |
//! |---|---|
//! | `lab` | a containerd and a server of the test's own, and their clients |
//! | `apply` | layers into trees |
//! | `compare` | trees into layers |
//! | `blobs` | what is written into containerd's store |
//! | `refusals` | what is not done, and why |
//! | `ends` | who goes away in the middle |

mod apply;
mod blobs;
mod compare;
mod ends;
mod lab;
mod refusals;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rootling::layer::{Compression, Packing, pack};
use rootling_backends::Kind;

use crate::environment::{Environment, tar_of};
use crate::grounds::on_file_systems;
use crate::host::FileSystem;
use crate::support::tree::{
    NOBODY, TreeValue, acl, block_device, char_device, dir, fifo, file, link, symlink, tree,
};
use lab::{Lab, can_run};

/// Does something with each way to make trees that a file system has.
fn everywhere(test: impl Fn(&Lab<'_>) + Sync) {
    if !can_run() {
        return;
    }
    // As tests that use the library do: it is the whole program's.
    rootling_backends::clear_umask();
    on_file_systems(|environment, sort| {
        let backends: &[Kind] = match sort {
            FileSystem::Btrfs => &[Kind::Btrfs, Kind::Overlay],
            FileSystem::Xfs => &[Kind::Reflink, Kind::Overlay],
            _ => &[Kind::Overlay, Kind::Copy],
        };
        for backend in backends {
            // A store of its own, on the same file system.
            let environment = Environment::at(environment.path("").as_path());
            test(&Lab::new(&environment, *backend));
        }
    });
}

/// Does something with one way only, where the way does not matter.
fn once(backend: Kind, test: impl Fn(&Lab<'_>) + Sync) {
    if can_run() && crate::environment::is_root() {
        let environment = Environment::new();
        test(&Lab::new(&environment, backend));
    }
}

/// Packs a tree as GNU tar does: what is called `.wh.` in it are whiteouts.
fn tar(lab: &Lab<'_>, tree: &TreeValue) -> Vec<u8> {
    let scratch = tempfile::tempdir_in(lab.environment.path("")).unwrap();
    let (root, archive) = (scratch.path().join("root"), scratch.path().join("layer.tar"));
    fs::create_dir(&root).unwrap();
    tree.make(&root);
    tar_of(
        &root,
        &archive,
        &["--format=pax", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--sort=name"],
    );
    fs::read(archive).unwrap()
}

fn packed(tar: &[u8], compression: Compression) -> Vec<u8> {
    let mut blob = Vec::new();
    let one = std::num::NonZero::<usize>::MIN;
    pack(tar, Packing::new(compression, None).unwrap(), one, &mut blob).unwrap();
    blob
}

fn odd(name: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(name))
}

fn base() -> TreeValue {
    let permits = acl(&[(1, 6, NOBODY), (2, 4, 7), (4, 4, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY)]);
    let capability = [[1, 0, 0, 2], [0, 4, 0, 0], [0; 4], [0; 4], [0; 4]].concat();
    tree! {
        "" => dir().mtime(1_500_000_000, 7),
        "becomes-dir" => file("x"),
        "becomes-file" => dir(),
        "becomes-file/below" => file("x"),
        "bin" => dir(),
        "bin/ping" => file("ping").xattr("security.capability", &capability),
        "bin/su" => file("su").mode(0o4755),
        "bin/sudo" => link("bin/su"),
        "dev" => dir(),
        "dev/disk" => block_device(7, 1).mode(0o660).owner(0, 6),
        "dev/null" => char_device(1, 3).mode(0o666),
        "dev/pipe" => fifo(),
        "etc" => dir().mode(0o2750).owner(3, 4),
        "etc/alias" => symlink("passwd"),
        "etc/passwd" => file("root").mtime(1_400_000_000, 999_999_999),
        "etc/shadow" => file("secret").mode(0o640).owner(0, 42).xattr("system.posix_acl_access", &permits),
        "gone" => dir(),
        "gone/deep" => dir(),
        "gone/deep/er" => file("x"),
        "inherits" => dir().xattr("system.posix_acl_default", &permits),
        "inherits/below" => file("not inherited"),
        "lib" => symlink("usr/lib"),
        "opaque" => dir(),
        "opaque/hidden" => file("x"),
        "opaque/kept" => file("old"),
        "usr" => dir(),
        "usr/lib" => dir(),
        "usr/lib/libc" => file(vec![7; 300_000]),
        "usr/marked" => file("x").xattr("user.mine", b"\0=\n").xattr("trusted.mine", b"yes"),
        odd(b"\xff\xfe") => file("no UTF-8"),
        odd(b"a\nline") => file("x"),
        odd(&[b'n'; 200]) => dir(),
        odd(&[&[b'n'; 200][..], b"/", &[b'm'; 200]].concat()) => file("long"),
    }
}

fn above() -> TreeValue {
    tree! {
        "" => dir().mode(0o711),
        ".wh.gone" => file(""),
        "becomes-dir" => dir(),
        "becomes-dir/now" => file("x"),
        "becomes-file" => file("now"),
        "bin" => dir(),
        "bin/su" => file("newer").mode(0o6711).owner(1, 2),
        "etc" => dir().mode(0o755),
        "etc/.wh.alias" => file(""),
        "etc/group" => file("g"),
        "etc/group-" => link("etc/group"),
        "opaque" => dir().mode(0o1777),
        "opaque/.wh..wh..opq" => file(""),
        "opaque/kept" => file("new"),
        "usr" => dir(),
        "usr/lib" => dir().owner(9, 9),
        "usr/lib/more" => fifo(),
    }
}
