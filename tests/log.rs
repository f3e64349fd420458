//! What is told of states: `log`, `show`, `ls`, and what shells are told while somebody types.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use rootling::store::{Description, Label, Name, Node, SnapshotOptions, Store};
use serde_json::json;

use crate::environment::{BINARY, Environment, is_root, ran};

/// A store with `base` and the box `dev` on it.
fn with_box(backend: &str) -> Environment {
    let environment = Environment::new();
    environment.import_base();
    environment.ok(["-q", "create", "--backend", backend, "base", "dev"]);
    environment
}

fn snapshot(environment: &Environment, name: &str, label: Option<&str>, message: &str) -> Node {
    let store = Store::open(&environment.store()).unwrap();
    let node = store.named(&Name::parse(name).unwrap()).unwrap().unwrap();
    let description = Description { message: Some(message.to_owned()), ..Description::default() };
    let label = label.map(|label| Label::parse(label).unwrap());
    store.snapshot(&node, &SnapshotOptions { label, description, ..SnapshotOptions::default() }).unwrap()
}

/// Writes a file in a box.
fn change(environment: &Environment, name: &str, content: &str) {
    let script = format!(
        "mkdir $D/m; $R -q mount {name} $D/m; echo {content} > $D/m/etc/mark; $R -q umount $D/m; rmdir $D/m"
    );
    environment.script_ok(&script);
}

/// Makes ids and ages the same in every run.
fn plain(environment: &Environment, text: &str) -> String {
    let ids = fs::read_dir(environment.store().join("o")).unwrap().map(|entry| entry.unwrap().file_name());
    let text = ids.fold(text.to_owned(), |text, id| text.replace(id.to_str().unwrap(), "12345678"));
    let text = (1..10).fold(text, |text, age| text.replace(&format!(" {age}s "), " 0s "));
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[test]
fn who_was_forked_from_what_is_drawn() {
    if !is_root() {
        return;
    }
    let environment = with_box("overlay");
    change(&environment, "dev", "one");
    snapshot(&environment, "dev", Some("clean"), "before nginx");
    change(&environment, "dev", "two");
    environment.ok(["-q", "fork", "dev", "other"]);
    environment.ok(["-q", "create", "base", "third"]);
    let log = |words: &[&str]| plain(&environment, &environment.ok([&["log"], words].concat()));
    let source = format!("dir:{}", environment.path("root").display());
    let drawn = format!(
        "     ID        NAME       AGE  SIZE  WHAT
@    12345678  other      0s         forked from 12345678
| @  12345678  dev        0s         forked from 12345678
|/
*    12345678             0s         something was forked of it
*    12345678  dev@clean  0s         before nginx
| @  12345678  third      0s         forked from base
|/
*    12345678  base       0s   SIZE  imported from {source}\n"
    );
    let size = environment.json(["show", "base"])["cost"]["bytes_copied"].as_u64().unwrap();
    let with_size = |text: &str| text.replace(&format!("{size} B"), "SIZE");
    assert_eq!(with_size(&log(&[])), drawn);
    assert_eq!(with_size(&log(&["third", "--all"])), drawn);
    let rows = log(&["dev"]);
    let lines: Vec<&str> = rows.lines().collect();
    assert_eq!(lines.len(), 5, "{rows}");
    assert!(lines[2].ends_with("something was forked of it  (forks: other)"), "{rows}");
    assert!(lines[4].ends_with("(forks: third)"), "{rows}");
    assert!(log(&["-n", "2", "--graph", "dev"]).ends_with("of it  (forks: other)\n~\n"));
    assert_eq!(environment.ok(["-q", "log", "dev@clean"]), "dev@clean\nbase\n");
    assert_eq!(
        environment.ok(["-q", "log", "third", "dev@clean"]).lines().count(),
        3,
        "each state is there once"
    );
}

#[test]
fn programs_read_the_same_story() {
    if !is_root() {
        return;
    }
    let environment = with_box("overlay");
    change(&environment, "dev", "one");
    let snapshot = snapshot(&environment, "dev", None, "apt-get install \"<x>\" & more\nand why");
    let log = environment.json(["log"]);
    let rows = log.as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|row| row["names"].clone()).collect();
    assert_eq!(names, [json!(["dev"]), json!(["dev@1"]), json!(["base"])]);
    assert_eq!((&rows[0]["predecessor"], &rows[0]["kind"]), (&json!(snapshot.id), &json!("box")));
    assert_eq!((&rows[1]["kind"], &rows[1]["cause"]), (&json!("snapshot"), &json!("asked")));
    assert_eq!(rows[1]["message"], "apt-get install \"<x>\" & more\nand why");
    assert_eq!(rows[2]["predecessor"], json!(null));
    assert!(rows[2]["added_bytes"].as_u64().unwrap() > 0);

    let dot = environment.ok(["log", "--format", "dot"]);
    assert!(dot.starts_with("digraph rootling {") && dot.ends_with("}\n"), "{dot}");
    assert_eq!(dot.matches(" -> ").count(), 2, "{dot}");
    assert!(dot.contains("apt-get install \\\"<x>\\\" & more …"), "{dot}");
    let svg = environment.ok(["log", "--format", "svg", "dev"]);
    assert_eq!((svg.matches("<path d=\"M26 ").count(), svg.matches("<text").count()), (2, 6), "{svg}");
    assert!(svg.contains("apt-get install &quot;&lt;x&gt;&quot; &amp; more …"), "{svg}");
    for words in [["ls", "--format", "dot"], ["--format", "svg", "show"]] {
        let ran = environment.run(words.into_iter().chain(["dev"]));
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{words:?}");
        assert!(ran.stderr.contains("only `log` draws"), "{}", ran.stderr);
    }
}

#[test]
fn show_tells_of_snapshots_and_of_where_undo_goes() {
    if !is_root() {
        return;
    }
    let environment = with_box("overlay");
    for (content, label) in [("one", Some("clean")), ("two", None)] {
        change(&environment, "dev", content);
        snapshot(&environment, "dev", label, content);
    }
    let shown = environment.json(["show", "dev"]);
    assert_eq!(shown["names"], json!(["dev"]));
    assert_eq!(shown["snapshots"], json!(["dev@clean", "dev@1"]));
    assert_eq!((&shown["past"], &shown["future"]), (&json!(["dev@1", "dev@clean"]), &json!([])));
    assert_eq!(shown["history"], json!(["dev@1", "dev@clean", "base"]));
    assert_eq!(environment.json(["show", "dev~2"])["name"], "dev@clean");
    let clean = environment.json(["show", "dev@clean"]);
    assert_eq!(
        (&clean["kind"], &clean["cause"], &clean["message"]),
        (&json!("snapshot"), &json!("asked"), &json!("one"))
    );
    assert_eq!(clean["children"], json!(["dev@1"]));
    let text = environment.ok(["show", "dev"]);
    for line in
        ["snapshots dev@clean, dev@1", "undo      dev@1, dev@clean", "history   dev@1, dev@clean, base"]
    {
        assert!(text.contains(line), "{text}");
    }
    // What has no name is shown by its id.
    change(&environment, "dev", "three");
    environment.ok(["-q", "fork", "dev", "other"]);
    let unnamed = environment.json(["show", "other"])["parent"].as_str().unwrap().to_owned();
    let shown = environment.json(["show", &unnamed[..6]]);
    assert_eq!(
        (&shown["name"], &shown["names"], &shown["cause"]),
        (&json!(null), &json!([]), &json!("fork"))
    );
    assert_eq!(shown["children"].as_array().unwrap().len(), 2);
}

#[test]
fn ls_keeps_snapshots_apart_until_it_is_asked() {
    if !is_root() {
        return;
    }
    let environment = with_box("overlay");
    for number in 1..=11 {
        change(&environment, "dev", &number.to_string());
        snapshot(&environment, "dev", None, &format!("number {number}"));
    }
    environment.ok(["-q", "fork", "dev", "other"]);
    assert_eq!(environment.ok(["-q", "ls"]), "base\ndev\nother\n");
    let counts: Vec<_> = environment
        .json(["ls"])
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["snapshot_count"].clone())
        .collect();
    assert_eq!(counts, [json!(null), json!(11), json!(0)]);
    let snapshots = environment.ok(["-q", "ls", "dev"]);
    assert_eq!(snapshots.lines().nth(9), Some("dev@10"), "oldest first: {snapshots}");
    assert!(environment.ok(["ls", "dev"]).contains("number 7\n"));
    assert_eq!(environment.ok(["-q", "ls", "-a"]).lines().count(), 14, "the fork stands on dev@11");
    assert_eq!(environment.ok(["-q", "ls", "-a", "--boxes"]), "dev\nother\n");
    assert_eq!(environment.ok(["-q", "ls", "other"]), "");
    // They go and come back with the box.
    environment.ok(["-q", "rm", "dev"]);
    assert!(environment.fails(["ls", "dev"]).contains("there is no dev"));
    environment.ok(["-q", "undelete", "dev"]);
    assert_eq!(environment.ok(["-q", "ls", "dev"]).lines().count(), 11);
    change(&environment, "dev", "anew");
    assert_eq!(snapshot(&environment, "dev", None, "anew").label(), "dev@12");
}

#[test]
fn forks_of_a_box_at_rest_leave_nothing_behind() {
    if !is_root() {
        return;
    }
    for backend in ["overlay", "copy"] {
        let environment = with_box(backend);
        change(&environment, "dev", "one");
        snapshot(&environment, "dev", None, "one");
        let objects = || fs::read_dir(environment.store().join("o")).unwrap().count();
        let before = objects();
        for _ in 0..3 {
            environment.ok(["-q", "fork", "dev", "gone"]);
            assert_eq!(environment.ok(["diff", "dev", "gone"]), "", "{backend}");
            environment.ok(["-q", "rm", "--now", "gone"]);
        }
        assert_eq!(objects(), before, "{backend}");
        change(&environment, "dev", "two");
        environment.ok(["-q", "fork", "dev", "other"]);
        assert_eq!(environment.ok(["diff", "dev", "other"]), "", "{backend}");
        assert_eq!(environment.ok(["diff", "dev@1", "other"]), "C /etc/mark\n", "{backend}");
    }
}

#[test]
fn forks_are_numbered_where_a_number_is_free() {
    let environment = Environment::new();
    environment.import_base();
    for number in 2..9 {
        environment.ok(["-q", "fork", "base"]);
        let names = environment.ok(["-q", "ls"]);
        assert!(names.contains(&format!("base-{number}\n")), "{names}");
    }
    environment.ok(["-q", "rm", "base-8", "base-4"]);
    environment.ok(["-q", "fork", "base"]);
    // The search doubles from base-2 to one that is free, and looks by halves for one before it.
    assert_eq!(environment.ok(["-q", "ls", "--boxes"]), "base-2\nbase-3\nbase-4\nbase-5\nbase-6\nbase-7\n");
}

#[test]
fn a_damaged_record_hides_nothing_else() {
    let environment = Environment::new();
    environment.import_base();
    environment.ok(["-q", "create", "base", "dev"]);
    environment.ok(["-q", "create", "base", "bad"]);
    let id = environment.json(["show", "bad"])["id"].as_str().unwrap().to_owned();
    fs::write(environment.store().join("o").join(&id).join("meta.json"), "{").unwrap();
    let ran = environment.run(["-q", "log"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "dev\nbase\n"));
    assert!(ran.stderr.contains(&id), "{}", ran.stderr);
}

#[test]
fn names_are_completed_and_errors_are_not_shown() {
    let environment = Environment::new();
    environment.import_base();
    for name in ["dev", "dev-2", "web/one"] {
        environment.ok(["-q", "create", "base", name]);
    }
    for label in ["1", "clean"] {
        snapshot(&environment, "dev", Some(label), "");
    }
    environment.ok(["-q", "volume", "create", "data"]);
    let words = |line: &str| -> Vec<String> {
        let words = line.split(' ');
        let found = environment.ok(["complete-words", "--"].into_iter().chain(words));
        found.lines().map(str::to_owned).collect()
    };
    assert_eq!(words("rootling enter "), ["base", "dev", "dev-2", "web/one"]);
    assert_eq!(words("rootling enter de"), ["dev", "dev-2"]);
    assert_eq!(words("rootling rm base dev@"), ["dev@1", "dev@clean"]);
    assert_eq!(words("rootling diff base..dev@c"), ["base..dev@clean"]);
    assert_eq!(words("rootling volume rm "), ["data"]);
    for nothing in [
        "rootling ",
        "rootling create base ",
        "rootling exec dev ",
        "rootling enter --",
        "rootling --root /nowhere enter ",
        "x",
    ] {
        assert_eq!(words(nothing), [""; 0], "{nothing:?}");
    }
    let ran = environment.run(["--root", "/nowhere", "complete-words", "--", "rootling", "rm", "d"]);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, "", ""));
}

#[test]
fn bash_completes_behind_an_at_sign() {
    let environment = Environment::new();
    environment.import_base();
    environment.ok(["-q", "create", "base", "dev"]);
    snapshot(&environment, "dev", Some("clean"), "");
    let script = environment.path("completion");
    fs::write(&script, environment.ok(["completion", "bash"])).unwrap();
    let complete = |line: &str, words: &str| {
        let last = words.split(' ').count();
        let script = format!(
            "COMP_WORDBREAKS=$' \\t\\n\"\\'@><=;|&(:'; . {}; COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; COMP_WORDS=({words} '');
            COMP_CWORD={last}; _rootling_live rootling '' ''; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            script.display()
        );
        let path = format!("{}:/usr/bin:/bin", Path::new(BINARY).parent().unwrap().display());
        let mut bash = Command::new("bash");
        bash.args(["--norc", "-c", &script]).env("PATH", path).env("ROOTLING_ROOT", environment.store());
        ran(bash.stdin(Stdio::null()).output().expect("bash is there"))
    };
    let ran = complete("rootling enter dev@", "rootling enter dev @");
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("clean\n", ""));
    let ran = complete("rootling enter ", "rootling enter");
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("base\ndev\n", ""));
    let ran = complete("rootling ", "rootling");
    assert!(ran.stdout.contains("enter\n"), "commands are still known: {ran:?}");
}

/// Returns what `show` and `ls` say a node and a box are called.
fn told(environment: &Environment, node: &str, of: &str) -> (serde_json::Value, String) {
    (environment.json(["show", node])["names"].clone(), environment.ok(["-q", "ls", of]))
}

#[test]
fn names_are_told_alike_with_and_without_notes() {
    if !is_root() {
        return;
    }
    let environment = with_box("overlay");
    change(&environment, "dev", "one");
    let state = snapshot(&environment, "dev", Some("clean"), "one");
    let (id, store) = (state.id.as_str(), environment.store());
    let steps: [&[&str]; 8] = [
        &["tag", "dev@clean", "kept"],
        &["tag", "dev@clean", "further"],
        &["rename", "dev", "work"],
        &["rm", "kept"],
        &["undelete", "kept"],
        &["rm", "--now", "--force", "further"],
        &["rename", "kept", "held"],
        &["rm", "--now", "--force", "held"],
    ];
    for step in steps {
        environment.ok([&["-q"], step].concat());
        let of = if step[0] == "tag" { "dev" } else { "work" };
        let noted = told(&environment, id, of);
        let aside = [("labels".into(), "labels.old"), (format!("o/{id}/names"), "names.old")];
        for (from, to) in &aside {
            fs::rename(store.join(from), store.join(to)).unwrap();
        }
        assert_eq!(told(&environment, id, of), noted, "{step:?}");
        for (from, to) in &aside {
            fs::rename(store.join(to), store.join(from)).unwrap();
        }
    }
    assert_eq!(told(&environment, id, "work"), (json!(["work@clean"]), "work@clean\n".to_owned()));
    assert_eq!(environment.ok(["fsck"]).lines().filter(|line| line.contains("noted")).count(), 0);
    environment.ok(["-q", "rm", "--now", "work"]);
    environment.ok(["-q", "prune"]);
    assert_eq!(fs::read_dir(store.join("labels")).unwrap().count(), 0);
}

#[test]
fn notes_of_names_that_are_lost_are_found_by_fsck() {
    if !is_root() {
        return;
    }
    let environment = with_box("overlay");
    change(&environment, "dev", "one");
    let state = snapshot(&environment, "dev", None, "one");
    let (id, store) = (state.id.as_str(), environment.store());
    let (note, label) = (store.join(format!("o/{id}/names/dev@1")), store.join("labels/dev/1"));
    fs::remove_file(&note).unwrap();
    fs::remove_file(&label).unwrap();
    assert_eq!(told(&environment, id, "dev"), (json!([]), String::new()));
    let found = environment.run(["fsck"]);
    assert_ne!(found.code, 0);
    assert!(found.stdout.contains("dev@1"), "{}", found.stdout);
    environment.ok(["fsck", "--repair"]);
    let whole = (json!(["dev@1"]), "dev@1\n".to_owned());
    assert_eq!(told(&environment, id, "dev"), whole);
    // A store of a time before there were notes is searched, and has them once it was repaired.
    fs::remove_dir_all(store.join("labels")).unwrap();
    for object in fs::read_dir(store.join("o")).unwrap() {
        fs::remove_dir_all(object.unwrap().path().join("names")).unwrap();
    }
    assert_eq!(told(&environment, id, "dev"), whole);
    environment.ok(["fsck"]);
    environment.ok(["fsck", "--repair"]);
    assert!(note.is_symlink() && label.is_symlink());
    assert_eq!(told(&environment, id, "dev"), whole);
}

#[test]
fn a_state_sheds_what_belonged_to_its_box() {
    if !is_root() {
        return;
    }
    let environment = with_box("overlay");
    let mut states = Vec::new();
    for content in ["one", "two", "three", "four"] {
        change(&environment, "dev", content);
        states.push(snapshot(&environment, "dev", None, content).id);
    }
    let life = |id: &rootling::store::ObjectId| {
        let store = Store::open(&environment.store()).unwrap();
        store.node(id).unwrap().record.life
    };
    // Not yet of the last one: the box's name may be on it still when it is cut off.
    assert_eq!(life(&states[2]).past, []);
    assert_eq!(life(&states[1]).past, []);
    assert_eq!(life(&states[3]).past, states[..3]);
    assert_eq!(environment.json(["show", "dev"])["past"], json!(["dev@4", "dev@3", "dev@2", "dev@1"]));
    environment.ok(["-q", "undo", "dev"]);
    environment.ok(["-q", "undo", "dev"]);
    assert_eq!(environment.json(["show", "dev"])["future"], json!(["dev@3", "dev@4"]));
}

#[test]
fn what_people_put_on_states_is_told() {
    if !is_root() {
        return;
    }
    let environment = with_box("overlay");
    snapshot(&environment, "dev", Some("good"), "works");
    environment.ok(["-q", "lock", "dev@good"]);
    environment.ok(["-q", "note", "dev@good", "as\nshipped"]);
    environment.ok(["-q", "note", "dev", "mine"]);
    let drawn = plain(&environment, &environment.ok(["log", "dev"]));
    let expected = "ID        NAME      AGE  SIZE  WHAT
12345678  dev       0s         note: mine
12345678  dev@good  0s         works  note: as …  locked
";
    assert!(drawn.starts_with(expected), "{drawn}");
    let rows = environment.json(["log", "dev"]);
    assert_eq!((&rows[0]["locked"], &rows[0]["note"]), (&json!(false), &json!("mine")));
    assert_eq!((&rows[1]["locked"], &rows[1]["note"]), (&json!(true), &json!("as\nshipped")));
}

#[test]
fn a_merge_that_is_not_settled_is_told() {
    if !is_root() {
        return;
    }
    let environment = with_box("overlay");
    change(&environment, "dev", "ours");
    environment.ok(["-q", "create", "base", "other"]);
    change(&environment, "other", "theirs");
    snapshot(&environment, "other", Some("one"), "edited");
    let merged = environment.run(["apply", "other@one", "--to", "dev"]);
    assert_eq!(
        (merged.code, merged.stdout.as_str()),
        (
            1,
            "conflict /etc/mark: added in dev, added in other@one; dev's is there, other@one's is /etc/mark.theirs\n"
        )
    );
    let shown = environment.ok(["show", "dev"]);
    let told = "merging   apply other@one: edited: end it with rootling apply --continue dev, or --abort dev
conflict  /etc/mark, see /etc/mark.theirs
";
    assert!(shown.contains(told), "{shown}");
    assert_eq!(environment.json(["show", "dev"])["merging"]["conflicts"][0]["path"], "etc/mark");
    environment.ok(["apply", "--abort", "dev"]);
    assert_eq!(environment.json(["show", "dev"])["merging"], json!(null));
    // What was given up is the box's own, and no fork of it.
    assert!(!environment.ok(["log", "dev"]).contains("forks: dev"));
    // A rebase keeps what it goes onto, and calls the box's own the other.
    let rebased = environment.run(["rebase", "dev", "--onto", "other@one"]);
    assert_eq!(
        rebased.stdout,
        "conflict /etc/mark: added in other@one, added in dev; other@one's is there, dev's is /etc/mark.theirs\n"
    );
}
