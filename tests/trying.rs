//! `try`: what becomes of what a command changed in a fork.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Stdio};

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rootling::store::{Name, Store};

use crate::environment::{Environment, Ran, names, ran, with_dev};
use crate::grounds::on_file_systems;
use crate::guest::{Ids, guest};

/// What is tried: a file more, one changed, one gone.
const CHANGE: &str = "echo new > /etc/new; echo me >> /etc/passwd; rm /etc/group";
const DIFF: &str = "D /etc/group\nA /etc/new\nC /etc/passwd\n";

#[test]
fn what_was_in_a_directory_that_is_gone_is_counted() {
    on_file_systems(|environment, sort| {
        if !with_dev(environment) {
            return;
        }
        environment.ok(["exec", "dev", "--", "sh", "-c", "mkdir -p /d/e; echo 1 > /d/e/f; echo 2 > /d/g"]);
        let ran = environment.run(["try", "dev", "--", "rm", "-r", "/d"]);
        assert!(ran.stderr.contains("changed 2 files (+0 ~0 -2), 0 B"), "{sort}: {}", ran.stderr);
    });
}

#[test]
fn what_was_tried_is_kept_applied_or_discarded_as_told() {
    on_file_systems(|environment, sort| {
        if !with_dev(environment) {
            return;
        }
        let attempt = |flags: &[&str], line: &str| -> Ran {
            environment.run([&["try"], flags, &["dev", "--", "sh", "-c", line]].concat())
        };
        let ran = attempt(&[], &format!("{CHANGE}; echo said; exit 3"));
        assert_eq!((ran.code, ran.stdout.as_str()), (3, "said\n"), "{sort}: {}", ran.stderr);
        assert!(ran.stderr.contains("changed 3 files (+1 ~1 -1), "), "{sort}: {}", ran.stderr);
        assert!(
            ran.stderr.contains("discarded (--on-exit keep or apply would not)"),
            "{sort}: {}",
            ran.stderr
        );
        assert!(attempt(&["--on-exit", "keep"], "true").stderr.contains("nothing changed"), "{sort}");
        assert_eq!(
            (names(environment), environment.ok(["diff", "dev"])),
            ("dev\n".into(), String::new()),
            "{sort}"
        );

        let ran = attempt(&["--on-exit", "keep"], CHANGE);
        assert!(ran.code == 0 && ran.stderr.contains(": kept as dev-2\n"), "{sort}: {}", ran.stderr);
        attempt(&["--on-exit=keep", "--keep-as", "mine"], CHANGE);
        assert_eq!(names(environment), "dev\ndev-2\nmine\n", "{sort}");
        assert_eq!(
            (environment.ok(["diff", "mine"]), environment.ok(["diff", "dev"])),
            (DIFF.into(), String::new()),
            "{sort}"
        );

        let ran = attempt(&["--on-exit", "apply"], &format!("{CHANGE}; exit 1"));
        assert!(ran.code == 1 && ran.stderr.contains("did not end with 0"), "{sort}: {}", ran.stderr);
        assert_eq!(environment.ok(["exec", "dev", "cat", "/etc/group"]).lines().count(), 2, "{sort}");
        environment.ok(["exec", "dev", "--", "sh", "-c", "echo mine > /mine"]);
        let backend = environment.json(["show", "dev"])["backend"].clone();
        let ran = attempt(&["--on-exit", "apply"], CHANGE);
        assert!(
            ran.code == 0 && ran.stderr.contains(": applied to dev; what it was is dev@1: "),
            "{sort}: {}",
            ran.stderr
        );
        assert_eq!(environment.ok(["exec", "dev", "cat", "/etc/new", "/mine"]), "new\nmine\n", "{sort}");
        // What it was and what was tried are states of the box; it stands on the latter, on its own backend.
        assert_eq!(environment.ok(["diff", "dev@1..dev@2"]), DIFF, "{sort}");
        assert_eq!(environment.ok(["diff", "dev"]), "", "{sort}");
        assert_eq!(environment.json(["show", "dev@2"])["message"], format!("sh -c {CHANGE}"), "{sort}");
        assert_eq!(environment.json(["show", "dev"])["backend"], backend, "{sort}");
        let store = Store::open(&environment.store()).unwrap();
        let named = |name: &str| store.named(&Name::parse_with_label(name).unwrap()).unwrap().unwrap();
        assert_eq!(named("dev").record.life.past, [named("dev@1").id, named("dev@2").id], "{sort}");
        environment.ok(["undo", "dev"]);
        assert_eq!(environment.ok(["diff", "dev..dev@2"]), DIFF, "{sort}");
        environment.ok(["redo", "dev"]);
        assert_eq!(environment.ok(["diff", "dev@1..dev"]), DIFF, "{sort}");
        environment.ok(["fsck", "--verify"]);
        environment.ok(["rm", "dev", "mine", "dev-2"]);
    });
}

#[test]
fn a_box_that_changed_meanwhile_or_runs_is_not_replaced_and_nothing_is_lost() {
    on_file_systems(|environment, sort| {
        if !with_dev(environment) {
            return;
        }
        // The fork waits until somebody has written to the box.
        let meet = environment.path("meet");
        std::fs::create_dir(&meet).unwrap();
        let volume = format!("{}:/meet", meet.display());
        let line = format!("{CHANGE}; touch /meet/up; until test -e /meet/go; do sleep 0.01; done");
        let arguments = ["try", "--on-exit", "apply", "-v", &volume, "dev", "--", "sh", "-c", &line];
        let mut command = environment.command();
        let child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        while !meet.join("up").exists() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        environment.ok(["exec", "dev", "--", "sh", "-c", "echo precious > /etc/mine"]);
        File::create(meet.join("go")).unwrap();
        let refused = ran(child.wait_with_output().unwrap());
        assert_eq!(refused.code, 125, "{sort}: {}", refused.stderr);
        for said in ["kept as dev-2", "dev has changed since it was forked"] {
            assert!(refused.stderr.contains(said), "{sort}: {}", refused.stderr);
        }
        assert_eq!(environment.ok(["exec", "dev", "cat", "/etc/mine"]), "precious\n", "{sort}");
        assert!(environment.ok(["exec", "dev-2", "cat", "/etc/new"]) == "new\n", "{sort}");
        environment.ok(["start", "dev", "--", "sleep", "1000"]);
        let refused = environment.run(["try", "--on-exit", "apply", "dev", "--", "touch", "/x"]);
        assert!(refused.code == 125 && refused.stderr.contains("in use"), "{sort}: {}", refused.stderr);
        environment.ok(["stop", "-t", "0", "dev"]);
        assert_eq!(names(environment), "dev\ndev-2\ndev-3\n", "{sort}");
        environment.ok(["fsck", "--verify"]);
    });
}

#[test]
fn what_cannot_be_is_refused_before_anything_runs() {
    let environment = Environment::new();
    if !with_dev(&environment) {
        return;
    }
    for (arguments, words) in [
        (&["try", "--on-exit", "ask", "dev", "true"][..], "nobody can be asked"),
        (&["try", "--on-exit", "apply", "base", "true"], "base is committed"),
        (&["try", "--keep-as", "dev", "dev", "true"], "the name dev is taken"),
        (&["try", "nothing", "true"], "there is no nothing"),
    ] {
        let ran = environment.run(arguments);
        assert!(ran.code == 125 && ran.stderr.contains(words), "{arguments:?}: {}", ran.stderr);
    }
    // Of a tree, what was tried can become a box.
    environment.ok(["try", "--on-exit", "keep", "base", "--", "touch", "/x"]);
    assert_eq!(names(&environment), "base-2\ndev\n");
    environment.ok(["rm", "base-2", "dev", "base"]);
    environment.assert_tidy(&[]);
}

/// A person at a terminal who tries something.
struct Person {
    child: Child,
    screen: File,
    seen: String,
}

impl Person {
    fn tries(environment: &Environment, line: &str) -> Self {
        let terminal = openpty(None, None).unwrap();
        let slave = || Stdio::from(terminal.slave.try_clone().unwrap());
        let mut command = environment.command();
        command.args(["try", "-T", "dev", "--", "sh", "-c", line]);
        let child = command.stdin(slave()).stderr(slave()).stdout(Stdio::null()).spawn().unwrap();
        Self { child, screen: terminal.master.into(), seen: String::new() }
    }

    /// Waits for a text on the screen, which is gone then.
    fn sees(&mut self, text: &str) {
        while !self.seen.contains(text) {
            let mut buffer = [0; 1024];
            let length = self.screen.read(&mut buffer).unwrap_or(0);
            assert!(length > 0, "it ended without {text:?}: {:?}", self.seen);
            self.seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        let end = self.seen.find(text).unwrap() + text.len();
        self.seen.drain(..end);
    }

    fn says(&mut self, text: &str) {
        self.sees("[x] discard > ");
        self.screen.write_all(text.as_bytes()).unwrap();
    }

    fn leaves(mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap()
    }
}

#[test]
fn a_person_is_shown_the_change_and_asked() {
    let environment = Environment::new();
    if !with_dev(&environment) {
        return;
    }
    let mut person = Person::tries(&environment, &format!("{CHANGE}; exit 4"));
    person.sees("changed 3 files (+1 ~1 -1)");
    person.sees("A /etc/new");
    person.sees("[a]pply to dev");
    person.says("what?\n");
    person.says("d\n");
    person.sees("C /etc/passwd");
    person.says("k\n");
    person.sees("kept as dev-2");
    assert_eq!(person.leaves(), 4, "the command's own");
    for (answer, line) in [("x\n", CHANGE), ("a\n", CHANGE), ("\u{4}", "touch /third")] {
        let mut person = Person::tries(&environment, line);
        person.says(answer);
        assert_eq!(person.leaves(), 0);
    }
    // Discarded, applied, and at the end of what is typed kept.
    assert_eq!(names(&environment), "dev\ndev-2\ndev-3\n");
    assert_eq!(environment.ok(["exec", "dev", "cat", "/etc/new"]), "new\n");
    let mut person = Person::tries(&environment, "touch /more");
    person.sees("[x] discard > ");
    kill(Pid::from_raw(i32::try_from(person.child.id()).unwrap()), Signal::SIGINT).unwrap();
    person.sees("discarded");
    assert_eq!(person.leaves(), 0);
    assert_eq!(std::fs::read_dir(environment.store().join("tmp")).unwrap().count(), 0);
    assert_eq!(names(&environment), "dev\ndev-2\ndev-3\n");
}

#[test]
fn an_ordinary_user_tries_as_well() {
    for ids in [Ids::Range, Ids::None] {
        let Some(guest) = guest(ids) else { return };
        let stdout = guest.ok(
            "$R -q init > /dev/null; $R -q import dir:$D/root base > /dev/null; $R -q create base dev > /dev/null
            $R -q try --on-exit apply dev -- touch /new; $R diff base..dev; $R -q try dev -- touch /gone
            $R diff dev; $R -q try --on-exit keep dev touch /kept; $R -q ls --boxes; $R -q fsck > /dev/null",
        );
        assert_eq!(stdout, "A /new\ndev\ndev-2\n", "{ids:?}");
    }
}

#[test]
fn what_has_a_name_to_be_kept_by_is_kept_and_flags_without_use_are_refused() {
    let environment = Environment::new();
    if !with_dev(&environment) {
        return;
    }
    environment.ok(["try", "--keep-as", "tried", "dev", "--", "touch", "/kept"]);
    assert_eq!(names(&environment), "dev\ntried\n");
    assert_eq!(environment.ok(["diff", "tried"]), "A /kept\n");
    for (flags, words) in [
        (&["--keep-as", "x", "--on-exit", "discard"][..], "--on-exit discard keeps nothing"),
        (&["--yes", "--on-exit", "apply"], "--yes is of host:/, and dev is not"),
        (&["--force"], "--force is of host:/, and dev is not"),
    ] {
        let said = environment.fails([&["try"], flags, &["dev", "--", "touch", "/x"]].concat());
        assert!(said.contains(words), "{flags:?}: {said}");
    }
    assert_eq!(names(&environment), "dev\ntried\n");
}
