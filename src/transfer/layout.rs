//! [Image layouts](https://github.com/opencontainers/image-spec/blob/main/image-layout.md): images in a directory.
//!
//! ```text
//! DIRECTORY/
//!   oci-layout                  {"imageLayoutVersion":"1.0.0"}
//!   index.json                  an index: what is here, by annotation org.opencontainers.image.ref.name
//!   blobs/<algorithm>/<hex>     manifests, configurations, layers
//! ```
//!
//! Written blobs first, each by link or rename, `index.json` last and by rename, under a lock of the directory: who reads
//! meanwhile sees the old or the new index, and after a cut there are blobs that nothing names.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use rootling_backends::{Context, Error, ErrorKind, Result};
use serde_json::Value;

use super::catalog::{Catalog, Chosen, Listed};
use super::files::{NewFile, open_regular, sync_directory};
use super::stream::{pump, read_document};
use super::{Content, Sink, Source};
use crate::image::{DOCUMENT_MAX, Descriptor, Digest, Document, Index, media_type};

pub(super) const MARK: &str = "oci-layout";
pub(super) const MARK_TEXT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
pub(super) const INDEX: &str = "index.json";

/// Returns where a blob lies in a layout.
pub(super) fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// Checks the text of `oci-layout`.
pub(super) fn check_mark(bytes: &[u8]) -> Result<()> {
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    match value["imageLayoutVersion"].as_str() {
        Some(version) if version.starts_with("1.") => Ok(()),
        Some(version) => {
            let message = format!("it is an image layout of version {version:?}, only 1.0.0 is known");
            Err(Error::new(ErrorKind::Unsupported, message))
        }
        None => Err(Error::new(ErrorKind::InvalidInput, format!("its {MARK} names no version"))),
    }
}

/// A layout that is read.
#[derive(Debug)]
pub struct Layout {
    directory: PathBuf,
    catalog: Catalog,
}

impl Layout {
    /// Opens a layout; what is written to it later is not seen.
    pub fn open(directory: &Path) -> Result<Self> {
        Self::read(directory).context(|| format!("read image layout {directory:?}"))
    }

    fn read(directory: &Path) -> Result<Self> {
        let mark = match read_small(&directory.join(MARK)) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let message = format!("there is no {MARK} in it: it is no image layout");
                return Err(Error::new(ErrorKind::NotFound, message));
            }
            other => other?,
        };
        check_mark(&mark)?;
        let index = Document::parse(read_small(&directory.join(INDEX))?, Some(media_type::INDEX))?;
        Ok(Self { directory: directory.to_owned(), catalog: Catalog::new(index)? })
    }

    /// Returns the names in it, and what has them.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }
}

impl Source for Layout {
    fn list(&self) -> Result<Vec<Listed>> {
        Ok(self.catalog.list())
    }

    fn document(&self, name: Option<&str>) -> Result<Document> {
        let chosen =
            self.catalog.choose(name).context(|| format!("read image layout {:?}", self.directory))?;
        match chosen {
            Chosen::Entry(entry) => read_document(self, entry),
            Chosen::Index(document) => Ok(*document),
        }
    }

    fn open_blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send + '_>> {
        self.open_blob_at(descriptor, 0)
    }

    fn open_blob_at(&self, descriptor: &Descriptor, offset: u64) -> Result<Box<dyn Read + Send + '_>> {
        let path = self.directory.join(blob_path(&descriptor.digest));
        let (mut file, _) = open_regular(&path)?;
        file.seek(SeekFrom::Start(offset)).context(|| format!("lseek({path:?}, {offset})"))?;
        Ok(Box::new(file))
    }
}

fn read_small(path: &Path) -> Result<Vec<u8>> {
    let (file, size) = open_regular(path)?;
    if size > DOCUMENT_MAX {
        let message = format!("{path:?} has {size} bytes, more than {DOCUMENT_MAX}");
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    let mut bytes = Vec::new();
    file.take(DOCUMENT_MAX).read_to_end(&mut bytes).context(|| format!("read({path:?})"))?;
    Ok(bytes)
}

/// A layout that is written to. Others may write to it at the same time.
#[derive(Debug)]
pub struct LayoutWriter {
    directory: PathBuf,
}

impl LayoutWriter {
    /// Opens a layout to add to it, or begins one in a directory that is empty or does not exist.
    pub fn open(directory: &Path) -> Result<Self> {
        let writer = Self { directory: directory.to_owned() };
        writer.begin().context(|| format!("write image layout {directory:?}"))?;
        Ok(writer)
    }

    fn begin(&self) -> Result<()> {
        let directory = &self.directory;
        match fs::create_dir(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::io(format!("mkdir({directory:?})"), error));
            }
            _ => {}
        }
        let _lock = self.lock()?;
        let mark = directory.join(MARK);
        if mark.exists() {
            return check_mark(&read_small(&mark)?);
        }
        let entries = fs::read_dir(directory).context(|| format!("readdir({directory:?})"))?;
        // What a cut left here: see below, and `NewFile`.
        let is_ours = |name: &OsStr| name == INDEX || name.as_bytes().starts_with(b".rootling-");
        if entries.flatten().any(|entry| !is_ours(&entry.file_name())) {
            let message = format!("the directory is not empty, and there is no {MARK} in it");
            return Err(Error::new(ErrorKind::AlreadyExists, message).hint("choose a new directory"));
        }
        self.replace(INDEX, &Document::of_index(Index::new(Vec::new())).bytes)?;
        // Last: with it, it is a layout.
        self.replace(MARK, MARK_TEXT.as_bytes())
    }

    /// One index is read and written at a time; the lock goes with its holder.
    fn lock(&self) -> Result<Flock<File>> {
        let directory = &self.directory;
        let file = File::open(directory).context(|| format!("open({directory:?})"))?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| Error::call(format!("flock({directory:?}, LOCK_EX)"), errno))
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut file = NewFile::create(&self.directory)?;
        file.write(bytes)?;
        file.publish(&self.directory.join(name))
    }

    /// The index must never name what a power cut takes away.
    fn sync_blobs(&self) -> Result<()> {
        let blobs = self.directory.join("blobs");
        for directory in [blobs.join("sha256"), blobs.join("sha512"), blobs] {
            if directory.is_dir() {
                sync_directory(&directory)?;
            }
        }
        Ok(())
    }

    fn put(&self, descriptor: &Descriptor, content: &dyn Content) -> Result<()> {
        let path = self.directory.join(blob_path(&descriptor.digest));
        let parent = path.parent().expect("it is in a directory of blobs");
        fs::create_dir_all(parent).context(|| format!("mkdir({parent:?})"))?;
        let mut file = NewFile::create(parent)?;
        pump(descriptor, &mut *content.open_at(0)?, &mut |piece| file.write(piece))?;
        file.publish(&path)
    }
}

impl Sink for LayoutWriter {
    fn has_blob(&self, descriptor: &Descriptor) -> Result<bool> {
        let path = self.directory.join(blob_path(&descriptor.digest));
        match open_regular(&path) {
            Ok((_, size)) => Ok(size == descriptor.size),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn put_blob(&self, descriptor: &Descriptor, content: &dyn Content) -> Result<()> {
        self.put(descriptor, content).context(|| format!("write image layout {:?}", self.directory))
    }

    fn put_document(&self, document: &Document) -> Result<()> {
        let descriptor = document.descriptor();
        if self.has_blob(&descriptor)? { Ok(()) } else { self.put_blob(&descriptor, &document.bytes) }
    }

    fn publish(&self, document: &Document, name: Option<&str>) -> Result<()> {
        self.put_document(document)?;
        let publish = || {
            self.sync_blobs()?;
            let _lock = self.lock()?;
            let layout = Layout::read(&self.directory)?;
            let index = layout.catalog.with(document.descriptor(), name);
            self.replace(INDEX, &Document::of_index(index).bytes)
        };
        publish().context(|| format!("write image layout {:?}", self.directory))
    }

    fn finish(&self) -> Result<()> {
        sync_directory(&self.directory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Manifest, Platform};
    use crate::transfer::{CopyOptions, Platforms, copy};

    /// Puts an image of one layer for each platform into a layout, and returns the index of them.
    fn image(writer: &LayoutWriter, platforms: &[&str]) -> Document {
        let mut entries = Vec::new();
        for platform in platforms {
            let put = |media_type: &str, bytes: &[u8]| {
                let descriptor = Descriptor::of(media_type, bytes);
                writer.put_blob(&descriptor, &bytes.to_vec()).unwrap();
                descriptor
            };
            let config = put(media_type::CONFIG, format!("config of {platform}").as_bytes());
            let layers =
                vec![put(media_type::LAYER_TAR, b"shared"), put(media_type::LAYER_TAR, platform.as_bytes())];
            let document = Document::of_manifest(Manifest::new(config, layers));
            writer.put_document(&document).unwrap();
            let mut entry = document.descriptor();
            entry.platform = Some(Platform::parse(platform).unwrap());
            entries.push(entry);
        }
        Document::of_index(Index::new(entries))
    }

    fn copied(from: &Path, to: &Path, platforms: Platforms) -> Document {
        let (source, sink) = (Layout::open(from).unwrap(), LayoutWriter::open(to).unwrap());
        let options = CopyOptions { platforms, threads: 3 };
        let document = copy(&source, Some("app:1"), &sink, &["app:1", "2"], &options, &|_| {}).unwrap();
        sink.finish().unwrap();
        document
    }

    fn files(directory: &Path) -> Vec<String> {
        let mut files: Vec<String> = walkdir::WalkDir::new(directory)
            .into_iter()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.file_type().is_file())
            .map(|entry| entry.path().strip_prefix(directory).unwrap().to_string_lossy().into_owned())
            .collect();
        files.sort();
        files
    }

    #[test]
    fn an_image_of_two_platforms_goes_from_layout_to_layout() {
        let temp = tempfile::tempdir().unwrap();
        let [from, all, one] = ["from", "all", "one"].map(|name| temp.path().join(name));
        let writer = LayoutWriter::open(&from).unwrap();
        let index = image(&writer, &["linux/amd64", "linux/arm64"]);
        writer.publish(&index, Some("app:1")).unwrap();

        assert_eq!(copied(&from, &all, Platforms::All), index);
        assert_eq!(files(&all), files(&from));
        let manifest = copied(&from, &one, Platforms::One("linux/arm64".parse().unwrap()));
        assert_eq!(index.index().unwrap().manifests[1].digest, manifest.digest);
        // The manifest, its configuration, two layers.
        assert_eq!(files(&one).len(), 2 + 4);
        let names: Vec<_> = Layout::open(&one)
            .unwrap()
            .list()
            .unwrap()
            .into_iter()
            .map(|entry| entry.name.unwrap())
            .collect();
        assert_eq!(names, ["docker.io/library/app:1", "2"]);
        // Once more: nothing changes.
        let before = fs::read(one.join(INDEX)).unwrap();
        copied(&from, &one, Platforms::One("linux/arm64".parse().unwrap()));
        assert_eq!(fs::read(one.join(INDEX)).unwrap(), before);
    }

    #[test]
    fn damage_is_noticed_and_nothing_of_it_is_taken() {
        let temp = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| temp.path().join(name));
        let writer = LayoutWriter::open(&from).unwrap();
        let index = image(&writer, &["linux/amd64"]);
        writer.publish(&index, Some("app:1")).unwrap();
        let layer = from.join(blob_path(&Digest::sha256_of(b"shared")));
        for (damage, says) in [
            (&b"shareD"[..], "the bytes that came have"),
            (b"shar", "only 4 of 6"),
            (b"shared!", "more than 6"),
        ] {
            fs::write(&layer, damage).unwrap();
            let (source, sink) = (Layout::open(&from).unwrap(), LayoutWriter::open(&to).unwrap());
            let error = copy(&source, None, &sink, &["x"], &CopyOptions::default(), &|_| {}).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(format!("{error:?}").contains(says), "{error:?}");
            assert!(Layout::open(&to).unwrap().list().unwrap().is_empty());
            assert!(!to.join(blob_path(&Digest::sha256_of(b"shared"))).exists());
        }
        fs::remove_file(&layer).unwrap();
        let source = Layout::open(&from).unwrap();
        let error =
            copy(&source, None, &LayoutWriter::open(&to).unwrap(), &["x"], &CopyOptions::default(), &|_| {});
        assert_eq!(error.unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn indexes_in_each_other_have_an_end() {
        let temp = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| temp.path().join(name));
        let writer = LayoutWriter::open(&from).unwrap();
        let mut index = image(&writer, &["linux/amd64"]);
        for depth in 0..12 {
            writer.put_document(&index).unwrap();
            let mut entry = index.descriptor();
            entry.platform = Some(Platform::parse("linux/amd64").unwrap());
            index = Document::of_index(Index::new(vec![entry]));
            writer.publish(&index, Some("app:1")).unwrap();
            let (source, sink) = (Layout::open(&from).unwrap(), LayoutWriter::open(&to).unwrap());
            for platforms in [Platforms::All, Platforms::One(Platform::parse("linux/amd64").unwrap())] {
                let options = CopyOptions { platforms, threads: 1 };
                let copied = copy(&source, None, &sink, &["x"], &options, &|_| {});
                assert_eq!(copied.is_ok(), depth < 7, "{depth} {options:?}: {copied:?}");
                if let Err(error) = copied {
                    assert_eq!(error.kind(), ErrorKind::InvalidInput);
                    assert!(error.to_string().contains("more than 8 indexes in each other"), "{error}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_layout_is_not_written_to() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("mine"), "").unwrap();
        assert_eq!(LayoutWriter::open(temp.path()).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(Layout::open(temp.path()).unwrap_err().kind(), ErrorKind::NotFound);
        fs::write(temp.path().join(MARK), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
        assert_eq!(LayoutWriter::open(temp.path()).unwrap_err().kind(), ErrorKind::Unsupported);
        // What a cut left of a layout becomes one.
        fs::remove_file(temp.path().join(MARK)).unwrap();
        fs::rename(temp.path().join("mine"), temp.path().join(INDEX)).unwrap();
        assert!(LayoutWriter::open(temp.path()).is_ok());
        assert!(Layout::open(temp.path()).unwrap().list().unwrap().is_empty());
        assert_eq!(files(temp.path()), [INDEX, MARK]);
    }

    #[test]
    fn several_write_to_one_layout() {
        let temp = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let directory = temp.path().join("layout");
                scope.spawn(move || {
                    let writer = LayoutWriter::open(&directory).unwrap();
                    let index = image(&writer, &["linux/amd64"]);
                    writer.publish(&index, Some(&format!("tag-{number}"))).unwrap();
                });
            }
        });
        assert_eq!(Layout::open(&temp.path().join("layout")).unwrap().list().unwrap().len(), 8);
    }
}
