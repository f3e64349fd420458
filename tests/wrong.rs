//! Every command used wrong, and file systems that fail: the error says what, why and what to do, and nothing is left.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use crate::environment::{BINARY, Environment, is_root, tar_of};

#[test]
fn a_wrong_name_suggests_near_ones() {
    let environment = Environment::new();
    assert_eq!(
        environment.fails(["show", "base"]),
        "rootling: there is no base in store \"DIR/store\"\n  hint: the store is empty: begin with `rootling pull IMAGE` or `rootling import SOURCE NAME`\n"
    );
    assert!(environment.fails(["show", "-"]).contains("nothing was used yet"));
    environment.import_base();
    assert_eq!(environment.json(["show", "-"])["name"], "base");
    assert!(environment.fails(["create", "bsae", "dev"]).contains("hint: did you mean base?"));
    assert!(environment.fails(["show", "zzzzzz"]).contains("hint: `rootling ls` lists what there is"));
    assert!(environment.fails(["show", "base~3"]).contains("goes back further than base has parents"));
    assert!(environment.fails(["create", "tar:x", "dev"]).contains("hint: import it first"));
    let stderr = environment.fails(["import", "x.tar", "dev"]);
    assert!(
        stderr.contains("does not say what kind of place it is") && stderr.contains("tar:FILE"),
        "{stderr}"
    );
    assert!(environment.fails(["create", "base", "../x"]).contains("begin with a letter or digit"));
    environment.assert_tidy(&["base"]);
}

#[test]
fn a_taken_name_is_refused_before_any_work() {
    let environment = Environment::new();
    environment.import_base();
    environment.ok(["create", "base", "dev"]);
    for arguments in [["create", "base", "dev"], ["fork", "base", "dev"], ["commit", "dev", "base"]] {
        let stderr = environment.fails(arguments);
        assert!(stderr.contains("is taken") && stderr.contains("hint: choose another name"), "{stderr}");
    }
    environment.assert_tidy(&["base", "dev"]);
}

#[test]
fn arguments_that_are_no_text_are_a_wrong_use_and_no_crash() {
    let no_text = std::ffi::OsStr::from_bytes(b"\xff");
    let code = |verb| {
        let output = Command::new(BINARY).args([verb, "--no-such-flag"]).arg(no_text).output().unwrap();
        output.status.code()
    };
    assert_eq!((code("note"), code("exec")), (Some(2), Some(125)));
}

#[test]
fn what_others_stand_on_is_not_removed() {
    let environment = Environment::new();
    environment.import_base();
    environment.ok(["create", "base", "dev"]);
    let stderr = environment.fails(["rm", "--now", "base"]);
    assert!(
        stderr.contains("dev was made from base") && stderr.contains("hint: rm --now --force"),
        "{stderr}"
    );
    environment.ok(["rm", "--now", "--force", "base"]);
    assert_eq!(environment.ok(["diff", "dev"]), "", "it still stands");
    environment.ok(["rm", "--now", "dev"]);
    environment.assert_tidy(&[]);
    assert_eq!(
        fs::read_dir(environment.store().join("o")).unwrap().count(),
        0,
        "nothing needs the tree any more"
    );
}

#[test]
fn a_committed_tree_is_not_entered() {
    let environment = Environment::new();
    environment.import_base();
    let stderr = environment.fails(["commit", "base", "again"]);
    assert!(stderr.contains("base is committed already"), "{stderr}");
}

/// Each archive is refused with a sentence that names what is wrong, and leaves neither a name nor a tree.
#[test]
fn bad_archives_leave_nothing() {
    let environment = Environment::new();
    environment.import_base();
    let root = environment.path("root");
    fs::write(root.join("large"), vec![7_u8; 300_000]).unwrap();
    tar_of(&root, &environment.path("whole"), &[]);
    tar_of(&root, &environment.path("gz"), &["--gzip"]);
    let cut = |from: &str, to: &str, part: usize| {
        let bytes = fs::read(environment.path(from)).unwrap();
        fs::write(environment.path(to), &bytes[..bytes.len() * part / 10]).unwrap();
    };
    cut("whole", "cut", 5);
    cut("gz", "cut-gz", 5);
    fs::write(environment.path("bz2"), b"BZh91AY&SY0123456789").unwrap();
    fs::write(environment.path("text"), "this is no archive, whatever it is called").unwrap();
    fs::write(environment.path("empty"), "").unwrap();
    tar_of(
        &root,
        &environment.path("absolute"),
        &["--absolute-names", "--transform=s,^./etc/motd,/etc/motd,"],
    );
    tar_of(&root, &environment.path("dots"), &["--absolute-names", "--transform=s,^./etc/motd,../../motd,"]);
    for (archive, word) in [
        ("cut", "cut"),
        ("cut-gz", "archive"),
        ("bz2", "bzip2"),
        ("text", "neither tar"),
        ("empty", "empty"),
        ("absolute", "/etc/motd"),
        ("dots", "../../motd"),
    ] {
        let source = format!("tar:{}", environment.path(archive).display());
        let stderr = environment.fails(["import", &source, "bad"]);
        assert!(stderr.contains(word) && stderr.contains("import tar:DIR/"), "{archive}: {stderr}");
    }
    assert!(environment.fails(["import", "tar:/nowhere.tar", "bad"]).contains("/nowhere.tar"));
    assert!(environment.fails(["import", "dir:/nowhere", "bad"]).contains("/nowhere"));
    environment.assert_tidy(&["base"]);
    assert_eq!(fs::read_dir(environment.store().join("o")).unwrap().count(), 1);
}

#[test]
fn a_store_of_a_later_version_is_refused_with_a_sentence() {
    let environment = Environment::new();
    let format = environment.store().join("format");
    let text = fs::read_to_string(&format).unwrap();
    fs::write(&format, text.replace("\"version\": 1", "\"version\": 7")).unwrap();
    let stderr = environment.fails(["ls"]);
    assert!(stderr.contains("has version 7, which this program does not understand"), "{stderr}");
    assert!(stderr.contains("hint: use a newer rootling"));
    fs::write(&format, text.replace("\"incompatible\": []", "\"incompatible\": [\"verity\"]")).unwrap();
    assert!(environment.fails(["ls"]).contains("uses the feature \"verity\""));
    fs::write(&format, text.replace("\"read_only_compatible\": []", "\"read_only_compatible\": [\"x\"]"))
        .unwrap();
    environment.ok(["ls"]);
    assert!(environment.fails(["prune"]).contains("this program may only read it"));
    fs::write(&format, "{").unwrap();
    assert!(environment.fails(["ls"]).contains("is damaged"));
}

#[test]
fn a_missing_or_strange_store_is_not_made_by_accident() {
    let environment = Environment::new();
    let elsewhere = environment.path("typo");
    let stderr = environment.fails(["--root", elsewhere.to_str().unwrap(), "ls"]);
    assert!(stderr.contains("there is no store at") && stderr.contains("hint: make one"), "{stderr}");
    assert!(!elsewhere.exists());
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("thesis.tex"), "").unwrap();
    let stderr = environment.fails(["init", elsewhere.to_str().unwrap()]);
    assert!(stderr.contains("neither empty nor a store: it holds \"thesis.tex\""), "{stderr}");
    assert!(environment.fails(["init"]).contains("is a store already"));
}

#[test]
fn a_backend_that_cannot_work_here_says_why() {
    if !is_root() {
        return;
    }
    let environment = Environment::new();
    let script = "mkdir $D/t; mount -t tmpfs none $D/t; mkdir $D/t/s; $R init $D/t/s --backend btrfs";
    let ran = environment.script(script);
    assert_ne!(ran.code, 0);
    assert!(ran.stderr.contains("tmpfs, not btrfs"), "{}", ran.stderr);
    let script = "mkdir -p $D/u; mount -t tmpfs none $D/u; mkdir $D/u/s; $R init $D/u/s --backend reflink";
    assert!(environment.script(script).stderr.contains("FICLONE"));
}

#[test]
fn a_busy_store_says_who_holds_it() {
    let environment = Environment::new();
    let lock = fs::File::open(environment.store().join("lock")).unwrap();
    lock.lock().unwrap();
    let mut command = environment.command();
    let ran = crate::environment::ran(command.env("ROOTLING_LOCK_TIMEOUT", "1").arg("ls").output().unwrap());
    assert_eq!(ran.code, 1);
    let me = format!("is in use by process {}", std::process::id());
    assert!(ran.stderr.contains(&me) && ran.stderr.contains("waiting for"), "{}", ran.stderr);
    drop(lock);
    environment.ok(["ls"]);
}

#[test]
fn a_full_file_system_leaves_no_name_and_no_tree() {
    if !is_root() {
        return;
    }
    let environment = Environment::new();
    environment.import_base();
    fs::write(environment.path("root/large"), vec![7_u8; 6 << 20]).unwrap();
    tar_of(&environment.path("root"), &environment.path("large.tar"), &[]);
    let script = "mkdir $D/t; mount -t tmpfs -o size=4m none $D/t; mkdir $D/t/s; export ROOTLING_ROOT=$D/t/s
        $R -q init $D/t/s --backend copy
        for source in dir:$D/root tar:$D/large.tar; do
            if $R import $source x; then exit 9; fi; ls $D/t/s/n $D/t/s/o $D/t/s/tmp | grep -v :
        done; $R fsck";
    let ran = environment.script(script);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.stderr.matches("No space left on device").count(), 2, "{}", ran.stderr);
    assert!(ran.stderr.matches("large").count() >= 2, "the file is named: {}", ran.stderr);
    assert_eq!(ran.stderr.matches("hint:").count(), 2, "{}", ran.stderr);
    assert!(ran.stdout.trim().ends_with("0 objects, 0 names: clean"), "{}", ran.stdout);
}

#[test]
fn a_read_only_store_can_be_read() {
    if !is_root() {
        return;
    }
    let environment = Environment::new();
    environment.import_base();
    let script = "mount --bind $D/store $D/store; mount -o remount,bind,ro $D/store
        $R -q ls; $R fsck; $R create base dev";
    let ran = environment.script(script);
    assert_eq!(ran.code, 1);
    assert!(ran.stdout.starts_with("base\n1 objects, 1 names: clean"), "{}", ran.stdout);
    assert!(
        ran.stderr.contains("fork base as dev") && ran.stderr.contains("Read-only file system"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("hint:"), "{}", ran.stderr);
}

#[test]
fn too_few_file_descriptors_are_named() {
    let environment = Environment::new();
    environment.import_base();
    let script = format!("ulimit -n 6; exec {BINARY} import dir:{} more", environment.path("root").display());
    let command = Command::new("sh").args(["-c", &script]).env("ROOTLING_ROOT", environment.store()).output();
    let ran = crate::environment::ran(command.unwrap());
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("Too many open files") && ran.stderr.contains("hint:"), "{}", ran.stderr);
    // With so few descriptors even cleaning up fails: then it is the sweep's.
    environment.ok(["prune"]);
    environment.assert_tidy(&["base"]);
}

#[test]
fn a_loop_store_is_not_made_over_somebodys_files() {
    if !is_root() {
        return;
    }
    let environment = Environment::new();
    let place = environment.path("theirs");
    std::fs::create_dir(&place).unwrap();
    std::fs::write(place.join("store.img"), "precious").unwrap();
    let mode = || std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&place).unwrap()) & 0o7777;
    let before = mode();
    let error = environment.fails(["init", "--loop", "256M", &place.to_string_lossy()]);
    assert!(error.contains("neither empty nor a store") && error.contains("store.img"), "{error}");
    assert_eq!(std::fs::read_to_string(place.join("store.img")).unwrap(), "precious");
    assert_eq!(mode(), before);
}

#[test]
fn what_cannot_be_read_of_a_run_is_125_and_of_the_rest_2() {
    let environment = Environment::new();
    assert_eq!(environment.run(["run", "--userns", "bogus", "base", "--", "true"]).code, 125);
    assert_eq!(environment.run(["exec", "--pid", "", "base", "--", "true"]).code, 125);
    assert_eq!(environment.run(["ls", "--bogus"]).code, 2);
    assert_eq!(environment.run(["run", "--help"]).code, 0);
}
