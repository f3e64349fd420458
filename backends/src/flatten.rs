//! A plain tree out of a chain of deltas, below OverlayFS: nothing is mounted, any number of layers.

use std::path::PathBuf;

use crate::attributes::Owners;
use crate::backend::Cost;
use crate::dir::Dir;
use crate::entry::CloneMode;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::marks::Marks;
use crate::merge::Merge;

/// Merges `layers` (top first) into the existing empty directory `target`, as an overlay of them would show them.
///
/// Whiteouts and opaque directories are honoured, OverlayFS's attributes dropped; a merged directory has the attributes
/// of the topmost layer that has it. O(entries of all layers), on all cores, one open directory for each thread and side:
/// the layers' roots stay open. A failure leaves what was made; nothing is synced.
pub fn flatten(layers: &[PathBuf], target: &Dir, userxattr: bool, clone: CloneMode) -> Result<Cost> {
    flatten_noting_directories(layers, target, userxattr, clone).map(|(cost, _)| cost)
}

/// Does the same, and returns the inode and path of every directory it made, the target's own among them.
pub(crate) fn flatten_noting_directories(
    layers: &[PathBuf],
    target: &Dir,
    userxattr: bool,
    clone: CloneMode,
) -> Result<(Cost, Vec<(u64, PathBuf)>)> {
    if layers.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "flatten needs one layer at least"));
    }
    let open = layers.iter().map(Dir::open).collect::<Result<Vec<_>>>()?;
    let marks = Some(Marks::new(userxattr));
    Merge { layers: &open, marks, beneath: None, target, clone, owners: Owners::Keep }
        .run()
        .context(|| format!("flatten {} layers to {:?}", layers.len(), target.path()))
}

/// Merges deltas (top first) into the existing empty directory `target`: one delta that does to `beneath`, the tree that the lowest of
/// them stands on, what all of them do.
///
/// What they delete or hide there stays deleted and hidden. O(entries of the deltas), on all cores. A failure leaves what was made;
/// nothing is synced.
pub fn merge_deltas(
    deltas: &[PathBuf],
    beneath: &Dir,
    target: &Dir,
    userxattr: bool,
    clone: CloneMode,
) -> Result<Cost> {
    if deltas.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "merging needs one delta at least"));
    }
    let open = deltas.iter().map(Dir::open).collect::<Result<Vec<_>>>()?;
    let marks = Some(Marks::new(userxattr));
    Merge { layers: &open, marks, beneath: Some(beneath), target, clone, owners: Owners::Keep }
        .run()
        .map(|(cost, _)| cost)
        .context(|| format!("merge {} deltas to {:?}", deltas.len(), target.path()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::DiffOptions;
    use crate::compare::diff_trees;
    use crate::marks::make_whiteout;
    use std::ffi::OsStr;
    use std::io::Write;

    fn write(dir: &Dir, name: &str, text: &str) {
        dir.create_file(name, 0o644).unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn names(dir: &Dir) -> Vec<String> {
        let mut names: Vec<_> =
            dir.entries().unwrap().into_iter().map(|entry| entry.name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn upper_layers_hide_replace_and_merge_what_is_beneath() {
        let temp = tempfile::tempdir().unwrap();
        let root = Dir::open(temp.path()).unwrap();
        let layers: Vec<Dir> = ["top", "middle", "base"]
            .iter()
            .map(|name| {
                root.make_dir(name, 0o755).unwrap();
                root.open_dir(name).unwrap()
            })
            .collect();
        let [top, middle, base] = &layers[..] else { unreachable!() };
        for name in ["gone", "kept", "changed"] {
            write(base, name, "base");
        }
        for name in ["merged", "opaque", "becomes-file", "hidden-then-made"] {
            base.make_dir(name, 0o755).unwrap();
            write(&base.open_dir(name).unwrap(), "below", "base");
        }
        make_whiteout(middle, OsStr::new("gone")).unwrap();
        make_whiteout(middle, OsStr::new("hidden-then-made")).unwrap();
        write(middle, "changed", "middle");
        write(middle, "becomes-file", "middle");
        middle.make_dir("opaque", 0o755).unwrap();
        middle.set_xattr("opaque", OsStr::new("user.overlay.opaque"), b"y").unwrap();
        write(&middle.open_dir("opaque").unwrap(), "middle", "middle");
        top.make_dir("merged", 0o711).unwrap();
        write(&top.open_dir("merged").unwrap(), "above", "top");
        top.make_dir("opaque", 0o755).unwrap();
        top.make_dir("hidden-then-made", 0o755).unwrap();
        write(top, "gone", "top");
        let target = slot(&temp, "flat");

        let paths: Vec<PathBuf> = layers.iter().map(|layer| layer.path().to_owned()).collect();
        flatten(&paths, &target, true, CloneMode::Auto).unwrap();

        let all = ["becomes-file", "changed", "gone", "hidden-then-made", "kept", "merged", "opaque"];
        assert_eq!(names(&target), all);
        let read = |name: &str| std::fs::read_to_string(target.path().join(name)).unwrap();
        assert_eq!([read("gone"), read("changed"), read("becomes-file")], ["top", "middle", "middle"]);
        assert_eq!(names(&target.open_dir("merged").unwrap()), ["above", "below"]);
        assert_eq!(target.stat("merged").unwrap().st_mode & 0o7777, 0o711);
        assert_eq!(names(&target.open_dir("opaque").unwrap()), ["middle"]);
        assert_eq!(target.xattrs("opaque").unwrap(), []);
        assert_eq!(names(&target.open_dir("hidden-then-made").unwrap()), Vec::<String>::new());

        let merged = slot(&temp, "merged-delta");
        merge_deltas(&paths[..2], base, &merged, true, CloneMode::Auto).unwrap();
        let again = slot(&temp, "flat-again");
        let two = [merged.path().to_owned(), paths[2].clone()];
        flatten(&two, &again, true, CloneMode::Auto).unwrap();
        assert_eq!(diff_trees(&target, &again, DiffOptions { times: true }).unwrap(), []);
        assert_eq!(names(&merged.open_dir("opaque").unwrap()), ["middle"]);
    }

    fn slot(temp: &tempfile::TempDir, name: &str) -> Dir {
        std::fs::create_dir(temp.path().join(name)).unwrap();
        Dir::open(temp.path().join(name)).unwrap()
    }
}
