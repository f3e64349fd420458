//! kill -9 of rootling's snapshotter and of containerd, while images are pulled, run, removed, and snapshots made.
//!
//! What was acknowledged is there afterwards, with what it holds; whatever is left can be removed; then nothing is left.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::daemons::Containerd;
use super::stage::{OURS, Stage, on_stage};
use crate::environment::ran;
use crate::host::FileSystem;
use crate::lab::eventually;

const ROUNDS: u32 = 9;

const LIST: [&str; 4] = ["snapshots", "--snapshotter", OURS, "ls"];

/// How long the load goes on after both are there again.
const AFTERWARDS: Duration = Duration::from_millis(300);

#[test]
fn killed_under_load_on_btrfs_nothing_acknowledged_is_lost_and_nothing_stays() {
    on_stage(FileSystem::Btrfs, OURS, kills);
}

#[test]
fn killed_under_load_on_xfs_nothing_acknowledged_is_lost_and_nothing_stays() {
    on_stage(FileSystem::Xfs, OURS, kills);
}

#[test]
fn killed_under_load_on_ext4_nothing_acknowledged_is_lost_and_nothing_stays() {
    on_stage(FileSystem::Ext4, OURS, kills);
}

fn kills(stage: &mut Stage<'_>) {
    let (mut kept, mut made, mut keys) = (BTreeSet::new(), 0, Vec::new());
    stage.pull("1");
    for round in 0..ROUNDS {
        let load = Load { stop: AtomicBool::new(false), round, place: stage.environment.path("shown") };
        let (images, containerd) = ([stage.image("1"), stage.image("2")], &mut stage.containerd);
        let ours = stage.ours.as_mut().unwrap();
        // ctr talks to whoever listens; the daemons are started again beside it.
        let client = containerd.client();
        std::thread::scope(|scope| {
            let runs = scope.spawn(|| load.run_images(&client, &images));
            let makes = scope.spawn(|| load.make_snapshots(&client, &mut kept, &mut keys));
            std::thread::sleep(moment());
            match round % 3 {
                0 => ours.kill(),
                1 => containerd.kill(),
                _ => {
                    containerd.kill();
                    ours.kill();
                }
            }
            std::thread::sleep(moment() / 4);
            if round % 3 != 1 {
                ours.start_again();
            }
            if round % 3 != 0 {
                containerd.start_again();
            }
            eventually("containerd reaches who keeps its trees", || client.ctr(&LIST).code == 0);
            std::thread::sleep(AFTERWARDS);
            load.stop.store(true, Ordering::Relaxed);
            runs.join().unwrap();
            made += makes.join().unwrap();
        });
        check(stage, round, &kept);
    }
    assert!(made >= 2 * ROUNDS, "{made} snapshots are little of a load");
    clear(stage, &keys);
    stage.assert_nothing_is_held();
    stage.pull("2");
    assert_eq!(stage.run_ok("2", &["--rm"], "last", "cat /etc/version"), "second\n");
}

/// Between nothing and what a pull and several runs take.
fn moment() -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Duration::from_micros(u64::from(now.subsec_nanos()) / 1000 % 900_000)
}

/// What goes on while something is killed; what fails then is no fault.
struct Load {
    stop: AtomicBool,
    round: u32,
    place: PathBuf,
}

impl Load {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn run_images(&self, client: &Containerd, images: &[String; 2]) {
        let snapshotter = ["--snapshotter", OURS];
        let mut number = 0_usize;
        while self.goes_on() {
            number += 1;
            let image = &images[number % 2];
            client.ctr(&[&["images", "pull", "--plain-http"], &snapshotter[..], &[image]].concat());
            let id = format!("box-{}-{number}", self.round);
            let script = "echo new > /etc/new; rm -r /srv/a";
            client
                .ctr(&[&["run", "--rm"], &snapshotter[..], &[image, &id, "/bin/sh", "-c", script]].concat());
            if number.is_multiple_of(3) {
                client.ctr(&["images", "rm", "--sync", image]);
            }
        }
    }

    /// Makes snapshots that say their names, some on others; adds to `kept` what was acknowledged, and takes away what may be gone. Returns
    /// how many were acknowledged.
    fn make_snapshots(
        &self,
        client: &Containerd,
        kept: &mut BTreeSet<String>,
        keys: &mut Vec<String>,
    ) -> u32 {
        let (mut number, mut made) = (0_u32, 0);
        let mut parent = String::new();
        while self.goes_on() {
            number += 1;
            let name = format!("kept-{}-{number}", self.round);
            let key = format!("making-{name}");
            keys.push(key.clone());
            let parent_now = if number.is_multiple_of(4) { String::new() } else { parent.clone() };
            let words = ["snapshots", "--snapshotter", OURS];
            let prepare = [&words[..], &["prepare", &key, &parent_now]].concat();
            if client.ctr(&prepare).code == 0
                && write(client, &key, &self.place, &name)
                && client.ctr(&[&words[..], &["commit", &name, &key]].concat()).code == 0
            {
                kept.insert(name.clone());
                made += 1;
                parent = name;
            } else {
                // It may have been committed all the same, unless it was never there.
                parent = String::new();
            }
            if number.is_multiple_of(5)
                && let Some(oldest) = kept.first().cloned()
            {
                // Either it has something on it and stays, or it may be gone.
                let removed = client.ctr(&[&words[..], &["rm", &oldest]].concat());
                if !removed.stderr.contains("children") {
                    kept.remove(&oldest);
                }
            }
        }
        made
    }
}

/// Writes a file by way of what `ctr` says how to mount; false where it could not be said.
fn write(client: &Containerd, key: &str, place: &Path, text: &str) -> bool {
    look(client, &["mounts", place.to_str().unwrap(), key], place, &format!("printf %s {text} > $T/name"))
        .is_some()
}

/// Mounts what `ctr snapshots WORDS` says, runs a script with `$T` the place, and returns what it printed.
fn look(client: &Containerd, words: &[&str], place: &Path, script: &str) -> Option<String> {
    let told = client.ctr(&[&["snapshots", "--snapshotter", OURS], words].concat());
    if told.code != 0 {
        return None;
    }
    fs::create_dir_all(place).unwrap();
    let script = format!("{}\n{script}\numount $T", told.stdout);
    let done = ran(Command::new("sh").args(["-euc", &script]).env("T", place).output().unwrap());
    assert_eq!(done.code, 0, "{script}: {}", done.stderr);
    Some(done.stdout)
}

/// What was acknowledged is there and is what it was; the newest are looked into. Pulls and runs succeed.
fn check(stage: &Stage<'_>, round: u32, kept: &BTreeSet<String>) {
    let listed = stage.listed();
    let committed: BTreeSet<&str> = listed
        .iter()
        .filter(|words| words.last().is_some_and(|kind| kind == "Committed"))
        .map(|words| words[0].as_str())
        .collect();
    for name in kept {
        assert!(committed.contains(name.as_str()), "round {round}: {name} is lost; there are {committed:?}");
    }
    let place = stage.environment.path("looked");
    for name in kept.iter().rev().take(4) {
        let view = format!("look-at-{name}");
        // `ctr snapshots view` gives none of the labels that keep garbage collection away.
        stage.snapshots(&["prepare", &view, name]);
        let seen =
            look(&stage.containerd, &["mounts", place.to_str().unwrap(), &view], &place, "cat $T/name");
        assert_eq!(seen.as_deref(), Some(name.as_str()), "round {round}");
        stage.snapshots(&["rm", &view]);
    }
    stage.pull("1");
    let id = format!("check-{round}");
    assert_eq!(
        stage.run_ok("1", &["--rm"], &id, "cat /etc/version /srv/b; test ! -e /etc/new"),
        "first\nseen\n"
    );
    stage.environment.ok(["fsck"]);
}

/// Removes everything by containerd's own means: what a killed command left behind, too.
///
/// A commit that was done here and not noted there is garbage here, and there a key of nothing, which is not listed.
fn clear(stage: &Stage<'_>, keys: &[String]) {
    let ctr = &stage.containerd;
    let lines = |words: &[&str]| -> Vec<String> { ctr.ok(words).lines().map(str::to_owned).collect() };
    for id in lines(&["containers", "ls", "--quiet"]) {
        // Some have no task.
        ctr.ctr(&["tasks", "rm", "--force", &id]);
        eventually(&format!("{id} can be removed"), || ctr.ctr(&["containers", "rm", &id]).code == 0);
    }
    for id in lines(&["leases", "ls", "--quiet"]) {
        ctr.ok(&["leases", "rm", &id]);
    }
    for image in lines(&["images", "ls", "--quiet"]) {
        ctr.ok(&["images", "rm", "--sync", &image]);
    }
    for key in keys {
        let removed = ctr.ctr(&["snapshots", "--snapshotter", OURS, "rm", key]);
        assert!(removed.code == 0 || removed.stderr.contains("not found"), "{key}: {}", removed.stderr);
    }
    let start = Instant::now();
    loop {
        let listed = stage.listed();
        if listed.is_empty() {
            break;
        }
        let is_late = start.elapsed() > Duration::from_secs(30);
        // Those with others on them go when these are gone; what an unpacking left has no label, and is garbage.
        for words in listed.iter().rev() {
            let said = ctr.ctr(&["snapshots", "--snapshotter", OURS, "rm", &words[0]]).stderr;
            assert!(!is_late || said.contains("children"), "{words:?} cannot be removed: {said}");
        }
        ctr.ok(&["content", "prune", "references"]);
    }
}
