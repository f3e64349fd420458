//! Trees into layers: equal bytes for equal trees, whatever else differs, and archives that others read.

use std::io;
use std::num::NonZero;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Stdio;

use rootling::image::Descriptor;
use rootling::layer::{CreateOptions, Created, Packing, Whiteouts, create, whole_tree};
use rootling_backends::{Aspects, Change, ChangeKind, DiffOptions, EntryType, Times, compare};

use super::*;

const PLAIN: Packing = Packing::None;

fn with(packing: Packing) -> CreateOptions {
    CreateOptions { packing, ..CreateOptions::default() }
}

fn layer_of(tree: &Path, options: &CreateOptions) -> (Vec<u8>, Created) {
    let root = Dir::open(tree).unwrap();
    let mut blob = Vec::new();
    let created = create(&whole_tree(&root).unwrap(), &root, options, &mut blob).unwrap();
    (blob, created)
}

fn added(path: &str, entry_type: EntryType) -> Change {
    Change { path: path.into(), kind: ChangeKind::Added, entry_type, aspects: Aspects::default() }
}

/// Returns each member of a tar: its name there and what the header says.
fn members(tar: &[u8]) -> Vec<rootling::layer::Member> {
    let mut archive = rootling::layer::Archive::new(tar, Limits::default());
    std::iter::from_fn(|| archive.next_entry().unwrap()).map(|entry| entry.member).collect()
}

fn sorted_names(tree: &Path) -> Vec<Vec<u8>> {
    let name = |entry: walkdir::DirEntry| {
        let mut name = entry.path().strip_prefix(tree).unwrap().as_os_str().as_bytes().to_vec();
        if entry.file_type().is_dir() && !name.is_empty() {
            name.push(b'/');
        }
        name
    };
    let mut names: Vec<_> =
        walkdir::WalkDir::new(tree).into_iter().map(|entry| name(entry.unwrap())).collect();
    names.sort();
    names
}

#[test]
fn a_tree_with_one_of_everything_comes_back_equal() {
    let source = tempfile::tempdir().unwrap();
    make_tree(source.path());
    let (tar, created) = layer_of(source.path(), &with(PLAIN));
    assert_eq!(created.notes, []);
    assert_eq!(created.entries, sorted_names(source.path()).len() as u64);
    let place = Place::new();
    let applied = place.apply(&tar).unwrap();
    assert_eq!(applied.skipped, []);
    let found = differences(&listing(&place.at("")), &listing(source.path()));
    assert!(found.is_empty(), "{found:#?}");
    let paths: Vec<_> = members(&tar).into_iter().map(|member| member.path).collect();
    let sorted = sorted_names(source.path());
    let sorted: Vec<_> = sorted.iter().map(|name| name.strip_suffix(b"/").unwrap_or(name)).collect();
    assert_eq!(paths, sorted);
}

#[test]
fn equal_trees_give_equal_layers_whatever_made_them() {
    let source = tempfile::tempdir().unwrap();
    make_tree(source.path());
    // Numbers of inodes and orders in directories differ in what was unpacked, and then again, in other surroundings.
    let (tar, first) = layer_of(source.path(), &with(PLAIN));
    let place = Place::new();
    place.apply(&tar).unwrap();
    let reversed = tempfile::tempdir().unwrap();
    let mut names: Vec<_> = members(&tar).into_iter().map(|member| member.path).collect();
    names.reverse();
    let copy = format!(
        "umask 077; cd {:?} && ls -A | sort -r | tar -c --xattrs --xattrs-include='*' --numeric-owner --format=posix -T - \
         | tar -x --xattrs --xattrs-include='*' --numeric-owner -p -C {:?} && touch -r . {:?}",
        source.path(),
        reversed.path(),
        reversed.path(),
    );
    run(Command::new("sh").arg("-c").arg(copy));
    let mode = fs::metadata(source.path()).unwrap().permissions();
    fs::set_permissions(reversed.path(), mode.clone()).unwrap();
    fs::set_permissions(place.at(""), mode).unwrap();
    for tree in [place.at(""), reversed.path().to_owned()] {
        for packing in [PLAIN, Packing::default(), Packing::Zstd { level: 3 }] {
            let expected = layer_of(source.path(), &with(packing)).1;
            for threads in [1, 3] {
                let options = CreateOptions { threads: NonZero::new(threads).unwrap(), ..with(packing) };
                assert_eq!(layer_of(&tree, &options).1, expected, "{tree:?} {packing}");
            }
            assert_eq!(expected.packed.diff_id, first.packed.diff_id);
        }
    }
}

#[test]
fn others_read_what_is_written() {
    let source = tempfile::tempdir().unwrap();
    make_tree(source.path());
    let work = tempfile::tempdir().unwrap();
    for (packing, suffix) in
        [(PLAIN, "tar"), (Packing::default(), "tar.gz"), (Packing::Zstd { level: 3 }, "tar.zst")]
    {
        let path = work.path().join(suffix);
        fs::write(&path, layer_of(source.path(), &with(packing)).0).unwrap();
        let theirs = work.path().join(format!("{suffix}.d"));
        fs::create_dir(&theirs).unwrap();
        gnu_extract(&path, &theirs);
        // GNU tar leaves attributes of links, and those without a value, out.
        let theirs_of = |tree: &Path| {
            let mut listing = listing(tree);
            for (name, attribute) in [("up", "(\"trusted.t\", [50])"), ("empty", "(\"user.empty\", [])")] {
                let entry = listing.get_mut(std::ffi::OsStr::new(name)).unwrap();
                *entry = entry.replace(attribute, "");
            }
            listing
        };
        let found = differences(&theirs_of(&theirs), &theirs_of(source.path()));
        assert!(found.is_empty(), "{suffix}: {found:#?}");
        let listed = Command::new("tar").arg("-tvf").arg(&path).stderr(Stdio::piped()).output().unwrap();
        assert!(
            listed.status.success() && listed.stderr.is_empty(),
            "{}",
            String::from_utf8_lossy(&listed.stderr)
        );
    }
}

/// Writes an image of these layers, as the image specification lays it out in a directory.
fn make_image(at: &Path, layers: &[(Vec<u8>, Created)]) {
    fs::create_dir_all(at.join("blobs/sha256")).unwrap();
    let blob = |bytes: &[u8], media_type: &str| {
        let descriptor = Descriptor::of(media_type, bytes);
        fs::write(at.join("blobs/sha256").join(descriptor.digest.hex()), bytes).unwrap();
        serde_json::to_value(descriptor).unwrap()
    };
    let descriptors: Vec<_> =
        layers.iter().map(|(bytes, created)| blob(bytes, created.packed.media_type)).collect();
    let diff_ids: Vec<_> = layers.iter().map(|(_, created)| &created.packed.diff_id).collect();
    let rootfs = serde_json::json!({ "type": "layers", "diff_ids": diff_ids });
    let config =
        serde_json::json!({ "architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs });
    let config = blob(config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
    let manifest = serde_json::json!({ "schemaVersion": 2, "config": config, "layers": descriptors });
    let mut manifest = blob(manifest.to_string().as_bytes(), "application/vnd.oci.image.manifest.v1+json");
    manifest["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": "test" });
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(at.join("index.json"), index.to_string()).unwrap();
    fs::write(at.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

#[test]
fn umoci_unpacks_layer_on_layer() {
    if !is_root() || Command::new("umoci").arg("--version").output().is_err() {
        eprintln!("skipped: umoci is not installed, or this is not root");
        return;
    }
    let (old, new, work) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for tree in [&old, &new] {
        make_tree(tree.path());
    }
    run(Command::new("sh").arg("-ec").current_dir(new.path()).arg(
        "rm etc/passwd empty; rm -r deep; echo file > deep; ln sparse etc/sparse; mkdir empty; echo > empty/x; chmod 711 usr",
    ));
    let roots = [&old, &new].map(|tree| Dir::open(tree.path()).unwrap());
    let changes = compare::diff_trees(&roots[0], &roots[1], DiffOptions { times: true }).unwrap();
    let mut blob = Vec::new();
    let created = create(&changes, &roots[1], &CreateOptions::default(), &mut blob).unwrap();
    make_image(work.path(), &[layer_of(old.path(), &CreateOptions::default()), (blob, created)]);
    let unpacked = work.path().join("unpacked");
    let image = format!("{}:test", work.path().display());
    run(Command::new("umoci").args(["raw", "unpack", "--image", &image]).arg(&unpacked));
    let untimed = |tree: &Path| {
        // It cuts times to seconds.
        let entry = |(name, entry): (OsString, String)| {
            let mut fields: Vec<_> = entry.split(' ').map(str::to_owned).collect();
            fields[4].clear();
            (name, fields.join(" "))
        };
        listing(tree).into_iter().map(entry).collect::<BTreeMap<_, _>>()
    };
    let found = differences(&untimed(&unpacked), &untimed(new.path()));
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn no_changes_are_an_empty_archive() {
    let root = Dir::open("/").unwrap();
    let mut tar = Vec::new();
    let created = create(&[], &root, &with(PLAIN), &mut tar).unwrap();
    assert_eq!((tar, created.entries), (vec![0; 1024], 0));
    let gzip = create(&[], &root, &CreateOptions::default(), &mut Vec::new()).unwrap();
    assert_eq!(gzip.packed.diff_id, created.packed.diff_id);
    // The empty layer that all of the world knows.
    let empty = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";
    assert_eq!(gzip.packed.diff_id.to_string(), empty);
}

#[test]
fn times_are_clamped_and_cut_on_request_only() {
    let source = tempfile::tempdir().unwrap();
    let root = Dir::open(source.path()).unwrap();
    root.make_dir("dir", 0o755).unwrap();
    for (name, modified) in
        [("dir/early", (5, 600)), ("dir/late", (2_000, 1)), ("dir/at", (1_000, 5)), ("dir", (9_000, 9))]
    {
        if name != "dir" {
            fs::write(source.path().join(name), name).unwrap();
        }
        root.set_times(name, Times { accessed: (1, 0), modified }).unwrap();
    }
    let mut changes: Vec<_> =
        ["dir/early", "dir/late", "dir/at"].map(|path| added(path, EntryType::File)).to_vec();
    changes.push(Change { kind: ChangeKind::Deleted, ..added("dir/gone", EntryType::File) });
    root.set_times(".", Times { accessed: (1, 0), modified: (7_000, 0) }).unwrap();
    let times = |options: &CreateOptions| {
        let mut tar = Vec::new();
        create(&changes, &root, options, &mut tar).unwrap();
        let times =
            members(&tar).into_iter().map(|member| (String::from_utf8(member.path).unwrap(), member.mtime));
        times
            .map(|(path, (seconds, nanoseconds))| format!("{path} {seconds}.{nanoseconds}"))
            .collect::<Vec<_>>()
    };
    let plain = with(PLAIN);
    assert_eq!(
        times(&plain),
        [" 7000.0", "dir 9000.9", "dir/.wh.gone 0.0", "dir/at 1000.5", "dir/early 5.600", "dir/late 2000.1"]
    );
    assert_eq!(
        times(&CreateOptions { epoch: Some(1_000), ..plain }),
        [" 1000.0", "dir 1000.0", "dir/.wh.gone 0.0", "dir/at 1000.0", "dir/early 5.600", "dir/late 1000.0"]
    );
    assert_eq!(
        times(&CreateOptions { whole_seconds: true, ..plain }),
        [" 7000.0", "dir 9000.0", "dir/.wh.gone 0.0", "dir/at 1000.0", "dir/early 5.0", "dir/late 2000.0"]
    );
}

#[test]
fn what_archives_cannot_hold_is_noted_and_takes_the_place_of_nothing() {
    let source = tempfile::tempdir().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(source.path().join("socket")).unwrap();
    let _was_file = std::os::unix::net::UnixListener::bind(source.path().join("was-file")).unwrap();
    fs::write(source.path().join("file"), "x").unwrap();
    let root = Dir::open(source.path()).unwrap();
    let mut changes = vec![added("socket", EntryType::Socket), added("file", EntryType::File)];
    let aspects = Aspects { kind: true, ..Aspects::default() };
    changes.push(Change { kind: ChangeKind::Modified, aspects, ..added("was-file", EntryType::Socket) });
    root.set_xattr("file", "user.a=b".as_ref(), b"1").unwrap();
    if is_root() {
        root.make_node("whiteout", libc::S_IFCHR, 0).unwrap();
        changes.push(added("whiteout", EntryType::CharDevice));
        root.set_xattr("file", "trusted.overlay.origin".as_ref(), b"1").unwrap();
    }
    root.set_xattr("file", "user.overlay.opaque".as_ref(), b"y").unwrap();
    let mut tar = Vec::new();
    let created = create(&changes, &root, &with(PLAIN), &mut tar).unwrap();
    let found = members(&tar);
    let paths: Vec<_> = found.iter().map(|member| std::str::from_utf8(&member.path).unwrap()).collect();
    assert_eq!(paths, ["", ".wh.was-file", "file"]);
    assert_eq!(found[2].xattrs, []);
    let notes: Vec<_> = created
        .notes
        .iter()
        .map(|note| (std::str::from_utf8(&note.path).unwrap(), &note.reason[..7]))
        .collect();
    let mut expected =
        vec![("socket", "archive"), ("was-file", "archive"), ("whiteout", "charact"), ("file", "attribu")];
    expected.retain(|(name, _)| is_root() || *name != "whiteout");
    assert_eq!(notes, expected);
    assert_eq!(created.notes_count, expected.len() as u64);
}

#[test]
fn a_file_that_would_mean_a_deletion_is_refused_by_name() {
    let source = tempfile::tempdir().unwrap();
    fs::create_dir(source.path().join("etc")).unwrap();
    fs::write(source.path().join("etc/.wh.passwd"), "x").unwrap();
    let root = Dir::open(source.path()).unwrap();
    let error = create(&whole_tree(&root).unwrap(), &root, &with(PLAIN), &mut Vec::new()).unwrap_err();
    assert!(format!("{error:?}").contains("etc/.wh.passwd"), "{error:?}");
    assert_eq!((error.kind(), error.first_hint()), (ErrorKind::InvalidInput, Some("rename or remove it")));
}

/// A path that was a directory when it was listed is a link when it is read: nothing behind it is.
#[test]
fn links_are_never_followed() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "the secret").unwrap();
    let source = tempfile::tempdir().unwrap();
    symlink(outside.path(), source.path().join("dir")).unwrap();
    symlink(outside.path().join("secret"), source.path().join("file")).unwrap();
    let root = Dir::open(source.path()).unwrap();
    let mut tar = Vec::new();
    let error = create(&[added("dir/secret", EntryType::File)], &root, &with(PLAIN), &mut tar).unwrap_err();
    assert!(format!("{error:?}").contains("dir/secret"), "{error:?}");
    create(&[added("file", EntryType::File)], &root, &with(PLAIN), &mut tar).unwrap();
    let text = String::from_utf8_lossy(&tar);
    assert!(!text.contains("the secret") && text.contains("secret"));
}

/// A sink that does something to the tree when the first bytes come.
struct Meddler<F>(Option<F>);

impl<F: FnOnce()> Write for Meddler<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(meddle) = self.0.take() {
            meddle();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_file_that_changes_its_size_meanwhile_is_an_error_that_names_it() {
    const SIZE: u64 = 64 << 20;
    for size in [SIZE / 2, SIZE + 1, 0] {
        let source = tempfile::tempdir().unwrap();
        let path = source.path().join("log");
        fs::write(&path, vec![b'x'; SIZE as usize]).unwrap();
        let root = Dir::open(source.path()).unwrap();
        let changes = [added("log", EntryType::File)];
        let file = fs::File::options().write(true).open(&path).unwrap();
        let mut sink = Meddler(Some(move || file.set_len(size).unwrap()));
        let error = create(&changes, &root, &with(PLAIN), &mut sink).unwrap_err();
        let told = format!("{error:?}");
        assert!(
            error.kind() == ErrorKind::Busy && told.contains("\"log\"") && told.contains("67108864"),
            "{told}"
        );
        assert!(error.first_hint().is_some());
        // And while nothing meddles it is none.
        let size = fs::metadata(&path).unwrap().len();
        let created = create(&changes, &root, &with(PLAIN), &mut io::sink()).unwrap();
        assert!(created.packed.diff_size > size);
    }
}

/// Reading a file or a directory updates its time of access, if that is older than a day.
#[test]
fn nothing_but_what_changed_is_read() {
    let source = tempfile::tempdir().unwrap();
    let root = Dir::open(source.path()).unwrap();
    for dir in 0..20 {
        fs::create_dir(source.path().join(format!("d{dir}"))).unwrap();
        for file in 0..50 {
            fs::write(source.path().join(format!("d{dir}/f{file}")), "some bytes").unwrap();
        }
    }
    let age = |path: &Path| {
        let path = path.strip_prefix(source.path()).unwrap();
        let path = if path == Path::new("") { Path::new(".") } else { path };
        root.set_times(path, Times { accessed: (1, 0), modified: (1_000, 0) }).unwrap();
    };
    let touched = || {
        let all = walkdir::WalkDir::new(source.path()).into_iter().map(|entry| entry.unwrap().into_path());
        all.filter(|path| fs::symlink_metadata(path).unwrap().atime() != 1).collect::<Vec<PathBuf>>()
    };
    // Walking reads all directories, so files are what counts here.
    let files = |paths: Vec<PathBuf>| paths.into_iter().filter(|path| path.is_file()).count();
    walkdir::WalkDir::new(source.path()).into_iter().for_each(|entry| age(entry.unwrap().path()));
    let changes: Vec<_> = (0..10).map(|at| added(&format!("d{at}/f7"), EntryType::File)).collect();
    let created = create(&changes, &root, &with(PLAIN), &mut io::sink()).unwrap();
    assert_eq!(created.entries, 21);
    assert_eq!(files(touched()), 10, "as many files are read as changed");
    layer_of(source.path(), &with(PLAIN));
    assert_eq!(files(touched()), 1_000, "void: reading is not seen here");
}

/// The whiteout's own name is longer than any name in a tree.
#[test]
fn the_longest_names_can_be_deleted() {
    let name = "n".repeat(255);
    let place = Place::new();
    fs::write(place.at(&name), "x").unwrap();
    let change = Change { kind: ChangeKind::Deleted, ..added(&name, EntryType::File) };
    let mut tar = Vec::new();
    create(&[change], &place.root, &with(PLAIN), &mut tar).unwrap();
    apply(&tar[..], &place.root, &ApplyOptions { whiteouts: Whiteouts::Delete, ..options() }).unwrap();
    assert_eq!(fs::read_dir(place.at("")).unwrap().count(), 0);
}

#[test]
fn modes_of_links_and_directories_are_what_they_are() {
    let source = tempfile::tempdir().unwrap();
    fs::create_dir(source.path().join("sticky")).unwrap();
    fs::set_permissions(source.path().join("sticky"), fs::Permissions::from_mode(0o3777)).unwrap();
    symlink("sticky", source.path().join("link")).unwrap();
    let modes: Vec<u32> =
        members(&layer_of(source.path(), &with(PLAIN)).0).iter().map(|member| member.mode).collect();
    assert_eq!(modes[1..], [0o777, 0o3777]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    /// Trees of odd names, times and attributes; what was unpacked gives the very same layer.
    #[test]
    fn any_tree_comes_back_from_its_layer(model in trees()) {
        if !is_root() {
            eprintln!("skipped: only root can read files of mode 0");
            return Ok(());
        }
        let (tar, expected) = pack(&model);
        let (first, second) = (Place::new(), Place::new());
        first.apply(&tar).unwrap();
        let (layer, created) = layer_of(&first.at(""), &with(PLAIN));
        second.apply(&layer).unwrap();
        prop_assert_eq!(unpacked_tree(&second.at("")), expected);
        prop_assert_eq!(layer_of(&second.at(""), &with(PLAIN)).1, created);
    }
}
