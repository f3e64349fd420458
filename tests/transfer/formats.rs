//! Layouts and archives, and what other programs make of them.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::{events, exported, image, listing, make_image};
use crate::environment::{Environment, Ran, found, ran, skip};

/// Runs another program; says what it said where it fails.
fn program(name: &str, arguments: &[&str]) -> Ran {
    let ran = ran(Command::new(name).args(arguments).output().unwrap());
    assert_eq!(ran.code, 0, "{name} {arguments:?}: {}{}", ran.stdout, ran.stderr);
    ran
}

/// A store with the image `app:1`, and the box `dev` of it with all sorts of files in it.
fn with_sorts(environment: &Environment) -> bool {
    if !make_image(environment) {
        return false;
    }
    environment.ok(["pull", &image(environment), "app:1"]);
    environment.ok(["create", "app:1", "dev"]);
    let script = "mkdir $D/m; $R -q mount dev $D/m; cd $D/m; mkdir srv; echo x > srv/x; ln srv/x srv/hard; ln -s x srv/soft
        mkfifo srv/pipe; chown 12:34 srv/x; chmod 4755 srv/x; touch -d '1999-01-02 03:04:05.678' srv/x
        setfattr -n user.colour -v green srv/hard; rm etc/one; touch -d '2001-01-01' etc srv
        truncate -s 1M srv/sparse; echo end >> srv/sparse; cd /; $R -q umount $D/m";
    environment.script_ok(script);
    true
}

#[test]
fn what_is_saved_is_loaded_elsewhere() {
    let environment = Environment::new();
    if !with_sorts(&environment) {
        return;
    }
    environment.ok(["commit", "dev", "app:2"]);
    let file = environment.path("saved.tar");
    environment.ok(["save", "-o", file.to_str().unwrap(), "app:1", "app:2"]);
    let state = exported(&environment, "app:2");
    for stream in [false, true] {
        let other = Environment::new();
        if stream {
            let mut command = other.command();
            let loaded = ran(command.arg("load").stdin(fs::File::open(&file).unwrap()).output().unwrap());
            assert_eq!(loaded.code, 0, "{}", loaded.stderr);
        } else {
            other.ok(["load", "-i", file.to_str().unwrap()]);
        }
        let names: Vec<Value> =
            other.json(["images"]).as_array().unwrap().iter().map(|row| row["name"].clone()).collect();
        assert_eq!(names, [json!("app:1"), json!("app:2")]);
        assert_eq!(exported(&other, "app:2"), state);
        let digest = |environment: &Environment| environment.json(["inspect", "app:1"])[0]["Id"].clone();
        assert_eq!(digest(&other), digest(&environment), "the configuration is bit for bit the same");
        // The stream of another store is the same.
        let again = other.command().args(["save", "app:1", "app:2"]).output().unwrap();
        assert_eq!(again.stdout.len() as u64, fs::metadata(&file).unwrap().len());
        assert!(again.stdout == fs::read(&file).unwrap(), "an archive depends on the images alone");
    }
}

#[test]
fn a_stream_that_carries_an_image_carries_nothing_else() {
    let environment = Environment::new();
    if !with_sorts(&environment) {
        return;
    }
    let commands: [&[&str]; 5] = [
        &["save", "app:1"],
        &["save", "app:1", "-o", "-"],
        &["push", "app:1", "docker-archive:-"],
        &["export", "app:1", "docker-archive:-"],
        &["copy", "app:1", "docker-archive:-"],
    ];
    let stream = |command: &[&str], format| {
        let output = environment.command().args(["--format", format]).args(command).output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    for command in commands {
        assert!(stream(command, "json") == stream(command, "table"), "{command:?}");
    }
    let between = image(&environment);
    let between = ["copy", &between, "oci-archive:-"];
    assert!(stream(&between, "json") == stream(&between, "table"));
}

#[test]
fn a_tar_is_packed_as_was_asked_or_else_as_its_name_says() {
    let environment = Environment::new();
    if !make_image(&environment) {
        return;
    }
    environment.ok(["pull", &image(&environment), "app:1"]);
    let (gzip, zstd): (&[u8], &[u8]) = (&[0x1f, 0x8b], &[0x28, 0xb5, 0x2f, 0xfd]);
    let cases: [(&str, &[&str], &[u8]); 6] = [
        ("a.tar", &[], b""),
        ("a.tar.gz", &[], gzip),
        ("a.tar.zst", &[], zstd),
        ("b.tar", &["--compression", "gzip"], gzip),
        ("b.tar.gz", &["--compression", "zstd"], zstd),
        ("c.tar", &["--level", "1"], gzip),
    ];
    for (file, flags, magic) in cases {
        let place = format!("tar:{}", environment.path(file).display());
        environment.ok(["export", "app:1", &place].iter().chain(flags).copied());
        let bytes = fs::read(environment.path(file)).unwrap();
        assert!(bytes.starts_with(magic), "{file} {flags:?}");
        assert_eq!(bytes[257..].starts_with(b"ustar"), magic.is_empty(), "{file} {flags:?}");
    }
}

#[test]
fn umoci_unpacks_what_is_exported_to_the_same_tree() {
    if !found("umoci") {
        return skip("umoci is not installed");
    }
    let environment = Environment::new();
    if !with_sorts(&environment) {
        return;
    }
    let out = environment.path("out");
    for compression in ["gzip", "zstd", "none"] {
        let tag = format!("oci:{}:{compression}", out.display());
        environment.ok(["export", "dev", &tag, "--compression", compression]);
    }
    let state = exported(&environment, "dev");
    for compression in ["gzip", "none"] {
        let (bundle, image) = (environment.path(compression), format!("{}:{compression}", out.display()));
        program("umoci", &["unpack", "--image", &image, bundle.to_str().unwrap()]);
        assert_eq!(listing(&bundle.join("rootfs")), state, "{compression}");
    }
}

#[test]
fn skopeo_and_podman_read_what_is_saved() {
    if !found("skopeo") || !found("podman") {
        return skip("skopeo or podman is not installed");
    }
    let environment = Environment::new();
    if !with_sorts(&environment) {
        return;
    }
    environment.ok(["commit", "dev", "app:2"]);
    let file = environment.path("saved.tar");
    let path = file.to_str().unwrap();
    environment.ok(["save", "-o", path, "app:2"]);
    let inspected = program("skopeo", &["inspect", &format!("docker-archive:{path}")]).stdout;
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected["Layers"].as_array().unwrap().len(), 3);
    environment.ok(["save", "--oci", "-o", path, "app:2"]);
    let raw = program("skopeo", &["inspect", "--raw", &format!("oci-archive:{path}")]).stdout;
    assert_eq!(raw, environment.ok(["inspect", "--raw", "app:2"]), "the manifest is bit for bit the same");

    environment.ok(["save", "-o", path, "app:2"]);
    let (root, run) = (environment.path("podman"), environment.path("podman-run"));
    let podman = |arguments: &[&str]| {
        let own =
            ["--root", root.to_str().unwrap(), "--runroot", run.to_str().unwrap(), "--storage-driver", "vfs"];
        ran(Command::new("podman").args(own).args(arguments).output().unwrap())
    };
    let loaded = podman(&["load", "-i", path]);
    if loaded.code != 0 && !loaded.stderr.contains("archive") {
        return skip(&format!("podman does not run here: {}", loaded.stderr));
    }
    assert!(loaded.code == 0 && loaded.stdout.contains("app:2"), "{loaded:?}");
    let mounted = podman(&["image", "mount", "app:2"]);
    assert_eq!(mounted.code, 0, "{}", mounted.stderr);
    let tree = listing(Path::new(mounted.stdout.trim()));
    assert_eq!(podman(&["image", "umount", "app:2"]).code, 0);
    // podman gives the root directory a time of its own.
    let below = |listing: &str| listing.split_once('\n').unwrap().1.to_owned();
    assert_eq!(below(&tree), below(&exported(&environment, "app:2")));
}

#[test]
fn what_skopeo_copies_is_pulled_and_copied_on() {
    if !found("skopeo") {
        return skip("skopeo is not installed");
    }
    let environment = Environment::new();
    if !make_image(&environment) {
        return;
    }
    let source = image(&environment);
    for form in ["docker-archive", "oci-archive"] {
        let place = format!("{form}:{}:app:{form}", environment.path(form).display());
        program("skopeo", &["copy", "-q", &source, &place]);
        environment.ok(["pull", &place]);
        assert_eq!(environment.ok(["run", &format!("app:{form}"), "cat /etc/one"]), "one\n");
    }
    assert_eq!(exported(&environment, "app:docker-archive"), exported(&environment, "app:oci-archive"));
}

#[test]
fn an_index_is_copied_whole_and_bit_for_bit() {
    let environment = Environment::new();
    if !make_image(&environment) {
        return;
    }
    // Two platforms, and fields that nobody knows.
    let img = environment.path("img");
    let mut index: Value = serde_json::from_slice(&fs::read(img.join("index.json")).unwrap()).unwrap();
    let mut entry = index["manifests"][0].clone();
    entry["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    let mut other = entry.clone();
    other["platform"] = json!({ "os": "linux", "architecture": "arm64", "variant": "v8" });
    let media_type = "application/vnd.oci.image.index.v1+json";
    let nested = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": [entry, other], "future": { "a": [1, 2] } });
    let bytes = serde_json::to_vec_pretty(&nested).unwrap();
    let digest = rootling::image::Digest::sha256_of(&bytes);
    fs::write(img.join("blobs/sha256").join(digest.hex()), &bytes).unwrap();
    index["manifests"] = json!([{
        "mediaType": media_type, "digest": digest, "size": bytes.len(),
        "annotations": { "org.opencontainers.image.ref.name": "many" },
    }]);
    fs::write(img.join("index.json"), index.to_string()).unwrap();

    let copy = format!("oci:{}:copied", environment.path("copy").display());
    let archive = format!("oci-archive:{}:again", environment.path("copy.tar").display());
    assert_eq!(environment.ok(["copy", "--all", &image(&environment), &copy]).trim(), digest.to_string());
    assert_eq!(environment.ok(["copy", "--all", &copy, &archive]).trim(), digest.to_string());
    assert_eq!(environment.ok(["inspect", "--raw", &archive]).as_bytes(), bytes);
    let one = format!("oci:{}:one", environment.path("one").display());
    environment.ok(["copy", "--platform", "linux/arm64", &archive, &one]);
    assert_ne!(environment.ok(["inspect", "--raw", &one]).as_bytes(), bytes);
    environment.ok(["pull", &archive, "many:1"]);
    let shown = &environment.json(["images"])[0];
    assert_eq!(shown["digest"], json!(digest), "it is known by the index's digest");
    let stderr = environment.fails(["pull", "--platform", "linux/s390x", &archive, "no"]);
    assert!(stderr.contains("no image for linux/s390x") && stderr.contains("linux/amd64"), "{stderr}");
}

#[test]
fn a_tree_goes_out_as_a_tar_and_comes_back() {
    let environment = Environment::new();
    if !with_sorts(&environment) {
        return;
    }
    let state = exported(&environment, "dev");
    for name in ["plain.tar", "packed.tar.gz", "packed.tar.zst"] {
        let tar = format!("tar:{}", environment.path(name).display());
        let told = events(&environment, &["export", "dev", &tar]);
        assert_eq!((&told[0]["event"], &told[0]["destination"]), (&json!("exported"), &json!(tar)));
        environment.ok(["import", &tar, name]);
        assert_eq!(exported(&environment, name), state, "{name}");
    }
    let streamed = environment.command().args(["export", "dev"]).output().unwrap();
    assert!(
        streamed.stdout == fs::read(environment.path("plain.tar")).unwrap(),
        "a stream is the same archive"
    );
    let full = format!("dir:{}", environment.path("img").display());
    assert!(environment.fails(["export", "dev", &full]).contains("is not empty"));
}
