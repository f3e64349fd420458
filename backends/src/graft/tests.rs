//! Grafting: what comes over, what stays, what clashes.

use super::*;
use crate::mount::{Mount, Overlay};
use std::os::unix::fs::MetadataExt;

fn write(dir: &Dir, name: &str, text: &str) {
    dir.create_file(name, 0o644).unwrap().write_all(text.as_bytes()).unwrap();
}

fn make(dir: &Dir, name: &str) -> Dir {
    dir.make_dir(name, 0o755).unwrap();
    dir.open_dir(name).unwrap()
}

/// A source with a directory, a link, a file of two names and a pipe.
fn source(root: &Dir) -> Origin {
    let source = make(root, "source");
    let d = make(&source, "d");
    write(&d, "one", "one");
    d.make_link("two", &d, "one").unwrap();
    d.make_symlink("link", OsStr::new("/nowhere")).unwrap();
    d.make_node("pipe", libc::S_IFIFO | 0o600, 0).unwrap();
    write(&d, "left-out", "");
    let deep = make(&d, "deep");
    write(&deep, "file", "deep");
    d.set_mode_following_symlinks("deep", 0o2750).unwrap();
    d.set_times("deep", Times { accessed: (1, 2), modified: (3, 4) }).unwrap();
    source.set_times("d", Times { accessed: (5, 6), modified: (7, 8) }).unwrap();
    Origin::plain(source)
}

const PICKED: &[(&str, EntryType)] = &[
    ("deep", EntryType::Directory),
    ("deep/file", EntryType::File),
    ("gone", EntryType::File),
    ("link", EntryType::Symlink),
    ("one", EntryType::File),
    ("pipe", EntryType::Fifo),
    ("two", EntryType::File),
];

fn put(ground: &Ground, origin: &Origin, to: &str) -> Result<Cost> {
    let pick = |(path, kind): &(&'static str, EntryType)| Picked {
        path: Path::new(*path),
        kind: *kind,
        on_the_way: false,
        expected: None,
    };
    let picked: Vec<Picked<'_>> = PICKED.iter().map(pick).collect();
    let graft = Graft::new(ground);
    ground.make_dirs(Path::new(to), (own_ids().0, own_ids().1))?;
    graft.content(origin, Path::new("d"), Path::new(to), &picked, &|_, _| {})?;
    Ok(graft.cost())
}

fn own_ids() -> (u32, u32) {
    (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
}

fn names(dir: &Dir) -> Vec<String> {
    let mut names: Vec<_> =
        dir.entries().unwrap().into_iter().map(|entry| entry.name.into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_picked_comes_with_its_attributes_and_links() {
    let temp = tempfile::tempdir().unwrap();
    let root = Dir::open(temp.path()).unwrap();
    let origin = source(&root);
    let ground = Ground::full(make(&root, "target"));

    let cost = put(&ground, &origin, "a/b").unwrap();

    let made = ground.own().open_deep(Path::new("a/b")).unwrap();
    assert_eq!(names(&made), ["deep", "link", "one", "pipe", "two"]);
    assert_eq!(made.stat("one").unwrap().st_ino, made.stat("two").unwrap().st_ino);
    let deep = made.stat("deep").unwrap();
    assert_eq!((deep.st_mode & 0o7777, Times::of(&deep).modified), (0o2750, (3, 4)));
    // The directory that is copied to has the time of the other, and its own mode.
    let stat = made.stat_self().unwrap();
    assert_eq!((stat.st_mode & 0o7777, Times::of(&stat).modified), (0o755, (7, 8)));
    assert_eq!((cost.directories, cost.files_cloned + cost.files_copied, cost.others), (1, 2, 3));
}

#[test]
fn directories_become_one_and_other_types_clash() {
    let temp = tempfile::tempdir().unwrap();
    let root = Dir::open(temp.path()).unwrap();
    let origin = source(&root);
    let target = make(&root, "target");
    let deep = make(&target, "deep");
    write(&deep, "stays", "stays");
    target.make_symlink("one", OsStr::new("stays")).unwrap();
    let ground = Ground::full(target);

    put(&ground, &origin, "").unwrap();

    assert_eq!(names(&ground.own().open_dir("deep").unwrap()), ["file", "stays"]);
    assert_eq!(EntryType::of_mode(ground.own().stat("one").unwrap().st_mode), EntryType::File);
    for name in ["link", "deep"] {
        let other = Ground::full(make(&root, &format!("target-{name}")));
        if name == "link" {
            make(other.own(), "link");
        } else {
            other.own().make_symlink("deep", OsStr::new("elsewhere")).unwrap();
        }
        let error = put(&other, &origin, "").unwrap_err();
        assert!(error.to_string().contains(&format!("/{name} ")), "{error}");
    }
}

#[test]
fn ways_lead_where_a_process_in_the_tree_would_come_out() {
    let temp = tempfile::tempdir().unwrap();
    let root = Dir::open(temp.path()).unwrap();
    make(&root, "usr");
    write(&root, "file", "");
    root.make_symlink("bin", OsStr::new("usr/bin")).unwrap();
    root.make_symlink("out", OsStr::new("../../../usr")).unwrap();
    root.make_symlink("absolute", OsStr::new("/usr/../file")).unwrap();
    root.make_symlink("loop", OsStr::new("loop")).unwrap();
    let ground = Ground::full(root);
    let lead = |path: &str| ground.lead(Path::new(path)).map(|led| (led.path, led.stat.is_some()));
    for (path, to, is_there) in [
        ("/", "", true),
        ("/bin/x", "usr/bin/x", false),
        ("/../out/.", "usr", true),
        ("absolute", "file", true),
        ("new/../usr", "usr", true),
    ] {
        assert_eq!(lead(path).unwrap(), (to.into(), is_there), "{path}");
    }
    assert_eq!(lead("/file/x").unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(lead("/loop").unwrap_err().kind(), ErrorKind::InvalidInput);
}

/// The upper directory of a delta shows through a mount what a full tree would have.
#[test]
fn a_delta_is_written_without_being_mounted() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let root = Dir::open(temp.path()).unwrap();
    let origin = source(&root);
    let [lower, upper] = ["lower", "upper"].map(|name| make(&root, name));
    let usr = make(&lower, "usr");
    let deep = make(&usr, "deep");
    write(&deep, "below", "below");
    write(&usr, "one", "old");
    lower.set_mode_following_symlinks("usr", 0o1777).unwrap();
    lower.set_owner("usr", 7, 8).unwrap();
    lower.make_symlink("link", OsStr::new("usr")).unwrap();
    // What was deleted, as a mount leaves it.
    make(&lower, "gone");
    write(&lower.open_dir("gone").unwrap(), "hidden", "");
    upper.make_node("gone", libc::S_IFCHR, 0).unwrap();
    let ground = Ground::delta(upper.try_clone().unwrap(), lower.try_clone().unwrap(), true);
    let led = ground.lead(Path::new("/link")).unwrap();
    assert_eq!((led.path.as_path(), led.is_directory()), (Path::new("usr"), true));
    assert!(ground.lead(Path::new("/gone/x")).unwrap().stat.is_none());

    put(&ground, &origin, "usr").unwrap();
    put(&ground, &origin, "gone").unwrap();

    let lowers = ["upper", "lower"].map(|name| temp.path().join(name)).to_vec();
    let overlay = Overlay { lowers, upper: None, volatile: false, userxattr: true };
    let shown = Mount::Overlay(overlay).open_root().unwrap();
    let usr = shown.open_dir("usr").unwrap();
    assert_eq!(names(&usr), ["deep", "link", "one", "pipe", "two"]);
    assert_eq!(names(&usr.open_dir("deep").unwrap()), ["below", "file"]);
    let stat = usr.stat_self().unwrap();
    assert_eq!((stat.st_mode & 0o7777, stat.st_uid, stat.st_gid), (0o1777, 7, 8));
    assert_eq!(names(&shown.open_dir("gone").unwrap()), ["deep", "link", "one", "pipe", "two"]);
    assert_eq!(usr.open_file("one").unwrap().metadata().unwrap().size(), 3);
    // Nothing but what was copied and the directories on the way lies in the upper directory.
    assert_eq!(names(&upper.open_dir("usr").unwrap().open_dir("deep").unwrap()), ["file"]);
}

/// What a mount shows is cloned out of the layer that has it.
#[test]
fn files_of_a_stack_are_opened_in_their_layers() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let root = Dir::open(temp.path()).unwrap();
    let [lower, upper, target] = ["lower", "upper", "target"].map(|name| make(&root, name));
    for (layer, name) in [(&lower, "a"), (&lower, "b"), (&upper, "b")] {
        if layer.stat_if_exists("d").unwrap().is_none() {
            make(layer, "d");
        }
        write(&layer.open_dir("d").unwrap(), name, &format!("{:?}", layer.path().file_name()));
    }
    let lowers = ["upper", "lower"].map(|name| temp.path().join(name)).to_vec();
    let overlay = Overlay { lowers, upper: None, volatile: false, userxattr: true };
    let shown = Mount::Overlay(overlay).open_root().unwrap();
    let layers = || vec![upper.try_clone().unwrap(), lower.try_clone().unwrap()];
    let device = |origin: &Origin, name| {
        origin.open(Path::new("d")).unwrap().open_file(OsStr::new(name)).unwrap().metadata().unwrap().ino()
    };
    let origin = Origin::stacked(shown, layers());
    let inode = |dir: &Dir, name: &str| dir.open_dir("d").unwrap().stat(name).unwrap().st_ino;
    assert_eq!(device(&origin, "a"), inode(&lower, "a"));
    assert_eq!(device(&origin, "b"), inode(&upper, "b"));

    let ground = Ground::full(target);
    Graft::new(&ground).entry(&origin, Path::new("d/b"), Path::new("c"), None, &|_, _| {}).unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut ground.own().open_file("c").unwrap(), &mut text).unwrap();
    assert_eq!(text, "Some(\"upper\")");
}
