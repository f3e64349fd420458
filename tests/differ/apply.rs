//! Layers into trees: what comes out is what containerd's own differ makes of them.

use std::path::Path;

use rootling::containerd::api::types::{Descriptor, Mount};
use rootling::image::Digest;
use rootling::layer::Compression;
use rootling_backends::Kind;
use tonic::Code;

use super::lab::{GZIP, TAR, bind};
use super::{above, base, everywhere, once, packed, tar};
use crate::layer::{Tar, gzip};
use crate::support::compare::assert_tree_eq;
use crate::support::tree::{TreeValue, dir, file, symlink, tree};

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
