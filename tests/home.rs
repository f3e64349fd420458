//! A box is a home: what is kept with it, its home directory, and being oneself in it.

use std::fs;
use std::path::Path;

use crate::environment::{Environment, Ran, can_make};
use crate::guest::{Guest, Ids, guest};
use crate::volumes::killed_at_each_point;

fn environment() -> Option<Environment> {
    let environment = Environment { dir: tempfile::tempdir().unwrap() };
    environment.ok(["init"]);
    environment.import_busybox().then_some(environment)
}

// ---------------------------------------------------------------- settings

#[test]
fn a_box_is_started_with_what_it_was_created_with_unless_something_else_is_typed() {
    let Some(environment) = environment() else { return };
    let run = |arguments: &[&str]| environment.ok(arguments);
    run(&[
        "-q",
        "create",
        "-e",
        "A=1",
        "-e",
        "B=1",
        "-v",
        "data:/d",
        "-w",
        "/tmp",
        "--hostname",
        "kept",
        "--tmpfs",
        "/m",
        "base",
        "dev",
    ]);
    let shown = "echo $A$B; pwd; hostname; touch /d/x /m/y; ls /d";
    assert_eq!(run(&["-q", "exec", "dev", "--", "sh", "-c", shown]), "11\n/tmp\nkept\nx\n");
    // The typed variable wins and the other stays; a mount at the same place takes its turn.
    let typed = ["-q", "exec", "-e", "A=2", "-w", "/", "-v", "other:/d", "dev", "--", "sh", "-c", shown];
    assert_eq!(run(&typed), "21\n/\nkept\nx\n");
    assert_eq!(run(&["-q", "run", "-v", "other:/o", "base", "--", "ls", "/o"]), "x\n");

    let set = run(&[
        "set", "dev", "-e", "C=3", "--unset", "env=A", "--unset", "tmpfs", "--memory", "1g", "--unset",
        "volume",
    ]);
    assert_eq!(set, "--env B=1\n--env C=3\n--hostname kept\n--memory 1g\n--workdir /tmp\n");
    run(&["-q", "set", "dev", "--clear", "memory"]);
    assert_eq!(run(&["-q", "exec", "dev", "--", "sh", "-c", "echo -$A$B$C; ls /d | wc -l"]), "-13\n0\n");
    let show = environment.json(["show", "dev"]);
    assert_eq!(
        show["settings"]["flags"],
        serde_json::json!({ "env": ["B=1", "C=3"], "hostname": ["kept"], "workdir": ["/tmp"] })
    );
    assert!(run(&["show", "dev"]).contains("started   --env C=3\n"));
    assert_eq!(environment.json(["show", "base"])["settings"], serde_json::Value::Null);
    // Commands that join get them, too.
    let joined = environment.script_ok(
        "$R -q start dev -- sh -c 'touch /up; exec sleep 60' > /dev/null; until $R exec dev -- test -e /up; do :; done
        $R exec dev -- sh -c 'echo $B$C; pwd'; $R set dev -e B=9 2>&1; $R exec dev -- sh -c 'echo $B'; $R -q kill dev",
    );
    assert_eq!(
        joined,
        "13\n/tmp\ndev runs: it takes effect at the next start\n--env C=3\n--env B=9\n--hostname kept\n--workdir /tmp\n1\ndev\n"
    );
}

#[test]
fn nonsense_is_refused_when_it_is_kept_and_nothing_is_made() {
    let Some(environment) = environment() else { return };
    for (flags, said) in [
        (&["--cap-add", "nope"][..], "there is no capability"),
        (&["--ulimit", "nofile"], "is no limit"),
        (&["--dry-run"], "--dry-run cannot be kept with a box"),
        (&["--security-opt", "seccomp=/missing.json"], "seccomp profile"),
        (&["--hostname", "x", "--uts", "host"], "--hostname needs a host name"),
    ] {
        let mut arguments = vec!["create", "base", "dev"];
        arguments.extend(flags);
        let error = environment.fails(arguments);
        assert!(error.contains(said), "{flags:?}: {error}");
    }
    environment.ok(["-q", "create", "base", "dev"]);
    assert!(environment.fails(["set", "dev"]).contains("nothing was said to be set"));
    assert!(environment.fails(["set", "dev", "--unset", "memory"]).contains("has no setting \"memory\""));
    assert!(environment.fails(["set", "base", "-e", "A=1"]).contains("is committed"));
    environment.assert_tidy(&["base", "dev"]);
}

#[test]
fn settings_outlive_snapshots_and_go_to_forks_but_not_to_what_is_committed() {
    let Some(environment) = environment() else { return };
    environment.ok(["-q", "create", "-e", "A=1", "base", "dev"]);
    environment.ok(["-q", "exec", "dev", "--", "touch", "/x"]);
    environment.ok(["-q", "commit", "dev", "tree"]);
    let flags = |name: &str| environment.json(["show", name])["settings"]["flags"].clone();
    let kept = serde_json::json!({ "env": ["A=1"] });
    assert_eq!(flags("dev"), kept);
    environment.ok(["-q", "fork", "dev", "two"]);
    assert_eq!(flags("two"), kept);
    environment.ok(["-q", "create", "-e", "B=2", "dev", "three"]);
    assert_eq!(flags("three"), serde_json::json!({ "env": ["A=1", "B=2"] }));
    environment.ok(["-q", "create", "tree", "four"]);
    assert_eq!(flags("four"), serde_json::Value::Null);
}

#[test]
fn volumes_that_a_box_needs_stay_and_others_can_be_pruned() {
    let Some(environment) = environment() else { return };
    environment.ok(["-q", "create", "-v", "data:/d", "--mount", "source=more,target=/m", "base", "dev"]);
    for volume in ["data", "more", "lone"] {
        environment.ok(["-q", "volume", "create", volume]);
    }
    let refused = environment.fails(["volume", "rm", "data"]);
    assert_eq!(
        refused,
        "rootling: volume data is mounted by dev when it starts\n  hint: rootling volume rm --force data removes it; a \
         start makes an empty one anew\n"
    );
    assert_eq!(environment.ok(["-q", "volume", "prune", "--dry-run"]), "lone\n");
    assert_eq!(environment.json(["volume", "prune"])[0]["name"], "lone");
    assert_eq!(environment.ok(["-q", "volume", "ls"]), "data\nmore\n");
    environment.ok(["-q", "volume", "rm", "--force", "data"]);
    environment.ok(["-q", "rm", "--now", "dev"]);
    assert_eq!(environment.ok(["-q", "volume", "prune"]), "more\n");
    environment.assert_tidy(&["base"]);
}

// ---------------------------------------------------------------- homes

/// As root who became root by sudo: `ada` (4321) with a home, a shell that the tree lacks and groups, in account files of the test's own.
const SUDO: &str = "mkdir -p $D/home/ada/src; echo hers > $D/home/ada/file; chown -R 4321:4322 $D/home; chmod 755 $D $D/home
    { cat /etc/passwd; echo ada:x:4321:4322:Ada,,,:$D/home/ada:/bin/zsh; } > $D/passwd; mount --bind $D/passwd /etc/passwd
    { cat /etc/group; echo ada:x:4322:; echo crew:x:4400:ada; echo wheel:x:4401:ada; } > $D/group; mount --bind $D/group /etc/group
    export SUDO_UID=4321
    ";

fn as_ada(environment: &Environment, script: &str) -> Ran {
    let mut ran = environment.script(&format!("{SUDO}{script}"));
    for text in [&mut ran.stdout, &mut ran.stderr] {
        *text = text.replace(&*environment.dir.path().to_string_lossy(), "DIR");
    }
    ran
}

fn ada(environment: &Environment, script: &str) -> String {
    let ran = as_ada(environment, script);
    assert_eq!(ran.code, 0, "stdout: {}\nstderr: {}", ran.stdout, ran.stderr);
    ran.stdout
}

#[test]
fn who_is_themselves_has_name_number_groups_and_shell_and_the_tree_is_not_touched() {
    let Some(environment) = environment() else { return };
    let root = environment.path("root");
    fs::write(root.join("etc/group"), "root:x:0:\nme:x:1000:\nwheel:x:10:bob\n").unwrap();
    environment.ok(["import", &format!("dir:{}", root.display()), "wheels"]);
    let printed = ada(
        &environment,
        "$R -q create wheels dev; $R -q exec -u me dev -- sh -c 'id; echo $USER $HOME; pwd; grep ada /etc/passwd; grep wheel /etc/group'
        $R diff dev; $R -q exec dev -- sh -c 'id -u; grep -c ada /etc/passwd' || true
        $R -q run --user me --userns host base -- id -un",
    );
    let lines: Vec<&str> =
        printed.lines().filter(|line| !line.starts_with("id ") && line.len() != 8).collect();
    assert_eq!(
        lines,
        [
            "uid=4321(ada) gid=4322(ada) groups=10(wheel),4400(crew)",
            "ada DIR/home/ada",
            "/",
            "ada:x:4321:4322:Ada,,,:DIR/home/ada:/bin/sh",
            "wheel:x:10:bob,ada",
            "0",
            "0",
            "ada",
        ]
    );
}

#[test]
fn a_shared_home_is_the_same_inside_owners_and_directory_included() {
    let Some(environment) = environment() else { return };
    let printed = ada(
        &environment,
        "$R -q create --home share base dev > /dev/null; cd $D/home/ada/src
        $R -q exec dev -- sh -c 'id -un; pwd; cat ../file; stat -c %U ../file; echo new > ../made'
        stat -c %u:%g $D/home/ada/made; $R diff dev
        cd /etc; $R -q exec dev -- pwd
        $R -q exec -u root dev -- sh -c 'id -u; stat -c %u $1' sh $D/home/ada/made",
    );
    assert_eq!(printed, "ada\nDIR/home/ada/src\nhers\nada\n4321:4322\nDIR/home/ada\n0\n4321\n");
    let shown = environment.json(["show", "dev"]);
    assert_eq!(
        (&shown["settings"]["home"]["mode"], &shown["settings"]["me"]),
        (&"share".into(), &4321.into())
    );
    assert_eq!(shown["settings"]["home"]["volume"], serde_json::Value::Null);
}

#[test]
fn a_store_in_a_shared_home_is_covered() {
    let Some(environment) = environment() else { return };
    let printed = ada(
        &environment,
        "export ROOTLING_ROOT=$D/home/ada/store; $R -q init > /dev/null; $R -q import dir:$D/root base > /dev/null
        $R -q create --home share base dev > /dev/null
        $R -q exec -u root dev -- sh -c 'cat $1/file; ls $1/store | wc -l; touch $1/store/x || echo closed' sh $D/home/ada
        $R -q create --home overlay base no || true
        $R -q create --home snapshot base copy > /dev/null
        $R -q exec copy -- sh -c 'cd; cat file; ls -A store | wc -l'",
    );
    assert_eq!(printed, "hers\n0\nclosed\nhers\n0\n");
}

#[test]
fn a_private_home_begins_from_the_trees_and_is_the_boxs_own() {
    let Some(environment) = environment() else { return };
    fs::create_dir_all(environment.path("root/etc/skel")).unwrap();
    fs::write(environment.path("root/etc/skel/.profile"), "of skel\n").unwrap();
    environment.ok(["import", &format!("dir:{}", environment.path("root").display()), "skel"]);
    let printed = ada(
        &environment,
        "$R -q create --home private skel dev > /dev/null
        $R -q exec dev -- sh -c 'pwd; cat .profile; stat -c %U:%G . .profile; echo mine > kept; test ! -e file'
        $R -q exec dev -- cat kept; test ! -e $D/home/ada/kept; $R -q volume ls
        $R -q fork dev two > /dev/null; $R -q volume ls
        $R -q exec two -- sh -c 'cat kept; echo other > kept'; $R -q exec dev -- cat kept; $R -q volume prune",
    );
    assert_eq!(
        printed,
        "DIR/home/ada\nof skel\nada:ada\nada:ada\nmine\ndev.home\ndev.home\ntwo.home\nmine\nmine\n"
    );
    let settings = environment.json(["show", "two"])["settings"].clone();
    assert_eq!(settings["home"]["volume"], "two.home");
}

#[test]
fn a_home_of_its_own_goes_and_comes_back_with_the_box() {
    let Some(environment) = environment() else { return };
    let run = |arguments: &[&str]| environment.ok(arguments);
    run(&["-q", "create", "--home", "private", "base", "dev"]);
    run(&["-q", "exec", "dev", "--", "sh", "-c", "echo mine > ~/kept"]);
    run(&["-q", "snapshot", "--with-volumes", "dev", "one"]);
    let said = "volumes stay as they are (dev.home): --with-volumes restores them, too\n";
    assert!(environment.run(["restore", "dev@one"]).stderr.ends_with(said));
    assert!(!environment.run(["restore", "dev@one", "--with-volumes"]).stderr.contains("stay as they are"));
    run(&["-q", "fork", "dev", "two"]);
    let volumes = || environment.ok(["-q", "volume", "ls"]);
    assert_eq!(volumes(), "dev.home\ndev.home@one\ntwo.home\n");

    let removed = environment.run(["rm", "dev"]);
    assert_eq!(
        removed.stderr,
        "removed dev, its snapshot and its home: within 7d, rootling undelete dev brings it back\n"
    );
    assert_eq!(volumes(), "two.home\n");
    let kinds = environment.json(["undelete"]);
    let kinds: Vec<&str> =
        kinds.as_array().unwrap().iter().map(|row| row["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["volume", "volume", "box", "snapshot"]);
    // A volume that took its name in the meantime is not taken for it.
    run(&["-q", "volume", "create", "dev.home"]);
    let refused = environment.fails(["undelete", "dev"]);
    assert!(refused.contains("there is a volume dev.home already"), "{refused}");
    run(&["-q", "volume", "rm", "--now", "--force", "dev.home"]);
    assert_eq!(environment.json(["undelete", "dev", "--as", "old"]), serde_json::json!(["old@one", "old"]));
    assert_eq!(volumes(), "dev.home\ndev.home@one\ntwo.home\n");
    assert_eq!(run(&["-q", "exec", "old", "--", "sh", "-c", "cat ~/kept"]), "mine\n");
    // A renamed box keeps its home, which keeps its name.
    run(&["-q", "rename", "old", "new"]);
    assert_eq!(run(&["-q", "exec", "new", "--", "sh", "-c", "cat ~/kept"]), "mine\n");

    // Locked, nothing of it goes; for good, all of it does, and the fork keeps its own.
    run(&["-q", "lock", "new"]);
    assert!(environment.fails(["rm", "new"]).contains("new is locked"));
    assert_eq!(volumes(), "dev.home\ndev.home@one\ntwo.home\n");
    run(&["-q", "unlock", "new"]);
    run(&["-q", "rm", "--now", "new"]);
    assert_eq!(volumes(), "two.home\n");
    assert_eq!(run(&["-q", "exec", "two", "--", "sh", "-c", "cat ~/kept"]), "mine\n");

    // What another box is started with stays.
    run(&["-q", "create", "-v", "two.home:/h", "base", "other"]);
    run(&["-q", "rm", "--now", "two"]);
    assert_eq!(run(&["-q", "exec", "other", "--", "cat", "/h/kept"]), "mine\n");
    run(&["-q", "rm", "--now", "other"]);
    run(&["-q", "volume", "rm", "--now", "two.home"]);
    environment.assert_tidy(&["base"]);
}

#[test]
fn a_removal_cut_short_leaves_a_box_with_its_home_or_neither() {
    let Some(environment) = environment() else { return };
    for step in 1..=4 {
        environment.ok(["-q", "create", "--home", "private", "base", "dev"]);
        environment.ok(["-q", "exec", "dev", "--", "sh", "-c", "echo mine > ~/kept"]);
        environment.ok(["-q", "snapshot", "dev", "one"]);
        let killed = environment.script(&format!("ROOTLING_FAULT=removed.moved:{step} $R rm dev"));
        let there = environment.ok(["-q", "ls"]).contains("dev");
        assert_eq!((there, killed.code == 0), (step == 1, step == 4), "{step}: {}", killed.stderr);
        if !there {
            environment.ok(["undelete", "dev"]);
        }
        assert_eq!(environment.ok(["-q", "exec", "dev", "--", "sh", "-c", "cat ~/kept"]), "mine\n", "{step}");
        environment.ok(["-q", "rm", "--now", "dev"]);
        environment.ok(["-q", "prune", "--removed"]);
    }
    environment.assert_tidy(&["base"]);
}

#[test]
fn an_overlaid_home_shows_the_hosts_and_keeps_what_is_written() {
    let Some(environment) = environment() else { return };
    let printed = ada(
        &environment,
        "$R -q create --home overlay base dev > /dev/null
        $R -q exec dev -- sh -c 'cd; cat file; echo changed > file; echo new > made; rm -r src; stat -c %U file made'
        cat $D/home/ada/file; test -d $D/home/ada/src; test ! -e $D/home/ada/made
        $R -q exec dev -- sh -c 'cat file made; ls'
        $R -q fork dev two > /dev/null; $R -q exec two -- sh -c 'cat file; echo two > file'; $R -q exec dev -- cat file
        $R -q set dev --home share > /dev/null; $R -q exec dev -- cat file
        $R -q exec two --userns host -- cat file",
    );
    assert_eq!(printed, "hers\nada\nada\nhers\nchanged\nnew\nfile\nmade\nchanged\nchanged\nhers\ntwo\n");
}

#[test]
fn a_snapshot_of_the_home_is_what_it_was_then() {
    let Some(environment) = environment() else { return };
    let ran = as_ada(
        &environment,
        "$R create --home snapshot base dev > /dev/null; echo later > $D/home/ada/file; cd $D/home/ada/src
        $R -q exec dev -- sh -c 'pwd; cat ../file; stat -c %U ../file; echo inside > ../file'; cat $D/home/ada/file
        $R -q set dev --home none > /dev/null; $R -q exec -w / dev -- sh -c 'ls -d $HOME || echo none'; $R -q volume prune",
    );
    assert_eq!(
        (ran.stdout.as_str(), ran.code),
        ("DIR/home/ada/src\nhers\nada\nlater\nnone\ndev.home\n", 0),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("copied DIR/home/ada to volume dev.home"), "{}", ran.stderr);
}

#[test]
fn a_home_that_is_a_subvolume_is_snapshotted_and_the_store_in_it_left_out() {
    if !can_make("btrfs") {
        return;
    }
    for store in ["m/store", "m/ada/store"] {
        let Some(environment) = environment() else { return };
        let ran = environment.script(&format!(
            "truncate -s 300M $D/image; mkfs.btrfs -q $D/image > /dev/null; mkdir $D/m; mount -o loop $D/image $D/m
            btrfs subvolume create $D/m/ada > /dev/null; echo hers > $D/m/ada/file; chown -R 4321:4322 $D/m/ada; chmod 755 $D
            {{ cat /etc/passwd; echo ada:x:4321:4322::$D/m/ada:/bin/sh; }} > $D/passwd; mount --bind $D/passwd /etc/passwd
            export SUDO_UID=4321 ROOTLING_ROOT=$D/{store}; $R -q init > /dev/null; $R -q import dir:$D/root base > /dev/null
            $R -q create --home snapshot base dev > /dev/null; echo later > $D/m/ada/file
            $R -q exec dev -- sh -c 'cat ~/file; stat -c %u ~/file; echo in > ~/new; ls -A ~/store 2> /dev/null | wc -l'
            test ! -e $D/m/ada/new; $R --format json volume show dev.home | grep -e '\"snapshots\": [1-9]' -e copied\\\": -e cloned\\\":
            $R -q fork dev two > /dev/null; $R -q exec two -- sh -c 'cat ~/new'; $R -q rm --now two dev; $R -q volume prune; $R -q fsck > /dev/null"
        ));
        let cost = "    \"snapshots\": 1,\n    \"files_cloned\": 0,\n    \"files_copied\": 0,\n    \"bytes_cloned\": 0,\n    \"bytes_copied\": 0,\n";
        let expected = format!("hers\n4321\n0\n{cost}in\n");
        assert_eq!((ran.stdout.as_str(), ran.code), (expected.as_str(), 0), "{store}: {}", ran.stderr);
    }
}

#[test]
fn a_unit_needs_no_flags_because_the_box_keeps_them() {
    let Some(environment) = environment() else { return };
    environment.ok(["-q", "create", "-v", "data:/d", "-e", "A=1", "base", "dev"]);
    let unit = environment.ok(["generate", "systemd", "dev", "--", "sh", "-c", "echo $A > /d/a"]);
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap().replace("$$", "$");
    environment.script_ok(&line.replace("\"echo $A > /d/a\"", "'echo $A > /d/a'"));
    assert_eq!(environment.ok(["-q", "exec", "dev", "--", "cat", "/d/a"]), "1\n");
}

#[test]
fn a_fork_that_is_killed_anywhere_has_the_whole_home_or_is_not_there() {
    let prepare = |environment: &Environment| {
        environment.ok(["-q", "create", "--home", "private", "-e", "A=1", "base", "dev"]);
        environment.ok(["-q", "exec", "dev", "--", "sh", "-c", "echo mine > ~/kept"]);
    };
    let kept = |environment: &Environment, name: &str| {
        environment.ok(["-q", "exec", name, "--", "sh", "-c", "cat ~/kept; echo $A"])
    };
    killed_at_each_point(prepare, &["fork", "dev", "two"], |environment, fault| {
        if environment.run(["show", "two"]).code != 0 {
            environment.ok(["-q", "fork", "dev", "two"]);
        }
        assert_eq!(kept(environment, "two"), "mine\n1\n", "{fault}");
        assert_eq!(kept(environment, "dev"), "mine\n1\n", "{fault}");
        let own = |name: &str| environment.json(["show", name])["settings"]["home"]["volume"].clone();
        assert_ne!(own("dev"), own("two"), "{fault}");
        environment.ok(["-q", "fsck"]);
    });
    killed_at_each_point(prepare, &["set", "dev", "-e", "A=2"], |environment, fault| {
        let now = kept(environment, "dev");
        assert!(now == "mine\n1\n" || now == "mine\n2\n", "{fault}: {now}");
        environment.ok(["-q", "set", "dev", "-e", "A=2"]);
        assert_eq!(kept(environment, "dev"), "mine\n2\n", "{fault}");
    });
}

// ---------------------------------------------------------------- as a user

/// The guest's account with a home of its own.
fn with_home(guest: &Guest) -> String {
    let passwd = guest.dir.path().join("passwd");
    let home = guest.dir.path().join("home");
    fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(guest.id), Some(guest.id)).unwrap();
    let text = fs::read_to_string(&passwd).unwrap();
    let line = format!("guest:x:{0}:{0}::{1}:/bin/sh", guest.id, home.display());
    fs::write(&passwd, text.replace(&format!("guest:x:{0}:{0}::/:/bin/sh", guest.id), &line)).unwrap();
    add_link(&guest.dir.path().join("root/bin/pwd"));
    "cd $D/home; echo mine > file; $R -q init > /dev/null; $R -q import dir:$D/root base > /dev/null\n"
        .to_owned()
}

fn add_link(path: &Path) {
    std::os::unix::fs::symlink("busybox", path).unwrap();
}

#[test]
fn a_user_with_a_range_is_themselves_in_every_home() {
    let Some(guest) = guest(Ids::Range) else { return };
    let prepare = with_home(&guest);
    let printed = guest.ok(&format!(
        "{prepare}
        for home in share private overlay snapshot; do
            $R -q create --home $home base $home > /dev/null
            $R -q exec $home -- sh -c 'id -un; id -u; cd; pwd; echo in > '$home'; cat file 2> /dev/null || echo empty; stat -c %U '$home
        done; ls; stat -c %u share; $R -q fork overlay two > /dev/null; $R -q exec two -- cat overlay"
    ));
    let (id, dir) = (guest.id, guest.dir.path().display());
    let each = |file: &str| format!("guest\n{id}\n{dir}/home\n{file}\nguest\n");
    let expected = [each("mine"), each("empty"), each("mine"), each("mine")].concat();
    assert_eq!(printed, format!("{expected}file\nshare\n{id}\nin\n"));
}

#[test]
fn who_joins_is_themselves_too_and_stays_where_they_are() {
    let script = "$R -q start dev -- sh -c 'touch ~/up; exec sleep 60' > /dev/null; until test -e $H/up; do :; done
        cd $H/sub; $R -q exec dev -- sh -c 'id -un; id -u; pwd; touch joined; stat -c %U joined'; stat -c %u joined
        cd /etc; $R -q exec dev -- pwd; $R -q exec -u root dev -- id -u; $R -q exec -u me -w / dev -- sh -c 'id -un; pwd'; $R -q kill dev";
    let printed = |name: &str, id: u32, home: &str| {
        format!("{name}\n{id}\n{home}/sub\n{name}\n{id}\n{home}\n0\n{name}\n/\ndev\n")
    };
    if let Some(environment) = environment() {
        let create = "mkdir $D/home/ada/sub; chown 4321 $D/home/ada/sub; H=$D/home/ada; $R -q create --home share base dev > /dev/null\n";
        assert_eq!(ada(&environment, &format!("{create}{script}")), printed("ada", 4321, "DIR/home/ada"));
    }
    let Some(guest) = guest(Ids::Range) else { return };
    let prepare = with_home(&guest);
    let create = "mkdir sub; H=$D/home; $R -q create --home share base dev > /dev/null\n";
    let home = guest.dir.path().join("home").display().to_string();
    assert_eq!(guest.ok(&format!("{prepare}{create}{script}")), printed("guest", guest.id, &home));
}

#[test]
fn a_user_without_a_range_is_root_inside_by_their_own_name() {
    let Some(guest) = guest(Ids::None) else { return };
    let prepare = with_home(&guest);
    let ran = guest.script(&format!(
        "{prepare}$R -q create --home share base dev > /dev/null
        $R exec dev -- sh -c 'id -un; id -u; pwd; cat file; touch made'; stat -c %u made"
    ));
    let home = guest.dir.path().join("home").display().to_string();
    assert_eq!(
        (ran.stdout, ran.code),
        (format!("guest\n0\n{home}\nmine\n{}\n", guest.id), 0),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("guest is root inside, where no other id is yours"), "{}", ran.stderr);
}

// ---------------------------------------------------------------- changing it

#[test]
fn a_home_that_is_unset_leaves_its_volume_and_says_so() {
    let Some(environment) = environment() else { return };
    environment.ok(["-q", "create", "--home", "private", "base", "dev"]);
    environment.ok(["-q", "exec", "dev", "--", "true"]);
    let home = |environment: &Environment| environment.json(["show", "dev"])["settings"]["home"].clone();
    let refused = environment.fails(["set", "dev", "--unset", "home=share"]);
    assert!(refused.contains("the box has no setting \"home=share\""), "{refused}");
    assert_eq!(home(&environment)["mode"], "private");
    let said = "kept volume dev.home, which held the home of dev: rootling volume rm dev.home\n";
    assert_eq!(environment.run(["set", "dev", "--unset", "home=private"]).stderr, said);
    assert_eq!(home(&environment), serde_json::Value::Null);
    for unset in ["home", "home=private"] {
        assert!(environment.fails(["set", "dev", "--unset", unset]).contains("has no setting \"home"));
    }
    // What fails says nothing of what would have stayed.
    let ran = as_ada(
        &environment,
        "$R -q create --home private base two > /dev/null; $R -q exec two -- true
        rm -r $D/home; $R set two --home snapshot || $R -q volume ls",
    );
    assert_eq!((ran.stdout.as_str(), ran.code), ("dev.home\ntwo.home\n", 0), "{}", ran.stderr);
    let said = ran.stderr.as_str();
    assert!(said.contains("there is no home directory") && !said.contains("kept volume"), "{said}");
    // The new one takes the place of the old one.
    environment.ok(["set", "dev", "--home", "private"]);
    environment.ok(["set", "dev", "--unset", "home", "--home", "share"]);
    assert_eq!(home(&environment)["mode"], "share");
}

#[test]
fn others_do_not_wait_for_a_copy_of_a_home_and_one_that_is_not_used_goes() {
    let Some(environment) = environment() else { return };
    let ran = as_ada(
        &environment,
        "$R -q create base dev > /dev/null
        ROOTLING_FAULT_STOP=volume.copied $R set dev --home snapshot & copies=$!
        until grep -q '^State:.T' /proc/$copies/status; do sleep 0.01; done
        $R -q set dev -e A=1 > /dev/null; kill -CONT $copies; wait $copies || echo failed; $R -q volume ls
        $R -q exec dev -- sh -c 'echo $A'; $R -q set dev --home snapshot > /dev/null; $R -q volume ls",
    );
    assert_eq!((ran.stdout.as_str(), ran.code), ("failed\n1\ndev.home\n", 0), "{}", ran.stderr);
    assert!(ran.stderr.contains("the settings of dev have changed meanwhile"), "{}", ran.stderr);
}
