//! Contexts that would have files read or written elsewhere, secrets and who could see them, and builds of ordinary users.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Built, Project};
use crate::environment::{ran, tar_of};
use crate::guest::{Ids, guest};
use crate::lab::eventually;
use crate::oci::Tar;

/// What is outside of everything, and must be neither read nor written.
const OUTSIDE: &str = "SECRET-OF-THE-HOST";

fn outside(project: &Project) -> std::path::PathBuf {
    let outside = project.environment.path("outside");
    fs::create_dir_all(&outside).unwrap();
    super::write(&outside.join("file"), OUTSIDE);
    outside
}

fn untouched(outside: &Path) {
    assert_eq!(super::lines(outside), format!("f 644 0:0 file = {OUTSIDE}\n"));
}

#[test]
fn links_of_a_context_lead_nowhere_else() {
    let Some(project) = Project::new() else { return };
    let outside = outside(&project);
    symlink(outside.join("file"), project.path("absolute")).unwrap();
    symlink("../outside/file", project.path("relative")).unwrap();
    symlink("../outside", project.path("directory")).unwrap();
    symlink("/etc", project.path("etc")).unwrap();
    project.write("inside/a", "a");
    symlink("inside", project.path("to_inside")).unwrap();
    for source in [
        "absolute",
        "relative",
        "directory/file",
        "../outside/file",
        "etc/hostname",
        "inside/../../outside/file",
        "inside/../directory/file",
    ] {
        for word in ["COPY", "ADD"] {
            let recipe = format!("FROM base\n{word} {source} /got\n");
            project.write("Dockerfile", recipe);
            let built = project.build(&["-t", "x"]);
            let text = || fs::read_to_string(project.exported("x").join("got")).unwrap_or_default();
            assert!(built.ran.code != 0 || !text().contains(OUTSIDE), "{word} {source}");
            assert!(
                built.ran.code != 0
                    || text() != fs::read_to_string("/etc/hostname").unwrap_or_else(|_| "x".into())
            );
        }
        let recipe = format!("FROM base\nRUN --mount=source={source},target=/m cat /m\n");
        project.write("Dockerfile", recipe);
        let built = project.build(&[]);
        assert!(!built.said.contains(OUTSIDE), "mount of {source}");
    }
    project.write("Dockerfile", "FROM base\nCOPY to_inside/a /a\nCOPY . /all\nRUN cat /all/absolute /all/relative /all/directory/file 2>/dev/null; true\n");
    let built = project.build(&["-t", "x"]).succeeded();
    assert_eq!((built.said.as_str(), project.cat("x", "a").as_str()), ("", "a"));
    let links = super::lines(&project.exported("x").join("all"));
    assert!(links.contains("l 777 0:0 relative -> ../outside/file"), "links are copied as links: {links}");
    untouched(&outside);
}

#[test]
fn links_of_the_tree_keep_copies_in_the_tree() {
    let Some(project) = Project::new() else { return };
    let outside = outside(&project);
    project.write("a", "mine").write("d/file", "mine");
    tar_of(&project.path("d"), &project.path("t.tar"), &[]);
    let up = "../".repeat(20);
    let recipe = format!(
        "FROM base\nRUN ln -s {up}{out} /up; ln -s {out} /abs; ln -s {out}/file /file; mkdir /w; ln -s {up} /w/root\n\
        COPY a /up/a\nCOPY d /abs\nCOPY a /file\nADD t.tar /up/\nCOPY --parents d/file /w/root{out}\nWORKDIR /abs/new\nCOPY a ../../../../../../..{out}/b\n",
        out = outside.display()
    );
    project.built(&recipe, &["-t", "x"]);
    untouched(&outside);
    let tree = project.exported("x");
    let inside = tree.join(outside.strip_prefix("/").unwrap());
    assert_eq!(fs::read_to_string(inside.join("a")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(inside.join("file")).unwrap(), "mine");
    assert!(inside.join("new").is_dir() && inside.join("b").is_file());
    project.assert_clean();
}

#[test]
fn names_in_archives_lead_nowhere_else() {
    let Some(project) = Project::new() else { return };
    let outside = outside(&project);
    let out = outside.display().to_string();
    let up = format!("{}{out}", "../".repeat(20));
    let archives = [
        ("dots", Tar::default().file(&format!("{up}/dots"), "x")),
        ("absolute", Tar::default().file(&format!("{out}/absolute"), "x")),
        ("link", Tar::default().symlink("l", &out).file("l/link", "x")),
        ("links", Tar::default().symlink("l", &up).symlink("l/m", "/").file("l/file", "x")),
        ("hard", Tar::default().link("hard", &format!("{up}/file")).file("hard", "x")),
        ("through", Tar::default().symlink("l", &format!("{out}/file")).file("l", "x")),
        (
            "inner",
            Tar::default()
                .dir("d/")
                .symlink("d/l", "../../../../../../..")
                .link("h", &format!("d/l{out}/file")),
        ),
    ];
    for (name, archive) in archives {
        let bytes = archive.file("Dockerfile", "FROM base\nCOPY . /x\nADD x.tar /y/\n").end();
        project.write("x.tar", &bytes);
        // In the context, to be unpacked.
        project.write("Dockerfile", "FROM base\nADD x.tar /y/\nRUN cat /y/hard /y/h 2>/dev/null; true\n");
        let built = project.build(&[]);
        assert!(!built.said.contains(OUTSIDE), "{name}");
        untouched(&outside);
        // As the context.
        let mut command = project.command(&["-"]);
        let output = command.stdin(fs::File::open(project.path("x.tar")).unwrap()).output().unwrap();
        let built = Built::of(ran(output));
        assert!(!built.ran.stderr.contains("panicked"), "{}", built.ran.stderr);
        untouched(&outside);
    }
    project.assert_clean();
}

/// Ends what runs beside a test, also where the test fails.
struct EndAtLast<'a>(&'a AtomicBool);

impl Drop for EndAtLast<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_context_that_changes_while_it_is_read_gives_nothing_of_elsewhere() {
    let Some(project) = Project::new() else { return };
    let outside = outside(&project);
    for number in 0..40 {
        project.write(&format!("d/{number}/file"), "mine");
    }
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (real, aside) = (project.path("d/20"), project.environment.path("aside"));
            while !ended.load(Ordering::Relaxed) {
                fs::rename(&real, &aside).unwrap();
                symlink(&outside, &real).unwrap();
                fs::remove_file(&real).unwrap();
                fs::rename(&aside, &real).unwrap();
            }
        });
        project.write("Dockerfile", "FROM base\nCOPY d /d\nCOPY d/20/file /one\n");
        let _end = EndAtLast(&ended);
        for _ in 0..15 {
            let built = project.build(&["-t", "x", "--no-cache"]);
            if built.ran.code == 0 {
                let tree = project.exported("x");
                for entry in walkdir::WalkDir::new(tree.join("d")).into_iter().flatten() {
                    let is_file = entry.file_type().is_file();
                    assert!(!is_file || fs::read_to_string(entry.path()).unwrap() == "mine");
                }
                assert_eq!(fs::read_to_string(tree.join("one")).unwrap(), "mine");
            }
        }
    });
    let found =
        ran(Command::new("grep").args(["-rl", OUTSIDE]).arg(project.environment.store()).output().unwrap());
    assert_eq!(found.stdout, "");
    untouched(&outside);
    project.assert_clean();
}

/// Processes that have a text among their arguments or in their environment, but this one.
fn who_shows(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        for file in ["cmdline", "environ"] {
            let bytes = fs::read(entry.path().join(file)).unwrap_or_default();
            if bytes.windows(text.len()).any(|part| part == text.as_bytes()) {
                found.push(format!(
                    "{file} of {name}: {}",
                    String::from_utf8_lossy(&fs::read(entry.path().join("cmdline")).unwrap_or_default())
                ));
            }
        }
    }
    found
}

#[test]
fn secrets_are_seen_by_their_step_and_nobody_else() {
    let Some(project) = Project::new() else { return };
    // Not as one text in this file, which is in the environment's backtraces and the like.
    let (first, second) = (format!("hunter-{}", "2-of-a-file"), format!("hunter-{}", "3-of-the-environment"));
    let file = project.environment.path("secret");
    fs::write(&file, &first).unwrap();
    let flag = format!("id=one,src={}", file.display());
    let recipe = "FROM base\nRUN --mount=type=secret,id=one --mount=type=secret,id=two,target=/two,mode=0400,uid=1000 \
        sha256sum < /run/secrets/one > /sum; stat -c %a:%u /two >> /sum; grep -c . /two >> /sum; sleep 3\n\
        RUN --mount=type=secret,id=two,env=TWO test -n \"$TWO\" && test ! -e /run/secrets/two; ls /run /two 2>&1 | wc -l > /after; env | grep -c HUNTER; true\n\
        RUN test -z \"$TWO\" && test ! -e /two && test ! -s /run/secrets/one\n";
    project.write("Dockerfile", recipe);
    let mut command = project.command(&["-t", "x", "--secret", &flag, "--secret", "id=two,env=HUNTER", "."]);
    command.env("HUNTER", &second).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let sleeps = || {
        let text = ran(Command::new("sh")
            .args(["-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '"])
            .output()
            .unwrap())
        .stdout;
        text.contains("sleep 3 ")
    };
    eventually("the step runs", sleeps);
    let shown = who_shows(&first);
    assert!(shown.is_empty(), "{shown:?}");
    // Who was given it in the environment has it there, and hands it to nobody.
    let own = child.id().to_string();
    let shown: Vec<String> =
        who_shows(&second).into_iter().filter(|line| !line.contains(&format!("of {own}:"))).collect();
    assert!(shown.is_empty(), "{shown:?}");
    let built = Built::of(ran(child.wait_with_output().unwrap())).succeeded();
    assert!(!built.ran.stderr.contains("hunter-"), "{}", built.ran.stderr);
    assert!(project.cat("x", "sum").contains("400:1000\n1\n"), "{}", project.cat("x", "sum"));
    for name in ["x", "@fail"] {
        project.environment.run(["history", "--no-trunc", name]);
    }
    project.environment.ok(["save", "-o", project.environment.path("x.tar").to_str().unwrap(), "x"]);
    let place = project.environment.dir.path();
    for text in [&first, &second] {
        let found = ran(Command::new("grep").args(["-rlaF", text]).arg(place).output().unwrap());
        let found: Vec<&str> = found.stdout.lines().filter(|path| Path::new(path) != file).collect();
        assert!(found.is_empty(), "{found:?}");
    }
    assert_eq!(built.did().len(), 3);
    project.assert_clean();
}

#[test]
fn a_step_has_the_walls_of_a_box() {
    let Some(project) = Project::new() else { return };
    let recipe = "FROM base\nRUN for try in 'mount -t tmpfs x /tmp' 'mknod /dev/sdz b 8 0' 'hostname other' 'echo 1 > /proc/sys/kernel/sysrq' 'dmesg' 'chroot /proc/1/root'; do \
        sh -c \"$try\" > /dev/null 2>&1 && echo \"could: $try\"; done; ps | wc -l; cat /proc/self/status | grep Seccomp:; true\n";
    let built = project.built(recipe, &[]);
    assert!(!built.said.contains("could:"), "{}", built.said);
    assert!(built.said.contains("Seccomp:\t2"), "{}", built.said);
    let insecure = project.built(
        "FROM base\nRUN --security=insecure mount -t tmpfs x /tmp && echo could\n",
        &["--allow", "security.insecure"],
    );
    assert!(insecure.said.contains("could"), "{}", insecure.said);
}

/// What an ordinary user does: all that root does.
const LIFE: &str = "
    $R -q import tar:$D/root.tar base > /dev/null; mkdir context; cd context; echo a > a; mkdir d; tar cf t.tar a
    printf 'FROM base AS one\nRUN id -u > /id; chown me:me /etc/motd\nFROM base\nARG A=1\nENV B=$A\nWORKDIR /w\nCOPY --from=one /id /etc/motd ./\nCOPY --chown=me a /a\nADD t.tar /t/\nRUN --mount=type=cache,target=/k --mount=target=/c --mount=type=secret,id=s cat /c/a /run/secrets/s > /seen; mkdir -m 777 /all\nUSER me\nRUN id -u > /all/me\n' > Dockerfile
    echo sec > $D/sec
    $R -q build -t x --secret id=s,src=$D/sec . > /dev/null
    $R -q build -t x --secret id=s,src=$D/sec --progress json . 2>&1 > /dev/null | grep -c cached
    $R -q run --user root x -- sh -c 'cat /w/id /seen /all/me /t/a; stat -c %U /a /w/motd'
    printf 'FROM base\nRUN touch /left; exit 1\n' > Dockerfile; $R -q build . 2> /dev/null || $R -q enter @fail -- ls /left
    $R -q save -o $D/x.tar x; $R -q fsck --verify > /dev/null; ls $ROOTLING_ROOT/tmp $ROOTLING_ROOT/trash | grep -v : | grep . || echo empty";

#[test]
fn ordinary_users_build() {
    for ids in [Ids::Range, Ids::All] {
        let Some(guest) = guest(ids) else { return };
        tar_of(
            &guest.dir.path().join("root"),
            &guest.dir.path().join("root.tar"),
            &["--owner=0", "--group=0"],
        );
        let ran = guest.script_after("chmod 777 $D", &format!("$R -q init > /dev/null; cd $D\n{LIFE}"));
        let printed = "6\n0\na\nsec\n1000\na\nme\nme\n/left\nempty\n";
        assert_eq!((ran.stdout.as_str(), ran.code), (printed, 0), "{ids:?}: {}", ran.stderr);
    }
}
