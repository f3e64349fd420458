//! The whole life as an ordinary user, with a range of ids and without, through the built binary.
//!
//! Run by root, who makes the user.

use std::fs;
use std::os::unix::fs::chown;
use std::process::{Command, Stdio};

use crate::environment::{BINARY, found, ran, skip, tar_of};
use crate::guest::{Guest, Ids, guest};

/// Import, create, exec, diff, commit, fork, run, fsck, rm: what each prints, whatever the backend.
const LIFE: &str = "
    $R -q import tar:$D/root.tar base > /dev/null
    $R -q create base dev > /dev/null
    $R -q exec dev -- sh -c 'id -u; chown me:me /etc/motd; touch /new; mkdir /d; mv /tmp /moved; rm -r /moved'
    $R diff dev
    $R -q commit dev one > /dev/null
    test -z \"$($R diff dev)\"
    $R -q fork one two > /dev/null
    $R -q exec two -- stat -c '%U %n' /etc/motd /new
    $R -q run --user me:me one -- id -u
    $R -q run --keep three one -- touch /kept
    $R -q exec three -- cat /kept
    $R diff one three
    $R -q fsck --verify > /dev/null
    $R -q rm --now three two dev one base
    $R -q prune > /dev/null
    ls $ROOTLING_ROOT/o $ROOTLING_ROOT/n $ROOTLING_ROOT/tmp $ROOTLING_ROOT/trash | grep -v : | grep . || echo empty";

const LIFE_PRINTS: &str =
    "0\nA /d/\nC /etc/motd  (owner)\nA /new\nD /tmp/\nme /etc/motd\nroot /new\n1000\nA /kept\nempty\n";

fn lives(guest: &Guest, root: &str, init: &str) {
    tar_of(&guest.dir.path().join("root"), &guest.dir.path().join("root.tar"), &["--owner=0", "--group=0"]);
    let ran = guest.script_after(root, &format!("$R -q init {init} > /dev/null\n{LIFE}"));
    assert_eq!((ran.stdout.as_str(), ran.code), (LIFE_PRINTS, 0), "{init}: {}", ran.stderr);
}

#[test]
fn a_user_with_a_range_lives_a_whole_life_on_every_plain_backend() {
    for backend in ["auto", "overlay", "copy"] {
        let Some(guest) = guest(Ids::Range) else { return };
        lives(&guest, "", &format!("--backend {backend}"));
    }
}

#[test]
fn a_user_with_a_range_lives_a_whole_life_on_btrfs_and_xfs() {
    for (fs, size, backends) in
        [("btrfs", "200M", ["btrfs", "overlay", "reflink"]), ("xfs", "320M", ["reflink", "overlay", "copy"])]
    {
        let make = format!("mkfs.{fs}");
        if !found(&make) {
            skip(&format!("{make} is not installed"));
            continue;
        }
        for backend in backends {
            let Some(guest) = guest(Ids::Range) else { return };
            let root = format!(
                "truncate -s {size} $D/image; {make} -q $D/image > /dev/null; mkdir $D/store
                mount -o loop $D/image $D/store; mkdir $D/store/mine; chown $U:$U $D/store/mine
                export ROOTLING_ROOT=$D/store/mine"
            );
            lives(&guest, &root, &format!("--backend {backend}"));
        }
    }
}

#[test]
fn a_second_command_joins_the_box_that_runs() {
    for ids in [Ids::Range, Ids::None] {
        let Some(guest) = guest(ids) else { return };
        let stdout = guest.ok("$R -q init > /dev/null; $R -q import dir:$D/root base > /dev/null
            $R -q create base dev > /dev/null
            $R -q exec dev -- sh -c 'touch /tmp/up; while [ ! -e /tmp/seen ]; do sleep 0.01; done; echo first' &
            until $R diff dev | grep -q /tmp/up; do sleep 0.01; done
            $R -q exec dev -- sh -c 'id -u; touch /tmp/seen' || test $? = 137; wait");
        assert_eq!(stdout, "0\nfirst\n", "{ids:?}");
    }
}

/// The guest has no login session, so that nobody hands them a cgroup; `limits` has those who get one.
#[test]
fn a_user_without_a_cgroup_is_told_why_limits_cannot_be_kept() {
    let Some(guest) = guest(Ids::Range) else { return };
    guest.ok("$R -q init > /dev/null; $R -q import dir:$D/root base > /dev/null");
    let refused = guest.script("unset XDG_RUNTIME_DIR; $R -q run --memory 64m base -- touch /ran");
    assert_eq!(refused.code, 125, "{}{}", refused.stdout, refused.stderr);
    let said = |text: &str| refused.stderr.contains(text);
    assert!(
        said("--memory needs a cgroup") || said("limits need a cgroup of your own"),
        "{}",
        refused.stderr
    );
    assert!(said("hint: run it as root") || said("hint: log in through systemd"), "{}", refused.stderr);
    // What needs no cgroup needs no rights.
    let score = guest.ok("$R -q run --oom-score-adj 900 base -- cat /proc/self/oom_score_adj");
    assert_eq!(score, "900\n");
}

#[test]
fn a_users_stats_are_summed_up_without_a_cgroup() {
    for ids in [Ids::Range, Ids::None] {
        let Some(guest) = guest(ids) else { return };
        let stdout = guest.ok("$R -q init > /dev/null; $R -q import dir:$D/root base > /dev/null
            $R -q create base dev > /dev/null
            $R -q exec dev -- sh -c 'touch /tmp/up; while [ ! -e /tmp/seen ]; do sleep 0.01; done' &
            until $R diff dev | grep -q /tmp/up; do sleep 0.01; done
            $R --format json stats dev; $R stats; $R -q exec dev -- touch /tmp/seen; wait");
        let (json, table) = stdout.split_once("NAME").unwrap();
        let rows: serde_json::Value = serde_json::from_str(json).unwrap();
        // The first process, the shell, and perhaps its sleep.
        assert!(rows[0]["pids"].as_u64().is_some_and(|pids| (2..=3).contains(&pids)), "{ids:?}: {rows}");
        assert_eq!((&rows[0]["name"], &rows[0]["cgroup"]), (&"dev".into(), &false.into()), "{rows}");
        assert!(table.contains("\ndev"), "{table}");
    }
}

#[test]
fn a_user_leaves_boxes_running_and_finds_visits_and_ends_them() {
    for ids in [Ids::Range, Ids::None] {
        let Some(guest) = guest(ids) else { return };
        let other = if ids == Ids::Range { "me" } else { "root" };
        let stdout = guest.ok(&format!(
            "$R -q init > /dev/null; $R -q import dir:$D/root base > /dev/null; $R -q create base dev > /dev/null
            $R -q start -u {other} dev -- sh -c 'echo out; trap \"exit 5\" TERM; while :; do sleep 0.05; done'
            $R -q run -d --name web base -- sh -c 'trap \"\" TERM; echo up; while :; do sleep 0.05; done'
            until $R logs web | grep -q up; do sleep 0.01; done; until $R logs dev | grep out; do sleep 0.01; done
            $R -q ps; $R -q exec web -- id -u; test $($R -q top dev | grep -c .) -ge 2; $R top dev | grep -c init
            $R stop -t 0 web; $R stop dev; $R wait dev; $R -q ps
            $R -q start -t dev -- sh -c 'read line; echo got $line; exit 6' > /dev/null
            echo hello | $R attach dev > $D/seen || echo $?; tr -d '\r' < $D/seen; ls $ROOTLING_ROOT/tmp; $R -q fsck > /dev/null"
        ));
        let expected = "dev\nweb\nout\ndev\nweb\n0\n1\nweb\ndev\n5\n6\nhello\ngot hello\n";
        assert_eq!(stdout, expected, "{ids:?}");
    }
}

#[test]
fn what_another_user_says_of_what_runs_is_not_believed() {
    let Some(guest) = guest(Ids::Range) else { return };
    // A process of root's, which the guest would like root to signal, enter or kill.
    let mut victim = Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = victim.id();
    let fake = |owner: u32| {
        let dir = guest.dir.path();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let started = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().to_owned();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let object = fs::read_link(dir.join("store/n/dev")).unwrap();
        let note = dir.join("store/n").join(object).join("running.json");
        let security = serde_json::to_value(rootling::runner::Security::default()).unwrap();
        let text = serde_json::json!({
            "pid": pid, "start_time_ticks": started.parse::<u64>().unwrap(), "boot_id": boot.trim(),
            "security": security, "userns": { "type": "host" },
        });
        fs::write(&note, text.to_string()).unwrap();
        chown(&note, Some(owner), Some(owner)).unwrap();
    };
    guest.ok("$R -q init > /dev/null; $R -q import dir:$D/root base > /dev/null; $R -q create base dev > /dev/null");
    let as_root = |command: &[&str]| {
        let store = guest.dir.path().join("store");
        ran(Command::new(BINARY)
            .args(command)
            .env("ROOTLING_ROOT", store)
            .stdin(Stdio::null())
            .output()
            .unwrap())
    };
    fake(guest.id);
    for command in [
        &["kill", "dev"][..],
        &["stop", "-t", "0", "dev"],
        &["exec", "dev", "--", "true"],
        &["top", "dev"],
        &["attach", "dev"],
        &["wait", "dev"],
    ] {
        let refused = as_root(command);
        assert_eq!(refused.code, if command[0] == "exec" { 125 } else { 1 }, "{command:?}");
        let words = format!("was started by user {}, and you are 0", guest.id);
        assert!(refused.stderr.contains(&words), "{command:?}: {}", refused.stderr);
    }
    assert!(victim.try_wait().unwrap().is_none());
    // The same note as root's own: the wall removed, it works.
    fake(0);
    assert_eq!(as_root(&["kill", "-s", "TERM", "dev"]).code, 0);
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&victim.wait().unwrap()), Some(15));
}

#[test]
fn what_only_root_can_do_is_refused_with_what_to_do_instead() {
    let Some(guest) = guest(Ids::Range) else { return };
    guest.ok("$R -q init > /dev/null; $R -q import dir:$D/root base > /dev/null; mkdir $D/m");
    for (command, message, hint) in [
        (
            "mount base $D/m",
            "mount is only for root: your mounts would be seen by this command alone",
            "rootling exec",
        ),
        ("umount $D/m", "umount is only for root", "rootling exec"),
        ("mount base", "mount is only for root", "rootling exec"),
        (
            "bundle base $D/b",
            "bundle is only for root: your mounts would be seen by this command alone",
            "rootling exec",
        ),
        ("init $D/loop --loop 200M", "a loop store is only for root", "leave --loop out"),
        ("run host:/ true", "host:/ is only for root", "rootling import dir:PATH NAME"),
        ("create host:/ h", "host:/ is only for root", "rootling import dir:PATH NAME"),
        ("import host:/ h", "host:/ is only for root", "rootling import dir:PATH NAME"),
    ] {
        let stderr = guest.fails(&format!("$R {command}"));
        assert!(stderr.starts_with(&format!("rootling: {message}")), "{command}: {stderr}");
        assert!(stderr.contains("\n  hint: ") && stderr.contains(hint), "{command}: {stderr}");
    }
}

#[test]
fn without_a_range_a_tar_needs_its_owners_left_out() {
    let Some(guest) = guest(Ids::None) else { return };
    let dir = guest.dir.path();
    tar_of(&dir.join("root"), &dir.join("root.tar"), &["--owner=0", "--group=42"]);
    let said = guest.script("$R -q init").stderr;
    assert!(said.contains("have no range for you (as root: usermod --add-subuids "), "{said}");
    let stderr = guest.fails("$R -q import tar:$D/root.tar base");
    assert!(stderr.contains("user 0 and group 42, which do not exist for you"), "{stderr}");
    assert!(stderr.contains("\n  hint: leave its owners out with --no-owners"), "{stderr}");
    let stdout = guest.ok("$R -q import --no-owners tar:$D/root.tar base > /dev/null
        $R -q run base -- stat -c %u:%g /etc/motd");
    assert_eq!(stdout, "0:0\n");
    let stderr = guest.fails("$R -q run --user me:me base -- id");
    assert!(stderr.contains("user 1000:1000 does not exist for you"), "{stderr}");
}

#[test]
fn owners_outside_the_range_become_root_and_those_inside_stay() {
    let Some(guest) = guest(Ids::Range) else { return };
    let root = guest.dir.path().join("root");
    chown(root.join("etc/motd"), Some(3_000_032), Some(0)).unwrap();
    let stdout = guest.ok("$R -q init > /dev/null; $R -q import dir:$D/root base > /dev/null
        $R -q run base -- stat -c '%u:%g %n' /etc/motd /etc/passwd
        $R -q import --no-owners dir:$D/root none > /dev/null; $R -q run none -- stat -c %u:%g /etc/motd");
    assert_eq!(stdout, "33:0 /etc/motd\n0:0 /etc/passwd\n0:0\n");
}

#[test]
fn where_user_namespaces_are_forbidden_doctor_still_says_so() {
    let Some(guest) = guest(Ids::Range) else { return };
    // In a user namespace of their own even a user may forbid further ones.
    let forbid = |command: &str| {
        format!("unshare --user --keep-caps sh -c 'echo 0 > /proc/sys/user/max_user_namespaces && {command}'")
    };
    let stderr = guest.fails(&forbid("$R -q init"));
    assert!(stderr.contains("user namespaces are forbidden: user.max_user_namespaces is 0"), "{stderr}");
    assert!(stderr.contains("\n  hint: as root: sysctl user.max_user_namespaces="), "{stderr}");
    let doctor = guest.script(&forbid("$R doctor --format json"));
    assert_eq!(doctor.code, 1, "{}", doctor.stderr);
    let report: serde_json::Value = serde_json::from_str(&doctor.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding["what"] == "user namespaces for everybody").unwrap();
    assert_eq!((&found["works"], &found["required"]), (&false.into(), &true.into()));
}

#[test]
fn a_missing_newuidmap_is_named_and_leaves_a_single_id() {
    let Some(guest) = guest(Ids::Range) else { return };
    let ran = guest.script("mkdir $D/none; PATH=$D/none $R -q init");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("newuidmap is not installed (as root: install the package uidmap"),
        "{}",
        ran.stderr
    );
}

/// A device that the guest may open, and a store that says what a kernel would that refuses overlay mounts.
const BY_FUSE: &str =
    "[ -e $D/fuse ] || mknod $D/fuse c 10 229; chmod 666 $D/fuse; mount --bind $D/fuse /dev/fuse";
const INIT_BY_FUSE: &str = "$R -q init --backend overlay > /dev/null
    sed -i 's/\"user_xattrs\": {/\"overlay_by_fuse\": true, &/' $ROOTLING_ROOT/format
    grep -q overlay_by_fuse $ROOTLING_ROOT/format";

#[test]
fn fuse_overlayfs_does_what_the_kernel_would() {
    let Some(guest) = guest_with_fuse() else { return };
    let tar = guest.dir.path().join("root.tar");
    tar_of(&guest.dir.path().join("root"), &tar, &["--owner=0", "--group=0"]);
    let ran = guest.script_after(BY_FUSE, &format!("{INIT_BY_FUSE}\n{LIFE}\n{NOBODY_SERVES}"));
    assert_eq!((ran.stdout.as_str(), ran.code), (LIFE_PRINTS, 0), "{}", ran.stderr);
}

/// The kernel takes no overlay as the upper layer of another, and no whiteout of a user's either: so it is in many containers.
#[test]
fn where_neither_overlay_works_both_reasons_are_told_and_copies_are_made() {
    let Some(guest) = guest_with_fuse() else { return };
    let tar = guest.dir.path().join("root.tar");
    tar_of(&guest.dir.path().join("root"), &tar, &["--owner=0", "--group=0"]);
    let on_overlay = format!(
        "{BY_FUSE}; cd $D; mkdir lower upper work store; chown $U:$U upper
        mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work store"
    );
    let ran =
        guest.script_after(&on_overlay, &format!("$R -q init | grep -q 'boxes by copy'\n{LIFE}\n$R doctor"));
    assert!(ran.code == 0 && ran.stdout.starts_with(LIFE_PRINTS), "{}{}", ran.stdout, ran.stderr);
    let doctor = &ran.stdout[LIFE_PRINTS.len()..];
    assert!(doctor.contains("not supported as upperdir"), "{doctor}");
    assert!(doctor.contains("the file system takes no whiteouts"), "{doctor}");
}

#[test]
fn what_fuse_overlayfs_wrote_the_kernel_reads() {
    let Some(guest) = guest_with_fuse() else { return };
    let ran = guest.script_after(
        &format!("{BY_FUSE}; mkdir $D/root/opt; touch $D/root/opt/a $D/root/opt/b"),
        &format!(
            "{INIT_BY_FUSE}
            $R -q import dir:$D/root base > /dev/null; $R -q create base dev > /dev/null
            $R -q exec dev -- sh -ec 'grep -q fuse /proc/mounts; rm -r /opt; mkdir /opt; echo x > /opt/only; rm /bin/mv'
            $R -q commit dev one > /dev/null; $R diff base..one
            sed -i 's/\"overlay_by_fuse\": true, //' $ROOTLING_ROOT/format
            echo the kernel:; $R diff base..one; $R -q run -u 0 one -- ls -A /opt
            ! find $ROOTLING_ROOT/o -name '.wh.*' | grep ."
        ),
    );
    let diff = "D /bin/mv\nD /opt/a\nD /opt/b\nA /opt/only\n";
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.stdout, format!("{diff}the kernel:\n{diff}only\n"));
}

#[test]
fn the_server_of_a_mount_holds_no_lock_hears_no_terminal_and_ends_with_the_box() {
    let Some(guest) = guest_with_fuse() else { return };
    let ran = guest.script_after(
        BY_FUSE,
        &format!(
            "{INIT_BY_FUSE}
            $R -q import dir:$D/root base > /dev/null; $R -q create base dev > /dev/null
            $R -q exec dev -- sleep 60 & box=$!
            until server=$(pgrep -U $U -f '^fuse-overlayfs.*upperdir'); do sleep 0.01; done
            session=$(ps -o sid= -p $server); test $session -ne $(ps -o sid= -p $$)
            ! readlink /proc/$server/fd/* | grep -E 'store/(lock|o/.*/(change|running.json))'
            kill -9 $box; wait $box || true; {NOBODY_SERVES}
            $R -q exec dev -- true; $R -q rm dev"
        ),
    );
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
}

/// Waits until no server of the guest's is left; a second is plenty.
const NOBODY_SERVES: &str =
    "for _ in $(seq 100); do pgrep -U $U -r R,S,D fuse-overlayfs > /dev/null || break; sleep 0.01; done
    ! pgrep -U $U -r R,S,D fuse-overlayfs > /dev/null";

fn guest_with_fuse() -> Option<Guest> {
    let guest = guest(Ids::Range)?;
    let lacking = ["fuse-overlayfs", "pgrep"].into_iter().find(|tool| !found(tool));
    if let Some(tool) = lacking {
        skip(&format!("{tool} is not installed"));
        return None;
    }
    if guest.script_after(BY_FUSE, "exec 3<>/dev/fuse").code != 0 {
        skip("no device /dev/fuse");
        return None;
    }
    Some(guest)
}

#[test]
fn keep_id_gives_the_user_their_own_number_and_their_files() {
    let Some(with_range) = guest(Ids::Range) else { return };
    let stdout = with_range.ok("$R -q init > /dev/null; $R -q import dir:$D/root base > /dev/null
        $R -q run --userns keep-id base -- sh -c 'id -u; id -g; stat -c %u /etc/motd'
        $R -q run --userns keep-id -u root base -- sh -c 'id -u; chown me /etc/motd; stat -c %U /etc/motd'");
    let id = with_range.id;
    assert_eq!(stdout, format!("{id}\n{id}\n{id}\n0\nme\n"));
    let Some(alone) = guest(Ids::None) else { return };
    alone.ok("$R -q init > /dev/null; $R -q import dir:$D/root base > /dev/null");
    let stderr = alone.fails("$R -q run --userns keep-id base -- id");
    assert!(stderr.contains("keep-id needs a range of ids") && stderr.contains("usermod"), "{stderr}");
}

#[test]
fn unshare_is_a_shell_where_the_user_owns_what_is_in_their_trees() {
    let Some(guest) = guest(Ids::Range) else { return };
    let stdout = guest.ok("$R -q init > /dev/null; $R -q import dir:$D/root base > /dev/null; $R -q create base dev > /dev/null
        $R -q exec dev -- sh -c 'echo x > /mine; chown me /mine; chmod 600 /mine'
        ! cat $ROOTLING_ROOT/o/*/fs/mine 2> /dev/null
        umask 027; $R unshare sh -c 'cat $ROOTLING_ROOT/o/*/fs/mine; id -u; umask'; $R unshare sh -c 'exit 7' || echo $?");
    assert_eq!(stdout, "x\n0\n0027\n7\n");
    let ran = guest.script("$R unshare /nonesuch");
    assert!(ran.code == 127 && ran.stderr.contains("/nonesuch"), "{}", ran.stderr);
}

#[test]
fn the_users_own_program_is_out_of_the_boxs_reach() {
    let Some(guest) = guest(Ids::Range) else { return };
    // Process 1 is the program; its file belongs to whoever is root inside.
    let stdout = guest.ok("$R -q init > /dev/null; $R -q import dir:$D/root base > /dev/null
        before=$(sha256sum < $D/rootling)
        $R -q run --privileged base -- sh -c 'echo spoiled > /proc/1/exe' 2>&1 | grep -o 'Read-only file system'
        test \"$before\" = \"$(sha256sum < $D/rootling)\" && echo same");
    assert_eq!(stdout, "Read-only file system\nsame\n");
}

/// Flags of mounts, volumes of the store, mount points that go again: what each prints.
const MOUNTS: &str = "
    mkdir $D/src; echo mine > $D/src/file; cp $D/root/bin/busybox $D/src/true
    $R -q init > /dev/null; $R -q import dir:$D/root base > /dev/null; $R -q create base box > /dev/null
    run() { $R -q run \"$@\"; }
    run -v $D/src:/v base -- sh -c 'stat -c %u /v/file; touch /v/new'
    stat -c %u $D/src/new | grep -c $U
    run -v $D/src:/v:ro base -- sh -c 'touch /v/x 2> /dev/null || echo no'
    run -v $D/src:/v:noexec base -- sh -c '/v/true 2> /dev/null || echo no'
    run -v $D/src:/v:O base -- sh -c 'rm /v/file; mkdir /v/d; touch /v/d/x; ls /v'; ls $D/src
    run -v $D/src:/v:idmap base -- true 2> $D/said && exit 1; grep -c 'users of its own' $D/said
    $R -q exec -v $D/src:/made/here -v $D/src/file:/etc/new box -- cat /made/here/file /etc/new
    $R -q exec box -- ls -d /made /etc/new 2> /dev/null || echo gone
    run -v data:/etc base -- sh -c 'cat /etc/motd; echo changed > /etc/motd'
    $R volume snapshot data 2> /dev/null
    run -v data:/v base -- sh -c 'cat /v/motd; echo later > /v/motd'
    $R -q volume restore data 1
    run -v data:/v base -- cat /v/motd
    $R -q volume rm --now --snapshots data
    test -z \"$($R -q volume ls)\"
    $R fsck > /dev/null
";

#[test]
fn mounts_and_volumes_work_without_root() {
    for ids in [Ids::Range, Ids::None] {
        let Some(guest) = guest(ids) else { return };
        let shown = guest.ok(MOUNTS);
        let expected = "0\n1\nno\nno\nd\nnew\ntrue\nfile\nnew\ntrue\n1\nmine\nmine\ngone\nwelcome\ndata@1\nchanged\nchanged\n";
        assert_eq!(shown, expected, "{ids:?}");
        if ids == Ids::Range {
            let given = guest
                .ok("$R -q run -u me:me -v $D/src:/v:U base -- sh -c 'stat -c %u /v/file; touch /v/mine'
                stat -c %u $D/src/file $D/src/mine");
            // User 1000 is the 1000th of the range, after root.
            assert_eq!(given, "1000\n3000999\n3000999\n");
            let kept =
                guest.ok("$R -q run --userns keep-id -v $D/src:/v:U base -- stat -c %u /v/file | grep -c $U");
            assert_eq!(kept, "1\n");
        }
        let error = guest.fails("$R -q run -v /etc:/v:U base -- true");
        assert!(error.contains("is the system's"), "{error}");
    }
}
