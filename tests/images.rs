//! Images in the store, through the library as a pull uses it (`images/adder.rs`): what is unpacked, what is shared, what goes again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::environment::{Environment, Ran, ran};
use crate::grounds::on_file_systems;
use crate::host::FileSystem;
use crate::oci::{Tar, write_layout};

/// What adding said: the node, how many layers were unpacked, and whether the image was there.
#[derive(Debug)]
struct Added {
    id: String,
    unpacked: usize,
    was_there: bool,
}

fn adder() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.ancestors().nth(2).unwrap().join("examples/adder");
    assert!(path.exists(), "{path:?} is not built: cargo build --examples");
    path
}

fn try_add(environment: &Environment, arguments: &[&str]) -> Ran {
    let mut command = Command::new(adder());
    command.env_remove("ROOTLING_FAULT").args(arguments);
    command.current_dir(environment.dir.path());
    ran(command.output().unwrap())
}

fn add(environment: &Environment, layout: &str, names: &[&str]) -> Added {
    let ran = try_add(environment, &[&["add", "store", layout], names].concat());
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    let words: Vec<&str> = ran.stdout.split_whitespace().collect();
    Added { id: words[0].to_owned(), unpacked: words[1].parse().unwrap(), was_there: words[2] == "true" }
}

fn list(environment: &Environment) -> Vec<String> {
    let ran = try_add(environment, &["list", "store"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    ran.stdout.lines().map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect()
}

/// The files of a tree and what they hold; directories hold nothing.
fn files(environment: &Environment, name: &str) -> BTreeMap<String, String> {
    let at = environment.path("view");
    fs::create_dir_all(&at).unwrap();
    environment.ok(["mount", name, at.to_str().unwrap()]);
    let found = walkdir::WalkDir::new(&at).min_depth(1).into_iter().map(|entry| {
        let entry = entry.unwrap();
        let path = entry.path().strip_prefix(&at).unwrap().display().to_string();
        let content = match entry.file_type() {
            kind if kind.is_file() => String::from_utf8_lossy(&fs::read(entry.path()).unwrap()).into_owned(),
            kind if kind.is_symlink() => format!("-> {}", fs::read_link(entry.path()).unwrap().display()),
            _ => String::new(),
        };
        (path, content)
    });
    let found = found.collect();
    environment.ok(["umount", at.to_str().unwrap()]);
    found
}

fn entries(environment: &Environment, directory: &str) -> Vec<String> {
    let listed = fs::read_dir(environment.store().join(directory)).into_iter().flatten();
    listed.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

fn base() -> Vec<u8> {
    let tar = Tar::default().dir("etc/").file("etc/motd", "welcome\n").dir("usr/").dir("usr/bin/");
    tar.program("usr/bin/tool", "tool of old\n").symlink("bin", "usr/bin").end()
}

fn other_base() -> Vec<u8> {
    Tar::default().dir("etc/").file("etc/other", "another system\n").dir("opt/").end()
}

fn second() -> Vec<u8> {
    Tar::default().dir("etc/").file("etc/second", "added\n").end()
}

fn third() -> Vec<u8> {
    Tar::default().dir("usr/").dir("usr/bin/").program("usr/bin/tool", "tool of new\n").end()
}

/// A file behind what is a link in `base`, and then a directory in place of that link: it comes late.
fn late() -> Vec<u8> {
    Tar::default().file("bin/new", "new\n").dir("bin/").end()
}

fn layout(environment: &Environment, name: &str, layers: &[Vec<u8>], says: &str) -> String {
    write_layout(&environment.path(name), layers, &json!({ "Cmd": [says] }));
    name.to_owned()
}

fn is_delta(sort: FileSystem) -> bool {
    sort != FileSystem::Btrfs
}

#[test]
fn layers_are_unpacked_once_whatever_images_have_them() {
    on_file_systems(|environment, sort| {
        let app = layout(environment, "app", &[base(), second(), third()], "/app");
        let added = add(environment, &app, &["app:1"]);
        assert_eq!((added.unpacked, added.was_there), (3, false), "{sort}");
        // Nothing is left of the work: not even a lock.
        assert_eq!(environment.json(["fsck"])["problems"], json!([]), "{sort}");
        assert_eq!(list(environment), ["app:1"]);
        let found = files(environment, "app:1");
        assert_eq!(found["usr/bin/tool"], "tool of new\n");
        assert_eq!((found["etc/second"].as_str(), found["etc/motd"].as_str()), ("added\n", "welcome\n"));
        assert_eq!(found["bin"], "-> usr/bin");

        // The same image by another name.
        let again = add(environment, &app, &["app:latest", "app:1"]);
        assert_eq!((again.id.as_str(), again.unpacked, again.was_there), (added.id.as_str(), 0, true));
        assert_eq!(list(environment), ["app:1,app:latest"]);

        // The same layers, and another configuration: no tree of its own.
        let objects = entries(environment, "o").len();
        let sibling = layout(environment, "sibling", &[base(), second(), third()], "/sibling");
        assert_eq!(add(environment, &sibling, &["sibling:1"]).unpacked, 0);
        assert_eq!(entries(environment, "o").len(), objects + 1);
        assert_eq!(files(environment, "sibling:1"), found);
        assert_eq!(environment.ok(["diff", "app:1", "sibling:1"]), "");

        // The same beginning.
        let shorter = layout(environment, "shorter", &[base(), second()], "/shorter");
        assert_eq!(add(environment, &shorter, &["shorter:1"]).unpacked, 0);
        assert_eq!(files(environment, "shorter:1")["usr/bin/tool"], "tool of old\n");

        // The same layer on something else: a delta is the same delta.
        let moved = layout(environment, "moved", &[other_base(), second()], "/moved");
        let unpacked = if is_delta(sort) { 1 } else { 2 };
        assert_eq!(add(environment, &moved, &["moved:1"]).unpacked, unpacked, "{sort}");
        let found = files(environment, "moved:1");
        assert_eq!(
            (found["etc/other"].as_str(), found["etc/second"].as_str()),
            ("another system\n", "added\n")
        );
        assert!(!found.contains_key("etc/motd"));
        environment.ok(["fsck", "--verify"]);

        // Names go, and with the last of them what only they had.
        for name in ["app:1", "app:latest", "sibling:1"] {
            environment.ok(["rm", "--now", name]);
        }
        environment.ok(["prune"]);
        environment.ok(["fsck", "--verify"]);
        assert_eq!(files(environment, "shorter:1")["etc/second"], "added\n");
        assert_eq!(files(environment, "moved:1")["etc/second"], "added\n");
        environment.ok(["rm", "--now", "shorter:1", "moved:1"]);
        environment.ok(["prune"]);
        for directory in ["o", "tmp", "trash", "blobs/sha256", "blobs/partial", "c", "d", "n"] {
            assert_eq!(entries(environment, directory), [""; 0], "{sort}: {directory}");
        }
    });
}

#[test]
fn what_a_late_directory_means_depends_on_what_lies_beneath() {
    on_file_systems(|environment, sort| {
        let plain = layout(environment, "plain", &[other_base(), late()], "/plain");
        add(environment, &plain, &["plain:1"]);
        let linked = layout(environment, "linked", &[base(), late()], "/linked");
        add(environment, &linked, &["linked:1"]);
        let found = files(environment, "plain:1");
        assert_eq!(found.get("bin/new").map(String::as_str), Some("new\n"), "{sort}");
        let found = files(environment, "linked:1");
        assert_eq!(found.get("usr/bin/new").map(String::as_str), Some("new\n"), "{sort}: {found:?}");
        assert_eq!((found["bin"].as_str(), found.get("bin/new")), ("", None), "{sort}");
    });
}

#[test]
fn boxes_of_an_image_live_as_those_of_any_tree() {
    on_file_systems(|environment, sort| {
        let app = layout(environment, "app", &[base(), second(), third()], "/app");
        add(environment, &app, &["app:1"]);
        environment.ok(["create", "app:1", "dev"]);
        assert_eq!(environment.ok(["diff", "dev"]), "", "{sort}");
        let view = environment.path("view");
        fs::create_dir_all(&view).unwrap();
        environment.ok(["mount", "dev", view.to_str().unwrap()]);
        fs::write(view.join("etc/second"), "changed\n").unwrap();
        environment.ok(["umount", view.to_str().unwrap()]);
        assert_eq!(environment.ok(["diff", "dev"]), "C /etc/second\n", "{sort}");
        environment.ok(["snapshot", "dev", "one"]);
        environment.ok(["commit", "dev", "mine:1"]);
        assert_eq!(environment.ok(["diff", "app:1", "mine:1"]), "C /etc/second\n", "{sort}");
        let shown = environment.json(["show", "dev"]);
        assert_eq!(shown["config"]["Cmd"][0], "/app", "{shown}");
        let log = environment.ok(["log", "dev"]);
        assert!(log.contains("RUN make 1"), "{log}");

        // Another image takes its name: the box keeps what it stands on.
        let newer = layout(environment, "newer", &[base(), second()], "/newer");
        add(environment, &newer, &["app:1"]);
        environment.ok(["prune"]);
        environment.ok(["fsck", "--verify"]);
        assert_eq!(files(environment, "app:1")["usr/bin/tool"], "tool of old\n");
        assert_eq!(files(environment, "dev")["usr/bin/tool"], "tool of new\n");
        environment.ok(["du"]);
        environment.ok(["rm", "--now", "app:1"]);
        environment.ok(["rm", "--now", "dev"]);
        environment.ok(["rm", "--now", "mine:1"]);
        environment.ok(["prune", "--removed"]);
        assert_eq!(entries(environment, "o"), [""; 0], "{sort}");
    });
}

#[test]
fn a_name_that_is_no_images_is_not_taken() {
    let environment = Environment::new();
    environment.import_base();
    environment.ok(["create", "base", "dev"]);
    let app = layout(&environment, "app", &[base()], "/app");
    for name in ["dev", "base"] {
        let ran = try_add(&environment, &["add", "store", &app, name]);
        assert_ne!(ran.code, 0);
        assert!(ran.stderr.contains(&format!("the name {name} is taken")), "{}", ran.stderr);
    }
    environment.assert_tidy(&["base", "dev"]);
}

#[test]
fn a_layer_that_is_not_what_was_promised_leaves_nothing() {
    on_file_systems(|environment, _| {
        let app = layout(environment, "app", &[base(), second()], "/app");
        let wrong = layout(environment, "wrong", &[base(), third()], "/wrong");
        // The layers of one, called those of the other: each blob is right, and no tar is.
        let text = |name: &str| fs::read_to_string(environment.path(name).join("index.json")).unwrap();
        let manifest = |name: &str| -> (PathBuf, serde_json::Value) {
            let index: serde_json::Value = serde_json::from_str(&text(name)).unwrap();
            let digest = index["manifests"][0]["digest"].as_str().unwrap().replace("sha256:", "");
            let path = environment.path(name).join("blobs/sha256").join(digest);
            (path.clone(), serde_json::from_slice(&fs::read(path).unwrap()).unwrap())
        };
        let (_, mut mixed) = manifest(&app);
        mixed["layers"] = manifest(&wrong).1["layers"].clone();
        let mixed = mixed.to_string();
        let digest = rootling::image::Digest::sha256_of(mixed.as_bytes());
        fs::write(environment.path("wrong/blobs/sha256").join(digest.hex()), &mixed).unwrap();
        let config = manifest(&app).1["config"]["digest"].as_str().unwrap().replace("sha256:", "");
        let copied = |from: &str| environment.path(from).join("blobs/sha256").join(&config);
        fs::copy(copied("app"), copied("wrong")).unwrap();
        let descriptor = json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": mixed.len() });
        let index = json!({ "schemaVersion": 2, "manifests": [descriptor] });
        fs::write(environment.path("wrong/index.json"), index.to_string()).unwrap();

        let ran = try_add(environment, &["add", "store", &wrong, "wrong:1"]);
        assert_ne!(ran.code, 0);
        assert!(ran.stderr.contains("not sha256:"), "{}", ran.stderr);
        environment.assert_tidy(&[]);
        environment.ok(["prune"]);
        assert_eq!(entries(environment, "o"), [""; 0]);
        assert_eq!(entries(environment, "blobs/sha256"), [""; 0]);
    });
}

#[test]
fn a_download_that_was_cut_off_goes_on_where_it_was() {
    on_file_systems(|environment, _| {
        let app = layout(environment, "app", &[base(), second()], "/app");
        assert_eq!(try_add(environment, &["half", "store", &app]).code, 0);
        let [partial] = entries(environment, "blobs/partial").try_into().unwrap();
        let have = fs::metadata(environment.store().join("blobs/partial").join(&partial)).unwrap().len();
        let (hex, whole) = partial.split_once('-').unwrap();
        let path = environment.path("app/blobs/sha256").join(hex);
        assert_eq!(fs::metadata(&path).unwrap().len().to_string(), whole);
        assert_eq!(have, whole.parse::<u64>().unwrap() / 2);
        // What is there is not asked for again: the layout has only the rest.
        let mut bytes = fs::read(&path).unwrap();
        bytes[..usize::try_from(have).unwrap()].fill(0);
        fs::write(&path, bytes).unwrap();
        environment.ok(["prune"]);
        assert_eq!(add(environment, &app, &["app:1"]).unpacked, 2);
        assert_eq!(entries(environment, "blobs/partial"), [""; 0]);
        environment.ok(["fsck", "--verify"]);
    });
}

#[test]
fn two_who_add_one_image_at_once_share_the_work() {
    on_file_systems(|environment, sort| {
        let app = layout(environment, "app", &[base(), second(), third()], "/app");
        let spawn = |name: &str| {
            let mut command = Command::new(adder());
            command.args(["add", "store", &app, name]).current_dir(environment.dir.path());
            command.stdout(std::process::Stdio::piped()).spawn().unwrap()
        };
        let both = ["app:1", "app:2"].map(spawn).map(|child| child.wait_with_output().unwrap());
        let unpacked = |output: &std::process::Output| {
            assert!(output.status.success(), "{sort}");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
        };
        let total: usize = both.iter().map(unpacked).sum();
        assert_eq!(total, 3, "{sort}");
        environment.ok(["prune"]);
        assert_eq!(entries(environment, "o").len(), 4, "{sort}");
        assert_eq!(list(environment), ["app:1,app:2"], "{sort}");
        environment.ok(["fsck", "--verify"]);
    });
}

#[test]
fn an_image_without_layers_is_empty() {
    on_file_systems(|environment, _| {
        let empty = layout(environment, "empty", &[], "/none");
        assert_eq!(add(environment, &empty, &["empty:1"]).unpacked, 0);
        assert_eq!(files(environment, "empty:1"), BTreeMap::new());
        environment.ok(["fsck", "--verify"]);
    });
}

#[test]
fn an_older_program_would_refuse_a_store_with_shared_trees() {
    let environment = Environment::new();
    let format = || fs::read_to_string(environment.store().join("format")).unwrap();
    assert!(!format().contains("shared-trees"));
    let app = layout(&environment, "app", &[base()], "/app");
    add(&environment, &app, &["app:1"]);
    let text: serde_json::Value = serde_json::from_str(&format()).unwrap();
    assert_eq!(text["features"]["incompatible"], json!(["shared-trees"]));
    assert!(Path::new(&environment.store()).join("blobs/sha256").is_dir());
}

/// The node of an image's layer, counted from the lowest.
fn layer(environment: &Environment, name: &str, number: usize) -> serde_json::Value {
    let records = entries(environment, "c").into_iter().map(|hint| {
        let path = environment.store().join("c").join(hint).join("meta.json");
        serde_json::from_slice::<serde_json::Value>(&fs::read(path).unwrap()).unwrap()
    });
    let by_id: BTreeMap<String, serde_json::Value> =
        records.map(|record| (record["id"].as_str().unwrap().to_owned(), record)).collect();
    let image = environment.store().join("n").join(name).join("meta.json");
    let image: serde_json::Value = serde_json::from_slice(&fs::read(image).unwrap()).unwrap();
    let mut line = vec![by_id[image["tree"].as_str().unwrap()].clone()];
    while let Some(parent) = line.last().unwrap()["parent"].as_str() {
        line.push(by_id[parent].clone());
    }
    line.reverse();
    line[number].clone()
}

/// Changes a file in a committed tree, as no program of ours does.
fn damage(environment: &Environment, node: &serde_json::Value, path: &str, how: impl Fn(&Path)) {
    let tree = environment.store().join("o").join(node["id"].as_str().unwrap()).join("fs");
    let is_btrfs = node["backend"] == "btrfs";
    let writable = |flag: &str| {
        let mut command = Command::new("btrfs");
        let status = command.args(["property", "set", "-f"]).arg(&tree).args(["ro", flag]).status();
        assert!(status.unwrap().success());
    };
    if is_btrfs {
        writable("false");
    }
    how(&tree.join(path));
    if is_btrfs {
        writable("true");
    }
}

#[test]
fn damage_is_named_and_repaired_from_the_blob() {
    on_file_systems(|environment, sort| {
        let app = layout(environment, "app", &[base(), second(), third()], "/app");
        add(environment, &app, &["app:1"]);
        environment.ok(["create", "app:1", "dev"]);
        let before = files(environment, "app:1");
        let said = environment.ok(["verify", "app:1", "dev"]);
        assert!(said.contains("app:1: 3 trees verified, 5 blobs: whole"), "{sort}: {said}");

        let (lowest, upper) = (layer(environment, "app:1", 0), layer(environment, "app:1", 1));
        damage(environment, &lowest, "etc/motd", |path| fs::write(path, "wElcome\n").unwrap());
        damage(environment, &upper, "etc/second", |path| fs::remove_file(path).unwrap());
        let ran = environment.run(["verify", "app:1"]);
        assert_eq!(ran.code, 1, "{sort}: {}", ran.stdout);
        assert!(ran.stdout.contains("DAMAGED: /etc/motd in "), "{sort}: {}", ran.stdout);
        assert!(ran.stdout.contains("DAMAGED: /etc/second in "), "{sort}: {}", ran.stdout);
        assert_eq!(environment.run(["fsck", "--verify"]).code, 1, "{sort}");

        let said = environment.ok(["verify", "--repair", "app:1"]);
        assert!(said.contains("repaired: /etc/motd in "), "{sort}: {said}");
        assert_eq!(environment.ok(["verify", "app:1"]).lines().count(), 1, "{sort}");
        environment.ok(["fsck", "--verify"]);
        assert_eq!(files(environment, "app:1"), before, "{sort}");
        assert_eq!(environment.ok(["diff", "dev"]), "", "{sort}");

        // Without its blob it cannot be repaired, and nothing is changed.
        damage(environment, &lowest, "etc/motd", |path| fs::write(path, "gone\n").unwrap());
        for blob in entries(environment, "blobs/sha256") {
            let path = environment.store().join("blobs/sha256").join(blob);
            if fs::read(&path).unwrap().starts_with(&[0x1f, 0x8b]) {
                fs::remove_file(path).unwrap();
            }
        }
        let ran = environment.run(["verify", "--repair", "app:1"]);
        assert_eq!(ran.code, 1, "{sort}");
        assert!(ran.stdout.contains("NOT REPAIRED"), "{sort}: {}", ran.stdout);
        // With it again, it can.
        let lost = environment.path("app/blobs/sha256");
        for blob in fs::read_dir(lost).unwrap() {
            let blob = blob.unwrap();
            fs::copy(blob.path(), environment.store().join("blobs/sha256").join(blob.file_name())).unwrap();
        }
        environment.ok(["verify", "--repair", "app:1"]);
        assert_eq!(files(environment, "app:1"), before, "{sort}");
    });
}

#[test]
fn a_blob_that_is_damaged_is_told_of_and_goes() {
    on_file_systems(|environment, sort| {
        let app = layout(environment, "app", &[base(), second()], "/app");
        add(environment, &app, &["app:1"]);
        let blob = layer(environment, "app:1", 0)["layer"]["blobs"][0]["digest"]
            .as_str()
            .unwrap()
            .replace("sha256:", "");
        let path = environment.store().join("blobs/sha256").join(&blob);
        let mut bytes = fs::read(&path).unwrap();
        bytes[20] ^= 1;
        fs::write(&path, bytes).unwrap();
        let ran = environment.run(["fsck", "--verify"]);
        assert_eq!(ran.code, 1, "{sort}");
        assert!(
            ran.stdout.contains(&format!("sha256:{blob} is a blob that is not")),
            "{sort}: {}",
            ran.stdout
        );
        environment.ok(["fsck", "--verify", "--repair"]);
        assert!(!path.exists());
        environment.ok(["fsck", "--verify"]);
        assert_eq!(files(environment, "app:1")["etc/motd"], "welcome\n");
    });
}

/// A layer that takes away: a file, what is in a directory, and a directory that it makes anew.
fn taking() -> Vec<u8> {
    let tar = Tar::default()
        .dir("etc/")
        .file("etc/.wh.motd", "")
        .dir("usr/")
        .dir("usr/share/")
        .file("usr/share/.wh..wh..opq", "");
    let tar =
        tar.file("usr/share/kept", "new\n").file(".wh.var", "").dir("var/").file("var/fresh", "fresh\n");
    tar.end()
}

fn fuller_base() -> Vec<u8> {
    let tar = Tar::default().dir("etc/").file("etc/motd", "welcome\n").file("etc/host", "host\n").dir("usr/");
    let tar = tar.dir("usr/share/").file("usr/share/old", "old\n").dir("var/").file("var/log", "log\n");
    tar.dir_of_mode("root/", 0o700).end()
}

/// Layers that mean something only over what lies beneath them: no entry for a directory, and a link to what is below.
fn dependent() -> Vec<u8> {
    Tar::default().file("etc/more", "more\n").link("etc/twin", "etc/host").end()
}

#[test]
fn what_a_layer_takes_away_is_gone_and_what_it_leans_on_is_found() {
    on_file_systems(|environment, sort| {
        let app = layout(environment, "app", &[fuller_base(), taking(), dependent(), second()], "/app");
        assert_eq!(add(environment, &app, &["app:1"]).unpacked, 4);
        let expected: BTreeMap<String, String> = [
            ("etc", ""),
            ("etc/host", "host\n"),
            ("etc/more", "more\n"),
            ("etc/twin", "host\n"),
            ("etc/second", "added\n"),
            ("usr", ""),
            ("usr/share", ""),
            ("usr/share/kept", "new\n"),
            ("var", ""),
            ("var/fresh", "fresh\n"),
            ("root", ""),
        ]
        .map(|(path, content)| (path.to_owned(), content.to_owned()))
        .into();
        assert_eq!(files(environment, "app:1"), expected, "{sort}");
        environment.ok(["fsck", "--verify"]);
        let said = environment.ok(["verify", "app:1"]);
        assert!(said.contains("app:1: 4 trees verified"), "{sort}: {said}");

        // A whiteout in a directory that is none there would be seen as what it is: that layer is unpacked over it.
        let bare = Tar::default().dir("opt/").symlink("etc", "opt").end();
        let other = layout(environment, "other", &[bare, taking()], "/other");
        add(environment, &other, &["other:1"]);
        let found = files(environment, "other:1");
        assert_eq!(found["usr/share/kept"], "new\n");
        assert!(!found.keys().any(|path| path.contains("motd")), "{sort}: {found:?}");
        environment.ok(["fsck", "--verify"]);

        // What is damaged in such a layer comes back, too.
        let leaning = layer(environment, "app:1", 2);
        damage(environment, &leaning, "etc/more", |path| fs::write(path, "MORE\n").unwrap());
        assert_eq!(environment.run(["verify", "app:1"]).code, 1, "{sort}");
        environment.ok(["verify", "--repair", "app:1"]);
        assert_eq!(files(environment, "app:1"), expected, "{sort}");
        environment.ok(["fsck", "--verify"]);
    });
}

#[test]
fn what_images_share_is_counted_once() {
    on_file_systems(|environment, sort| {
        let mut seed = 1_u64;
        let random: Vec<u8> = (0..6_000_000)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                seed.to_le_bytes()[7]
            })
            .collect();
        let (lower, upper) = random.split_at(4_000_000);
        let lower = Tar::default().dir("opt/").file("opt/lower", lower).end();
        let upper = Tar::default().dir("opt/").file("opt/upper", upper).end();
        let app = layout(environment, "app", &[lower.clone(), upper.clone()], "/app");
        add(environment, &app, &["app:1"]);
        let held = || environment.json(["du"])["held_bytes"].as_u64().unwrap();
        let exclusive =
            |name: &str| environment.json(["du", name])["nodes"][0]["exclusive_bytes"].as_u64().unwrap();
        let near = |bytes: u64, expected: u64, what: &str| {
            assert!(bytes.abs_diff(expected) < 500_000, "{sort}: {what}: {bytes}, not about {expected}");
        };
        let alone = held();
        near(alone, 6_000_000, "held");
        near(exclusive("app:1"), 6_000_000, "exclusive");
        let sibling = layout(environment, "sibling", &[lower, upper.clone()], "/sibling");
        add(environment, &sibling, &["sibling:1"]);
        near(held(), alone, "held by two");
        near(exclusive("app:1"), 0, "exclusive of two");
        let base = Tar::default().dir("opt/").file("opt/other", "another system\n").end();
        let moved = layout(environment, "moved", &[base, upper], "/moved");
        add(environment, &moved, &["moved:1"]);
        let more = if is_delta(sort) { 0 } else { 2_000_000 };
        near(held(), alone + more, "held by three");
        near(exclusive("moved:1"), more, "exclusive of the third");
        // What would go says so before it goes.
        environment.ok(["rm", "app:1", "sibling:1"]);
        let intended = environment.json(["prune", "--dry-run", "--removed"]);
        // Two manifests, two configurations, and the lower layer; the upper one stays, and its blob.
        assert_eq!(intended["blobs"], 5, "{sort}: {intended}");
        // On btrfs each of the two has an upper layer of its own. Of a delta that stays, what it lay on is not counted before it goes.
        let free = if is_delta(sort) { 4_000_000 } else { 10_000_000 };
        near(intended["would_free_bytes"].as_u64().unwrap(), free, "would be free");
        environment.ok(["prune", "--removed"]);
        near(held(), 2_000_000, "held in the end");
        environment.ok(["fsck", "--verify"]);
        assert!(files(environment, "moved:1").contains_key("opt/other"), "{sort}");
    });
}
