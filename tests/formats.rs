//! Layouts and archives, beside the programs that others use: what skopeo, umoci and podman make is read, and they read what is
//! written here. Through the library.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use rootling::image::{
    Configuration, Descriptor, Digest, Document, ImageReference, Manifest, Platform, media_type,
};
use rootling::store::Name;
use rootling::transfer::{
    ArchiveForm, CopyOptions, ImageArchive, ImageArchiveWriter, Layout, LayoutWriter, Sink, Source, copy,
    read_configuration, resolve,
};
use serde_json::{Value, json};

use crate::environment::{found, skip, tar_of};

/// A scratch directory with an image of two layers in the layout `ours`: `app:1` and `plain`.
struct Ground {
    temp: tempfile::TempDir,
    image: Document,
}

impl Ground {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let image = sample(temp.path());
        Self { temp, image }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// Runs a program in the directory, and returns what it prints.
    fn run(&self, command: &str) -> String {
        let mut words = command.split_whitespace();
        let output =
            Command::new(words.next().unwrap()).args(words).current_dir(self.temp.path()).output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn skopeo(&self, arguments: &str) -> String {
        self.run(&format!("skopeo --insecure-policy {arguments}"))
    }

    /// Writes our image to an archive, under these names; to one of docker's the other one too.
    fn archive(&self, file: &str, form: ArchiveForm, names: &[&str]) {
        let layout = Layout::open(&self.path("ours")).unwrap();
        let sink = ImageArchiveWriter::create(&self.path(file), form).unwrap();
        copy(&layout, Some("app:1"), &sink, names, &CopyOptions::default(), &|_| {}).unwrap();
        if form == ArchiveForm::Docker {
            copy(&layout, Some("other:9"), &sink, &["other:9"], &CopyOptions::default(), &|_| {}).unwrap();
        }
        sink.finish().unwrap();
    }

    fn our_configuration(&self) -> Configuration {
        let layout = Layout::open(&self.path("ours")).unwrap();
        read_configuration(&layout, self.image.manifest().unwrap()).unwrap().1
    }

    /// Takes everything of an image in, which verifies it, and returns its configuration.
    fn taken(&self, source: &dyn Source, name: Option<&str>) -> Configuration {
        let into = tempfile::tempdir_in(self.temp.path()).unwrap();
        let sink = LayoutWriter::open(&into.path().join("taken")).unwrap();
        copy(source, name, &sink, &["taken"], &CopyOptions::default(), &|_| {}).unwrap();
        let manifest = resolve(source, name, &Platform::host()).unwrap().manifest;
        read_configuration(source, manifest.manifest().unwrap()).unwrap().1
    }
}

fn sample(directory: &Path) -> Document {
    let writer = LayoutWriter::open(&directory.join("ours")).unwrap();
    let put = |media_type: &str, bytes: &[u8]| {
        let descriptor = Descriptor::of(media_type, bytes);
        writer.put_blob(&descriptor, &bytes.to_vec()).unwrap();
        descriptor
    };
    let layer = |name: &str, text: &str| {
        let root = directory.join(name);
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(root.join("etc").join(name), text).unwrap();
        tar_of(&root, &directory.join("layer.tar"), &[]);
        fs::read(directory.join("layer.tar")).unwrap()
    };
    let (base, top) = (layer("base", "the base\n"), layer("top", "the top\n"));
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&base).unwrap();
    let layers =
        vec![put(media_type::LAYER_GZIP, &encoder.finish().unwrap()), put(media_type::LAYER_TAR, &top)];
    let platform = Platform::host();
    let time = "2024-01-02T03:04:05Z";
    let mut configuration = json!({
        "architecture": platform.architecture, "os": platform.os, "created": time,
        "config": {"Cmd": ["/bin/true"], "Env": ["A=b"], "Labels": {"l": "m"}},
        "rootfs": {"type": "layers", "diff_ids": [Digest::sha256_of(&base), Digest::sha256_of(&top)]},
        "history": [
            {"created": time, "created_by": "base"},
            {"created": time, "created_by": "nothing", "empty_layer": true},
            {"created": time, "created_by": "top"},
        ],
    });
    let config = put(media_type::CONFIG, configuration.to_string().as_bytes());
    let document = Document::of_manifest(Manifest::new(config, layers));
    for name in ["app:1", "plain"] {
        writer.publish(&document, Some(name)).unwrap();
    }
    // Another image, of the lower layer alone.
    configuration["rootfs"]["diff_ids"].as_array_mut().unwrap().pop();
    configuration["history"].as_array_mut().unwrap().pop();
    let config = put(media_type::CONFIG, configuration.to_string().as_bytes());
    let base = document.manifest().unwrap().layers[0].clone();
    writer.publish(&Document::of_manifest(Manifest::new(config, vec![base])), Some("other:9")).unwrap();
    writer.finish().unwrap();
    document
}

fn have(tool: &str) -> bool {
    let there = found(tool);
    if !there {
        skip(&format!("{tool} is not installed"));
    }
    there
}

#[test]
fn skopeo_reads_our_layout_and_archives() {
    if !have("skopeo") {
        return;
    }
    let ground = Ground::new();
    ground.archive("ours.tar", ArchiveForm::Oci, &["app:1"]);
    ground.archive("saved.tar", ArchiveForm::Docker, &["app:1", "ghcr.io/team/app:2"]);
    for image in ["oci:ours:app:1", "oci:ours:plain", "oci-archive:ours.tar:app:1", "oci-archive:ours.tar"] {
        assert_eq!(
            ground.skopeo(&format!("inspect --raw {image}")).as_bytes(),
            ground.image.bytes,
            "{image}"
        );
    }
    // It has a manifest of its own for these; the configuration is ours, bit for bit.
    let config = &ground.image.manifest().unwrap().config.digest;
    for image in ["docker-archive:saved.tar:app:1", "docker-archive:saved.tar:ghcr.io/team/app:2"] {
        let raw: Value = serde_json::from_str(&ground.skopeo(&format!("inspect --raw {image}"))).unwrap();
        assert_eq!(raw["config"]["digest"], config.to_string(), "{image}");
    }
    // All of it, layers too, which it verifies.
    for (number, image) in
        ["oci:ours:plain", "oci-archive:ours.tar:app:1", "docker-archive:saved.tar:app:1"].iter().enumerate()
    {
        ground.skopeo(&format!("copy {image} oci:theirs-{number}:back"));
        let theirs = Layout::open(&ground.path(&format!("theirs-{number}"))).unwrap();
        assert_eq!(ground.taken(&theirs, Some("back")), ground.our_configuration());
    }
}

#[test]
fn we_read_what_skopeo_writes() {
    if !have("skopeo") {
        return;
    }
    let ground = Ground::new();
    for target in ["oci:dir:a/b:1", "oci-archive:oci.tar:a/b:1", "docker-archive:docker.tar:a/b:1"] {
        ground.skopeo(&format!("copy oci:ours:plain {target}"));
    }
    ground.skopeo("copy --format v2s2 oci:ours:plain oci:docker-types:x");
    ground.skopeo("copy --dest-compress-format zstd oci:ours:plain oci:zstd:x");
    let expected = ground.our_configuration();
    let open = |file: &str| ImageArchive::open(&ground.path(file), ground.temp.path()).unwrap();
    assert_eq!(ground.taken(&Layout::open(&ground.path("dir")).unwrap(), Some("a/b:1")), expected);
    assert_eq!(ground.taken(&open("oci.tar"), Some("docker.io/a/b:1")), expected);
    assert_eq!(ground.taken(&open("docker.tar"), Some("a/b:1")), expected);
    assert_eq!(ground.taken(&open("docker.tar"), None), expected);
    assert_eq!(ground.taken(&Layout::open(&ground.path("docker-types")).unwrap(), None), expected);
    assert_eq!(ground.taken(&Layout::open(&ground.path("zstd")).unwrap(), Some("x")), expected);
    // The archive packed, as people send it.
    ground.run("gzip -k docker.tar");
    assert_eq!(ground.taken(&open("docker.tar.gz"), None), expected);
    let stream = fs::File::open(ground.path("docker.tar")).unwrap();
    let streamed = ImageArchive::from_stream(stream, ground.temp.path()).unwrap();
    assert_eq!(ground.taken(&streamed, None), expected);
}

#[test]
fn umoci_and_we_share_a_layout() {
    if !have("umoci") {
        return;
    }
    let ground = Ground::new();
    assert!(ground.run("umoci list --layout ours").contains("plain"));
    ground.run("umoci raw unpack --rootless --image ours:plain unpacked");
    assert_eq!(fs::read_to_string(ground.path("unpacked/etc/base")).unwrap(), "the base\n");
    assert_eq!(fs::read_to_string(ground.path("unpacked/etc/top")).unwrap(), "the top\n");
    // What it makes of our image, in our layout.
    fs::write(ground.path("more"), "more\n").unwrap();
    ground.run("umoci insert --rootless --image ours:plain --tag more more /etc/more");
    ground.run("umoci config --image ours:more --config.user nobody");
    let layout = Layout::open(&ground.path("ours")).unwrap();
    let configuration = ground.taken(&layout, Some("more"));
    assert_eq!(configuration.config.user, "nobody");
    assert_eq!(configuration.rootfs.diff_ids.len(), 3);
    assert_eq!(configuration.rootfs.diff_ids[..2], ground.our_configuration().rootfs.diff_ids);
    // And we on top of what it made.
    let sink = LayoutWriter::open(&ground.path("ours")).unwrap();
    copy(&layout, Some("more"), &sink, &["again"], &CopyOptions::default(), &|_| {}).unwrap();
    assert!(ground.run("umoci stat --image ours:again").contains("LAYER"));
}

#[test]
fn podman_loads_ours_and_we_read_what_it_saves() {
    if !have("podman") || !crate::environment::is_root() {
        return;
    }
    let ground = Ground::new();
    ground.archive("ours.tar", ArchiveForm::Oci, &["docker.io/library/app:1"]);
    ground.archive("saved.tar", ArchiveForm::Docker, &["docker.io/library/app:2", "ghcr.io/team/app:3"]);
    let podman = |arguments: &str| {
        ground
            .run(&format!("podman --root podman/root --runroot podman/run --storage-driver vfs {arguments}"))
    };
    assert!(podman("load -i ours.tar").contains("docker.io/library/app:1"));
    let loaded = podman("load -i saved.tar");
    for name in ["docker.io/library/app:2", "ghcr.io/team/app:3", "docker.io/library/other:9"] {
        assert!(loaded.contains(name), "{loaded}");
    }

    podman(
        "save --format docker-archive -m -o both.tar docker.io/library/app:1 ghcr.io/team/app:3 docker.io/library/other:9",
    );
    podman("save --format oci-archive -o oci.tar docker.io/library/app:1");
    podman("save --format oci-dir -o dir docker.io/library/app:1");
    let expected = ground.our_configuration().rootfs;
    let both = ImageArchive::open(&ground.path("both.tar"), ground.temp.path()).unwrap();
    for name in ["app:1", "ghcr.io/team/app:3"] {
        assert_eq!(ground.taken(&both, Some(name)).rootfs, expected);
    }
    assert_eq!(ground.taken(&both, Some("other:9")).rootfs.diff_ids, expected.diff_ids[..1]);
    let oci = ImageArchive::open(&ground.path("oci.tar"), ground.temp.path()).unwrap();
    assert_eq!(ground.taken(&oci, Some("app:1")).rootfs, expected);
    assert_eq!(ground.taken(&Layout::open(&ground.path("dir")).unwrap(), None).rootfs, expected);
}

proptest! {
    #[test]
    fn every_image_has_a_name_that_a_store_takes(
        domain in "(|localhost/|[a-z]{1,70}\\.io(:[0-9]{1,4})?/|\\[[0-9a-f]{1,4}::1\\](:9)?/|[A-Z][a-z-]{0,3}[a-z]/)",
        path in "([a-z0-9]{1,9}([._/-]|__|--)){0,20}[a-z0-9]{1,90}",
        tag in "(|:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})",
        by_digest: bool,
    ) {
        let digest = if by_digest { format!("@{}", Digest::sha256_of(b"")) } else { String::new() };
        // `a.b/c` may be no host.
        let reference = ImageReference::parse(&format!("{domain}{path}{tag}{digest}"));
        prop_assume!(reference.is_ok());
        let reference = reference.unwrap();
        let name = reference.default_name();
        prop_assert!(Name::parse(&name).is_ok(), "{name:?}: {:?}", Name::parse(&name));
    }
}
