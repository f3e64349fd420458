//! The steps of builds in the store, through the library as a build uses it (`steps/stepper.rs`): found by their keys, kept as long as they
//! are used, true only once they are on disk.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::environment::{Environment, Ran, is_root, ran};
use crate::grounds::on_file_systems;
use crate::host::FileSystem;
use crate::lab::eventually;

/// The program that is built with the tests.
fn stepper() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.ancestors().nth(2).unwrap().join("examples/stepper");
    assert!(path.exists(), "{path:?} is missing: `cargo build --examples` makes it");
    path
}

impl Environment {
    fn steps<const N: usize>(&self, arguments: [&str; N]) -> Ran {
        let mut command = Command::new(stepper());
        ran(command.arg(self.store()).args(arguments).output().unwrap())
    }

    /// Does something that must succeed; returns what was printed.
    #[track_caller]
    fn does<const N: usize>(&self, arguments: [&str; N]) -> String {
        let ran = self.steps(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {}{}", ran.stdout, ran.stderr);
        ran.stdout.trim().to_owned()
    }

    fn id<const N: usize>(&self, arguments: [&str; N]) -> String {
        let said = self.does(arguments);
        said.split(' ').next().unwrap().to_owned()
    }

    /// As if the machine had started again before anything was synced.
    fn lose_power(&self) {
        let steps = self.store().join("steps");
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let was = "00000000-0000-0000-0000-000000000000";
        fs::rename(steps.join(boot.trim()), steps.join(was)).unwrap();
        for object in fs::read_dir(self.store().join("o")).unwrap() {
            let mark = object.unwrap().path().join("unsettled");
            if mark.is_symlink() {
                fs::remove_file(&mark).unwrap();
                std::os::unix::fs::symlink(was, &mark).unwrap();
            }
        }
    }

    fn assert_clean(&self) {
        self.ok(["fsck", "--verify"]);
    }
}

#[test]
fn a_step_is_found_by_its_key_and_shows_what_it_changed() {
    on_file_systems(|environment, _| {
        environment.import_base();
        let one = environment.id(["step", "base", "one", "etc/one=1"]);
        let two = environment.id(["step", &one, "two", "etc/two=2", "etc/motd=changed"]);
        assert_eq!(environment.does(["step", &one, "two", "etc/other=3"]), format!("{two} hit"));
        assert_eq!(environment.does(["look", "three"]), "-");
        environment.does(["settle"]);
        assert_eq!(environment.does(["look", "two"]), two);
        let changes = environment.ok(["diff", &format!("{two}~1"), &two]);
        assert_eq!(changes, "C /etc/motd\nA /etc/two\n");
        assert_eq!(environment.ok(["diff", "base", &one]), "A /etc/one\n");
        // Not a box and not a tree of anybody's.
        assert_eq!(environment.json(["ls"]).as_array().unwrap().len(), 1);
        environment.assert_clean();
    });
}

#[test]
fn steps_may_begin_with_nothing() {
    on_file_systems(|environment, _| {
        let first = environment.id(["step", "-", "first", "hello=hi"]);
        let second = environment.id(["step", &first, "second", "more=hi"]);
        environment.does(["built", &second, "app:1"]);
        assert_eq!(environment.ok(["diff", &first, "app:1"]), "A /more\n");
        environment.does(["built", "-", "empty:1"]);
        environment.assert_clean();
    });
}

#[test]
fn steps_are_swept_only_once_nothing_and_nobody_needs_them() {
    on_file_systems(|environment, _| {
        environment.import_base();
        environment.does(["build", "base", "app:1", "3", "a"]);
        environment.does(["build", "base", "other:1", "2", "b"]);
        let objects = || fs::read_dir(environment.store().join("o")).unwrap().count();
        assert_eq!(objects(), 1 + 3 + 1 + 2 + 1);
        environment.ok(["prune"]);
        assert_eq!(environment.does(["build", "base", "app:1", "3", "a"]).split(' ').nth(1), Some("0"));
        assert_eq!(objects(), 8, "prune leaves what was used, and an image that is there is not made again");
        // Its steps are a cache now.
        environment.ok(["rm", "--now", "other:1"]);
        environment.ok(["prune"]);
        assert_eq!(objects(), 7);
        let would = environment.json(["prune", "--builds", "--dry-run"]);
        assert_eq!(would["let_go"].as_array().unwrap().len(), 2);
        assert_eq!(would["objects"], 2);
        environment.ok(["prune", "--builds"]);
        assert_eq!(objects(), 5);
        // Nothing finds them any more, and the image has them.
        environment.ok(["prune", "--builds=all"]);
        assert_eq!((objects(), environment.does(["look", "base a 0"])), (5, "-".to_owned()));
        assert_eq!(environment.ok(["diff", "app:1~1", "app:1"]), "A /step-2\n");
        environment.assert_clean();
        environment.ok(["rm", "--now", "app:1"]);
        environment.ok(["prune", "--builds"]);
        assert_eq!(objects(), 1);
    });
}

#[test]
fn a_step_goes_when_no_build_used_it_for_a_while() {
    let environment = Environment::new();
    environment.import_base();
    environment.does(["step", "base", "old", "a=1"]);
    environment.does(["step", "base", "new", "b=1"]);
    environment.does(["step", "base", "used", "c=1"]);
    environment.does(["settle"]);
    for key in ["old", "used"] {
        let link =
            environment.store().join("steps").join(rootling::image::Digest::sha256_of(key.as_bytes()).hex());
        let touched = Command::new("touch").args(["-h", "-d", "15 days ago"]).arg(link).status().unwrap();
        assert!(touched.success());
    }
    environment.does(["look", "used"]);
    let would = environment.json(["prune", "--dry-run"]);
    assert_eq!(would["let_go"].as_array().unwrap().len(), 1);
    assert_eq!(would["let_go"][0]["why"], "unused");
    assert!(environment.ok(["prune"]).starts_with("let go 1 step of builds\n"));
    let there = ["old", "new", "used"].map(|key| environment.does(["look", key]) != "-");
    assert_eq!(there, [false, true, true]);
    environment.ok(["prune", "--keep-builds", "0s"]);
    assert_eq!(environment.does(["look", "new"]), "-");
}

#[test]
fn a_power_cut_before_the_sync_leaves_no_name_that_is_true() {
    on_file_systems(|environment, _| {
        environment.import_base();
        let kept = environment.id(["step", "base", "kept", "a=1"]);
        environment.does(["settle"]);
        let lost = environment.id(["step", &kept, "lost", "b=1"]);
        let torn = environment.id(["step", &kept, "torn", "c=1"]);
        environment.does(["fail", &kept, "bad", "d=1"]);
        environment.lose_power();
        // What was not synced may be there, in part.
        fs::write(environment.store().join("o").join(&torn).join("meta.json"), "").unwrap();
        assert_eq!(environment.does(["look", "lost"]), "-");
        assert_eq!(environment.does(["look", "kept"]), kept);
        assert!(environment.fails(["show", "@fail"]).contains("no step of a build has failed"));
        environment.assert_clean();
        let again = environment.id(["step", &kept, "lost", "b=2"]);
        assert_ne!(again, lost);
        environment.ok(["show", &kept]);
        environment.ok(["prune"]);
        let there = |id: &str| environment.store().join("o").join(id).exists();
        assert_eq!([&kept, &lost, &torn, &again].map(|id| there(id)), [true, false, false, true]);
        environment.does(["settle"]);
        assert_eq!(environment.does(["look", "lost"]), again);
        environment.assert_clean();
    });
}

#[test]
fn what_stands_on_a_step_is_durable_with_it() {
    let environment = Environment::new();
    environment.import_base();
    let step = environment.id(["step", "base", "one", "a=1"]);
    environment.ok(["create", &step, "dev"]);
    environment.lose_power_if_tentative();
    assert_eq!(environment.does(["look", "one"]), step);
}

impl Environment {
    /// As [`lose_power`](Self::lose_power); where nothing is tentative nothing is lost.
    fn lose_power_if_tentative(&self) {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let tentative = self.store().join("steps").join(boot.trim());
        assert_eq!(fs::read_dir(tentative).unwrap().count(), 0);
        self.lose_power();
    }
}

#[test]
fn a_failure_is_found_and_five_are_kept() {
    on_file_systems(|environment, _| {
        environment.import_base();
        assert!(environment.fails(["show", "@fail"]).contains("no step of a build has failed"));
        let ids: Vec<String> = (0..7)
            .map(|number| environment.id(["fail", "base", &format!("bad{number}"), &format!("out={number}")]))
            .collect();
        let shown = environment.json(["show", "@fail"]);
        assert_eq!(
            (shown["id"].as_str(), &shown["step"]["failure"]),
            (Some(&*ids[6]), &serde_json::json!({"code": 2}))
        );
        assert_eq!(shown["kind"], "step");
        assert_eq!(environment.json(["show", "@fail:5"])["id"].as_str(), Some(&*ids[2]));
        assert!(environment.fails(["show", "@fail:6"]).contains("there are not 6 failures"));
        assert_eq!(environment.ok(["diff", "@fail~1", "@fail"]), "A /out\n");
        assert!(environment.ok(["log", "@fail"]).contains("RUN make bad6"));
        assert_eq!(environment.does(["look", "bad6"]), "-", "a failure is no result");
        assert_eq!(fs::read_dir(environment.store().join("o")).unwrap().count(), 6);
        environment.does(["settle"]);
        environment.ok(["prune"]);
        assert_eq!(environment.json(["show", "@fail"])["id"].as_str(), Some(&*ids[6]));
        let listed = environment.ok(["ls", "--builds"]);
        assert_eq!(listed.matches("(failed with code 2)").count(), 5, "{listed}");
        environment.assert_clean();
    });
}

#[test]
fn a_failed_step_is_entered_with_its_settings_and_thrown_away() {
    on_file_systems(|environment, _| {
        if !environment.import_busybox() {
            return;
        }
        environment.does(["fail", "base", "bad", "srv/out=1"]);
        let script = "pwd; echo $STEP; cat out; echo more > /srv/new; grep -c ' /scratch ' /proc/mounts";
        assert_eq!(environment.ok(["enter", "@fail", "--", "sh", "-c", script]), "/srv\nyes\n11\n");
        assert_eq!(environment.ok(["diff", "@fail~1", "@fail"]), "A /srv/\nA /srv/out\n");
        assert_eq!(environment.run(["enter", "@fail", "--", "sh", "-c", "exit 7"]).code, 7);
        assert!(environment.fails(["enter", "@fail", "--autosnap"]).contains("make a box of it"));
        // A box of it is kept, and may become the result.
        environment.ok(["create", "@fail", "repaired"]);
        environment.ok(["exec", "repaired", "--", "sh", "-c", "echo 2 > /srv/out"]);
        let adopted = environment.id(["adopt", "repaired", "base", "bad"]);
        assert_eq!(environment.does(["look", "bad"]), adopted);
        assert_eq!(environment.ok(["diff", &format!("{adopted}~1"), &adopted]), "A /srv/\nA /srv/out\n");
        assert_eq!(environment.json(["show", &adopted])["step"]["adopted"], true);
        environment.ok(["exec", "repaired", "--", "sh", "-c", "echo 3 > /srv/out"]);
        environment.does(["built", &adopted, "app:1"]);
        assert_eq!(environment.ok(["run", "app:1", "cat", "/srv/out"]), "2\n");
        environment.assert_clean();
    });
}

#[test]
fn another_key_leads_to_the_same_step() {
    let environment = Environment::new();
    environment.import_base();
    let step = environment.id(["step", "base", "one", "a=1"]);
    let other = environment.id(["step", "base", "other", "a=1"]);
    environment.does(["alias", "content", &step]);
    environment.does(["alias", "content", &other]);
    assert_eq!(environment.does(["look", "content"]), step, "the first stays");
    environment.does(["settle"]);
    assert_eq!(environment.does(["look", "content"]), step);
    assert_eq!(environment.json(["ls", "--builds"]).as_array().unwrap().len(), 2);
    environment.ok(["prune", "--builds"]);
    assert_eq!(environment.does(["look", "content"]), "-");
}

#[test]
fn two_builds_that_do_the_same_step_share_one() {
    on_file_systems(|environment, sort| {
        environment.import_base();
        let build = |name: &str| {
            let mut command = Command::new(stepper());
            command.arg(environment.store()).args(["build", "base", name, "12", "same"]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let builds: Vec<_> = ["a:1", "b:1", "c:1"].iter().map(|name| build(name)).collect();
        for build in builds {
            let ran = ran(build.wait_with_output().unwrap());
            assert_eq!(ran.code, 0, "{sort}: {}", ran.stderr);
        }
        environment.ok(["prune"]);
        let objects = fs::read_dir(environment.store().join("o")).unwrap().count();
        // Three images at most: those that were made at the same time may both be there.
        assert!((1 + 12 + 1..=1 + 12 + 3).contains(&objects), "{sort}: {objects}");
        assert_eq!(environment.ok(["diff", "a:1", "b:1"]), "");
        environment.assert_clean();
    });
}

/// Begins something that stops at a point.
fn stopped_at(environment: &Environment, point: &str, arguments: &[&str]) -> Child {
    let mut command = Command::new(stepper());
    command.arg(environment.store()).args(arguments).env("ROOTLING_FAULT_STOP", point);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stat = format!("/proc/{}/stat", child.id());
    eventually("it stands in the middle", || fs::read_to_string(&stat).unwrap().contains(") T "));
    child
}

/// Lets it go on to its end; returns what it printed.
fn gone_on(child: Child) -> String {
    let id = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGCONT).unwrap();
    let ran = ran(child.wait_with_output().unwrap());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    ran.stdout.trim().to_owned()
}

#[test]
fn a_key_that_gets_another_step_while_the_first_becomes_durable_is_not_durable() {
    let environment = Environment::new();
    environment.import_base();
    let first = environment.id(["step", "base", "key", "a=1"]);
    let other = environment.id(["step", "base", "other", "b=1"]);
    environment.does(["settle"]);
    let again = environment.id(["adopt", &first, "base", "key"]);
    let settling = stopped_at(&environment, "steps.synced", &["settle"]);
    let adopted = environment.id(["adopt", &other, "base", "key"]);
    assert_eq!(gone_on(settling), "");
    assert_eq!(environment.does(["look", "key"]), adopted);
    let unsettled = |id: &str| environment.store().join("o").join(id).join("unsettled").is_symlink();
    assert_eq!((unsettled(&again), unsettled(&adopted)), (false, true));
    environment.lose_power();
    assert_eq!(environment.does(["look", "key"]), "-", "nobody synced it");
    assert_eq!(environment.does(["look", "other"]), other);
    environment.assert_clean();
}

#[test]
fn a_step_that_was_just_named_is_nobody_elses() {
    let environment = Environment::new();
    environment.import_base();
    let step = stopped_at(&environment, "step.named", &["step", "base", "key", "a=1"]);
    let mut command = Command::new(stepper());
    let settling = command.arg(environment.store()).arg("settle").stderr(Stdio::piped()).spawn().unwrap();
    sleep(Duration::from_millis(300));
    let said = gone_on(step);
    let settled = ran(settling.wait_with_output().unwrap());
    assert_eq!(settled.code, 0, "{}", settled.stderr);
    assert_eq!(said, format!("{} made", environment.does(["look", "key"])));
    environment.lose_power();
    assert_eq!(said, format!("{} made", environment.does(["look", "key"])), "it was settled");
    environment.assert_clean();
}

#[test]
fn a_name_moves_from_image_to_image_and_from_nothing_else() {
    let environment = Environment::new();
    environment.import_base();
    let first = environment.id(["build", "base", "app:1", "2", "a"]);
    let second = environment.id(["build", "base", "app:1", "2", "b"]);
    assert_ne!(first, second);
    assert!(!environment.store().join("o").join(&first).exists(), "nothing needed it");
    environment.ok(["create", "base", "dev"]);
    let step = environment.does(["look", "base b 1"]);
    let refused = environment.steps(["built", &step, "dev"]);
    assert!(refused.code != 0 && refused.stderr.contains("the name dev is taken"), "{}", refused.stderr);
    environment.ok(["lock", "app:1"]);
    let refused = environment.steps(["build", "base", "app:1", "2", "a"]);
    assert!(refused.code != 0 && refused.stderr.contains("locked"), "{}", refused.stderr);
    assert_eq!(environment.json(["show", "app:1"])["id"].as_str(), Some(&*second));
}

#[test]
fn an_image_without_a_name_is_kept_as_steps_are() {
    let environment = Environment::new();
    environment.import_base();
    let step = environment.id(["step", "base", "one", "a=1"]);
    let image = environment.id(["built", &step]);
    assert_eq!(environment.id(["built", &step]), image);
    environment.ok(["prune"]);
    assert_eq!(environment.json(["show", &image])["built"]["steps"][0].as_str(), Some(&*step));
    assert_eq!(environment.id(["built", &step, "app:1"]), image, "it gets the name");
    environment.ok(["rm", "--now", "app:1"]);
    environment.ok(["prune", "--builds"]);
    assert_eq!(environment.json(["ls", "-a"]).as_array().unwrap().len(), 1);
}

#[test]
fn what_builds_leave_for_the_next_is_replaced() {
    let environment = Environment::new();
    assert_eq!(environment.does(["note", "/srv/Dockerfile"]), "");
    environment.does(["note", "/srv/Dockerfile", "one"]);
    environment.does(["note", "/srv/Dockerfile", "two"]);
    environment.does(["note", "/other", "three"]);
    assert_eq!(environment.does(["note", "/srv/Dockerfile"]), "two");
    environment.ok(["prune", "--builds=all"]);
    assert_eq!(environment.does(["note", "/other"]), "three");
    environment.assert_clean();
}

#[test]
fn a_chain_of_steps_may_be_long() {
    on_file_systems(|environment, sort| {
        environment.import_base();
        let count = if sort == FileSystem::Btrfs { "20" } else { "560" };
        environment.does(["build", "base", "app:1", count, "a"]);
        for back in [1, 15, 17] {
            let (older, newer) = (format!("app:1~{}", back + 1), format!("app:1~{back}"));
            let number = count.parse::<u32>().unwrap() - 1 - back;
            assert_eq!(environment.ok(["diff", &older, &newer]), format!("A /step-{number}\n"), "{sort}");
        }
        environment.ok(["create", "app:1", "dev"]);
        let expected = count.parse::<usize>().unwrap();
        let listed = environment.ok(["diff", "base", "app:1"]);
        assert_eq!(listed.lines().count(), expected, "{sort}");
    });
}

/// Something that goes on until it is told to end.
struct Waiting(Child);

impl Waiting {
    /// Returns it once it has the cache, with what it found there.
    fn begin(environment: &Environment, how: &str, file: &str) -> (Self, String) {
        Self::of(environment, &["cache", "/root/.cache", how, file, "wait"])
    }

    /// Returns it once it has said something, with that.
    fn of(environment: &Environment, arguments: &[&str]) -> (Self, String) {
        let mut command = Command::new(stepper());
        command.arg(environment.store()).args(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        (Self(child), line.trim().to_owned())
    }

    fn end(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

const CACHE: &str = "cache.root-cache.ebc372a1c9";

fn cached(environment: &Environment, how: &str, file: &str, end: &str) -> String {
    environment.does(["cache", "/root/.cache", how, file, end])
}

#[test]
fn a_cache_is_a_volume_that_stays() {
    on_file_systems(|environment, _| {
        assert_eq!(cached(environment, "shared", "a=1", "good"), "");
        assert_eq!(cached(environment, "locked", "a=2", "bad"), "1");
        assert_eq!(cached(environment, "private", "a=3", "good"), "2");
        let listed = environment.json(["volume", "ls", "--caches"]);
        assert_eq!((listed[0]["name"].as_str(), listed[0]["kind"].as_str()), (Some(CACHE), Some("cache")));
        let shown = environment.json(["volume", "show", CACHE]);
        let root = fs::metadata(shown["path"].as_str().unwrap()).unwrap();
        assert_eq!((root.uid(), root.gid(), root.mode() & 0o7777), (12, 34, 0o1750));
        environment.ok(["volume", "snapshot", CACHE, "one"]);
        assert_eq!(cached(environment, "shared", "a=4", "good"), "3");
        environment.ok(["volume", "restore", CACHE, "one"]);
        assert_eq!(cached(environment, "shared", "a=5", "good"), "3");
        let out = environment.path("out");
        environment.ok(["volume", "export", CACHE, &format!("dir:{}", out.display())]);
        assert_eq!(fs::read_to_string(out.join("a")).unwrap(), "5");
        assert!(
            environment.fails(["volume", "export", CACHE, "oci:x"]).contains("is a volume, and no image")
        );
        // Nothing removes it unasked, and what is locked nothing at all.
        environment.ok(["volume", "prune"]);
        environment.ok(["volume", "lock", CACHE]);
        environment.ok(["volume", "prune", "--caches"]);
        assert!(environment.fails(["volume", "rm", CACHE]).contains("locked"));
        environment.ok(["volume", "unlock", CACHE]);
        environment.ok(["volume", "prune", "--caches"]);
        assert_eq!(
            environment.json(["volume", "ls", "--caches"]).as_array().unwrap().len(),
            2,
            "snapshots stay"
        );
        environment.ok(["prune"]);
        assert_eq!(fs::read_dir(environment.store().join("steps/turns")).unwrap().count(), 0);
        environment.assert_clean();
    });
}

#[test]
fn two_users_of_a_cache_share_it_or_do_not() {
    on_file_systems(|environment, sort| {
        cached(environment, "shared", "a=first", "good");
        let (one, _) = Waiting::begin(environment, "shared", "b=one");
        assert_eq!(cached(environment, "shared", "b=two", "good"), "one");
        // A private one gets its own, which is gone afterwards.
        let found = cached(environment, "private", "b=three", "good");
        assert_eq!(found, if sort == FileSystem::Ext4 { "" } else { "two" }, "{sort}");
        assert_eq!(cached(environment, "shared", "b=four", "good"), "two");
        one.end();
        // Who locks waits for all of them, and all of them for who locks.
        let (one, found) = Waiting::begin(environment, "locked", "b=five");
        assert_eq!(found, "four");
        let second = {
            let mut command = Command::new(stepper());
            command.arg(environment.store()).args(["cache", "/root/.cache", "shared", "b=six", "good"]);
            let mut second = command.stdout(Stdio::piped()).spawn().unwrap();
            sleep(Duration::from_millis(200));
            assert!(second.try_wait().unwrap().is_none(), "it waits");
            one.end();
            ran(second.wait_with_output().unwrap())
        };
        assert_eq!((second.code, second.stdout.trim()), (0, "five"));
        environment.ok(["prune"]);
        environment.assert_clean();
    });
}

#[test]
fn a_cache_may_keep_only_what_succeeded() {
    on_file_systems(|environment, _| {
        cached(environment, "shared", "a=1", "good");
        environment.ok(["volume", "lock", CACHE]);
        assert_eq!(cached(environment, "shared+success", "a=2", "bad"), "1");
        assert_eq!(cached(environment, "shared+success", "a=3", "good"), "1");
        assert_eq!(cached(environment, "shared", "a=4", "good"), "3");
        assert_eq!(environment.json(["volume", "show", CACHE])["locked"], true, "it is the same volume");
        environment.ok(["prune"]);
        assert_eq!(fs::read_dir(environment.store().join("o")).unwrap().count(), 1);
        environment.assert_clean();
    });
}

#[test]
fn who_changed_a_path_is_told_of_steps_snapshots_and_the_beginning() {
    on_file_systems(|environment, sort| {
        environment.import_base();
        let one = environment.id(["step", "base", "one", "etc/one=1", "etc/motd=one"]);
        let two = environment.id(["step", &one, "two", "etc/two=2"]);
        let three = environment.id(["step", &two, "three", "etc/two=3", "srv/deep/file=x"]);
        environment.does(["built", &three, "app:1"]);
        let blamed = |arguments: &[&str]| {
            let rows = environment.json([&["blame"], arguments].concat());
            let rows: Vec<String> = rows
                .as_array()
                .unwrap()
                .iter()
                .map(|row| format!("{} {}", row["what"].as_str().unwrap(), row["state_id"].as_str().unwrap()))
                .collect();
            rows
        };
        let base = environment.json(["show", "base"])["id"].as_str().unwrap().to_owned();
        assert_eq!(
            blamed(&["app:1", "/etc/two", "etc/one", "/etc/motd", "/etc/hostname", "/srv", "/etc"]),
            [
                format!("changed {three}"),
                format!("added {one}"),
                format!("changed {one}"),
                format!("begun {base}"),
                format!("added {three}"),
                format!("changed {three}"),
            ],
            "{sort}"
        );
        assert_eq!(
            blamed(&["--all", "app:1", "/etc/two"]),
            [format!("changed {three}"), format!("added {two}")]
        );
        assert_eq!(
            blamed(&["app:1", "/bin/tool", "/bin"]),
            [format!("begun {base}"), format!("begun {base}")]
        );
        assert!(
            environment.fails(["blame", "app:1", "/etc/none"]).contains("nothing in the history of app:1")
        );
        let table = environment.ok(["blame", "app:1", "/etc/motd"]);
        assert!(table.contains("RUN make one"), "{table}");
        // A box goes on from there.
        environment.ok(["create", "app:1", "dev"]);
        let at = environment.path("at");
        fs::create_dir(&at).unwrap();
        environment.ok(["mount", "dev", at.to_str().unwrap()]);
        fs::remove_dir_all(at.join("srv")).unwrap();
        environment.ok(["umount", at.to_str().unwrap()]);
        environment.ok(["snapshot", "dev", "clean"]);
        let clean = environment.json(["show", "dev@clean"])["id"].as_str().unwrap().to_owned();
        assert_eq!(
            blamed(&["dev", "/srv/deep/file", "/etc/one"]),
            [format!("deleted {clean}"), format!("added {one}")]
        );
    });
}

#[test]
fn the_step_that_broke_something_is_found_by_halves() {
    on_file_systems(|environment, _| {
        if !environment.import_busybox() {
            return;
        }
        let built = environment.does(["build", "base", "app:1", "9", "x"]);
        let found = environment.json(["bisect", "app:1", "--", "test", "!", "-e", "/step-5"]);
        assert_eq!(found["message"], "RUN make base x 5");
        assert_eq!(found["first_bad_id"].as_str().unwrap(), environment.does(["look", "base x 5"]));
        assert!(found["steps"].as_array().unwrap().len() <= 4, "{built}");
        assert_eq!(found["changed"][0]["path"], "step-5");
        // From the base on, whatever that was built on.
        let found = environment.json(["bisect", "app:1", "--", "test", "!", "-e", "/step-8"]);
        assert_eq!(found["message"], "RUN make base x 8");
    });
}

#[test]
fn builds_are_drawn_with_what_came_of_them() {
    let environment = Environment::new();
    environment.import_base();
    environment.does(["build", "base", "app:1", "3", "x"]);
    environment.does(["fail", "base", "bad", "a=1"]);
    let rows = |arguments: &[&str]| {
        let rows = environment.json([&["log"], arguments].concat());
        let title = |row: &serde_json::Value| {
            let name = row["names"][0].as_str().or(row["message"].as_str());
            name.unwrap_or_default().to_owned()
        };
        let mut rows: Vec<String> = rows.as_array().unwrap().iter().map(title).collect();
        rows.sort();
        rows
    };
    let without = ["RUN make base x 0", "RUN make base x 1", "app:1", "base"];
    assert_eq!(rows(&["--graph"]), without, "what the image stands on");
    let with =
        ["RUN make bad", "RUN make base x 0", "RUN make base x 1", "RUN make base x 2", "app:1", "base"];
    assert_eq!(rows(&["--graph", "--builds"]), with);
    let drawn = environment.ok(["log", "--graph", "--builds"]);
    assert!(drawn.contains("RUN make bad  failed with code 2"), "{drawn}");
    assert_eq!(rows(&["@fail"]), ["RUN make bad", "base"]);
}

#[test]
fn nothing_of_a_build_goes_while_one_runs() {
    let environment = Environment::new();
    environment.import_base();
    let step = environment.id(["step", "base", "one", "a=1"]);
    let (build, _) = Waiting::of(&environment, &["running"]);
    let pruned = environment.run(["prune", "--builds=all", "--keep-builds", "0s"]);
    assert!(pruned.code == 0 && pruned.stderr.contains("a build runs"), "{}", pruned.stderr);
    assert_eq!(environment.does(["look", "one"]), step);
    build.end();
    environment.ok(["prune", "--builds=all"]);
    assert_eq!(environment.does(["look", "one"]), "-");
}

#[test]
fn a_failed_run_is_entered_with_its_caches_variables_and_network() {
    let environment = Environment::new();
    if !is_root() || !environment.import_busybox() {
        return;
    }
    let context = environment.path("context");
    fs::create_dir(&context).unwrap();
    fs::write(context.join("given"), "given\n").unwrap();
    let recipe = "FROM base\nARG WHO=you\nWORKDIR /srv\nRUN --mount=type=cache,target=/cache \\\n  \
        --mount=type=tmpfs,target=/memory --mount=type=bind,source=given,target=/given --network=none \\\n  \
        echo $WHO > /cache/who; echo left > left; exit 3\n";
    fs::write(context.join("Dockerfile"), recipe).unwrap();
    let failed = environment.fails(["build", context.to_str().unwrap()]);
    assert!(failed.contains("rootling enter @fail"), "{failed}");
    let script =
        "pwd; cat left /cache/who /given; echo $WHO; grep -c ' /memory ' /proc/mounts; ls /sys/class/net";
    let entered = environment.ok(["enter", "@fail", "--", "sh", "-c", script]);
    assert_eq!(entered, "/srv\nleft\nyou\ngiven\nyou\n1\nlo\n");
    assert_eq!(environment.json(["show", "@fail"])["step"]["failure"], serde_json::json!({"code": 3}));
    environment.assert_clean();
}
