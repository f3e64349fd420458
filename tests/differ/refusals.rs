//! What is not done: what others may know better, what is asked wrong, and what is meant ill.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rootling::containerd::api::diff::ApplyRequest;
use rootling::containerd::api::types::{Descriptor, Mount};
use rootling::image::Digest;
use rootling_backends::Kind;
use tonic::Code;

use super::lab::{GZIP, TAR, bind};
use super::{everywhere, once};
use crate::layer::{Tar, gzip};
use crate::support::compare::assert_tree_eq;
use crate::support::tree::TreeValue;

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
