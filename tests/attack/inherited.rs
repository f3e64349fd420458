//! What a process brings along: open descriptors, its environment, its keys, its capabilities.

use super::{ALONE, Camp, camps};

/// `$@` as the command of a new box, and as one that joins a box.
const BOTH: &str = "
    start 'sleep 100'
    both() { $R -q run base -- \"$@\"; $R -q exec box -- \"$@\"; }";

#[test]
fn cve_2024_21626_a_directory_left_open_is_no_way_out() {
    for camp in camps() {
        std::os::unix::fs::symlink("/proc/self/fd/9", camp.path("root/link")).unwrap();
        let naive =
            camp.run("exec 9<. 8</; naive /bin/sh -c 'cd /proc/self/fd/9; cat canary; cd /link; cat canary'");
        assert_eq!(naive, "intact\nintact\n", "void");
        camp.store("auto");
        let output = camp.run(&format!(
            "{BOTH}
            exec 9<. 8</
            for directory in $(seq -f /proc/self/fd/%g 3 30) /link /proc/1/cwd /proc/1/fd/9 /proc/self/root/link; do
                for verb in 'run -w DIR base' 'exec -w DIR box'; do
                    $R -q ${{verb%DIR*}} $directory ${{verb#*DIR}} -- sh -c 'cat canary ../canary; pwd' 2> error && code=0 || code=$?
                    grep -q 'working directory' error || cat error
                    echo $code
                done
            done | sort | uniq -c | tr -s ' '
            both sh -c 'ls /proc/$$/fd; true' | tr '\\n' ' '"
        ));
        assert_eq!(output, " 64 125\n0 1 2 0 1 2 ");
        camp.assert_intact();
    }
}

#[test]
fn the_environment_of_the_caller_stays_outside() {
    for camp in camps() {
        camp.store("auto");
        let search = "grep -l 'SECRET=of.the.caller' /proc/[0-9]*/environ 2>/dev/null; echo searched";
        let walls = if camp.is_root() { "--privileged --userns host" } else { "--privileged" };
        let output = camp.run(&format!(
            "{BOTH}
            export SECRET=of.the.caller
            echo without walls:; $R -q run {walls} base -- sh -c \"{search}\"
            echo with:; both sh -c \"{search}\""
        ));
        let (without, with) = output.split_once("with:\n").unwrap();
        assert!(without.contains("/proc/1/environ"), "void: {output}");
        assert_eq!(with, "searched\nsearched\n");
    }
}

#[test]
fn a_key_of_the_callers_session_is_not_read() {
    for camp in camps() {
        camp.store("auto");
        let with_key = "./prober with-key rootling-test secret-of-the-caller sh -euc";
        let naive = camp.run(&format!(
            "{with_key} 'unshare $MAPPED --pid --fork chroot $D/root /bin/prober read-key $KEY rootling-test'"
        ));
        if camp.is_root() {
            assert_eq!(naive, "search: done\nread: done\nsecret-of-the-caller\n", "void");
        } else {
            // Another user namespace is wall enough for the search by name.
            assert!(naive.ends_with("read: done\nsecret-of-the-caller\n"), "void: {naive}");
        }
        let output = camp.run(&format!(
            "{BOTH}
            {with_key} \"$R -q run base -- prober read-key \\$KEY rootling-test\"
            {with_key} \"$R -q run {ALONE} base -- prober read-key \\$KEY rootling-test\"
            {with_key} \"$R -q exec box -- prober read-key \\$KEY rootling-test\""
        ));
        assert!(!output.contains("secret") && !output.contains("done"), "{output}");
        assert_eq!(output.matches("read: ").count(), 3, "{output}");
    }
}

/// An inheritable capability comes back with the next program that has it in its file.
#[test]
fn cve_2022_24769_27649_29162_no_capability_is_inheritable() {
    for camp in camps().filter(Camp::is_root) {
        let naive = camp.run(
            "setpriv --inh-caps +chown,+kill chroot root /bin/grep -E 'Inh|Amb' /proc/self/status || true
            setpriv --inh-caps +chown,+kill sh -c 'naive() { \"$@\"; }; naive grep CapInh /proc/self/status'",
        );
        assert!(naive.contains("CapInh:\t0000000000000021"), "void: {naive}");
        camp.store("auto");
        let output = camp.run(&format!(
            "{BOTH}
            R=\"setpriv --inh-caps +chown,+kill --ambient-caps +chown $R\"
            both grep -E 'CapInh|CapAmb' /proc/self/status
            for user in root me; do for verb in 'run base' 'exec box'; do
                $R -q ${{verb% *}} -u $user ${{verb#* }} -- grep -E 'CapInh|CapAmb' /proc/self/status
            done; done"
        ));
        assert_eq!(output, "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n".repeat(6));
    }
}

/// What is not passed on by accident is passed on by name: a directory as standard input, a closed one as whatever is opened next.
#[test]
fn cve_2024_21626_a_standard_stream_is_no_directory() {
    for camp in camps() {
        let naive = camp.run("naive /bin/sh -c 'cd /proc/self/fd/0; cat canary' < .");
        assert_eq!(naive, "intact\n", "void");
        camp.store("auto");
        let output = camp.run(&format!(
            "{BOTH}
            for verb in 'run base' 'exec box'; do
                $R -q $verb -- cat /proc/self/fd/0/canary < . 2> error && echo 0 || echo $?; head -1 error
                $R -q $verb -- cat /proc/self/fd/2/canary 2< . && echo 0 || echo $?
                $R -q $verb -- sh -c 'readlink /proc/self/fd/0; readlink /proc/self/fd/2' <&- 2>&-
            done"
        ));
        let once =
            "125\nrootling: standard input is a directory, from which the box could reach all others\n125\n";
        let nulls = "/dev/null\n/dev/null\n";
        assert_eq!(output, format!("{once}{nulls}").repeat(2));
    }
}
