//! What belongs to the machine: its knobs, devices, mounts and processes.

use std::fs;

use super::{ALONE, Camp, camps};

/// Files through which root of the machine makes the kernel run programs or stop; opened for writing, never written.
const KNOBS: &str = "/proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sysrq-trigger /proc/sys/vm/drop_caches \
    /proc/sys/kernel/hostname";

#[test]
fn core_pattern_modprobe_sysrq_and_all_other_knobs_cannot_be_opened_for_writing() {
    for camp in camps() {
        camp.store("auto");
        // An ordinary user has no power over the machine's knobs, but over those of a network of their own.
        let open = if camp.is_root() {
            camp.run(&format!(
                "$R -q run --privileged --userns host base -- prober open w {KNOBS} /sys/kernel/uevent_helper /sys/kernel/mm/ksm/run"
            ))
        } else {
            camp.run("$R -q run --privileged --net none base -- prober scan /proc/sys/net/ipv4")
        };
        let refused = |line: &&str| line.contains(": E") && !line.ends_with("ENOENT");
        assert!(open.lines().count() >= 5 && open.lines().find(refused).is_none(), "void: {open}");
        let walls: &[&str] = if camp.is_root() {
            &["", "--net none", "--userns host", "--userns host --net none"]
        } else {
            &["", "--net none"]
        };
        for walls in walls {
            let found = camp.run(&format!("$R -q run {walls} base -- prober scan /proc /sys"));
            // Anybody may ask to be told of pressure.
            let found: Vec<&str> =
                found.lines().filter(|path| !path.starts_with("/proc/pressure/")).collect();
            assert_eq!(found, [""; 0], "{walls}");
        }
    }
}

/// Where nothing is hidden any more, a root that is nobody outside still has only what belongs to its namespaces.
#[test]
fn a_user_namespace_alone_keeps_the_knobs_of_the_machine() {
    for camp in camps().filter(Camp::is_root) {
        camp.store("auto");
        let found = camp.run("$R -q run --privileged --net none base -- prober scan /proc /sys");
        let own = [
            "/proc/sys/net/",
            "/proc/sys/fs/mqueue/",
            "/proc/sys/user/",
            "/proc/sys/kernel/msg",
            "/proc/sys/kernel/shm",
            "/proc/sys/kernel/sem",
            "/proc/sys/kernel/auto_msgmni",
            "/proc/sys/kernel/domainname",
            "/proc/sys/kernel/hostname",
            "/proc/sys/kernel/pid_max",
            "/proc/sys/kernel/ns_last_pid",
            "/proc/sys/fs/binfmt_misc/",
            "/sys/class/net/",
            "/sys/devices/virtual/net/lo/",
            "/sys/fs/cgroup/",
            "/proc/net/",
            "/proc/pressure/",
        ];
        let strange: Vec<&str> =
            found.lines().filter(|path| !own.iter().any(|prefix| path.starts_with(prefix))).collect();
        assert!(!found.is_empty(), "void");
        assert_eq!(strange, [""; 0]);
    }
}

/// A node that the image brings, and one made inside, of a disk of the test's own.
#[test]
fn a_disk_of_the_machine_is_not_read_through_a_node() {
    for camp in camps().filter(Camp::is_root) {
        let image = camp.path("image");
        fs::write(&image, "canary on a disk\n".repeat(64)).unwrap();
        let disk = "disk=$(losetup --find --show --read-only image); trap 'losetup -d $disk' EXIT
            set -- $(stat -c '0x%t 0x%T' $disk); major=$(($1)) minor=$(($2))";
        let attempt = |walls: &str| {
            format!(
                "$R -q run {walls} base -- sh -c \"prober open r /dev-of-image; mknod /tmp/made b $major $minor; prober open r /tmp/made
                    mknod /dev/made b $major $minor; prober open r /dev/made
                    mknod /dev/shm/made b $major $minor; prober open r /dev/shm/made\" 2>&1 | grep -v 'mknod:' || true"
            )
        };
        camp.run(&format!(
            "{disk}
            mknod root/dev-of-image b $major $minor; chmod 666 root/dev-of-image
            $R -q init; $R -q import dir:$D/root base; cp -a root/dev-of-image kept"
        ));
        for walls in ["", "--userns host", "--privileged --userns host"] {
            let output = camp.run(&format!(
                "{disk}
                test \"$(stat -c %t:%T kept)\" = \"$(stat -c %t:%T $disk)\" || {{ echo void: another loop device; exit; }}
                {}",
                attempt(walls)
            ));
            if output.contains("void") {
                return crate::environment::skip(&output);
            }
            assert_eq!(
                output.contains("canary on a disk"),
                walls.contains("--privileged"),
                "{walls}: {output}"
            );
        }
    }
}

#[test]
fn processes_outside_are_neither_signalled_nor_traced() {
    for camp in camps() {
        camp.store("auto");
        let attempt_by = |prober: &str| {
            let output = camp.run(&format!(
                "sleep 100 & outside=$!
                {prober} trace $outside
                {prober} signal $outside
                sleep 0.1; kill -0 $outside 2>/dev/null && echo alive || echo killed; kill $outside 2>/dev/null || true"
            ));
            output.replace('\n', " ")
        };
        let attempt = |walls: &str| attempt_by(&format!("$R -q run {ALONE} {walls} base -- prober"));
        let reached = if camp.is_root() {
            attempt("--pid host --userns host --privileged")
        } else {
            attempt_by("./prober")
        };
        assert_eq!(reached, "trace: done signal: done killed ", "void");
        assert_eq!(attempt(""), "trace: ESRCH signal: ESRCH alive ");
        if camp.is_root() {
            assert_eq!(attempt("--pid host"), "trace: EPERM signal: EPERM alive ");
        }
        // What remains where processes are shared: the kernel lets users signal what is theirs, and to it root inside is who it
        // is outside.
        let remains = if camp.is_root() { "--pid host --userns host" } else { "--pid host" };
        assert_eq!(attempt(remains), "trace: EPERM signal: done killed ");
    }
}

#[test]
fn no_file_system_is_mounted_from_inside() {
    const KINDS: &str = "proc sysfs cgroup cgroup,memory cgroup2 tmpfs devpts mqueue overlay,lowerdir=/bin:/etc securityfs debugfs \
        tracefs bpf binfmt_misc ext4";
    for camp in camps() {
        camp.store("auto");
        let attempt = |walls: &str| {
            camp.run(&format!("for kind in {KINDS}; do $R -q run {walls} base -- prober mount $kind; done"))
        };
        let mounted = attempt("--privileged --net none");
        for kind in ["proc", "sysfs", "tmpfs"] {
            assert!(mounted.contains(&format!("mount {kind}: done\n")), "void: {mounted}");
        }
        let users: &[&str] = if camp.is_root() { &["", "--userns host"] } else { &[""] };
        for (users, walls) in users.iter().flat_map(|users| [(users, ""), (users, ALONE)]) {
            let walls = &format!("{users} {walls}");
            let refused = attempt(walls);
            assert_eq!(
                refused.matches(": EPERM").count(),
                KINDS.split_whitespace().count(),
                "{walls}: {refused}"
            );
        }
    }
}
