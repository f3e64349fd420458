//! What is removed and brought back, renamed, locked, tagged, noted; what is snapshotted by itself, and what of it is kept.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::environment::{Environment, can_make, is_root, ran, skip};
use crate::processes::{Boxes, Session};

/// A store with the box `dev`, of which `exec` makes a snapshot before each command if something changed.
fn with_history() -> Option<Environment> {
    let environment = Environment::new();
    if !environment.import_busybox() {
        return None;
    }
    environment.ok(["create", "base", "dev"]);
    environment.ok(["policy", "dev", "--every", "exec"]);
    Some(environment)
}

fn touch(environment: &Environment, name: &str) {
    environment.ok(["exec", "dev", "--", "touch", &format!("/{name}")]);
}

fn names(environment: &Environment, directory: &str) -> Vec<String> {
    let entries = fs::read_dir(environment.store().join(directory)).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn objects(environment: &Environment) -> usize {
    names(environment, "o").len()
}

// ---------------------------------------------------------------- removing and bringing back

const LIFE: &str = "
    $R -q create base dev > /dev/null
    $R -q policy dev --every exec > /dev/null
    for name in one two; do $R -q exec dev -- touch /$name; done; $R -q exec dev -- true; $R -q exec dev -- true
    $R -q rename dev@1 dev@first
    $R -q fork dev@first other > /dev/null
    $R rm dev
    $R -q ls; $R -q undelete
    $R -q exec other -- ls /one
    $R -q create base dev > /dev/null
    $R undelete dev 2>&1 | grep -o 'name dev is taken\\|undelete dev --as NAME'
    $R undelete dev --as old
    $R -q run old@first -- sh -c 'ls /one /two 2> /dev/null || true'; $R -q run old@2 -- ls /one /two
    $R -q rename old new
    $R -q run new@2 -- ls /two; $R -q exec new -- ls /two; $R show old@2 2> /dev/null || echo moved
    $R -q rm --now dev other new@first
    $R -q rm new; $R -q prune; $R -q undelete
    $R -q prune --removed; $R -q undelete; ls $ROOTLING_ROOT/o | wc -l; $R fsck | grep -o clean
";

const LIFE_PRINTS: &str = "base\nother\ndev\ndev@2\ndev@first\n/one\nname dev is taken\nundelete dev --as NAME\nold\n\
    /one\n/one\n/two\n/two\n/two\nmoved\nnew\nnew@2\nnew\nnew@2\n1\nclean\n";

#[test]
fn what_is_removed_keeps_its_snapshots_and_comes_back_on_every_file_system() {
    for file_system in ["btrfs", "xfs", "ext4"] {
        let environment = Environment::new();
        if !environment.import_busybox() {
            return;
        }
        if !can_make(file_system) {
            continue;
        }
        for backend in ["overlay", "auto"] {
            let script = format!(
                "disk {file_system}
                $R -q init --backend {backend} > /dev/null; $R -q import dir:$D/root base > /dev/null
                {LIFE}"
            );
            let ran = environment.script(&script);
            let printed: String = ran.stdout.lines().map(|line| format!("{line}\n")).collect();
            assert_eq!(printed, LIFE_PRINTS, "{file_system} {backend}: {}", ran.stderr);
            assert!(
                ran.stderr.contains(
                    "removed dev and its 2 snapshots: within 7d, rootling undelete dev brings it back"
                ),
                "{file_system} {backend}: {}",
                ran.stderr
            );
        }
    }
}

#[test]
fn a_tree_that_others_stand_on_loses_only_its_name() {
    let environment = Environment::new();
    environment.import_base();
    environment.ok(["create", "base", "dev"]);
    environment.ok(["rm", "base"]);
    assert_eq!(environment.ok(["-q", "ls"]), "dev\n");
    assert_eq!(environment.ok(["diff", "dev"]), "", "it still stands");
    environment.ok(["import", &format!("dir:{}", environment.path("root").display()), "base"]);
    assert_eq!(environment.ok(["undelete", "base", "--as", "older"]), "older\n");
    assert_eq!(environment.ok(["diff", "base..older"]), "");
    environment.ok(["rm", "dev", "base", "older"]);
    assert_eq!(environment.ok(["prune", "--removed", "-q"]), "dev\nbase\nolder\n");
    environment.assert_tidy(&[]);
    assert_eq!(objects(&environment), 0);
}

/// Makes `dev`, mounted while it is snapshotted: the state lies beside the box, whose record alone says what came before.
fn with_a_state_beside(environment: &Environment) -> bool {
    if !is_root() {
        return false;
    }
    environment.import_base();
    let view = environment.path("view");
    fs::create_dir(&view).unwrap();
    environment.ok(["create", "base", "dev", "--backend", "overlay"]);
    environment.ok(["mount", "dev", view.to_str().unwrap()]);
    fs::write(view.join("x"), "x").unwrap();
    environment.ok(["snapshot", "dev"]);
    fs::write(view.join("y"), "y").unwrap();
    environment.ok(["umount", view.to_str().unwrap()]);
    true
}

/// The box waited for itself once: its record follows a snapshot that goes with it.
#[test]
fn a_box_goes_with_the_state_that_lies_beside_it() {
    let environment = Environment::new();
    if !with_a_state_beside(&environment) {
        return;
    }
    environment.ok(["rm", "--now", "dev"]);
    assert_eq!(names(&environment, "n"), ["base"]);
    assert_eq!(objects(&environment), 1);
}

#[test]
fn a_box_outlives_the_state_beside_it_that_went_with_another_box() {
    let environment = Environment::new();
    if !with_a_state_beside(&environment) {
        return;
    }
    environment.ok(["create", "dev@1", "other"]);
    environment.ok(["rm", "--now", "dev@1"]);
    environment.ok(["rm", "--now", "other"]);
    assert!(environment.ok(["show", "dev"]).contains("history   base"));
    assert_eq!(environment.ok(["diff", "dev~1", "dev"]), "A /x\nA /y\n");
    environment.ok(["policy", "dev", "--every", "@hourly"]);
    environment.ok(["policy", "run"]);
    assert_eq!(names(&environment, "n"), ["base", "dev", "dev@2"]);
}

#[test]
fn one_name_can_have_been_removed_several_times() {
    let environment = Environment::new();
    environment.import_base();
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(environment.ok(["create", "base", "dev"]).trim().to_owned());
        environment.ok(["rm", "dev"]);
    }
    let list = environment.json(["rm", "--list"]);
    assert_eq!(
        (&list[0]["name"], &list[0]["id"], &list[1]["id"]),
        (&json!("dev"), &json!(ids[0]), &json!(ids[1]))
    );
    assert!(environment.ok(["undelete"]).starts_with("NAME  ID"), "{}", environment.ok(["undelete"]));
    environment.ok(["undelete", &ids[0], "--as", "first"]);
    environment.ok(["undelete", "dev"]);
    assert_eq!(environment.json(["show", "first"])["id"], ids[0].as_str());
    assert_eq!(environment.json(["show", "dev"])["id"], ids[1].as_str());
    let stderr = environment.fails(["undelete", "dev"]);
    assert!(stderr.contains("no dev was removed that is still there"), "{stderr}");
    environment.ok(["rm", "dev"]);
    assert!(environment.fails(["undelete", "dve"]).contains("did you mean dev?"));
    // Not before its time, and then with the next prune.
    environment.ok(["prune"]);
    environment.ok(["prune", "--keep-removed", "1h"]);
    assert_eq!(environment.ok(["-q", "undelete"]), "dev\n");
    environment.ok(["prune", "--keep-removed", "0s"]);
    assert_eq!(environment.ok(["-q", "undelete"]), "");
    environment.assert_tidy(&["base", "first"]);
    assert_eq!(names(&environment, "removed"), [""; 0]);
}

#[test]
fn volumes_come_back_too() {
    let environment = Environment::new();
    environment.ok(["volume", "create", "data"]);
    environment.ok(["volume", "snapshot", "data", "one"]);
    let ran = environment.run(["volume", "rm", "data", "--snapshots"]);
    assert!(ran.stderr.contains("within 7d, rootling volume undelete data brings it back"), "{}", ran.stderr);
    assert_eq!(environment.ok(["-q", "volume", "ls"]), "");
    assert_eq!(environment.ok(["-q", "undelete"]), "data\ndata@one\n");
    assert!(environment.fails(["undelete", "data"]).contains("no data was removed"));
    environment.ok(["volume", "undelete", "data"]);
    environment.ok(["volume", "undelete", "data@one"]);
    assert_eq!(environment.ok(["-q", "volume", "ls"]), "data\ndata@one\n");
    environment.ok(["volume", "rm", "--now", "--snapshots", "data"]);
    assert_eq!(environment.ok(["-q", "undelete"]), "");
    assert_eq!(objects(&environment), 0);
}

#[test]
fn what_fsck_finds_in_the_removed() {
    let environment = Environment::new();
    environment.import_base();
    environment.ok(["create", "base", "dev"]);
    environment.ok(["rm", "dev"]);
    environment.ok(["fsck"]);
    let removal = environment.store().join("removed").join(&names(&environment, "removed")[0]);
    let link = removal.join("dev");
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("../o/00000000", &link).unwrap();
    fs::write(removal.join("-x"), "").unwrap();
    let said = environment.run(["fsck"]);
    assert_eq!(said.code, 1);
    assert!(said.stdout.contains("dev was removed and leads to nothing"), "{}", said.stdout);
    assert!(said.stdout.contains("is nothing that was removed"), "{}", said.stdout);
    fs::remove_file(removal.join("-x")).unwrap();
    environment.ok(["fsck", "--repair"]);
    environment.ok(["fsck"]);
    assert!(!link.is_symlink(), "what leads to nothing is gone");
}

// ---------------------------------------------------------------- other names, locks, notes

#[test]
fn a_renamed_box_runs_on_and_keeps_its_history() {
    let Some(environment) = with_history() else { return };
    for name in ["a", "b", "c"] {
        touch(&environment, name);
    }
    environment.ok(["start", "dev", "--", "sleep", "1000"]);
    environment.ok(["rename", "dev", "web"]);
    assert_eq!(environment.ok(["exec", "web", "--", "hostname"]), "dev\n", "it goes on as it was");
    assert_eq!(environment.ok(["-q", "ps"]), "web\n");
    assert!(environment.fails(["rm", "web"]).contains("in use"));
    environment.ok(["stop", "-t", "1", "web"]);
    assert_eq!(names(&environment, "n"), ["base", "web", "web@1", "web@2", "web@3"]);
    assert_eq!(environment.ok(["exec", "web", "--", "hostname"]), "web\n");
    environment.ok(["rename", "web@2", "web@good"]);
    for (arguments, said) in [
        (&["rename", "web", "base"][..], "is taken"),
        (&["rename", "web@good", "web@1"], "is taken"),
        (&["rename", "web@good", "good"], "is a snapshot of web"),
        (&["rename", "web@good", "other@good"], "is a snapshot of web"),
        (&["rename", "base", "web@x"], "is the name of a snapshot"),
        (&["rename", "nothing", "x"], "there is no nothing"),
    ] {
        let error = environment.fails(arguments);
        assert!(error.contains(said), "{arguments:?}: {error}");
    }
    environment.ok(["rename", "base", "bottom"]);
    assert_eq!(environment.json(["show", "-"])["name"], "bottom");
    assert_eq!(environment.ok(["-q", "ls"]), "bottom\nweb\n");
    environment.ok(["fsck"]);
}

#[test]
fn a_tag_never_makes_a_box_of_what_was_committed() {
    if !is_root() {
        return;
    }
    let environment = Environment::new();
    environment.import_base();
    environment.ok(["create", "base", "dev", "--backend", "overlay"]);
    environment.script_ok("mkdir $D/m; $R -q mount dev $D/m; touch $D/m/new; $R -q umount $D/m");
    environment.ok(["commit", "dev", "kept"]);
    environment.ok(["rename", "dev", "work"]);
    // The tree was sealed in place as a box called dev.
    environment.ok(["tag", "kept", "dev"]);
    let shown = environment.json(["show", "dev"]);
    assert_eq!((&shown["kind"], &shown["id"]), (&json!("tree"), &environment.json(["show", "kept"])["id"]));
    assert!(environment.fails(["enter", "dev", "--", "true"]).contains("dev is committed"));
    assert!(environment.fails(["tag", "work", "other"]).contains("work is a box"));
    assert!(environment.fails(["tag", "kept", "base"]).contains("is taken"));
    environment.ok(["rm", "--now", "--force", "kept"]);
    environment.ok(["rm", "--now", "work"]);
    assert_eq!(environment.json(["show", "dev"])["name"], "dev", "the other name keeps it");
    environment.ok(["fsck"]);
}

#[test]
fn nothing_removes_what_is_locked() {
    let Some(environment) = with_history() else { return };
    for name in ["a", "b", "c", "d"] {
        touch(&environment, name);
    }
    environment.ok(["lock", "dev@1"]);
    for arguments in
        [&["rm", "dev@1"][..], &["rm", "--now", "dev@1"], &["rm", "dev"], &["rm", "--now", "--force", "dev"]]
    {
        let error = environment.fails(arguments);
        assert!(
            error.contains("dev@1 is locked") && error.contains("unlock dev@1"),
            "{arguments:?}: {error}"
        );
    }
    environment.ok(["prune", "--keep-last", "1"]);
    assert_eq!(names(&environment, "n"), ["base", "dev", "dev@1", "dev@3"]);
    environment.ok(["unlock", "dev@1"]);
    // The lock of a box goes on with it from state to state.
    environment.ok(["lock", "dev"]);
    touch(&environment, "e");
    touch(&environment, "f");
    assert!(environment.fails(["rm", "dev"]).contains("dev is locked"));
    assert_eq!(environment.json(["unlock", "dev"])[0]["locked"], false);
    environment.ok(["rm", "dev"]);
    let nameless = environment.json(["show", "base"])["id"].as_str().unwrap().to_owned();
    environment.ok(["rm", "base"]);
    assert!(environment.fails(["lock", &nameless]).contains("has no name"));
}

#[test]
fn notes_are_written_shown_and_taken_off() {
    let environment = Environment::new();
    environment.import_base();
    environment.ok(["create", "base", "dev"]);
    for name in ["base", "dev"] {
        assert_eq!(environment.ok(["note", name]), "");
        assert_eq!(environment.ok(["note", name, "mine\u{1b}[2J\nand yours"]), "");
        assert_eq!(environment.ok(["note", name]), "mine\\x1b[2J\nand yours\n");
        assert_eq!(environment.json(["note", name])["note"], "mine\u{1b}[2J\nand yours");
        assert!(environment.ok(["show", name]).contains("note      mine\\x1b[2J …\n"));
    }
    environment.ok(["note", "base", "--clear"]);
    environment.ok(["commit", "dev", "kept"]);
    assert_eq!(environment.json(["note", "kept"])["note"], json!(null), "a box's note is no state's");
    assert_eq!(environment.json(["show", "dev"])["note"], "mine\u{1b}[2J\nand yours");
    environment.ok(["note", "dev", "--clear"]);
    assert_eq!(environment.ok(["note", "dev"]), "");
}

// ---------------------------------------------------------------- policies

#[test]
fn a_policy_snapshots_before_commands_and_only_what_changed() {
    let Some(environment) = with_history() else { return };
    touch(&environment, "a");
    assert_eq!(names(&environment, "n"), ["base", "dev"], "nothing had changed before that");
    let ran = environment.run(["exec", "dev", "--", "touch", "/b"]);
    assert!(ran.stderr.contains("kept dev@1 before exec touch /b"), "{}", ran.stderr);
    let shown = environment.json(["show", "dev@1"]);
    assert_eq!((&shown["message"], &shown["cause"]), (&json!("exec touch /b"), &json!("automatic")));
    environment.ok(["enter", "dev", "--", "true"]);
    assert_eq!(names(&environment, "n"), ["base", "dev", "dev@1"], "enter is not in the policy");
    environment.ok(["policy", "dev", "--every", "enter", "--keep-last", "3", "--keep-daily", "7"]);
    assert_eq!(environment.ok(["policy", "dev"]), "every     enter\nkeep      last 3, daily 7, labelled\n");
    environment.ok(["exec", "dev", "--", "true"]);
    environment.ok(["enter", "dev", "--", "true"]);
    environment.ok(["enter", "dev", "--", "true"]);
    assert_eq!(names(&environment, "n"), ["base", "dev", "dev@1", "dev@2"]);
    assert_eq!(environment.ok(["run", "dev@2", "--", "ls", "/a", "/b"]), "/a\n/b\n");
    // A command that joins: the box is snapshotted as it runs.
    environment.ok(["policy", "dev", "--every", "exec"]);
    environment.ok(["start", "dev", "--", "sleep", "1000"]);
    // The mount points of generated files are there while it runs.
    environment.ok(["exec", "dev", "--", "touch", "/c"]);
    environment.ok(["exec", "dev", "--", "true"]);
    environment.ok(["exec", "dev", "--", "true"]);
    environment.ok(["stop", "-t", "1", "dev"]);
    assert_eq!(names(&environment, "n"), ["base", "dev", "dev@1", "dev@2", "dev@3", "dev@4"]);
    assert_eq!(environment.ok(["diff", "dev@3..dev@4"]), "A /c\n");
    let policy = &environment.json(["policy", "dev"])["policy"];
    assert_eq!(*policy, json!({ "every": ["exec"], "last": 3, "daily": 7, "labelled": true }));
    environment.ok(["policy", "dev", "--every", "never"]);
    assert!(environment.ok(["policy", "dev"]).starts_with("every     never\n"));
    environment.ok(["policy", "dev", "--clear"]);
    assert!(environment.ok(["policy", "dev"]).starts_with("no policy"));
    assert!(environment.fails(["policy", "dev", "--every", "@yearly"]).contains("say enter, exec, @hourly"));
    assert!(environment.fails(["policy", "base"]).contains("base is committed"));
}

#[test]
fn what_is_due_is_made_once_and_what_no_policy_keeps_goes() {
    let Some(environment) = with_history() else { return };
    touch(&environment, "a");
    environment.ok(["policy", "dev", "--every", "@daily,@hourly"]);
    environment.ok(["policy", "run"]);
    environment.ok(["exec", "dev", "--", "touch", "/b"]);
    environment.ok(["policy", "run"]);
    let made = names(&environment, "n");
    // Across the full hour there may be two.
    assert!(made.len() == 3 || made.len() == 4, "{made:?}");
    assert_eq!(environment.json(["show", "dev@1"])["message"], "@hourly");
    environment.ok(["policy", "dev", "--every", "exec", "--keep-last", "2"]);
    for name in ["c", "d", "e", "f"] {
        touch(&environment, name);
    }
    environment.ok(["rename", "dev@1", "dev@first"]);
    environment.ok(["policy", "run"]);
    let left = names(&environment, "n");
    assert_eq!(left.len(), 5, "{left:?}");
    assert!(left.contains(&"dev@first".to_owned()), "{left:?}");
    environment.ok(["prune", "--keep-last", "1", "--keep-labelled=false", "dev"]);
    assert_eq!(names(&environment, "n").len(), 3);
    assert!(environment.fails(["prune", "dev"]).contains("nothing says what to keep"));
    assert!(environment.fails(["prune", "--keep-labelled"]).contains("how many snapshots are kept"));
    environment.ok(["fsck"]);
}

#[test]
fn a_dry_run_says_what_each_removal_frees_and_changes_nothing() {
    let Some(environment) = with_history() else { return };
    environment.ok(["create", "base", "big"]);
    environment.ok(["exec", "big", "--", "dd", "if=/dev/urandom", "of=/data", "bs=1M", "count=8"]);
    for name in ["a", "b", "c"] {
        touch(&environment, name);
    }
    environment.ok(["exec", "dev", "--", "true"]);
    environment.ok(["rm", "big"]);
    let before = (names(&environment, "n"), objects(&environment));
    let arguments = ["prune", "--removed", "--keep-last", "1", "--dry-run"];
    let intended = environment.json(arguments);
    let rows = intended["let_go"].as_array().unwrap();
    let told: Vec<_> =
        rows.iter().map(|row| (row["name"].as_str().unwrap(), row["why"].as_str().unwrap())).collect();
    assert_eq!(told, [("big", "removed"), ("dev@1", "policy"), ("dev@2", "policy")]);
    let big = rows[0]["would_free_bytes"].as_u64().unwrap();
    assert!((8 << 20..9 << 20).contains(&big), "{big}");
    let text = environment.ok(arguments);
    assert_eq!((names(&environment, "n"), objects(&environment)), before, "nothing changed");
    assert!(text.contains("would let go big"), "{text}");
    if environment.json(["show", "dev"])["form"] == "delta" {
        assert_eq!(rows[1]["kept_by"], "dev@3");
        assert!(text.contains("its tree stays: dev@3 stands on it: frees 0 B"), "{text}");
    } else {
        assert_eq!(rows[1]["kept_by"], json!(null));
        assert!(rows[1]["would_free_bytes"].as_u64().unwrap() > 0);
    }
    let pruned = environment.json(&arguments[..4]);
    assert_eq!(pruned["let_go"].as_array().unwrap().len(), 3);
    assert_eq!(names(&environment, "n"), ["base", "dev", "dev@3"]);
    environment.ok(["fsck"]);
}

#[test]
fn room_is_made_with_what_is_missed_least() {
    if !is_root() {
        return;
    }
    let environment = Environment::new();
    if !environment.import_busybox() {
        return;
    }
    // Of a box that runs, snapshots lie beside it: each is a copy of its own.
    let script = "
        disk ext4
        $R -q init --backend overlay > /dev/null; $R -q import dir:$D/root base > /dev/null
        fill() { $R -q exec $1 -- sh -c \"dd if=/dev/urandom of=/data bs=1M count=20 2> /dev/null\"; }
        for name in gone dev; do $R -q create base $name > /dev/null; fill $name; done
        $R -q policy dev --every exec > /dev/null
        $R -q start dev -- sleep 1000 > /dev/null; for i in 1 2 3 4; do fill dev; done; $R -q stop -t 1 dev > /dev/null
        $R -q rename dev@2 dev@good; $R -q rm gone
        free() { sync; echo $(($(stat -f -c '%f * %S / 1048576' $D/fs))); }
        before=$(free)
        $R -q prune --free $((before + 10))M; $R -q undelete
        $R -q prune --free $((before + 30))M
        $R prune --dry-run --free 10G | grep -o 'would let go dev@.'
        $R -q prune --free 10G || echo not enough; ls $ROOTLING_ROOT/n; $R fsck | grep -o clean";
    let ran = environment.script(script);
    let expected = "gone\ndev@1\nwould let go dev@3\nwould let go dev@4\ndev@3\ndev@4\nnot enough\nbase\ndev\ndev@good\nclean\n";
    assert_eq!(ran.stdout, expected, "{}", ran.stderr);
    assert!(ran.stderr.contains("are free, not 10.0 GiB"), "{}", ran.stderr);
    assert!(ran.stderr.contains("would be free, not 10.0 GiB"), "{}", ran.stderr);
}

#[test]
fn whole_trees_follow_what_came_before_what_was_let_go() {
    let environment = Environment::new();
    if !environment.import_busybox() {
        return;
    }
    let script = "
        disk btrfs
        $R -q init --backend btrfs > /dev/null; $R -q import dir:$D/root base > /dev/null
        $R -q create base dev > /dev/null; $R -q policy dev --every exec > /dev/null
        for name in a b c d e; do $R -q exec dev -- touch /$name; done
        $R -q fork dev@2 other > /dev/null
        count() { ls $ROOTLING_ROOT/o | wc -l; }
        count; $R -q rm dev@1; $R -q prune; count; $R -q prune --removed; count
        $R -q rm --now dev@3; $R -q prune --keep-last 1; count
        $R diff other; $R diff base..dev@4; $R diff dev@2..dev@4 2> /dev/null || echo gone
        $R --format json show dev@4 | grep -c '\"base\"'; $R -q log dev > /dev/null; $R diff other..dev@4
        $R -q rm --now other; $R -q prune; count; $R diff dev; $R diff base..dev@4; $R fsck --verify | grep -o clean";
    let ran = environment.script(script);
    let all = "A /a\nA /b\nA /c\nA /d\n";
    let expected = format!("7\n7\ndev@1\n6\ndev@2\n5\n{all}gone\n2\nA /c\nA /d\n3\nA /e\n{all}clean\n");
    assert_eq!(ran.stdout, expected, "{}", ran.stderr);
}

#[test]
fn a_timer_runs_policies() {
    let environment = Environment::new();
    let printed = environment.ok(["generate", "timer"]);
    for part in [
        "rootling-policy.service",
        "rootling-policy.timer",
        "OnCalendar=hourly",
        " policy run",
        "Persistent=true",
    ] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    let files = environment.path("units");
    fs::create_dir(&files).unwrap();
    environment.ok(["generate", "timer", "--files", files.to_str().unwrap()]);
    for name in ["rootling-policy.service", "rootling-policy.timer"] {
        let text = fs::read_to_string(files.join(name)).unwrap();
        assert!(printed.contains(&text), "{name}");
    }
    if ran(Command::new("sh").args(["-c", "command -v systemd-analyze"]).output().unwrap()).code == 0 {
        let verified =
            Command::new("systemd-analyze").arg("verify").arg(files.join("rootling-policy.timer")).output();
        let verified = ran(verified.unwrap());
        assert_eq!(verified.code, 0, "{}{}", verified.stdout, verified.stderr);
    }
}

// ---------------------------------------------------------------- a snapshot after each command

/// A tree with bash and what it needs of the host, imported as `shells`; false where there is no bash.
fn import_bash(environment: &Environment) -> bool {
    let script =
        "mkdir -p $D/shells/dev $D/shells/proc $D/shells/sys $D/shells/tmp $D/shells/etc $D/shells/root
        for program in bash touch ls cat sleep mkfifo; do
            path=$(command -v $program); mkdir -p $D/shells/bin; cp $path $D/shells/bin/
            for library in $(ldd $path | grep -o '/[^ ]*'); do
                mkdir -p $D/shells$(dirname $library); cp -L $library $D/shells$library
            done
        done
        echo 'root:x:0:0::/root:/bin/bash' > $D/shells/etc/passwd
        touch $D/shells/etc/hosts $D/shells/etc/hostname $D/shells/etc/resolv.conf
        echo 'PS1=\"ready> \"; mine=kept' > $D/shells/root/.bashrc
        $R -q import dir:$D/shells shells";
    if ran(Command::new("sh").args(["-c", "command -v bash && command -v ldd"]).output().unwrap()).code != 0 {
        skip("bash is not installed");
        return false;
    }
    environment.script_ok(script);
    true
}

#[test]
fn each_command_of_an_interactive_bash_is_a_state() {
    let Some(boxes) = Boxes::new() else { return };
    if !import_bash(&boxes) {
        return;
    }
    for backend in ["overlay", "copy"] {
        let name = format!("dev-{backend}");
        boxes.ok(["create", "shells", &name, "--backend", backend]);
        let mut session = Session::start(&boxes, &["-q", "enter", "--autosnap", &name]);
        let mut line = |text: &str| {
            session.expect("ready> ");
            session.type_in(format!("{text}\n").as_bytes());
        };
        line("touch /one");
        line("ls / > /dev/null");
        line("touch '/t wo'; false");
        line("echo status=$? $mine");
        line("for n in 1 2; do");
        session.expect("> ");
        session.type_in(b"touch /three-$n; done\n");
        let mut line = |text: &str| {
            session.expect("ready> ");
            session.type_in(format!("{text}\n").as_bytes());
        };
        // Whatever is written into the pipe is a message at the most.
        line("printf '7 \\e]0;owned\\a\\n' > /dev/rootling/ask; touch /four; sleep 0.3");
        line("HISTCONTROL=ignorespace");
        line(" touch /secret");
        line("exit");
        assert_eq!(session.child.code(), 0, "{backend}");
        let messages: Vec<String> = (1..)
            .map_while(|number| {
                let ran = boxes.run(["--format", "json", "show", &format!("{name}@{number}")]);
                (ran.code == 0).then(|| serde_json::from_str::<serde_json::Value>(&ran.stdout).unwrap())
            })
            .map(|shown| {
                assert_eq!(shown["cause"], "automatic");
                shown["message"].as_str().unwrap().to_owned()
            })
            .collect();
        let escaped = r"\u{1b}]0;owned\u{7}";
        assert_eq!(
            messages[..3],
            ["touch /one", "touch '/t wo'; false", "for n in 1 2; do touch /three-$n; done"],
            "{backend}"
        );
        assert_eq!(messages.last().unwrap(), "a command that the shell does not keep", "{messages:?}");
        assert!(
            messages[3..].iter().any(|message| message == escaped || message.starts_with("printf")),
            "{messages:?}"
        );
        assert_eq!(boxes.ok(["diff", &format!("{name}@1..{name}@2")]), "A /t wo\n", "{backend}");
        assert_eq!(
            boxes.ok(["diff", &format!("shells..{name}@1")]),
            "A /one\n",
            "{backend}: nothing of ours is in it"
        );
        assert!(
            !boxes
                .store()
                .join("o")
                .join(boxes.json(["show", &name])["id"].as_str().unwrap())
                .join("autosnap")
                .exists()
        );
        boxes.ok(["fsck"]);
    }
}

#[test]
fn a_shell_that_does_not_say_when_a_command_ends_is_refused() {
    let Some(boxes) = Boxes::with_dev() else { return };
    let error = boxes.fails(["enter", "--autosnap", "dev"]);
    assert!(
        error.contains("does not say when one of its commands has ended") && error.contains("bash or zsh"),
        "{error}"
    );
    boxes.ok(["start", "dev", "--", "sleep", "1000"]);
    let error = boxes.fails(["enter", "--autosnap", "dev"]);
    assert!(error.contains("--autosnap is settled when a box starts"), "{error}");
    boxes.ok(["stop", "-t", "1", "dev"]);
    boxes.assert_tidy(&["base", "dev"]);
}
