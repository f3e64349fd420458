//! `try host:/`: the machine is a small tree of the test's own, which the program is chrooted into.

use crate::environment::{Environment, is_root};

/// Makes the machine in `$D/h` on a file system of the given sort, and `inside`, which runs the program there.
const MACHINE: &str = r#"
    truncate -s 600M $D/image; mkfs.$FS -q $D/image > /dev/null; mkdir $D/h; mount -o loop $D/image $D/h; cd $D/h
    mkdir -p bin etc/old proc sys dev tmp run var/lib mnt
    for file in $R $(ldd $R | grep -o '/[^ ]*'); do mkdir -p .$(dirname $file); cp $file .$file; done
    cp $(command -v busybox) bin/; for tool in sh ls echo rm test cat touch mkdir ln chmod sleep true; do ln -s busybox bin/$tool; done
    echo root:x:0:0::/:/bin/sh > etc/passwd; echo old > etc/conf; chmod 640 etc/conf; echo a > etc/old/a; echo b > etc/old/b
    touch -d 2001-02-03 etc/old/a; ln etc/conf etc/other; ln -s conf etc/link; echo gone > etc/gone
    mount -t proc proc proc; mount -t sysfs sysfs sys; mount --rbind /dev dev; mount --rbind /sys/fs/cgroup sys/fs/cgroup
    mount -t tmpfs tmpfs mnt
    export ROOTLING_ROOT=/var/lib/store ROOTLING_USERNS=host
    inside() { chroot $D/h "$R" -q "$@"; }
    # What is there, to the nanosecond; directories without their times.
    state() { (cd $D/h/etc; find . ! -type d -printf '%p %y %m %U:%G %s %T@ %n %l\n' -o -type d -printf '%p d %m\n' | sort; cat conf gone old/a 2>/dev/null || true); }
    inside init /var/lib/store > /dev/null
"#;

/// The change that is tried: contents, modes, a directory gone, one new, a file in place of a directory and of a link.
const CHANGE: &str = "echo new > /etc/conf; rm -r /etc/old /etc/gone; mkdir /etc/new; echo n > /etc/new/n; \
    rm /etc/link; mkdir /etc/link; echo in > /etc/link/in; chmod 600 /etc/passwd; touch /tmp/t /run/r";

fn on_machines(script: &str, check: impl Fn(&str, &str)) {
    if !is_root() {
        return;
    }
    for sort in ["ext4", "btrfs", "xfs"] {
        let environment = Environment::new();
        let line = format!("FS={sort}; CHANGE='{CHANGE}'\n{MACHINE}\n{script}");
        check(sort, &environment.script_ok(&line));
    }
}

#[test]
fn what_was_tried_on_the_machine_is_applied_and_brought_back() {
    let script = r#"state > $D/before
        inside try --on-exit discard host:/ -- sh -c "$CHANGE"; state | cmp - $D/before && echo untouched
        inside try --on-exit apply --yes host:/ -- sh -c "$CHANGE"; state > $D/applied
        cat etc/conf etc/new/n etc/link/in; ls etc; test -e tmp/t || echo no t; stat -c %a etc/conf etc/passwd
        inside undo host:/ > /dev/null; state | diff - $D/before && echo back
        inside undo host:/ 2>&1 > /dev/null | head -1; inside fsck --verify > /dev/null; ls run var/lib/store/tmp"#;
    on_machines(script, |sort, stdout| {
        let expected = "untouched\nnew\nn\nin\nconf\nlink\nnew\nother\npasswd\nno t\n640\n600\nback\n";
        let rest = stdout.strip_prefix(expected).unwrap_or_else(|| panic!("{sort}: {stdout}"));
        assert_eq!(rest, "rootling: undo the last changes of host:/\nrun:\n\nvar/lib/store/tmp:\n", "{sort}");
    });
}

#[test]
fn what_stays_out_of_a_fork_is_no_change_of_it() {
    let script = r#"ln etc/passwd tmp/other; ln etc/passwd run/third; mkdir tmp/full; touch tmp/full/file
        inside create host:/ dev > /dev/null; inside exec dev -- sh -c 'echo new > /etc/fresh'; chroot $D/h "$R" diff dev"#;
    on_machines(script, |sort, stdout| assert_eq!(stdout, "A /etc/fresh\n", "{sort}"));
}

#[test]
fn what_was_brought_back_is_said_although_a_step_further_there_is_nothing() {
    let script = r#"inside try --on-exit apply --yes host:/ -- sh -c "$CHANGE"
        chroot $D/h "$R" undo -n 3 host:/ 2>&1 > $D/stdout | grep -v '^ ' | sed 's/[0-9]* paths/N paths/'; cat $D/stdout etc/conf"#;
    on_machines(script, |sort, stdout| {
        let lines: Vec<&str> = stdout.lines().collect();
        let [done, failed, content] = lines[..] else { panic!("{sort}: {stdout}") };
        assert!(
            done.starts_with("host:/ is at N paths as in host@1; what was there is "),
            "{sort}: {stdout}"
        );
        assert!(failed.starts_with("rootling: undo the last changes of host:/"), "{sort}: {stdout}");
        assert_eq!(content, "old", "{sort}");
    });
}

#[test]
fn what_others_wrote_on_the_machine_meanwhile_is_not_replaced_unasked() {
    let script = r#"wait_then() { until test -e $D/h/mnt/up; do sleep 0.02; done; rm $D/h/mnt/up; eval "$1"; touch $D/h/mnt/go; }
        attempt() { rm -f mnt/go; inside try -v /mnt:/meet --on-exit apply --yes "$@" host:/ -- \
            sh -c 'echo tried > /etc/conf; echo x > /etc/fresh; rm -r /etc/old; touch /meet/up; until test -e /meet/go; do sleep 0.02; done' > $D/said 2>&1 &
            wait_then "$change"; wait $! || echo refused; }
        for change in 'echo mine > etc/conf' 'echo mine > etc/fresh' 'echo mine > etc/old/c'; do
            attempt; grep -o 'changed on this machine since it was forked: .*' $D/said; cat etc/conf; ls etc/old; rm -f etc/fresh; done
        change='echo mine > etc/conf'; attempt --force; cat etc/conf etc/fresh
        inside try --on-exit apply --yes host:/ -- sh -c 'touch /mnt/x; echo no > /etc/conf' 2>&1 | grep -o 'other file systems are mounted there: /mnt'; cat etc/conf
        # Of what was applied, somebody goes on with one file.
        echo later > etc/fresh; inside undo host:/ 2>&1 | grep -o '/etc/fresh and 0 more'; cat etc/conf
        inside undo --force host:/ > /dev/null; cat etc/conf etc/old/c; test -e etc/fresh || echo gone
        inside run host@2 -- true 2>&1 | head -1; inside fsck > /dev/null"#;
    on_machines(script, |sort, stdout| {
        let lines: Vec<&str> = stdout.lines().collect();
        let refused = |path: &str| format!("changed on this machine since it was forked: {path}");
        assert!(lines[0] == "refused" && lines[1].starts_with(&refused("/etc/conf")), "{sort}: {stdout}");
        assert!(
            stdout.contains(&refused("/etc/fresh")) && stdout.contains(&refused("/etc/old")),
            "{sort}: {stdout}"
        );
        let end = "tried\nx\nother file systems are mounted there: /mnt\ntried\n/etc/fresh and 0 more\ntried\nmine\nmine\ngone\n";
        assert!(stdout.contains(end), "{sort}: {stdout}");
    });
}

#[test]
fn a_kill_in_the_middle_is_brought_back() {
    let script = r#"state > $D/before; inside try --on-exit discard host:/ true
        for point in host.copied commit.sealed publish.moved host.kept host.named host.patched host.synced host.applied; do
            # What was written just before a fork, or while it was made, cannot be told from what was written after it.
            sleep 1; code=0; ROOTLING_FAULT=$point:1 inside try --on-exit apply --yes host:/ -- sh -c "$CHANGE" > $D/said 2>&1 || code=$?
            test $code = 137 || { echo "not killed at $point: $code"; cat $D/said; }
            inside fsck > /dev/null
            inside undo host:/ > /dev/null 2>&1 || echo "nothing at $point"
            state | diff - $D/before && echo "back from $point"; inside prune > /dev/null
        done
        # And while it is brought back.
        for point in host.kept host.named host.patched host.applied host.undone; do
            sleep 1; inside try --on-exit apply --yes host:/ -- sh -c "$CHANGE"
            code=0; ROOTLING_FAULT=$point:1 inside undo host:/ > /dev/null 2>&1 || code=$?
            test $code = 137 || echo "undo not killed at $point: $code"
            inside undo --force host:/ > /dev/null 2>&1 || true
            state | diff - $D/before && echo "back from undo at $point"
        done"#;
    on_machines(script, |sort, stdout| {
        let mut expected = String::new();
        // Before it has a name nothing of the machine was touched.
        for point in ["host.copied", "commit.sealed", "publish.moved", "host.kept"] {
            expected.push_str(&format!("nothing at {point}\nback from {point}\n"));
        }
        for point in ["host.named", "host.patched", "host.synced", "host.applied"] {
            expected.push_str(&format!("back from {point}\n"));
        }
        for point in ["host.kept", "host.named", "host.patched", "host.applied", "host.undone"] {
            expected.push_str(&format!("back from undo at {point}\n"));
        }
        assert_eq!(stdout, expected, "{sort}");
    });
}

#[test]
fn nobody_changes_the_machine_without_a_word() {
    let script = r#"inside try --on-exit apply host:/ true 2>&1 | head -3; state > $D/before
        inside try host:/ -- sh -c 'echo x > /etc/conf' > $D/said 2>&1; state | cmp - $D/before && echo untouched"#;
    on_machines(script, |sort, stdout| {
        let expected = "rootling: nobody can be asked before files of this machine change\n  hint: --yes agrees; whatever changes is \
             kept before, and `rootling undo host:/` brings it back\nuntouched\n";
        assert_eq!(stdout, expected, "{sort}");
    });
}
