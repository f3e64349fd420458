//! What containerd's own suite asks of a snapshotter, case by case (core/snapshots/testsuite), with the names it has there.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::time::SystemTime;

use rootling::containerd::api::snapshots::{Info, Kind};
use tonic::Code;

use super::client::{code, labels};
use super::compare::assert_tree_eq;
use super::grounds::{Ground, on_servers};
use super::mounting::Mounted;
use super::tree::TreeValue;

type Change<'a> = &'a dyn Fn(&Path);

#[test]
fn every_backend_is_a_snapshotter() {
    on_servers(&[
        ("Basic", basic),
        ("StatActive", stat_active),
        ("StatCommitted", stat_committed),
        ("Transitivity", transitivity),
        ("PrepareViewFailing", prepare_view_failing),
        ("Update", update),
        ("Remove", remove),
        ("Walk", walk),
        ("LayerFileUpdate", layer_file_update),
        ("RemoveDirectoryInLowerLayer", remove_directory_in_lower_layer),
        ("Chown", change_owners),
        ("DirectoryPermissionOnCommit", directory_permission_on_commit),
        ("RemoveIntermediateSnapshot", remove_intermediate_snapshot),
        ("DeletedFilesInChildSnapshot", deleted_files_in_child_snapshot),
        ("MoveFileFromLowerLayer", move_file_from_lower_layer),
        ("ViewReadonly", view_readonly),
        ("StatInWalk", stat_in_walk),
        ("CloseTwice", close_twice),
        ("RootPermission", root_permission),
        ("Rename", rename),
        ("128LayersMount", mount_of_128_layers),
    ]);
}

// ---------------------------------------------------------------- words

fn put(root: &Path, path: &str, text: &str, mode: u32) {
    let path = root.join(path);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
}

fn dir(root: &Path, path: &str, mode: u32) {
    let path = root.join(path);
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
}

fn gone(root: &Path, path: &str) {
    let path = root.join(path);
    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
}

fn own(root: &Path, path: &str, who: u32) {
    chown(root.join(path), Some(who), Some(who)).unwrap();
}

fn read(root: &Path) -> TreeValue {
    TreeValue::read_path(root).without_times()
}

/// An empty directory like a fresh root.
fn flat(ground: &Ground<'_>) -> std::path::PathBuf {
    let flat = ground.place();
    fs::create_dir(&flat).unwrap();
    fs::set_permissions(&flat, PermissionsExt::from_mode(0o755)).unwrap();
    flat
}

/// Prepares, changes and commits; returns the name.
fn committed(ground: &Ground<'_>, parent: &str, change: Change<'_>) -> String {
    let (key, name) = (ground.fresh("prepare"), ground.fresh("name"));
    let mounts = ground.client.prepare(&key, parent).unwrap();
    let mounted = Mounted::all(&mounts, &ground.place());
    change(mounted.path());
    drop(mounted);
    ground.client.commit(&name, &key).unwrap();
    name
}

fn assert_view(ground: &Ground<'_>, name: &str, expected: &TreeValue, what: &str) {
    let key = ground.fresh("view");
    let mounted = Mounted::all(&ground.client.view(&key, name).unwrap(), &ground.place());
    assert_tree_eq(&read(mounted.path()), expected, what);
    drop(mounted);
    ground.client.remove(&key).unwrap();
}

/// Makes the changes in layers and in one directory, and compares after each.
fn check_layers(ground: &Ground<'_>, changes: &[Change<'_>]) {
    let flat = flat(ground);
    let mut parent = String::new();
    for (layer, change) in changes.iter().enumerate() {
        parent = committed(ground, &parent, change);
        change(&flat);
        assert_view(ground, &parent, &read(&flat), &format!("layer {layer}"));
    }
}

fn now() -> (i64, i32) {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    (since.as_secs().try_into().unwrap(), since.subsec_nanos().try_into().unwrap())
}

fn created(info: &Info) -> (i64, i32) {
    let at = info.created_at.unwrap();
    (at.seconds, at.nanos)
}

fn updated(info: &Info) -> (i64, i32) {
    let at = info.updated_at.unwrap();
    (at.seconds, at.nanos)
}

// ---------------------------------------------------------------- cases

fn basic(ground: &Ground<'_>) {
    let client = &ground.client;
    let first = |root: &Path| {
        put(root, "foo", "foo\n", 0o777);
        ["a", "a/b", "a/b/c"].iter().for_each(|path| dir(root, path, 0o755));
    };
    let second = |root: &Path| {
        put(root, "bar", "bar\n", 0o777);
        put(root, "foo", "bar\n", 0o777);
        gone(root, "a/b");
    };
    let flat = flat(ground);
    let (preparing, name) = (ground.fresh("preparing"), ground.fresh("committed"));
    let mounted = Mounted::all(&client.prepare(&preparing, "").unwrap(), &ground.place());
    first(mounted.path());
    drop(mounted);
    client.commit(&name, &preparing).unwrap();
    let info = client.stat(&name).unwrap();
    assert_eq!((info.parent.as_str(), info.kind()), ("", Kind::Committed));
    assert_eq!(code(client.stat(&preparing)), Code::NotFound);

    first(&flat);
    let (next, next_name) = (ground.fresh("next"), ground.fresh("committed next"));
    let mounted = Mounted::all(&client.prepare(&next, &name).unwrap(), &ground.place());
    assert_tree_eq(&read(mounted.path()), &read(&flat), "what the child begins with");
    second(mounted.path());
    drop(mounted);
    let active = client.stat(&next).unwrap();
    assert_eq!((active.parent.as_str(), active.kind()), (name.as_str(), Kind::Active));
    client.commit(&next_name, &next).unwrap();
    let next_info = client.stat(&next_name).unwrap();
    assert_eq!((next_info.parent.as_str(), next_info.kind()), (name.as_str(), Kind::Committed));
    assert_eq!(code(client.stat(&next)), Code::NotFound);

    let walked = client.list(&[]);
    assert!(walked.contains(&info) && walked.contains(&next_info));
    second(&flat);
    assert_view(ground, &next_name, &read(&flat), "the view");

    let refused = client.remove(&name).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("remove"), "{refused}");
    client.remove(&next_name).unwrap();
    client.remove(&name).unwrap();
}

fn stat_active(ground: &Ground<'_>) {
    let key = ground.fresh("active");
    let mounted = Mounted::all(&ground.client.prepare(&key, "").unwrap(), &ground.place());
    put(mounted.path(), "foo", "foo\n", 0o777);
    let info = ground.client.stat(&key).unwrap();
    assert_eq!((info.name.as_str(), info.parent.as_str(), info.kind()), (key.as_str(), "", Kind::Active));
}

fn stat_committed(ground: &Ground<'_>) {
    let (key, name) = (ground.fresh("active"), ground.fresh("committed"));
    let mounted = Mounted::all(&ground.client.prepare(&key, "").unwrap(), &ground.place());
    put(mounted.path(), "foo", "foo\n", 0o777);
    // While it is mounted.
    ground.client.commit(&name, &key).unwrap();
    let info = ground.client.stat(&name).unwrap();
    assert_eq!((info.name.as_str(), info.parent.as_str(), info.kind()), (name.as_str(), "", Kind::Committed));
}

fn transitivity(ground: &Ground<'_>) {
    let a = committed(ground, "", &|root| put(root, "foo", "foo\n", 0o777));
    let b = committed(ground, &a, &|root| put(root, "foo", "foo bar\n", 0o777));
    let parent = ground.client.stat(&b).unwrap().parent;
    assert_eq!(parent, a);
    assert_eq!(ground.client.stat(&parent).unwrap().parent, "");
}

fn prepare_view_failing(ground: &Ground<'_>) {
    let client = &ground.client;
    let parent = committed(ground, "", &|_| {});
    let key = ground.fresh("twice");
    client.prepare(&key, &parent).unwrap();
    assert_eq!(code(client.view(&key, &parent)), Code::AlreadyExists);
    assert_eq!(code(client.prepare(&key, &parent)), Code::AlreadyExists);
    let key = ground.fresh("twice");
    client.view(&key, &parent).unwrap();
    assert_eq!(code(client.view(&key, &parent)), Code::AlreadyExists);
    assert_eq!(code(client.prepare(&key, "")), Code::AlreadyExists);
    assert_eq!(code(client.prepare(&parent, "")), Code::AlreadyExists);
}

fn update(ground: &Ground<'_>) {
    let client = &ground.client;
    let before = now();
    client.prepare("c1-a", "").unwrap();
    client.commit("c1", "c1-a").unwrap();
    client.prepare("c2-a", "c1").unwrap();
    client.commit("c2", "c2-a").unwrap();
    client.prepare("a1", "c2").unwrap();
    client.prepare("a2", "").unwrap();
    client.view("v1", "c2").unwrap();
    client.view("v2", "").unwrap();
    let after = now();
    for (name, kind, parent) in [
        ("c1", Kind::Committed, ""),
        ("c2", Kind::Committed, "c1"),
        ("a1", Kind::Active, "c2"),
        ("a2", Kind::Active, ""),
        ("v1", Kind::View, "c2"),
        ("v2", Kind::View, ""),
    ] {
        let is_it = |info: &Info| {
            assert_eq!((info.name.as_str(), info.kind(), info.parent.as_str()), (name, kind, parent));
        };
        let first = client.stat(name).unwrap();
        is_it(&first);
        assert!(before <= created(&first) && created(&first) <= after, "{first:?}");
        assert_eq!(first.created_at, first.updated_at);

        let all = labels(&[("l1", "v1"), ("l2", "v2"), ("l3", "v3"), ("containerd.io/gc.root", "t")]);
        let asked = Info { parent: "doesnotexist".into(), labels: all.clone(), ..first.clone() };
        let begun = now();
        let info = client.update(asked, &[]).unwrap();
        let ended = now();
        is_it(&info);
        assert_eq!((created(&info), &info.labels), (created(&first), &all));
        assert!(begun <= updated(&info) && updated(&info) <= ended, "{info:?}");

        let asked = Info { labels: labels(&[("l1", "updated"), ("l4", "v4")]), ..info };
        let info = client.update(asked, &["labels.l1", "labels.l2"]).unwrap();
        let expected = labels(&[("l1", "updated"), ("l3", "v3"), ("containerd.io/gc.root", "t")]);
        assert_eq!(info.labels, expected);
        let expected = labels(&[("l4", "v4"), ("containerd.io/gc.root", "t")]);
        let info = client.update(Info { labels: expected.clone(), ..info }, &["labels"]).unwrap();
        assert_eq!(info.labels, expected);
        assert_eq!(client.stat(name).unwrap(), info);
        let asked = Info { parent: "doesnotexist".into(), ..info };
        assert_eq!(code(client.update(asked, &["parent"])), Code::InvalidArgument);
    }
    assert_eq!(code(client.update(Info { name: "none".into(), ..Info::default() }, &[])), Code::NotFound);
}

fn remove(ground: &Ground<'_>) {
    let client = &ground.client;
    client.prepare("committed-a", "").unwrap();
    client.commit("committed-1", "committed-a").unwrap();
    client.prepare("reuse-1", "committed-1").unwrap();
    client.remove("reuse-1").unwrap();
    client.view("reuse-1", "committed-1").unwrap();
    client.remove("reuse-1").unwrap();
    client.prepare("reuse-1", "").unwrap();
    client.remove("committed-1").unwrap();
    client.commit("committed-1", "reuse-1").unwrap();
}

fn walk(ground: &Ground<'_>) {
    let client = &ground.client;
    let root = |more: &[(&str, &str)]| labels(&[&[("containerd.io/gc.root", "check-walk")], more].concat());
    client.prepare_with("a-np", "", root(&[])).unwrap();
    client.prepare_with("p-tmp", "", root(&[])).unwrap();
    client.commit_with("p", "p-tmp", "", root(&[])).unwrap();
    client.prepare_with("a", "p", root(&[])).unwrap();
    client.view_with("v", "p", root(&[])).unwrap();
    // What it was prepared with is not inherited.
    client.prepare_with("p-wl-tmp", "", root(&[("l", "0")])).unwrap();
    client.commit_with("p-wl", "p-wl-tmp", "", root(&[("l", "1")])).unwrap();
    client.prepare_with("a-wl", "p-wl", root(&[("l", "2")])).unwrap();
    client.view_with("v-wl", "p-wl", root(&[("l", "3")])).unwrap();
    client.prepare_with("a-np-wl", "", root(&[("l", "2")])).unwrap();
    for (filters, expected) in [
        (
            &["labels.\"containerd.io/gc.root\"==check-walk"][..],
            &["a", "a-np", "a-np-wl", "a-wl", "p", "p-wl", "v", "v-wl"][..],
        ),
        (&["kind==active,labels.\"containerd.io/gc.root\"==check-walk"], &["a", "a-np", "a-np-wl", "a-wl"]),
        (&["kind==view,labels.\"containerd.io/gc.root\"==check-walk"], &["v", "v-wl"]),
        (&["kind==committed,labels.\"containerd.io/gc.root\"==check-walk"], &["p", "p-wl"]),
        (&["name==p", "name==a-np-wl"], &["a-np-wl", "p"]),
        (&["name==a-wl,labels.l"], &["a-wl"]),
        (&["parent==p"], &["a", "v"]),
        (&["parent!=\"\",labels.\"containerd.io/gc.root\"==check-walk"], &["a", "a-wl", "v", "v-wl"]),
        (&["labels.l"], &["a-np-wl", "a-wl", "p-wl", "v-wl"]),
        (&["labels.l==2"], &["a-np-wl", "a-wl"]),
    ] {
        let mut names = client.names(filters);
        names.sort();
        assert_eq!(names, expected, "{filters:?}");
    }
}

fn layer_file_update(ground: &Ground<'_>) {
    for _ in 0..5 {
        check_layers(
            ground,
            &[
                &|root| {
                    dir(root, "etc", 0o700);
                    put(root, "etc/hosts", "mydomain 10.0.0.1", 0o644);
                    put(root, "etc/profile", "PATH=/usr/bin", 0o644);
                },
                &|root| {
                    put(root, "etc/hosts", "mydomain 10.0.0.2", 0o644);
                    put(root, "etc/profile", "PATH=/usr/bin", 0o666);
                    dir(root, "root", 0o700);
                    put(root, "root/.bashrc", "PATH=/usr/sbin:/usr/bin", 0o644);
                },
            ],
        );
    }
}

fn remove_directory_in_lower_layer(ground: &Ground<'_>) {
    check_layers(
        ground,
        &[
            &|root| {
                dir(root, "lib", 0o700);
                put(root, "lib/hidden", "", 0o644);
            },
            &|root| {
                gone(root, "lib");
                dir(root, "lib", 0o700);
                put(root, "lib/not-hidden", "", 0o644);
            },
            &|root| put(root, "lib/newfile", "", 0o644),
        ],
    );
}

fn change_owners(ground: &Ground<'_>) {
    let paths = ["opt", "opt/a", "opt/a/b"];
    check_layers(
        ground,
        &[
            &|root| {
                paths.iter().for_each(|path| dir(root, path, 0o700));
                put(root, "opt/a/b/file.txt", "hello", 0o644);
            },
            &|root| paths.iter().chain(&["opt/a/b/file.txt"]).for_each(|path| own(root, path, 1)),
        ],
    );
}

fn directory_permission_on_commit(ground: &Ground<'_>) {
    check_layers(
        ground,
        &[
            &|root| {
                ["dir1", "dir2", "dir3", "dir4", "dir5"].iter().for_each(|path| dir(root, path, 0o700));
                put(root, "dir4/f1", "...", 0o644);
                put(root, "dir5/f1", "...", 0o644);
                ["dir1", "dir2", "dir3", "dir5", "dir5/f1"].iter().for_each(|path| own(root, path, 1));
            },
            &|root| {
                own(root, "dir2", 0);
                gone(root, "dir3");
                own(root, "dir4", 1);
                own(root, "dir4/f1", 1);
            },
            &|root| {
                dir(root, "dir3", 0o700);
                own(root, "dir3", 1);
                gone(root, "dir5");
                dir(root, "dir5", 0o700);
                own(root, "dir5", 1);
            },
        ],
    );
}

fn remove_intermediate_snapshot(ground: &Ground<'_>) {
    let base = committed(ground, "", &|_| {});
    let middle = committed(ground, &base, &|_| {});
    let top = ground.fresh("top");
    ground.client.prepare(&top, &middle).unwrap();
    assert_eq!(code(ground.client.remove(&middle)), Code::FailedPrecondition);
    [&top, &middle, &base].iter().for_each(|key| ground.client.remove(key).unwrap());
}

fn deleted_files_in_child_snapshot(ground: &Ground<'_>) {
    check_layers(
        ground,
        &[
            &|root| {
                put(root, "foo", "foo\n", 0o777);
                put(root, "foobar", "foobar\n", 0o777);
            },
            &|root| gone(root, "foobar"),
            &|_| {},
        ],
    );
}

fn move_file_from_lower_layer(ground: &Ground<'_>) {
    check_layers(
        ground,
        &[
            &|root| {
                dir(root, "dir1", 0o700);
                put(root, "dir1/f1", "Hello", 0o644);
                dir(root, "dir2", 0o700);
                put(root, "dir2/f2", "...", 0o644);
            },
            &|root| {
                dir(root, "dir3", 0o700);
                put(root, "dir3/f1", "Hello", 0o644);
                gone(root, "dir1");
                fs::hard_link(root.join("dir2/f2"), root.join("dir3/f2")).unwrap();
                gone(root, "dir2/f2");
            },
        ],
    );
}

fn view_readonly(ground: &Ground<'_>) {
    let client = &ground.client;
    let name = committed(ground, "", &|_| {});
    // Of several layers too, and of none.
    let second = committed(ground, &name, &|root| put(root, "f", "f", 0o644));
    for parent in [name.as_str(), &second, ""] {
        let key = ground.fresh("view");
        let mounted = Mounted::all(&client.view(&key, parent).unwrap(), &ground.place());
        let refused = fs::write(mounted.path().join("testfile"), "testcontent").unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        drop(mounted);
        client.remove(&key).unwrap();
    }
    client.remove(&second).unwrap();
    client.remove(&name).unwrap();
}

fn stat_in_walk(ground: &Ground<'_>) {
    let name = committed(ground, "", &|_| {});
    ground.client.view(&ground.fresh("v"), &name).unwrap();
    let walked = ground.client.list(&[]);
    assert!(walked.len() >= 2);
    for info in walked {
        assert_eq!(ground.client.stat(&info.name).unwrap(), info);
    }
}

/// To close is the client's: two connections end, and the server goes on.
fn close_twice(ground: &Ground<'_>) {
    let name = committed(ground, "", &|_| {});
    ground.client.remove(&name).unwrap();
    drop([ground.server.client(), ground.server.client()]);
    assert_eq!(code(ground.client.stat(&name)), Code::NotFound);
}

fn root_permission(ground: &Ground<'_>) {
    let mounted = Mounted::all(&ground.client.prepare(&ground.fresh("fresh"), "").unwrap(), &ground.place());
    assert_eq!(fs::metadata(mounted.path()).unwrap().permissions().mode() & 0o7777, 0o755);
}

fn rename(ground: &Ground<'_>) {
    let stacks = ground.stacks();
    check_layers(
        ground,
        &[
            &|root| {
                dir(root, "dir1", 0o700);
                dir(root, "somefiles", 0o700);
                put(root, "somefiles/f1", "was here first!", 0o644);
                put(root, "somefiles/f2", "nothing interesting", 0o644);
            },
            &|root| {
                if !stacks {
                    fs::rename(root.join("dir1"), root.join("dir2")).unwrap();
                }
                put(root, "somefiles/f1-overwrite", "new content 1", 0o644);
                fs::rename(root.join("somefiles/f1-overwrite"), root.join("somefiles/f1")).unwrap();
                fs::rename(root.join("somefiles/f2"), root.join("somefiles/f3")).unwrap();
            },
        ],
    );
}

/// More than 128: beyond what the options of one mount can name as well.
fn mount_of_128_layers(ground: &Ground<'_>) {
    const LAYERS: usize = 300;
    // What is copied for each layer is none of the point.
    let layers = if ground.stacks() { LAYERS } else { 130 };
    let first = |root: &Path| {
        put(root, "bottom", "way at the bottom\n", 0o777);
        put(root, "overwriteme", "FIRST!\n", 0o777);
        dir(root, "addhere", 0o755);
        dir(root, "onlyme", 0o755);
        put(root, "onlyme/bottom", "bye!\n", 0o777);
    };
    let next = |root: &Path, layer: usize| {
        put(root, "overwriteme", &format!("{layer} WAS HERE!\n"), 0o777);
        put(root, &format!("addhere/file-{layer}"), "same\n", 0o755);
        gone(root, "onlyme");
        dir(root, "onlyme", 0o755);
        put(root, &format!("onlyme/file-{layer}"), "only me!\n", 0o777);
    };
    let flat = flat(ground);
    let mut parent = String::new();
    for layer in 0..layers {
        let (key, name) = (ground.fresh("prepare"), ground.fresh("layer"));
        let mounted = Mounted::all(&ground.client.prepare(&key, &parent).unwrap(), &ground.place());
        let looks = layer < 8 || layer % 8 == 0;
        if looks {
            assert_tree_eq(&read(mounted.path()), &read(&flat), &format!("layer {layer} before"));
        }
        for root in [mounted.path(), &flat] {
            if layer == 0 { first(root) } else { next(root, layer) }
        }
        if looks {
            assert_tree_eq(&read(mounted.path()), &read(&flat), &format!("layer {layer} after"));
        }
        drop(mounted);
        ground.client.commit(&name, &key).unwrap();
        parent = name;
    }
    assert_view(ground, &parent, &read(&flat), "the view of all");
}
