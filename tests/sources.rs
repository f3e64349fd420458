//! Imports of what comes from no registry: tarballs and images of servers, packages, squashfs files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rootling::image::Digest;

use crate::environment::{Environment, Ran, is_root, ran, skip};
use crate::registry::faulty::{Reply, Scripted};

/// A tree like a root file system in `DIR/root`, and what `pack` makes of it.
fn packed(environment: &Environment, script: &str) -> Vec<u8> {
    let root = environment.path("root");
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/motd"), "welcome\n").unwrap();
    // Enough that it comes in several pieces, and does not pack.
    let noise: Vec<u8> = (0..400_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(root.join("usr/bin/tool"), noise).unwrap();
    fs::set_permissions(root.join("usr/bin/tool"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o751)).unwrap();
    let done =
        Command::new("sh").args(["-euc", script]).current_dir(environment.dir.path()).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    fs::read(environment.path("packed")).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    Digest::sha256_of(bytes).hex().to_owned()
}

/// A server of these files; those that are not there are 404.
fn serve(files: impl IntoIterator<Item = (&'static str, Vec<u8>)>) -> Scripted {
    let files: BTreeMap<String, Vec<u8>> =
        files.into_iter().map(|(path, file)| (path.to_owned(), file)).collect();
    Scripted::start(move |request, _| match files.get(&request.path) {
        Some(file) => Reply::new(200, file.clone()),
        None => Reply::new(404, ""),
    })
}

fn fs_of(environment: &Environment, name: &str) -> PathBuf {
    let shown = environment.json(["show", name]);
    PathBuf::from(shown["path"].as_str().unwrap())
}

fn assert_is_the_root(root: &Path) {
    let tool = fs::metadata(root.join("usr/bin/tool")).unwrap();
    assert_eq!((tool.mode() & 0o7777, tool.len()), (0o4755, 1_600_000));
    assert_eq!(fs::read_to_string(root.join("etc/motd")).unwrap(), "welcome\n");
    assert_eq!(fs::metadata(root).unwrap().mode() & 0o7777, 0o751);
}

fn said(environment: &Environment, arguments: &[&str]) -> Ran {
    let ran = environment.run(arguments);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    ran
}

const TAR: &str = "tar -C root -cJf packed .";

// ------------------------------------------------------------ tarballs of servers

#[test]
fn a_tarball_is_verified_by_what_lies_beside_it_and_made_once() {
    let environment = Environment::new();
    let tar = packed(&environment, TAR);
    let sums = format!("{}  other.tar.xz\n{} *root.tar.xz\n", "0".repeat(64), hex(&tar));
    let server = serve([("/x/root.tar.xz", tar), ("/x/SHA256SUMS", sums.into_bytes())]);
    let address = format!("http://{}/x/root.tar.xz", server.host);
    let first = said(&environment, &["import", &address, "one"]);
    assert!(!first.stderr.contains("no checksum"), "{}", first.stderr);
    assert_is_the_root(&fs_of(&environment, "one"));
    let downloads = || server.lines().iter().filter(|line| line.ends_with("root.tar.xz")).count();
    assert_eq!(downloads(), 1);

    // Again: one more name, no download.
    let second = said(&environment, &["import", &address, "two"]);
    assert_eq!((second.stdout, downloads()), (first.stdout.clone(), 1));
    assert!(second.stderr.contains("nothing was made"), "{}", second.stderr);
    // The same content from somewhere else, too.
    let local = format!("tar:{}", environment.path("packed").display());
    let sha256 = hex(&fs::read(environment.path("packed")).unwrap()).to_uppercase();
    assert_eq!(environment.ok(["import", "--sha256", &sha256, &local, "three"]), first.stdout);

    // But not what is to be run otherwise, treated otherwise, or made anew.
    for (name, flags) in [
        ("four", &["--change", "CMD [\"/bin/x\"]"][..]),
        ("five", &["--strip-components", "0"]),
        ("six", &["--fresh"]),
    ] {
        let arguments: Vec<&str> = ["import"].iter().chain(flags).copied().chain([&*address, name]).collect();
        assert_ne!(said(&environment, &arguments).stdout, first.stdout, "{name}");
    }
    environment.assert_tidy(&["five", "four", "one", "six", "three", "two"]);

    // Once it is gone, it is made.
    for name in ["one", "two", "three", "four", "five", "six"] {
        environment.ok(["rm", "--now", name]);
    }
    environment.ok(["import", &address, "again"]);
    environment.assert_tidy(&["again"]);
}

#[test]
fn a_wrong_checksum_leaves_nothing() {
    let environment = Environment::new();
    let tar = packed(&environment, TAR);
    let right = hex(&tar);
    let server =
        serve([("/root.tar.xz", tar), ("/root.tar.xz.sha256", format!("{}\n", "1".repeat(64)).into_bytes())]);
    let address = format!("http://{}/root.tar.xz", server.host);
    let error = environment.fails(["import", &address, "bad"]);
    assert!(error.contains(&format!("its checksum is sha256:{right}, and should be sha256:1111")), "{error}");
    let error = environment.fails(["import", "--sha256", &"2".repeat(64), "tar:-", "bad"]);
    assert!(error.contains("empty"), "{error}");
    let local = format!("tar:{}", environment.path("packed").display());
    let error = environment.fails(["import", "--sha256", &"2".repeat(64), &local, "bad"]);
    assert!(error.contains("should be sha256:2222"), "{error}");
    assert!(environment.fails(["import", "--sha256", "12", &local, "bad"]).contains("64 hexadecimal digits"));
    let dir = format!("dir:{}", environment.path("root").display());
    assert!(environment.fails(["import", "--sha256", &right, &dir, "bad"]).contains("is no file"));
    environment.assert_tidy(&[]);
    // What was said by hand counts more than what lies beside.
    environment.ok(["import", "--sha256", &right, &address, "good"]);
    environment.assert_tidy(&["good"]);
}

#[test]
fn what_is_not_verified_is_said_or_refused() {
    let environment = Environment::new();
    let tar = packed(&environment, TAR);
    let sha256 = hex(&tar);
    let server = serve([("/root.tar.xz", tar)]);
    let address = format!("http://{}/root.tar.xz", server.host);
    let made = said(&environment, &["import", &address, "one"]);
    assert!(
        made.stderr
            .contains(&format!("no checksum was found for it: to be sure next time, say --sha256 {sha256}"))
    );
    let again = said(&environment, &["import", &address, "two"]);
    assert_ne!(again.stdout, made.stdout);
    for source in [
        "http://mirror.invalid/x.tar",
        "simplestreams:http://mirror.invalid/debian",
        "squashfs:http://mirror.invalid/x",
    ] {
        let error = environment.fails(["import", source, "bad"]);
        assert!(error.contains("in the clear") && error.contains("--sha256"), "{error}");
    }
    let gone = environment.fails(["import", &format!("http://{}/gone.tar", server.host), "bad"]);
    assert!(gone.contains("404"), "{gone}");
}

#[test]
fn a_download_goes_on_where_it_was_cut() {
    for knows_ranges in [true, false] {
        let environment = Environment::new();
        let tar = packed(&environment, TAR);
        let (whole, sha256) = (tar.len(), hex(&tar));
        let server = Scripted::start(move |request, _| {
            if request.path != "/root.tar.xz" {
                return Reply::new(404, "");
            }
            let from =
                request.header("range").strip_prefix("bytes=").and_then(|range| range.strip_suffix('-'));
            let from: usize = from.map_or(0, |digits| digits.parse().unwrap());
            match from {
                0 => Reply::new(200, tar.clone()).header("etag", "\"1\"").cut(whole / 3),
                _ if !knows_ranges => Reply::new(200, tar.clone()).header("etag", "\"1\""),
                _ => {
                    assert_eq!(request.header("if-range"), "\"1\"");
                    let range = format!("bytes {from}-{}/{whole}", whole - 1);
                    let rest = Reply::new(206, tar[from..].to_vec()).header("content-range", range);
                    if from < whole / 2 { rest.cut(whole / 3) } else { rest }
                }
            }
        });
        let address = format!("http://{}/root.tar.xz", server.host);
        environment.ok(["import", "--sha256", &sha256, &address, "one"]);
        assert_is_the_root(&fs_of(&environment, "one"));
        assert_eq!(server.lines().len(), if knows_ranges { 3 } else { 2 }, "{:?}", server.lines());
    }
}

#[test]
fn a_file_that_changes_meanwhile_is_no_file() {
    let environment = Environment::new();
    let tar = packed(&environment, TAR);
    let whole = tar.len();
    let server = Scripted::start(move |request, before| match request.path.as_str() {
        "/root.tar.xz" => Reply::new(200, tar.clone()).header("etag", format!("\"{before}\"")).cut(whole / 2),
        _ => Reply::new(404, ""),
    });
    let error = environment.fails(["import", &format!("http://{}/root.tar.xz", server.host), "bad"]);
    assert!(error.contains("changed while it was read"), "{error}");
    environment.assert_tidy(&[]);
}

#[test]
fn the_top_directory_of_a_tarball_is_taken_off() {
    let environment = Environment::new();
    packed(
        &environment,
        "cp -a root root.x86_64; echo 1 > version; tar --zstd -cf packed root.x86_64 version",
    );
    let local = format!("tar:{}", environment.path("packed").display());
    let made = said(&environment, &["import", &local, "arch"]);
    assert!(
        made.stderr.contains("\"root.x86_64\"") && made.stderr.contains("\"version\""),
        "{}",
        made.stderr
    );
    assert_is_the_root(&fs_of(&environment, "arch"));
    environment.ok(["import", "--strip-components", "0", &local, "as-is"]);
    assert_is_the_root(&fs_of(&environment, "as-is").join("root.x86_64"));
    environment.ok(["import", "--strip-components", "2", &local, "two"]);
    assert!(fs_of(&environment, "two").join("bin/tool").exists());
    let error = environment.fails(["import", "--strip-components", "9", &local, "bad"]);
    assert!(error.contains("smaller number"), "{error}");
    environment.assert_tidy(&["arch", "as-is", "two"]);
}

// ------------------------------------------------------------ servers of images

/// The indexes of a server with one image, whose newest version has these items.
fn indexes(items: &serde_json::Value) -> [(&'static str, Vec<u8>); 2] {
    let index = serde_json::json!({"format": "index:1.0", "index": {
        "other": {"datatype": "image-ids", "path": "streams/v1/none.json"},
        "images": {"datatype": "image-downloads", "path": "streams/v1/com.x:images.json"},
    }});
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let old =
        serde_json::json!({"root.tar.xz": {"ftype": "root.tar.xz", "path": "old", "sha256": "0".repeat(64)}});
    let products = serde_json::json!({"products": {"debian:bookworm:default": {
        "aliases": "debian/12,debian/bookworm", "arch": arch, "variant": "default",
        "versions": {"20260101_05:24": {"items": old}, "20260102_05:24": {"items": items}},
    }}});
    [
        ("/images/streams/v1/index.json", index.to_string().into_bytes()),
        ("/images/streams/v1/com.x:images.json", products.to_string().into_bytes()),
    ]
}

#[test]
fn the_newest_image_of_a_server_is_imported_once() {
    let environment = Environment::new();
    let tar = packed(&environment, TAR);
    let item = serde_json::json!({"ftype": "root.tar.xz", "path": "a/root.tar.xz", "sha256": hex(&tar), "size": tar.len()});
    let files = indexes(&serde_json::json!({"root.tar.xz": item})).into_iter();
    let server = serve(files.chain([("/images/a/root.tar.xz", tar)]));
    let source = format!("simplestreams:http://{}/images//debian/bookworm", server.host);
    let made = said(&environment, &["import", &source, "one"]);
    assert!(made.stderr.contains("debian:bookworm:default version 20260102_05:24"), "{}", made.stderr);
    assert_is_the_root(&fs_of(&environment, "one"));
    assert_eq!(environment.ok(["import", &source.replace("bookworm", "12"), "two"]), made.stdout);
    assert_eq!(server.lines().iter().filter(|line| line.ends_with("root.tar.xz")).count(), 1);

    let error = environment.fails(["import", &source.replace("bookworm", "bokworm"), "bad"]);
    assert!(error.contains("did you mean debian/bookworm"), "{error}");
    let error = environment.fails(["import", &format!("{source}?arch=m68k"), "bad"]);
    assert!(error.contains("there is ?arch="), "{error}");
    let error = environment.fails(["import", &source.replace("/images//", "/nothing//"), "bad"]);
    assert!(error.contains("/nothing/streams/v1/index.json: 404"), "{error}");

    // The same, laid out in a directory.
    let mirror = environment.path("mirror");
    fs::create_dir_all(mirror.join("streams/v1")).unwrap();
    let tar = fs::read(environment.path("packed")).unwrap();
    fs::create_dir(mirror.join("a")).unwrap();
    fs::write(mirror.join("a/root.tar.xz"), &tar).unwrap();
    for (path, file) in indexes(&serde_json::json!({"root.tar.xz": {
        "ftype": "root.tar.xz", "path": "a/root.tar.xz", "sha256": hex(&tar),
    }})) {
        fs::write(mirror.join(path.strip_prefix("/images/").unwrap()), file).unwrap();
    }
    let source = format!("simplestreams:file://{}//debian/12", mirror.display());
    assert_eq!(environment.ok(["import", &source, "three"]), made.stdout);
}

#[test]
fn what_an_index_says_is_not_believed() {
    let environment = Environment::new();
    let tar = packed(&environment, TAR);
    let right = hex(&tar);
    for (path, sha256, size, wanted) in [
        ("a/root.tar.xz", "3".repeat(64), tar.len(), "should be sha256:3333"),
        ("a/root.tar.xz", right.clone(), tar.len() - 1, "should have"),
        ("a/root.tar.xz", "abc".to_owned(), tar.len(), "is no digest"),
        ("../a/root.tar.xz", right.clone(), tar.len(), "no path below it"),
        ("file:///etc/passwd", right.clone(), tar.len(), "by https only"),
        ("http://127.0.0.1:1/x", right, tar.len(), "by https only"),
    ] {
        let item = serde_json::json!({"ftype": "root.tar.xz", "path": path, "sha256": sha256, "size": size});
        let files = indexes(&serde_json::json!({"root.tar.xz": item})).into_iter();
        let server = serve(files.chain([("/images/a/root.tar.xz", tar.clone())]));
        let source = format!("simplestreams:http://{}/images//debian/bookworm", server.host);
        let error = environment.fails(["import", &source, "bad"]);
        assert!(error.contains(wanted), "{path}: {error}");
    }
    let server = serve([("/streams/v1/index.json", b"{\"index\": [".to_vec())]);
    let error = environment.fails(["import", &format!("simplestreams:http://{}/x", server.host), "bad"]);
    assert!(error.contains("not an index that can be read"), "{error}");
    environment.assert_tidy(&[]);
}

#[test]
fn the_classic_index_is_read() {
    let environment = Environment::new();
    let tar = packed(&environment, TAR);
    let index = "debian;bookworm;amd64;default;20260101_05:24;/images/old/\n\
                 debian;bookworm;amd64;default;20260102_05:24;/images/new/\n";
    let server = serve([
        ("/meta/1.0/index-user", index.as_bytes().to_vec()),
        ("/images/new/SHA256SUMS", format!("{}  rootfs.tar.xz\n", hex(&tar)).into_bytes()),
        ("/images/new/rootfs.tar.xz", tar),
    ]);
    let source = format!("lxc:http://{}//debian/bookworm/amd64", server.host);
    let made = said(&environment, &["import", &source, "one"]);
    assert!(made.stderr.contains("debian/bookworm/amd64/default build 20260102_05:24"), "{}", made.stderr);
    assert_is_the_root(&fs_of(&environment, "one"));
    assert_eq!(environment.ok(["import", &source, "two"]), made.stdout);
    let error =
        environment.fails(["import", &format!("lxc:http://{}//debian/trixie/amd64", server.host), "bad"]);
    assert!(error.contains("has no debian/trixie/amd64/default"), "{error}");
}

// ------------------------------------------------------------ squashfs

const SQUASHFS: &str = "mksquashfs root packed -no-progress -comp gzip > /dev/null";

fn has(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap();
    if !found.status.success() {
        skip(&format!("{program} is not installed"));
    }
    found.status.success()
}

#[test]
fn a_squashfs_is_imported_by_the_kernel_and_by_unsquashfs() {
    if !has("mksquashfs") || !is_root() {
        return;
    }
    let environment = Environment::new();
    let image = packed(&environment, SQUASHFS);
    let local = format!("squashfs:{}", environment.path("packed").display());
    let before = loop_devices(&environment);
    // The kernel does it alone.
    let made = ran(environment
        .command()
        .env("PATH", "/nonexistent")
        .args(["import", &local, "by-root"])
        .output()
        .unwrap());
    assert_eq!(made.code, 0, "{}", made.stderr);
    assert_is_the_root(&fs_of(&environment, "by-root"));
    assert_eq!(loop_devices(&environment), before);
    environment.ok(["import", "--strip-components", "1", &local, "stripped"]);
    let stripped = fs_of(&environment, "stripped");
    assert!(stripped.join("bin/tool").exists() && stripped.join("motd").exists());

    // Without the rights to mount a device, and without the program that can do without.
    let in_userns = |path: &str, name: &str| {
        let mut command = Command::new("unshare");
        command.args([
            "--user",
            "--map-root-user",
            crate::environment::BINARY,
            "import",
            "--no-owners",
            &local,
            name,
        ]);
        command.env("ROOTLING_ROOT", environment.store()).env("ROOTLING_NET", "host").env("PATH", path);
        ran(command.output().unwrap())
    };
    let made = in_userns(&std::env::var("PATH").unwrap(), "by-unsquashfs");
    assert_eq!(made.code, 0, "{}", made.stderr);
    assert_is_the_root(&fs_of(&environment, "by-unsquashfs"));

    // From a server, verified before anything is made of it.
    let sum = hex(&image);
    let item =
        serde_json::json!({"ftype": "squashfs", "path": "root.squashfs", "sha256": sum, "size": image.len()});
    let files = indexes(&serde_json::json!({"squashfs": item})).into_iter();
    let server = serve(files.chain([("/images/root.squashfs", image)]));
    environment.ok([
        "import",
        &format!("simplestreams:http://{}/images//debian/12", server.host),
        "of-server",
    ]);
    assert_is_the_root(&fs_of(&environment, "of-server"));
    let address = format!("squashfs:http://{}/images/root.squashfs", server.host);
    let error = environment.fails(["import", "--sha256", &"4".repeat(64), &address, "bad"]);
    assert!(error.contains("should be sha256:4444"), "{error}");

    fs::write(environment.path("packed"), "hsqs, and no more of it").unwrap();
    environment.fails(["import", &local, "bad"]);
    fs::write(environment.path("packed"), "something else").unwrap();
    assert!(environment.fails(["import", &local, "bad"]).contains("not a squashfs"));
    assert_eq!(loop_devices(&environment), before);
    environment.assert_tidy(&["by-root", "by-unsquashfs", "of-server", "stripped"]);
}

/// The loop devices that show files of the test.
fn loop_devices(environment: &Environment) -> usize {
    let listed =
        Command::new("losetup").args(["--list", "--noheadings", "--output", "BACK-FILE"]).output().unwrap();
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    text.lines().filter(|line| line.contains(&*environment.dir.path().to_string_lossy())).count()
}

#[test]
fn without_a_way_to_read_a_squashfs_the_program_is_named() {
    if !has("mksquashfs") || !is_root() {
        return;
    }
    let environment = Environment::new();
    packed(&environment, SQUASHFS);
    let mut command = Command::new("/usr/bin/unshare");
    let local = format!("squashfs:{}", environment.path("packed").display());
    command.args(["--user", "--map-root-user", crate::environment::BINARY, "import", &local, "bad"]);
    command.env("ROOTLING_ROOT", environment.store()).env("PATH", "/nonexistent");
    let failed = ran(command.output().unwrap());
    assert!(failed.code != 0 && failed.stderr.contains("squashfs-tools"), "{}", failed.stderr);
    environment.assert_tidy(&[]);
}

// ------------------------------------------------------------ packages

/// Runs the program with a `mmdebstrap` that is this script; `$D` is the test's directory.
fn with_mmdebstrap(environment: &Environment, script: &str, arguments: &[&str]) -> Ran {
    let bin = environment.path("bin");
    fs::create_dir_all(&bin).unwrap();
    fs::write(
        bin.join("mmdebstrap"),
        format!("#!/bin/sh\nD={}\n{script}\n", environment.dir.path().display()),
    )
    .unwrap();
    fs::set_permissions(bin.join("mmdebstrap"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    ran(environment
        .command()
        .env("PATH", path)
        .env("SOURCE_DATE_EPOCH", "12345")
        .args(arguments)
        .output()
        .unwrap())
}

/// A mirror of no packages, whose content changes when `InRelease` does.
fn mirror(environment: &Environment, release: &str) -> String {
    let place = environment.path("mirror");
    fs::create_dir_all(place.join("dists/bookworm")).unwrap();
    fs::write(place.join("dists/bookworm/InRelease"), release).unwrap();
    format!("bootstrap:debian/bookworm?arch=amd64&include=vim&mirror=file://{}", place.display())
}

#[test]
fn packages_are_made_a_tree_once_for_each_state_of_their_archive() {
    let environment = Environment::new();
    packed(&environment, "tar -C root -cf packed .");
    let source = mirror(&environment, "one");
    let stub = "echo \"$SOURCE_DATE_EPOCH $@\" >> $D/calls; cat $D/packed";
    let import = |name: &str| with_mmdebstrap(&environment, stub, &["import", &source, name]);
    let first = import("one");
    assert_eq!(first.code, 0, "{}", first.stderr);
    assert_is_the_root(&fs_of(&environment, "one"));
    let calls = || fs::read_to_string(environment.path("calls")).unwrap();
    let place = environment.path("mirror");
    assert_eq!(
        calls(),
        format!(
            "12345 --format=tar --variant=minbase --architectures=amd64 --components=main --include=vim bookworm - \
             deb file://{} bookworm main\n",
            place.display()
        )
    );
    assert_eq!(import("two").stdout, first.stdout);
    assert_eq!(calls().lines().count(), 1);
    // The archive has changed.
    mirror(&environment, "two");
    assert_ne!(import("three").stdout, first.stdout);
    assert_eq!(calls().lines().count(), 2);
    // It does not say what it holds.
    fs::remove_dir_all(&place).unwrap();
    assert_eq!(import("four").code, 0);
    assert_eq!(import("five").code, 0);
    assert_eq!(calls().lines().count(), 4);
    environment.assert_tidy(&["five", "four", "one", "three", "two"]);
}

#[test]
fn a_bootstrap_that_fails_says_why_and_leaves_nothing() {
    let environment = Environment::new();
    packed(&environment, "tar -C root -cf packed .");
    let source = mirror(&environment, "one");
    for (script, wanted) in [
        ("echo E: no such suite >&2; exit 25", "no such suite"),
        ("head -c 1000000 $D/packed; echo E: disk full >&2; exit 1", "disk full"),
        ("cat $D/packed; echo E: too late >&2; exit 3", "too late"),
        ("cat $D/packed; kill -9 $$", "signal: 9"),
        ("head -c 1000000 $D/packed", "end"),
        ("true", "empty"),
        ("echo this is no archive", "neither tar"),
    ] {
        let failed = with_mmdebstrap(&environment, script, &["import", &source, "bad"]);
        assert!(failed.code != 0 && failed.stderr.contains(wanted), "{script}: {}", failed.stderr);
    }
    let bin = environment.path("bin");
    for program in ["timeout", "sh", "cat"] {
        let found =
            ran(Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap()).stdout;
        std::os::unix::fs::symlink(found.trim(), bin.join(program)).unwrap();
    }
    fs::remove_file(bin.join("mmdebstrap")).unwrap();
    let failed =
        ran(environment.command().env("PATH", &bin).args(["import", &source, "bad"]).output().unwrap());
    assert!(failed.stderr.contains("package mmdebstrap"), "{}", failed.stderr);
    environment.assert_tidy(&[]);
}

#[test]
fn a_bootstrap_is_ended_with_all_its_programs_when_it_is_in_vain() {
    let environment = Environment::new();
    packed(&environment, "tar -C root -cf packed .");
    let source = mirror(&environment, "one");
    // Like the real one it says so and waits for its programs before it tidies up, whatever it is asked. It tidies up by itself: it may be
    // asked once more, and so may a program that it starts for that. Half a second: timeout(1) that is asked before it knows whom it started
    // (a fork whose result it has not stored yet) ends alone.
    let stub = "trap 'touch $D/asked' TERM; sh -c 'trap \"exit 1\" TERM; sleep 0.5; touch $D/began; while :; do sleep 0.1; done' & \
                until test -e $D/began; do sleep 0.01; done; echo this is no archive; head -c 1000000 /dev/zero; while kill -0 $! 2>/dev/null; do sleep 0.05; done; echo tidying up >&2; : > $D/tidy";
    let stub = format!("export D; {stub}");
    let failed = with_mmdebstrap(&environment, &stub, &["import", &source, "bad"]);
    assert!(failed.stderr.contains("neither tar"), "{}", failed.stderr);
    assert!(environment.path("tidy").exists(), "it was killed, not asked");

    // The one who imports is killed.
    fs::remove_file(environment.path("tidy")).unwrap();
    fs::remove_file(environment.path("began")).unwrap();
    let path = format!("{}:{}", environment.path("bin").display(), std::env::var("PATH").unwrap());
    let quiet = stub.replace("echo this is no archive; head -c 1000000 /dev/zero;", "");
    fs::write(
        environment.path("bin/mmdebstrap"),
        format!("#!/bin/sh\nD={}\n{quiet}\n", environment.dir.path().display()),
    )
    .unwrap();
    let mut import =
        environment.command().env("PATH", path).args(["import", &source, "bad"]).spawn().unwrap();
    crate::processes::wait_until("the stub runs", || environment.path("began").exists());
    import.kill().unwrap();
    import.wait().unwrap();
    crate::processes::wait_until("the stub tidies up", || environment.path("tidy").exists());
    environment.ok(["prune"]);
    environment.assert_tidy(&[]);
}
