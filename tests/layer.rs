//! Tars into trees: against GNU tar, against hostile archives, against random ones.

#![expect(clippy::print_stderr, reason = "a test that cannot run says why; a failed one panics")]

mod create;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use rootling::layer::{Applied, ApplyOptions, Compression, Content, Limits, apply, apply_with, decompress};
use rootling_backends::{Dir, Error, ErrorKind, Result};

// ---------------------------------------------------------------- a small writer, able to lie

pub(crate) struct Tar(pub(crate) Vec<u8>);

pub(crate) fn field(block: &mut [u8], at: usize, bytes: &[u8]) {
    block[at..at + bytes.len()].copy_from_slice(bytes);
}

pub(crate) fn checksummed(mut block: [u8; 512]) -> [u8; 512] {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    field(&mut block, 148, format!("{sum:06o}\0 ").as_bytes());
    block
}

pub(crate) fn header(kind: u8, name: &[u8], link: &[u8], size: u64) -> [u8; 512] {
    let mut block = [0; 512];
    field(&mut block, 0, &name[..name.len().min(100)]);
    field(&mut block, 100, b"0000750\0");
    field(&mut block, 108, b"0000001\0");
    field(&mut block, 116, b"0000002\0");
    field(&mut block, 124, format!("{size:011o}\0").as_bytes());
    field(&mut block, 136, b"00000001750\0");
    block[156] = kind;
    field(&mut block, 157, &link[..link.len().min(100)]);
    field(&mut block, 257, b"ustar\x0000");
    if matches!(kind, b'3' | b'4') {
        field(&mut block, 329, b"0000001\0");
        field(&mut block, 337, b"0000003\0");
    }
    checksummed(block)
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let body = key.len() + value.len() + 3;
    let mut length = body;
    while length.to_string().len() + body != length {
        length = length.to_string().len() + body;
    }
    let mut record = format!("{length} {key}=").into_bytes();
    record.extend_from_slice(value);
    record.push(b'\n');
    record
}

impl Tar {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn block(mut self, block: [u8; 512]) -> Self {
        self.0.extend_from_slice(&block);
        self
    }

    pub(crate) fn data(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, data: &[u8]) -> Self {
        self.block(header(b'0', name.as_bytes(), b"", data.len() as u64)).data(data)
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.block(header(b'5', name.as_bytes(), b"", 0))
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.block(header(b'2', name.as_bytes(), target.as_bytes(), 0))
    }

    pub(crate) fn link(self, name: &str, target: &str) -> Self {
        self.block(header(b'1', name.as_bytes(), target.as_bytes(), 0))
    }

    pub(crate) fn extension(self, kind: u8, data: &[u8]) -> Self {
        self.block(header(kind, b"extension", b"", data.len() as u64)).data(data)
    }

    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let data: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        self.extension(b'x', &data)
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

// ---------------------------------------------------------------- a place with a canary beside it

pub(crate) struct Place {
    pub(crate) temp: tempfile::TempDir,
    pub(crate) root: Dir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("root")).unwrap();
        fs::create_dir(temp.path().join("canary")).unwrap();
        fs::write(temp.path().join("canary/file"), "alive").unwrap();
        let root = Dir::open(temp.path().join("root")).unwrap();
        Self { temp, root }
    }

    pub(crate) fn apply(&self, tar: &[u8]) -> Result<Applied> {
        apply(tar, &self.root, &options())
    }

    pub(crate) fn at(&self, path: &str) -> std::path::PathBuf {
        self.temp.path().join("root").join(path)
    }

    pub(crate) fn canary(&self) -> BTreeMap<OsString, String> {
        listing(&self.temp.path().join("canary"))
    }
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

pub(crate) fn options() -> ApplyOptions {
    let limits = Limits { bytes: 1 << 30, ..Limits::default() };
    ApplyOptions { digests: true, owners: is_root(), limits, ..ApplyOptions::default() }
}

/// All that a tree holds: type, mode, owner, links, size, time, target, device, attributes, content.
fn listing(root: &Path) -> BTreeMap<OsString, String> {
    let mut listing = BTreeMap::new();
    let mut first_names: BTreeMap<(u64, u64), OsString> = BTreeMap::new();
    for entry in walkdir::WalkDir::new(root).sort_by_file_name() {
        let entry = entry.unwrap();
        let name = entry.path().strip_prefix(root).unwrap().as_os_str().to_owned();
        let meta = entry.path().symlink_metadata().unwrap();
        let first = first_names.entry((meta.dev(), meta.ino())).or_insert_with(|| name.clone());
        let content = if meta.is_file() {
            format!("{:x}", xxh(&fs::read(entry.path()).unwrap()))
        } else if meta.is_symlink() {
            format!("{:?}", fs::read_link(entry.path()).unwrap())
        } else {
            format!("{:x}", meta.rdev())
        };
        let dir = Dir::open(entry.path().parent().unwrap()).unwrap();
        let xattrs = dir.xattrs(entry.path().file_name().unwrap()).unwrap();
        let (uid, gid) = if is_root() { (meta.uid(), meta.gid()) } else { (0, 0) };
        let size = if meta.is_dir() { 0 } else { meta.size() };
        let (mode, links, seconds, nanoseconds) =
            (meta.mode(), meta.nlink(), meta.mtime(), meta.mtime_nsec());
        let links = if meta.is_dir() { 0 } else { links };
        listing.insert(
            name,
            format!(
                "{mode:o} {uid}:{gid} {links} {size} {seconds}.{nanoseconds} {first:?} {xattrs:?} {content}"
            ),
        );
    }
    listing
}

fn xxh(bytes: &[u8]) -> u128 {
    xxhash_rust::xxh3::xxh3_128(bytes)
}

fn differences(ours: &BTreeMap<OsString, String>, theirs: &BTreeMap<OsString, String>) -> Vec<String> {
    let names: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    let different = names.into_iter().filter(|name| ours.get(*name) != theirs.get(*name));
    different
        .map(|name| format!("{name:?}: {:?} against {:?}", ours.get(name), theirs.get(name)))
        .take(5)
        .collect()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

// ---------------------------------------------------------------- hostile archives

#[test]
fn hostile_archives_are_refused_and_touch_nothing_outside() {
    let long = "n".repeat(256);
    let bomb = vec![b'a'; 64 << 20];
    let mut giant = header(b'0', b"giant", b"", 0);
    field(&mut giant, 124, b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff");
    let mut overflow = header(b'0', b"overflow", b"", 0);
    field(&mut overflow, 124, b"\x80\0\0\x01\0\0\0\0\0\0\0\x01");
    let mut endless = header(b'S', b"endless", b"", 0);
    field(&mut endless, 257, b"ustar  \0");
    endless[482] = 1;
    let mut wrong = header(b'0', b"wrong", b"", 0);
    wrong[0] = b'W';
    let cases: Vec<(&str, Tar, &str)> = vec![
        ("absolute name", Tar::new().file("/canary/file", b"x"), "absolute"),
        ("dotdot name", Tar::new().file("../canary/file", b"x"), "\"..\""),
        ("dotdot inside", Tar::new().dir("a").file("a/../../canary/file", b"x"), "\"..\""),
        ("dotdot alone", Tar::new().dir(".."), "\"..\""),
        ("absolute hard link", Tar::new().link("l", "/canary/file"), "absolute"),
        ("dotdot hard link", Tar::new().link("l", "../canary/file"), "\"..\""),
        ("hard link to nothing", Tar::new().link("l", "missing"), "not in the archive"),
        ("hard link below nothing", Tar::new().link("l", "no/such/dir"), "not in the archive"),
        ("hard link to a directory", Tar::new().dir("d").link("l", "d"), "directory"),
        (
            "hard link out through a link",
            Tar::new().symlink("s", "../canary").link("l", "s/file"),
            "not in the archive",
        ),
        ("root as a link", Tar::new().symlink("./", "../canary"), "root of the tree"),
        ("root as a file", Tar::new().file(".", b"x"), "root of the tree"),
        ("parent is a file", Tar::new().file("f", b"").file("f/x", b""), "f/x"),
        ("parent is a loop", Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", b""), "a/x"),
        ("name part too long", Tar::new().extension(b'L', long.as_bytes()).file("x", b""), "255"),
        ("NUL in a name", Tar::new().pax(&[("path", b"a\0b")]).file("x", b""), "NUL"),
        ("NUL in a link", Tar::new().pax(&[("linkpath", b"a\0b")]).symlink("x", "y"), "NUL"),
        ("long name bomb", Tar::new().extension(b'L', &bomb).file("x", b""), "extension headers"),
        ("PAX bomb", Tar::new().extension(b'x', &bomb).file("x", b""), "extension headers"),
        ("giant size", Tar::new().block(checksummed(giant)), "more than any file"),
        ("overflowing size", Tar::new().block(checksummed(overflow)), "size is not a number"),
        ("PAX size past the end", Tar::new().pax(&[("size", b"99999")]).file("cut", b"x"), "cut"),
        ("PAX size malformed", Tar::new().pax(&[("size", b"+1")]).file("x", b"x"), "size"),
        ("PAX record cut", Tar::new().extension(b'x', b"99 path=x\n").file("x", b""), "malformed"),
        ("PAX length no number", Tar::new().extension(b'x', b"xx path=x\n").file("x", b""), "malformed"),
        ("two PAX headers", Tar::new().pax(&[]).pax(&[("path", b"y")]).file("x", b""), "two PAX"),
        ("global name", Tar::new().extension(b'g', &record("path", b"y")).file("x", b""), "global"),
        (
            "data behind a link",
            Tar::new().block(header(b'2', b"s", b"t", 512)).data(&[1; 512]),
            "bytes of data",
        ),
        ("unknown type", Tar::new().block(header(b'Z', b"z", b"", 0)), "'Z' is not known"),
        ("lone zero block", Tar::new().block([0; 512]).file("x", b""), "lone block"),
        ("endless sparse map", Tar::new().block(checksummed(endless)).data(&[0; 5120]), "sparse map"),
        ("wrong checksum", Tar::new().dir("d").block(wrong), "checksum"),
        ("uid of -1", Tar::new().pax(&[("uid", b"4294967295")]).file("x", b""), "uid"),
        (
            "sparse regions overlap",
            Tar::new().pax(&[("GNU.sparse.map", b"0,1,0,1"), ("GNU.sparse.size", b"9")]).file("x", b"ab"),
            "sparse map",
        ),
        (
            "sparse of more than the limit",
            Tar::new()
                .pax(&[("GNU.sparse.map", b"0,1"), ("GNU.sparse.size", b"1000000000000")])
                .file("x", b"a"),
            "add up to more",
        ),
        (
            "sparse map of a billion lines",
            Tar::new()
                .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"1")])
                .file("x", b"1000000000\n0\n"),
            "sparse map",
        ),
    ];
    for (name, tar, expected) in cases {
        let place = Place::new();
        let before = place.canary();
        let error = place.apply(&tar.end()).expect_err(name);
        assert!(format!("{error:?}").contains(expected), "{name}: {error:?}");
        assert_eq!(place.canary(), before, "{name}");
    }
}

#[test]
fn links_in_the_archive_lead_elsewhere_in_the_tree_only() {
    let place = Place::new();
    let before = place.canary();
    let tar = Tar::new()
        .dir("canary")
        .symlink("up", "../../../canary")
        .symlink("chain", "up")
        .symlink("absolute", "/canary")
        .file("chain/a", b"a")
        .file("absolute/b", b"b")
        .symlink("canary/out", "../../canary/file")
        .file("canary/out", b"replaced");
    let mut paths = Vec::new();
    apply_with(&tar.end()[..], &place.root, &options(), &mut |member| paths.push(member.path.clone()))
        .unwrap();
    assert_eq!(place.canary(), before);
    assert_eq!(fs::read(place.at("canary/a")).unwrap(), b"a");
    assert_eq!(fs::read(place.at("canary/b")).unwrap(), b"b");
    assert_eq!(fs::read(place.at("canary/out")).unwrap(), b"replaced");
    assert!(paths.contains(&b"canary/a".to_vec()) && paths.contains(&b"canary/b".to_vec()), "{paths:?}");
}

#[test]
fn later_members_replace_earlier_ones() {
    let place = Place::new();
    let tar = Tar::new()
        .dir("d")
        .file("d/deep/below", b"x")
        .file("d", b"a file now")
        .symlink("s", "/nowhere")
        .dir("s")
        .file("s/x", b"inside")
        .file("twice", b"one")
        .link("other", "twice")
        .file("twice", b"two")
        .link("twice", "twice")
        .symlink("l", "t")
        .link("m", "l");
    let applied = place.apply(&tar.end()).unwrap();
    assert_eq!(fs::read(place.at("d")).unwrap(), b"a file now");
    assert_eq!(fs::read(place.at("s/x")).unwrap(), b"inside");
    assert_eq!(fs::read(place.at("twice")).unwrap(), b"two");
    assert_eq!(fs::read(place.at("other")).unwrap(), b"one");
    assert_eq!(fs::read_link(place.at("m")).unwrap(), Path::new("t"));
    assert_eq!((applied.entries, applied.implied, applied.skipped_count), (12, 1, 0));
}

#[test]
fn extensions_reach_their_member() {
    let place = Place::new();
    let tar = Tar::new()
        .extension(b'g', &[record("comment", b"git"), record("mtime", b"-5.25")].concat())
        .file("old", b"")
        .pax(&[("path", b"pax-name"), ("mtime", b"7.5"), ("SCHILY.xattr.user.k", b"a\n=\0b")])
        .extension(b'L', b"gnu-name\0")
        .file("ignored", b"data");
    place.apply(&tar.end()).unwrap();
    let old = fs::metadata(place.at("old")).unwrap();
    assert_eq!((old.mtime(), old.mtime_nsec()), (-6, 750_000_000));
    let new = fs::metadata(place.at("pax-name")).unwrap();
    assert_eq!((new.mtime(), new.mtime_nsec()), (7, 500_000_000));
    assert_eq!(place.root.xattrs("pax-name").unwrap(), [("user.k".into(), b"a\n=\0b".to_vec())]);
}

#[test]
fn attributes_that_speak_to_overlayfs_are_left_out() {
    let place = Place::new();
    let tar = Tar::new().pax(&[("SCHILY.xattr.trusted.overlay.redirect", b"/etc")]).dir("d");
    let applied = place.apply(&tar.end()).unwrap();
    assert_eq!(place.root.xattrs("d").unwrap(), []);
    assert_eq!(applied.skipped.len(), 1, "{applied:?}");
}

#[test]
fn a_cut_archive_names_member_and_offset() {
    let whole = Tar::new().file("first", b"1").file("second", &[7; 5000]).0;
    let place = Place::new();
    let error = format!("{:?}", place.apply(&whole[..3000]).unwrap_err());
    assert!(error.contains("second") && error.contains("3000"), "{error}");
    // Nothing but the blocks of zeros is missing, then also the filling of the last block.
    for end in [whole.len(), whole.len() - 100] {
        assert_eq!(Place::new().apply(&whole[..end]).unwrap().entries, 2);
    }
    let mut garbage = Tar::new().file("first", b"1").end();
    garbage.extend_from_slice(&[0xaa; 700]);
    assert_eq!(Place::new().apply(&garbage).unwrap().archive_bytes, garbage.len() as u64);
}

#[test]
fn a_full_file_system_is_told_with_the_member() {
    if !is_root() {
        eprintln!("skipped: mounting a small tmpfs needs root");
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(temp.path()));
    let result =
        apply(&Tar::new().file("big", &[1; 200_000]).end()[..], &Dir::open(temp.path()).unwrap(), &options());
    run(Command::new("umount").arg(temp.path()));
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(format!("{error:?}").contains("unpack member \"big\""), "{error:?}");
}

// ---------------------------------------------------------------- compression

fn unpacked(bytes: &[u8]) -> std::result::Result<(Compression, Vec<u8>), Error> {
    let (compression, mut reader) = decompress(bytes)?;
    let mut tar = Vec::new();
    reader.read_to_end(&mut tar).map_err(|error| Error::io("read", error))?;
    Ok((compression, tar))
}

pub(crate) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn compression_is_told_by_content() {
    let tar = Tar::new().file("a", &[5; 3000]).end();
    let xz = |data: &[u8]| liblzma::encode_all(data, 1).unwrap();
    let zstd = |data: &[u8]| zstd::encode_all(data, 1).unwrap();
    let bzip2 = |data: &[u8]| {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    };
    let (front, back) = tar.split_at(1000);
    for (compression, packed) in [
        (Compression::None, tar.clone()),
        (Compression::Gzip, [gzip(front), gzip(back)].concat()),
        (Compression::Xz, [xz(front), xz(back)].concat()),
        (Compression::Zstd, [zstd(front), zstd(back)].concat()),
        (Compression::Bzip2, [bzip2(front), bzip2(back)].concat()),
    ] {
        let (detected, read) = unpacked(&packed).unwrap();
        assert_eq!((detected, read == tar), (compression, true), "{compression}");
        if compression != Compression::None {
            assert!(unpacked(&packed[..packed.len() - 3]).is_err(), "{compression} cut short");
        }
    }
    let named_like_bzip2 = Tar::new().file("BZh", b"").end();
    assert_eq!(unpacked(&named_like_bzip2).unwrap().0, Compression::None);
}

#[test]
fn what_cannot_be_read_is_named() {
    for (bytes, kind, expected) in [
        (&b""[..], ErrorKind::InvalidInput, "empty"),
        (b"PK\x03\x04....", ErrorKind::Unsupported, "zip"),
        (b"7z\xbc\xaf\x27\x1c", ErrorKind::Unsupported, "7z"),
        (b"\x04\x22\x4d\x18", ErrorKind::Unsupported, "lz4"),
        (b"hello, world", ErrorKind::Unsupported, "neither tar"),
    ] {
        let error = unpacked(bytes).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains(expected) && error.first_hint().is_some(), "{error:?}");
    }
}

// ---------------------------------------------------------------- against GNU tar

fn gnu_extract(tar: &Path, into: &Path) {
    let flags = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "-p"];
    run(Command::new("tar").args(flags).arg("-xf").arg(tar).arg("-C").arg(into));
}

/// A tree with one of everything.
fn make_tree(root: &Path) {
    let make = format!(
        r#"set -e; cd {root:?}; umask 022
        mkdir -p usr/lib etc deep/er 'odd names'; ln -s usr/lib lib; ln -s /etc/passwd absolute; ln -s ../../.. up
        printf x > etc/passwd; ln etc/passwd etc/link; ln absolute deep/link-to-symlink
        printf y > "odd names/$(printf 'new\nline\377')"; printf z > "$(printf 'n%.0s' $(seq 200))"
        mkdir -p "$(printf 'd%.0s' $(seq 120))/$(printf 'e%.0s' $(seq 120))"
        truncate -s 5M sparse; printf mid | dd of=sparse bs=1 seek=2000000 conv=notrunc status=none
        truncate -s 1M hole; dd if=/dev/zero of=zeros bs=1k count=300 status=none; : > empty
        for i in $(seq 0 60); do printf %d $i | dd of=many bs=1 seek=$((i * 100000)) conv=notrunc status=none; done
        touch -d @-3.25 etc/passwd; touch -h -d @5.000000001 up; chmod 4755 empty; chmod 0 etc/passwd
        setfattr -n user.empty empty; setfattr -n user.bin -v 0x000a3dff00 hole; setfattr -n user.d -v 1 deep
        if [ $(id -u) = 0 ]; then mknod fifo p; mknod null c 1 3; mknod disk b 259 70000
          setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 zeros
          setfattr -n trusted.t -v 2 up -h; chown 3000000000:7 hole; chown -h 5:6 up; chmod 2770 deep; fi
        touch -d @1.5 deep; touch -d @-7.000000003 ."#
    );
    run(Command::new("sh").arg("-c").arg(make));
}

#[test]
fn trees_packed_by_gnu_tar_come_back_equal() {
    let source = tempfile::tempdir().unwrap();
    make_tree(source.path());
    let expected = listing(source.path());
    let work = tempfile::tempdir().unwrap();
    let tar = work.path().join("tar");
    for (format, sparse) in [
        ("posix", &[][..]),
        ("posix", &["-S", "--sparse-version=0.0"]),
        ("posix", &["-S", "--sparse-version=0.1"]),
        ("posix", &["-S", "--sparse-version=1.0"]),
    ] {
        let mut pack = Command::new("tar");
        pack.args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "--format", format]).args(sparse);
        run(pack.arg("-cf").arg(&tar).arg("-C").arg(source.path()).arg("."));
        let place = Place::new();
        let applied = apply(fs::File::open(&tar).unwrap(), &place.root, &options()).unwrap();
        let differences = differences(&listing(&place.at("")), &expected);
        assert!(differences.is_empty(), "{format} {sparse:?}: {differences:#?}");
        assert!(fs::metadata(place.at("sparse")).unwrap().blocks() < 1000, "holes were filled");
        assert_eq!(applied.skipped, []);
    }
}

/// The old format has no attributes and whole seconds: GNU tar itself is the measure.
#[test]
fn gnu_format_comes_out_as_with_gnu_tar() {
    let source = tempfile::tempdir().unwrap();
    make_tree(source.path());
    let work = tempfile::tempdir().unwrap();
    let tar = work.path().join("tar");
    run(Command::new("tar")
        .args(["-S", "--format=gnu", "--numeric-owner", "-cf"])
        .arg(&tar)
        .arg("-C")
        .arg(source.path())
        .arg("."));
    let theirs = work.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    gnu_extract(&tar, &theirs);
    let place = Place::new();
    apply(fs::File::open(&tar).unwrap(), &place.root, &options()).unwrap();
    let differences = differences(&listing(&place.at("")), &listing(&theirs));
    assert!(differences.is_empty(), "{differences:#?}");
}

/// Compares a real root filesystem, named by `ROOTLING_TEST_ROOTFS`.
#[test]
fn a_real_root_filesystem_comes_out_as_with_gnu_tar() {
    let Some(tar) = std::env::var_os("ROOTLING_TEST_ROOTFS") else {
        eprintln!("skipped: ROOTLING_TEST_ROOTFS names no tar");
        return;
    };
    let work = tempfile::tempdir().unwrap();
    gnu_extract(Path::new(&tar), work.path());
    let place = Place::new();
    let mut members = 0;
    let mut digests = 0;
    let file = fs::File::open(&tar).unwrap();
    apply_with(file, &place.root, &options(), &mut |member| {
        members += 1;
        digests += u64::from(matches!(member.content, Content::File { digest: Some(_), .. }));
    })
    .unwrap();
    let (ours, theirs) = (listing(&place.at("")), listing(work.path()));
    let differences = differences(&ours, &theirs);
    assert!(differences.is_empty(), "{differences:#?}");
    assert!(members >= ours.len() && digests > 0, "{members} of {}", ours.len());
}

// ---------------------------------------------------------------- properties

/// What stands at one path of a model.
#[derive(Debug, Clone)]
struct Node {
    kind: Kind,
    mode: u32,
    mtime: (i64, u32),
    xattr: Option<Vec<u8>>,
}

#[derive(Debug, Clone)]
enum Kind {
    File(Vec<(bool, u32)>),
    Directory,
    Symlink(String),
    /// To the file that the number picks among those before.
    HardLink(prop::sample::Index),
    Fifo,
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        4 => prop::collection::vec((any::<bool>(), 0_u32..150_000), 0..4).prop_map(Kind::File),
        3 => Just(Kind::Directory),
        1 => "[a-z/.]{1,20}".prop_map(Kind::Symlink),
        1 => any::<prop::sample::Index>().prop_map(Kind::HardLink),
        1 => Just(Kind::Fifo),
    ]
}

fn nodes() -> impl Strategy<Value = Node> {
    let mtime = (-1_000_000_000_i64..4_000_000_000, 0_u32..1_000_000_000);
    let xattr = prop::option::weighted(0.3, prop::collection::vec(any::<u8>(), 0..300));
    (kinds(), 0_u32..0o10000, mtime, xattr).prop_map(|(kind, mode, mtime, xattr)| Node {
        kind,
        mode,
        mtime,
        xattr,
    })
}

/// Each node goes below one of the directories before it.
fn trees() -> impl Strategy<Value = Vec<(prop::sample::Index, String, Node)>> {
    let name = prop_oneof![5 => "[a-zA-Z0-9_. -]{1,12}", 1 => "[a-z]{90,250}", 1 => "\\PC{1,20}"]
        .prop_filter("a name", |name| {
            name != "." && name != ".." && !name.contains(['/', '\0']) && name.len() < 256
        });
    prop::collection::vec((any::<prop::sample::Index>(), name, nodes()), 0..25)
}

fn file_bytes(runs: &[(bool, u32)]) -> Vec<u8> {
    runs.iter()
        .flat_map(|(zero, length)| (0..*length).map(|at| if *zero { 0 } else { at as u8 | 1 }))
        .collect()
}

fn decimal_time((seconds, nanoseconds): (i64, u32)) -> String {
    if seconds < 0 && nanoseconds > 0 {
        return format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds);
    }
    format!("{seconds}.{nanoseconds:09}")
}

/// Writes a model as an archive, and tells what each path must be: mode, time, attribute, content.
fn pack(model: &[(prop::sample::Index, String, Node)]) -> (Vec<u8>, BTreeMap<String, String>) {
    let mut tar = Tar::new();
    let mut expected = BTreeMap::new();
    let mut directories = vec![String::new()];
    let mut files: Vec<(String, String)> = Vec::new();
    for (parent, name, node) in model {
        let path = format!("{}{name}", parent.get(&directories));
        if expected.contains_key(&path) || path.len() > 3000 {
            continue;
        }
        let mut target = String::new();
        let (kind, data, content) = match &node.kind {
            Kind::File(runs) => (b'0', file_bytes(runs), format!("file {:x}", xxh(&file_bytes(runs)))),
            Kind::Directory => (b'5', Vec::new(), "directory".to_owned()),
            Kind::Symlink(to) => {
                target.clone_from(to);
                (b'2', Vec::new(), format!("link {to}"))
            }
            Kind::HardLink(_) if files.is_empty() => continue,
            Kind::HardLink(index) => {
                let (first, content) = index.get(&files).clone();
                target = first;
                expected.insert(path.clone(), content.clone());
                (b'1', Vec::new(), content)
            }
            Kind::Fifo => (b'6', Vec::new(), "fifo".to_owned()),
        };
        let mut records =
            vec![("path", path.clone().into_bytes()), ("mtime", decimal_time(node.mtime).into_bytes())];
        if !target.is_empty() {
            records.push(("linkpath", target.into_bytes()));
        }
        let has_xattr = matches!(node.kind, Kind::File(_) | Kind::Directory);
        let xattr = node.xattr.as_ref().filter(|_| has_xattr);
        if let Some(value) = xattr {
            records.push(("SCHILY.xattr.user.any", value.clone()));
        }
        let records: Vec<_> = records.iter().map(|(key, value)| (*key, &value[..])).collect();
        let mut block = header(kind, b"short", b"", data.len() as u64);
        field(&mut block, 100, format!("{:07o}\0", node.mode).as_bytes());
        tar = tar.pax(&records).block(checksummed(block)).data(&data);
        if kind == b'1' {
            continue;
        }
        let mode = if kind == b'2' { 0o777 } else { node.mode };
        let told = format!("{mode:o} {:?} {xattr:?} {content}", node.mtime);
        match kind {
            b'0' => files.push((path.clone(), told.clone())),
            b'5' => directories.push(format!("{path}/")),
            _ => {}
        }
        expected.insert(path, told);
    }
    (tar.end(), expected)
}

fn unpacked_tree(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in walkdir::WalkDir::new(root).min_depth(1) {
        let entry = entry.unwrap();
        let meta = entry.path().symlink_metadata().unwrap();
        let path = entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let content = if meta.is_dir() {
            "directory".to_owned()
        } else if meta.is_symlink() {
            format!("link {}", fs::read_link(entry.path()).unwrap().to_str().unwrap())
        } else if meta.is_file() {
            format!("file {:x}", xxh(&fs::read(entry.path()).unwrap()))
        } else {
            "fifo".to_owned()
        };
        let dir = Dir::open(entry.path().parent().unwrap()).unwrap();
        let xattrs = dir.xattrs(entry.file_name()).unwrap();
        let xattr = xattrs.iter().find(|(name, _)| name.as_bytes() == b"user.any").map(|(_, value)| value);
        let mtime = (meta.mtime(), meta.mtime_nsec() as u32);
        found.insert(path, format!("{:o} {mtime:?} {xattr:?} {content}", meta.mode() & 0o7777));
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Only root reads a tree whose modes are arbitrary.
    #[test]
    fn any_tree_comes_back(model in trees()) {
        if !is_root() {
            eprintln!("skipped: only root can read files of mode 0");
            return Ok(());
        }
        let (tar, expected) = pack(&model);
        let place = Place::new();
        let applied = place.apply(&tar).unwrap();
        prop_assert_eq!(unpacked_tree(&place.at("")), expected.clone());
        prop_assert_eq!(applied.entries, expected.len() as u64);
    }

    /// Damage anywhere, with checksums made right again so that it gets past the door.
    #[test]
    fn damaged_archives_fail_or_succeed_inside_the_tree(
        model in trees(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let (mut tar, _) = pack(&model);
        tar.splice(0..0, Tar::new().symlink("out", "../canary").symlink("abs", "/").file("out/file", b"dead").0);
        for (at, byte) in &damage {
            let at = at.index(tar.len());
            tar[at] = *byte;
            let start = at / 512 * 512;
            let block: [u8; 512] = tar[start..start + 512].try_into().unwrap();
            if block[257..262] == *b"ustar" {
                tar[start..start + 512].copy_from_slice(&checksummed(block));
            }
        }
        if let Some(cut) = cut {
            tar.truncate(cut.index(tar.len()));
        }
        let place = Place::new();
        let before = place.canary();
        if let Err(error) = place.apply(&tar) {
            let told = format!("{error:?}");
            prop_assert!(told.contains("member") || told.contains("directory"), "{told}");
        }
        prop_assert_eq!(place.canary(), before);
        prop_assert_eq!(fs::read_dir(place.temp.path()).unwrap().count(), 2);
    }
}
