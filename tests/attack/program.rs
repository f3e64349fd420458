//! CVE-2019-5736 and its kin: the program that makes a box is for a moment a process in it, and writes itself away.
//!
//! The program attacked is a copy in the test's directory, which the ordinary user owns.

use std::fs;

use super::{Camp, camps};
use crate::environment::skip;

/// Starts `$@`, which hunts what comes into its box; brings in processes by `visit`, then ends the hunt by `stop`.
const HUNT: &str = "
    hunt() { visits=0; \"$@\" > out & until grep -q hunting out; do sleep 0.01; done
        for i in $(seq 15); do if visit; then visits=$((visits+1)); fi; done; stop; wait; cat out; echo visits $visits; }
    stop() { $R -q exec box -- touch /tmp/stop; }
    visit() { $R -q exec box -- true; }";

/// Brings careless processes into a careless box; the program is `victim`.
const NAIVELY: &str = "
    hunter() { for p in /proc/[0-9]*; do
        case \"$(tr '\\0' ' ' < $p/cmdline 2>&1)\" in '/bin/prober hunt'*) echo ${p#/proc/};; esac; done; }
    cp prober victim; exec 9<.
    visit() { cat prober > victim; ./victim naive-exec $(hunter) /bin/true; sleep 0.05
        ! grep -q ^overwritten victim || touch beaten; }
    stop() { touch root/tmp/stop; }
    hunt naive /bin/prober hunt $(stat -c %d:%i victim)";

fn digest(camp: &Camp) -> String {
    use sha2::{Digest, Sha256};
    format!("{:x}", Sha256::digest(fs::read(camp.path("rootling")).unwrap()))
}

#[derive(Debug, PartialEq, Eq)]
struct Hunted {
    programs: u32,
    overwritten: u32,
    why: String,
    canary: bool,
    traced: bool,
}

/// Fewer are no hunt.
const VISITS: u32 = 10;

fn hunted(output: &str) -> Hunted {
    let words = |name: &str| {
        let line = output.lines().find_map(|line| line.strip_prefix(name)).expect("the hunter's report");
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let number = |name: &str| words(name)[0].parse().unwrap();
    assert!(number("visits") >= VISITS, "{output}");
    Hunted {
        programs: number("programs"),
        overwritten: number("overwritten"),
        why: words("overwritten")[1].clone(),
        canary: words("canary")[0] == "read",
        traced: words("traced")[0] == "yes",
    }
}

/// The careless way is beaten by everything that is tried.
fn show_that_it_works(camp: &Camp) {
    let naive = hunted(&camp.run(&format!("{HUNT}{NAIVELY}")));
    assert!(naive.overwritten > 0 && naive.canary && naive.traced, "void: {naive:?}");
    assert!(camp.path("beaten").exists(), "void");
}

#[test]
fn cve_2019_5736_and_2016_9962_what_joins_a_box_is_not_written_looked_at_or_traced() {
    for camp in camps() {
        show_that_it_works(&camp);
        let program = digest(&camp);
        camp.store("auto");
        let walls: &[&str] = if camp.is_root() {
            &["", "--userns host --security-opt seccomp=unconfined", "--privileged"]
        } else {
            &[""]
        };
        for walls in walls {
            let output = camp.run(&format!(
                "{HUNT}
                exec 9<.
                hunt $R -q exec {walls} box -- prober hunt $(stat -c %d:%i rootling)"
            ));
            let hunted = hunted(&output);
            let nothing =
                Hunted { programs: 0, overwritten: 0, why: "-".into(), canary: false, traced: false };
            assert_eq!(hunted, nothing, "{walls:?}");
            assert_eq!(digest(&camp), program, "{walls:?}");
        }
        camp.assert_intact();
    }
}

/// With every capability of the user namespace that the program was started in, it is found; what is left is that it lies on a
/// mount for reading.
#[test]
fn cve_2019_5736_a_sealed_program_is_not_written_even_with_every_capability() {
    for camp in camps() {
        let walls = if camp.is_root() { "--privileged --userns host" } else { "--privileged" };
        show_that_it_works(&camp);
        let program = digest(&camp);
        camp.store("auto");
        let output = camp.run(&format!(
            "{HUNT}
            hunt $R -q exec {walls} box -- prober hunt $(stat -c %d:%i rootling)"
        ));
        let hunted = hunted(&output);
        assert!(hunted.programs > 0, "void: the program was never seen: {hunted:?}");
        assert_eq!((hunted.overwritten, hunted.why.as_str()), (0, "EROFS"));
        assert_eq!(digest(&camp), program);
    }
}

#[test]
fn cve_2019_5736_the_program_is_not_started_inside_as_a_command_or_an_interpreter() {
    for camp in camps() {
        fs::write(camp.path("root/bin/script"), "#!/proc/self/exe\n").unwrap();
        fs::write(camp.path("root/bin/nested"), "#!/bin/script\n").unwrap();
        let output = camp.run(
            "chmod 755 root/bin/script root/bin/nested 2>/dev/null || true
            naive /proc/self/exe --version 2>&1 | head -1 || true",
        );
        // unshare(1) and chroot(1) start somebody else's program; it is the host's all the same.
        assert!(output.contains("coreutils") || output.contains("chroot"), "void: {output}");
        camp.store("auto");
        for command in ["/proc/self/exe --version", "/bin/script", "/bin/nested", "/proc/1/exe --version"] {
            for verb in ["run base", "exec box"] {
                let ran = camp.try_run(&format!("$R -q {verb} -- {command}"));
                assert_eq!((ran.code, ran.stdout.as_str()), (126, ""), "{verb} {command}: {}", ran.stderr);
            }
        }
    }
}

/// The check of the interpreter can be outrun. Then the program runs inside, and is still not written.
#[test]
fn cve_2019_5736_an_interpreter_swapped_in_a_race_gains_nothing() {
    for camp in camps() {
        let root = camp.path("root");
        fs::write(root.join("script"), "#!/true\n").unwrap();
        std::os::unix::fs::symlink("/bin/busybox", root.join("true")).unwrap();
        std::os::unix::fs::symlink("/proc/self/exe", root.join("other")).unwrap();
        let program = digest(&camp);
        camp.run_after("chmod 755 $D/root/script; chown -R $U:$U $D/root", "true");
        camp.store("auto");
        let walls: &[&str] = if camp.is_root() { &["", "--userns host"] } else { &[""] };
        for walls in walls {
            let output = camp.run(&format!(
                "{HUNT}
                won=0 refused=0
                visit() {{ for i in $(seq 20); do test $won$refused != 11 || break
                    $R -q exec box -- /script > /dev/null 2>&1 && code=0 || code=$?
                    case $code in 0) ;; 126) refused=1;; *) won=1;; esac; done; }}
                hunt $R -q exec {walls} box -- sh -c 'prober swap /true /other 60 > /dev/null & exec prober hunt '$(stat -c %d:%i rootling)
                echo won $won refused $refused"
            ));
            let hunted = hunted(&output);
            assert_eq!(hunted.overwritten, 0, "{walls}: {output}");
            assert_eq!(digest(&camp), program, "{walls}");
            if !output.contains("won 1 refused 1") {
                skip(&format!("void: the race was never won: {output}"));
            }
        }
    }
}
