//! Attacks through cgroups: the host's hierarchies are not the box's to mount, to write or to leave.

use std::fs;

use crate::environment::{Environment, Ran};

/// What takes the walls away: everything that keeps a process from mounting.
const NO_WALLS: [&str; 5] = ["--privileged", "--userns", "host", "--cgroupns", "host"];

fn environment() -> Option<Environment> {
    let environment = Environment::new();
    environment.import_busybox().then_some(environment)
}

/// A hierarchy of version 1 without controllers, in a mount namespace of the test's own: its release agent is
/// nobody's, and it ends with the last mount of it.
const HIERARCHY: &str = "mount -t cgroup -o none,name=$NAME none $D/hierarchy";

/// Runs `attack` in a box beside a hierarchy that the test has made on the host; `$NAME` is its name.
fn beside_a_hierarchy(environment: &Environment, name: &str, flags: &[&str], attack: &str) -> Ran {
    fs::write(environment.path("attack"), attack).expect("write");
    let flags = flags.join(" ");
    let ran = environment.script(&format!(
        "NAME={name}; export NAME; {HIERARCHY}; trap 'rmdir $D/hierarchy/x 2>/dev/null || true; umount $D/hierarchy' EXIT\n\
         $R -q run {flags} -e NAME base -- sh -c \"$(cat $D/attack)\""
    ));
    // A hierarchy outlives its last mount if a cgroup in it is still being taken apart then; one mount more ends it.
    for round in 0.. {
        std::thread::sleep(std::time::Duration::from_millis(100));
        if !fs::read_to_string("/proc/self/cgroup").expect("/proc").contains(name) {
            break;
        }
        assert!(round < 100, "the hierarchy {name} is left");
        if round % 10 == 9 {
            environment.script(&format!("NAME={name}; {HIERARCHY}; umount $D/hierarchy"));
        }
    }
    ran
}

/// CVE-2022-0492: whoever can mount a hierarchy of version 1 writes the program into it that the kernel runs, as
/// the host's root and outside of every namespace, when a cgroup becomes empty.
#[test]
fn cve_2022_0492_release_agent() {
    let Some(environment) = environment() else { return };
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !known.lines().any(|line| line.ends_with("\tcgroup")) {
        return crate::environment::skip("this kernel has no cgroup version 1");
    }
    fs::create_dir_all(environment.path("hierarchy")).expect("mkdir");
    let name = |what: &str| format!("rootling-test-{}-{what}", std::process::id());
    let tried = environment.script(&format!("NAME={}; {HIERARCHY}; umount $D/hierarchy", name("try")));
    if tried.code != 0 {
        return crate::environment::skip(&format!(
            "a hierarchy of version 1 cannot be mounted: {}",
            tried.stderr
        ));
    }
    let canary = environment.path("canary");
    let agent = environment.path("agent");
    fs::write(&agent, format!("#!/bin/sh\necho escaped > {}\n", canary.display())).expect("write");
    fs::set_permissions(&agent, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let attack = format!(
        "mkdir -p /tmp/h; mount -t cgroup -o none,name=$NAME none /tmp/h || exit 3\n\
         mkdir /tmp/h/x; echo 1 > /tmp/h/x/notify_on_release; echo {} > /tmp/h/release_agent || exit 4\n\
         sh -c 'echo $$ > /tmp/h/x/cgroup.procs'; sleep 1; umount /tmp/h",
        agent.display()
    );
    // The hierarchy is ours, so the agent written is nobody else's.
    let open = beside_a_hierarchy(&environment, &name("open"), &NO_WALLS, &attack);
    assert_eq!(open.code, 0, "without walls it must work: {}{}", open.stdout, open.stderr);
    let start = std::time::Instant::now();
    while !canary.exists() {
        assert!(
            start.elapsed().as_secs() < 10,
            "the attack does nothing even without walls: the test is void"
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    fs::remove_file(&canary).expect("it was there");

    // By the namespace's root, by the host's, and as the published attack does it: from one more namespace.
    let published = attack.replace(
        "|| exit 3",
        "|| unshare -UrmC sh -c 'mount -t cgroup -o none,name=$NAME none /tmp/h' || exit 3",
    );
    for (what, flags, attack) in [
        ("default", &[][..], &attack),
        ("unshare", &[], &published),
        ("host", &["--userns", "host"], &attack),
        ("added", &["--cap-add", "all"], &attack),
    ] {
        let closed = beside_a_hierarchy(&environment, &name(what), flags, attack);
        // With every capability, in its own user namespace, a box may mount what is there; but not write to it.
        let step = if what == "added" { 3..=4 } else { 3..=3 };
        assert!(step.contains(&closed.code), "{what}: {} {}{}", closed.code, closed.stdout, closed.stderr);
        assert!(!canary.exists(), "{what}: the agent ran");
    }
}

/// CVE-2023-25809: a box that sees the host's cgroups writable moves itself out of its limits, or others into them.
#[test]
fn cve_2023_25809_writable_cgroups() {
    let Some(environment) = environment() else { return };
    // A write of nothing changes nothing: the kernel refuses it only after it has let the file be opened.
    let attack = "count=0; for file in $(find /sys/fs/cgroup -name cgroup.procs -o -name tasks -o -name release_agent); do\n\
                    if (: >> $file) 2>/dev/null; then echo open $file; fi; count=$((count + 1)); done; echo seen $count";
    let seen = |ran: &Ran| -> u32 {
        let line = ran.stdout.lines().find_map(|line| line.strip_prefix("seen "));
        line.unwrap_or_else(|| panic!("{}{}", ran.stdout, ran.stderr)).parse().expect("a number")
    };
    let open = environment.inside(&[&NO_WALLS[..], &["--net", "host"]].concat(), attack);
    assert!(
        open.stdout.contains("open /sys/fs/cgroup/"),
        "without walls it must work: {}{}",
        open.stdout,
        open.stderr
    );
    for flags in [
        &["--net", "host"][..],
        &["--net", "none"],
        &["--net", "host", "--cgroupns", "host"],
        &["--net", "none", "--cgroupns", "host"],
        &["--net", "host", "--userns", "host"],
        &["--net", "none", "--userns", "host", "--cgroupns", "host"],
        &["--net", "none", "--userns", "host", "--pids-limit", "50"],
        &["--net", "host", "--pids-limit", "50"],
    ] {
        let closed = environment.inside(flags, attack);
        assert!(!closed.stdout.contains("open "), "{flags:?}: {}", closed.stdout);
        seen(&closed);
    }
    // What the box sees of its own cgroup is there, and its limits cannot be lifted.
    let lift =
        "ls /sys/fs/cgroup/cgroup.procs >/dev/null && ! echo max > /sys/fs/cgroup/pids.max && echo kept";
    let kept = environment.inside(&["--net", "none", "--pids-limit", "50"], lift);
    assert_eq!(kept.stdout, "kept\n", "{}", kept.stderr);
}
