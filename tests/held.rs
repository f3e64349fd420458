//! Trees that another program holds, through the library as the snapshotter uses it (`held/holder.rs`): the life of each, what the rest of the
//! program sees of them, and many at once.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use rootling::image::{ChainId, DiffId};
use serde_json::{Value, json};

use crate::environment::{Environment, skip};
use crate::grounds::on_file_systems;
use crate::host::FileSystem;
use crate::lab::eventually;
use crate::oci::{Tar, write_layout};
use holding::Holder;

mod holding;

#[track_caller]
fn open(environment: &Environment, kind: &str) -> Holder {
    Holder::open(&environment.store(), kind)
}

/// Removes everything, and asserts that nothing is left of it.
#[track_caller]
fn empty(mut holder: Holder, environment: &Environment) {
    holder.remove_all();
    holder.close();
    environment.ok(["prune"]);
    for directory in ["o", "held", "tmp", "trash"] {
        let left: Vec<_> = fs::read_dir(environment.store().join(directory)).unwrap().collect();
        assert!(left.is_empty(), "left in {directory}/: {left:?}");
    }
}

/// Every backend on every file system that has it.
fn on_backends(test: impl Fn(&Environment, &str) + Sync) {
    on_file_systems(|environment, sort| {
        let kinds: &[&str] = match sort {
            FileSystem::Btrfs => &["btrfs", "overlay"],
            FileSystem::Xfs => &["reflink", "overlay"],
            _ => &["copy", "overlay"],
        };
        for kind in kinds {
            test(environment, kind);
        }
    });
}

#[test]
fn labels_are_kept_of_one_whose_commit_could_not_be_finished() {
    on_backends(|environment, kind| {
        let objects = environment.store().join("o");
        let calls = [
            json!(["prepare", "other", "", {}]),
            json!(["prepare", "key", "", {}]),
            json!(["commit", "name", "key", "", {"a": "1"}]),
            json!(["sh", "other", format!("chattr -i {}/*", objects.display())]),
            json!(["label", "name", {"b": "2"}]),
            json!(["remove", "other"]),
        ];
        let mut command = Command::new(holding::example("holder"));
        command.arg(environment.store()).arg(kind).args(calls.map(|call| call.to_string()));
        command.env("ROOTLING_FAULT_STOP", "held.committed").stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        let stat = format!("/proc/{}/stat", child.id());
        eventually("it stands in the middle", || fs::read_to_string(&stat).unwrap().contains(") T "));
        // Nothing beside the tree can be renamed now, but the name is there.
        for object in fs::read_dir(&objects).unwrap() {
            let done = Command::new("chattr").arg("+i").arg(object.unwrap().path()).status().unwrap();
            assert!(done.success());
        }
        let id = nix::unistd::Pid::from_raw(child.id().cast_signed());
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGCONT).unwrap();
        let ended = child.wait_with_output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        let mut holder = open(environment, kind);
        let name = holder.stat("name");
        assert_eq!((name["kind"].as_str(), &name["labels"]), (Some("committed"), &json!({"b": "2"})));
        empty(holder, environment);
    });
}

#[test]
fn a_held_tree_lives_from_prepare_to_remove() {
    on_backends(|environment, kind| {
        let mut holder = open(environment, kind);
        let odd = "../../k8s.io/1/a b\n\u{1f}ä";
        let shown = holder.ok(json!(["prepare", odd, "", {"a": "1"}]));
        assert_eq!(shown["access"], "ReadWrite");
        assert_eq!(holder.ok(json!(["mounts", odd])), shown, "the same as before");
        assert_eq!(
            holder.sh(odd, "stat -c %a .; mkdir etc; echo one > etc/one; echo both > etc/both"),
            "755\n"
        );
        let before = holder.stat(odd);
        assert_eq!((before["kind"].as_str(), before["labels"].clone()), (Some("active"), json!({"a": "1"})));
        assert_eq!(before["created"], before["updated"]);
        holder.ok(json!(["commit", "one", odd, "", {"b": "2"}]));
        assert_eq!(holder.fails(json!(["stat", odd])), "NotFound");
        let after = holder.stat("one");
        assert_eq!((after["kind"].as_str(), after["labels"].clone()), (Some("committed"), json!({"b": "2"})));
        assert_eq!((&after["created"], &after["id"]), (&after["updated"], &before["id"]));
        assert!(after["created"].as_str() > before["created"].as_str());

        holder.ok(json!(["prepare", "two", "one", {}]));
        let script = "rm etc/both; echo two > etc/two; cat etc/one";
        assert_eq!(holder.sh("two", script), "one\n");
        holder.ok(json!(["commit", "two!", "two", "one", {}]));
        let shown = holder.ok(json!(["view", "seen", "two!", {}]));
        assert_eq!(shown["access"], "ReadOnly");
        assert_eq!(holder.sh("seen", "ls etc; if touch x 2> /dev/null; then echo written; fi"), "one\ntwo\n");
        holder.ok(json!(["view", "nothing", "", {}]));
        assert_eq!(holder.sh("nothing", "ls -A; if touch x 2> /dev/null; then echo written; fi"), "");
        assert_eq!(holder.stat("seen")["parent"], "two!");

        assert_eq!(holder.fails(json!(["remove", "one"])), "FailedPrecondition");
        assert_eq!(holder.fails(json!(["remove", "two!"])), "FailedPrecondition");
        holder.ok(json!(["remove", "seen"]));
        holder.ok(json!(["remove", "two!"]));
        assert_eq!(holder.fails(json!(["remove", "two!"])), "NotFound");
        assert_eq!(holder.keys(), ["nothing", "one"]);
        holder.ok(json!(["prepare", "two!", "one", {}]));
        assert_eq!(holder.sh("two!", "ls etc"), "both\none\n");
        environment.ok(["fsck", "--verify"]);
        empty(holder, environment);
    });
}

#[test]
fn what_cannot_be_done_says_which_kind_of_mistake_it_is() {
    on_file_systems(|environment, _| {
        let mut holder = open(environment, "-");
        holder.layer("base", "", "touch x");
        holder.ok(json!(["prepare", "active", "base", {}]));
        holder.ok(json!(["view", "view", "base", {}]));
        for (call, kind) in [
            (json!(["prepare", "active", "base", {}]), "AlreadyExists"),
            (json!(["view", "active", "", {}]), "AlreadyExists"),
            (json!(["prepare", "base", "", {}]), "AlreadyExists"),
            (json!(["prepare", "new", "gone", {}]), "NotFound"),
            (json!(["prepare", "new", "active", {}]), "InvalidInput"),
            (json!(["prepare", "new", "view", {}]), "InvalidInput"),
            (json!(["prepare", "", "", {}]), "InvalidInput"),
            (json!(["mounts", "gone"]), "NotFound"),
            (json!(["mounts", "base"]), "FailedPrecondition"),
            (json!(["commit", "base", "active", "", {}]), "AlreadyExists"),
            (json!(["commit", "active", "active", "", {}]), "AlreadyExists"),
            (json!(["commit", "new", "gone", "", {}]), "NotFound"),
            (json!(["commit", "new", "view", "", {}]), "FailedPrecondition"),
            (json!(["commit", "new", "base", "", {}]), "FailedPrecondition"),
            (json!(["commit", "new", "active", "view", {}]), "InvalidInput"),
            (json!(["remove", "gone"]), "NotFound"),
            (json!(["label", "gone", {}]), "NotFound"),
            (json!(["label", "view", {"big": "x".repeat(1 << 20)}]), "InvalidInput"),
            (json!(["usage", "gone"]), "NotFound"),
            (json!(["stat", "gone"]), "NotFound"),
        ] {
            assert_eq!(holder.fails(call.clone()), kind, "{call}");
        }
        assert_eq!(holder.keys(), ["active", "base", "view"], "nothing of it was done");
        empty(holder, environment);
    });
}

#[test]
fn what_is_held_outlives_who_serves_it_and_one_serves_at_a_time() {
    on_file_systems(|environment, _| {
        let mut holder = open(environment, "-");
        holder.layer("base", "", "echo hello > x");
        holder.ok(json!(["prepare", "active", "base", {"l": "old"}]));
        holder.ok(json!(["view", "view", "base", {}]));
        holder.ok(json!(["label", "active", {"l": "new"}]));
        let before = holder.ok(json!(["walk"]));
        assert!(before[0]["updated"].as_str() > before[0]["created"].as_str());
        let refused = Holder::try_open(&environment.store(), "-").err().unwrap();
        assert_eq!(refused["error"], "Busy");
        let says = refused["says"].as_str().unwrap();
        assert!(says.contains(&format!("process {}", holder.child.id())), "{says}");
        // As a kill -9 leaves it.
        holder.child.kill().unwrap();
        drop(holder);
        let mut holder = open(environment, "-");
        assert_eq!(holder.ok(json!(["walk"])), before);
        assert_eq!(holder.sh("active", "cat x"), "hello\n");
        assert_eq!(holder.sh("view", "cat x"), "hello\n");
        assert_eq!(holder.fails(json!(["remove", "base"])), "FailedPrecondition");
        empty(holder, environment);
    });
}

#[test]
fn many_at_once_do_not_get_in_each_others_way() {
    on_backends(|environment, kind| {
        let mut holder = open(environment, kind);
        holder.layer("base", "", "echo hello > x");
        let calls =
            |call: &dyn Fn(usize) -> Value| json!(["together", (0..32).map(call).collect::<Vec<_>>()]);
        let won = |answers: &Value| {
            answers.as_array().unwrap().iter().filter(|answer| answer.get("ok").is_some()).count()
        };
        let same = holder.ok(calls(&|_| json!(["prepare", "same", "base", {}])));
        assert_eq!(won(&same), 1, "{same}");
        let all = holder.ok(calls(&|number| json!(["prepare", format!("k{number}"), "base", {}])));
        assert_eq!(won(&all), 32, "{all}");
        let all =
            holder.ok(calls(&|number| json!(["sh", format!("k{number}"), format!("echo {number} > y")])));
        assert_eq!(won(&all), 32, "{all}");
        let one_name =
            holder.ok(calls(&|number| json!(["commit", "one name", format!("k{number}"), "", {}])));
        assert_eq!(won(&one_name), 1, "{one_name}");
        let all =
            holder.ok(calls(&|number| json!(["commit", format!("n{number}"), format!("k{number}"), "", {}])));
        assert_eq!(won(&all), 31, "{all}");
        let all = holder.ok(calls(&|number| json!(["view", format!("v{number}"), format!("n{number}"), {}])));
        assert_eq!(won(&all), 31, "{all}");
        let all = holder.ok(calls(&|number| json!(["sh", format!("v{number}"), "cat x y"])));
        for (number, answer) in all.as_array().unwrap().iter().enumerate() {
            let is_there = answer.get("ok").is_none_or(|text| *text == format!("hello\n{number}\n"));
            assert!(is_there, "{number}: {answer}");
        }
        // A child that comes and a parent that goes: one of the two is refused.
        for number in 0..8 {
            let (parent, child) = (format!("p{number}"), format!("c{number}"));
            holder.layer(&parent, "base", "echo p > p");
            let answers =
                holder.ok(json!(["together", [["remove", parent], ["prepare", child, parent, {}]]]));
            assert_eq!(won(&answers), 1, "{answers}");
            if answers[1].get("ok").is_some() {
                assert_eq!(holder.sh(&child, "cat p"), "p\n");
            }
        }
        environment.ok(["fsck", "--verify"]);
        empty(holder, environment);
    });
}

#[test]
fn people_fork_prune_and_check_while_the_holder_works() {
    on_backends(|environment, kind| {
        let mut holder = Holder::open(&environment.store(), kind);
        holder.layer("base", "", "echo hello > x");
        holder.ok(json!(["prepare", "written to", "base", {}]));
        let (stop, copied) = (AtomicBool::new(false), environment.path("copied"));
        std::thread::scope(|scope| {
            let people = scope.spawn(|| {
                let mut forks = 0;
                while !stop.load(Ordering::Relaxed) {
                    environment.ok(["-q", "fork", "containerd:written to", "fork"]);
                    environment.ok(["prune"]);
                    environment.ok(["-q", "cp", "fork:/x", copied.to_str().unwrap()]);
                    assert_eq!(fs::read_to_string(&copied).unwrap(), "hello\n");
                    environment.ok(["rm", "--now", "fork"]);
                    environment.ok(["fsck"]);
                    forks += 1;
                }
                forks
            });
            for round in 0..12 {
                let mut parent = "base".to_owned();
                for layer in 0..4 {
                    let name = format!("{round}-{layer}");
                    holder.layer(&name, &parent, &format!("echo {layer} > y{layer}"));
                    parent = name;
                }
                holder.sh("written to", &format!("echo {round} > z"));
                holder.ok(json!(["view", "v", parent, {}]));
                assert_eq!(holder.sh("v", "cat x y0 y1 y2 y3"), "hello\n0\n1\n2\n3\n");
                holder.ok(json!(["remove", "v"]));
                for layer in (0..4).rev() {
                    holder.ok(json!(["remove", format!("{round}-{layer}")]));
                }
                holder.ok(json!(["cleanup"]));
            }
            stop.store(true, Ordering::Relaxed);
            assert!(people.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) > 0);
        });
        assert_eq!(holder.sh("written to", "cat x z"), "hello\n11\n");
        empty(holder, environment);
    });
}

#[test]
fn what_was_prepared_on_nothing_gets_its_parent_when_it_is_committed() {
    on_backends(|environment, kind| {
        let mut holder = open(environment, kind);
        holder.layer("base", "", "mkdir d e; echo 1 > d/old; echo 1 > gone; echo 1 > e/under");
        // All three are unpacked at once, as OverlayFS would write them.
        let marks = "setfattr -n trusted.overlay.opaque -v y";
        for (key, script) in [
            ("l1", "mkdir d; echo 2 > d/new; mknod gone c 0 0".to_owned()),
            ("l2", format!("mkdir e; {marks} e; echo 3 > e/over")),
        ] {
            holder.ok(json!(["prepare", key, "", {}]));
            holder.sh(key, &script);
        }
        assert_eq!(holder.fails(json!(["commit", "n1", "l1", "nowhere", {}])), "NotFound");
        assert_eq!(holder.fails(json!(["commit", "n1", "l1", "l2", {}])), "FailedPrecondition");
        holder.ok(json!(["commit", "n1", "l1", "base", {}]));
        holder.ok(json!(["commit", "n2", "l2", "n1", {}]));
        assert_eq!(holder.stat("n2")["parent"], "n1");
        assert_eq!(holder.fails(json!(["remove", "base"])), "FailedPrecondition");
        holder.ok(json!(["view", "v", "n2", {}]));
        assert_eq!(holder.sh("v", "find . | LC_ALL=C sort"), ".\n./d\n./d/new\n./d/old\n./e\n./e/over\n");
        holder.ok(json!(["prepare", "k", "n2", {}]));
        assert_eq!(holder.sh("k", "rm d/old; find . | LC_ALL=C sort"), ".\n./d\n./d/new\n./e\n./e/over\n");
        environment.ok(["fsck", "--verify"]);
        drop(holder);
        let mut holder = open(environment, kind);
        assert_eq!(holder.sh("v", "cat d/new e/over"), "2\n3\n");
        empty(holder, environment);
    });
}

#[test]
fn a_chain_never_grows_beyond_what_its_holder_can_mount() {
    on_file_systems(|environment, sort| {
        if sort == FileSystem::Btrfs {
            return;
        }
        let mut holder = open(environment, "overlay");
        holder.layer("n0", "", "echo 0 > f0");
        let mut most = 0;
        for number in 1..340 {
            let key = format!("k{number}");
            let shown = holder.ok(json!(["prepare", key, format!("n{}", number - 1), {}]));
            most = most.max(options_of(&shown["mount"]));
            if number % 10 == 0 {
                holder.sh(&key, &format!("echo {number} > f{number}"));
            }
            holder.ok(json!(["commit", format!("n{number}"), key, "", {}]));
        }
        let shown = holder.ok(json!(["view", "v", "n339", {}]));
        assert!((3000..4096).contains(&most.max(options_of(&shown["mount"]))), "{most}");
        let files = holder.sh("v", "cat f0 f10 f330; ls | wc -l");
        assert_eq!(files, "0\n10\n330\n34\n");
        holder.close();
    });
}

#[test]
fn a_stack_that_is_too_deep_for_its_holder_is_copied() {
    on_file_systems(|environment, sort| {
        if sort != FileSystem::Ext4 {
            return;
        }
        let layout = environment.path("layout");
        let layer = |number: usize| Tar::default().file(&format!("f{number}"), format!("{number}\n")).end();
        let layers: Vec<_> = (0..330).map(layer).collect();
        let chain = write_layers(&layout, &layers).pop().unwrap();
        environment.ok(["-q", "pull", &format!("oci:{}", layout.display()), "deep:1"]);
        let mut holder = open(environment, "overlay");
        assert_eq!(holder.fails(json!(["prepare", "unpack", "", {REF: chain}])), "AlreadyExists");
        for (what, key) in [("view", "v"), ("prepare", "k")] {
            let shown = holder.ok(json!([what, key, chain, {}]));
            assert_eq!(shown["layers"], 1, "{shown}");
            assert_eq!(holder.sh(key, "cat f0 f329; ls | wc -l"), "0\n329\n330\n");
        }
        assert!(holder.call(&json!(["sh", "v", "touch x"])).get("ok").is_none());
        environment.ok(["fsck"]);
        environment.ok(["rm", "--now", "deep:1"]);
        empty(holder, environment);
    });
}

/// How long the options are that mount(2) gets of a containerd, which makes layers relative to the directory they share.
fn options_of(mount: &Value) -> usize {
    let Some(lowers) = mount["lowers"].as_array() else { return 0 };
    let layers: Vec<&str> = lowers.iter().map(|lower| lower.as_str().unwrap()).collect();
    let shared = layers[0].split_once("/o/").unwrap().0.len() + "/o/".len();
    let written = ["dir", "work"].map(|name| mount["upper"][name].as_str().map_or(0, str::len));
    let layers: usize = layers.iter().map(|layer| layer.len() - shared + 1).sum();
    "lowerdir=,upperdir=,workdir=,index=off".len() + layers + written.iter().sum::<usize>()
}

#[test]
fn usage_is_what_a_tree_adds_and_is_known_once() {
    on_backends(|environment, kind| {
        let mut holder = open(environment, kind);
        holder.layer(
            "base",
            "",
            "mkdir big; for i in $(seq 100); do head -c 65536 /dev/urandom > big/$i; done",
        );
        let usage = |holder: &mut Holder, key: &str| {
            let usage = holder.ok(json!(["usage", key]));
            (usage[0].as_u64().unwrap(), usage[1].as_u64().unwrap())
        };
        let (bytes, inodes) = usage(&mut holder, "base");
        assert!(
            (100 * 65536..120 * 65536).contains(&bytes) && (101..=102).contains(&inodes),
            "{bytes} {inodes}"
        );
        holder.ok(json!(["prepare", "k", "base", {}]));
        let (bytes, inodes) = usage(&mut holder, "k");
        assert!(bytes <= 16384 && inodes <= 2, "{bytes} {inodes}: nothing has changed");
        holder.sh("k", "head -c 1048576 /dev/urandom > new; rm big/1; sync");
        let (bytes, inodes) = usage(&mut holder, "k");
        assert!((1 << 20..2 << 20).contains(&bytes) && inodes <= 6, "{bytes} {inodes}");
        holder.ok(json!(["commit", "n", "k", "", {}]));
        let at_once = holder.ok(json!(["together", vec![json!(["usage", "n"]); 16]]));
        let known = usage(&mut holder, "n");
        for answer in at_once.as_array().unwrap() {
            assert_eq!(answer["ok"], json!([known.0, known.1]), "{at_once}");
        }
        assert!((1 << 20..2 << 20).contains(&known.0), "{known:?}");
        holder.ok(json!(["view", "v", "n", {}]));
        assert_eq!(usage(&mut holder, "v"), (0, 0));
        holder.close();
        let mut holder = open(environment, kind);
        assert_eq!(usage(&mut holder, "n"), known);
        empty(holder, environment);
    });
}

#[test]
fn people_see_what_is_held_and_can_use_it_but_not_remove_it() {
    on_backends(|environment, kind| {
        let mut holder = open(environment, kind);
        holder.layer("default/1/base", "", "mkdir etc; echo one > etc/one");
        holder.ok(json!(["prepare", "default/2/web", "default/1/base", {"owner": "me"}]));
        holder.sh("default/2/web", "echo two > etc/two");
        holder.ok(json!(["view", "default/3/seen", "default/1/base", {}]));
        let id = |holder: &mut Holder, key: &str| holder.stat(key)["id"].as_str().unwrap().to_owned();
        let (base, web) = (id(&mut holder, "default/1/base"), id(&mut holder, "default/2/web"));

        assert_eq!(environment.json(["ls"]), json!([]), "nobody's boxes");
        let all = environment.json(["ls", "--all"]);
        let row = all.as_array().unwrap().iter().find(|row| row["id"] == web.as_str()).unwrap();
        assert_eq!(
            (row["kind"].as_str(), row["held"]["key"].as_str()),
            (Some("held"), Some("default/2/web"))
        );
        assert!(environment.ok(["ls", "--all"]).contains("containerd:default/2/web (active)"));
        let shown = environment.json(["show", "containerd:default/2/web"]);
        assert_eq!(
            (shown["id"].as_str(), shown["held"]["labels"]["owner"].as_str()),
            (Some(&*web), Some("me"))
        );
        assert_eq!(environment.json(["show", "containerd:web"])["id"], web.as_str());
        assert!(environment.fails(["show", "containerd:b"]).contains("containerd holds no \"b\""));
        assert!(environment.ok(["show", &web]).contains("containerd:default/2/web (active)"));
        assert_eq!(environment.ok(["diff", "containerd:web"]), "A /etc/two\n");
        assert_eq!(environment.ok(["diff", &base, &web]), "A /etc/two\n");
        let log = environment.ok(["log", &web]);
        assert!(log.contains(&base) && log.contains("containerd:default/2/web (active)"), "{log}");
        let copied = environment.path("copied");
        environment.ok(["-q", "cp", "containerd:web:/etc/two", copied.to_str().unwrap()]);
        assert_eq!(fs::read_to_string(&copied).unwrap(), "two\n");
        fs::remove_file(&copied).unwrap();
        environment.ok(["du", &web, &base]);
        let refused = environment.fails(["rm", "--now", "--force", &web]);
        assert!(refused.contains("is held by containerd as \"default/2/web\""), "{refused}");
        assert!(refused.contains("ctr snapshots rm"), "{refused}");
        assert!(environment.fails(["rm", &base]).contains("is held by containerd"));

        // Of each a fork, also of what is written to just now.
        environment.ok(["-q", "fork", &base, "of-base"]);
        environment.ok(["-q", "fork", "containerd:web", "of-web"]);
        environment.ok(["-q", "commit", "of-web", "committed"]);
        assert_eq!(environment.ok(["diff", &base, "committed"]), "A /etc/two\n");
        holder.sh("default/2/web", "echo three > etc/three");
        assert_eq!(
            environment.ok(["diff", &base, &web]),
            "A /etc/three\nA /etc/two\n",
            "it stayed where it was"
        );
        assert_eq!(environment.ok(["diff", "committed", "containerd:web"]), "A /etc/three\n");

        // What is held stays whatever is pruned, and what was forked stays when it is not held any more.
        environment.ok(["prune"]);
        environment.ok(["fsck", "--verify"]);
        assert_eq!(holder.sh("default/2/web", "cat etc/one etc/two"), "one\ntwo\n");
        holder.ok(json!(["commit", "default/4/web", "default/2/web", "", {}]));
        environment.ok(["-q", "create", "containerd:default/4/web", "late"]);
        environment.ok(["-q", "tag", "containerd:default/1/base", "named"]);
        environment.ok(["rm", "--now", "--force", "named"]);
        assert!(environment.fails(["rm", &base]).contains("is held by containerd"), "only the name went");
        environment.ok(["-q", "tag", "containerd:default/1/base", "named"]);
        for key in ["default/3/seen", "default/4/web", "default/1/base"] {
            holder.ok(json!(["remove", key]));
        }
        holder.ok(json!(["cleanup"]));
        environment.ok(["prune"]);
        environment.ok(["fsck", "--verify"]);
        assert_eq!(environment.ok(["diff", "of-base", "late"]), "A /etc/three\nA /etc/two\n");
        for name in ["late", "of-web", "of-base", "committed", "named"] {
            environment.ok(["rm", "--now", name]);
        }
        empty(holder, environment);
    });
}

#[test]
fn nobody_writes_to_a_delta_that_may_be_mounted_elsewhere() {
    on_file_systems(|environment, sort| {
        let mut holder = open(environment, "overlay");
        holder.layer("base", "", "mkdir etc; echo one > etc/one");
        holder.ok(json!(["prepare", "web", "base", {}]));
        for command in ["exec", "enter"] {
            let refused = environment.fails([command, "containerd:web", "/bin/true"]);
            assert!(refused.contains("is mounted by containerd alone"), "{sort}: {refused}");
            assert!(refused.contains("rootling fork"), "{refused}");
        }
        let place = environment.path("place");
        fs::create_dir(&place).unwrap();
        assert!(
            environment.fails(["mount", "containerd:web", place.to_str().unwrap()]).contains("containerd")
        );
        assert!(environment.fails(["snapshot", "containerd:web"]).contains("is not a box"));
        assert!(environment.fails(["undo", "containerd:web"]).contains("is not a box"));
        assert!(environment.fails(["rename", "containerd:web", "x"]).contains("no name"));
        empty(holder, environment);
    });
}

// ---------------------------------------------------------------- layers that both know

/// An image of two layers, its chain ids, and its layout.
fn write_image(at: &Path) -> [String; 2] {
    let base = Tar::default().dir("etc/").file("etc/motd", "welcome\n").end();
    let second = Tar::default().dir("etc/").file("etc/second", "added\n").end();
    write_layers(at, &[base, second]).try_into().unwrap()
}

/// An image of these layers; returns its chain ids.
fn write_layers(at: &Path, layers: &[Vec<u8>]) -> Vec<String> {
    write_layout(at, layers, &json!({ "Cmd": ["/x"] }));
    let blobs = at.join("blobs/sha256");
    let configs = fs::read_dir(blobs).unwrap().filter_map(|blob| {
        let value: Value = serde_json::from_slice(&fs::read(blob.unwrap().path()).unwrap()).ok()?;
        value["rootfs"]["diff_ids"].is_array().then_some(value)
    });
    let config = configs.last().unwrap();
    let diff_ids: Vec<DiffId> = serde_json::from_value(config["rootfs"]["diff_ids"].clone()).unwrap();
    ChainId::of_all(&diff_ids).iter().map(ChainId::to_string).collect()
}

const REF: &str = "containerd.io/snapshot.ref";

#[test]
fn layers_that_were_pulled_are_not_unpacked_again_for_the_holder() {
    on_backends(|environment, kind| {
        let layout = environment.path("layout");
        let chains = write_image(&layout);
        environment.ok(["-q", "pull", &format!("oci:{}", layout.display()), "app:1"]);
        let mut holder = open(environment, kind);
        for namespace in ["", "other/"] {
            let mut parent = String::new();
            for chain in &chains {
                let key = format!("{namespace}extract-1 {chain}");
                let labels = json!({REF: chain, "more": "x"});
                assert_eq!(holder.fails(json!(["prepare", key, parent, labels])), "AlreadyExists");
                let all = holder.ok(json!(["walk"]));
                let found: Vec<&Value> = all
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter(|info| info["labels"][REF] == chain.as_str() && info["parent"] == parent.as_str())
                    .collect();
                assert_eq!(found.len(), 1, "{all}");
                assert_eq!(
                    (found[0]["kind"].as_str(), found[0]["labels"]["more"].as_str()),
                    (Some("committed"), Some("x"))
                );
                parent = found[0]["key"].as_str().unwrap().to_owned();
            }
            holder.ok(json!(["prepare", format!("{namespace}run"), parent, {}]));
            assert_eq!(holder.sh(&format!("{namespace}run"), "cat etc/motd etc/second"), "welcome\nadded\n");
        }
        assert_eq!(holder.keys().len(), 4, "the second namespace is given what the first has");
        // An unknown stack is prepared to be unpacked.
        let unknown = format!("sha256:{}", "0".repeat(64));
        holder.ok(json!(["prepare", "unknown", "", {REF: unknown}]));
        // Another parent, which the second layer of that image lies on, too.
        holder.layer("elsewhere", "", "touch x");
        assert_eq!(holder.fails(json!(["prepare", "k", "elsewhere", {REF: chains[1]}])), "AlreadyExists");
        environment.ok(["rm", "app:1"]);
        let pruned = environment.json(["prune", "--removed"]);
        assert!(pruned["let_go"][0]["name"].as_str().unwrap().starts_with("app:1"), "{pruned}");
        environment.ok(["fsck", "--verify"]);
        assert_eq!(holder.sh("run", "cat etc/motd etc/second"), "welcome\nadded\n");
        empty(holder, environment);
    });
}

#[test]
fn layers_that_a_holder_unpacked_are_not_unpacked_again_by_a_pull() {
    on_backends(|environment, kind| {
        let layout = environment.path("layout");
        let chains = write_image(&layout);
        let mut holder = open(environment, kind);
        let first = format!("k8s.io/7/{}", chains[0]);
        holder.layer(&first, "", "mkdir etc; echo welcome > etc/motd");
        let second = format!("k8s.io/8/{}", chains[1]);
        holder.layer(&second, &first, "echo added > etc/second");
        let objects = || fs::read_dir(environment.store().join("o")).unwrap().count();
        assert_eq!(objects(), 2);
        environment.ok(["-q", "pull", &format!("oci:{}", layout.display()), "app:1"]);
        assert_eq!(objects(), 3, "the image, and no layer");
        let ids = [&first, &second].map(|key| holder.stat(key)["id"].clone());
        let shown = environment.json(["show", "app:1"]);
        let on_disk = [shown["path"].as_str().unwrap(), ids[1].as_str().unwrap()];
        assert!(on_disk[0].contains(on_disk[1]), "{on_disk:?}");
        assert_eq!(environment.json(["images"])[0]["layers"], 2);
        // Labels are changed beside what the pull has written.
        holder.ok(json!(["label", second, {"x": "y"}]));
        environment.ok(["fsck", "--verify"]);
        for key in [&second, &first] {
            holder.ok(json!(["remove", key]));
        }
        holder.ok(json!(["cleanup"]));
        environment.ok(["prune"]);
        environment.ok(["fsck", "--verify"]);
        environment.ok(["-q", "create", "app:1", "dev"]);
        let saved = environment.path("saved");
        environment.ok(["-q", "save", "-o", saved.to_str().unwrap(), "app:1"]);
        environment.ok(["rm", "--now", "dev"]);
        environment.ok(["rm", "--now", "app:1"]);
        empty(holder, environment);
    });
}

// ---------------------------------------------------------------- many

#[test]
fn thousands_are_listed_from_memory() {
    on_file_systems(|environment, sort| {
        if sort != FileSystem::Ext4 {
            return;
        }
        let mut holder = open(environment, "overlay");
        holder.layer("base", "", "touch x");
        holder.ok(json!(["time", 1000, ["prepare", "k#", "base", {"l": "#"}]]));
        holder.close();
        let mut holder = open(environment, "overlay");
        assert_eq!(holder.keys().len(), 1001);
        let store = environment.store();
        let mut looks = |call| calls_of(&mut holder, &call, store.to_str().unwrap());
        let Some(looks_of_one) = looks(json!(["view", "v", "base", {}])) else { return };
        assert_ne!(looks_of_one, [""; 0], "calls are seen");
        assert_eq!(looks(json!(["walk"])).unwrap(), [""; 0]);
    });
}

/// The system calls with a path below `place` that a call makes; `None` where they cannot be seen.
fn calls_of(holder: &mut Holder, call: &Value, place: &str) -> Option<Vec<String>> {
    let pid = holder.child.id().to_string();
    let strace = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=%file", "-p", &pid])
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut strace) = strace else {
        skip("strace is not installed");
        return None;
    };
    let status = format!("/proc/{pid}/status");
    let is_watched = || !fs::read_to_string(&status).unwrap().contains("TracerPid:\t0\n");
    eventually("strace watches it, or may not", || is_watched() || strace.try_wait().unwrap().is_some());
    if !is_watched() {
        skip("strace may not watch it");
        return None;
    }
    holder.ok(call.clone());
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(strace.id().cast_signed()),
        nix::sys::signal::Signal::SIGINT,
    )
    .unwrap();
    let said = BufReader::new(strace.stderr.take().unwrap()).lines().map_while(Result::ok);
    let said = said.filter(|line| line.contains(place)).collect();
    strace.wait().unwrap();
    Some(said)
}
