//! What is written into containerd's store: by which name, with which labels, held by whom, and nothing of what failed.

use std::fs;
use std::process::Command;

use rootling::containerd::api::diff::DiffRequest;
use rootling::image::Digest;
use rootling_backends::Kind;
use tonic::Code;

use super::lab;
use super::lab::{GZIP, TAR, labels};
use super::{base, once, tar};
use crate::environment::found;
use crate::layer::gzip;

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
