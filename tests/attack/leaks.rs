//! What boxes leave behind: nothing, however they end.
//!
//! Each script is alone in its pid namespace, its mounts, its `/run/rootling` and its cgroups, so that what it finds there is its own.

use super::{Camp, camps};

/// `state` prints what there is; `settle` waits until all that a killed runner started has ended, as the kernel does at once.
const WATCH: &str = "
    alive() { for process in /proc/[0-9]*; do
        case \"$(cat $process/stat 2>/dev/null)\" in ''|*') Z '*|*') X '*) ;; *) echo $process;; esac; done; }
    processes() { for process in $(alive); do readlink $process/exe || true; done | grep -E 'rootling|busybox|prober|pasta|slirp|fuse' || true; }
    settle() { i=0; while test -n \"$(processes)\"; do sleep 0.02; i=$((i+1)); test $i -lt 100 || break; done; }
    state() { settle
        echo processes $(processes)
        echo mounts; cat /proc/self/mountinfo
        echo namespaces; for process in $(alive); do readlink $process/ns/* 2>/dev/null || true; done | sort -u
        echo cgroups; find ${GROUPS_OF_MINE:-/nowhere} -mindepth 1 -type d 2>/dev/null
        echo run; find /run/rootling -mindepth 1 -not -path '*/ids*' 2>/dev/null || true
        echo store; ls store/tmp store/trash store/o; }
    compare() { state > after; diff before after && echo $1: nothing is left; }";

/// As root: a `/run/rootling` and, in each hierarchy, a cgroup of its own.
const ALONE: &str = "
    mkdir -p /run/rootling; mount -t tmpfs -o mode=0755 tmpfs /run/rootling
    GROUPS_OF_MINE=''
    for tree in $(findmnt -n -l -t cgroup,cgroup2 -o TARGET); do
        group=$tree/rootling-test-$(basename $D)
        mkdir $group 2>/dev/null || continue
        for file in cpuset.cpus cpuset.mems; do test ! -e $group/$file || cat $tree/$file > $group/$file; done
        echo $$ > $group/cgroup.procs && GROUPS_OF_MINE=\"$GROUPS_OF_MINE $group\" || rmdir $group
    done
    export GROUPS_OF_MINE";

/// Removes the cgroups when the script has ended, and with it everybody who is in them.
struct Swept<'a>(&'a Camp);

impl Drop for Swept<'_> {
    fn drop(&mut self) {
        let find = "find /sys/fs/cgroup -depth -type d -path \"*/rootling-test-$(basename $D)*\"";
        self.0.try_after(&format!("{find} -exec rmdir {{}} +; exit"), "true");
    }
}

impl Camp {
    fn watched(&self, script: &str) -> String {
        let _swept = Swept(self);
        self.run_after(ALONE, &format!("{WATCH}\n$R -q run base -- true; state > before\n{script}"))
    }
}

#[test]
fn runs_that_succeed_leave_nothing() {
    for camp in camps() {
        camp.store("auto");
        let output = camp.watched(
            "for i in $(seq 10); do $R -q run base -- true; $R -q exec box -- sh -c 'exit 3' || test $? = 3
                $R -q run --net none base -- true; $R -q exec -t box -- true < /dev/null; done; compare all
            start 'sleep 1000 & exec sleep 1.5'
            for i in $(seq 10); do $R -q exec box -- sh -c '(sleep 1000 &)' || true; done; wait; compare joined",
        );
        assert_eq!(output, "all: nothing is left\njoined: nothing is left\n");
    }
}

#[test]
fn runs_that_fail_early_or_late_leave_nothing() {
    for camp in camps() {
        camp.store("auto");
        camp.run_after("rm -rf root/proc; touch root/proc", "$R -q import dir:root broken");
        let output = camp.watched(
            "fails() { code=$1; shift; for i in 1 2 3 4; do
                \"$@\" > out 2>&1 && got=0 || got=$?; test $got = $code || { echo \"$@: $got\"; cat out; }; done; compare \"$*\"; }
            R=\"$R -q\"
            fails 127 $R run base -- nowhere
            fails 126 $R run base -- /etc
            fails 125 $R run -w /missing base -- true
            fails 125 $R run -u nobody.here base -- true
            fails 125 $R run broken -- true
            fails 125 $R run --device /dev/missing base -- true
            fails 125 $R run --net ns:/missing base -- true
            fails 125 $R run --net none --sysctl net.no.such=1 base -- true
            fails 125 $R run --ulimit nofile=4000000000 base -- true
            fails 125 $R exec -w /missing box -- true
            fails 137 $R run base -- sh -c 'kill -9 $$'" ,
        );
        assert_eq!(output.matches(": nothing is left\n").count(), 11, "{output}");
        assert_eq!(output.lines().count(), 11, "{output}");
    }
}

/// At any moment: what the kernel does not end with the runner, the next prune does.
#[test]
fn a_runner_killed_at_any_moment_leaves_nothing_that_prune_does_not_remove() {
    for camp in camps() {
        camp.store("auto");
        let output = camp.watched(
            "moments() { seq -f %.3f 0.001 $1 0.060; }
            for moment in $(moments 0.004); do for net in host none; do
                $R -q run --net $net base -- sleep 1000 & sleep $moment; kill -9 $! || true; wait $! || true; done; done
            for moment in $(moments 0.007); do
                $R -q exec box -- sleep 1000 & sleep $moment; kill -9 $! || true; wait $! || true; done
            settle; $R -q prune > /dev/null; compare killed
            start 'sleep 3'
            for moment in $(moments 0.007); do
                $R -q exec box -- sleep 1000 & sleep $moment; kill -9 $! || true; wait $! || true; done
            wait; $R -q prune > /dev/null; compare joined",
        );
        assert_eq!(output, "killed: nothing is left\njoined: nothing is left\n");
    }
}

/// The other tests of this file mean nothing if what is left is not seen.
#[test]
fn what_is_left_is_seen() {
    for camp in camps() {
        camp.store("auto");
        let output = camp.watched(
            "left() { state > after; diff before after | grep -c '^>' || true; }
            left
            unshare --net $MAPPED root/bin/busybox sleep 1000 & sleep 0.1; left; kill $!; wait $! || true
            mkdir store/tmp/left; left; rmdir store/tmp/left
            if test $U = 0; then
                mount --bind root m 2>/dev/null || { mkdir m; mount --bind root m; }; left; umount m
                mkdir /run/rootling/left; left; rmdir /run/rootling/left
                for group in $GROUPS_OF_MINE; do mkdir $group/left; left; rmdir $group/left; done
            fi; compare all",
        );
        let lines: Vec<&str> = output.lines().collect();
        let [first, seen @ .., last] = lines.as_slice() else { panic!("{output}") };
        assert_eq!((*first, *last), ("0", "all: nothing is left"));
        assert!(seen.len() >= 2 && seen.iter().all(|count| *count != "0"), "{output}");
        assert!(!camp.is_root() || seen.len() >= 5, "no cgroup was watched: {output}");
    }
}

/// No pid namespace ends with such a box, and the ids that its processes have are lent to others afterwards.
#[test]
fn without_a_pid_namespace_of_its_own_a_box_ends_whole() {
    const LEAVE: &str = "sh -c 'sleep 1000 & (sleep 1000 & (sleep 1000 &) &) ; exit 3'";
    for camp in camps() {
        camp.store("auto");
        std::fs::write(camp.path("root/dev/null"), "").unwrap();
        let naive = camp.run(&format!(
            "{WATCH}\nunshare $MAPPED --mount chroot root {LEAVE} || true
            for i in $(seq 50); do test $(processes | wc -l) != 3 || break; sleep 0.02; done; processes | wc -l"
        ));
        assert_eq!(naive, "3\n", "void: {:?}", camp.0.ids);
        let output = camp.watched(&format!(
            "$R -q run --pid host base -- {LEAVE} || test $? = 3; compare ended
            $R -q run --pid host base -- sh -c 'sleep 1000 & (sleep 1000 &); sleep 1000' & runner=$!
            until test $(processes | grep -c busybox) -ge 3; do sleep 0.01; done
            kill -9 $runner; wait $runner || true; settle; $R -q prune > /dev/null; compare killed
            WALLS='--pid host' start 'while test ! -e /tmp/end; do sleep 0.02; done'
            $R -q exec box -- {LEAVE} || test $? = 3; processes | grep -c busybox
            $R -q exec box -- sleep 1000 & joined=$!; until test $(processes | grep -c busybox) -ge 3; do sleep 0.01; done
            kill -9 $joined; wait $joined || true
            $R -q exec box -- touch /tmp/end; wait; compare joined"
        ));
        let lines: Vec<&str> = output.lines().collect();
        let [ended, killed, left, joined] = lines.as_slice() else { panic!("{output}") };
        assert_eq!((*ended, *killed), ("ended: nothing is left", "killed: nothing is left"));
        assert!(["1", "2"].contains(left), "{output}");
        assert_eq!(*joined, "joined: nothing is left");
    }
}
