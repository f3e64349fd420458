//! What rootling's own commands make of what containerd holds, and images that both know.

use std::fs;

use super::stage::{OURS, Stage, on_stages};
use crate::lab::eventually;

/// Keeps garbage collection of containerd's away, and is what a container of its own would have.
const WAITS: &str = "echo new > /etc/new; rm /etc/motd; sleep 3600";

#[test]
fn people_look_into_containers_and_fork_them() {
    on_stages(|stage| {
        stage.pull("1");
        stage.run_ok("1", &["--detach"], "work", WAITS);
        let here = stage.environment;
        eventually("the container has written", || {
            // runc makes directories elsewhere for what it mounts.
            here.ok(["diff", "containerd:work", "/etc"]) == "D /etc/motd\nA /etc/new\n"
        });
        assert_eq!(here.ok(["-q", "ls"]), "", "what is containerd's is shown when all is asked for");
        let all = here.ok(["ls", "--all"]);
        let key = format!("containerd:{}/", stage.namespace);
        assert_eq!(all.matches(&key).count(), 4, "{all}");
        assert!(all.contains("/work (active)"), "{all}");
        let (shown, log) = (here.json(["show", "containerd:work"]), here.ok(["log", "containerd:work"]));
        assert!(log.matches("containerd:").count() >= 4, "{log}");
        assert_eq!(shown["held"]["kind"], "active");
        here.ok(["du", "containerd:work"]);
        here.ok(["-q", "fork", "containerd:work", "fork"]);
        let look = [
            "exec",
            "--net",
            "none",
            "fork",
            "--",
            "/bin/sh",
            "-c",
            "cat /etc/new /etc/version; test ! -e /etc/motd",
        ];
        assert_eq!(here.ok(look), "new\nfirst\n");
        let refused = here.fails(["rm", "containerd:work"]);
        assert!(refused.contains("containerd"), "{refused}");
        here.ok(["prune"]);

        // What a person made of it stays when containerd lets go.
        end(stage, "work");
        stage.containerd.ok(&["images", "rm", "--sync", &stage.image("1")]);
        eventually("all of containerd's snapshots are gone", || stage.listed().is_empty());
        assert_eq!(here.ok(look), "new\nfirst\n");
        here.ok(["fsck", "--verify"]);
        here.ok(["-q", "rm", "--now", "fork"]);
        here.ok(["prune"]);
        stage.assert_nothing_is_held();
    });
}

fn end(stage: &Stage<'_>, id: &str) {
    stage.containerd.ok(&["tasks", "rm", "--force", id]);
    eventually("the container can be removed", || stage.containerd.ctr(&["containers", "rm", id]).code == 0);
}

#[test]
fn what_containerd_unpacked_is_not_unpacked_again_by_a_pull() {
    on_stages(|stage| {
        stage.pull("1");
        let here = stage.environment;
        let objects = || fs::read_dir(here.store().join("o")).unwrap().count();
        let before = objects();
        here.ok(["-q", "pull", &stage.image("1"), "app:1"]);
        assert_eq!(objects(), before + 1, "the image, and no layer");
        // It outlives what containerd has.
        stage.containerd.ok(&["images", "rm", "--sync", &stage.image("1")]);
        eventually("all of containerd's snapshots are gone", || stage.listed().is_empty());
        here.ok(["-q", "create", "app:1", "dev"]);
        let look = ["exec", "--net", "none", "dev", "--", "/bin/cat", "/etc/version", "/srv/b"];
        assert_eq!(here.ok(look), "first\nseen\n");
        here.ok(["fsck", "--verify"]);
        // And is there for the next pull of containerd's, which then runs on it.
        stage.pull("1");
        assert_eq!(stage.run_ok("1", &["--rm"], "again", "cat /etc/version"), "first\n");
    });
}

#[test]
fn a_full_disk_is_told_of_and_is_no_end() {
    on_stages(|stage| {
        stage.pull("1");
        stage.run_ok("1", &[], "before", "echo kept > /etc/kept");
        let filler = stage.environment.path("filler");
        fill(&filler);
        // Neither an image nor a container fits, and both are told so; what is there is read and removed.
        let image = stage.images.reference("large", "1");
        stage.images.push(
            "large",
            "1",
            &["/bin/sh"],
            &[crate::oci::Tar::default().file("x", noise(8 << 20)).end()],
        );
        let said = stage.containerd.fails(&["images", "pull", "--plain-http", "--snapshotter", OURS, &image]);
        assert!(said.contains("no space left"), "{said}");
        let listed = stage.listed().len();
        assert!(listed >= 4, "{listed}");
        assert!(stage.snapshots(&["info", "before"]).contains("Active"));
        stage.environment.ok(["diff", "containerd:before"]);
        fs::remove_file(&filler).unwrap();

        // With room again everything goes on, and nothing of what failed stays.
        stage.containerd.ok(&["images", "pull", "--plain-http", "--snapshotter", OURS, &image]);
        stage.pull("2");
        assert_eq!(stage.run_ok("2", &["--rm"], "after", "cat /etc/version"), "second\n");
        stage.containerd.ok(&["containers", "rm", "before"]);
        for lease in stage.containerd.ok(&["leases", "ls", "--quiet"]).lines() {
            stage.containerd.ok(&["leases", "rm", lease]);
        }
        for image in stage.containerd.ok(&["images", "ls", "--quiet"]).lines() {
            stage.containerd.ok(&["images", "rm", "--sync", image]);
        }
        eventually("all of containerd's snapshots are gone", || stage.listed().is_empty());
        stage.assert_nothing_is_held();
    });
}

/// Takes all that is free, but for a little that a database needs to say so.
fn fill(path: &std::path::Path) {
    use std::io::Write;
    let mut file = fs::File::create(path).unwrap();
    let block = noise(1 << 20);
    while file.write_all(&block).is_ok() {}
    file.sync_all().unwrap_or_default();
    let length = file.metadata().unwrap().len();
    file.set_len(length.saturating_sub(4 << 20)).unwrap();
    file.sync_all().unwrap();
}

/// Bytes that nothing makes smaller.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length.div_ceil(8)).flat_map(|_| next()).collect()
}
