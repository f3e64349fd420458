//! An image's life in containerd: pulled, run, committed, exported, removed.

use std::collections::BTreeSet;
use std::fs;

use crate::environment::ran;
use crate::host::FileSystem;
use crate::lab::eventually;

use super::daemons::Containerd;
use super::stage::{OURS, Stage, on_stage, on_stages};

/// The kinds and names of all of containerd's snapshots: `Active app`, `Committed sha256:…`.
fn kinds(stage: &Stage<'_>) -> Vec<String> {
    let mut kinds: Vec<String> = stage.listed().iter().map(|words| words.last().unwrap().clone()).collect();
    kinds.sort();
    kinds
}

/// A container says what it should, and what its tree holds is what the layers say.
fn runs(stage: &Stage<'_>) {
    stage.pull("1");
    assert_eq!(kinds(stage), ["Committed", "Committed", "Committed"]);
    let shown = stage.run_ok(
        "1",
        &["--rm"],
        "shown",
        "cat /etc/version /etc/motd; ls /etc /srv /srv/a; stat -c '%n %a %h' /srv/b /bin/busybox",
    );
    let expected = "first\nwelcome\n/etc:\nmotd\nversion\n\n/srv:\na\nb\n\n/srv/a:\nseen\n/srv/b 644 2\n/bin/busybox 755 1\n";
    assert_eq!(shown, expected);
    assert_eq!(stage.run("1", &["--rm"], "code", "exit 3").code, 3);
    assert_eq!(kinds(stage), ["Committed", "Committed", "Committed"], "what ran is gone");

    // Two containers of one image do not see each other.
    stage.run_ok("1", &[], "one", "echo one > /etc/who; rm /etc/motd; mv /srv/a /srv/moved");
    stage.run_ok(
        "1",
        &[],
        "two",
        "test ! -e /etc/who; test -e /etc/motd; test ! -e /srv/moved; echo two > /etc/who",
    );
    assert_eq!(kinds(stage), ["Active", "Active", "Committed", "Committed", "Committed"]);
    stage.pull("2");
    assert_eq!(kinds(stage).len(), 6, "two layers are the same");
    assert_eq!(stage.run_ok("2", &["--rm"], "three", "cat /etc/version; ls /etc"), "second\nmotd\nversion\n");
}

#[test]
fn the_harness_runs_containers_on_containerds_own_overlayfs() {
    on_stage(FileSystem::Ext4, "overlayfs", |stage| {
        runs(stage);
        commits(stage);
        removes(stage);
    });
}

#[test]
fn images_are_pulled_run_committed_exported_and_gone_without_a_trace() {
    on_stages(|stage| {
        runs(stage);
        commits(stage);
        removes(stage);
        stage.assert_nothing_is_held();
        assert_eq!(stage.ours.as_mut().unwrap().stop(), Some(0));
    });
}

/// What changed in a container becomes a layer, and that an image.
fn commits(stage: &Stage<'_>) {
    let difference = |key: &str| {
        let words = ["snapshots", "--snapshotter", stage.containerd.snapshotter.as_str(), "diff", key];
        let mut diff = stage.containerd.command(&stage.containerd.namespace, &words);
        let output = diff.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let archive = stage.environment.path("diff.tar");
        fs::write(&archive, output.stdout).unwrap();
        let mut tar = std::process::Command::new("tar");
        let listed = ran(tar.arg("-tf").arg(&archive).output().unwrap());
        assert_eq!(listed.code, 0, "{}", listed.stderr);
        listed.stdout.lines().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let one = difference("one");
    for path in ["etc/who", "etc/.wh.motd", "srv/.wh.a", "srv/moved/seen"] {
        assert!(one.contains(path), "{path} in {one:?}");
    }
    assert!(!one.iter().any(|path| path.contains("busybox")), "{one:?}");
    let two = difference("two");
    assert!(two.contains("etc/who") && !two.contains("etc/.wh.motd"), "{two:?}");

    // A snapshot of the container's, and what stands on it.
    stage.snapshots(&["commit", "kept", "one"]);
    stage.containerd.ok(&["containers", "rm", "one"]);
    stage.snapshots(&["prepare", "next", "kept"]);
    assert!(stage.snapshots(&["tree"]).contains("kept"));
    let info = stage.snapshots(&["info", "next"]);
    assert!(info.contains("\"Parent\": \"kept\"") && info.contains("\"Kind\": \"Active\""), "{info}");
    let usage = stage.snapshots(&["usage", "kept"]);
    assert!(usage.contains("kept") && !usage.contains("KEY\tSIZE\tINODES\nkept\t0.0 B"), "{usage}");
    let said =
        stage.containerd.fails(&["snapshots", "--snapshotter", &stage.containerd.snapshotter, "rm", "kept"]);
    assert!(said.contains("remove"), "{said}");
    stage.snapshots(&["rm", "next"]);
}

/// Removed images take their trees along, once containers are gone.
fn removes(stage: &Stage<'_>) {
    let (first, second) = (stage.image("1"), stage.image("2"));
    let archive = stage.environment.path("image.tar");
    stage.containerd.ok(&["images", "export", archive.to_str().unwrap(), &first]);
    stage.containerd.ok(&["images", "rm", "--sync", &first, &second]);
    let left: Vec<String> = kinds(stage);
    assert_eq!(
        left.iter().filter(|kind| *kind == "Active").count(),
        1,
        "the container `two` keeps its tree: {left:?}"
    );
    // ctr keeps a snapshot that it made itself for a day, by a label; and what it stands on.
    stage.snapshots(&["rm", "kept"]);
    stage.containerd.ok(&["containers", "rm", "two"]);
    stage.containerd.ok(&["content", "prune", "references"]);
    eventually("all of containerd's snapshots are gone", || stage.listed().is_empty());

    // What was exported is the image.
    let snapshotter = stage.containerd.snapshotter.clone();
    stage.containerd.ok(&["images", "import", "--snapshotter", &snapshotter, archive.to_str().unwrap()]);
    assert_eq!(stage.run_ok("1", &["--rm"], "again", "cat /etc/version /srv/b"), "first\nseen\n");
    stage.containerd.ok(&["images", "rm", "--sync", &first]);
    eventually("all of containerd's snapshots are gone", || stage.listed().is_empty());
}

#[test]
fn namespaces_of_containerd_share_layers_and_let_go_apart() {
    on_stages(|stage| {
        let here = stage.containerd.client();
        let mut other = stage.containerd.client();
        other.namespace = format!("{}-b", stage.namespace);
        let image = stage.image("1");
        for client in [&here, &other] {
            client.ok(&["images", "pull", "--plain-http", "--snapshotter", OURS, &image]);
        }
        let objects = || fs::read_dir(stage.environment.store().join("held")).unwrap().count();
        assert_eq!(objects(), 6, "each has keys of its own");
        let removed = |client: &Containerd| {
            client.ok(&["images", "rm", "--sync", &image]);
        };
        removed(&here);
        eventually("the keys of one namespace are gone", || objects() == 3);
        let words =
            ["run", "--rm", "--snapshotter", OURS, "--cgroup", &format!("/{}/b", stage.namespace), &image];
        assert_eq!(other.ok(&[&words[..], &["b", "/bin/cat", "/etc/version"]].concat()), "first\n");
        removed(&other);
        stage.assert_nothing_is_held();
    });
}
