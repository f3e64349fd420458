//! Who one is inside, and what one leaves outside.

use super::{ALONE, Camp, camp, camps};
use crate::guest::Ids;

/// The oldest way out: keep a directory open and move the root below it.
#[test]
fn a_kept_descriptor_and_chroot_are_no_way_out() {
    for camp in camps() {
        let escape = "prober escape $D/canary";
        assert_eq!(camp.run(&format!("naive /bin/{escape}")), "chroot: done\nintact\n", "void");
        camp.store("auto");
        let walls: &[&str] = if camp.is_root() { &["", "--userns host"] } else { &[""] };
        for walls in walls {
            let output = camp.run(&format!("$R -q run {ALONE} {walls} base -- {escape}"));
            assert_eq!(output, "chroot: done\nNo such file or directory (os error 2)\n", "{walls}");
        }
    }
}

/// A group can keep its members from a file; who may leave it may read.
#[test]
fn cve_2014_8989_a_group_that_forbids_is_not_left() {
    let Some(camp) = camp(Ids::None) else { return };
    let file = "install -m 604 -o 0 -g 4242 canary forbidden";
    let in_group = |command: &str| format!("setpriv --reuid $U --regid $U --groups 4242 {command}; exit");
    let naive = camp.run_after(
        &format!("{file}\ncat $D/forbidden > /dev/null; {}", in_group("cat $D/forbidden || true")),
        "true",
    );
    assert_eq!(naive, "", "void: the group does not forbid");
    let freed = camp.run_after(
        &format!("{file}\nsetpriv --reuid $U --regid $U --clear-groups cat $D/forbidden; exit"),
        "true",
    );
    assert_eq!(freed, "intact\n", "void");
    let output = camp.run_after(
        &format!("{file}\n{}", in_group("$R unshare $D/prober leave-groups $D/forbidden")),
        "true",
    );
    assert_eq!(output, "setgroups: EPERM\nopen: EACCES\n");
}

/// The owners of files in a tree are those on disk, so a program that is root's and set-user-id in a box is so outside: if
/// another user can reach it. The kernel's bugs of this class made such files by copying up.
#[test]
fn cve_2023_0386_and_2021_3493_what_a_box_makes_set_user_id_gives_nothing_outside() {
    // Somebody else, who runs what they find.
    const STRANGER: &str = "stranger() { setpriv --reuid 54321 --regid 54321 --clear-groups -- sh -c '
        for program in \"$@\"; do \"$program\" rights 2>&1 || true; done' - \"$@\"; }";
    let ids = |camp: &Camp| if camp.is_root() { "user 0" } else { "user 643" };
    for backend in ["overlay", "copy"] {
        for camp in camps() {
            camp.store(backend);
            camp.run("$R -q exec box -- prober leave-set-user-id /left");
            let find = format!("{STRANGER}\nleft=$(find $D/store/o -path '*/fs/left'); test -n \"$left\"");
            let output = camp.run_after(
                &format!("{find}; stat -c %A $left; stranger $left $left-capable; chmod 755 $D/store
                    for place in $(find $D/store/o -maxdepth 2 -name fs) $D/store/o $D/store/o/*; do chmod o+rx $place; done
                    echo opened:; stranger $left $left-capable; chmod 700 $D/store; exit"),
                "true",
            );
            let (closed, opened) = output.split_once("opened:\n").unwrap();
            assert!(opened.contains(ids(&camp)), "void: {output}");
            if camp.is_root() {
                assert!(opened.contains("CapEff: 0000000000200002"), "void: {output}");
            }
            assert!(closed.starts_with("-rws"), "void: {output}");
            assert!(
                !closed.contains("user ") && closed.matches("Permission denied").count() == 2,
                "{closed}"
            );
            if camp.is_root() {
                let output = camp.run(&format!(
                    "{STRANGER}\nmkdir m plain; $R -q mount box m
                    stranger ./m/left ./m/left-capable; echo plainly:
                    mount --bind m plain; mount -o remount,bind,suid plain; stranger ./plain/left ./plain/left-capable
                    prober() {{ ./prober \"$@\"; }}; prober open r m/dev/null || true"
                ));
                let (mounted, plain) = output.split_once("plainly:\n").unwrap();
                assert!(plain.starts_with("user 0\n"), "void: {output}");
                assert_eq!(mounted, "user 54321\nCapEff: 0000000000000000\n".repeat(2));
            }
        }
    }
}

/// What is no user is refused; what a careless parser makes of it is root.
#[test]
fn cve_2024_9676_and_user_0_by_bad_numbers() {
    for camp in camps() {
        camp.store("auto");
        for user in [
            "",
            ":",
            "1000:",
            ":0",
            "-1",
            "4294967295",
            "4294967296",
            "0x0",
            " 0",
            "root ",
            "+0",
            "0;",
            "00x",
            "0:0:0",
        ] {
            let ran = camp.try_run(&format!("$R -q run --user='{user}' base -- id"));
            assert_eq!((ran.code, ran.stdout.as_str()), (125, ""), "{user:?}: {}", ran.stderr);
        }
        // As strtoul(3) reads them into 32 bits.
        let careless = |text: &str| {
            let text = text.trim_start().trim_start_matches('+');
            let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u64>().map_or(0, |number| number as u32)
        };
        assert!(["", "4294967296", "0x0", " 0", "0;"].into_iter().all(|user| careless(user) == 0), "void");
    }
}

/// Directories made with the umask cleared were open to all once.
#[test]
fn a_store_is_closed_to_others_and_one_that_was_open_is_closed_when_it_is_used() {
    for camp in camps() {
        let modes = "stat -c '%a %n' deep deep/store";
        let output = camp.run(&format!(
            "umask 0; export ROOTLING_ROOT=$D/deep/store; $R -q init > /dev/null; {modes}
            chmod 777 deep/store; $R -q ls; {modes}; find deep -perm /0022 -not -type l"
        ));
        assert_eq!(output, "700 deep\n700 deep/store\n".repeat(2));
        if camp.is_root() {
            camp.store("auto");
            let output = camp.run_after(
                "mount -t tmpfs tmpfs /run",
                "umask 0; $R -q run base -- true; stat -c %a /run/rootling/ids; find /run/rootling -perm /0022",
            );
            assert_eq!(output, "700\n");
        }
    }
}
