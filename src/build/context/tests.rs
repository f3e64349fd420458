//! Contexts that are honest, and such that want out.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use proptest::prelude::*;

use super::*;

/// Makes files (`a/b`), directories (`a/`) and links (`a -> b`).
fn files(root: &Path, names: &[&str]) {
    for name in names {
        if let Some((link, target)) = name.split_once(" -> ") {
            symlink(target, root.join(link)).unwrap();
        } else if name.ends_with('/') {
            fs::create_dir_all(root.join(name)).unwrap();
        } else {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::write(root.join(name), name).unwrap();
        }
    }
}

fn context(root: &Path, ignore: &str) -> Context {
    let patterns = Patterns::parse_file(ignore.as_bytes()).unwrap();
    Context::open(root).unwrap().with_ignored(IgnoreFile { name: None, patterns })
}

fn sources(context: &Context, text: &str) -> Vec<String> {
    context
        .sources(text, &Selection::default())
        .unwrap()
        .iter()
        .map(|source| source.path.display().to_string())
        .collect()
}

fn listed(context: &Context, text: &str, selection: &Selection) -> Vec<String> {
    let sources = context.sources(text, selection).unwrap();
    let entries = sources.iter().flat_map(|source| context.list(source, selection).unwrap());
    entries.map(|entry| entry.path.display().to_string()).collect()
}

#[test]
fn patterns_mean_what_is_there_and_not_left_out() {
    let temp = tempfile::tempdir().unwrap();
    files(
        temp.path(),
        &[
            "a.txt",
            "b.txt",
            ".c.txt",
            "d/x.txt",
            "d/y.md",
            "e/x.txt",
            "secret.txt",
            "e/in/z",
            "f -> d",
            "[x].txt",
        ],
    );
    let context = context(temp.path(), "secret*\ne\n!e/in");
    for (text, wanted) in [
        ("a.txt", vec!["a.txt"]),
        ("./d/../a.txt", vec!["a.txt"]),
        ("../../a.txt", vec!["a.txt"]),
        ("/a.txt", vec!["a.txt"]),
        ("missing", vec![]),
        ("secret.txt", vec![]),
        ("a.txt/", vec!["a.txt"]),
        ("a.txt/x", vec![]),
        ("*.txt", vec![".c.txt", "[x].txt", "a.txt", "b.txt"]),
        ("[[]x].txt", vec!["[x].txt"]),
        ("?.txt", vec!["a.txt", "b.txt"]),
        ("*/x.txt", vec!["d/x.txt"]),
        ("*/*", vec!["d/x.txt", "d/y.md", "e/in"]),
        ("f/*.md", vec!["f/y.md"]),
        ("f", vec!["f"]),
        ("*f", vec!["f"]),
        ("e", vec!["e"]),
        ("e/x.txt", vec![]),
        ("e/in/z", vec!["e/in/z"]),
        ("nothing*", vec![]),
        ("", vec![""]),
        (".", vec![""]),
    ] {
        assert_eq!(sources(&context, text), wanted, "{text}");
    }
    assert_eq!(context.sources("a[", &Selection::default()).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(context.find(Path::new("f")).unwrap().unwrap().real, Path::new("d"));
}

#[test]
fn links_lead_nowhere_but_inside() {
    let temp = tempfile::tempdir().unwrap();
    files(temp.path(), &["outside", "root/in/file", "root/left/out"]);
    let root = temp.path().join("root");
    let absolute = format!("abs -> {}", temp.path().join("outside").display());
    files(
        &root,
        &[
            "up -> ../outside",
            "upup -> ../../../../../../../../etc/passwd",
            "passwd -> /etc/passwd",
            &absolute,
            "self -> self",
            "a -> b",
            "b -> a",
            "home -> /in",
            "back -> in/../in/file",
            "hidden -> left/out",
            "rooted -> ../../in",
        ],
    );
    let context = context(&root, "left");
    for text in ["up", "upup", "passwd", "abs", "hidden", "left/out", "left*", "up/x", "up*/x"] {
        assert_eq!(sources(&context, text), Vec::<String>::new(), "{text}");
    }
    for text in ["up*", "*wd", "ab*", "hidde*"] {
        assert_eq!(
            context.sources(text, &Selection::default()).unwrap_err().kind(),
            ErrorKind::NotFound,
            "{text}"
        );
        let exclude = Patterns::of(&["up", "upup", "passwd", "abs", "hidden"]).unwrap();
        assert!(context.sources(text, &Selection { exclude, include: None }).unwrap().is_empty(), "{text}");
    }
    for text in ["self", "a"] {
        assert_eq!(
            context.sources(text, &Selection::default()).unwrap_err().errno(),
            Some(Errno::ELOOP),
            "{text}"
        );
    }
    for (text, real) in
        [("home/file", "in/file"), ("back", "in/file"), ("rooted/file", "in/file"), ("home", "in")]
    {
        assert_eq!(context.find(Path::new(text)).unwrap().unwrap().real, Path::new(real), "{text}");
    }
    assert_eq!(context.read(Path::new("up"), 100).unwrap(), None);
    assert_eq!(context.read(Path::new("left/out"), 100).unwrap(), Some(b"root/left/out".to_vec()));
    assert!(context.read(Path::new("left/out"), 3).is_err() && context.read(Path::new("in"), 100).is_err());
}

#[test]
fn a_list_has_parents_first_and_only_what_is_taken() {
    let temp = tempfile::tempdir().unwrap();
    files(
        temp.path(),
        &["d/b", "d/a/x.o", "d/a/x.c", "d/a-b", "d/e/", "d/n/m/keep", "d/n/drop", "d/l -> b", "z"],
    );
    let plain = context(temp.path(), "");
    let all = Selection::default();
    let wanted = ["", "a", "a/x.c", "a/x.o", "a-b", "b", "e", "l", "n", "n/drop", "n/m", "n/m/keep"];
    assert_eq!(listed(&plain, "d", &all), wanted);
    let strict = context(temp.path(), "**/*.o\nd/n\n!d/n/m/keep\nd/e");
    assert_eq!(listed(&strict, "d", &all), ["", "a", "a/x.c", "a-b", "b", "l", "n", "n/m", "n/m/keep"]);
    assert_eq!(listed(&strict, "d/n", &all), ["", "m", "m/keep"]);
    assert_eq!(listed(&context(temp.path(), "*\n!d/e/x"), "d/e", &all), Vec::<String>::new());

    let without = |patterns: &[&str]| Selection { exclude: Patterns::of(patterns).unwrap(), include: None };
    assert_eq!(
        listed(&plain, "d", &without(&["*b", "**/*.o", "n", "!n/m"])),
        ["", "a", "a/x.c", "e", "l", "n", "n/m", "n/m/keep"]
    );
    assert_eq!(listed(&plain, "z", &without(&["z"])), Vec::<String>::new());
    assert_eq!(listed(&plain, "d/*", &without(&["a", "n", "b"])), ["", "", ""]);
    assert_eq!(listed(&plain, "d", &without(&["d"])).len(), 12);

    let only = |patterns: &[&str]| Selection {
        include: Some(Patterns::of(patterns).unwrap()),
        ..Selection::default()
    };
    assert_eq!(listed(&plain, ".", &only(&["d/**/*.c"])), ["", "d", "d/a", "d/a/x.c"]);
    assert_eq!(
        listed(&plain, ".", &only(&["d/n", "z"])),
        ["", "d", "d/n", "d/n/drop", "d/n/m", "d/n/m/keep", "z"]
    );
    assert_eq!(listed(&plain, ".", &only(&["nothing"])), [""]);
}

#[test]
fn sockets_are_left_out_and_pipes_do_not_wait() {
    let temp = tempfile::tempdir().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(temp.path().join("socket")).unwrap();
    nix::unistd::mkfifo(&temp.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let context = context(temp.path(), "");
    assert_eq!(listed(&context, ".", &Selection::default()), ["", "pipe"]);
    assert_eq!(listed(&context, "socket", &Selection::default()), Vec::<String>::new());
    assert!(context.read(Path::new("pipe"), 10).is_err());
}

#[test]
fn the_ignore_file_of_a_dockerfile_comes_first() {
    let temp = tempfile::tempdir().unwrap();
    let root = Dir::open(temp.path()).unwrap();
    let find = || IgnoreFile::find(Some((&root, "Dockerfile")), &root).unwrap();
    assert_eq!(find(), IgnoreFile::default());
    for (name, text) in [
        (".containerignore", "a"),
        (".dockerignore", "b"),
        ("Dockerfile.containerignore", "c"),
        ("Dockerfile.dockerignore", "d"),
    ] {
        fs::write(temp.path().join(name), text).unwrap();
        let found = find();
        assert_eq!((found.name.as_deref(), found.patterns.to_string()), (Some(name), format!("{text}\n")));
    }
    fs::write(temp.path().join("Dockerfile.dockerignore"), "a\n[").unwrap();
    let error = format!("{:?}", IgnoreFile::find(Some((&root, "Dockerfile")), &root).unwrap_err());
    assert!(error.contains("Dockerfile.dockerignore") && error.contains("line 2"), "{error}");
    assert_eq!(IgnoreFile::find(None, &root).unwrap().name.as_deref(), Some(".dockerignore"));
}

#[test]
fn what_cannot_be_opened_says_what_to_do() {
    let temp = tempfile::tempdir().unwrap();
    files(temp.path(), &["file", "closed/x"]);
    assert!(Context::open(&temp.path().join("missing")).unwrap_err().first_hint().is_some());
    assert_eq!(Context::open(&temp.path().join("file")).unwrap_err().kind(), ErrorKind::InvalidInput);
    if !nix::unistd::geteuid().is_root() {
        fs::set_permissions(temp.path().join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
        let context = context(temp.path(), "");
        let source = &context.sources(".", &Selection::default()).unwrap()[0];
        let error = context.list(source, &Selection::default()).unwrap_err();
        fs::set_permissions(temp.path().join("closed"), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(error.first_hint().is_some_and(|hint| hint.contains(".dockerignore")), "{error:?}");
    }
}

/// All paths below a directory, parents first.
fn all_below(root: &Path, at: &Path, found: &mut Vec<std::path::PathBuf>) {
    let mut names: Vec<_> =
        fs::read_dir(root.join(at)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    for name in names {
        let path = at.join(name);
        found.push(path.clone());
        if root.join(&path).is_dir() {
            all_below(root, &path, found);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// A list is what a walk that prunes nothing keeps, with the directories that these are in.
    #[test]
    fn a_list_is_the_walk_of_everything(
        tree in proptest::collection::vec("[ab]{1,2}(/[abc]){0,3}", 0..20),
        ignore in proptest::collection::vec("!?(\\*\\*/)?[abc*?]{1,2}(/[abc*]{1,2}){0,2}", 0..4),
        exclude in proptest::collection::vec("!?(\\*\\*/)?[abc*]{1,2}", 0..3),
    ) {
        let temp = tempfile::tempdir().unwrap();
        for name in &tree {
            // A name may be a file and a directory: the first wins.
            let path = temp.path().join(name);
            if fs::create_dir_all(path.parent().unwrap()).is_ok() && !path.exists() {
                fs::write(path, name).unwrap();
            }
        }
        let context = context(temp.path(), &ignore.join("\n"));
        let selection = Selection { exclude: Patterns::of(&exclude).unwrap(), include: None };
        let mut all = Vec::new();
        all_below(temp.path(), Path::new(""), &mut all);
        let is_taken = |path: &Path| !context.ignored().matches(path) && !selection.exclude.matches(path);
        let wanted: Vec<_> = all
            .iter()
            .filter(|path| is_taken(path) || all.iter().any(|other| other != *path && other.starts_with(path) && is_taken(other)))
            .map(|path| path.display().to_string())
            .collect();
        let listed = listed(&context, ".", &selection);
        prop_assert_eq!(&listed[1..], &wanted[..], "{:?} {:?}", ignore, exclude);
    }
}
