//! The image: a tree cut into layers of about as many bytes, as an OCI layout.
//!
//! tar packs, gzip compresses, sha256sum says the digests: no contender's own code decides what the image is, and each
//! unpacks gzip of one stream as most images have it. A layer has the directories above its first entry, too, as layers do.
//!
//! ```text
//! oci/
//!     oci-layout
//!     index.json              `first` and `second`
//!     blobs/sha256/…          six layers: the fifth of `second` has one file more
//! ```

use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rayon::prelude::*;
use rootling_backends::{Context, Result};
use serde_json::{Value, json};
use walkdir::WalkDir;

use super::{FIRST, SECOND};
use crate::command::{command, output, timed};
use crate::proof::below;

/// How many layers the image has.
pub(super) const LAYERS: usize = 5;

/// The file that only `second` has.
pub(super) const MORE: &str = "made-by-the-bench";

/// What an entry weighs beside its bytes: the header in the archive, and its making.
const ENTRY_BYTES: u64 = 1024;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Where it is, and how large the layers of one image are.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) path: PathBuf,
    pub(crate) packed_bytes: u64,
}

/// One layer: what a manifest and a config say of it.
#[derive(Debug, Clone)]
struct Layer {
    diff_id: String,
    digest: String,
    size: u64,
}

/// Makes both images in a directory.
pub(crate) fn make(tree: &Path, directory: &Path) -> Result<Layout> {
    let path = directory.join("oci");
    let blobs = path.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).context(|| format!("mkdir({blobs:?})"))?;
    let more = directory.join("more");
    make_more(&more)?;
    let mut parts = cut(&entries(tree)?);
    parts.extend(parts.last().cloned());
    let archives = parts.par_iter().enumerate().map(|(number, names)| {
        let archive = directory.join(format!("layer-{number}.tar"));
        let more = (number == LAYERS).then_some(more.as_path());
        pack(tree, names, more, &archive).and_then(|()| compress(&archive, &blobs))
    });
    let layers: Vec<Layer> = archives.collect::<Result<_>>()?;
    let (first, last) = layers.split_at(LAYERS);
    let second = [&first[..LAYERS - 1], last].concat();
    let write = |name: &str, value: &Value| {
        let path = path.join(name);
        std::fs::write(&path, value.to_string()).context(|| format!("write {path:?}"))
    };
    write("oci-layout", &json!({ "imageLayoutVersion": "1.0.0" }))?;
    let manifests = [manifest(&blobs, first, FIRST)?, manifest(&blobs, &second, SECOND)?];
    write("index.json", &json!({ "schemaVersion": 2, "manifests": manifests }))?;
    Ok(Layout { path, packed_bytes: first.iter().map(|layer| layer.size).sum() })
}

fn make_more(directory: &Path) -> Result<()> {
    let path = directory.join(MORE);
    let make = || {
        std::fs::create_dir(directory)?;
        std::fs::write(&path, "more\n")?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o644))?;
        File::options()
            .write(true)
            .open(&path)?
            .set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(86_400))
    };
    make().context(|| format!("make {path:?}"))
}

/// Returns all entries with what they weigh, directories before what they hold.
fn entries(tree: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let mut entries = Vec::new();
    for entry in WalkDir::new(tree).sort_by_file_name() {
        let entry = entry.map_err(std::io::Error::from).context(|| "walk the tree")?;
        let stat = entry.metadata().map_err(std::io::Error::from).context(|| "lstat")?;
        let bytes = if stat.is_file() { stat.len() } else { 0 };
        entries.push((below(tree, entry.path()), bytes + ENTRY_BYTES));
    }
    Ok(entries)
}

/// Cuts entries into parts that weigh about the same; each begins with the directories above its first entry.
fn cut(entries: &[(PathBuf, u64)]) -> Vec<Vec<PathBuf>> {
    let all: u64 = entries.iter().map(|(_, weight)| weight).sum();
    let mut parts: Vec<Vec<PathBuf>> = vec![Vec::new(); LAYERS];
    let mut before = 0;
    for (path, weight) in entries {
        let number = usize::try_from(before * LAYERS as u64 / all.max(1)).unwrap_or(LAYERS - 1);
        let part = &mut parts[number.min(LAYERS - 1)];
        if part.is_empty() {
            let mut above: Vec<PathBuf> = path.ancestors().skip(1).map(Path::to_owned).collect();
            above.reverse();
            part.extend(above);
        }
        part.push(path.clone());
        before += weight;
    }
    parts
}

/// Writes an archive of these entries, and of the further file.
fn pack(tree: &Path, names: &[PathBuf], more: Option<&Path>, archive: &Path) -> Result<()> {
    let list = archive.with_extension("names");
    let mut bytes = Vec::new();
    for name in names {
        let name = if name.as_os_str().is_empty() { Path::new(".") } else { name };
        bytes.extend_from_slice(name.as_os_str().as_bytes());
        bytes.push(0);
    }
    std::fs::write(&list, bytes).context(|| format!("write {list:?}"))?;
    let mut tar = command("tar", ["--create", "--format=posix", "--numeric-owner", "--xattrs"]);
    // Times of this machine's inodes and the number of the process would make every image another.
    tar.args(["--xattrs-include=*", "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime"]);
    tar.arg("--file").arg(archive).arg("-C").arg(tree).args(["--null", "--no-recursion"]);
    let mut from = OsString::from("--files-from=");
    from.push(&list);
    tar.arg(from);
    if let Some(more) = more {
        tar.arg("-C").arg(more).arg(MORE);
    }
    timed(&mut tar)?;
    std::fs::remove_file(&list).context(|| format!("unlink({list:?})"))
}

/// Compresses an archive to a blob and removes it.
fn compress(archive: &Path, blobs: &Path) -> Result<Layer> {
    let diff_id = digest(archive)?;
    timed(command("gzip", ["--no-name"]).arg(archive))?;
    let packed = archive.with_extension("tar.gz");
    let (digest, size) = adopt(&packed, blobs)?;
    Ok(Layer { diff_id, digest, size })
}

/// Moves a file to where its digest says.
fn adopt(file: &Path, blobs: &Path) -> Result<(String, u64)> {
    let digest = digest(file)?;
    let size = std::fs::metadata(file).context(|| format!("stat({file:?})"))?.len();
    let blob = blobs.join(&digest);
    std::fs::rename(file, &blob).context(|| format!("rename({file:?}, {blob:?})"))?;
    Ok((digest, size))
}

fn digest(file: &Path) -> Result<String> {
    let text = output(command("sha256sum", ["--binary"]).arg(file))?;
    Ok(text.split_whitespace().next().unwrap_or_default().to_owned())
}

/// Writes config and manifest of an image; returns its descriptor in the index.
fn manifest(blobs: &Path, layers: &[Layer], name: &str) -> Result<Value> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", layer.diff_id)).collect();
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": { "Cmd": ["/bin/sh"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let descriptors: Vec<Value> =
        layers.iter().map(|layer| descriptor(LAYER, &layer.digest, layer.size)).collect();
    let (digest, size) = put(blobs, &config)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, &digest, size),
        "layers": descriptors,
    });
    let (digest, size) = put(blobs, &manifest)?;
    let mut descriptor = descriptor(MANIFEST, &digest, size);
    descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    Ok(descriptor)
}

fn put(blobs: &Path, value: &Value) -> Result<(String, u64)> {
    let file = blobs.join("being-written");
    std::fs::write(&file, value.to_string()).context(|| format!("write {file:?}"))?;
    adopt(&file, blobs)
}

fn descriptor(media_type: &str, digest: &str, size: u64) -> Value {
    json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size })
}

/// What Go calls this machine's processor.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_hold_every_entry_once_below_the_directories_above_it() {
        let names = ["", "a", "a/b", "a/b/1", "a/b/2", "a/b/3", "c", "c/4"];
        let entries: Vec<_> = names.iter().map(|name| (PathBuf::from(name), 10)).collect();
        let parts = cut(&entries);
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(parts[0], paths(&["", "a"]));
        assert_eq!(parts[1], paths(&["", "a", "a/b", "a/b/1"]));
        assert_eq!(parts[4], paths(&["", "c", "c/4"]));
        for name in names {
            assert!(parts.iter().any(|part| part.contains(&PathBuf::from(name))), "{name}");
        }
    }

    #[test]
    fn an_image_is_the_same_each_time_and_the_other_differs_in_its_last_layer() {
        let temp = tempfile::tempdir().unwrap();
        let tree = temp.path().join("tree");
        std::fs::create_dir_all(tree.join("etc")).unwrap();
        for number in 0..20 {
            std::fs::write(tree.join(format!("etc/{number}")), "x".repeat(number * 100)).unwrap();
        }
        let index = |name: &str| {
            let directory = temp.path().join(name);
            std::fs::create_dir(&directory).unwrap();
            let layout = make(&tree, &directory).unwrap();
            assert!(layout.packed_bytes > 0);
            let blobs = std::fs::read_dir(layout.path.join("blobs/sha256")).unwrap().count();
            assert_eq!(blobs, LAYERS + 1 + 4);
            std::fs::read_to_string(layout.path.join("index.json")).unwrap()
        };
        assert_eq!(index("one"), index("two"));
    }
}
