//! What a copy of a tree has to keep. Each case shows one property through every way that a tree is copied.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rootling_backends::Tree;

use crate::cases::{Case, case};
use crate::setup::Setup;
use crate::support::require::Outcome;
use crate::support::tree::{
    NOBODY, TreeValue, acl, block_device, char_device, dir, fifo, file, link, socket, sparse, symlink, tree,
};

pub(crate) const CASES: &[Case] = &[
    case!(keeps_hard_links),
    case!(keeps_holes),
    case!(keeps_xattrs),
    case!(keeps_acls),
    case!(keeps_capabilities),
    case!(keeps_setuid_setgid_sticky_and_owners),
    case!(keeps_devices_pipes_and_sockets),
    case!(keeps_times),
    case!(keeps_odd_names),
    case!(keeps_paths_longer_than_path_max),
    case!(keeps_sizes),
    case!(keeps_what_nobody_may_read),
    case!(keeps_symlinks),
    case!(keeps_a_large_directory),
    case!(keeps_the_root_attributes),
];

/// Sends a tree down every road: fork of a full tree, written into a fork, snapshotted with and without parent, forked again.
#[track_caller]
fn assert_kept(s: &Setup, value: &TreeValue) -> Outcome {
    let tree = s.create(value);
    s.assert_view(&tree, value, "created");
    let slot = s.slot();
    s.backend.snapshot(&tree, None, &slot).unwrap();
    s.assert_view(&Tree::full(slot), value, "snapshot without a parent");
    s.backend.seal(&tree).unwrap();
    let fork = s.fork(&tree);
    s.assert_view(&fork.tree, value, "fork");
    s.assert_changes(&fork, &[]);
    s.assert_view(&s.snapshot(&fork).0, value, "snapshot of an unchanged fork");

    let written = s.fork(&s.parent(&TreeValue::empty()));
    s.edit(&written.tree, |root| value.make(root));
    s.assert_view(&written.tree, value, "written into a fork");
    let (snapshot, _) = s.snapshot(&written);
    s.assert_view(&snapshot, value, "snapshot of a fork");
    s.assert_view(&s.fork(&snapshot).tree, value, "fork of a snapshot");
    s.assert_changes_exact(&written);

    for other in &s.all {
        let other = s.with(other);
        let fork = other.fork(&snapshot);
        other.assert_view(&fork.tree, value, &format!("fork by {}", other.backend.kind()));
    }
    Ok(())
}

fn keeps_hard_links(s: &Setup) -> Outcome {
    assert_kept(
        s,
        &tree! {
            "a" => file("shared"), "b" => link("a"), "d" => dir(), "d/c" => link("a"),
            "l" => symlink("a"), "m" => link("l"), "p" => fifo(), "q" => link("p"), "e" => file(""), "f" => link("e"),
        },
    )
}

fn keeps_holes(s: &Setup) -> Outcome {
    let mib = 1024 * 1024;
    assert_kept(
        s,
        &tree! {
            "middle" => sparse(10 * mib, &[(5 * mib, b"data")]),
            "start-and-end" => sparse(8 * mib, &[(0, b"start"), (8 * mib - 3, b"end")]),
            "nothing" => sparse(4 * mib, &[]),
            "odd-size" => sparse(3 * mib + 17, &[(mib, b"x")]),
        },
    )
}

fn keeps_xattrs(s: &Setup) -> Outcome {
    assert_kept(
        s,
        &tree! {
            "f" => file("f").xattr("user.one", b"1").xattr("user.empty", b"").xattr("trusted.t", &[0, 255, 10]),
            "large" => file("").xattr("user.large", &[7; 1500]),
            "d" => dir().xattr("user.dir", b"d").xattr("trusted.dir", b"t"),
            "d/l" => symlink("/nowhere").xattr("trusted.link", b"l"),
            "p" => fifo().xattr("trusted.pipe", b"p"),
            "c" => char_device(1, 3).xattr("trusted.device", b"c"),
        },
    )
}

fn keeps_acls(s: &Setup) -> Outcome {
    // rwx for the owner, r-x for user 1000, mask r-x, nothing for others.
    let access = acl(&[(1, 7, NOBODY), (2, 5, 1000), (4, 0, NOBODY), (0x10, 5, NOBODY), (0x20, 0, NOBODY)]);
    let default = acl(&[(1, 7, NOBODY), (2, 7, 1001), (4, 5, NOBODY), (0x10, 7, NOBODY), (0x20, 5, NOBODY)]);
    let value = tree! {
        "f" => file("f").mode(0o750).xattr("system.posix_acl_access", &access),
        "d" => dir().mode(0o750).xattr("system.posix_acl_access", &access).xattr("system.posix_acl_default", &default),
        // Made in a directory with a default ACL, these have none of their own.
        "d/plain" => file("").mode(0o640),
        "d/sub" => dir().mode(0o700),
    };
    assert_kept(s, &value)
}

fn keeps_capabilities(s: &Setup) -> Outcome {
    // VFS_CAP_REVISION_2 with the effective bit: CAP_NET_BIND_SERVICE permitted (linux/capability.h).
    let mut capability = 0x0200_0001_u32.to_le_bytes().to_vec();
    for word in [1_u32 << 10, 0, 0, 0] {
        capability.extend_from_slice(&word.to_le_bytes());
    }
    assert_kept(
        s,
        &tree! { "ping" => file("elf").mode(0o755).owner(0, 5).xattr("security.capability", &capability) },
    )
}

fn keeps_setuid_setgid_sticky_and_owners(s: &Setup) -> Outcome {
    assert_kept(
        s,
        &tree! {
            "su" => file("su").mode(0o4755).owner(1000, 100),
            "wall" => file("wall").mode(0o2755).owner(0, 5),
            "both" => file("both").mode(0o6711).owner(3, 4),
            "tmp" => dir().mode(0o1777),
            "group" => dir().mode(0o2775).owner(0, 50),
            "group/inside" => file("").mode(0o600).owner(0, 0),
            "far" => file("").owner(0x7fff_ffff, 4_000_000_000),
            "l" => symlink("su").owner(12, 13),
            "pipe" => fifo().owner(1, 2).mode(0o4600),
        },
    )
}

fn keeps_devices_pipes_and_sockets(s: &Setup) -> Outcome {
    assert_kept(
        s,
        &tree! {
            "dev" => dir(), "dev/null" => char_device(1, 3).mode(0o666), "dev/loop" => block_device(7, 200),
            "dev/far" => char_device(300, 70_000).owner(0, 6), "dev/pipe" => fifo().mode(0o600), "dev/log" => socket().mode(0o666),
        },
    )
}

fn keeps_times(s: &Setup) -> Outcome {
    assert_kept(
        s,
        &tree! {
            "" => dir().mtime(1_111_111_111, 1),
            "ns" => file("x").mtime(1_700_000_000, 999_999_999),
            "before" => file("x").mtime(-86_400 * 365, 250_000_000),
            "far" => file("x").mtime(4_500_000_000, 5),
            "epoch" => dir().mtime(0, 0), "epoch/f" => file("").mtime(1, 1), "epoch/d" => dir().mtime(-5, 7),
            "epoch/d/f" => file("").mtime(2, 2),
            "l" => symlink("x").mtime(12, 34), "p" => fifo().mtime(-1, 999_999_999), "s" => sparse(1 << 20, &[]).mtime(5, 5),
        },
    )
}

fn keeps_odd_names(s: &Setup) -> Outcome {
    let long = "n".repeat(255);
    let bytes = |bytes: &[u8]| PathBuf::from(OsString::from_vec(bytes.to_vec()));
    let mut value = tree! {
        "new\nline" => file("1"), " lead" => file("2"), "trail " => file("3"), "-rf" => file("4"), ".wh.x" => file("5"),
        ".wh..wh..opq" => file("6"), "tab\t" => file("7"), "back\\slash" => file("8"), "quote\"'" => file("9"),
        "colon:comma," => dir(), "colon:comma,/x" => file("10"), "*?[" => file("11"), "..." => file("12"), "é" => file("13"),
        "#" => symlink("%"), "work" => dir(), "fs" => file("14"), "dirs" => file("15"),
    };
    value.insert(&long, dir());
    value.insert(PathBuf::from(&long).join(&long), file("long"));
    value.insert(bytes(b"\xff\xfe"), file("not UTF-8"));
    value.insert(bytes(b"\x01\x1b[31m"), file("control"));
    assert_kept(s, &value)
}

fn keeps_paths_longer_than_path_max(s: &Setup) -> Outcome {
    let mut value = TreeValue::empty();
    let mut path = PathBuf::new();
    for level in 0..24 {
        path.push(format!("{level}-{}", "d".repeat(200)));
        value.insert(&path, dir().mode(0o751));
    }
    assert!(path.as_os_str().len() > 4096);
    value.insert(path.join("leaf"), file("deep").xattr("user.deep", b"yes"));
    value.insert(path.join("link"), symlink("leaf"));
    assert_kept(s, &value)
}

fn keeps_sizes(s: &Setup) -> Outcome {
    let large: Vec<u8> =
        (0..5_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8 | 1).collect();
    assert_kept(
        s,
        &tree! {
            "empty" => file(""), "one" => file("1"), "page" => file([1; 4096]), "page+1" => file([2; 4097]),
            "inline" => file([3; 2000]), "large" => file(large),
        },
    )
}

fn keeps_what_nobody_may_read(s: &Setup) -> Outcome {
    assert_kept(
        s,
        &tree! {
            "shut" => dir().mode(0), "shut/f" => file("secret").mode(0).owner(1000, 1000), "shut/d" => dir().mode(0o100),
            "shut/d/x" => symlink("."),
        },
    )
}

fn keeps_symlinks(s: &Setup) -> Outcome {
    assert_kept(
        s,
        &tree! {
            "loop" => symlink("loop"), "ping" => symlink("pong"), "pong" => symlink("ping"), "dangling" => symlink("no/where"),
            "absolute" => symlink("/etc/passwd"), "up" => symlink("../../../.."), "d" => dir(), "to-dir" => symlink("d"),
            "long" => symlink("t".repeat(1000)), "space" => symlink(" a\nb "),
        },
    )
}

fn keeps_a_large_directory(s: &Setup) -> Outcome {
    let mut value = tree! { "many" => dir() };
    for number in 0..1500 {
        value.insert(
            format!("many/a-rather-long-file-name-{number}"),
            file(if number % 7 == 0 { "x" } else { "" }),
        );
    }
    assert_kept(s, &value)
}

fn keeps_the_root_attributes(s: &Setup) -> Outcome {
    let root =
        dir().mode(0o1750).owner(5, 6).mtime(77, 88).xattr("user.root", b"r").xattr("trusted.root", b"t");
    let value = tree! { "" => root, "x" => file("x") };
    assert_kept(s, &value)?;
    let fork = s.fork(&s.parent(&value));
    s.edit(&fork.tree, |root| {
        fs::set_permissions(root, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap()
    });
    s.assert_changes(&fork, &[r#"C "" Directory mode"#]);
    Ok(())
}
