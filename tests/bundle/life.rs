//! A bundle made, refused, cut short and taken away.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::environment::{Environment, is_root};

#[test]
fn what_is_there_already_is_not_touched_and_what_fails_leaves_nothing() {
    if !is_root() {
        return;
    }
    let environment = Environment::new();
    environment.import_base();
    let no_text = environment.path("b").into_os_string();
    let no_text = [no_text.as_bytes(), b"\xff"].concat();
    let no_text = OsStr::from_bytes(&no_text);
    let arguments: Vec<&OsStr> = ["bundle", "--name", "b", "base"].map(OsStr::new).into_iter().collect();
    let stderr = environment.fails([arguments, vec![no_text]].concat());
    assert!(stderr.contains("is not UTF-8"), "{stderr}");
    assert!(!Path::new(no_text).exists());
    let inside = environment.store().join("b").to_string_lossy().into_owned();
    let at = |name: &str| environment.path(name).to_string_lossy().into_owned();
    fs::create_dir(environment.path("full")).unwrap();
    fs::write(environment.path("full/file"), "mine").unwrap();
    fs::create_dir(environment.path("empty")).unwrap();
    fs::write(environment.path("file"), "mine").unwrap();
    let refused: &[(&[&str], &str)] = &[
        (&["base", &at("full")], "is not empty"),
        (&["base", &at("file")], "file"),
        (&["base", &at("no/such/place")], "mkdir(\"DIR/no/such/place\")"),
        (&["base", &at("no/such/place")], "make it first: mkdir -p DIR/no/such\n"),
        (&["base", &inside], "it is in the store"),
        (&["bsae", &at("b")], "did you mean base?"),
        (&["--user", "nobody", "base", &at("b")], "no user \"nobody\""),
        (&["--user", "nobody", "base", &at("empty")], "no user \"nobody\""),
        (&["--name", "base", "base", &at("b")], "the name base is taken"),
        (&["--hostname", "a b", "base", &at("b")], "bad host name"),
        (&["-v", "/no/../where", "base", &at("b")], "-v"),
        (&["--device", "/etc/passwd:/dev/x", "base", &at("b")], "is no device"),
        (&["-v", "/no/such:/x", "base", &at("b")], "make it first: mkdir -p /no/such"),
        (&["-v", "/:/x", "base", &at("b")], "is the root of the machine"),
        (&["-v", "/proc/sys:/x", "base", &at("b")], "is a view of the kernel's state"),
        (&["-v", "/dev/null:/x", "base", &at("b")], "show it with --device"),
        (&["--sysctl", "vm.swappiness=1", "base", &at("b")], "is not the box's own"),
    ];
    for (arguments, says) in refused {
        let stderr = environment.fails([&["bundle"], *arguments].concat());
        assert!(stderr.contains(says), "{arguments:?}: {stderr}");
        assert!(!environment.path("b").exists(), "{arguments:?}");
    }
    assert!(!Path::new(&inside).exists());
    assert_eq!(fs::read_to_string(environment.path("full/file")).unwrap(), "mine");
    assert_eq!(fs::read_dir(environment.path("empty")).unwrap().count(), 0);
    environment.assert_tidy(&["base"]);
}

#[test]
fn what_another_runtime_cannot_be_told_is_refused_by_name() {
    if !is_root() {
        return;
    }
    let environment = Environment::new();
    environment.import_base();
    fs::create_dir(environment.path("src")).unwrap();
    let source = environment.path("src").to_string_lossy().into_owned();
    let mount = |option: &str| format!("{source}:/src:{option}");
    let part = "type=volume,source=data,target=/data,volume-subpath=x";
    let refused: &[(&[&str], &str, &str)] = &[
        (&["--net", "private"], "--net private: no other runtime connects a network", "ns:/run/netns/NAME"),
        (&["--net", "bridge"], "--net bridge", "ns:/run/netns/NAME"),
        (&["-p", "8080:80"], "--publish 127.0.0.1:8080 -> 80/tcp", "--net host"),
        (&["--userns", "auto"], "--userns auto", "leave it out"),
        (&["--userns", "keep-id"], "--userns keep-id", "leave it out"),
        (&["--userns", "box:x"], "--userns box", "leave it out"),
        (&["--security-opt", "landlock=on"], "Landlock", "leave out"),
        (&["-v", &mount("O")], "\"O\" of \"/src\"", "volume create"),
        (&["-v", &mount("U")], "\"U\" of \"/src\"", "chown"),
        (&["-v", &mount("idmap")], "owners can only be mapped", "leave `idmap` out"),
        (&["--mount", part], "\"volume-subpath\" of \"/data\"", "the whole volume"),
        (&["--detach"], "unexpected argument '--detach'", "bundle"),
        (&["--keep", "x"], "unexpected argument '--keep'", "bundle"),
    ];
    let directory = environment.path("b").to_string_lossy().into_owned();
    for (flags, says, hint) in refused {
        let stderr = environment.fails([&["bundle"], *flags, &["base", &directory]].concat());
        assert!(stderr.contains(says) && stderr.contains(hint), "{flags:?}: {stderr}");
        assert!(!Path::new(&directory).exists(), "{flags:?}");
    }
    let names = environment.ok(["-q", "volume", "ls"]);
    for name in names.lines() {
        environment.ok(["volume", "rm", name]);
    }
    // A namespace of a box that runs is there only as long as the box.
    let running = "$R -q run -d --name up base2 -- /bin/sleep 100 > $D/id";
    if environment.import_busybox_as("base2") {
        for flag in ["--net", "--pid", "--ipc", "--uts", "--cgroupns"] {
            let script = format!(
                "{running}; $R bundle {flag} box:up base $D/b 2>&1 || {{ $R -q kill up; $R -q wait up || true; }}"
            );
            let printed = environment.script_ok(&script);
            assert!(printed.contains("namespace of a running box"), "{flag}: {printed}");
        }
        environment.ok(["rm", "--now", "base2"]);
    }
    let stderr = environment.fails(["bundle", "--rm", &directory, "--memory", "1g"]);
    assert!(stderr.contains("--memory means nothing to --rm"), "{stderr}");
    environment.assert_tidy(&["base"]);
}

#[test]
fn a_bundle_has_a_name_and_can_be_made_again_and_brought_back() {
    if !is_root() {
        return;
    }
    let environment = Environment::new();
    environment.import_base();
    let script = r#"mkdir $D/x; cd $D/x; $R -q bundle base . > $D/id; $R -q ls --boxes; ls -A; stat -c '%a' config.json files ..//x
        cd $D; $R -q bundle --name other base y > $D/id; $R -q rename other another; touch y/mine; $R bundle --rm y 2>&1 | grep -o 'stays.*'
        ls y; rm -r y; $R -q bundle --rm x; $R -q bundle base x > $D/id; $R -q ls --boxes; $R -q bundle --rm x; $R -q undelete x
        $R show x | grep -c bundle || true; $R -q bundle base x > $D/id; $R -q ls --boxes; $R -q bundle --rm x; $R -q ls --boxes
        $R bundle --rm x 2>&1 | grep -o 'No such.*'; mkdir z; echo > z/file; $R bundle --rm z 2>&1 | grep -o 'is not a bundle.*'; ls z; rm -r z
        $R -q bundle base x > $D/id; $R lock x-2; $R bundle --rm x 2>&1 | grep -o 'is locked'; ls x/rootfs/etc; $R unlock x-2; $R -q bundle --rm x
        $R -q bundle --format json base x | grep -v '"id"' | sed "s,$D,DIR,"; $R -q bundle --rm x; $R -q rm --now x; $R -q prune --removed > $D/pruned"#;
    let expected = "x\nconfig.json\nfiles\nrootfs\n600\n700\n755\n\
        stays: Directory not empty (os error 39)\nmine\nx\nx\n0\nx\nx-2\nx\nNo such file or directory (os error 2)\n\
        is not a bundle of this store\nfile\nis locked\nhostname\nmotd\n\
        {\n  \"bundle\": \"DIR/x\",\n  \"rootfs\": \"DIR/x/rootfs\",\n  \"config\": \"DIR/x/config.json\",\n  \"name\": \"x-2\",\n}\n";
    assert_eq!(environment.script_ok(script), expected);
    environment.assert_tidy(&["base"]);
}

#[test]
fn others_cannot_reach_what_would_make_them_root() {
    if !is_root() {
        return;
    }
    let environment = Environment::new();
    environment.import_base();
    let script = r#"mkdir -m 755 $D/open; $R bundle --privileged base $D/open 2>&1 | grep -E -o 'others may enter|chmod 700'; ls -A $D/open
        $R -q bundle base $D/open > $D/id; grep " $D/open/rootfs " /proc/self/mountinfo | grep -o nosuid,nodev; $R -q bundle --rm $D/open
        $R -q bundle --privileged base $D/closed > $D/id; stat -c %a $D/closed
        grep " $D/closed/rootfs " /proc/self/mountinfo | grep -c -E 'nosuid|nodev' || true; $R -q bundle --rm $D/closed
        $R -q prune --removed > $D/pruned"#;
    assert_eq!(environment.script_ok(script), "others may enter\nchmod 700\nnosuid,nodev\n700\n0\n");
    environment.assert_tidy(&["base"]);
}

/// Each step of making a bundle and of taking it away: a second call takes away what is left, and the store is whole.
#[test]
fn a_kill_between_any_two_steps_leaves_what_can_be_taken_away() {
    if !is_root() || !cfg!(debug_assertions) {
        return;
    }
    let environment = Environment::new();
    environment.import_base();
    let points = |command: &str| -> Vec<String> {
        let script = format!(
            "$R -q bundle base $D/b > $D/id; rm -f $D/trace; ROOTLING_FAULT_TRACE=$D/trace $R -q {command}; cat $D/trace
            test ! -e $D/b || $R -q bundle --rm $D/b; $R -q prune --removed > $D/pruned"
        );
        let script = script.replacen(
            "$R -q bundle base $D/b > $D/id",
            if command.contains("--rm") { "$R -q bundle base $D/b > $D/id" } else { ":" },
            1,
        );
        environment.script_ok(&script).lines().filter(|line| line.contains('.')).map(str::to_owned).collect()
    };
    let making = points("bundle base $D/b");
    let taking = points("bundle --rm $D/b");
    assert!(making.iter().any(|point| point == "bundle.mounted"), "{making:?}");
    assert!(taking.iter().any(|point| point == "bundle.retired"), "{taking:?}");
    for (index, point) in making.iter().enumerate() {
        let nth = making[..=index].iter().filter(|other| *other == point).count();
        let script = format!(
            "set +e; ROOTLING_FAULT={point}:{nth} $R -q bundle base $D/b > $D/id; test $? = 137 || exit 1; set -e
            $R bundle base $D/b 2>&1 | grep -c 'is not empty'
            $R -q fsck > $D/fsck; $R -q bundle --rm $D/b; test ! -e $D/b; $R -q ls --boxes; $R -q bundle base $D/b > $D/id; $R -q bundle --rm $D/b
            $R -q prune --removed > $D/pruned; grep $D/b /proc/self/mountinfo || true"
        );
        assert_eq!(environment.script_ok(&script), "1\n", "making, {point}:{nth}");
        environment.assert_tidy(&["base"]);
    }
    for (index, point) in taking.iter().enumerate() {
        let nth = taking[..=index].iter().filter(|other| *other == point).count();
        let script = format!(
            "$R -q bundle base $D/b > $D/id; set +e; ROOTLING_FAULT={point}:{nth} $R -q bundle --rm $D/b; test $? = 137 || exit 1; set -e
            $R -q fsck > $D/fsck; test ! -e $D/b || $R -q bundle --rm $D/b; test ! -e $D/b; for name in $($R -q ls --boxes); do $R -q rm $name; done
            $R -q prune --removed > $D/pruned; grep $D/b /proc/self/mountinfo || true"
        );
        assert_eq!(environment.script_ok(&script), "", "taking away, {point}:{nth}");
        environment.assert_tidy(&["base"]);
    }
}
