//! How repositories are written, and what comes of those on this machine.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Stdio;

use proptest::prelude::*;

use super::*;
use crate::registry::Client;
use crate::sources::Fetch;

fn parse(text: &str) -> Repository {
    Repository::parse(text).unwrap().unwrap()
}

fn parts(text: &str) -> (String, Option<String>, Option<String>) {
    let found = parse(text);
    (found.remote, found.reference, found.subdir.map(|path| path.display().to_string()))
}

#[test]
fn repositories_are_read() {
    let some = |text: &str| Some(text.to_owned());
    for (text, remote, reference, subdir) in [
        ("https://h/a/b.git", "https://h/a/b.git", None, None),
        ("http://h:80/b.git#main", "http://h:80/b.git", some("main"), None),
        ("https://h/b.git#v1:docker/image", "https://h/b.git", some("v1"), some("docker/image")),
        ("https://h/b.git#:docker", "https://h/b.git", None, some("docker")),
        ("https://h/b.git#main:/../x/", "https://h/b.git", some("main"), some("x")),
        ("https://h/b.git#main:.", "https://h/b.git", some("main"), None),
        ("https://h/b.git?ref=main&subdir=a%2Fb", "https://h/b.git", some("main"), some("a/b")),
        ("https://h/b.git?branch=main", "https://h/b.git", some("refs/heads/main"), None),
        ("https://h/b.git?tag=v1", "https://h/b.git", some("refs/tags/v1"), None),
        (
            "https://h/b.git?tag=refs/tags/v1#refs/tags/v1:x",
            "https://h/b.git",
            some("refs/tags/v1"),
            some("x"),
        ),
        ("https://h/b.git?commit=0123456789", "https://h/b.git", some("0123456789"), None),
        ("git@h:a/b.git", "git@h:a/b.git", None, None),
        ("git@h:a/b.git#dev:x", "git@h:a/b.git", some("dev"), some("x")),
        ("git@h:a/b?ref=dev", "git@h:a/b", some("dev"), None),
        ("ssh://me@h:22/a", "ssh://me@h:22/a", None, None),
        ("git://h/a", "git://h/a", None, None),
        ("file:///srv/a", "file:///srv/a", None, None),
        ("github.com/a/b#main", "https://github.com/a/b", some("main"), None),
    ] {
        assert_eq!(parts(text), (remote.to_owned(), reference, subdir), "{text}");
    }
    for text in [
        "https://h/b",
        "https://h/b.tar",
        "./b.git",
        "b.git",
        "a@b",
        "a b@c:d",
        ":x",
        "@h:x",
        "ftp://h/b.git",
        "/srv/b.git",
    ] {
        assert!(Repository::parse(text).is_none(), "{text}");
    }
    let found = parse("https://h/b.git?keep-git-dir&submodules=false&checksum=abcdef0");
    assert_eq!(
        (found.keep_git_dir, found.submodules, found.commit.as_deref()),
        (Some(true), Some(false), Some("abcdef0"))
    );
    assert_eq!(
        (parse("git@h:a/b.git").name(), parse("file:///x/y/").name(), parse("git@h:b").name()),
        ("b", "y", "b")
    );
    assert!(parse("file:///x").is_local() && !parse("git://h/x").is_local());
}

#[test]
fn what_git_would_take_for_something_else_is_refused() {
    for text in [
        "https://h/b.git#--upload-pack=x",
        "https://h/b.git#a..b",
        "https://h/b.git#+main",
        "https://h/b.git?ref=a:b",
        "https://h/b.git?ref=a%20b",
        "https://h/b.git?ref=a%0ab",
        "https://h/b.git#a@{1}",
        "https://h/b.git#a^",
        "https://h/b.git?ref=",
        "https://h/b.git?ref=a&ref=b",
        "https://h/b.git?ref=a#b",
        "https://h/b.git?branch=a&tag=a",
        "https://h/b.git?subdir=a#x:b",
        "https://h/b.git?what=x",
        "https://h/b.git?subdir=%zz",
        "https://h/b.git?subdir=%ff",
        "https://h/b.git?commit=main",
        "https://h/b.git?commit=abc",
        "https://h/b.git?submodules=maybe",
        "ssh://-oProxyCommand=x/b",
        "ssh://me@-oProxyCommand=x/b",
        "https:///b.git",
        "file://h/b",
        "git://h/a b",
    ] {
        assert_eq!(Repository::parse(text).unwrap().unwrap_err().kind(), ErrorKind::InvalidInput, "{text}");
    }
    assert!(Repository::parse(&format!("git://h/{}", "a".repeat(LIMIT))).unwrap().is_err());
}

#[test]
fn passwords_are_not_shown() {
    assert_eq!(parse("https://me:secret@h/b.git").to_string(), "https://me@h/b.git");
    assert_eq!(parse("https://h/b.git").to_string(), "https://h/b.git");
    assert_eq!(parse("git@h:a.git").to_string(), "git@h:a.git");
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,30}|(https|git|ssh|file)://[a-z@:/.#?=&%-]{0,30}(\\.git)?[#?][a-z=&%:-]{0,20}") {
        if let Some(Ok(found)) = Repository::parse(&text) {
            prop_assert!(!found.remote.starts_with('-') && !found.reference.unwrap_or_default().starts_with('-'));
            let subdir = found.subdir.unwrap_or_default();
            prop_assert!(subdir.components().all(|part| matches!(part, std::path::Component::Normal(_))), "{:?}", subdir);
        }
    }

    #[test]
    fn a_value_of_the_configuration_stays_one(text in "\\PC{0,20}|[\"\\\\\n#;=]{0,10}") {
        let quoted = quoted(&text);
        prop_assert!(quoted.starts_with('"') && quoted.ends_with('"') && !quoted.contains('\n'));
        let inner = &quoted[1..quoted.len() - 1];
        let mut escaped = false;
        for found in inner.chars() {
            prop_assert!(escaped || found != '"');
            escaped = found == '\\' && !escaped;
        }
        prop_assert!(!escaped);
    }
}

// ------------------------------------------------------------ with the program

struct Ground {
    temp: tempfile::TempDir,
}

/// Makes a repository; `None` where git is not installed, which is an error where it is asked for.
fn ground() -> Option<Ground> {
    let is_there = Command::new("git")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !is_there {
        let required = std::env::var("ROOTLING_REQUIRE").unwrap_or_default();
        assert!(
            !required.split(',').any(|word| word == "all" || word == "git"),
            "ROOTLING_REQUIRE asks for git"
        );
        return None;
    }
    let ground = Ground { temp: tempfile::tempdir().unwrap() };
    ground.git("work", &["init", "-q", "-b", "main", "."]);
    Some(ground)
}

impl Ground {
    fn git(&self, directory: &str, arguments: &[&str]) -> String {
        let path = self.temp.path().join(directory);
        fs::create_dir_all(&path).unwrap();
        let output = Command::new("git")
            .args(["-c", "user.name=x", "-c", "user.email=x@x", "-c", "protocol.file.allow=always"])
            .args(arguments)
            .current_dir(path)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn commit(&self, directory: &str, files: &[(&str, &str)]) -> String {
        for (name, text) in files {
            let path = self.temp.path().join(directory).join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        self.git(directory, &["add", "-A"]);
        self.git(directory, &["commit", "-q", "-m", "x"]);
        self.git(directory, &["rev-parse", "HEAD"])
    }

    fn address(&self, directory: &str, more: &str) -> String {
        format!("file://{}{more}", self.temp.path().join(directory).display())
    }

    fn check_out(&self, text: &str) -> Result<(CheckedOut, tempfile::TempDir)> {
        let target = tempfile::tempdir_in(self.temp.path()).unwrap();
        with_means(|means| parse(text).check_out(target.path(), means, None)).map(|found| (found, target))
    }
}

fn with_means<T>(work: impl FnOnce(&Means<'_>) -> T) -> T {
    let make = || -> Result<Client> { panic!("nothing is downloaded") };
    let (fetch, scratch) = (Fetch::new(&make), std::env::temp_dir());
    work(&Means { fetch: &fetch, scratch: &scratch, bind: |_, _| {}, source_date_epoch: None, tell: &|_| {} })
}

#[test]
fn branches_tags_commits_and_directories_are_checked_out() {
    let Some(ground) = ground() else { return };
    let first = ground.commit("work", &[("file", "one"), ("d/in", "x")]);
    ground.git("work", &["tag", "-a", "-m", "x", "v1"]);
    let second = ground.commit("work", &[("file", "two")]);
    ground.git("work", &["checkout", "-q", "-b", "feature/main", &first]);
    let third = ground.commit("work", &[("file", "three")]);
    ground.git("work", &["checkout", "-q", "main"]);
    let short = format!("#{}", &first[..8]);
    let whole = format!("#{first}");
    for (more, commit, text) in [
        ("", &second, "two"),
        ("#main", &second, "two"),
        ("#v1", &first, "one"),
        ("?tag=v1", &first, "one"),
        ("#feature/main", &third, "three"),
        ("?branch=feature/main", &third, "three"),
        (whole.as_str(), &first, "one"),
        (short.as_str(), &first, "one"),
        (&format!("?ref=main&commit={}", &second[..7]), &second, "two"),
    ] {
        let address = ground.address("work", more);
        let (found, target) = ground.check_out(&address).unwrap();
        assert_eq!(&found.commit, commit, "{more}");
        assert_eq!(fs::read_to_string(target.path().join("file")).unwrap(), text, "{more}");
        assert!(!target.path().join(".git").exists());
        let scratch = tempfile::tempdir().unwrap();
        let asked = with_means(|means| parse(&address).resolve(scratch.path(), means, None)).unwrap();
        assert_eq!(asked.as_ref(), (more != short).then_some(commit), "{more}");
    }
    let (found, _target) = ground.check_out(&ground.address("work", "#:d")).unwrap();
    assert!(found.directory.stat_if_exists("in").unwrap().is_some());

    for (more, kind) in [
        ("#nothing", ErrorKind::Io),
        ("#deadbeef", ErrorKind::NotFound),
        ("#main:nowhere", ErrorKind::NotFound),
        ("#main:file", ErrorKind::NotFound),
        ("?ref=main&commit=deadbeef", ErrorKind::FailedPrecondition),
    ] {
        let error = ground.check_out(&ground.address("work", more)).unwrap_err();
        assert_eq!(error.kind(), kind, "{more}: {error:?}");
    }
    let error = ground.check_out(&ground.address("missing", "")).unwrap_err();
    assert!(format!("{error:?}").contains("git failed"), "{error:?}");
}

#[test]
fn a_kept_git_directory_is_a_repository_without_what_let_us_in() {
    let Some(ground) = ground() else { return };
    let commit = ground.commit("work", &[("file", "one")]);
    let target = tempfile::tempdir().unwrap();
    let address = ground.address("work", "?keep-git-dir=1");
    with_means(|means| {
        parse(&address).check_out(target.path(), means, Some("Authorization: basic c2VjcmV0"))
    })
    .unwrap();
    let output = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(target.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), commit);
    let config = fs::read_to_string(target.path().join(".git/config")).unwrap();
    assert!(config.contains("file://") && !config.contains("Authorization"), "{config}");
}

#[test]
fn a_hostile_repository_runs_nothing_and_leads_nowhere() {
    let Some(ground) = ground() else { return };
    let witness = ground.temp.path().join("witness");
    ground.commit("work", &[("file", "x"), (".gitattributes", "* filter=evil\n")]);
    symlink("/", ground.temp.path().join("work/root")).unwrap();
    symlink("..", ground.temp.path().join("work/up")).unwrap();
    let commit = ground.commit("work", &[]);
    let modules = format!(
        "[submodule \"m\"]\n\tpath = m\n\turl = ext::touch {0}\n\tupdate = !touch {0}\n",
        witness.display()
    );
    ground.git("work", &["checkout", "-q", "-b", "evil"]);
    ground.git("work", &["update-index", "--add", "--cacheinfo", &format!("160000,{commit},m")]);
    fs::write(ground.temp.path().join("work/.gitmodules"), modules).unwrap();
    ground.git("work", &["add", ".gitmodules"]);
    ground.git("work", &["commit", "-q", "-m", "x"]);
    ground.git("work", &["checkout", "-q", "-f", "main"]);
    ground.check_out(&ground.address("work", "#evil")).unwrap_err();
    let (_, target) = ground.check_out(&ground.address("work", "")).unwrap();
    assert!(!witness.exists());
    for more in ["#main:root", "#main:root/etc", "#main:up/.."] {
        match ground.check_out(&ground.address("work", more)) {
            // A root of its own is all that `/` and `..` are.
            Ok((found, _)) => assert!(found.directory.stat_if_exists("etc").unwrap().is_none(), "{more}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{more}"),
        }
    }
    let stat = fs::metadata(target.path().join("file")).unwrap();
    assert_eq!(stat.mode() & 0o777, 0o644);
}

#[test]
fn submodules_come_too_and_none_from_this_machine() {
    let Some(ground) = ground() else { return };
    ground.git("module", &["init", "-q", "-b", "main", "."]);
    ground.commit("module", &[("inside", "x")]);
    ground.commit("work", &[("file", "x")]);
    ground.git("work", &["submodule", "--quiet", "add", &ground.address("module", ""), "sub"]);
    ground.commit("work", &[]);
    let error = format!("{:?}", ground.check_out(&ground.address("work", "")).unwrap_err());
    assert!(error.contains("file") && error.contains("not allowed"), "{error}");
    let (_, target) = ground.check_out(&ground.address("work", "?submodules=false")).unwrap();
    assert!(!target.path().join("sub/inside").exists());
}

#[test]
fn the_address_is_no_argument_of_a_program() {
    let Some(ground) = ground() else { return };
    let target = tempfile::tempdir().unwrap();
    let address = "http://me:secret@127.0.0.1:1/x.git";
    let error =
        with_means(|means| parse(address).check_out(target.path(), means, Some("X: token"))).unwrap_err();
    assert!(format!("{error:?}").contains("git failed"), "{error:?}");
    let config = fs::metadata(target.path().join(".git/config")).unwrap();
    assert_eq!(config.mode() & 0o777, 0o600);
    drop(ground);
}

/// Runs one of the ignored tests here as a process of its own, with an environment of its own.
fn in_environment(test: &str, variables: &[(&str, &Path)]) {
    let name = format!("build::context::git::tests::{test}");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", &name]).env("ROOTLING_REQUIRE", "");
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn git_that_is_not_installed_is_told_of() {
    in_environment("there_is_no_git", &[("PATH", Path::new("/nowhere"))]);
}

#[test]
#[ignore = "run by git_that_is_not_installed_is_told_of"]
fn there_is_no_git() {
    let target = tempfile::tempdir().unwrap();
    let error = with_means(|means| parse("file:///x").check_out(target.path(), means, None)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.first_hint().is_some_and(|hint| hint.contains("install")), "{error:?}");
}

#[test]
fn what_a_user_has_configured_is_not_obeyed() {
    let Some(ground) = ground() else { return };
    let (home, witness) = (ground.temp.path().join("home"), ground.temp.path().join("witness"));
    let hook = home.join("hooks/post-checkout");
    fs::create_dir_all(hook.parent().unwrap()).unwrap();
    fs::write(&hook, format!("#!/bin/sh\ntouch {}\n", witness.display())).unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let text = format!(
        "[core]\n\thooksPath = {0}\n[init]\n\ttemplateDir = {0}\n[filter \"evil\"]\n\tsmudge = touch {1}; cat\n",
        hook.parent().unwrap().display(),
        witness.display()
    );
    fs::write(home.join(".gitconfig"), text).unwrap();
    ground.commit("work", &[("file", "x"), (".gitattributes", "* filter=evil\n")]);
    // The same configuration does run them where it is obeyed.
    let plain = Command::new("git")
        .args(["clone", "-q", &ground.address("work", ""), "clone"])
        .current_dir(ground.temp.path())
        .env("HOME", &home)
        .env_remove("GIT_CONFIG_GLOBAL")
        .status()
        .unwrap();
    assert!(plain.success() && witness.exists());
    fs::remove_file(&witness).unwrap();
    let work = ground.temp.path().join("work");
    in_environment(
        "a_checkout",
        &[
            ("HOME", home.as_path()),
            ("XDG_CONFIG_HOME", &home),
            ("GIT_CONFIG_GLOBAL", &home.join(".gitconfig")),
            ("GIT_DIR", Path::new("/nowhere")),
            ("GIT_TEMPLATE_DIR", &home),
            ("CHECKED_OUT", &work),
        ],
    );
    assert!(!witness.exists());
}

#[test]
#[ignore = "run by what_a_user_has_configured_is_not_obeyed"]
fn a_checkout() {
    let work = std::env::var("CHECKED_OUT").unwrap();
    let target = tempfile::tempdir().unwrap();
    let address = format!("file://{work}");
    with_means(|means| parse(&address).check_out(target.path(), means, None)).unwrap();
    assert_eq!(fs::read_to_string(target.path().join("file")).unwrap(), "x");
}
