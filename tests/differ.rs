//! The service of containerd that makes trees of layers and layers of trees: blobs in a real containerd's store, trees that are held in ours.

mod lab;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rootling::containerd::api::diff::{ApplyRequest, DiffRequest};
use rootling::containerd::api::types::{Descriptor, Mount};
use rootling::image::Digest;
use rootling::layer::{Compression, Packing, pack};
use rootling_backends::Kind;
use tonic::Code;

use crate::environment::{Environment, found, tar_of};
use crate::grounds::on_file_systems;
use crate::host::FileSystem;
use crate::layer::{Tar, gzip};
use crate::support::compare::assert_tree_eq;
use crate::support::tree::{
    Content, NOBODY, TreeValue, acl, block_device, char_device, dir, fifo, file, link, symlink, tree,
};
use lab::{GZIP, Lab, TAR, bind, can_run, labels, overlay};

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

#[test]
fn layers_come_out_as_containerd_s_own_differ_makes_them() {
    everywhere(|lab| {
        let layers = [tar(lab, &base()), tar(lab, &above())];
        let by_containerd = lab.directory("by-containerd");
        for (layer, packing) in layers.iter().zip([Compression::Gzip, Compression::None]) {
            let media_type = if packing == Compression::Gzip { GZIP } else { TAR };
            let blob = lab.put(media_type, &packed(layer, packing));
            let theirs = lab.apply(&lab.walking, &blob, &bind(&by_containerd)).unwrap();
            let (key, parent) = if packing == Compression::Gzip { ("a", "") } else { ("b", "a") };
            let mounts = lab.prepare("extract 1 of/it", parent);
            let ours = lab.apply(&lab.differ, &blob, &mounts).unwrap();
            assert_eq!(ours, theirs, "the descriptor of the tar");
            assert_eq!((ours.media_type.as_str(), ours.size), (TAR, layer.len() as i64));
            assert_eq!(ours.digest, Digest::sha256_of(layer).to_string());
            lab.commit(key, "extract 1 of/it");
            let (tree, mut expected) = (lab.tree(key), TreeValue::read_path(&by_containerd));
            // Where containerd's does otherwise: it passes over the root's entry, lets files inherit a default ACL that the layer does not
            // give them, and knows no trusted attributes.
            *expected.node_mut("") = tree.node("").unwrap().clone();
            expected.node_mut("inherits/below").xattrs.clear();
            expected.node_mut("usr/marked").xattrs.insert("trusted.mine".into(), b"yes".to_vec());
            assert_tree_eq(&tree, &expected, key);
        }
        assert_tree_eq(&lab.tree("a"), &base(), "the first is what was packed");
        let tree = lab.tree("b");
        let has = |path: &str| tree.node(path).is_some();
        assert!(!has("gone") && !has("opaque/hidden") && !has("etc/alias") && !has(".wh.gone"));
        assert_eq!(tree.names_at(Path::new("bin/sudo")).len(), 1, "the other name keeps the old program");
    });
}

/// What docker's and OCI's media types say of packing counts for nothing: what the bytes are does.
#[test]
fn all_that_layers_are_packed_with_is_read() {
    once(Kind::Overlay, |lab| {
        let layer = tar(lab, &base());
        let docker = "application/vnd.docker.image.rootfs.diff.tar";
        for (number, (media_type, compression)) in [
            (TAR.to_owned(), Compression::None),
            (format!("{TAR}+gzip"), Compression::Gzip),
            (format!("{TAR}+zstd"), Compression::Zstd),
            (docker.to_owned(), Compression::None),
            (format!("{docker}.gzip"), Compression::Gzip),
            (format!("{docker}.zstd"), Compression::Zstd),
            (docker.to_owned(), Compression::Zstd),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip".to_owned(), Compression::Gzip),
        ]
        .into_iter()
        .enumerate()
        {
            let blob = lab.put(&media_type, &packed(&layer, compression));
            let name = format!("{number}");
            assert_tree_eq(&lab.layer(&name, "", &blob), &base(), &media_type);
        }
    });
}

/// Directories without an entry, links on the way, a hard link to what lies beneath: none can be told by an upper directory alone.
#[test]
fn layers_that_need_what_lies_beneath_get_it() {
    everywhere(|lab| {
        let below = tree! {
            "" => dir().mode(0o700).owner(5, 5),
            "lib" => symlink("usr/lib"),
            "tmp" => dir().mode(0o1777),
            "tmp/kept" => file("x"),
            "usr" => dir(),
            "usr/lib" => dir().mode(0o751).owner(8, 8),
            // As the header of the other name says.
            "usr/lib/first" => file("inode").mode(0o750).owner(1, 2),
            "usr/lib/old" => file("x"),
        };
        let bottom = lab.put(GZIP, &gzip(&tar(lab, &below)));
        lab.layer("bottom", "", &bottom);
        let by_containerd = lab.directory("by-containerd");
        lab.apply(&lab.walking, &bottom, &bind(&by_containerd)).unwrap();
        for (name, layer) in [
            (
                "no-entries",
                Tar::new().file("tmp/new", b"n").file("usr/lib/.wh.old", b"").file("usr/lib/new", b"n"),
            ),
            ("through-a-link", Tar::new().file("lib/.wh.old", b"").file("lib/new", b"n")),
            ("a-name-more", Tar::new().dir("bin").link("bin/second", "usr/lib/first")),
            ("root-only", Tar::new().dir("./")),
            ("nothing", Tar::new()),
        ] {
            let tar = layer.end();
            let blob = lab.put(GZIP, &gzip(&tar));
            let tree = lab.layer(name, "bottom", &blob);
            let expected = lab.directory(&format!("expected-{name}"));
            for blob in [&bottom, &blob] {
                lab.apply(&lab.walking, blob, &bind(&expected)).unwrap();
            }
            let mut expected = TreeValue::read_path(&expected);
            *expected.node_mut("") = tree.node("").unwrap().clone();
            assert_tree_eq(&tree.clone().without_times(), &expected.without_times(), name);
            let root = below.node("").unwrap();
            assert_eq!(
                tree.node("").unwrap() == root,
                name != "root-only",
                "{name}: the root is as it was unless it is told"
            );
            let times = |path: &str| tree.node(path).unwrap().mtime;
            assert_eq!(
                times("tmp"),
                below.node("tmp").unwrap().mtime,
                "{name}: it has no entry, and keeps its time"
            );
            if name == "a-name-more" && lab.tree(name).id("bin/second") != lab.tree(name).id("usr/lib/first")
            {
                assert_eq!(tree.names_at(Path::new("bin/second")).len(), 2, "one inode");
            }
        }
    });
}

/// containerd 2 unpacks layers side by side, each on nothing, and says of each what it stands on once that is there.
#[test]
fn layers_unpacked_on_nothing_are_rebased() {
    everywhere(|lab| {
        let alone = |key: &str| {
            let mounts = lab.prepare(key, "");
            let options = vec!["rw".to_owned(), format!("upperdir={}", mounts[0].source)];
            vec![Mount {
                r#type: "overlay".to_owned(),
                source: "overlay".to_owned(),
                options,
                target: String::new(),
            }]
        };
        let upper = lab.put(GZIP, &gzip(&tar(lab, &above())));
        let mounts = alone("side by side");
        lab.apply(&lab.differ, &upper, &mounts).unwrap();
        let bottom = lab.put(GZIP, &gzip(&tar(lab, &base())));
        lab.layer("bottom", "", &bottom);
        lab.commit_on("rebased", "side by side", "bottom").unwrap();
        let expected = lab.layer("one after the other", "bottom", &upper);
        assert_tree_eq(&lab.tree("rebased"), &expected, "rebased");
        // It is a layer like others.
        let blob = lab.diff(&lab.view("left", "bottom"), &lab.view("right", "rebased"), "").unwrap();
        assert_tree_eq(&lab.layer("again", "bottom", &blob), &expected, "what the rebased one changed");
        let whole = lab.diff(&[], &lab.mounts("right"), "").unwrap();
        assert_tree_eq(&lab.layer("whole", "", &whole), &expected, "no file is another of the same number");
        // How the directory looks, only what lies beneath knows.
        let layer = lab.put(TAR, &Tar::new().file("usr/lib/new", b"n").end());
        let status = lab.apply(&lab.differ, &layer, &alone("cannot")).expect_err("nothing is assumed");
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        assert!(status.message().contains("leave \"rebase\" out"), "{status:?}");
        lab.remove("cannot").unwrap();
    });
}

fn code(result: Result<Descriptor, tonic::Status>) -> Code {
    result.expect_err("it must fail").code()
}

#[test]
fn what_it_does_not_know_is_left_to_the_next_differ_and_untouched() {
    once(Kind::Overlay, |lab| {
        let layer = gzip(&Tar::new().file("f", b"x").end());
        let blob = lab.put(GZIP, &layer);
        let mounts = lab.prepare("key", "");
        for media_type in [
            "",
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            "application/vnd.oci.image.manifest.v1+json",
            "application/vnd.erofs",
        ] {
            let blob = Descriptor { media_type: media_type.to_owned(), ..blob.clone() };
            assert_eq!(code(lab.apply(&lab.differ, &blob, &mounts)), Code::Unimplemented, "{media_type}");
        }
        let strange = |kind: &str, options: &[&str]| {
            let options = options.iter().map(|option| (*option).to_owned()).collect();
            vec![Mount {
                r#type: kind.to_owned(),
                source: "/dev/zero".to_owned(),
                target: String::new(),
                options,
            }]
        };
        for mounts in [
            strange("ext4", &[]),
            strange("overlay", &["lowerdir=/a:/b", "redirect_dir=on"]),
            [mounts.clone(), mounts.clone()].concat(),
        ] {
            assert_eq!(code(lab.apply(&lab.differ, &blob, &mounts)), Code::Unimplemented, "{mounts:?}");
        }
        assert_eq!(code(lab.diff(&mounts, &mounts, "application/vnd.erofs")), Code::Unimplemented);
        assert_tree_eq(
            &lab.tree("key").without_times(),
            &TreeValue::empty().without_times(),
            "nothing was touched",
        );
    });
}

#[test]
fn what_is_asked_wrong_is_refused_with_its_reason() {
    once(Kind::Overlay, |lab| {
        let layer = gzip(&Tar::new().file("f", b"x").end());
        let blob = lab.put(GZIP, &layer);
        let mounts = lab.prepare("key", "");
        let apply = |blob: &Descriptor, mounts: &[Mount]| {
            let status = lab.apply(&lab.differ, blob, mounts).expect_err("it must fail");
            (status.code(), status.message().to_owned())
        };
        let with = |digest: &str, size: i64| Descriptor { digest: digest.to_owned(), size, ..blob.clone() };
        let missing = Digest::sha256_of(b"nobody has it").to_string();
        let committed = {
            lab.layer("committed", "", &blob);
            lab.at_rest("committed")
        };
        lab.view("view", "committed");
        let mut other_tree = mounts.clone();
        other_tree[0].source = lab.environment.store().join("o/00000000/fs").to_str().unwrap().to_owned();
        for (blob, mounts, expected, said) in [
            (with("sha256:x", 1), mounts.clone(), Code::InvalidArgument, "no digest"),
            (with(&blob.digest, -1), mounts.clone(), Code::InvalidArgument, "negative"),
            (with(&missing, 1), mounts.clone(), Code::NotFound, missing.as_str()),
            (with(&blob.digest, blob.size + 1), mounts.clone(), Code::DataLoss, "bytes"),
            (blob.clone(), Vec::new(), Code::InvalidArgument, "no mount"),
            (blob.clone(), lab.mounts("view"), Code::FailedPrecondition, "read-only"),
            (blob.clone(), bind(&committed), Code::FailedPrecondition, "committed"),
            (blob.clone(), other_tree, Code::FailedPrecondition, "00000000"),
        ] {
            let (code, message) = apply(&blob, &mounts);
            assert_eq!(code, expected, "{message}");
            assert!(message.contains(said), "{said}: {message}");
        }
        let status = lab.diff(&mounts, &[], "").expect_err("nothing on the right");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        // Without a namespace containerd knows no blobs, and says so.
        let request = ApplyRequest { diff: Some(blob.clone()), mounts: mounts.clone(), ..Default::default() };
        let answer = lab.runtime.block_on(lab.differ.clone().apply(request)).expect_err("no namespace");
        assert!(answer.message().contains("namespace"), "{answer:?}");
    });
}

#[test]
fn hostile_layers_are_refused_and_leave_a_tree_that_can_be_removed() {
    everywhere(|lab| {
        let canary = lab.directory("canary");
        fs::write(canary.join("file"), "alive").unwrap();
        let place = canary.to_str().unwrap();
        let bottom = Tar::new().symlink("out", place).symlink("root", "/").dir("d").file("d/f", b"x");
        lab.layer("bottom", "", &lab.put(TAR, &bottom.end()));
        let refused = [
            Tar::new().file("../canary/file", b"x"),
            Tar::new().file("/canary/file", b"x"),
            Tar::new().dir("d").file("d/../../x", b"x"),
            Tar::new().link("l", "../canary/file"),
            Tar::new().link("l", "out/file"),
            Tar::new().symlink("./", place),
            Tar::new().file("d/.wh..", b""),
            Tar::new().file("d/.wh...", b""),
            Tar::new().file(".wh.d/x", b""),
            Tar::new().pax(&[("path", b"a\0b")]).file("x", b""),
            Tar::new().file("cut", &[1; 4096]),
        ];
        let count = refused.len();
        for (number, layer) in refused.into_iter().enumerate() {
            let mut tar = layer.end();
            if number + 1 == count {
                tar.truncate(1024);
            }
            let key = format!("refused {number}");
            let mounts = lab.prepare(&key, "bottom");
            let status = lab.apply(&lab.differ, &lab.put(TAR, &tar), &mounts).expect_err(&key);
            assert!([Code::InvalidArgument, Code::DataLoss].contains(&status.code()), "{key}: {status:?}");
        }
        // These are obeyed, inside.
        let obeyed = [
            Tar::new().file("out/file", b"x"),
            Tar::new().file("out/.wh.file", b""),
            Tar::new().file("root/.wh..wh..opq", b""),
            Tar::new().file(".wh.out", b""),
            Tar::new().symlink("d", place).file("d/file", b"x"),
        ];
        for (number, layer) in obeyed.into_iter().enumerate() {
            let key = format!("obeyed {number}");
            let mounts = lab.prepare(&key, "bottom");
            drop(lab.apply(&lab.differ, &lab.put(TAR, &layer.end()), &mounts));
        }
        assert_eq!(fs::read(canary.join("file")).unwrap(), b"alive");
        assert_eq!(fs::read_dir(&canary).unwrap().count(), 1);
        // One whose bytes are not what its name says is found out at its end.
        let mounts = lab.prepare("refused otherwise", "bottom");
        let blob = lab.put(TAR, &Tar::new().file("f", b"x").end());
        let path = lab.environment.path("c-root/io.containerd.content.v1.content/blobs/sha256");
        let path = path.join(blob.digest.strip_prefix("sha256:").unwrap());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, Tar::new().file("f", b"y").end()).unwrap();
        assert_eq!(code(lab.apply(&lab.differ, &blob, &mounts)), Code::DataLoss);
        lab.remove_all();
    });
}

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

#[test]
fn blobs_are_labelled_named_and_made_once() {
    once(Kind::Overlay, |lab| {
        lab.layer("bottom", "", &lab.put(GZIP, &gzip(&tar(lab, &base()))));
        lab.prepare("box", "bottom");
        lab.at("box", |root| fs::write(root.join("new"), "n").unwrap());
        let request = |reference: &str, of: &[(&str, &str)]| DiffRequest {
            left: lab.mounts("left"),
            right: lab.mounts("box"),
            r#ref: reference.to_owned(),
            labels: labels(of),
            ..DiffRequest::default()
        };
        lab.view("left", "bottom");
        let first = lab.diff_as(request("mine", &[("a", "1")])).unwrap();
        let known = lab.info(&first.digest).unwrap().labels;
        assert_eq!((known["a"].as_str(), known.len()), ("1", 3), "{known:?}");
        // There already: it is no failure, what it was labelled with stays, and what it lacks it gets.
        let second = lab.diff_as(request("mine", &[("a", "2"), ("b", "3")])).unwrap();
        assert_eq!(first, second);
        let known = lab.info(&first.digest).unwrap().labels;
        assert_eq!((known["a"].as_str(), known["b"].as_str()), ("1", "3"));
        // What somebody began under the name and left is begun anew.
        lab.begin("mine", b"something else that is longer than a layer's first bytes");
        lab.at("box", |root| fs::write(root.join("newer"), vec![1; 3 << 20]).unwrap());
        let third = lab.diff_as(request("mine", &[])).unwrap();
        assert_eq!(Digest::sha256_of(&lab.get(&third.digest)).to_string(), third.digest);
        assert!(lab.ingests().is_empty(), "{:?}", lab.ingests());
    });
}

#[test]
fn a_layer_that_cannot_be_made_leaves_no_blob() {
    once(Kind::Overlay, |lab| {
        lab.prepare("box", "");
        lab.at("box", |root| {
            fs::write(root.join("large"), vec![7; 9 << 20]).unwrap();
            fs::write(root.join("z.wh.y"), "fine").unwrap();
            fs::write(root.join(".wh.y"), "a deletion to whoever applies it").unwrap();
        });
        let status = lab.diff(&[], &lab.mounts("box"), TAR).expect_err("a name that means something else");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains(".wh.y"), "{status:?}");
        assert!(lab.ingests().is_empty());
    });
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

#[test]
fn layers_in_parallel_do_not_disturb_each_other() {
    once(Kind::Overlay, |lab| {
        let blobs: Vec<Descriptor> = (0..12_u8)
            .map(|number| {
                let noise: Vec<u8> = (0..3_000_000_u32)
                    .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8 ^ number)
                    .collect();
                lab.put(
                    GZIP,
                    &gzip(
                        &Tar::new().dir("d").file("d/noise", &noise).file(&format!("d/{number}"), b"x").end(),
                    ),
                )
            })
            .collect();
        std::thread::scope(|scope| {
            for (number, blob) in blobs.iter().enumerate() {
                scope.spawn(move || lab.layer(&format!("{number}"), "", blob));
            }
        });
        for number in 0..12 {
            let tree = lab.tree(&format!("{number}"));
            assert!(tree.node(format!("d/{number}")).is_some());
            assert_eq!(tree.iter().count(), 4);
        }
    });
}

#[test]
fn a_containerd_that_goes_away_is_told_of_and_found_again() {
    if !can_run() || !crate::environment::is_root() {
        return;
    }
    let environment = Environment::new();
    let mut lab = Lab::new(&environment, Kind::Overlay);
    let blob = lab.put(GZIP, &gzip(&tar(&lab, &base())));
    lab.containerd.kill();
    let mounts = lab.prepare("key", "");
    let status = lab.apply(&lab.differ, &blob, &mounts).expect_err("nobody has the blob");
    assert!(status.message().contains("--containerd"), "{status:?}");
    lab.containerd.start_again();
    lab.apply(&lab.differ, &blob, &mounts).unwrap();
    assert_tree_eq(&lab.tree("key"), &base(), "after containerd came back");
}

/// Bytes that no program packs, each time others.
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

#[test]
fn a_kill_in_the_middle_leaves_what_can_be_removed_and_made_again() {
    if !can_run() || !crate::environment::is_root() {
        return;
    }
    for backend in [Kind::Overlay, Kind::Copy] {
        let environment = Environment::new();
        let mut lab = Lab::new(&environment, backend);
        let mut tree = base();
        for number in 0..2000 {
            tree.insert(format!("usr/{number}"), file(noise(2000, number)));
        }
        let blob = lab.put(GZIP, &gzip(&tar(&lab, &tree)));
        lab.layer("bottom", "", &lab.put(GZIP, &gzip(&tar(&lab, &base()))));
        for delay_ms in [1, 20, 60, 100, 150, 250, 400] {
            let mounts = lab.prepare("key", "bottom");
            let request = ApplyRequest { diff: Some(blob.clone()), mounts, ..ApplyRequest::default() };
            let mut differ = lab.differ.clone();
            let call = lab.runtime.spawn(async move { differ.apply(lab::named(request)).await });
            std::thread::sleep(Duration::from_millis(delay_ms));
            lab.server.kill();
            drop(lab.runtime.block_on(call).unwrap());
            lab.server = lab::Server::start(&environment, backend, &lab.containerd.socket, &[]);
            lab.remove("key").unwrap();
        }
        assert_tree_eq(&lab.tree("bottom"), &base(), "what it stood on");
        assert_tree_eq(&lab.layer("top", "bottom", &blob), &tree, "made again");
        lab.remove_all();
    }
}

#[test]
fn a_client_that_hangs_up_is_not_worked_for() {
    once(Kind::Copy, |lab| {
        let layer = (0..400).fold(Tar::new().dir("d"), |tar, number| {
            tar.file(&format!("d/{number}"), &noise(100_000, number))
        });
        let blob = lab.put(TAR, &layer.end());
        let mounts = lab.prepare("key", "");
        let mut request = lab::named(ApplyRequest { diff: Some(blob), mounts, ..ApplyRequest::default() });
        request.set_timeout(Duration::from_millis(30));
        let answer = lab.runtime.block_on(lab.differ.clone().apply(request));
        assert!(answer.is_err(), "it takes longer");
        // What is still on its way ends soon, and then nothing is written any more.
        std::thread::sleep(Duration::from_millis(500));
        let count = || lab.tree("key").iter().count();
        let (first, second) = (count(), {
            std::thread::sleep(Duration::from_millis(300));
            count()
        });
        assert_eq!(first, second);
        assert!(first < 402, "all of it was written");
        lab.remove_all();
    });
}

#[test]
fn a_layer_is_never_in_memory_as_a_whole() {
    once(Kind::Copy, |lab| {
        const BYTES: usize = 300 << 20;
        let mut tar = Tar::new().dir("d");
        tar = tar.file("d/large", &noise(BYTES, 7));
        let blob = lab.put(TAR, &tar.end());
        lab.layer("bottom", "", &blob);
        let applied = lab.server.peak_kib();
        let made = lab.diff(&[], &lab.view("view", "bottom"), TAR).unwrap();
        assert!(made.size > BYTES as i64);
        let peak = lab.server.peak_kib();
        assert!(peak < 150 << 10, "{applied} KiB, then {peak} KiB, of a layer of {} KiB", BYTES >> 10);
    });
}

/// containerd collects what nobody refers to: a blob is referred to by the lease of who asked for it.
#[test]
fn the_lease_of_a_client_holds_what_is_made_for_it() {
    if !found("ctr") {
        return crate::environment::skip("ctr is not installed");
    }
    once(Kind::Overlay, |lab| {
        let ctr = |arguments: &[&str]| {
            let mut command = Command::new("ctr");
            command
                .arg("--address")
                .arg(&lab.containerd.socket)
                .args(["--namespace", "test"])
                .args(arguments);
            let output = command.output().unwrap();
            assert!(output.status.success(), "{arguments:?}: {output:?}");
        };
        ctr(&["leases", "create", "--id", "mine"]);
        lab.prepare("box", "");
        let made = |text: &str, lease: Option<&str>| {
            lab.at("box", |root| fs::write(root.join("f"), text).unwrap());
            // The same text at any time is the same layer.
            let source_date_epoch = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
            let right = lab.mounts("box");
            let mut request = lab::named(DiffRequest { right, source_date_epoch, ..DiffRequest::default() });
            if let Some(lease) = lease {
                request.metadata_mut().insert("containerd-lease", lease.parse().unwrap());
            }
            let answer = lab.runtime.block_on(lab.differ.clone().diff(request)).unwrap();
            answer.into_inner().diff.unwrap().digest
        };
        let (held, let_go) = (made("held", Some("mine")), made("let go", None));
        ctr(&["leases", "create", "--id", "other"]);
        ctr(&["leases", "delete", "--sync", "other"]);
        assert!(lab.info(&held).is_some(), "collected");
        assert!(lab.info(&let_go).is_none(), "nothing refers to it, so the first half proves something");
        // One that is there already is held by whoever made it again.
        ctr(&["leases", "create", "--id", "second"]);
        assert_eq!(made("held", Some("second")), held);
        ctr(&["leases", "delete", "--sync", "mine"]);
        assert!(lab.info(&held).is_some(), "collected, though it was made again");
    });
}
