//! A whole tree as a tar archive: to a file that is there whole or not at all, or to a stream.

use std::io::{self, Write};
use std::path::Path;

use rootling_backends::{Context, Dir, Result};

use super::files::{NewFile, directory_of, sync_directory};
use crate::layer::{self, CreateOptions, Created};

/// Writes a tree as an archive to the file `path`, in place of what has that name. Durable on return.
pub fn write_tar(root: &Dir, path: &Path, options: &CreateOptions) -> Result<Created> {
    let intent = || format!("write archive {path:?}");
    let parent = directory_of(path);
    let mut file = Writing(NewFile::create(parent).context(intent)?);
    let created = stream_tar(root, &mut file, options).context(intent)?;
    file.0.publish(path).context(intent)?;
    sync_directory(parent).context(intent)?;
    Ok(created)
}

/// Writes a tree as an archive to a stream; after an error there is a part of it.
pub fn stream_tar(root: &Dir, stream: &mut (dyn Write + Send), options: &CreateOptions) -> Result<Created> {
    let created = layer::create(&layer::whole_tree(root)?, root, options, stream)?;
    stream.flush().context(|| "write")?;
    Ok(created)
}

struct Writing(NewFile);

impl Write for Writing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
