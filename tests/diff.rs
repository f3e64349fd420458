//! `diff` as a person would use it, on btrfs, XFS and ext4, so with each of the three kinds of boxes.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use crate::environment::{Environment, with_usual_umask};
use crate::grounds::on_file_systems;
use crate::host::command;

/// Runs a story on a file system of each sort, with the box `dev` of a small tree.
fn on_each(story: fn(&Environment)) {
    on_file_systems(|environment, _| {
        environment.import_base();
        environment.ok(["create", "base", "dev"]);
        story(environment);
    });
}

/// Changes a box as whoever mounts it would.
fn edit(environment: &Environment, name: &str, change: impl FnOnce(&Path)) {
    let at = environment.path("mounted");
    fs::create_dir_all(&at).unwrap();
    environment.ok(["mount", name, at.to_str().unwrap()]);
    change(&at);
    with_usual_umask(&at);
    environment.ok(["umount", at.to_str().unwrap()]);
}

#[test]
fn any_two_states_are_compared() {
    on_each(|environment| {
        edit(environment, "dev", |root| fs::write(root.join("etc/first"), "1\n").unwrap());
        environment.ok(["commit", "dev", "one"]);
        edit(environment, "dev", |root| {
            fs::write(root.join("etc/second"), "2\n").unwrap();
            fs::remove_file(root.join("etc/motd")).unwrap();
        });
        environment.ok(["commit", "dev", "two"]);
        edit(environment, "dev", |root| fs::remove_dir_all(root.join("var")).unwrap());
        environment.ok(["create", "one", "other"]);
        edit(environment, "other", |root| fs::write(root.join("etc/second"), "other\n").unwrap());

        let diff = |words: &[&str]| environment.ok([&["diff"], words].concat());
        assert_eq!(diff(&["dev"]), "D /var/\n", "since the last state");
        assert_eq!(diff(&["dev~2..dev~1"]), "D /etc/motd\nA /etc/second\n");
        assert_eq!(diff(&["two"]), "D /etc/motd\nA /etc/second\n", "what a state changed");
        assert_eq!(diff(&["base", "dev"]), "A /etc/first\nD /etc/motd\nA /etc/second\nD /var/\n");
        assert_eq!(diff(&["..dev"]), diff(&["base..dev"]), "since the box was made");
        assert_eq!(diff(&["dev~2.."]), "D /etc/motd\nA /etc/second\nD /var/\n");
        assert_eq!(diff(&["dev..one"]), "A /etc/motd\nD /etc/second\nA /var/\nA /var/log/\n", "backwards");
        assert_eq!(diff(&["other..dev"]), "D /etc/motd\nC /etc/second\nD /var/\n", "of different boxes");
        assert_eq!(diff(&["base"]), "", "nothing came before an import");
        assert_eq!(diff(&["dev..dev"]), "");

        assert_eq!(diff(&["base..dev", "/etc/second", "var/log"]), "A /etc/second\nD /var/\n");
        assert_eq!(diff(&["base", "dev", "etc", "--", "nowhere"]).lines().count(), 3);
        assert_eq!(diff(&["base..dev", "--", "/nowhere"]), "");
        let refused = environment.fails(["diff", "base..dev", "two-typed-wrong"]);
        assert!(refused.contains("neither a tree nor a path"), "{refused}");
        assert!(environment.fails(["diff", "base..dev", "/etc/../.."]).contains("does not stay in the tree"));
        assert!(environment.fails(["diff", "..base"]).contains("made from nothing"));
        assert!(environment.fails(["diff", "--stat", "--packages", "dev"]).contains("cannot be used with"));
    });
}

#[test]
fn what_a_view_cannot_do_is_refused() {
    on_each(|environment| {
        edit(environment, "dev", |root| fs::write(root.join("etc/motd"), "hello\n").unwrap());
        for words in [&["--packages", "dev", "etc"][..], &["--packages", "dev", "--", "/etc"]] {
            let refused = environment.fails([&["diff"], words].concat());
            assert!(refused.contains("--packages compares all packages"), "{refused}");
        }
        for flags in [["--packages", "--times"], ["-U1", "--packages"], ["-U1", "--stat"]] {
            let refused = environment.fails([&["diff", "dev"], &flags[..]].concat());
            assert!(refused.contains("cannot be used with"), "{refused}");
        }
        assert_eq!(
            environment.ok(["diff", "-U1", "dev"]),
            environment.ok(["diff", "-p", "-U1", "dev"]),
            "lines around changes are those of a patch"
        );
    });
}

#[test]
fn the_exit_code_says_whether_something_differs_if_it_is_asked_to() {
    on_each(|environment| {
        let code = |words: &[&str]| environment.run([&["diff", "--exit-code"], words].concat()).code;
        assert_eq!(code(&["dev"]), 0);
        edit(environment, "dev", |root| fs::write(root.join("etc/motd"), "hello\n").unwrap());
        assert_eq!(code(&["dev"]), 1);
        assert_eq!(code(&["dev", "-q"]), 1);
        assert_eq!(code(&["missing"]), 2);
        assert_eq!(code(&["dev", "--json"]), 1);
        assert_eq!(code(&["dev", "--", "usr"]), 0);
        assert_eq!(code(&["dev", "--packages"]), 0, "no package differs");
        assert_eq!(environment.run(["diff", "dev"]).code, 0);
    });
}

/// A box in which everything that can differ does.
fn change_all(environment: &Environment) {
    edit(environment, "dev", |root| {
        fs::write(root.join("etc/motd"), "welcome\nback\n").unwrap();
        fs::write(root.join("etc/blob"), b"a\0b").unwrap();
        fs::set_permissions(root.join("usr/bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
        chown(root.join("etc/hostname"), Some(1), Some(2)).unwrap();
        fs::remove_file(root.join("bin")).unwrap();
        symlink("usr/sbin", root.join("bin")).unwrap();
        fs::remove_dir_all(root.join("var")).unwrap();
        fs::write(root.join("var"), "a file now").unwrap();
        fs::create_dir(root.join("srv")).unwrap();
        fs::write(root.join(std::ffi::OsStr::from_bytes(b"srv/new\nline")), "x\n").unwrap();
    });
}

#[test]
fn a_link_has_the_mode_that_git_gives_it() {
    on_each(|environment| {
        edit(environment, "dev", |root| symlink("motd", root.join("etc/link")).unwrap());
        let patch = environment.ok(["diff", "dev", "--content"]);
        assert_eq!(
            patch,
            "diff --git a/etc/link b/etc/link\nnew file mode 120000\n--- /dev/null\n+++ b/etc/link\n@@ -0,0 +1 @@\n\
            +motd\n\\ No newline at end of file\n"
        );
    });
}

#[test]
fn texts_are_shown_as_a_patch_that_git_takes() {
    on_each(|environment| {
        edit(environment, "dev", |root| fs::write(root.join("var/log/old"), "gone\n").unwrap());
        environment.ok(["commit", "dev", "before"]);
        change_all(environment);
        let patch = environment.ok(["diff", "dev", "--content"]);
        let expected = "\
diff --git a/bin b/bin
--- a/bin
+++ b/bin
@@ -1 +1 @@
-usr/bin
\\ No newline at end of file
+usr/sbin
\\ No newline at end of file
diff --git a/etc/blob b/etc/blob
new file mode 100644
Binary files /dev/null and b/etc/blob differ
# /etc/hostname: owner 0:0 -> 1:2
diff --git a/etc/motd b/etc/motd
--- a/etc/motd
+++ b/etc/motd
@@ -1 +1,2 @@
 welcome
+back
# /srv: new directory mode 0755 owner 0:0
diff --git \"a/srv/new\\012line\" \"b/srv/new\\012line\"
new file mode 100644
--- /dev/null
+++ \"b/srv/new\\012line\"
@@ -0,0 +1 @@
+x
diff --git a/usr/bin/tool b/usr/bin/tool
old mode 100644
new mode 100755
# /var: deleted directory mode 0755 owner 0:0
diff --git a/var b/var
new file mode 100644
--- /dev/null
+++ b/var
@@ -0,0 +1 @@
+a file now
\\ No newline at end of file
# /var/log: deleted directory mode 0755 owner 0:0
diff --git a/var/log/old b/var/log/old
deleted file mode 100644
--- a/var/log/old
+++ /dev/null
@@ -1 +0,0 @@
-gone
";
        assert_eq!(patch, expected);
        // Only what is text: git has no place for the binary file in such a patch.
        let patch = environment.ok(["diff", "dev", "-p", "--", "etc/motd", "srv", "usr"]);
        let work = environment.path("work");
        fs::create_dir_all(work.join("etc")).unwrap();
        fs::create_dir_all(work.join("usr/bin")).unwrap();
        fs::write(work.join("etc/motd"), "welcome\n").unwrap();
        fs::write(work.join("usr/bin/tool"), "#!/bin/sh\necho tool\n").unwrap();
        fs::write(environment.path("patch"), patch).unwrap();
        command(Command::new("git").current_dir(&work).args(["apply", "../patch"])).unwrap();
        with_usual_umask(&work);
        assert_eq!(fs::read_to_string(work.join("etc/motd")).unwrap(), "welcome\nback\n");
        assert_eq!(fs::read_to_string(work.join("srv/new\nline")).unwrap(), "x\n");
        assert_eq!(fs::metadata(work.join("usr/bin/tool")).unwrap().permissions().mode() & 0o777, 0o755);
        let none = environment.ok(["diff", "dev", "-U0", "--content", "etc/motd"]);
        assert!(none.ends_with("@@ -1,0 +2 @@\n+back\n"), "{none}");
    });
}

#[test]
fn files_are_listed_with_letters_lines_and_a_summary() {
    on_each(|environment| {
        change_all(environment);
        let letters = environment.ok(["diff", "dev", "--name-status"]);
        let expected = "M\tbin\nA\tetc/blob\nM\tetc/hostname\nM\tetc/motd\nA\tsrv/\nA\tsrv/new\\nline\nM\tusr/bin/tool\nT\tvar\n";
        assert_eq!(letters, expected);
        let plain = environment.ok(["diff", "dev", "-q"]);
        assert_eq!(plain.lines().nth(1), Some("/etc/blob"));
        let stat = environment.ok(["diff", "dev", "--stat"]);
        let expected = r"
 bin           |   2 +-
 etc/blob      | Bin 0 -> 3 bytes
 etc/hostname  |   0 owner
 etc/motd      |   1 +
 srv/new\nline |   1 +
 usr/bin/tool  |   0 mode
 var           |   0 type
 +2 ~5 -0 files, directories +1 -1, 28 B
";
        assert_eq!(stat, &expected[1..]);
    });
}

#[test]
fn documents_tell_what_was_and_what_is() {
    on_each(|environment| {
        change_all(environment);
        let document = environment.json(["diff", "dev"]);
        let changes = document.as_array().unwrap();
        let of = |path: &str| changes.iter().find(|change| change["path"] == path).unwrap();
        assert_eq!(of("usr/bin/tool")["aspects"], serde_json::json!({"mode": true}));
        assert_eq!(of("usr/bin/tool")["old"]["mode"], "0644");
        assert_eq!(of("usr/bin/tool")["new"]["mode"], "0755");
        assert_eq!(of("etc/hostname")["new"]["gid"], 2);
        assert_eq!(of("etc/motd")["new"]["size_bytes"], 13);
        assert!(of("etc/motd")["old"]["modified"].is_string());
        assert_eq!(of("bin")["old"]["link_target"], "usr/bin");
        assert_eq!(
            (&of("etc/blob")["old"], &of("etc/blob")["kind"]),
            (&serde_json::Value::Null, &"added".into())
        );
        assert_eq!(
            (&of("var")["old"]["type"], &of("var")["new"]["type"]),
            (&"directory".into(), &"file".into())
        );
        let lines = environment.json(["diff", "dev", "--stat"]);
        let motd = lines.as_array().unwrap().iter().find(|change| change["path"] == "etc/motd").unwrap();
        assert_eq!(motd["lines"], serde_json::json!({"added": 1, "removed": 0}));
        let patches: serde_json::Value =
            serde_json::from_str(&environment.ok(["diff", "dev", "--json", "--content", "etc/motd"]))
                .unwrap();
        assert!(patches[0]["patch"].as_str().unwrap().ends_with("\n welcome\n+back\n"));
        assert_eq!(environment.ok(["diff", "dev", "--json", "--", "nowhere"]), "[]\n");
    });
}

#[test]
fn packages_that_came_went_and_changed_are_listed() {
    on_each(|environment| {
        let status = |packages: &[(&str, &str)]| -> String {
            let stanza = |(name, version): &(&str, &str)| {
                format!(
                    "Package: {name}\nStatus: install ok installed\nInstalled-Size: 2048\nArchitecture: all\nVersion: {version}\n\n"
                )
            };
            packages.iter().map(stanza).collect()
        };
        let write = |packages: &[(&str, &str)]| {
            let text = status(packages);
            edit(environment, "dev", move |root| {
                fs::create_dir_all(root.join("var/lib/dpkg")).unwrap();
                fs::write(root.join("var/lib/dpkg/status"), text).unwrap();
            });
        };
        let none = environment.run(["diff", "dev", "--packages"]);
        assert_eq!((none.code, none.stdout.as_str()), (0, ""));
        assert!(none.stderr.contains("neither has a package database"), "{}", none.stderr);
        write(&[("bash", "5.1-2"), ("gone", "1"), ("lib", "2.0")]);
        environment.ok(["commit", "dev", "before"]);
        write(&[("bash", "5.2~rc1-1"), ("lib", "1.9"), ("new", "3:1")]);
        let expected = "\
CHANGE      PACKAGE  ARCH  OLD    NEW        SIZE     BY
upgraded    bash     all   5.1-2  5.2~rc1-1  2.0 MiB  dpkg
removed     gone     all   1      -          2.0 MiB  dpkg
downgraded  lib      all   2.0    1.9        2.0 MiB  dpkg
added       new      all   -      3:1        2.0 MiB  dpkg
";
        assert_eq!(environment.ok(["diff", "dev", "--packages"]), expected);
        assert_eq!(environment.ok(["diff", "dev", "--packages", "-q"]), "bash\ngone\nlib\nnew\n");
        let document = environment.json(["diff", "dev", "--packages"]);
        assert_eq!(document[0]["change"], "upgraded");
        assert_eq!(document[3]["new_size_bytes"], 2 << 20);
        let stat = environment.ok(["diff", "dev", "--stat"]);
        assert!(stat.ends_with(" +0 ~1 -0 files, packages +1 ~2 -1, 292 B\n"), "{stat}");
    });
}

#[test]
fn what_is_large_or_no_text_is_only_said_to_differ() {
    on_each(|environment| {
        edit(environment, "dev", |root| fs::write(root.join("large"), "line\n".repeat(2 << 20)).unwrap());
        environment.ok(["commit", "dev", "before"]);
        edit(environment, "dev", |root| {
            fs::write(root.join("large"), "line!\n".repeat(2 << 20)).unwrap();
            // A hundred thousand lines, each of them moved: time must not be the square of that.
            let lines = |first: u32| {
                (0..100_000).map(|line| format!("{}\n", (line * 7 + first) % 99_991)).collect::<String>()
            };
            fs::write(root.join("etc/lines"), lines(1)).unwrap();
        });
        let patch = environment.ok(["diff", "dev", "--content"]);
        assert!(patch.contains("Binary files a/large and b/large differ\n"));
        assert!(patch.contains("@@ -0,0 +1,100000 @@\n"));
        let stat = environment.ok(["diff", "dev", "--stat", "large"]);
        assert!(stat.starts_with(" large | Bin 10485760 -> 12582912 bytes\n"), "{stat}");
    });
}
