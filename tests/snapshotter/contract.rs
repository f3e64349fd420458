//! What containerd's suite does not ask, and containerd relies on: every error, odd keys, exact content, sizes, many at once.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rootling::containerd::api::snapshots::{Info, Kind};
use tonic::Code;

use super::client::{code, labels};
use super::compare::assert_tree_eq;
use super::grounds::{Ground, on_servers};
use super::mounting::Mounted;
use super::tree::{TreeValue, acl, block_device, char_device, dir, fifo, file, socket, sparse, symlink};

#[test]
fn the_contract_is_kept_beyond_the_suite() {
    on_servers(&[
        ("nothing is held yet", nothing_is_held_yet),
        ("errors", every_error_has_its_code),
        ("odd keys", keys_are_any_text),
        ("labels", labels_have_limits),
        ("filters", filters_are_refused_where_they_are_wrong),
        ("fidelity", what_is_committed_is_kept_exactly),
        ("isolation", trees_on_one_parent_do_not_see_each_other),
        ("usage", usage_is_without_the_parents),
        ("rebase", what_was_prepared_on_nothing_is_committed_on_a_parent),
        ("race", one_of_many_gets_a_key),
        ("many at once", many_clients_work_at_once),
        ("hundreds", hundreds_are_listed_in_pages),
        ("unremovable", what_resists_is_removed),
    ]);
}

fn nothing_is_held_yet(ground: &Ground<'_>) {
    assert_eq!(ground.client.pages(&[]).unwrap(), Vec::<Vec<Info>>::new());
    assert_eq!(ground.client.names(&["name~=/./"]), [""; 0]);
    ground.client.cleanup().unwrap();
}

fn every_error_has_its_code(ground: &Ground<'_>) {
    let client = &ground.client;
    let [active, view, committed, other] =
        ["active", "view", "committed", "other"].map(|what| ground.fresh(what));
    client.prepare("e-tmp", "").unwrap();
    client.commit(&committed, "e-tmp").unwrap();
    client.prepare("e-tmp", "").unwrap();
    client.commit(&other, "e-tmp").unwrap();
    client.prepare(&active, &committed).unwrap();
    client.view(&view, &committed).unwrap();
    for key in [&active, &view, &committed] {
        assert_eq!(code(client.prepare(key, "")), Code::AlreadyExists);
        assert_eq!(code(client.view(key, &committed)), Code::AlreadyExists);
        assert_eq!(code(client.commit(key, &active)), Code::AlreadyExists);
    }
    assert_eq!(code(client.prepare("e-new", "none")), Code::NotFound);
    assert_eq!(code(client.view("e-new", "none")), Code::NotFound);
    for parent in [&active, &view] {
        assert_eq!(code(client.prepare("e-new", parent)), Code::InvalidArgument);
        assert_eq!(code(client.view("e-new", parent)), Code::InvalidArgument);
    }
    assert_eq!(code(client.mounts("none")), Code::NotFound);
    assert_eq!(code(client.mounts(&committed)), Code::FailedPrecondition);
    assert_eq!(code(client.commit("e-new", "none")), Code::NotFound);
    assert_eq!(code(client.commit("e-new", &view)), Code::FailedPrecondition);
    assert_eq!(code(client.commit("e-new", &committed)), Code::FailedPrecondition);
    let rebase = |parent: &str| code(client.commit_with("e-new", &active, parent, labels(&[])));
    assert_eq!(rebase(&other), Code::InvalidArgument);
    client.prepare("e-free", "").unwrap();
    assert_eq!(code(client.commit_with("e-new", "e-free", &view, labels(&[]))), Code::FailedPrecondition);
    client.remove("e-free").unwrap();
    assert_eq!(code(client.remove("none")), Code::NotFound);
    let refused = client.remove(&committed).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("remove") && refused.message().contains(&committed), "{refused}");
    assert_eq!(code(client.stat("none")), Code::NotFound);
    assert_eq!(code(client.usage("none")), Code::NotFound);
    for path in ["parent", "name", "kind", "created_at", "labels.", "labelsx"] {
        let info = client.stat(&active).unwrap();
        assert_eq!(code(client.update(info, &["labels.a", path])), Code::InvalidArgument, "{path}");
    }
    assert_eq!(code(client.prepare("", "")), Code::InvalidArgument);
    assert_eq!(code(client.commit("", &active)), Code::InvalidArgument);
    // Nothing of all that has done anything.
    assert_eq!(code(client.stat("e-new")), Code::NotFound);
    assert_eq!(client.stat(&active).unwrap().kind(), Kind::Active);
    client.commit_with("e-same", &active, &committed, labels(&[])).unwrap();
    assert_eq!(client.stat("e-same").unwrap().parent, committed);
}

fn keys_are_any_text(ground: &Ground<'_>) {
    let client = &ground.client;
    let long = "k".repeat(400);
    for key in [
        "../../../etc/passwd",
        "/",
        ".",
        "..",
        "new\nline",
        "nul\0in it",
        "extract-123-abc sha256:0123",
        "\u{1f600} \\x2f %2f \"quoted\"",
        "k8s.io/12/sha256:ab",
        " ",
        &long,
    ] {
        let name = format!("{key}!");
        let mounted = Mounted::all(&client.prepare(key, "").unwrap(), &ground.place());
        fs::write(mounted.path().join("key"), key).unwrap();
        drop(mounted);
        assert_eq!(client.stat(key).unwrap().name, key);
        client.commit(&name, key).unwrap();
        let mounted = Mounted::all(&client.view(key, &name).unwrap(), &ground.place());
        assert_eq!(fs::read_to_string(mounted.path().join("key")).unwrap(), key);
        drop(mounted);
        client.remove(key).unwrap();
        client.remove(&name).unwrap();
    }
}

fn labels_have_limits(ground: &Ground<'_>) {
    let client = &ground.client;
    let most = labels(&[("key", &"v".repeat(4093)), ("empty", "")]);
    client.prepare_with("l", "", most.clone()).unwrap();
    let info = client.stat("l").unwrap();
    assert_eq!(info.labels.len(), 1, "a label without a value is none");
    let more = labels(&[("key", &"v".repeat(4094))]);
    assert_eq!(code(client.prepare_with("l2", "", more.clone())), Code::InvalidArgument);
    assert_eq!(code(client.view_with("l2", "", more.clone())), Code::InvalidArgument);
    assert_eq!(code(client.commit_with("l2", "l", "", more.clone())), Code::InvalidArgument);
    assert_eq!(code(client.update(Info { labels: more, ..info.clone() }, &[])), Code::InvalidArgument);
    let odd = labels(&[("containerd.io/gc.ref/a\"b", "1"), ("new\nline", "2")]);
    let info = client.update(Info { labels: odd.clone(), ..info }, &["labels"]).unwrap();
    assert_eq!(info.labels, odd);
    let without = client.update(Info { labels: labels(&[]), ..info }, &["labels.containerd.io/gc.ref/a\"b"]);
    assert_eq!(without.unwrap().labels, labels(&[("new\nline", "2")]));
}

fn filters_are_refused_where_they_are_wrong(ground: &Ground<'_>) {
    for (filter, at) in [("name==", "byte 6"), ("name=x", "byte 4"), ("name~=(", "byte 6"), ("a,", "byte 2")]
    {
        let refused = ground.client.pages(&["name==fine", filter]).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(at), "{refused}");
    }
}

fn what_is_committed_is_kept_exactly(ground: &Ground<'_>) {
    let mut value = TreeValue::empty();
    let mut capability = 0x0200_0001_u32.to_le_bytes().to_vec();
    [0x400_u32, 0, 0, 0].iter().for_each(|word| capability.extend_from_slice(&word.to_le_bytes()));
    value.insert("", dir().mode(0o750).owner(3, 4).mtime(1_111_111_111, 7));
    value.insert("d", dir().mode(0o1777).mtime(1_222_222_222, 999_999_999));
    value.insert("d/one", file("hard").mode(0o4711).owner(1000, 100).mtime(1, 1));
    value.link(Path::new("d/one"), "two".into());
    value.insert("capable", file("elf").mode(0o755).xattr("security.capability", &capability));
    value.insert("trusted", file("x").xattr("trusted.mark", b"t\0t").xattr("user.mark", b""));
    let rules =
        acl(&[(1, 6, u32::MAX), (2, 7, 1234), (4, 4, u32::MAX), (16, 7, u32::MAX), (32, 0, u32::MAX)]);
    value.insert("ruled", file("x").mode(0o670).xattr("system.posix_acl_access", &rules));
    value.insert("hole", sparse(1 << 20, &[(65_536 * 3, b"data")]));
    value.insert("pipe", fifo());
    value.insert("socket", socket());
    value.insert("char", char_device(1, 3));
    value.insert("block", block_device(7, 200));
    value.insert("link", symlink("../\u{e4}/nowhere"));
    value.insert(std::ffi::OsString::from("new\nline"), file("n"));
    let bytes = <std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(b"\xff\xfe".to_vec());
    value.insert(bytes, file("b"));

    let client = &ground.client;
    let mounted = Mounted::all(&client.prepare("f-tmp", "").unwrap(), &ground.place());
    value.make(mounted.path());
    drop(mounted);
    client.commit("f", "f-tmp").unwrap();
    let look = |what: &str, mounts: Vec<_>| {
        let mounted = Mounted::all(&mounts, &ground.place());
        assert_tree_eq(&TreeValue::read_path(mounted.path()), &value, what);
    };
    look("the view", client.view("f-view", "f").unwrap());
    look("a child", client.prepare("f-child", "f").unwrap());
    // One more layer, of which nothing is seen.
    client.commit("f2", "f-child").unwrap();
    look("the view of a child", client.view("f2-view", "f2").unwrap());
    look("the same again", client.mounts("f2-view").unwrap());
}

fn trees_on_one_parent_do_not_see_each_other(ground: &Ground<'_>) {
    let client = &ground.client;
    client.prepare("i-tmp", "").unwrap();
    let base = Mounted::all(&client.mounts("i-tmp").unwrap(), &ground.place());
    fs::write(base.path().join("f"), "base").unwrap();
    drop(base);
    client.commit("i", "i-tmp").unwrap();
    let [one, two] =
        ["i-one", "i-two"].map(|key| Mounted::all(&client.prepare(key, "i").unwrap(), &ground.place()));
    fs::write(one.path().join("f"), "one").unwrap();
    fs::remove_file(two.path().join("f")).unwrap();
    let view = Mounted::all(&client.view("i-view", "i").unwrap(), &ground.place());
    assert_eq!(fs::read_to_string(one.path().join("f")).unwrap(), "one");
    assert!(!two.path().join("f").exists());
    assert_eq!(fs::read_to_string(view.path().join("f")).unwrap(), "base");
}

fn usage_is_without_the_parents(ground: &Ground<'_>) {
    const MIB: i64 = 1 << 20;
    let client = &ground.client;
    let fill = |key: &str, parent: &str, file: &str, mib: usize| {
        let mounted = Mounted::all(&client.prepare(key, parent).unwrap(), &ground.place());
        let noise = crate::serve::server::noise(mib << 20, mib as u64);
        fs::write(mounted.path().join(file), noise).unwrap();
        let written = fs::File::open(mounted.path().join(file)).unwrap();
        written.sync_all().unwrap();
    };
    fill("u-tmp", "", "eight", 8);
    client.commit("u1", "u-tmp").unwrap();
    fill("u-tmp", "u1", "two", 2);
    let (active, _) = client.usage("u-tmp").unwrap();
    assert!((2 * MIB..3 * MIB).contains(&active), "{active}");
    client.commit("u2", "u-tmp").unwrap();
    let (first, first_inodes) = client.usage("u1").unwrap();
    let (second, second_inodes) = client.usage("u2").unwrap();
    assert!((8 * MIB..9 * MIB).contains(&first) && (1..=3).contains(&first_inodes), "{first} {first_inodes}");
    assert!(
        (2 * MIB..3 * MIB).contains(&second) && (1..=3).contains(&second_inodes),
        "{second} {second_inodes}"
    );
    client.view("u-view", "u2").unwrap();
    let (view, _) = client.usage("u-view").unwrap();
    assert!(view < MIB / 4, "{view}");
    assert_eq!(client.usage("u2").unwrap(), (second, second_inodes));
}

fn what_was_prepared_on_nothing_is_committed_on_a_parent(ground: &Ground<'_>) {
    let client = &ground.client;
    let below = Mounted::all(&client.prepare("r-tmp", "").unwrap(), &ground.place());
    fs::create_dir(below.path().join("dir")).unwrap();
    for file in ["keep", "delete", "dir/hidden"] {
        fs::write(below.path().join(file), file).unwrap();
    }
    drop(below);
    client.commit("r1", "r-tmp").unwrap();

    // As a parallel unpack has it: what a layer deletes is marked as overlay marks it.
    let upper = Mounted::all(&client.prepare("r-tmp", "").unwrap(), &ground.place());
    fs::write(upper.path().join("new"), "new").unwrap();
    let whiteout = upper.path().join("delete");
    let (kind, mode) = (nix::sys::stat::SFlag::S_IFCHR, nix::sys::stat::Mode::empty());
    nix::sys::stat::mknod(&whiteout, kind, mode, 0).unwrap();
    fs::create_dir(upper.path().join("dir")).unwrap();
    fs::set_permissions(upper.path().join("dir"), PermissionsExt::from_mode(0o755)).unwrap();
    let opaque = Command::new("setfattr")
        .args(["-n", "trusted.overlay.opaque", "-v", "y"])
        .arg(upper.path().join("dir"))
        .status();
    assert!(opaque.unwrap().success());
    drop(upper);
    client.commit_with("r2", "r-tmp", "r1", labels(&[])).unwrap();
    assert_eq!(client.stat("r2").unwrap().parent, "r1");
    assert_eq!(code(client.remove("r1")), Code::FailedPrecondition);
    for (what, mounts) in
        [("view", client.view("r-view", "r2").unwrap()), ("child", client.prepare("r-child", "r2").unwrap())]
    {
        let mounted = Mounted::all(&mounts, &ground.place());
        let names = |at: &Path| {
            let mut names: Vec<_> =
                fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(mounted.path()), ["dir", "keep", "new"], "{what}");
        assert_eq!(names(&mounted.path().join("dir")), [""; 0], "{what}");
    }
    // What stands on it, committed as ever.
    client.commit("r3", "r-child").unwrap();
    assert_eq!(client.stat("r3").unwrap().parent, "r2");
}

fn one_of_many_gets_a_key(ground: &Ground<'_>) {
    let codes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                let answered = ground.server.client().prepare("race", "");
                codes.lock().unwrap().push(answered.map_or_else(|status| status.code(), |_| Code::Ok));
            });
        }
    });
    let codes = codes.into_inner().unwrap();
    assert_eq!(codes.iter().filter(|code| **code == Code::Ok).count(), 1);
    assert_eq!(codes.iter().filter(|code| **code == Code::AlreadyExists).count(), 31);
    ground.client.remove("race").unwrap();
}

fn many_clients_work_at_once(ground: &Ground<'_>) {
    std::thread::scope(|scope| {
        for worker in 0..8 {
            scope.spawn(move || {
                let client = ground.server.client();
                let mut parent = String::new();
                for round in 0..10 {
                    let (key, name) = (format!("m{worker}-{round}-a"), format!("m{worker}-{round}"));
                    let mounted = Mounted::all(&client.prepare(&key, &parent).unwrap(), &ground.place());
                    fs::write(mounted.path().join(&name), &name).unwrap();
                    assert_eq!(fs::read_dir(mounted.path()).unwrap().count(), round + 1);
                    drop(mounted);
                    client.commit(&name, &key).unwrap();
                    client.view(&key, &name).unwrap();
                    client.remove(&key).unwrap();
                    parent = name;
                }
            });
        }
    });
    assert_eq!(ground.client.names(&["name~=^m[0-9]-[0-9]$"]).len(), 80);
}

fn hundreds_are_listed_in_pages(ground: &Ground<'_>) {
    let client = &ground.client;
    client.prepare("h-tmp", "").unwrap();
    client.commit("h", "h-tmp").unwrap();
    // Labels of 8 KiB each, so that all in one message would be more than clients take.
    let heavy = "x".repeat(4000);
    for number in 0..600 {
        let heavy = labels(&[("number", &number.to_string()), ("one", &heavy), ("two", &heavy)]);
        client.view_with(&format!("h-{number:03}"), "h", heavy).unwrap();
    }
    let begun = Instant::now();
    let pages = client.pages(&["parent==h"]).unwrap();
    let took = begun.elapsed();
    assert!(pages.len() >= 6 && pages.iter().all(|page| (1..=100).contains(&page.len())));
    let names: HashSet<String> = pages.into_iter().flatten().map(|info| info.name).collect();
    assert_eq!(names.len(), 600);
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(client.names(&["name~=/^h-[0-4][0-9]{2}$/,labels.number!=7"]).len(), 499);
    assert_eq!(client.names(&["labels.number==599", "name==h-000"]), ["h-000", "h-599"]);
}

fn what_resists_is_removed(ground: &Ground<'_>) {
    let client = &ground.client;
    let mounted = Mounted::all(&client.prepare("x-tmp", "").unwrap(), &ground.place());
    fs::create_dir(mounted.path().join("d")).unwrap();
    fs::write(mounted.path().join("d/immutable"), "x").unwrap();
    drop(mounted);
    // In the tree itself: overlay hands such flags on, older kernels not.
    let mounts = client.mounts("x-tmp").unwrap();
    let upper = mounts[0].options.iter().find_map(|option| option.strip_prefix("upperdir="));
    let tree = upper.map_or_else(|| mounts[0].source.clone(), str::to_owned);
    let run = |program: &str, arguments: &[&str]| {
        assert!(
            Command::new(program)
                .args(arguments)
                .stdout(std::process::Stdio::null())
                .status()
                .unwrap()
                .success()
        );
    };
    run("chattr", &["+i", &format!("{tree}/d/immutable")]);
    if ground.backend == "btrfs" {
        run("btrfs", &["subvolume", "create", &format!("{tree}/nested")]);
        fs::write(format!("{tree}/nested/file"), "x").unwrap();
        assert_eq!(fs::metadata(format!("{tree}/nested")).unwrap().ino(), 256);
    }
    client.remove("x-tmp").unwrap();
    client.cleanup().unwrap();
    assert!(!Path::new(&tree).exists());
    assert_eq!(fs::read_dir(ground.environment.store().join("trash")).unwrap().count(), 0);
}
