//! Removing trees, whatever is in them.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rootling_backends::sys::{FS_APPEND_FL, FS_IMMUTABLE_FL, inode_flags, set_inode_flags};

use crate::cases::{Case, case};
use crate::setup::Setup;
use crate::support::host::{FileSystem, command};
use crate::support::require::{Outcome, Skip};
use crate::support::tree::{TreeValue, char_device, dir, fifo, file, symlink, tree};

pub(crate) const CASES: &[Case] = &[
    case!(reap_removes_forks_parents_and_snapshots),
    case!(reap_removes_immutable_and_append_only_files),
    case!(fork_of_a_tree_with_immutable_files),
    case!(reap_removes_half_made_slots),
    case!(reap_removes_unreadable_and_deep_directories),
    case!(reap_removes_a_remade_overlay_work_directory),
    case!(reap_refuses_another_file_system),
    case!(reap_does_not_follow_symlinks),
];

fn assert_reaped(s: &Setup, slot: &Path) {
    s.backend.reap(slot).unwrap();
    assert!(slot.symlink_metadata().is_err(), "{slot:?} is still there");
    let again = s.backend.reap(slot).unwrap();
    assert_eq!((again.entries, again.subvolumes), (0, 0), "a second call finds nothing");
}

fn some_tree() -> TreeValue {
    tree! {
        "d" => dir(), "d/f" => file("f"), "d/e" => dir(), "d/e/l" => symlink("x"), "p" => fifo(), "c" => char_device(1, 3),
    }
}

fn reap_removes_forks_parents_and_snapshots(s: &Setup) -> Outcome {
    let parent = s.parent(&some_tree());
    let fork = s.fork(&parent);
    s.edit(&fork.tree, |root| {
        fs::remove_dir_all(root.join("d")).unwrap();
        fs::create_dir(root.join("d")).unwrap();
    });
    let (snapshot, _) = s.snapshot(&fork);
    let survivor = s.parent(&some_tree());
    for slot in [&snapshot.slot, &fork.tree.slot, &parent.slot] {
        assert_reaped(s, slot);
    }
    s.assert_view(&survivor, &some_tree(), "a tree beside");
    Ok(())
}

/// Sets an inode flag, or says why this file system cannot.
pub(crate) fn set_flag(path: &Path, flag: i32) -> Result<(), Skip> {
    let file = File::open(path).unwrap();
    let flags =
        inode_flags(file.as_fd()).map_err(|errno| Skip::because(format!("no inode flags here: {errno}")))?;
    set_inode_flags(file.as_fd(), flags | flag)
        .map_err(|errno| Skip::because(format!("no immutable or append-only files here: {errno}")))
}

/// Clears all inode flags.
pub(crate) fn clear_flags(path: &Path) {
    set_inode_flags(File::open(path).unwrap().as_fd(), 0).unwrap();
}

fn reap_removes_immutable_and_append_only_files(s: &Setup) -> Outcome {
    let parent = s.parent(&some_tree());
    let fork = s.fork(&parent);
    s.edit(&fork.tree, |root| {
        fs::write(root.join("fixed"), "x").unwrap();
        fs::write(root.join("log"), "x").unwrap();
        fs::create_dir_all(root.join("still/sub")).unwrap();
        fs::write(root.join("still/sub/f"), "x").unwrap();
    });
    let fs_dir = fork.tree.fs();
    set_flag(&fs_dir.join("fixed"), FS_IMMUTABLE_FL)?;
    set_flag(&fs_dir.join("log"), FS_APPEND_FL)?;
    set_flag(&fs_dir.join("still/sub/f"), FS_IMMUTABLE_FL)?;
    set_flag(&fs_dir.join("still/sub"), FS_IMMUTABLE_FL)?;
    set_flag(&fs_dir.join("still"), FS_APPEND_FL)?;
    s.backend.seal(&fork.tree).unwrap();
    assert_reaped(s, &fork.tree.slot);
    assert_reaped(s, &parent.slot);
    Ok(())
}

fn fork_of_a_tree_with_immutable_files(s: &Setup) -> Outcome {
    let tree = s.create(&tree! { "d" => dir(), "d/fixed" => file("fixed").mode(0o600) });
    set_flag(&tree.fs().join("d/fixed"), FS_IMMUTABLE_FL)?;
    set_flag(&tree.fs().join("d"), FS_IMMUTABLE_FL)?;
    s.backend.seal(&tree).unwrap();
    let view = s.view(&tree);
    let fork = s.fork(&tree);
    s.assert_view(&fork.tree, &view, "fork");
    for slot in [&fork.tree.slot, &tree.slot] {
        assert_reaped(s, slot);
    }
    Ok(())
}

fn reap_removes_half_made_slots(s: &Setup) -> Outcome {
    assert_reaped(s, &s.slot());
    let (plain, stray, created) = (s.slot(), s.slot(), s.slot());
    fs::create_dir_all(plain.join("fs/etc")).unwrap();
    fs::write(plain.join("fs/etc/half"), "half").unwrap();
    fs::write(stray.join("fs"), "a file where a directory should be").unwrap();
    fs::write(stray.join("meta.json"), "{}").unwrap();
    s.backend.create(&created).unwrap();
    fs::create_dir(created.join("work")).unwrap();
    for slot in [&plain, &stray, &created] {
        assert_reaped(s, slot);
    }
    assert_reaped(s, &s.dir.join("never-made"));
    Ok(())
}

fn reap_removes_unreadable_and_deep_directories(s: &Setup) -> Outcome {
    let mut value = tree! { "shut" => dir().mode(0), "shut/x" => file("").mode(0) };
    let mut path = std::path::PathBuf::new();
    for _ in 0..24 {
        path.push("d".repeat(200));
        value.insert(&path, dir());
    }
    let tree = s.parent(&value);
    let fork = s.fork(&tree);
    assert_reaped(s, &fork.tree.slot);
    assert_reaped(s, &tree.slot);
    Ok(())
}

/// OverlayFS makes `work/work` with mode 0, and `work/incompat` for volatile mounts.
fn reap_removes_a_remade_overlay_work_directory(s: &Setup) -> Outcome {
    let fork = s.fork(&s.parent(&some_tree()));
    let at = s.scratch.join("volatile");
    let mount = s.backend.mount(&fork.tree, rootling_backends::Access::ReadWrite, true);
    let mounted =
        crate::support::mounted::Mounted::attach(&mount, rootling_backends::Access::ReadWrite, at).unwrap();
    fs::write(mounted.path().join("x"), "x").unwrap();
    drop(mounted);
    assert_reaped(s, &fork.tree.slot);
    Ok(())
}

fn reap_refuses_another_file_system(s: &Setup) -> Outcome {
    let tree = s.create(&some_tree());
    let below = tree.fs().join("d/e");
    mount(Some("tmpfs"), &below, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    fs::write(below.join("precious"), "not ours").unwrap();
    let refused = s.backend.reap(&tree.slot);
    let kept = fs::read(below.join("precious"));
    umount2(&below, MntFlags::MNT_DETACH).unwrap();
    let error = refused.expect_err("a mounted file system is in the way");
    assert!(format!("{error:?}").contains("d/e"), "{error:?}");
    assert_eq!(kept.unwrap(), b"not ours");
    assert_reaped(s, &tree.slot);
    Ok(())
}

fn reap_does_not_follow_symlinks(s: &Setup) -> Outcome {
    let outside = s.dir.join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "x").unwrap();
    let tree = s.parent(&tree! { "out" => symlink(&outside), "up" => symlink("../../outside") });
    assert_reaped(s, &tree.slot);
    let slot = s.slot();
    std::os::unix::fs::symlink(&outside, slot.join("fs")).unwrap();
    assert_reaped(s, &slot);
    assert_eq!(fs::read(outside.join("precious")).unwrap(), b"x");
    Ok(())
}

/// Makes a btrfs subvolume.
pub(crate) fn make_subvolume(path: &Path) {
    command(Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(path)).unwrap();
}

/// Sets or clears a subvolume's read-only flag.
pub(crate) fn set_read_only(path: &Path, read_only: bool) {
    let value = if read_only { "true" } else { "false" };
    command(Command::new("btrfs").args(["property", "set", "-ts"]).arg(path).args(["ro", value])).unwrap();
}

/// Skips what needs subvolumes inside a tree.
pub(crate) fn needs_subvolumes(s: &Setup) -> Outcome {
    if s.file_system == FileSystem::Btrfs {
        Ok(())
    } else {
        Err(Skip::because("no subvolumes on this file system"))
    }
}
