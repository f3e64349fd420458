//! `cp`: into boxes, out of them, between them; and trees that would have it write or read elsewhere.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crate::environment::Environment;
use crate::guest::{Ids, guest};

/// A box `dev`, and on the host `d/` with a file, a link and a directory in it.
fn environment(backend: &str) -> Option<Environment> {
    let environment = Environment { dir: tempfile::tempdir().unwrap() };
    environment.ok(["init", "--backend", backend]);
    if !environment.import_busybox() {
        return None;
    }
    environment.ok(["-q", "create", "base", "dev"]);
    let d = environment.path("d");
    fs::create_dir_all(d.join("sub")).unwrap();
    fs::write(d.join("file"), "text\n").unwrap();
    fs::set_permissions(d.join("file"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::write(d.join("sub/deep"), "deep\n").unwrap();
    symlink("file", d.join("link")).unwrap();
    std::os::unix::fs::chown(d.join("file"), Some(1000), Some(1001)).unwrap();
    Some(environment)
}

impl Environment {
    /// Runs `cp` with `D` standing for the test's directory.
    fn cp(&self, arguments: &[&str]) {
        self.ok(self.cp_words(arguments));
    }

    fn cp_fails(&self, arguments: &[&str]) -> String {
        self.fails(self.cp_words(arguments))
    }

    fn cp_words(&self, arguments: &[&str]) -> Vec<String> {
        let dir = self.dir.path().to_string_lossy().into_owned();
        let path = |text: &&str| match text.strip_prefix("D/") {
            Some(rest) => format!("{dir}/{rest}"),
            None => (*text).to_owned(),
        };
        ["-q".to_owned(), "cp".to_owned()].into_iter().chain(arguments.iter().map(path)).collect()
    }

    fn sh(&self, script: &str) -> String {
        self.ok(["-q", "exec", "dev", "--", "sh", "-c", script])
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn what_is_copied_lands_where_docker_would_put_it() {
    for backend in ["overlay", "copy"] {
        let Some(environment) = environment(backend) else { return };
        environment.sh("mkdir /in");
        // A file: under its own name into a directory, else as the name given.
        environment.cp(&["D/d/file", "dev:/in"]);
        environment.cp(&["D/d/file", "dev:/in/other"]);
        environment.cp(&["D/d/sub/deep", "dev:/in/other"]);
        assert_eq!(environment.sh("ls /in; cat /in/file /in/other"), "file\nother\ntext\ndeep\n");
        // A directory: under its own name, as a new one, or only what is in it.
        environment.cp(&["D/d", "dev:/in"]);
        environment.cp(&["D/d", "dev:/in/new"]);
        environment.cp(&["D/d/.", "dev:/in/new/sub"]);
        assert_eq!(environment.sh("ls /in /in/d"), "/in:\nd\nfile\nnew\nother\n\n/in/d:\nfile\nlink\nsub\n");
        assert_eq!(environment.sh("ls /in/new/sub; readlink /in/d/link"), "deep\nfile\nlink\nsub\nfile\n");
        // Several, which need a directory.
        environment.cp(&["D/d/file", "D/d/sub", "dev:/tmp"]);
        assert_eq!(environment.sh("ls /tmp"), "file\nsub\n");
        // And back.
        environment.cp(&["dev:/in/d", "D/back"]);
        assert_eq!(names(&environment.path("back")), ["file", "link", "sub"]);
        environment.cp(&["dev:/in/d/file", "dev:/in/d/sub/deep", "D/back/sub"]);
        assert_eq!(names(&environment.path("back/sub")), ["deep", "file"]);
        environment.cp(&["base:/bin/busybox", "D/busybox"]);
        assert_eq!(fs::metadata(environment.path("busybox")).unwrap().mode() & 0o777, 0o755);
        environment.cp(&["-L", "dev:/in/d/link", "D/followed"]);
        assert!(environment.path("followed").symlink_metadata().unwrap().is_file());
        // From box to box, and within one.
        environment.ok(["-q", "create", "base", "two"]);
        environment.cp(&["dev:/in/d", "two:/tmp"]);
        environment.cp(&["dev:/in/d", "dev:/copied"]);
        assert_eq!(environment.ok(["-q", "exec", "two", "--", "ls", "/tmp/d"]), "file\nlink\nsub\n");
        assert_eq!(environment.sh("cat /copied/sub/deep"), "deep\n");
        environment.assert_tidy(&["base", "dev", "two"]);
    }
}

#[test]
fn what_cannot_be_copied_is_refused_with_a_reason() {
    let Some(environment) = environment("overlay") else { return };
    environment.sh("mkdir -p /in/file; touch /plain");
    for (arguments, said) in [
        (&["D/d", "D/e"][..], "neither SOURCE nor TARGET is in a box"),
        (&["D/missing", "dev:/in"], "there is no "),
        (&["dev:/missing", "D/x"], "there is no dev:/missing"),
        (&["D/d/file", "dev:/in/"], "is a directory"),
        (&["D/d/file", "dev:/none/"], "dev:/none/ is no directory"),
        (&["D/d/file", "dev:/none/x"], "none"),
        (&["D/d/file", "D/d/link", "dev:/plain"], "dev:/plain is no directory"),
        (&["D/d/file/", "dev:/in"], "is no directory"),
        (&["D/d", "dev:/plain"], "is there and is no directory"),
        (&["D/d/file", "base:/x"], "base is committed"),
        (&["D/d/file", "nobody:/x"], "there is no nobody in store"),
        (&["dev:/in", "dev:/in/below"], "lies in what is copied to it"),
    ] {
        let error = environment.cp_fails(arguments);
        assert!(error.contains(said), "{arguments:?}: {error}");
    }
    assert!(!environment.path("e").exists());
}

#[test]
fn owners_are_roots_in_a_box_and_yours_outside_unless_the_archive_is_kept() {
    for (backend, users) in [("overlay", "auto"), ("copy", "auto"), ("overlay", "host")] {
        let Some(environment) = environment(backend) else { return };
        let file = environment.path("d/file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o6755)).unwrap();
        fs::hard_link(&file, environment.path("d/same")).unwrap();
        let sparse = fs::File::create(environment.path("d/sparse")).unwrap();
        sparse.set_len(64 << 20).unwrap();
        // Both ways into the tree: through a mount of ours, and through that of the box that runs.
        let copies = |kind: &str| {
            environment.cp(&["D/d", &format!("dev:/{kind}-plain")]);
            environment.cp(&["-a", "D/d", &format!("dev:/{kind}-kept")]);
            environment.cp(&[&format!("dev:/{kind}-kept"), &format!("D/{kind}-plain")]);
            environment.cp(&["-a", &format!("dev:/{kind}-kept"), &format!("D/{kind}-kept")]);
        };
        copies("still");
        environment.ok(["-q", "start", "--userns", users, "dev", "--", "sleep", "100"]);
        copies("live");
        environment.ok(["-q", "kill", "dev"]);
        environment.ok(["wait", "dev"]);
        for kind in ["still", "live"] {
            let inside = environment.sh(&format!(
                "stat -c '%u:%g %a %h' /{kind}-plain/file /{kind}-kept/file; stat -c %b /{kind}-kept/sparse"
            ));
            assert_eq!(inside, "0:0 755 1\n1000:1001 6755 2\n0\n", "{backend} {users} {kind}");
            let outside = |name: &str| {
                let meta = environment.path(&format!("{kind}-{name}/file")).metadata().unwrap();
                (meta.uid(), meta.gid(), meta.mode() & 0o7777, meta.nlink())
            };
            assert_eq!(outside("plain"), (0, 0, 0o755, 1), "{backend} {users} {kind}");
            assert_eq!(outside("kept"), (1000, 1001, 0o6755, 2), "{backend} {users} {kind}");
            let times = |path: &str| environment.path(path).metadata().unwrap().modified().unwrap();
            assert_eq!(times(&format!("{kind}-plain/file")), times("d/file"));
        }
    }
}

#[test]
fn a_box_that_runs_shows_what_it_has_mounted_and_is_not_disturbed() {
    let Some(environment) = environment("overlay") else { return };
    environment.ok(["-q", "set", "dev", "-v", "data:/d"]);
    environment.ok([
        "-q",
        "start",
        "dev",
        "--",
        "sh",
        "-c",
        "until cat /d/file; do sleep 0.01; done; sleep 100",
    ]);
    environment.cp(&["D/d/file", "dev:/d"]);
    environment.cp(&["D/d/file", "dev:/etc/new"]);
    environment.cp(&["dev:/d/file", "D/out"]);
    assert_eq!(environment.sh("cat /etc/new; stat -c %u /etc/new"), "text\n0\n");
    environment.ok(["-q", "kill", "dev"]);
    environment.ok(["wait", "dev"]);
    assert_eq!(environment.ok(["-q", "run", "-v", "data:/d", "base", "--", "cat", "/d/file"]), "text\n");
    assert_eq!(environment.ok(["diff", "dev"]), "A /etc/new\n");
    assert_eq!(fs::read_to_string(environment.path("out")).unwrap(), "text\n");
    environment.ok(["fsck"]);
}

#[test]
fn devices_stay_where_they_are_unless_root_asks_for_them() {
    let Some(environment) = environment("overlay") else { return };
    let made = environment
        .script("mkdir $D/dev; mknod $D/dev/zero c 1 5; mkfifo $D/dev/pipe; $R cp -a $D/dev dev:/kept");
    assert_eq!(made.code, 0, "{}", made.stderr);
    let error = environment.cp_fails(&["dev:/kept/zero", "D/zero"]);
    assert!(error.contains("is a device") && error.contains("--archive"), "{error}");
    // A pipe is a pipe, and nobody waits for its other end.
    environment.cp(&["dev:/kept/pipe", "D/pipe"]);
    environment.cp(&["-a", "dev:/kept/zero", "D/zero"]);
    assert_eq!(environment.path("zero").metadata().unwrap().mode() & libc::S_IFMT, libc::S_IFCHR);
}

// ---------------------------------------------------------------- attacks

#[test]
fn links_in_a_tree_lead_to_the_tree_and_never_to_the_host() {
    for running in [false, true] {
        let Some(environment) = environment("overlay") else { return };
        fs::write(environment.path("secret"), "of the host\n").unwrap();
        let host = environment.dir.path().display().to_string();
        environment.sh(&format!(
            "mkdir -p /in /real /out; ln -s {host} /abs; ln -s ../../../../../../..{host} /rel; ln -s {host}/secret /in/leak
            ln -s {host} /in/dir; ln -s /real /in/own; ln -s /proc/1/root /magic"
        ));
        if running {
            environment.ok(["-q", "start", "dev", "--", "sleep", "100"]);
        }
        // Reading through them finds nothing of the host, and links come out as links.
        for path in ["dev:/abs/secret", "dev:/rel/secret", "dev:/magic/etc/hostname"] {
            let error = environment.cp_fails(&[path, "D/got"]);
            assert!(!environment.path("got").exists(), "{path}: {error}");
        }
        environment.cp_fails(&["-L", "dev:/in/leak", "D/got"]);
        assert!(!environment.path("got").exists());
        environment.cp(&["dev:/in", "D/got"]);
        assert!(environment.path("got/leak").symlink_metadata().unwrap().is_symlink());
        // Writing through them changes nothing on the host.
        environment.cp_fails(&["D/d/file", "dev:/abs/secret"]);
        environment.cp(&["D/d/file", "dev:/in/own/file"]);
        environment.cp(&["D/d/file", "dev:/in/leak"]);
        assert_eq!(environment.sh("cat /real/file; test -h /in/leak || cat /in/leak"), "text\ntext\n");
        assert_eq!(fs::read_to_string(environment.path("secret")).unwrap(), "of the host\n");
        // A directory that is copied in meets a link of its name, and does not go through it.
        fs::create_dir_all(environment.path("into/dir")).unwrap();
        fs::write(environment.path("into/dir/planted"), "").unwrap();
        let error = environment.cp_fails(&["D/into/.", "dev:/in"]);
        assert!(error.contains("is there and is no directory"), "{error}");
        assert!(!environment.path("planted").exists());
        if running {
            environment.ok(["-q", "kill", "dev"]);
        }
    }
}

/// What is copied out is made below the place that was named: links there that came with an earlier copy, or that somebody left, are not
/// gone through.
#[test]
fn links_outside_are_replaced_and_not_written_through() {
    let Some(environment) = environment("overlay") else { return };
    environment.sh("mkdir -p /out/sub; echo evil > /out/file; echo evil > /out/sub/file");
    fs::create_dir_all(environment.path("victim")).unwrap();
    fs::write(environment.path("victim/file"), "precious\n").unwrap();
    let out = environment.path("got/out");
    fs::create_dir_all(&out).unwrap();
    symlink(environment.path("victim/file"), out.join("file")).unwrap();
    symlink(environment.path("victim"), out.join("sub")).unwrap();
    let error = environment.cp_fails(&["dev:/out", "D/got"]);
    assert!(error.contains("is there and is no directory"), "{error}");
    fs::remove_file(out.join("sub")).unwrap();
    environment.cp(&["dev:/out", "D/got"]);
    assert!(out.join("file").symlink_metadata().unwrap().is_file());
    assert_eq!(fs::read_to_string(environment.path("victim/file")).unwrap(), "precious\n");
    // Where the last name is a link to a file, it goes and the file stays.
    symlink(environment.path("victim/file"), environment.path("last")).unwrap();
    environment.cp(&["dev:/out/file", "D/last"]);
    assert_eq!(fs::read_to_string(environment.path("victim/file")).unwrap(), "precious\n");
    // The user's own word is followed to a directory.
    symlink(environment.path("victim"), environment.path("mine")).unwrap();
    environment.cp(&["dev:/out/sub", "D/mine"]);
    assert_eq!(names(&environment.path("victim")), ["file", "sub"]);
}

/// A process in the box swaps a directory for a link to a place of the host, as fast as it can, while files are copied in and out.
#[test]
fn who_swaps_directories_for_links_meanwhile_gains_nothing() {
    let Some(environment) = environment("overlay") else { return };
    let host = environment.dir.path().display().to_string();
    fs::create_dir(environment.path("canary")).unwrap();
    fs::write(environment.path("canary/secret"), "of the host\n").unwrap();
    environment
        .sh(&format!("mkdir -p /a/swap {host}; ln -s {host}/canary /a/link; echo own > /a/swap/secret"));
    environment.ok([
        "-q",
        "start",
        "dev",
        "--",
        "sh",
        "-c",
        "cd /a; touch /up; while :; do mv swap was; mv link swap; mv swap link; mv was swap; done",
    ]);
    environment.script_ok("until $R exec dev -- test -e /up; do :; done");
    let (mut read, mut written) = (0, 0);
    for number in 0..60 {
        let out = format!("D/out-{number}");
        if environment.run(environment.cp_words(&["dev:/a/swap/secret", &out])).code == 0 {
            let path = environment.path(&format!("out-{number}"));
            assert_eq!(fs::read_to_string(path).unwrap(), "own\n", "the host's file was read");
            read += 1;
        }
        let target = format!("dev:/a/swap/planted-{number}");
        written += u32::from(environment.run(environment.cp_words(&["D/d/file", &target])).code == 0);
        let tree = environment.run(environment.cp_words(&["D/d", "dev:/a"]));
        assert!(tree.code == 0 || !tree.stderr.is_empty());
        assert_eq!(names(&environment.path("canary")), ["secret"], "something was written to the host");
    }
    environment.ok(["-q", "kill", "dev"]);
    // The attack was one: now and then the directory was there, and now and then it was not.
    assert!(read > 0 && written > 0, "{read} read, {written} written");
}

#[test]
fn a_tree_of_any_depth_is_copied_with_few_open_files() {
    let Some(environment) = environment("overlay") else { return };
    environment.sh("cd /; for i in $(seq 1500); do mkdir d; cd d || exit 1; done; echo end > end");
    let copied = environment.script("ulimit -n 64; $R -q cp dev:/d $D/deep && cd $D/deep && find . | wc -l");
    assert_eq!((copied.stdout.trim(), copied.code), ("1501", 0), "{}", copied.stderr);
}

// ---------------------------------------------------------------- as a user

#[test]
fn a_user_copies_in_and_out_whether_the_box_runs_or_not() {
    for ids in [Ids::Range, Ids::None] {
        let Some(guest) = guest(ids) else { return };
        let printed = guest.ok(
            "$R -q init > /dev/null; $R -q import dir:$D/root base > /dev/null; $R -q create base dev > /dev/null
            cd $D; mkdir d; echo text > d/file; $R cp d dev:/in; $R -q exec dev -- stat -c %u /in/file
            $R -q start dev -- sh -c 'touch /up; exec sleep 60' > /dev/null; until $R cp dev:/up . 2> /dev/null; do :; done
            $R cp d dev:/live; $R -q exec dev -- stat -c %u /live/file; $R cp -a dev:/live out; stat -c %u out out/file
            $R -q kill dev; $R -q wait dev > /dev/null || true; $R cp dev:/etc/motd .; cat motd",
        );
        let id = guest.id;
        assert_eq!(printed, format!("0\n0\n{id}\n{id}\ndev\nwelcome\n"), "{ids:?}");
    }
    let Some(guest) = guest(Ids::Range) else { return };
    let printed = guest.ok(
        "$R -q init > /dev/null; $R -q import dir:$D/root base > /dev/null; $R -q create --userns keep-id base dev > /dev/null
        cd $D; $R -q start dev -- sh -c 'touch /tmp/up; exec sleep 60' > /dev/null; until $R cp dev:/tmp/up . 2> /dev/null; do :; done
        $R cp up dev:/tmp/in; $R -q exec dev -- stat -c %u /tmp/in; $R -q top dev | grep -c .; $R -q kill dev",
    );
    assert!(printed.starts_with(&format!("{}\n", guest.id)), "{printed}");
}
