//! The states of a box, as a person goes through them: snapshots of stopped and running boxes, restore, undo, redo.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::environment::{BINARY, Environment, Ran, can_make};
use crate::lab::eventually;

/// Runs a script with a store on a fresh file system, `base` in it and the box `dev` on that; `x` runs a command line in `dev`.
pub(crate) fn on(file_system: &str, script: &str) -> Option<Ran> {
    let environment = Environment::new();
    if !environment.import_busybox() {
        return None;
    }
    if !can_make(file_system) {
        return None;
    }
    Some(environment.script(&format!("{}\n{script}", begin(file_system))))
}

fn begin(file_system: &str) -> String {
    format!(
        "
        disk {file_system}
        $R -q init > /dev/null; $R -q import dir:$D/root base > /dev/null; $R -q create base dev > /dev/null
        x() {{ $R -q exec dev -- sh -c \"$1\"; }}
        ids() {{ ls $ROOTLING_ROOT/o | wc -l; }}
        id_of() {{ $R --format json show $1 | grep '\"id\"' | cut -d'\"' -f4; }}"
    )
}

/// Asserts what a script prints on each of the three file systems that can be had: overlay, reflink and btrfs boxes.
#[track_caller]
pub(crate) fn prints_everywhere(script: &str, expected: &str) {
    for file_system in ["ext4", "xfs", "btrfs"] {
        let Some(ran) = on(file_system, &format!("{script}\n$R fsck --verify > /dev/null")) else { continue };
        assert_eq!((ran.code, ran.stdout.as_str()), (0, expected), "{file_system}: {}", ran.stderr);
    }
}

#[test]
fn a_history_is_built_undone_redone_and_restored() {
    prints_everywhere(
        "
        x 'echo one > /etc/a; rm /etc/group'; $R -q snapshot dev first -m 'apt upgrade' > /dev/null
        x 'echo two > /etc/a; mkdir /etc/d; echo x > /etc/d/x'; $R -q snapshot dev > /dev/null
        x 'echo three > /etc/a; rm -r /etc/d; ln /etc/a /etc/b'
        look() { x 'cd /etc; cat a 2> /dev/null; for f in a b d group passwd; do test -e $f && echo -n $f,; done; echo'; }
        $R undo 2>&1 | sed 's/([0-9]*s/(now/'; look
        $R undo dev 2>&1 | sed 's/([0-9]*s/(now/'; look
        $R -q redo; look
        $R -q redo; look
        $R -q undo dev -n 3; look
        ! $R undo dev 2> $D/said; grep -c 'nothing to undo in dev' $D/said
        $R -q redo -n 2; look
        x 'echo four > /etc/a'
        ! $R redo dev 2> $D/said; grep -e because -e hint $D/said
        $R restore dev@first 2>&1 | sed 's/([0-9]*s/(now/'; look
        $R -q restore dev --to base; look
        $R -q restore dev --to dev@1 -- etc/d /etc/a; look
        ! $R restore dev --to base none 2> $D/said; grep because $D/said",
        "dev is now as dev@1 (now ago); redo goes back; what was there is dev@2\n\
         two\na,d,passwd,\n\
         dev is now as dev@first (now ago, \"apt upgrade\"); redo goes back\n\
         one\na,passwd,\n\
         dev@1\ntwo\na,d,passwd,\n\
         dev@2\nthree\na,b,passwd,\n\
         base\ngroup,passwd,\n\
         1\n\
         dev@1\ntwo\na,d,passwd,\n\
         \x20 because: dev has changed since the undo\n\
         \x20 hint: what could be redone is dev@2: rootling restore dev --to dev@2\n\
         dev is now as dev@first (now ago, \"apt upgrade\"); what was there is dev@3\n\
         one\na,passwd,\n\
         base\ngroup,passwd,\n\
         dev@1\ntwo\na,d,group,passwd,\n\
         \x20 because: neither dev nor base has \"none\"\n",
    );
}

#[test]
fn a_box_that_has_not_changed_gets_no_new_state() {
    prints_everywhere(
        "
        $R -q snapshot dev > /dev/null; $R -q fork dev two > /dev/null
        test $(id_of dev@1) = $(id_of base)
        x 'echo one > /etc/a'; $R -q snapshot dev > /dev/null; ids
        $R snapshot dev same 2>&1 > /dev/null
        $R -q snapshot dev --reuse > /dev/null; ls $ROOTLING_ROOT/n | grep -c dev@
        test $(id_of dev@2) = $(id_of dev@same); ids
        # Words of its own are a state of its own; the box's own stack does not grow by it.
        layers() { $R show dev | grep -c layers.*$1; }
        depth=$($R show dev | grep layers | tr -dc 0-9)
        $R -q snapshot dev -m why --expire 7d > /dev/null; ids
        layers $depth
        $R -q fork dev three > /dev/null; $R -q exec three -- cat /etc/a",
        "4\ndev has not changed: dev@same is the state that it is in\n3\n4\n5\n1\none\n",
    );
}

#[test]
fn a_state_of_another_backend_is_restored_on_the_own_one() {
    let backends = [("ext4", "copy"), ("xfs", "overlay"), ("btrfs", "overlay"), ("btrfs", "reflink")];
    for (file_system, backend) in backends {
        let script = format!(
            "
            $R -q create --backend {backend} base other > /dev/null
            $R -q exec other -- sh -c 'echo other > /etc/a; rm /etc/group'
            $R -q snapshot other > /dev/null; $R -q exec other -- sh -c 'echo more > /etc/b'
            x 'echo mine > /etc/a'
            own=$($R show dev | grep ^backend)
            $R -q restore dev --to other@1 > /dev/null; x 'cat /etc/a; test -e /etc/group || echo gone'
            $R -q restore dev --to other > /dev/null; x 'cat /etc/b'
            test \"$($R show dev | grep ^backend)\" = \"$own\"
            $R -q undo dev -n 2; x 'cat /etc/a'
            $R -q restore other --to dev > /dev/null; $R -q exec other -- cat /etc/a
            $R fsck --verify > /dev/null"
        );
        let Some(ran) = on(file_system, &script) else { continue };
        let expected = "other\ngone\nmore\ndev@1\nmine\nmine\n";
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (0, expected),
            "{backend} on {file_system}: {}",
            ran.stderr
        );
    }
}

#[test]
fn a_box_in_use_is_not_restored_and_says_what_to_do() {
    let environment = Environment::new();
    if !environment.import_busybox() {
        return;
    }
    environment.ok(["create", "base", "dev"]);
    environment.ok(["exec", "dev", "--", "touch", "/etc/a"]);
    environment.ok(["snapshot", "dev", "s"]);
    let running = Writer::start(&environment, &[]);
    for arguments in [&["restore", "dev@s"][..], &["restore", "dev@s", "etc"], &["undo", "dev"]] {
        let said = environment.fails(arguments);
        assert!(said.contains("box dev is in use by process") || said.contains("dev is in use"), "{said}");
        assert!(said.contains("rootling stop dev"), "{said}");
    }
    drop(running);
    for (arguments, said) in [
        (&["restore", "dev"][..], "rootling restore dev@LABEL"),
        (&["restore", "dev@none"], "there is no dev@none"),
        (&["restore", "dev@ss"], "did you mean dev@s"),
        (&["restore", "dev", "--to", "dev"], "cannot be restored to itself"),
        (&["restore", "base", "--to", "dev@s"], "base is committed already"),
        (&["restore", "dev@s", "../etc"], "cannot be restored by itself"),
        (
            &["snapshot", "base"],
            "base is committed already\n  hint: make a box of it: rootling create base NAME",
        ),
        (&["snapshot", "dev", "x", "--expire", "0s"], "no time at all"),
        (&["redo", "dev"], "restore dev@LABEL"),
        (&["snapshot", "dev", "s"], "the name dev@s is taken"),
        (&["snapshot", "dev", "--expire", "soon"], "write 90s"),
        (&["undo", "dev", "-n", "0"], "invalid value '0' for '--steps"),
        (&["redo", "dev", "-n", "0"], "invalid value '0' for '--steps"),
        (&["undo", "host:/", "-n", "0"], "invalid value '0' for '--steps"),
        (&["undo", "--force", "dev"], "--force is for host:/"),
        (&["undo", "dev", "-n", "9"], "not 9"),
    ] {
        let error = environment.fails(arguments);
        assert!(error.contains(said), "{arguments:?}: {error}");
    }
}

#[test]
fn what_was_done_is_a_document_too() {
    let environment = Environment::new();
    if !environment.import_busybox() {
        return;
    }
    environment.ok(["create", "base", "dev"]);
    environment.ok(["exec", "dev", "--", "touch", "/etc/a"]);
    let snapshot = environment.json(["snapshot", "dev", "s"]);
    assert_eq!((&snapshot["name"], &snapshot["kind"]), (&"dev@s".into(), &"snapshot".into()));
    environment.ok(["exec", "dev", "--", "rm", "/etc/a"]);
    let undone = environment.json(["undo", "dev"]);
    assert_eq!(undone["state"], "dev@s");
    assert_eq!(undone["state_id"], snapshot["id"]);
    assert_eq!((&undone["before"], &undone["kept"]), (&"dev@1".into(), &true.into()));
    let again = environment.json(["restore", "dev@s", "--", "etc"]);
    assert_eq!((&again["kept"], &again["paths"]), (&false.into(), &serde_json::json!(["etc"])));
}

// ---------------------------------------------------------------- running boxes

/// A box in which a program appends to two files in step.
struct Writer(Child);

impl Writer {
    fn start(environment: &Environment, flags: &[&str]) -> Self {
        let script =
            "echo ready; i=0; while true; do i=$((i+1)); echo $i >> /etc/one; echo $i >> /etc/two; done";
        let arguments = [&["-q", "exec"], flags, &["dev", "--", "sh", "-c", script]].concat();
        let mut child = environment.command().args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Does nothing to one that was waited for.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The last lines of the two files in a tree.
fn last_lines(environment: &Environment, tree: &str) -> (u64, u64) {
    let text =
        environment.ok(["-q", "run", tree, "--", "sh", "-c", "tail -n 1 /etc/one; tail -n 1 /etc/two"]);
    let mut numbers = text.lines().map(|line| line.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// The count of lines that the box has written so far.
fn count(environment: &Environment) -> u64 {
    environment.ok(["exec", "dev", "--", "tail", "-n", "1", "/etc/one"]).trim().parse().unwrap()
}

#[test]
fn a_running_box_stands_still_for_a_snapshot_and_goes_on() {
    let environment = Environment::new();
    if !environment.import_busybox() {
        return;
    }
    for (backend, flags) in [("overlay", &[][..]), ("copy", &[]), ("overlay", &["--pids-limit", "100"])] {
        environment.ok(["create", "--backend", backend, "base", "dev"]);
        let writer = Writer::start(&environment, flags);
        for label in ["a", "b", "c"] {
            std::thread::sleep(Duration::from_millis(50));
            environment.ok(["snapshot", "dev", label, "--pause"]);
        }
        let before = count(&environment);
        std::thread::sleep(Duration::from_millis(100));
        assert!(count(&environment) > before, "it does not go on");
        for label in ["a", "b", "c"] {
            let (one, two) = last_lines(&environment, &format!("dev@{label}"));
            assert!(one == two || one == two + 1, "{backend}: {one} and {two}");
        }
        drop(writer);
        // What was kept beside a running box is before what comes after it.
        environment.ok(["exec", "dev", "--", "sh", "-c", "echo 0 >> /etc/one"]);
        environment.ok(["snapshot", "dev", "d"]);
        let history: Vec<String> = (0..5)
            .map(|back| {
                environment.json(["show", &format!("dev@d~{back}")])["name"].as_str().unwrap().to_owned()
            })
            .collect();
        assert_eq!(history, ["dev@d", "dev@c", "dev@b", "dev@a", "base"], "{backend}");
        environment.ok(["undo", "dev"]);
        assert_eq!(last_lines(&environment, "dev").0, last_lines(&environment, "dev@c").0);
        environment.ok(["fsck"]);
        environment.ok(["rm", "--now", "dev"]);
        environment.ok(["prune"]);
    }
    let left = crate::lab::sh("find /sys/fs/cgroup -name 'pause-*' -type d | wc -l");
    assert_eq!(left, "0\n");
}

#[test]
fn a_snapshot_that_is_killed_leaves_no_box_standing_still() {
    let environment = Environment::new();
    if !environment.import_busybox() {
        return;
    }
    environment.ok(["create", "--backend", "overlay", "base", "dev"]);
    let _writer = Writer::start(&environment, &[]);
    let mut killed = environment.command();
    killed.args(["snapshot", "dev", "--pause"]).env("ROOTLING_FAULT", "freeze.still");
    assert!(!killed.output().unwrap().status.success());
    // Nobody else is asked: who stopped it notices.
    let store = environment.store();
    let paused =
        || fs::read_dir(store.join("o")).unwrap().any(|entry| entry.unwrap().path().join("paused").exists());
    eventually("the box goes on", || !paused());
    let before = count(&environment);
    eventually("it counts on", || count(&environment) > before);
    environment.ok(["snapshot", "dev", "after"]);
}

#[test]
fn one_undoes_and_another_snapshots_at_the_same_time() {
    let environment = Environment::new();
    if !environment.import_busybox() {
        return;
    }
    for backend in ["overlay", "copy"] {
        environment.ok(["create", "--backend", backend, "base", "dev"]);
        environment.ok(["exec", "dev", "--", "sh", "-c", "echo 1 > /etc/a"]);
        environment.ok(["snapshot", "dev"]);
        for round in 0..8 {
            environment.ok(["exec", "dev", "--", "sh", "-c", &format!("echo {round} >> /etc/a")]);
            let start = |arguments: &[&str]| {
                Command::new(BINARY)
                    .args(arguments)
                    .env("ROOTLING_ROOT", environment.store())
                    .stdout(Stdio::null())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap()
            };
            let both = [start(&["snapshot", "dev"]), start(&["undo", "dev"])];
            for child in both {
                let output = child.wait_with_output().unwrap();
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success() || said.contains("in use"), "{said}");
            }
            environment.ok(["fsck"]);
            // What was written last is in some state.
            let names = fs::read_dir(environment.store().join("n")).unwrap();
            let mut states = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let kept = states.any(|name| {
                name.starts_with("dev")
                    && environment.ok(["-q", "run", &name, "--", "tail", "-n", "1", "/etc/a"]).trim()
                        == round.to_string()
            });
            assert!(kept, "{backend}: {round} is lost");
        }
        environment.ok(["rm", "--now", "dev"]);
    }
}

#[test]
fn a_box_that_stands_still_for_nobody_is_let_go_by_the_next_command() {
    let environment = Environment::new();
    if !environment.import_busybox() {
        return;
    }
    environment.ok(["create", "--backend", "overlay", "base", "dev"]);
    let _writer = Writer::start(&environment, &[]);
    let mut child = stopped_snapshot(&environment);
    let store = environment.store();
    let paused = || {
        let objects = fs::read_dir(store.join("o")).unwrap();
        objects
            .map(|entry| entry.unwrap().path().join("paused"))
            .any(|path| fs::metadata(path).is_ok_and(|meta| meta.len() > 0))
    };
    eventually("the box is noted as paused", paused);
    // Both at once, as the kernel does when memory runs out.
    let helper = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap();
    for pid in helper.split_whitespace().map(|pid| pid.parse().unwrap()).chain([child.id().cast_signed()]) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    child.wait().unwrap();
    assert!(paused(), "there is something to heal");
    let ran = environment.run(["exec", "dev", "--", "tail", "-n", "1", "/etc/one"]);
    assert!(ran.stderr.contains("stood still for a snapshot that was cut short"), "{}", ran.stderr);
    assert!(!paused());
    let before: u64 = ran.stdout.trim().parse().unwrap();
    eventually("it counts on", || count(&environment) > before);
}

/// A snapshot of `dev` that was stopped while the box stands still.
fn stopped_snapshot(environment: &Environment) -> Child {
    let mut command = environment.command();
    command.args(["snapshot", "dev", "--pause"]).env("ROOTLING_FAULT_STOP", "freeze.still");
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let stat = format!("/proc/{}/stat", child.id());
    eventually("the snapshot stands in the middle", || {
        fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T "))
    });
    child
}

#[test]
fn an_interrupt_lets_the_box_go_on() {
    let environment = Environment::new();
    if !environment.import_busybox() {
        return;
    }
    environment.ok(["create", "--backend", "overlay", "base", "dev"]);
    let _writer = Writer::start(&environment, &[]);
    let mut child = stopped_snapshot(&environment);
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    for signal in [nix::sys::signal::Signal::SIGINT, nix::sys::signal::Signal::SIGCONT] {
        nix::sys::signal::kill(pid, signal).unwrap();
    }
    assert!(!child.wait().unwrap().success());
    let left = || {
        crate::lab::sh("find /sys/fs/cgroup -name 'pause-*' -type d").contains(&format!("-{}", child.id()))
    };
    eventually("its cgroup is gone", || !left());
    let before = count(&environment);
    eventually("it counts on", || count(&environment) > before);
}

// ---------------------------------------------------------------- volumes

#[test]
fn a_box_and_its_volumes_are_kept_and_brought_back_together() {
    prints_everywhere(
        "
        y() { $R -q exec -v data:/data -v more:/more dev -- sh -c \"$1\"; }
        y 'echo one > /etc/a; echo one > /data/a; echo one > /more/a'
        y 'cat > /dev/null; sleep 60' < /dev/zero & started=$!
        for i in 1 2 3 4 5 6 7 8 9; do $R -q ps | grep -q dev && break; sleep 0.1; done
        $R -q snapshot dev one --with-volumes > /dev/null
        ls $ROOTLING_ROOT/n | tr '\\n' ' '; echo
        $R -q stop -t 0 dev > /dev/null; wait $started || true
        y 'echo two > /etc/a; echo two > /data/a; echo two > /more/a'
        $R -q restore dev@one; y 'cat /etc/a /data/a'
        $R -q undo; y 'cat /etc/a /data/a'
        $R -q restore dev@one --with-volumes; y 'cat /etc/a /data/a /more/a'
        # Nothing that a snapshot needs goes, whatever is removed.
        $R -q volume rm data more > /dev/null; $R -q volume rm data@one more@one > /dev/null 2>&1 || true
        $R prune > /dev/null
        x 'echo three > /etc/a'
        $R -q restore dev@one --with-volumes; y 'cat /etc/a /data/a /more/a'",
        "_volume%2Fdata _volume%2Fdata%2Fone _volume%2Fmore _volume%2Fmore%2Fone base dev dev@one \n\
         dev@one\none\ntwo\ndev@1\ntwo\ntwo\ndev@one\none\none\none\ndev@one\none\none\none\n",
    );
}
