//! Every command as a person would use it, through the built binary.

use std::fs;

use serde_json::json;

use crate::environment::{Environment, is_root, ran, tar_of};

#[test]
fn a_box_is_forked_changed_compared_committed_and_removed() {
    if !is_root() {
        return;
    }
    let environment = Environment::new();
    environment.import_base();
    environment.ok(["create", "base", "dev"]);
    let script = "mkdir $D/m; $R -q mount dev $D/m; echo new > $D/m/etc/new; rm $D/m/etc/motd;
        chmod 700 $D/m/tmp; echo more >> $D/m/etc/hostname; $R -q umount $D/m; $R diff dev";
    let diff = "C /etc/hostname\nD /etc/motd\nA /etc/new\nC /tmp/  (mode)\n";
    assert_eq!(environment.script_ok(script), diff);
    environment.ok(["commit", "dev", "second", "-m", "my words"]);
    assert_eq!(environment.ok(["diff", "dev"]), "", "the box starts anew on what was committed");
    assert_eq!(environment.ok(["diff", "base..second"]), diff);
    assert_eq!(
        environment.ok(["diff", "second", "base"]),
        diff.replace("D /etc/motd\nA /etc/new", "A /etc/motd\nD /etc/new")
    );
    let shown = environment.json(["show", "second"]);
    assert_eq!((&shown["message"], &shown["history"]), (&json!("my words"), &json!(["base"])));
    assert_eq!(environment.json(["show", "dev~1"])["name"], "second");
    environment.ok(["rm", "dev", "second", "base"]);
    environment.assert_tidy(&[]);
}

#[test]
fn what_is_committed_is_what_the_box_held() {
    if !is_root() {
        return;
    }
    for backend in ["overlay", "copy"] {
        let environment = Environment::new();
        environment.import_base();
        environment.ok(["create", "--backend", backend, "base", "dev"]);
        let script = "mkdir $D/m $D/n; $R -q mount dev $D/m; cd $D/m
            rm -r etc; mkdir etc; echo x > etc/only; ln etc/only var/link; ln -s nowhere var/dangling
            touch -d '1999-01-02 03:04:05.678' var/log; chmod 1777 tmp; mkfifo tmp/pipe; cd /
            $R -q umount $D/m; $R -q commit dev one >&2
            $R -q mount dev $D/m; $R -q mount one $D/n
            diff -r --no-dereference $D/m $D/n 2>&1 | grep -v fifo || true
            stat -c '%n %a %h %Y' $D/n/var/link | sed s,$D/n,,; stat -c '%n %a %Y' $D/n/var/log $D/n/tmp | sed s,$D/n,,
            touch $D/n/x 2>/dev/null && echo 'a committed tree was written to'
            $R -q umount $D/m; $R -q umount $D/n";
        let stdout = environment.script_ok(script);
        assert!(stdout.starts_with("/var/link 644 2 "), "{backend}: {stdout}");
        assert!(stdout.contains("/var/log 755 915246245"), "{backend}: {stdout}");
        assert!(stdout.contains("/tmp 1777 "), "{backend}: {stdout}");
        assert_eq!(stdout.lines().count(), 3, "{backend}: {stdout}");
    }
}

#[test]
fn forks_of_a_box_are_apart_from_it_and_from_each_other() {
    if !is_root() {
        return;
    }
    let environment = Environment::new();
    environment.import_base();
    environment.ok(["create", "base", "dev"]);
    let script = "mkdir $D/m; put() { $R -q mount $1 $D/m; echo $2 > $D/m/etc/mark; $R -q umount $D/m; }
        get() { $R -q mount $1 $D/m; cat $D/m/etc/mark; $R -q umount $D/m; }
        put dev before; $R -q fork dev >&2; $R -q fork dev third >&2; put dev after; put dev-2 second
        get dev; get dev-2; get third";
    assert_eq!(environment.script_ok(script), "after\nsecond\nbefore\n");
    assert_eq!(environment.ok(["-q", "ls"]), "base\ndev\ndev-2\nthird\n");
    assert_eq!(environment.ok(["-q", "ls", "--trees"]), "base\n");
}

#[test]
fn tars_of_all_kinds_are_imported() {
    let environment = Environment::new();
    environment.import_base();
    let root = environment.path("root");
    for (kind, option) in [("tar", "--sparse"), ("gz", "--gzip"), ("xz", "--xz"), ("zst", "--zstd")] {
        let archive = environment.path(kind);
        tar_of(&root, &archive, &["--format=pax", option]);
        environment.ok(["import", &format!("tar:{}", archive.display()), kind]);
        assert_eq!(environment.ok(["diff", "--times", &format!("base..{kind}")]), "", "{kind}");
    }
    let archive = fs::File::open(environment.path("gz")).unwrap();
    let piped = environment.command().args(["import", "tar:-", "piped"]).stdin(archive).output().unwrap();
    assert_eq!(ran(piped).code, 0);
    assert_eq!(environment.ok(["diff", "base..piped"]), "");
}

#[test]
fn an_imported_tree_is_verified_byte_by_byte() {
    let environment = Environment::new();
    environment.import_base();
    let checked = environment.json(["fsck", "--verify"]);
    assert_eq!((&checked["verified"], &checked["problems"]), (&json!(1), &json!([])));
    let tree = environment.json(["show", "base"])["path"].as_str().unwrap().to_owned();
    fs::write(format!("{tree}/etc/motd"), "welcomE\n").unwrap();
    let found = environment.run(["fsck", "--verify"]);
    assert_eq!(found.code, 1);
    assert!(found.stdout.contains("\"etc/motd\" is not what was imported"), "{}", found.stdout);
}

#[test]
fn fsck_repairs_what_can_be_derived() {
    let environment = Environment::new();
    environment.import_base();
    environment.ok(["create", "base", "dev"]);
    let base = environment.json(["show", "base"])["id"].as_str().unwrap().to_owned();
    let dev = environment.json(["show", "dev"])["id"].as_str().unwrap().to_owned();
    let object = environment.store().join("o").join(&base);
    fs::remove_file(object.join("by").join(dev)).unwrap();
    let mut index = fs::read(object.join("index")).unwrap();
    let last = index.len() - 1;
    index[last] ^= 1;
    fs::write(object.join("index"), index).unwrap();
    std::os::unix::fs::symlink("../o/00000000", environment.store().join("n/ghost")).unwrap();
    let found = environment.run(["fsck"]);
    assert_eq!((found.code, found.stdout.matches("PROBLEM").count()), (1, 3), "{}", found.stdout);
    let repaired = environment.run(["fsck", "--repair"]);
    assert_eq!((repaired.code, repaired.stdout.matches("repaired").count()), (0, 3), "{}", repaired.stdout);
    let verified = environment.json(["fsck", "--verify"]);
    assert_eq!(verified["problems"], json!([]));
    fs::write(environment.store().join("o").join(&base).join("fence"), "").unwrap();
    assert!(environment.ok(["fsck"]).contains("note: "), "what a crash leaves is no problem");
    environment.assert_tidy(&["base", "dev"]);
}

#[test]
fn prune_removes_what_a_crash_left_and_nothing_else() {
    let environment = Environment::new();
    environment.import_base();
    environment.ok(["create", "base", "dev"]);
    for fault in ["draft.reserved:1", "publish.recorded:1", "publish.moved:1"] {
        let killed =
            environment.command().env("ROOTLING_FAULT", fault).args(["create", "base", "lost"]).output();
        assert_eq!(ran(killed.unwrap()).code, 128 + 9, "{fault}");
    }
    let pruned = environment.json(["prune"]);
    assert_eq!((&pruned["objects"], &pruned["drafts"]), (&json!(1), &json!(2)));
    environment.assert_tidy(&["base", "dev"]);
    assert_eq!(environment.json(["prune"])["trash"], 0, "a second call finds nothing");
}

#[test]
fn the_default_store_is_made_on_first_use() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(crate::environment::BINARY);
    command.env_remove("ROOTLING_ROOT").env("XDG_DATA_HOME", dir.path()).env("HOME", dir.path());
    if nix::unistd::geteuid().is_root() {
        // For root it is below /var/lib, which is not ours to touch: only look at where it would be.
        let report = ran(command.args(["doctor", "--format", "json"]).output().unwrap());
        let report: serde_json::Value = serde_json::from_str(&report.stdout).unwrap();
        assert_eq!(report["store"], "/var/lib/rootling");
    } else {
        assert_eq!(ran(command.args(["ls", "-q"]).output().unwrap()).code, 0);
        assert!(dir.path().join("rootling/format").exists());
    }
}

#[test]
fn a_loop_store_is_made_remounted_on_demand_and_grown() {
    if !is_root() {
        return;
    }
    for (fs, size, larger) in [("btrfs", "200M", "400M"), ("xfs", "320M", "640M")] {
        let environment = Environment::new();
        environment.import_base();
        let script = format!(
            "export ROOTLING_ROOT=$D/loop; $R -q init $D/loop --loop {size} --fs {fs}
            $R -q import dir:$D/root base; $R -q create base dev; $R ls --format json
            test $(stat -c %a $D/loop) = 700; stat -f -c %b $D/loop/mnt; umount $D/loop/mnt; $R -q ls; $R -q init $D/loop --loop {larger} >&2
            stat -f -c %b $D/loop/mnt; $R fsck; du -m $D/loop/store.img | cut -f1; umount $D/loop/mnt"
        );
        let stdout = environment.script_ok(&script);
        let backend = if fs == "btrfs" { "btrfs" } else { "reflink" };
        assert!(stdout.contains(&format!("\"backend\": \"{backend}\"")), "{stdout}");
        let lines: Vec<&str> = stdout.lines().skip_while(|line| *line != "]").skip(1).collect();
        let (before, after): (u64, u64) = (lines[0].parse().unwrap(), lines[3].parse().unwrap());
        assert_eq!(lines[1..3], ["base", "dev"], "remounted by itself");
        assert!(after > before * 3 / 2, "{before} -> {after}");
        let occupied: u64 = lines.last().unwrap().parse().unwrap();
        assert!(occupied < 150, "the file is sparse: {occupied} MiB");
    }
}

#[test]
fn shells_and_man_are_served() {
    let environment = Environment::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(environment.ok(["completion", shell]).contains("commit"), "{shell}");
    }
    assert!(environment.ok(["man"]).starts_with(".ie"));
    assert!(environment.ok(["man", "commit"]).contains("Seal what changed"));
    assert!(environment.fails(["man", "nope"]).contains("there is no page \"nope\""));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let environment = Environment::new();
    let script = "$R completion bash | head -1 > /dev/null; echo ok";
    let command = std::process::Command::new("bash")
        .args(["-o", "pipefail", "-c", script])
        .env("R", crate::environment::BINARY)
        .env("ROOTLING_ROOT", environment.store())
        .env("ROOTLING_NET", "host")
        .output();
    let ran = ran(command.unwrap());
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("ok\n", ""));
}

#[test]
fn everything_in_the_help_is_imperative_and_has_no_full_stop() {
    let environment = Environment::new();
    let help = environment.ok(["--help"]);
    for line in help.lines().filter(|line| line.starts_with("  ")) {
        assert!(!line.trim_end().ends_with('.'), "{line}");
    }
    for command in [
        "init",
        "import",
        "run",
        "create",
        "fork",
        "enter",
        "exec",
        "commit",
        "ls",
        "show",
        "diff",
        "rm",
        "du",
        "mount",
        "umount",
        "fsck",
        "prune",
        "volume",
        "doctor",
        "completion",
        "man",
    ] {
        assert!(help.contains(&format!("\n  {command} ")), "{command}");
    }
}

#[test]
fn a_fork_of_the_host_keeps_out_what_is_running_and_changes_nothing() {
    if !is_root() {
        return;
    }
    let environment = Environment::new();
    let script = "mark=/etc/rootling-test-$$; $R -q create host:/ h >&2
        $R -q exec h -- sh -c \"echo x > $mark; rm /etc/group; touch /tmp/t /run/r; ls -A /run | wc -l\"
        $R diff h | sed s,$mark,/etc/MARK, | grep -E ' /(etc/(group|MARK)|tmp/t|run/r)$'; test ! -e $mark; test -e /etc/group
        $R -q run host:/ -- sh -c \"test ! -e $mark; rm -r /etc; echo gone\"; test -e /etc/passwd; $R -q rm h";
    assert_eq!(environment.script_ok(script), "1\nD /etc/group\nA /etc/MARK\ngone\n");
    environment.assert_tidy(&[]);
}

/// The root of the "host" is a btrfs subvolume here: a chroot into one, with the program inside.
#[test]
fn a_host_whose_root_shares_the_stores_btrfs_is_snapshotted() {
    if !is_root() {
        return;
    }
    let environment = Environment::new();
    let script = r#"truncate -s 600M $D/image; mkfs.btrfs -q $D/image >/dev/null; mkdir $D/m $D/h; mount -o loop $D/image $D/m
        btrfs -q subvolume create $D/m/root; mount -o subvol=root $D/image $D/h 2>/dev/null ||
            mount -o subvol=root $(losetup -j $D/image -O NAME -n | head -1) $D/h; cd $D/h; mkdir -p bin etc proc sys dev tmp var/lib run/x
        for file in $R $(ldd $R | grep -o '/[^ ]*'); do mkdir -p .$(dirname $file); cp $file .$file; done
        cp $(command -v busybox) bin/; for tool in sh ls echo rm test cat; do ln -s busybox bin/$tool; done
        echo root:x:0:0::/:/bin/sh > etc/passwd; echo old > etc/old; echo t > tmp/t; touch -d 2001-02-03 tmp
        btrfs -q subvolume create nested; echo n > nested/n
        mount -t proc proc proc; mount -t sysfs sysfs sys; mount --rbind /dev dev; mount --rbind /sys/fs/cgroup sys/fs/cgroup
        export ROOTLING_ROOT=/var/lib/store
        inside() { chroot $D/h "$R" -q "$@"; }
        inside init /var/lib/store > /dev/null; inside create host:/ h >&2
        chroot $D/h $R show h | grep backend
        inside exec h -- sh -c 'ls -A /tmp /run /nested; echo new > /etc/new; rm /etc/old; ls -A /var/lib/store'
        chroot $D/h $R diff h; inside commit h kept >&2; inside run kept -- cat /etc/new; inside run host:/ -- cat /etc/old
        ls etc; inside rm --now h kept; inside prune > /dev/null; inside fsck; btrfs subvolume list $D/m | wc -l"#;
    let stdout = environment.script_ok(script);
    let expected =
        "backend   btrfs (full)\n/nested:\n\n/run:\n\n/tmp:\nD /etc/old\nA /etc/new\nnew\nold\nold\npasswd\n";
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let (printed, rest) = stdout.split_once("passwd\n").expect("etc is listed");
    assert_eq!(sorted(&format!("{printed}passwd\n")), sorted(expected), "{stdout}");
    assert_eq!(rest, "0 objects, 0 names: clean\n2\n", "root and nested are all that is left");
}

#[test]
fn a_tree_without_accounts_is_run_as_root() {
    if !is_root() {
        return;
    }
    let environment = Environment::new();
    let script = "mkdir -p $D/root/bin; cp $(command -v busybox) $D/root/bin/; ln -s busybox $D/root/bin/id
        $R -q import dir:$D/root bare >&2; $R -q run bare -- id -u; $R -q run -u nobody bare -- id";
    let ran = environment.script(script);
    assert_eq!((ran.code, ran.stdout.as_str()), (125, "0\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("no user \"nobody\" in the tree's /etc/passwd"), "{}", ran.stderr);
}

#[test]
fn what_a_running_fork_stands_on_is_not_removed_under_it() {
    if !is_root() {
        return;
    }
    let environment = Environment::new();
    environment.import_base();
    let busybox = "mkdir -p $D/root/usr/bin; cp $(command -v busybox) $D/root/usr/bin/; ln -sf busybox $D/root/usr/bin/sh
        $R -q import dir:$D/root base2 >&2; mkfifo $D/go $D/up; ";
    let script = "$R -q run base2 -- /bin/busybox sh -c 'echo up; read go; /bin/busybox cat /etc/motd' < $D/go > $D/out &
        exec 3> $D/go; while ! grep -q up $D/out; do sleep 0.01; done
        $R rm base2 2> $D/refused && echo removed; grep -c 'in use' $D/refused
        $R -q rm --now --force base2; $R -q prune > $D/pruned; echo go >&3; wait; cat $D/out; $R -q prune > $D/pruned; $R -q ls";
    let printed = environment.script_ok(&format!("{busybox}{script}"));
    assert_eq!(printed, "1\nup\nwelcome\nbase\n");
    environment.assert_tidy(&["base"]);
    assert_eq!(
        fs::read_dir(environment.store().join("o")).unwrap().count(),
        1,
        "it went when nobody stood on it any more"
    );
}

#[test]
fn a_session_to_be_kept_is_not_lost_to_a_name_taken_meanwhile() {
    if !is_root() {
        return;
    }
    let environment = Environment::new();
    let script = "mkdir -p $D/root/bin $D/root/etc $D/root/dev $D/root/proc $D/root/sys
        cp $(command -v busybox) $D/root/bin/; ln -s busybox $D/root/bin/sh
        $R -q import dir:$D/root base >&2; mkfifo $D/go
        $R -q run --keep mine base -- sh -c 'echo up; read go; echo work > /etc/work' < $D/go > $D/out & exec 3> $D/go
        while ! grep -q up $D/out; do sleep 0.01; done; $R -q create base mine >&2; echo go >&3; wait; $R -q ls; $R diff mine-2";
    assert_eq!(environment.script_ok(script), "base\nmine\nmine-2\nA /etc/work\n");
    environment.assert_tidy(&["base", "mine", "mine-2"]);
}
