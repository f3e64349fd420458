//! Archives of images, written in one pass and the same for the same images.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use rootling_backends::{Context, Error, ErrorKind, Result};

use super::super::catalog::Catalog;
use super::super::files::{NewFile, directory_of, sync_directory};
use super::super::layout::{INDEX, MARK, MARK_TEXT, blob_path};
use super::super::stream::pump;
use super::super::{Content as Blob, Sink};
use super::docker::{self, Item};
use crate::image::{Descriptor, Digest, Document, Index, Manifest, Parsed, Platform};
use crate::layer::write::headers;
use crate::layer::{Content, Member};

/// In which form an archive is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveForm {
    /// An image layout: what skopeo and podman call `oci-archive`.
    Oci,
    /// An image layout with the list that docker reads, all its versions: `docker-archive`.
    Docker,
}

/// An archive that is being written.
///
/// A file is to be seen only after [`finish`](Sink::finish), in place of what had its name; a stream that was not finished has no
/// index, and cannot be read.
pub struct ImageArchiveWriter {
    form: ArchiveForm,
    state: Mutex<State>,
}

struct State {
    out: Out,
    /// The content written.
    has: HashSet<Digest>,
    catalog: Catalog,
    /// Manifests, for docker's list, and what is published under which names, in order.
    documents: HashMap<Digest, Document>,
    published: Vec<(Digest, Vec<String>)>,
    /// A member was not written whole.
    is_broken: bool,
    is_finished: bool,
}

enum Out {
    File { file: Option<NewFile>, path: PathBuf },
    Stream(Box<dyn Write + Send>),
}

impl fmt::Debug for ImageArchiveWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageArchiveWriter").field("form", &self.form).finish_non_exhaustive()
    }
}

impl ImageArchiveWriter {
    /// Begins an archive that will be the file `path`.
    pub fn create(path: &Path, form: ArchiveForm) -> Result<Self> {
        let file = NewFile::create(directory_of(path)).context(|| format!("write archive {path:?}"))?;
        Self::begin(Out::File { file: Some(file), path: path.to_owned() }, form)
    }

    /// Begins an archive that goes to a stream.
    pub fn to_stream(stream: Box<dyn Write + Send>, form: ArchiveForm) -> Result<Self> {
        Self::begin(Out::Stream(stream), form)
    }

    fn begin(out: Out, form: ArchiveForm) -> Result<Self> {
        let catalog = Catalog::new(Document::of_index(Index::new(Vec::new()))).expect("it is an index");
        let mut state = State {
            out,
            has: HashSet::new(),
            catalog,
            documents: HashMap::new(),
            published: Vec::new(),
            is_broken: false,
            is_finished: false,
        };
        state.file(MARK, MARK_TEXT.as_bytes())?;
        state.directory("blobs")?;
        state.directory("blobs/sha256")?;
        Ok(Self { form, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }
}

impl State {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.out {
            Out::File { file, path } => {
                let file = file.as_mut().expect("it is not finished");
                file.write(bytes).context(|| format!("write archive {path:?}"))
            }
            Out::Stream(stream) => stream.write_all(bytes).context(|| "write the archive"),
        }
    }

    fn header(&mut self, path: &str, content: Content) -> Result<()> {
        let mode = if content == Content::Directory { 0o755 } else { 0o644 };
        let (path, xattrs) = (path.as_bytes().to_vec(), Vec::new());
        let bytes = headers(&Member { path, content, mode, uid: 0, gid: 0, mtime: (0, 0), xattrs });
        self.write(&bytes)
    }

    fn directory(&mut self, path: &str) -> Result<()> {
        self.header(path, Content::Directory)
    }

    fn filling(&mut self, size: u64) -> Result<()> {
        let missing = size.next_multiple_of(512) - size;
        self.write(&[0; 512][..usize::try_from(missing).expect("less than a block")])
    }

    fn file(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        let size = bytes.len() as u64;
        self.header(path, Content::File { size, digest: None })?;
        self.write(bytes)?;
        self.filling(size)
    }

    fn blob(&mut self, descriptor: &Descriptor, content: &dyn Blob) -> Result<()> {
        if self.is_broken {
            return Err(broken());
        }
        if self.has.contains(&descriptor.digest) {
            return pump(descriptor, &mut *content.open_at(0)?, &mut |_| Ok(()));
        }
        let mut content = content.open_at(0)?;
        // What is in a stream cannot be taken back: the archive is lost with it.
        self.is_broken = true;
        if blob_path(&descriptor.digest).starts_with("blobs/sha512/") && !self.has_sha512() {
            self.directory("blobs/sha512")?;
        }
        self.header(&blob_path(&descriptor.digest), Content::File { size: descriptor.size, digest: None })?;
        pump(descriptor, &mut *content, &mut |piece| self.write(piece))?;
        self.filling(descriptor.size)?;
        self.has.insert(descriptor.digest.clone());
        self.is_broken = false;
        Ok(())
    }

    fn has_sha512(&self) -> bool {
        self.has.iter().any(|digest| digest.algorithm() == crate::image::Algorithm::Sha512)
    }

    fn document(&mut self, document: &Document) -> Result<()> {
        if self.has.contains(&document.digest) {
            return Ok(());
        }
        self.blob(&document.descriptor(), &document.bytes)?;
        self.documents.insert(document.digest.clone(), document.clone());
        Ok(())
    }

    /// Returns docker's list: of an index the image that docker would run here, of what is no image nothing.
    fn list(&self) -> Vec<Item> {
        let mut items: Vec<Item> = Vec::new();
        for (digest, names) in &self.published {
            let Some(manifest) = self.image(digest, 0) else { continue };
            let tags: Vec<String> = names.iter().filter_map(|name| docker::repo_tag(name)).collect();
            items.push(Item {
                config: blob_path(&manifest.config.digest),
                repo_tags: (!tags.is_empty()).then_some(tags),
                layers: Some(manifest.layers.iter().map(|layer| blob_path(&layer.digest)).collect()),
            });
        }
        items
    }

    fn image(&self, digest: &Digest, depth: usize) -> Option<&Manifest> {
        match &self.documents.get(digest)?.parsed {
            Parsed::Manifest(manifest) => Some(manifest).filter(|manifest| manifest.is_image()),
            Parsed::Index(index) if depth < 8 => {
                let here = index.select(&Platform::host()).ok();
                let image = |entry: &Descriptor| self.image(&entry.digest, depth + 1);
                here.and_then(image).or_else(|| index.images().find_map(image))
            }
            Parsed::Index(_) => None,
        }
    }

    fn finish(&mut self, form: ArchiveForm) -> Result<()> {
        let index = Document::of_index(self.catalog.index().clone());
        self.file(INDEX, &index.bytes)?;
        if form == ArchiveForm::Docker {
            let list = serde_json::to_vec(&self.list()).expect("it has only text as keys");
            self.file(docker::LIST, &list)?;
        }
        self.write(&[0; 1024])?;
        match &mut self.out {
            Out::Stream(stream) => stream.flush().context(|| "write the archive"),
            Out::File { file, path } => {
                let context = || format!("write archive {path:?}");
                file.take().expect("it is not finished").publish(path).context(context)?;
                sync_directory(directory_of(path)).context(context)
            }
        }
    }
}

fn broken() -> Error {
    Error::new(
        ErrorKind::FailedPrecondition,
        "write the archive: a member before this one was not written whole",
    )
}

impl Sink for ImageArchiveWriter {
    fn is_sequential(&self) -> bool {
        true
    }

    fn has_blob(&self, descriptor: &Descriptor) -> Result<bool> {
        Ok(self.state().has.contains(&descriptor.digest))
    }

    fn put_blob(&self, descriptor: &Descriptor, content: &dyn Blob) -> Result<()> {
        self.state().blob(descriptor, content)
    }

    fn put_document(&self, document: &Document) -> Result<()> {
        self.state().document(document)
    }

    fn publish(&self, document: &Document, name: Option<&str>) -> Result<()> {
        let mut state = self.state();
        state.document(document)?;
        let index = state.catalog.with(document.descriptor(), name);
        state.catalog = Catalog::new(Document::of_index(index)).expect("it is an index");
        for (_, names) in &mut state.published {
            names.retain(|old| Some(old.as_str()) != name);
        }
        let known = state.published.iter().position(|(digest, _)| *digest == document.digest);
        let known = known.unwrap_or_else(|| {
            state.published.push((document.digest.clone(), Vec::new()));
            state.published.len() - 1
        });
        state.published[known].1.extend(name.map(str::to_owned));
        Ok(())
    }

    /// Ends the archive. A second call does nothing; after an error of [`put_blob`](Sink::put_blob) it is one too.
    fn finish(&self) -> Result<()> {
        let mut state = self.state();
        if std::mem::replace(&mut state.is_finished, true) {
            return Ok(());
        }
        if state.is_broken { Err(broken()) } else { state.finish(self.form) }
    }
}
