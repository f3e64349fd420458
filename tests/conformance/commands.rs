//! What programs in a tree do that takes more than one call.

use std::fs;
use std::path::Path;

use crate::support::tree::TreeValue;

/// Moves a directory as mv(1) does: by rename, or where OverlayFS refuses that (EXDEV), by copying and removing.
pub(crate) fn move_tree(from: &Path, to: &Path) {
    match fs::rename(from, to) {
        Err(error) if error.raw_os_error() == Some(libc::EXDEV) => {
            let content = TreeValue::read_path(from);
            fs::create_dir(to).unwrap();
            content.make(to);
            fs::remove_dir_all(from).unwrap();
        }
        other => other.unwrap(),
    }
}
