//! Trees made to lead the one who makes a box astray: what is a link there, or becomes one meanwhile, leads to a canary.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, Instant};

use nix::sys::stat::{Mode, SFlag, mknod};
use nix::unistd::mkfifo;

use super::{Camp, camps};
use crate::environment::skip;

impl Camp {
    /// A directory outside where a link can lead, writable for whoever makes the box.
    fn make_outside(&self) {
        fs::create_dir(self.path("outside")).unwrap();
        fs::set_permissions(self.path("outside"), fs::Permissions::from_mode(0o777)).unwrap();
    }

    fn is_outside_empty(&self) -> bool {
        fs::read_dir(self.path("outside")).unwrap().count() == 0
    }
}

#[test]
fn cve_2026_41579_and_47766_devices_are_not_made_where_a_link_leads() {
    for camp in camps() {
        camp.make_outside();
        fs::remove_dir(camp.path("root/dev")).unwrap();
        symlink("../outside", camp.path("root/dev")).unwrap();
        camp.run("touch root/dev/null; ln -s /proc/self/fd root/dev/fd");
        assert!(!camp.is_outside_empty(), "void");
        camp.run_after("rm outside/*", "true");
        // In a store the tree lies elsewhere: the link leads to the same place by its absolute name.
        for target in ["../outside".into(), camp.path("outside"), "../../../../outside".into()] {
            fs::remove_file(camp.path("root/dev")).unwrap();
            symlink(&target, camp.path("root/dev")).unwrap();
            camp.store("copy");
            for verb in ["run base", "exec box"] {
                let ran = camp.try_run(&format!("$R -q {verb} -- true"));
                assert_eq!(ran.code, 125, "{target:?}: {}", ran.stderr);
                assert!(ran.stderr.contains("/dev"), "{}", ran.stderr);
            }
            assert!(camp.is_outside_empty(), "{target:?}");
            camp.run("rm -rf store");
        }
    }
}

/// The directory is one when it is looked at and a link when it is used.
#[test]
fn cve_2025_52565_and_2019_19921_a_directory_swapped_for_a_link_meanwhile_leads_nowhere() {
    const CARELESS: &str = "d=root/dev; test ! -L $d && test -d $d && touch $d/console";
    for camp in camps() {
        camp.make_outside();
        camp.run_after("chown -R $U:$U root", "true");
        for name in ["dev", "proc", "sys"] {
            symlink(camp.path("outside"), camp.path(&format!("root/{name}-link"))).unwrap();
        }
        let start = Instant::now();
        while camp.is_outside_empty() && start.elapsed() < Duration::from_secs(20) {
            camp.run(&format!(
                "./prober swap root/dev root/dev-link 1 > /dev/null &
                for i in $(seq 300); do {{ {CARELESS}; }} 2>/dev/null || true; done; wait"
            ));
        }
        if camp.is_outside_empty() {
            skip("void: the careless way never lost the race");
            continue;
        }
        camp.run_after("rm outside/*; rm -rf root/dev root/dev-link; mkdir root/dev; ln -s $D/outside root/dev-link; chown -h $U:$U root/dev*", "true");
        camp.store("copy");
        for name in ["dev", "proc", "sys"] {
            // The box's own tree is changed under it, as a second box with the same volume could.
            let output = camp.run_after("true", &format!(
                "tree=$(dirname $(find store/o -path '*/fs/{name}-link' | tail -1)); $R -q rm base 2>/dev/null || true
                before=$(cat /proc/self/mountinfo)
                for link in $(find store/o -path '*/fs/{name}-link'); do ./prober swap ${{link%-link}} $link 2 > /dev/null & done
                good=0 bad=0
                for i in $(seq 25); do $R -q exec -t box -- true > /dev/null 2>&1 < /dev/null && good=$((good+1)) || bad=$((bad+1)); done
                wait; test \"$before\" = \"$(cat /proc/self/mountinfo)\"; echo good $good bad $bad"
            ));
            assert!(camp.is_outside_empty(), "{name}: {output}");
            if output.contains("good 0 ") || output.contains("bad 0\n") {
                skip(&format!("void: there was no race for {name}: {output}"));
            }
        }
    }
}

/// A mask that is the tree's own null device is whatever the tree says.
#[test]
fn cve_2025_31133_masks_are_not_the_trees_null_device() {
    for camp in camps() {
        for name in ["null", "console", "zero", "pts", "full"] {
            symlink(camp.path("canary"), camp.path("root/dev").join(name)).unwrap();
        }
        let naive = camp.run(
            "unshare $MAPPED --mount --pid --fork --propagation private sh -euc '
                mount -t proc proc root/proc; mount --bind root/dev/null root/proc/keys
                chroot root /bin/prober open w /proc/keys; chroot root cat /proc/keys'",
        );
        assert_eq!(naive, "/proc/keys: done\nintact\n", "void");
        camp.store("auto");
        for walls in ["", "--read-only"] {
            let output = camp.run(&format!(
                "$R -q run {walls} -t base -- sh -c 'for file in /proc/keys /proc/kcore /proc/timer_list /proc/kallsyms; do
                    test ! -e $file || cat $file; test ! -e $file || stat -c %t:%T $file; done | sort | uniq -c | tr -s \" \"
                    find /dev -type l | sort | tr \"\\n\" \" \"' < /dev/null | tr -d '\\r'"
            ));
            let [masks, links]: [&str; 2] = output.lines().collect::<Vec<_>>().try_into().unwrap();
            assert!(masks.ends_with(" 1:3"), "{output}");
            assert_eq!(links, "/dev/core /dev/fd /dev/ptmx /dev/stderr /dev/stdin /dev/stdout ");
        }
        camp.assert_intact();
    }
}

/// What is written to `/proc` goes to proc, whatever the tree has there.
#[test]
fn cve_2025_52881_2019_16884_and_2023_28642_a_proc_of_the_tree_takes_no_writes() {
    for camp in camps() {
        let sysctl = "proc/sys/net/ipv4";
        let fake = camp.path("root").join(sysctl);
        fs::create_dir_all(&fake).unwrap();
        fs::create_dir_all(camp.path("root/proc/self/attr")).unwrap();
        for link in [
            fake.join("ping_group_range"),
            camp.path("root/proc/self/attr/exec"),
            camp.path("root/proc/self/timens_offsets"),
        ] {
            symlink(camp.path("canary"), link).unwrap();
        }
        camp.run(&format!("printf 'intact\\n' > root/{sysctl}/ping_group_range; cp canary kept; echo '7 7' > root/{sysctl}/ping_group_range; cmp canary kept && exit 1; cp kept canary"));
        camp.store("auto");
        let walls = if camp.is_root() { "--clock-offset monotonic=5" } else { "" };
        let output = camp.run(&format!(
            "$R -q run --net none {walls} --sysctl net.ipv4.ping_group_range='0 0' base -- cat /{sysctl}/ping_group_range"
        ));
        assert_eq!(output.split_whitespace().collect::<Vec<_>>(), ["0", "0"]);
        camp.assert_intact();
        // A link instead of a directory is refused, wherever it leads.
        camp.run_after(
            "rm -rf root/proc root/sys; mkdir root/p root/s; ln -s p root/proc; ln -s s root/sys",
            "true",
        );
        let ran =
            camp.try_run("rm -rf store; $R -q init; $R -q import dir:root base; $R -q run base -- true");
        assert_eq!(ran.code, 125);
        assert!(ran.stderr.contains("/proc"), "{}", ran.stderr);
    }
}

/// Accounts that never answer or never end.
#[test]
fn cve_2024_9676_an_account_file_that_is_a_pipe_a_device_or_endless_is_refused_at_once() {
    for camp in camps() {
        let passwd = camp.path("root/etc/passwd");
        let kinds: &[&str] = &["pipe", "zero", "huge", "loop", "outside"];
        for kind in kinds.iter().filter(|kind| **kind != "zero" || camp.is_root()) {
            fs::remove_file(&passwd).unwrap();
            match *kind {
                "pipe" => mkfifo(&passwd, Mode::from_bits_truncate(0o666)).unwrap(),
                "zero" => {
                    mknod(
                        &passwd,
                        SFlag::S_IFCHR,
                        Mode::from_bits_truncate(0o666),
                        nix::sys::stat::makedev(1, 5),
                    )
                    .unwrap();
                }
                "huge" => fs::File::create(&passwd).unwrap().set_len(2 << 30).unwrap(),
                "loop" => symlink("passwd", &passwd).unwrap(),
                _ => symlink(camp.path("accounts"), &passwd).unwrap(),
            }
            // Whoever lists here would be found, were the link followed outside.
            fs::write(camp.path("accounts"), "me:x:0:0::/:/bin/sh\n").unwrap();
            if ["pipe", "zero"].contains(kind) {
                let careless = camp.try_run("timeout 1 cat root/etc/passwd > /dev/null");
                assert_eq!(careless.code, 124, "void: {kind}");
            }
            camp.run("rm -rf store; $R -q init --backend overlay; $R -q import dir:root base; $R -q create base box");
            let start = Instant::now();
            for verb in ["run", "exec"] {
                let place = if verb == "run" { "base" } else { "box" };
                let ran = camp.try_run(&format!("timeout 10 $R -q {verb} -u me:me {place} -- id -u"));
                assert_eq!((ran.code, ran.stdout.as_str()), (125, ""), "{kind}: {}", ran.stderr);
            }
            assert!(start.elapsed() < Duration::from_secs(10), "{kind}");
        }
    }
}

/// The same, done by the box while it runs, to whoever joins it.
#[test]
fn cve_2024_9676_accounts_that_a_box_replaces_do_not_hold_up_who_joins_it() {
    for camp in camps() {
        camp.store("auto");
        let output = camp.run(
            "start 'rm /etc/passwd /etc/group; busybox mkfifo /etc/passwd; ln -s /dev/zero /etc/group; echo ready; exec sleep 100'
            until grep -q ready up; do sleep 0.01; done
            timeout 1 cat /proc/$(for p in /proc/[0-9]*; do
                case $(tr '\\0' ' ' < $p/cmdline) in 'sleep 100 ') echo ${p#/proc/};; esac; done)/root/etc/passwd || echo void $?
            for user in me root 0:audio 5:6; do
                timeout 10 $R -q exec -u $user box -- id -u 2> error && code=0 || code=$?; echo $code
            done",
        );
        assert_eq!(output, "void 124\n125\n125\n125\n125\n");
    }
}
