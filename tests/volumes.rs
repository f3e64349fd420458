//! What is mounted in boxes: parts of the host, memory, generated files; and volumes, which are the store's.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::environment::{Environment, can_make, ran};

/// A store with a tree of busybox, and `src/` on the host: a file of root's, one of user 1000's, a program.
fn environment() -> Option<Environment> {
    let environment = Environment::new();
    if !environment.import_busybox() {
        return None;
    }
    let source = environment.path("src");
    fs::create_dir(&source).unwrap();
    // Tests that use the library clear the umask of all.
    fs::set_permissions(&source, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(source.join("file"), "of the host\n").unwrap();
    fs::write(source.join("mine"), "of user 1000\n").unwrap();
    chown(source.join("mine"), Some(1000), Some(1000)).unwrap();
    fs::copy("/bin/true", source.join("program")).unwrap();
    fs::set_permissions(source.join("file"), fs::Permissions::from_mode(0o644)).unwrap();
    Some(environment)
}

impl Environment {
    /// Runs a script in a fork of `base` with flags, in which `SRC` is the source's path; what it printed, which must be all.
    fn shown(&self, flags: &[&str], script: &str) -> String {
        let flags: Vec<String> = flags.iter().map(|flag| self.named(flag)).collect();
        let mut arguments = vec!["-q".to_owned(), "run".to_owned()];
        arguments.extend(flags);
        arguments.extend(["base", "--", "sh", "-c", script].map(str::to_owned));
        self.ok(arguments)
    }

    /// The same for what must fail: what was said, paths made nameless.
    fn refused(&self, flags: &[&str]) -> String {
        let flags: Vec<String> = flags.iter().map(|flag| self.named(flag)).collect();
        let mut arguments = vec!["-q".to_owned(), "run".to_owned()];
        arguments.extend(flags);
        arguments.extend(["base", "--", "true"].map(str::to_owned));
        self.fails(arguments)
    }

    fn named(&self, text: &str) -> String {
        text.replace("SRC", &self.path("src").to_string_lossy())
    }

    fn owner(&self, path: &str) -> (u32, u32) {
        let meta = fs::symlink_metadata(self.path(path)).unwrap();
        (meta.uid(), meta.gid())
    }

    /// Starts something in a box and waits until it has printed a line.
    fn start(&self, arguments: &[&str]) -> Ended {
        let arguments: Vec<String> = arguments.iter().map(|text| self.named(text)).collect();
        let mut child =
            self.command().args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Ended(child)
    }
}

/// A child that does not outlive its test.
struct Ended(Child);

impl Ended {
    /// Lets it read the end of its input, and waits.
    fn end(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        // Does nothing to one that was waited for.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

// ---------------------------------------------------------------- options

#[test]
fn each_option_does_what_it_says_with_users_of_ones_own_and_without() {
    let Some(environment) = environment() else { return };
    for users in ["auto", "host"] {
        let run = |option: &str, script: &str| {
            let volume = format!("SRC:/v{option}");
            environment.shown(&["--userns", users, "-v", &volume], script)
        };
        assert_eq!(run("", "cat /v/file"), "of the host\n", "{users}");
        assert_eq!(run(":ro", "touch /v/new 2>/dev/null || echo no"), "no\n", "{users}");
        assert_eq!(run(":rw", "touch /v/new && rm /v/new && echo yes"), "yes\n", "{users}");
        let options = "grep ' /v ' /proc/self/mountinfo | cut -d' ' -f6";
        for (option, has, lacks) in [
            ("", "nosuid,nodev", "noexec"),
            (":noexec", "noexec", "ro,"),
            (":nosuid,nodev", "nosuid,nodev", "noexec"),
            (":suid,dev", "rw", "nosuid"),
        ] {
            let found = run(option, options);
            assert!(found.contains(has) && !found.contains(lacks), "{users} {option}: {found}");
        }
        // A dynamic program finds no loader in this tree: that is 127, and a permission denied 126.
        let program = "/v/program > /dev/null 2>&1; test $? = 126 && echo refused || echo tried";
        assert_eq!(run(":noexec", program), "refused\n", "{users}");
        assert_eq!(run("", program), "tried\n", "{users}");
    }
}

#[test]
fn what_is_written_lies_on_disk_under_the_ids_it_has_inside() {
    let Some(environment) = environment() else { return };
    let script = "stat -c %u /v/file /v/mine; touch /v/by-root; chown me /v/by-root; touch /v/roots";
    assert_eq!(environment.shown(&["-v", "SRC:/v:idmap"], script), "0\n1000\n");
    assert_eq!(environment.owner("src/by-root"), (1000, 0));
    assert_eq!(environment.owner("src/roots"), (0, 0));
    assert_eq!(environment.shown(&["-v", "SRC:/v"], "stat -c %u /v/file"), "0\n", "the default");
    // Unmapped, the host's root is nobody, and nothing can be written in its directory.
    let unmapped = "stat -c %u /v/file; touch /v/x 2>/dev/null || echo no";
    assert_eq!(environment.shown(&["-v", "SRC:/v:noidmap"], unmapped), "65534\nno\n");
    let error = environment.refused(&["--userns", "host", "-v", "SRC:/v:idmap"]);
    assert!(error.contains("users of its own") && error.contains("--userns auto"), "{error}");
}

#[test]
fn a_file_system_that_cannot_map_is_said_and_an_error_where_it_was_asked_for() {
    let Some(environment) = environment() else { return };
    // OverlayFS cannot be id-mapped.
    let script = "
        mkdir $D/up $D/work $D/over; echo below > $D/src/seen
        mount -t tmpfs none $D/up; mkdir $D/up/u $D/up/w
        mount -t overlay none -o lowerdir=$D/src,upperdir=$D/up/u,workdir=$D/up/w $D/over
        $R -q run -v $D/over:/v base -- cat /v/seen
        $R -q run -v $D/over:/v:idmap base -- true && exit 1
        $R -q run -v $D/over:/v:O base -- true && exit 1
        $R -q run --userns host -v $D/over:/v:O base -- cat /v/seen";
    let ran = environment.script(script);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "below\nbelow\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("are nobody's inside"), "{}", ran.stderr);
    assert!(ran.stderr.contains("leave `idmap` out"), "{}", ran.stderr);
    assert!(ran.stderr.contains("use --userns host"), "{}", ran.stderr);
}

#[test]
fn everything_is_given_to_the_user_of_the_box_and_links_are_not_followed() {
    let Some(environment) = environment() else { return };
    fs::create_dir(environment.path("src/deep")).unwrap();
    fs::write(environment.path("src/deep/file"), "").unwrap();
    fs::write(environment.path("outside"), "").unwrap();
    symlink(environment.path("outside"), environment.path("src/deep/link")).unwrap();
    for (users, user, owner) in
        [("auto", "me:me", 1000), ("host", "root", 0), ("host", "7:7", 7), ("auto", "9:9", 9)]
    {
        let flags = ["--userns", users, "-u", user, "-v", "SRC:/v:U"];
        assert_eq!(
            environment.shown(&flags, "touch /v/deep/new; stat -c %u /v/deep/file"),
            format!("{owner}\n")
        );
        for path in ["src", "src/file", "src/deep", "src/deep/file", "src/deep/link", "src/deep/new"] {
            assert_eq!(environment.owner(path).0, owner, "{users} {user} {path}");
        }
    }
    assert_eq!(environment.owner("outside"), (0, 0));
    let error = environment.refused(&["-v", "/usr/share:/v:U"]);
    assert!(error.contains("is the system's"), "{error}");
}

#[test]
fn what_is_written_to_a_throw_away_layer_is_gone() {
    let Some(environment) = environment() else { return };
    let before = ran(Command::new("ls").arg("-lnR").arg(environment.path("src")).output().unwrap()).stdout;
    for users in ["auto", "host"] {
        let script = "
            rm /v/file; echo changed > /v/mine; mkdir /v/d; touch /v/d/new
            stat -c '%n %u' /v /v/mine /v/d; ls /v";
        let shown = environment.shown(&["--userns", users, "-v", "SRC:/v:O"], script);
        assert_eq!(shown, "/v 0\n/v/mine 1000\n/v/d 0\nd\nmine\nprogram\n", "{users}");
    }
    let after = ran(Command::new("ls").arg("-lnR").arg(environment.path("src")).output().unwrap()).stdout;
    assert_eq!(before, after);
    assert!(environment.refused(&["-v", "SRC/file:/v:O"]).contains("is a file"));
}

#[test]
fn read_only_reaches_what_is_mounted_in_the_source_and_bind_leaves_it_out() {
    let Some(environment) = environment() else { return };
    let script = "
        mkdir $D/src/below; mount -t tmpfs none $D/src/below; echo deep > $D/src/below/file
        for users in auto host; do
            $R -q run --userns $users -v $D/src:/v:ro base -- \
                sh -c 'cat /v/below/file; touch /v/below/new 2> /dev/null || echo no'
            $R -q run --userns $users -v $D/src:/v:bind base -- sh -c 'ls /v/below | wc -l'
            $R -q run --userns $users -v $D/src:/v -v $D/src/below:/v/file/../below:ro base -- true && exit 1
            $R -q run --userns $users -v $D/src:/v:ro -v $D/src/below:/v/below base -- \
                sh -c 'touch /v/below/new && echo yes; touch /v/new 2> /dev/null || echo no'
        done";
    let ran = environment.script(script);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (0, "deep\nno\n0\nyes\nno\n".repeat(2).as_str()),
        "{}",
        ran.stderr
    );
}

#[test]
fn later_mounts_of_the_host_show_where_they_were_asked_for() {
    let Some(environment) = environment() else { return };
    let script = "
        mount --bind $D/src $D/src; mount --make-shared $D/src; mkdir $D/src/later
        look='echo ready; read line; ls /v/later'
        for option in rprivate rslave; do
            mkfifo $D/in $D/out
            $R -q run -v $D/src:/v:$option base -- sh -c \"$look\" < $D/in > $D/out &
            exec 3> $D/in 4< $D/out
            read ready <&4
            mount -t tmpfs none $D/src/later; touch $D/src/later/$option
            echo >&3; cat <&4; wait
            exec 3>&- 4<&-; umount $D/src/later; rm $D/in $D/out
        done";
    assert_eq!(environment.script_ok(script), "rslave\n");
}

#[test]
fn memory_is_as_large_and_as_open_as_asked() {
    let Some(environment) = environment() else { return };
    let script = "
        stat -c %a /a /b /deep/in; touch /a/x
        dd if=/dev/zero of=/b/x bs=1k count=2000 2> /dev/null || echo full
        grep -c 'noexec' /proc/self/mountinfo > /dev/null; grep ' /b ' /proc/self/mountinfo | cut -d' ' -f6";
    let shown = environment.shown(
        &[
            "--tmpfs",
            "/a",
            "--tmpfs",
            "/b:size=1m,mode=700,exec",
            "--mount",
            "type=tmpfs,target=/deep/in,tmpfs-mode=750",
        ],
        script,
    );
    assert_eq!(shown, "1777\n700\n750\nfull\nrw,nosuid,nodev,relatime\n");
}

#[test]
fn a_part_of_a_source_is_found_within_it() {
    let Some(environment) = environment() else { return };
    fs::create_dir(environment.path("src/part")).unwrap();
    symlink("/part", environment.path("src/link")).unwrap();
    symlink("../../../../../etc", environment.path("src/out")).unwrap();
    fs::write(environment.path("src/part/here"), "").unwrap();
    let flag = |part: &str| format!("type=bind,source=SRC,target=/v,bind-subpath={part}");
    for part in ["part", "link", "./link/../part"] {
        assert_eq!(environment.shown(&["--mount", &flag(part)], "ls /v"), "here\n", "{part}");
    }
    let error = environment.refused(&["--mount", &flag("out")]);
    assert!(error.contains("No such file"), "{error}");
}

// ---------------------------------------------------------------- refusals

#[test]
fn what_cannot_be_shown_is_refused_with_a_sentence() {
    let Some(environment) = environment() else { return };
    let store = environment.store();
    let in_store = format!("{}/o:/v", store.display());
    for (volume, said) in [
        ("/:/v", "is the root of the machine"),
        ("/proc:/v", "a view of the kernel's state"),
        ("/sys/fs:/v", "a view of the kernel's state"),
        ("/proc/self/root:/v", "is the root of the machine"),
        (in_store.as_str(), "is in the store"),
        ("/dev/null:/v", "is a device"),
        ("SRC/nothing:/v", "mkdir -p"),
        ("SRC:/", "cannot mount on"),
        ("SRC:/proc/self", "cannot mount on"),
        ("SRC:/dev/shm", "cannot mount on"),
        ("SRC:/etc/../sys", "cannot mount on"),
        ("SRC:/etc/passwd", "a file cannot be shown over a directory: name"),
    ] {
        let error = environment.refused(&["-v", volume]);
        // A directory on a file.
        let said = if volume == "SRC:/etc/passwd" { "Not a directory" } else { said };
        assert!(error.contains(said), "{volume}: {error}");
    }
    let error = environment.refused(&["-v", "SRC/file:/etc"]);
    assert!(error.contains("a file cannot be shown over a directory"), "{error}");
    let error = environment.refused(&["-v", "SRC:/v", "--tmpfs", "/v"]);
    assert!(error.contains("two mounts on"), "{error}");
    let error = environment.refused(&["--read-only", "-v", "SRC:/missing"]);
    assert!(error.contains("Read-only file system") && error.contains("make the directory"), "{error}");
    let error = environment.refused(&["--net", "none", "--add-host", "me:host-gateway"]);
    assert!(error.contains("no gateway"), "{error}");
}

#[test]
fn mounts_are_settled_when_a_box_starts() {
    let Some(environment) = environment() else { return };
    environment.ok(["create", "base", "dev"]);
    let running = environment.start(&["exec", "dev", "--", "sh", "-c", "echo ready; cat"]);
    for flags in [["-v", "/tmp:/x"], ["--tmpfs", "/x"], ["--add-host", "a:1.2.3.4"]] {
        let error = environment.fails([&["exec"], &flags[..], &["dev", "--", "true"]].concat());
        assert!(error.contains("is settled when a box starts"), "{flags:?}: {error}");
    }
    running.end();
}

// ---------------------------------------------------------------- mount points

#[test]
fn mount_points_that_were_made_are_gone_afterwards_and_those_that_were_there_are_not() {
    let Some(environment) = environment() else { return };
    environment.ok(["create", "base", "dev"]);
    let tree = environment.json(["show", "dev"])["path"].as_str().unwrap().to_owned();
    let run = |flags: &[&str], script: &str| {
        let flags: Vec<String> = flags.iter().map(|flag| environment.named(flag)).collect();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        environment.run([&["-q", "exec"], flags.as_slice(), &["dev", "--", "sh", "-c", script]].concat())
    };
    for users in ["auto", "host"] {
        let flags = [
            "--userns",
            users,
            "-v",
            "SRC:/made/by/us",
            "-v",
            "SRC/file:/made/file",
            "--tmpfs",
            "/memory",
            "-v",
            "SRC:/root",
        ];
        let ran = run(&flags, "cat /made/by/us/file /made/file; ls -d /memory");
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (0, "of the host\nof the host\n/memory\n"),
            "{}",
            ran.stderr
        );
        let left = run(&["--userns", users], "ls -d /made /memory 2> /dev/null; ls -d /root");
        assert_eq!(left.stdout, "/root\n", "{users}");
        assert_eq!(environment.ok(["diff", "dev"]), "", "{users}");
        // Also where the box could not be made in the end.
        let failed = run(
            &[
                "--userns",
                users,
                "-v",
                "SRC:/made/a",
                "-v",
                "SRC:/made/b/etc/passwd/x",
                "-v",
                "SRC:/etc/passwd",
            ],
            "",
        );
        assert_eq!(failed.code, 125, "{}", failed.stderr);
        assert_eq!(environment.ok(["diff", "dev"]), "", "{users}");
    }
    // What somebody put into a mount point stays, with it.
    let in_parent = run(&["-v", "SRC:/made/by/us"], "echo kept > /made/by/note");
    assert_eq!(in_parent.code, 0, "{}", in_parent.stderr);
    assert_eq!(run(&[], "cat /made/by/note; ls /made/by").stdout, "kept\nnote\n");
    assert!(Path::new(&tree).is_dir());
}

#[test]
fn a_killed_runner_leaves_at_most_an_empty_mount_point() {
    let Some(environment) = environment() else { return };
    environment.ok(["create", "base", "dev"]);
    let mut running =
        environment.start(&["exec", "-v", "SRC:/made/here", "dev", "--", "sh", "-c", "echo ready; cat"]);
    running.0.kill().unwrap();
    running.0.wait().unwrap();
    assert_eq!(fs::read_to_string(environment.path("src/file")).unwrap(), "of the host\n");
    let left = environment.ok(["exec", "dev", "--", "find", "/made"]);
    assert_eq!(left, "/made\n/made/here\n");
    environment.ok(["fsck"]);
}

#[test]
fn hosts_and_hostname_are_generated_and_never_in_the_tree() {
    let Some(environment) = environment() else { return };
    symlink("../run/systemd/resolve/stub-resolv.conf", environment.path("root/etc/resolv.conf")).unwrap();
    environment.ok(["import", &format!("dir:{}", environment.path("root").display()), "linked"]);
    environment.ok(["create", "linked", "dev"]);
    let script = "cat /etc/hostname; grep -e db -e me.too /etc/hosts; cat /etc/resolv.conf";
    let flags = [
        "exec",
        "--hostname",
        "inside",
        "--add-host",
        "db:10.0.0.1",
        "--add-host",
        "me.too:host-gateway",
        "dev",
    ];
    let shown = environment.ok([&flags[..], &["--", "sh", "-c", script]].concat());
    let resolv = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    assert_eq!(shown, format!("inside\n10.0.0.1\tdb\n127.0.0.1\tme.too\n{resolv}"));
    assert_eq!(environment.ok(["diff", "dev"]), "");
    let tree = environment.json(["show", "linked"])["path"].as_str().unwrap().to_owned();
    let link = Path::new(&tree).join("etc/resolv.conf").read_link().unwrap();
    assert_eq!(link, Path::new("../run/systemd/resolve/stub-resolv.conf"));
}

// ---------------------------------------------------------------- volumes of the store

#[test]
fn a_volume_is_made_filled_used_kept_forked_restored_and_removed() {
    let Some(environment) = environment() else { return };
    life(&environment);
}

#[test]
fn volumes_live_on_every_file_system() {
    for (file_system, backend) in [("btrfs", "btrfs"), ("xfs", "reflink"), ("ext4", "copy")] {
        let Some(environment) = environment() else { return };
        if !can_make(file_system) {
            continue;
        }
        let script = format!(
            "
            disk {file_system}
            $R -q init > /dev/null; $R -q import dir:$D/root base > /dev/null
            inside() {{ $R -q run -v data:/etc base -- sh -c \"$1\"; }}
            inside 'cat /etc/group > /etc/seen; touch /etc/new; chown me /etc/new'
            $R volume snapshot data one
            inside 'rm /etc/new; echo later > /etc/seen'
            $R volume fork data@one two
            $R -q run -v two:/v base -- stat -c %u /v/new
            $R -q volume restore data one
            inside 'stat -c %u /etc/new; wc -l < /etc/seen'
            $R -q volume fork data@1 three; $R -q run -v three:/v base -- cat /v/seen
            $R --format json volume show data | grep backend
            $R volume rm --now data two three --snapshots > /dev/null
            $R -q volume ls; $R fsck > /dev/null; $R prune | cut -d, -f1; ls $D/fs/store/o | wc -l"
        );
        let ran = environment.script(&script);
        let expected = format!(
            "data@one\ntwo\n1000\n1000\n2\nthree\nlater\n  \"backend\": \"{backend}\",\nremoved 0 unreferenced objects\n1\n"
        );
        assert_eq!((ran.code, ran.stdout.as_str()), (0, expected.as_str()), "{file_system}: {}", ran.stderr);
    }
}

fn life(environment: &Environment) {
    fs::create_dir(environment.path("root/data")).unwrap();
    fs::write(environment.path("root/data/seed"), "of the image\n").unwrap();
    chown(environment.path("root/data"), Some(1000), Some(1000)).unwrap();
    environment.ok(["import", &format!("dir:{}", environment.path("root").display()), "filled"]);
    let run = |flags: &[&str], script: &str| {
        environment.ok([&["-q", "run"], flags, &["filled", "--", "sh", "-c", script]].concat())
    };
    // Made by its first use, with what the image has there, root's attributes included.
    assert_eq!(run(&["-v", "data:/data"], "cat /data/seed; stat -c %u /data"), "of the image\n1000\n");
    run(&["-v", "data:/data"], "echo changed > /data/seed; touch /data/more");
    assert_eq!(run(&["-v", "data:/other"], "cat /other/seed; ls /other"), "changed\nmore\nseed\n");
    // One that is empty is filled, unless it was not to be.
    environment.ok(["volume", "create", "empty"]);
    assert_eq!(run(&["-v", "empty:/data:nocopy"], "ls /data"), "");
    assert_eq!(run(&["-v", "empty:/data"], "ls /data"), "seed\n");
    run(&["-v", "empty:/data"], "rm /data/seed; touch /data/x");
    assert_eq!(run(&["-v", "empty:/data"], "ls /data"), "x\n");
    // Trees and volumes do not mix.
    let trees = environment.ok(["-q", "ls"]);
    assert_eq!(trees, "base\nfilled\n");
    assert!(environment.fails(["create", "base", "_volume/x"]).contains("is a volume's"));
    assert!(environment.fails(["show", "data"]).contains("there is no data"));
    let id = environment.json(["volume", "show", "data"])["id"].as_str().unwrap().to_owned();
    assert!(environment.fails(["fork", &id]).contains("is a volume"));
    // Snapshots, also while it is used; restoring takes it alone and loses nothing.
    assert_eq!(environment.ok(["volume", "snapshot", "data"]), "data@1\n");
    let running = environment.start(&[
        "run",
        "-v",
        "data:/data",
        "filled",
        "--",
        "sh",
        "-c",
        "echo live > /data/seed; echo ready; cat",
    ]);
    assert_eq!(environment.ok(["volume", "snapshot", "data", "live"]), "data@live\n");
    assert!(environment.fails(["volume", "restore", "data", "1"]).contains("in use"));
    assert!(environment.fails(["volume", "rm", "data"]).contains("volume data is in use by process"));
    assert_eq!(environment.json(["volume", "show", "data"])["in_use"], true);
    running.end();
    environment.ok(["volume", "restore", "data", "data@1"]);
    assert_eq!(run(&["-v", "data:/data"], "cat /data/seed"), "changed\n");
    assert_eq!(
        environment.json(["volume", "show", "data"])["snapshots"],
        serde_json::json!(["1", "2", "live"])
    );
    environment.ok(["volume", "fork", "data@2", "was"]);
    assert_eq!(run(&["-v", "was:/data"], "cat /data/seed"), "live\n");
    environment.ok(["volume", "fork", "was", "copy"]);
    assert_eq!(run(&["-v", "copy:/data"], "cat /data/seed"), "live\n");
    for (arguments, said) in [
        (&["volume", "restore", "data", "3"][..], "there is no snapshot data@3"),
        (&["volume", "restore", "data", "was@1"], "is no snapshot of data"),
        (&["volume", "snapshot", "data", "live"], "there is a snapshot data@live already"),
        (&["volume", "create", "data"], "there is a volume data already"),
        (&["volume", "fork", "data", "was"], "there is a volume was already"),
        (&["volume", "rm", "nothing"], "there is no volume nothing"),
        (&["volume", "create", "a/b"], "is not the name of a volume"),
    ] {
        let error = environment.fails(arguments);
        assert!(error.contains(said), "{arguments:?}: {error}");
    }
    // The snapshots outlive the volume; what is forked from one needs none of the others.
    environment.ok(["volume", "rm", "data"]);
    environment.ok(["volume", "fork", "data@live", "data"]);
    assert_eq!(run(&["-v", "data:/data"], "cat /data/seed"), "live\n");
    environment.ok(["volume", "rm", "data@1", "data@2", "data@live"]);
    assert_eq!(run(&["-v", "data:/data"], "cat /data/seed"), "live\n");
    environment.ok(["fsck"]);
    environment.ok(["prune"]);
    assert_eq!(run(&["-v", "data:/data"], "cat /data/seed"), "live\n");
    assert_eq!(environment.ok(["-q", "volume", "ls"]), "copy\ndata\nempty\nwas\n");
    environment.ok(["volume", "rm", "--now", "copy", "data", "empty", "was"]);
    environment.ok(["prune"]);
    environment.assert_tidy(&["base", "filled"]);
}

#[test]
fn nothing_is_made_where_it_is_only_printed() {
    let Some(environment) = environment() else { return };
    let plan = environment.json(["run", "--dry-run", "-v", "data:/v", "--tmpfs", "/t", "base", "--", "true"]);
    let sources = plan["sources"].as_array().unwrap();
    assert!(sources.iter().any(|source| source["path"] == "volume data"), "{sources:?}");
    assert_eq!(environment.ok(["-q", "volume", "ls"]), "");
}

#[test]
fn first_uses_at_the_same_time_make_one_volume() {
    let Some(environment) = environment() else { return };
    let started: Vec<Child> = (0..6)
        .map(|number| {
            let script = format!("test -e /etc/passwd && touch /etc/{number}");
            let mut command = environment.command();
            command.args(["-q", "run", "-v", "data:/etc", "base", "--", "sh", "-c", &script]);
            command.spawn().unwrap()
        })
        .collect();
    for mut child in started {
        assert!(child.wait().unwrap().success());
    }
    let listed = environment.ok(["run", "-v", "data:/v", "base", "--", "ls", "/v"]);
    for number in 0..6 {
        assert!(listed.lines().any(|line| line == number.to_string()), "{listed}");
    }
    environment.assert_tidy(&["_volume%2Fdata", "base"]);
}

/// Fault points that an operation passes, in order.
fn points(environment: &Environment, arguments: &[&str]) -> Vec<String> {
    let trace = environment.path("trace");
    let status = environment.command().args(arguments).env("ROOTLING_FAULT_TRACE", &trace).output().unwrap();
    assert!(status.status.success(), "{status:?}");
    fs::read_to_string(trace).unwrap().lines().map(str::to_owned).collect()
}

/// Does something with each point at which it can be killed, in a fresh store.
pub(crate) fn killed_at_each_point(
    prepare: fn(&Environment),
    arguments: &[&str],
    check: impl Fn(&Environment, &str),
) {
    let Some(undisturbed) = environment() else { return };
    prepare(&undisturbed);
    let points = points(&undisturbed, arguments);
    let telling = ["volume.filled", "volume.switched", "create.forked", "mark.written"];
    assert!(points.iter().any(|point| telling.contains(&point.as_str())), "{points:?}");
    for (index, point) in points.iter().enumerate() {
        let Some(environment) = environment() else { return };
        prepare(&environment);
        let nth = points[..=index].iter().filter(|other| *other == point).count();
        let fault = format!("{point}:{nth}");
        let killed =
            ran(environment.command().args(arguments).env("ROOTLING_FAULT", &fault).output().unwrap());
        assert_eq!(killed.code, 137, "{fault}: {}", killed.stderr);
        environment.ok(["fsck"]);
        check(&environment, &fault);
        environment.ok(["prune"]);
        environment.ok(["fsck"]);
        check(&environment, &fault);
    }
}

impl Environment {
    fn seed(&self, volume: &str) -> String {
        self.shown(&["-v", &format!("{volume}:/v:nocopy")], "cat /v/seed")
    }
}

#[test]
fn a_restore_that_is_killed_anywhere_leaves_the_old_or_the_new_and_loses_neither() {
    let prepare = |environment: &Environment| {
        environment.shown(&["-v", "data:/v"], "echo old > /v/seed");
        environment.ok(["volume", "snapshot", "data", "old"]);
        environment.shown(&["-v", "data:/v"], "echo new > /v/seed");
    };
    killed_at_each_point(prepare, &["volume", "restore", "data", "old"], |environment, fault| {
        let now = environment.seed("data");
        assert!(now == "old\n" || now == "new\n", "{fault}: {now}");
        let snapshots = environment.json(["volume", "show", "data"])["snapshots"].clone();
        let kept = snapshots.as_array().unwrap().iter().any(|label| label != "old");
        assert!(now == "new\n" || kept, "{fault}: what it held is lost: {snapshots}");
        // Saying it again works.
        environment.ok(["volume", "restore", "data", "old"]);
        assert_eq!(environment.seed("data"), "old\n", "{fault}");
    });
}

#[test]
fn a_first_use_that_is_killed_anywhere_leaves_no_half_filled_volume() {
    let prepare = |environment: &Environment| {
        environment.ok(["volume", "create", "empty"]);
    };
    for volume in ["new", "empty"] {
        let flag = format!("{volume}:/etc");
        killed_at_each_point(prepare, &["run", "-v", &flag, "base", "--", "true"], |environment, fault| {
            let made = environment.ok(["-q", "volume", "ls"]).lines().any(|line| line == volume);
            if made {
                let listed = environment.shown(&["-v", &format!("{volume}:/v:nocopy")], "ls /v");
                assert!(listed.is_empty() || listed == "group\npasswd\n", "{fault}: {listed}");
            }
            let used = environment.shown(&["-v", &flag], "ls /etc | grep -c -e group -e passwd");
            assert_eq!(used, "2\n", "{fault}");
        });
    }
}
