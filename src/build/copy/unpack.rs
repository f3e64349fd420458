//! Archives that `ADD` unpacks: told by what is in them, not by their names.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::Path;

use rootling_backends::graft::Origin;
use rootling_backends::{Context as _, Dir, EntryType, Result};

use super::place::Placing;
use crate::layer::{self, Whiteouts};

/// Unpacks a file into the destination, if it is an archive; returns whether it is one.
///
/// Entries keep their owners unless there is a `--chown`. Devices and pipes are left out, as docker leaves them out.
pub(super) fn unpack(placing: &mut Placing<'_>, file: &File) -> Result<bool> {
    let begin = |mut file: &File| file.seek(SeekFrom::Start(0)).context(|| "lseek(0)");
    begin(file)?;
    if !layer::is_archive(file) {
        return Ok(false);
    }
    begin(file)?;
    let to = placing.destination_directory()?;
    let root = match placing.open {
        Some(open) => open()?.open_deep(&to)?,
        None => placing.ground.own().open_deep(&to)?,
    };
    let applied = apply(file, &root, placing.looks.owner)?;
    placing.copied.unpacked += 1;
    let noted = applied.skipped.iter().map(|skipped| {
        let name = String::from_utf8_lossy(&skipped.path).into_owned();
        format!("{name}: {}", skipped.reason)
    });
    placing.copied.notes.extend(noted);
    Ok(true)
}

/// Opens a file of the source; `None` for anything else.
pub(super) fn open(origin: &Origin, path: &Path) -> Result<Option<File>> {
    let dir = origin.root().open_deep(path.parent().unwrap_or(Path::new("")))?;
    let name = path.file_name().unwrap_or_default();
    if EntryType::of_mode(dir.stat(name)?.st_mode) != EntryType::File {
        return Ok(None);
    }
    let file = dir.open_file(name)?;
    let is_file = file.metadata().context(|| format!("fstat({path:?})"))?.is_file();
    Ok(is_file.then_some(file))
}

fn apply(file: &File, root: &Dir, owner: Option<(u32, u32)>) -> Result<layer::Applied> {
    let (_, tar) = layer::decompress(file)?;
    let options = layer::ApplyOptions {
        whiteouts: Whiteouts::Added,
        owner,
        devices: false,
        ..layer::ApplyOptions::default()
    };
    layer::apply(tar, root, &options)
}
