//! Where files come from: directories with what is left out, archives, repositories, images.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use super::{Built, Project};
use crate::environment::{found, ran, skip, tar_of};

#[test]
fn what_is_left_out_is_not_there_for_copies_and_mounts() {
    let Some(project) = Project::new() else { return };
    project
        .write("a", "a")
        .write("b.log", "b")
        .write("d/c.log", "c")
        .write("d/keep.log", "keep")
        .write("d/secret", "s");
    project.write(".dockerignore", "# comment\n**/*.log\n!d/keep.log\nd/secret\nDockerfile\n.dockerignore\n");
    project.built("FROM base\nCOPY . /x\nRUN --mount=target=/m cd /m; find . | sort > /seen\n", &["-t", "x"]);
    assert_eq!(
        project.added("x"),
        "f 644 0:0 seen = .|./a|./d|./d/keep.log\nd 755 0:0 x\nf 644 0:0 x/a = a\nd 755 0:0 x/d\nf 644 0:0 x/d/keep.log = keep\n"
    );
    let said = project.refused("FROM base\nCOPY d/secret /\n", &[]);
    assert!(said.contains(".dockerignore"), "{said}");
}

#[test]
fn an_archive_is_a_context() {
    let Some(project) = Project::new() else { return };
    project
        .write("Dockerfile", "FROM base\nCOPY a /a\nADD d /d\n")
        .write("a", "one")
        .write("d/e", "two")
        .write("My", "FROM base\nCOPY a /my\n");
    for (name, options) in [("c.tar", &[][..]), ("c.tgz", &["-z"]), ("c.txz", &["-J"])] {
        let archive = project.environment.path(name);
        tar_of(&project.path(""), &archive, options);
        let mut command = project.command(&["-t", "x", "-"]);
        let output = command.stdin(fs::File::open(&archive).unwrap()).output().unwrap();
        Built::of(ran(output)).succeeded();
        assert_eq!(project.added("x"), "f 644 0:0 a = one\nd 755 0:0 d\nf 644 0:0 d/e = two\n");
        let by_path = project.command(&["-t", "y", "-f", "My", archive.to_str().unwrap()]).output().unwrap();
        Built::of(ran(by_path)).succeeded();
        assert_eq!(project.added("y"), "f 644 0:0 my = one\n");
    }
    // Through a pipe, slowly.
    let bytes = fs::read(project.environment.path("c.tar")).unwrap();
    let mut command = project.command(&["-t", "x", "-"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    for part in bytes.chunks(3000) {
        pipe.write_all(part).unwrap();
    }
    drop(pipe);
    let again = Built::of(ran(child.wait_with_output().unwrap())).succeeded();
    assert_eq!(again.did(), [""; 0], "the same files in another archive are the same: {:?}", again.steps);
    project.assert_clean();
}

fn git(project: &Project, script: &str) {
    let script = format!(
        "cd {}; export GIT_CONFIG_GLOBAL=/dev/null; git() {{ command git -c user.name=n -c user.email=e@x -c init.defaultBranch=main \"$@\"; }}\n{script}",
        project.environment.path("").display()
    );
    let done = ran(Command::new("bash").args(["-euc", &script]).output().unwrap());
    assert_eq!(done.code, 0, "{}", done.stderr);
}

/// It runs as two processes, which are a group of their own.
struct Daemon(std::process::Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(self.0.id().try_into().unwrap());
        // Best effort: it may be gone.
        let _killed = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        drop(self.0.wait());
    }
}

#[test]
fn a_repository_is_a_context_at_any_commit_and_directory() {
    if !found("git") {
        return skip("git is not installed");
    }
    let Some(project) = Project::new() else { return };
    git(&project, "git init -q repo; cd repo; mkdir sub; printf 'FROM base\nCOPY . /r\n' > Dockerfile; cp Dockerfile sub; echo 1 > f; echo s > sub/f
        git add .; git commit -qm 1; git tag one; echo 2 > f; git commit -qam 2; git checkout -qb side; echo 3 > f; git commit -qam 3; git checkout -q main");
    let repository = format!("file://{}", project.environment.path("repo").display());
    for (place, content) in
        [("", "2\n"), ("#one", "1\n"), ("#side", "3\n"), ("#:sub", "s\n"), ("#one:sub", "s\n")]
    {
        let place = format!("{repository}{place}");
        let built = Built::of(ran(project.command(&["-t", "x", &place]).output().unwrap()));
        assert_eq!(built.ran.code, 0, "{place}: {}", built.ran.stderr);
        assert_eq!(project.cat("x", "r/f"), content, "{place}");
        assert!(!project.exported("x").join("r/.git").exists());
    }
    // What a Dockerfile adds comes from servers alone: it is not to reach files of this machine.
    let said = project.refused(&format!("FROM base\nADD {repository} /g\n"), &[]);
    assert!(said.contains("there is no"), "{said}");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut daemon = Command::new("git");
    daemon.args(["daemon", "--export-all", "--listen=127.0.0.1", &format!("--port={port}")]);
    let place = project.environment.dir.path().display().to_string();
    let daemon =
        daemon.arg(format!("--base-path={place}")).stderr(Stdio::null()).process_group(0).spawn().unwrap();
    let _daemon = Daemon(daemon);
    crate::lab::eventually("git serves", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let served = format!("git://127.0.0.1:{port}/repo");
    let add = format!("FROM base\nADD {served}#one /g\nADD --keep-git-dir {served} /h\n");
    project.built(&add, &["-t", "x"]);
    assert_eq!((project.cat("x", "g/f").as_str(), project.cat("x", "h/f").as_str()), ("1\n", "2\n"));
    let tree = project.exported("x");
    assert!(!tree.join("g/.git").exists() && tree.join("h/.git/HEAD").exists());
    let wrong = Built::of(ran(project.command(&[&format!("{repository}#nosuch")]).output().unwrap()));
    assert!(wrong.ran.code != 0 && wrong.ran.stderr.contains("nosuch"), "{}", wrong.ran.stderr);
    let named = format!("lib={repository}#side");
    project.built("FROM base\nCOPY --from=lib f /f\n", &["--build-context", &named, "-t", "x"]);
    assert_eq!(project.cat("x", "f"), "3\n");
    project.assert_clean();
}

#[test]
fn a_context_of_a_name_is_a_directory_an_image_or_instead_of_one() {
    let Some(project) = Project::new() else { return };
    let side = project.environment.path("side");
    fs::create_dir(&side).unwrap();
    super::write(&side.join("f"), "side");
    super::write(&side.join("left"), "out");
    super::write(&side.join(".dockerignore"), "left\n");
    let named = format!("side={}", side.display());
    let recipe = "FROM base\nCOPY --from=side . /s\nRUN --mount=from=side,target=/m cat /m/f > /m2\n";
    project.built(recipe, &["--build-context", &named, "-t", "x"]);
    assert_eq!(
        project.added("x"),
        "f 644 0:0 m2 = side\nd 755 0:0 s\nf 644 0:0 s/.dockerignore = left\nf 644 0:0 s/f = side\n"
    );
    super::write(&side.join("f"), "SIDE");
    let built = project.built(recipe, &["--build-context", &named, "-t", "x"]);
    assert_eq!((built.did().len(), project.cat("x", "m2").as_str()), (2, "SIDE"));

    project.built("FROM base\nRUN echo other > /other\n", &["-t", "other"]);
    let layout = project.environment.path("layout");
    project.environment.ok(["push", "other", &format!("oci:{}", layout.display())]);
    let recipe = "FROM base\nRUN cat /other > /seen\n";
    for place in ["docker-image://other".to_owned(), format!("oci-layout://{}", layout.display())] {
        project.built(recipe, &["--build-context", &format!("base={place}"), "-t", "x"]);
        assert_eq!(project.cat("x", "seen"), "other\n", "{place}");
    }
    // A directory to stand on.
    project
        .built("FROM side\nCOPY --from=base /bin/busybox /bin/\n", &["--build-context", &named, "-t", "x"]);
    assert_eq!(project.cat("x", "f"), "SIDE");
    let said = project.refused(recipe, &["--build-context", "nowhere"]);
    assert!(said.contains("NAME=PLACE"), "{said}");
    project.assert_clean();
}

#[test]
fn images_are_pulled_when_they_are_missing_or_when_asked() {
    let Some(project) = Project::new() else { return };
    let Some(elsewhere) = Project::new() else { return };
    elsewhere.built("FROM base\nRUN echo 1 > /v\n", &["-t", "app:1"]);
    let server = crate::serve::server::Server::start(&elsewhere.environment, &[]);
    let recipe = format!("FROM {}/app:1\nRUN cat /v > /seen\n", server.address);
    let seen = |flags: &[&str]| {
        let built = project.built(&recipe, &[&["-t", "x"], flags].concat());
        (project.cat("x", "seen"), built.ran.stderr.contains("pulling"))
    };
    let said = project.refused(&recipe, &["--pull=never"]);
    assert!(said.contains("line 1: FROM"), "{said}");
    assert_eq!(seen(&[]), ("1\n".to_owned(), true));
    elsewhere.built("FROM base\nRUN echo 2 > /v\n", &["-t", "app:1"]);
    assert_eq!(seen(&[]), ("1\n".to_owned(), false));
    assert_eq!(seen(&["--pull"]), ("2\n".to_owned(), true));
    assert_eq!(seen(&["--pull=never"]), ("2\n".to_owned(), false));
    let name = format!("{}/mine:1", server.address);
    project.built(&recipe, &["-t", &name]);
    project.assert_clean();
}
