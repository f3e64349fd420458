//! `bundle` and what it hands over: runc and crun run it as we would, `podman --rootfs` runs what `mount` shows.

mod calls;
mod configuration;
mod life;
mod mounted;

use crate::environment::{Environment, Ran, found, skip};
use crate::grounds::on_file_systems;
use crate::host::FileSystem;

/// Shell functions: `begin` once in a script, then `by RUNTIME BUNDLE`.
///
/// crun takes no cgroups of both versions at once that both have controllers: then those of version 2 are hidden from it.
const RUNTIMES: &str = r#"
begin() {
    both=/sys/fs/cgroup/unified/cgroup.controllers
    if test -e $both; then : > $D/none; mount --bind $D/none $both; fi
}
by() { mkdir -p $D/state; "$1" --root $D/state/$1 run --bundle "$2" rootling-$$-$1 < /dev/null; }
begin
"#;

/// What a process inside sees of its walls; the same in whatever runs it.
const SEEN: &str = r#"id; umask; hostname; pwd; echo $FOO $HOME
grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status
for file in /proc/kallsyms /proc/interrupts /proc/keys; do wc -c < $file; done; ls /sys/firmware | wc -l
for file in /proc/sys/kernel/printk /proc/sysrq-trigger; do (echo 1 > $file) 2> /dev/null || echo $file; done
(echo 1 > /sys/kernel/uevent_seqnum) 2> /dev/null || echo /sys
mount -t tmpfs t /tmp 2> /dev/null || echo no mount; unshare -U true 2> /dev/null || echo no user namespace
ls /sys/class/net; for name in null zero full random urandom tty; do stat -c '%n %a %t:%T' /dev/$name; done
readlink /dev/fd /dev/stdin; stat -c %a /dev/shm; test -d /dev/pts && test -d /dev/mqueue && echo dev
mknod /tmp/disk b 7 0; (head -c 1 /tmp/disk > /dev/null) 2> /dev/null || echo dead; rm /tmp/disk
touch /written; exit 7"#;

/// Is there a runtime that can be asked?
fn runtimes() -> Vec<&'static str> {
    let there: Vec<_> = ["runc", "crun"].into_iter().filter(|name| found(name)).collect();
    if there.len() < 2 {
        skip("runc or crun is not installed");
    }
    there
}

/// Runs a script in which `by RUNTIME BUNDLE` runs a bundle.
fn script(environment: &Environment, script: &str) -> Ran {
    environment.script(&format!("{RUNTIMES}{script}"))
}

fn script_ok(environment: &Environment, text: &str) -> String {
    let ran = script(environment, text);
    assert_eq!(ran.code, 0, "stdout: {}\nstderr: {}", ran.stdout, ran.stderr);
    ran.stdout
}

#[test]
fn other_runtimes_run_a_bundle_as_we_run_the_tree() {
    let runtimes = runtimes();
    on_file_systems(|environment: &Environment, _: FileSystem| {
        if !environment.import_busybox() {
            return;
        }
        std::fs::write(environment.path("seen"), SEEN).unwrap();
        let flags = "--net none --hostname inside -e FOO=bar -w /tmp";
        let ours =
            environment.script(&format!("$R -q run --userns host {flags} base -- sh -c \"$(cat $D/seen)\""));
        assert_eq!(ours.code, 7, "{}", ours.stderr);
        assert!(ours.stdout.contains("Seccomp:\t2") && ours.stdout.contains("dead"), "{}", ours.stdout);
        for runtime in &runtimes {
            let text = format!(
                "$R -q bundle {flags} base $D/{runtime} -- sh -c \"$(cat $D/seen)\" > $D/id
                set +e; by {runtime} $D/{runtime}; code=$?; set -e
                test $code = 7; $R diff {runtime} > $D/diff; grep -qx 'A /written' $D/diff; test -e $D/{runtime}/rootfs/written
                $R -q bundle --rm $D/{runtime}; test ! -e $D/{runtime}"
            );
            let theirs = script_ok(environment, &text);
            assert_eq!(theirs, ours.stdout, "{runtime}");
        }
        environment.assert_tidy(&["base"]);
    });
}

#[test]
fn flags_mean_what_they_mean_to_run() {
    let runtimes = runtimes();
    let environment = Environment::new();
    if !environment.import_busybox() {
        return;
    }
    let prepare = "mkdir -p $D/src/below $D/up; mount -t tmpfs t $D/src/below; touch $D/src/below/there
        grep -q audio $D/root/etc/group || echo 'audio:x:29:me' >> $D/root/etc/group; $R -q import dir:$D/root accounts > $D/id
        $R -q import dir:$D/root --change 'ENTRYPOINT [\"/bin/echo\", \"entry\"]' --change 'CMD [\"point\"]' app >> $D/id";
    for runtime in runtimes {
        let text = format!(
            r#"{prepare}
            t() {{ # FLAGS... -- REFERENCE COMMAND
                n=$((${{n:-0}} + 1)); flags=; while test "$1" != --; do flags="$flags $1"; shift; done; shift; from=$1; shift
                $R -q bundle $flags $from $D/b$n ${{1:+-- "$@"}} > $D/id || return; by {runtime} $D/b$n || echo code $?
                $R -q bundle --rm $D/b$n
            }}
            t -- app; t -- app other; t --entrypoint /bin/id -- app -u
            t --user 1000 -- accounts id
            t --user 7:8 -- accounts id
            t --read-only --tmpfs /new:size=1m,mode=700 -- base sh -c 'touch /x 2> /dev/null || echo closed; touch /new/x; stat -c %a /new'
            t -v $D/src:/src:ro -- base sh -c 'ls /src/below; touch /src/x /src/below/x 2> /dev/null; ls /src /src/below'
            t -v $D/up:/up -- base sh -c 'echo kept > /up/file'; cat $D/up/file
            t -v data:/data -- base sh -c 'echo in > /data/file'; t -v data:/data:ro -- base cat /data/file
            t --ulimit nofile=100:200 --ulimit core=0 -- base sh -c 'ulimit -n; ulimit -Hn; ulimit -c'
            t --cap-drop all --cap-add kill -- base grep CapEff /proc/self/status
            t --security-opt no-new-privileges=false --security-opt seccomp=unconfined -- base grep -E 'NoNew|Seccomp:' /proc/self/status
            t --security-opt unmask=/proc/kallsyms --security-opt mask=/proc/version -- base sh -c 'head -n 1 /proc/kallsyms | wc -l; cat /proc/version'
            t --net none --sysctl net.ipv4.ip_forward=1 --sysctl kernel.shmmni=77 -- base cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni
            t --device /dev/kmsg:/dev/log0 -- base stat -c '%t:%T' /dev/log0
            t --uts host -- base hostname | grep -qx "$(hostname)" && echo host name
            t --ipc host --pid host -- base sh -c 'test $(ls -d /proc/[0-9]* | wc -l) -gt 5 && echo processes'
            t --net host -- base sh -c 'readlink /proc/self/ns/net' | grep -qxF "$(readlink /proc/self/ns/net)" && echo host network
            t --oom-score-adj 321 -- base cat /proc/self/oom_score_adj
            # Room for the threads of runc, of which it has more when the machine is slow.
            t --pids-limit 40 -- base sh -c 'for i in $(seq 50); do sleep 60 & done' > $D/said 2>&1
            grep -c fork $D/said || cat $D/said
            t --net none --add-host other:10.0.0.1 --dns 10.0.0.2 -- base sh -c 'grep other /etc/hosts; cat /etc/resolv.conf /etc/hostname' | sed 's/^b[0-9]*$/NAME/'
            t -- base sh -c 'exit 300'; t -- base /nothing 2> /dev/null
            $R -q prune --removed > $D/id; $R -q volume rm --force data"#
        );
        let printed = script_ok(&environment, &text);
        let expected = "entry point\nentry other\n0\n\
            uid=1000(me) gid=1000(me) groups=29(audio)\nuid=7 gid=8\nclosed\n700\n\
            there\n/src:\nbelow\n\n/src/below:\nthere\nkept\nin\n100\n200\n0\n\
            CapEff:\t0000000000000020\nNoNewPrivs:\t0\nSeccomp:\t0\n1\n1\n77\n1:b\nhost name\nprocesses\nhost network\n321\n1\n\
            10.0.0.1\tother\nnameserver 10.0.0.2\nNAME\ncode 44\n";
        let (head, last) = printed.split_at(printed.rfind("code").expect("the last one fails"));
        assert_eq!(head, expected, "{runtime}");
        assert!(last == "code 1\n" || last == "code 127\n", "{runtime}: {last}");
        environment.ok(["rm", "--now", "accounts", "app"]);
        std::fs::remove_dir_all(environment.path("src")).unwrap();
        std::fs::remove_dir_all(environment.path("up")).unwrap();
    }
}

#[test]
fn limits_hold_and_a_terminal_is_one() {
    let runtimes = runtimes();
    let environment = Environment::new();
    if !environment.import_busybox() {
        return;
    }
    for runtime in runtimes {
        let text = format!(
            r#"eat='dd if=/dev/zero of=/dev/null bs=64M count=1 2> /dev/null'
            $R -q bundle --memory 128m base $D/much -- sh -c "$eat; echo ate" > $D/id; by {runtime} $D/much; $R -q bundle --rm $D/much
            $R -q bundle --memory 16m --memory-swap 16m base $D/little -- sh -c "$eat" > $D/id; by {runtime} $D/little || echo code $?; $R -q bundle --rm $D/little
            $R -q bundle -t base $D/t -- sh -c 'test -t 0 && test -t 1 && echo $TERM; (: > /dev/tty) && tty' > $D/id
            script -qec "{runtime} --root $D/state/{runtime} run --bundle $D/t rootling-$$-t" /dev/null < /dev/null | grep -aoE 'xterm|/dev/pts/0'; $R -q bundle --rm $D/t
            $R -q prune --removed > $D/id"#
        );
        let expected = "ate\ncode 137\nxterm\n/dev/pts/0\n";
        assert_eq!(script_ok(&environment, &text), expected, "{runtime}");
        environment.assert_tidy(&["base"]);
    }
}

#[test]
fn what_is_made_inside_is_a_box_like_any_other() {
    let runtimes = runtimes();
    let environment = Environment::new();
    if !environment.import_busybox() {
        return;
    }
    for runtime in runtimes {
        let text = format!(
            r#"$R -q bundle --name work base $D/b -- sh -c 'echo one > /file; echo up; read go < /go; echo two > /file; cat /file' > $D/id
            mkfifo $D/b/rootfs/go; trap 'timeout 2 sh -c "echo > $D/b/rootfs/go" || true' EXIT
            by {runtime} $D/b > $D/out 2>&1 & while ! grep -q up $D/out 2> /dev/null; do sleep 0.02; done
            $R ls | grep work | grep -c mounted; $R -q snapshot work first > $D/id; $R diff base..work | grep /file
            $R bundle --rm $D/b 2>&1 | grep -c 'runs in'; $R umount $D/b/rootfs 2>&1 | grep -c 'runs in' || true
            $R rm work 2>&1 | grep -c 'is mounted at'
            echo > $D/b/rootfs/go; wait; trap - EXIT; cat $D/out; cat $D/b/rootfs/file; $R diff work@first..work | grep /file
            $R show work | grep -E '^(mounted|bundle)' | sed "s,$D,DIR,"
            $R -q umount work; $R -q exec work -- cat /file; $R -q bundle --keep-box --rm $D/b; test ! -e $D/b
            $R -q exec work -- cat /file; $R -q rm --now work"#
        );
        let printed = script_ok(&environment, &text);
        // Of a plain tree, unmounting takes nothing away from who runs in it.
        let refused = "1\nA /file\n1\n1\n1\n";
        let rest = "up\ntwo\ntwo\nC /file\nmounted   DIR/b/rootfs\nbundle    DIR/b\ntwo\ntwo\n";
        assert_eq!(printed, format!("{refused}{rest}"), "{runtime}");
        environment.assert_tidy(&["base"]);
    }
}
