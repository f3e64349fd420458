//! Trees into layers: applied again they make the same tree, whoever's it is.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use rootling::containerd::api::diff::DiffRequest;
use rootling::image::Digest;
use rootling_backends::Kind;

use super::lab::{GZIP, Lab, TAR, bind, can_run, overlay};
use super::{above, base, everywhere, tar};
use crate::environment::found;
use crate::grounds::on_file_systems;
use crate::host::FileSystem;
use crate::layer::{Tar, gzip};
use crate::support::compare::assert_tree_eq;
use crate::support::tree::{Content, TreeValue};

/// Changes a tree in all ways that there are.
fn change(root: &Path) {
    let at = |name: &str| root.join(name);
    // The same size and the same time as before: only who looks at the bytes, or at what was written, finds it.
    let times = fs::metadata(at("etc/passwd")).unwrap();
    fs::write(at("etc/passwd"), "toor").unwrap();
    let stamp = fs::FileTimes::new().set_modified(times.modified().unwrap());
    fs::File::options().write(true).open(at("etc/passwd")).unwrap().set_times(stamp).unwrap();
    fs::remove_dir_all(at("gone")).unwrap();
    fs::remove_dir_all(at("opaque")).unwrap();
    fs::create_dir(at("opaque")).unwrap();
    fs::write(at("opaque/new"), "n").unwrap();
    fs::remove_file(at("becomes-dir")).unwrap();
    fs::create_dir(at("becomes-dir")).unwrap();
    fs::write(at("becomes-dir/below"), "b").unwrap();
    fs::remove_dir_all(at("becomes-file")).unwrap();
    fs::write(at("becomes-file"), "f").unwrap();
    fs::write(at("first"), "one inode").unwrap();
    fs::hard_link(at("first"), at("usr/second")).unwrap();
    fs::hard_link(at("etc/shadow"), at("etc/shadow-")).unwrap();
    fs::set_permissions(at("bin/ping"), fs::Permissions::from_mode(0o4750)).unwrap();
    fs::rename(at("usr/lib/libc"), at("usr/libc")).unwrap();
    let set = |path: &str, name: &str, value: &str| {
        let status = Command::new("setfattr").args(["-n", name, "-v", value]).arg(at(path)).status().unwrap();
        assert!(status.success());
    };
    set("usr/marked", "user.more", "1");
    set("usr", "user.on-a-directory", "1");
    let status = Command::new("setfacl").args(["-m", "u:9:rw"]).arg(at("first")).status().unwrap();
    assert!(status.success());
    Command::new("mkfifo").arg(at("pipe")).status().unwrap();
    let large = fs::File::create(at("large")).unwrap();
    large.set_len(5 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&large, b"in the middle", 3 << 20).unwrap();
}

#[test]
fn a_layer_of_what_changed_makes_the_same_tree_again() {
    if !found("setfattr") || !found("setfacl") {
        return crate::environment::skip("setfattr and setfacl are not installed");
    }
    let digests = std::sync::Mutex::new(BTreeSet::new());
    everywhere(|lab| {
        lab.layer("bottom", "", &lab.put(GZIP, &gzip(&tar(lab, &base()))));
        lab.prepare("box", "bottom");
        lab.at("box", change);
        let left = lab.view("bottom-view", "bottom");
        let changed = without_holes(lab.tree("box"));
        for (media_type, said) in
            [("", GZIP), (TAR, TAR), (GZIP, GZIP), ("application/vnd.oci.image.layer.v1.tar+zstd", "")]
        {
            let blob = lab.diff(&left, &lab.mounts("box"), media_type).unwrap();
            assert_eq!(blob.media_type, if said.is_empty() { media_type } else { said });
            let bytes = lab.get(&blob.digest);
            assert_eq!(
                (blob.size, &blob.digest),
                (bytes.len() as i64, &Digest::sha256_of(&bytes).to_string())
            );
            let key = format!("again {media_type}");
            let mounts = lab.prepare(&key, "bottom");
            let applied = lab.apply(&lab.differ, &blob, &mounts).unwrap();
            let info = lab.info(&blob.digest).unwrap();
            assert_eq!(info.labels["containerd.io/uncompressed"], applied.digest);
            assert_tree_eq(&without_holes(lab.tree(&key)), &changed, &key);
            // What was read from the tree, and not from the file system it lies on.
            if media_type == TAR {
                let listed = listing(&bytes);
                assert!(listed.contains("etc/passwd") && listed.contains("opaque/.wh.hidden"), "{listed:?}");
                assert!(
                    !listed.iter().any(|name| name.starts_with("dev") || name.starts_with("inherits")),
                    "{listed:?}"
                );
            }
        }
        // The times of what was changed are those of this run: a bound makes them equal everywhere.
        let request = DiffRequest {
            left: left.clone(),
            right: lab.mounts("box"),
            source_date_epoch: Some(prost_types::Timestamp { seconds: 1_000_000_000, nanos: 0 }),
            ..DiffRequest::default()
        };
        let bounded = lab.diff_as(request).unwrap().digest;
        digests.lock().unwrap().insert(bounded);
        // A committed one, and one on nothing.
        lab.commit("top", "box");
        let right = lab.view("top-view", "top");
        let blob = lab.diff(&left, &right, "").unwrap();
        let again = lab.layer("top again", "bottom", &blob);
        assert_tree_eq(&without_holes(again), &changed, "a committed tree");
        for (key, left) in [("whole", Vec::new()), ("whole of nothing", lab.view("nothing", ""))] {
            let blob = lab.diff(&left, &right, "").unwrap();
            assert_tree_eq(&without_holes(lab.layer(key, "", &blob)), &changed, key);
        }
    });
    let digests = digests.into_inner().unwrap();
    assert!(digests.len() <= 1, "the same change is the same layer, whatever it lies on: {digests:?}");
}

/// A layer has no holes: where they come out again depends on how its bytes are cut.
fn without_holes(mut tree: TreeValue) -> TreeValue {
    let large = tree.node_mut("large");
    if let Content::File { bytes, holes } = &mut large.content {
        assert!(*holes > 70 && bytes.len() == 5 << 20, "{holes} holes");
        *holes = 0;
    }
    tree
}

/// Returns the names in a tar.
fn listing(tar: &[u8]) -> BTreeSet<String> {
    let mut archive = rootling::layer::Archive::new(tar, rootling::layer::Limits::default());
    let mut names = BTreeSet::new();
    while let Some(entry) = archive.next_entry().unwrap() {
        names.insert(String::from_utf8_lossy(&entry.member.path).into_owned());
    }
    names
}

/// Equal numbers of inodes in two subvolumes are two files, and what lies in a subvolume below is part of the tree.
#[test]
fn subvolumes_in_a_tree_are_directories_of_its_layer() {
    if !can_run() || !found("btrfs") {
        return;
    }
    on_file_systems(|environment, sort| {
        if sort != FileSystem::Btrfs {
            return;
        }
        let lab = Lab::new(environment, Kind::Btrfs);
        lab.layer("bottom", "", &lab.put(GZIP, &gzip(&tar(&lab, &base()))));
        lab.prepare("box", "bottom");
        lab.at("box", |root| {
            for (name, text) in [("one", "1"), ("two", "2")] {
                let made =
                    Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(root.join(name)).status();
                assert!(made.unwrap().success());
                fs::write(root.join(name).join(text), text).unwrap();
                fs::hard_link(root.join(name).join(text), root.join(name).join("other")).unwrap();
            }
            let inode = |path: &str| fs::metadata(root.join(path)).unwrap().ino();
            assert_eq!(inode("one/1"), inode("two/2"));
        });
        let left = lab.view("left", "bottom");
        let blob = lab.diff(&left, &lab.mounts("box"), "").unwrap();
        assert_tree_eq(
            &lab.layer("again", "bottom", &blob),
            &lab.tree("box"),
            "two files, each with two names",
        );
        // Committed they are what the layer makes again, too.
        lab.commit("top", "box");
        let blob = lab.diff(&left, &lab.view("right", "top"), "").unwrap();
        assert_tree_eq(&lab.layer("once more", "bottom", &blob), &lab.tree("top"), "of the committed tree");
    });
}

/// containerd's own snapshotters hand out such mounts.
#[test]
fn trees_of_others_are_written_and_compared_too() {
    everywhere(|lab| {
        let [lower, upper, work, plain] = ["lower", "upper", "work", "plain"].map(|name| lab.directory(name));
        let (first, second) = (lab.put(GZIP, &gzip(&tar(lab, &base()))), lab.put(TAR, &tar(lab, &above())));
        for blob in [&first, &second] {
            lab.apply(&lab.differ, blob, &bind(&plain)).unwrap();
        }
        lab.apply(&lab.differ, &first, &bind(&lower)).unwrap();
        lab.apply(&lab.differ, &second, &overlay(Some((&upper, &work)), &[&lower])).unwrap();
        let shown = overlay(None, &[&upper, &lower]);
        let expected = TreeValue::read_path(&plain);
        assert_tree_eq(&lab.shown(&shown), &expected, "an overlay");
        assert_tree_eq(&TreeValue::read_path(&lower), &base(), "what lies beneath");
        // Any two can be compared, whoever's they are.
        let bottom = lab.layer("bottom", "", &first);
        lab.view("view", "bottom");
        for left in [bind(&lower), lab.mounts("view")] {
            for right in [bind(&plain), shown.clone(), overlay(Some((&upper, &work)), &[&lower])] {
                let blob = lab.diff(&left, &right, "").unwrap();
                let key = format!("{left:?} {right:?}");
                assert_tree_eq(&lab.layer(&key, "bottom", &blob), &expected, &key);
            }
        }
        drop(bottom);
        // A second layer in the same upper directory goes through the mount.
        let third = Tar::new().file("etc/.wh.group", b"").file("usr/lib/third", b"3").end();
        lab.apply(&lab.differ, &lab.put(TAR, &third), &overlay(Some((&upper, &work)), &[&lower])).unwrap();
        let tree = lab.shown(&shown);
        assert!(tree.node("etc/group").is_none() && tree.node("etc/group-").is_some());
        assert!(tree.node("usr/lib/third").is_some() && tree.node("becomes-dir/now").is_some());
    });
}
