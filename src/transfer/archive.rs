//! Images in a tar: an image layout (`oci-archive`), or what `docker save` writes (`docker-archive`), told by what is in it.
//!
//! A file is read where it lies, by several threads at once. A stream, or a file that is packed, is written to a temporary file
//! first that has no name: an archive's index may be its last member.

mod docker;
mod members;
mod write;

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use rootling_backends::{Context, Error, ErrorKind, Result};

use self::docker::Item;
use self::members::{Members, Span};
use super::catalog::{Catalog, Chosen, Listed};
use super::files::NewFile;
use super::layout::{INDEX, MARK, blob_path, check_mark};
use super::{Source, read_document};
use crate::image::{Descriptor, Digest, Document, media_type};
use crate::layer::{Compression, decompress};

pub use write::{ArchiveForm, ImageArchiveWriter};

/// An archive of images that is read.
#[derive(Debug)]
pub struct ImageArchive {
    members: Members,
    catalog: Catalog,
    /// Manifests that are not in the archive, and where what they name is.
    manifests: HashMap<Digest, Document>,
    blobs: HashMap<Digest, Span>,
}

impl ImageArchive {
    /// Opens an archive. `spool` is a directory for the temporary file, should one be needed.
    pub fn open(path: &Path, spool: &Path) -> Result<Self> {
        let open = || {
            let mut file = File::open(path).context(|| format!("open({path:?})"))?;
            let metadata = file.metadata().context(|| format!("fstat({path:?})"))?;
            if !metadata.is_file() {
                return Self::unpacked(&file, spool);
            }
            let (compression, _) = decompress(&file)?;
            file.rewind().context(|| format!("lseek({path:?}, 0)"))?;
            if compression == Compression::None { Self::read(file) } else { Self::unpacked(&file, spool) }
        };
        open().context(|| format!("read archive {path:?}"))
    }

    /// Reads an archive that comes as a stream.
    pub fn from_stream(stream: impl Read + Send, spool: &Path) -> Result<Self> {
        Self::unpacked(stream, spool).context(|| "read the archive")
    }

    fn unpacked(stream: impl Read + Send, spool: &Path) -> Result<Self> {
        let (_, mut tar) = decompress(stream)?;
        let mut file = NewFile::create(spool)?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            match tar.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => file.write(&buffer[..read])?,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read", error)),
            }
        }
        Self::read(file.into_unnamed()?)
    }

    fn read(file: File) -> Result<Self> {
        let members = Members::read(file)?;
        let list = members.small(docker::LIST)?.map(|bytes| docker::parse(&bytes)).transpose()?;
        let catalog = match (members.small(MARK)?, members.small(INDEX)?) {
            (Some(mark), Some(index)) => {
                check_mark(&mark)?;
                Some(Catalog::new(Document::parse(index, Some(media_type::INDEX))?)?)
            }
            _ => None,
        };
        match (catalog, list) {
            (Some(catalog), list) if list.as_ref().is_none_or(|list| has_all(&catalog, list)) => {
                Ok(Self { members, catalog, manifests: HashMap::new(), blobs: HashMap::new() })
            }
            (_, Some(list)) => {
                let images = docker::images(&members, &list)?;
                let catalog = Catalog::new(images.index)?;
                Ok(Self { members, catalog, manifests: images.manifests, blobs: images.blobs })
            }
            _ if members.find("repositories")?.is_some() => {
                let message = "it was written by docker before 1.10, and has no list of its images";
                Err(Error::new(ErrorKind::Unsupported, message).hint("load and save it with a newer docker"))
            }
            _ => {
                let message = format!(
                    "it holds no images: there is neither {MARK} and {INDEX} nor {} in it",
                    docker::LIST
                );
                Err(Error::new(ErrorKind::InvalidInput, message)
                    .hint("a tar of a root filesystem is imported with `rootling import`"))
            }
        }
    }

    /// Returns the names in it, and what has them.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }
}

/// Does the layout know every image that the list of docker has? Else it is of something else.
fn has_all(catalog: &Catalog, list: &[Item]) -> bool {
    let tags = list.iter().flat_map(|item| item.repo_tags.iter().flatten());
    catalog.index().manifests.len() >= list.len()
        && tags.into_iter().all(|tag| catalog.choose(Some(tag)).is_ok())
}

impl Source for ImageArchive {
    fn list(&self) -> Result<Vec<Listed>> {
        Ok(self.catalog.list())
    }

    fn document(&self, name: Option<&str>) -> Result<Document> {
        match self.catalog.choose(name).context(|| "read the archive")? {
            Chosen::Entry(entry) => self.child(entry),
            Chosen::Index(document) => Ok(*document),
        }
    }

    fn child(&self, descriptor: &Descriptor) -> Result<Document> {
        match self.manifests.get(&descriptor.digest) {
            Some(document) => Ok(document.clone()),
            None => read_document(self, descriptor),
        }
    }

    fn open_blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send + '_>> {
        self.open_blob_at(descriptor, 0)
    }

    fn open_blob_at(&self, descriptor: &Descriptor, offset: u64) -> Result<Box<dyn Read + Send + '_>> {
        let digest = &descriptor.digest;
        let span = match self.blobs.get(digest) {
            Some(span) => Some(*span),
            None => self.members.find(&blob_path(digest))?,
        };
        let missing = || Error::new(ErrorKind::NotFound, format!("there is no blob {digest} in the archive"));
        Ok(Box::new(self.members.open(span.ok_or_else(missing)?.from(offset))))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::image::{Index, Manifest, Platform};
    use crate::layer::write::headers;
    use crate::layer::{Content, Member};
    use crate::transfer::{
        CopyOptions, Layout, LayoutWriter, Platforms, Sink, copy, read_configuration, resolve,
    };

    const NOTHING: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn member(path: &str, content: Content, data: &[u8]) -> Vec<u8> {
        let path = path.as_bytes().to_vec();
        let mut bytes =
            headers(&Member { path, content, mode: 0o644, uid: 0, gid: 0, mtime: (0, 0), xattrs: vec![] });
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    fn file(path: &str, data: &[u8]) -> Vec<u8> {
        member(path, Content::File { size: data.len() as u64, digest: None }, data)
    }

    fn link(path: &str, target: &str) -> Vec<u8> {
        member(path, Content::Symlink { target: target.as_bytes().to_vec() }, b"")
    }

    fn read(tar: &[Vec<u8>]) -> Result<ImageArchive> {
        let temp = tempfile::tempdir().unwrap();
        ImageArchive::from_stream(&tar.concat()[..], temp.path())
    }

    fn tar(text: &str) -> Vec<u8> {
        [file("f", text.as_bytes()), vec![0; 1024]].concat()
    }

    fn configuration(layers: &[&[u8]]) -> Vec<u8> {
        let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::sha256_of(layer)).collect();
        let value = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        serde_json::to_vec(&value).unwrap()
    }

    /// As docker before 25 saves two images that share a layer.
    fn old_archive() -> Vec<Vec<u8>> {
        let (base, top) = (tar("base"), tar("top"));
        let packed = {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&top).unwrap();
            encoder.finish().unwrap()
        };
        let (one, two) = (configuration(&[&base]), configuration(&[&base, &top]));
        let list = json!([
            {"Config": "one.json", "RepoTags": ["app:1", "ghcr.io/x/app:1"], "Layers": ["aa/layer.tar"]},
            {"Config": "two.json", "RepoTags": null, "Layers": ["bb/layer.tar", "cc/layer.tar"]},
        ]);
        vec![
            link("bb/layer.tar", "../aa/layer.tar"),
            file("aa/layer.tar", &base),
            file("aa/VERSION", b"1.0"),
            file("cc/layer.tar", &packed),
            file("one.json", &one),
            file("two.json", &two),
            file("manifest.json", list.to_string().as_bytes()),
            file("repositories", b"{}"),
        ]
    }

    #[test]
    fn what_docker_saves_becomes_manifests() {
        let archive = read(&old_archive()).unwrap();
        let names: Vec<_> = archive.list().unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(
            names[..2],
            [Some("docker.io/library/app:1".to_owned()), Some("ghcr.io/x/app:1".to_owned())]
        );
        assert_eq!(names[2], None);
        let one = archive.document(Some("app:1")).unwrap();
        assert_eq!(archive.document(Some("ghcr.io/x/app:1")).unwrap(), one);
        let two = archive.list().unwrap()[2].descriptor.clone().unwrap();
        let two = archive.document(Some(&two.digest.to_string())).unwrap();
        let layers = &two.manifest().unwrap().layers;
        assert_eq!(layers[0], one.manifest().unwrap().layers[0]);
        assert_eq!(layers[1].media_type, media_type::LAYER_GZIP);
        let (_, configuration) = read_configuration(&archive, two.manifest().unwrap()).unwrap();
        assert_eq!(configuration.rootfs.diff_ids.len(), 2);
        assert!(archive.document(None).is_err());

        let temp = tempfile::tempdir().unwrap();
        let sink = LayoutWriter::open(&temp.path().join("layout")).unwrap();
        let name = two.digest.to_string();
        assert_eq!(
            copy(&archive, Some(&name), &sink, &["two"], &CopyOptions::default(), &|_| {}).unwrap(),
            two
        );
    }

    #[test]
    fn a_layer_that_is_not_its_diff_id_is_not_taken() {
        let mut members = old_archive();
        members[1] = file("aa/layer.tar", &tar("evil"));
        let archive = read(&members).unwrap();
        let temp = tempfile::tempdir().unwrap();
        let sink = LayoutWriter::open(&temp.path().join("layout")).unwrap();
        let error =
            copy(&archive, Some("app:1"), &sink, &["x"], &CopyOptions::default(), &|_| {}).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn hostile_archives_are_refused() {
        let list = |config: &str, layer: &str| {
            file("manifest.json", json!([{"Config": config, "Layers": [layer]}]).to_string().as_bytes())
        };
        let config = file("c.json", &configuration(&[&tar("x")]));
        let huge = vec![b' '; (4 << 20) + 1];
        let index = |text: &str| {
            vec![
                file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
                file("index.json", text.as_bytes()),
            ]
        };
        for (says, members) in [
            ("..", vec![file("../x", b""), list("c.json", "l")]),
            ("absolute", vec![file("/x", b"")]),
            ("in a loop of links", vec![link("a", "b"), link("b", "a"), config.clone(), list("c.json", "a")]),
            ("in a loop of links", vec![link("a", "a"), list("a", "a")]),
            ("leads out of the archive", vec![link("a", "../etc/passwd"), list("a", "a")]),
            ("leads out of the archive", vec![link("a", "/etc/passwd"), config.clone(), list("c.json", "a")]),
            ("to what is not in the archive", vec![link("a", "b"), list("a", "a")]),
            ("there is no \"c.json\" in the archive", vec![list("c.json", "l")]),
            ("there is no \"../l\" in the archive", vec![config.clone(), list("c.json", "../l")]),
            ("more than 4194304", vec![file("manifest.json", &huge)]),
            ("more than 4194304", vec![file("c.json", &huge), list("c.json", "l")]),
            ("read manifest.json: ", vec![file("manifest.json", b"{")]),
            (
                "0 layers, but 1 diff_ids",
                vec![config.clone(), file("manifest.json", br#"[{"Config":"c.json"}]"#)],
            ),
            (
                "is no digest",
                vec![config.clone(), file("blobs/sha256/x", &tar("x")), list("c.json", "blobs/sha256/x")],
            ),
            ("docker before 1.10", vec![file("repositories", b"{}")]),
            ("holds no images", vec![file("etc/passwd", b"")]),
            ("it is no JSON", index("x")),
            (
                "has the form of a manifest",
                index(&format!(r#"{{"schemaVersion":2,"config":{{"digest":"{NOTHING}","size":0}}}}"#)),
            ),
            ("names no version", vec![file("oci-layout", b"{}"), file("index.json", b"{}")]),
        ] {
            let error = format!("{:?}", read(&members).expect_err(says));
            assert!(error.contains(says), "{says}: {error}");
        }
        let mut cut = old_archive().concat();
        cut.truncate(1200);
        let temp = tempfile::tempdir().unwrap();
        let error = ImageArchive::from_stream(&cut[..], temp.path()).unwrap_err();
        assert!(format!("{error:?}").contains("in the middle of member \"aa/layer.tar\""), "{error:?}");
    }

    /// A stream that the test keeps.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// A layout with an image of two platforms.
    fn layout(directory: &Path) -> Layout {
        let writer = LayoutWriter::open(directory).unwrap();
        let mut entries = Vec::new();
        for architecture in ["amd64", "arm64"] {
            let put = |media_type: &str, bytes: &[u8]| {
                let descriptor = Descriptor::of(media_type, bytes);
                writer.put_blob(&descriptor, &bytes.to_vec()).unwrap();
                descriptor
            };
            let layers = [tar("shared"), tar(architecture)];
            let config = put(media_type::CONFIG, &configuration(&[&layers[0], &layers[1]]));
            let layers = layers.iter().map(|layer| put(media_type::LAYER_TAR, layer)).collect();
            let document = Document::of_manifest(Manifest::new(config, layers));
            writer.put_document(&document).unwrap();
            let mut entry = document.descriptor();
            entry.platform = Some(Platform::new("linux", architecture, ""));
            entries.push(entry);
        }
        writer.publish(&Document::of_index(Index::new(entries)), Some("app:1")).unwrap();
        Layout::open(directory).unwrap()
    }

    #[test]
    fn archives_are_the_same_every_time_and_hold_what_went_in() {
        let temp = tempfile::tempdir().unwrap();
        let layout = layout(&temp.path().join("layout"));
        let index = layout.document(None).unwrap();
        for form in [ArchiveForm::Oci, ArchiveForm::Docker] {
            let write = |sink: &ImageArchiveWriter| {
                copy(&layout, None, sink, &["app:1", "ghcr.io/x/app:2"], &CopyOptions::default(), &|_| {})
                    .unwrap();
                sink.finish().unwrap();
                sink.finish().unwrap();
            };
            let path = temp.path().join("archive.tar");
            std::fs::write(&path, "what was there").unwrap();
            write(&ImageArchiveWriter::create(&path, form).unwrap());
            let kept = Kept::default();
            write(&ImageArchiveWriter::to_stream(Box::new(kept.clone()), form).unwrap());
            let bytes = kept.0.lock().unwrap().clone();
            assert_eq!(std::fs::read(&path).unwrap(), bytes);

            let archive = ImageArchive::open(&path, temp.path()).unwrap();
            for name in ["app:1", "ghcr.io/x/app:2", "docker.io/library/app:1"] {
                assert_eq!(archive.document(Some(name)).unwrap(), index);
            }
            let arm = resolve(&archive, Some("app:1"), &Platform::new("linux", "arm64", "")).unwrap();
            assert_eq!(arm.index.as_ref(), Some(&index));
            let layer = &arm.manifest.manifest().unwrap().layers[0];
            for offset in [0, 3, 9_999_999] {
                let read = |source: &dyn Source| {
                    let mut bytes = Vec::new();
                    source.open_blob_at(layer, offset).unwrap().read_to_end(&mut bytes).unwrap();
                    bytes
                };
                assert_eq!(read(&archive).len() as u64, layer.size.saturating_sub(offset));
                assert_eq!(read(&archive), read(&layout));
            }
            let sink = LayoutWriter::open(&temp.path().join(format!("{form:?}"))).unwrap();
            let options = CopyOptions { platforms: Platforms::All, threads: 4 };
            assert_eq!(copy(&archive, Some("app:1"), &sink, &["back"], &options, &|_| {}).unwrap(), index);
            // Nothing but archives and layouts is left.
            assert_eq!(
                std::fs::read_dir(temp.path()).unwrap().count(),
                if form == ArchiveForm::Oci { 3 } else { 4 }
            );
        }
        // Docker's list has the image of this machine, under the names that docker knows.
        let archive = ImageArchive::open(&temp.path().join("archive.tar"), temp.path()).unwrap();
        let items = docker::parse(&archive.members.small("manifest.json").unwrap().unwrap()).unwrap();
        assert_eq!(items.len(), 1);
        assert_eq!(items[0].repo_tags.as_deref().unwrap(), ["docker.io/library/app:1", "ghcr.io/x/app:2"]);
        let here = index.index().unwrap().select(&Platform::host()).unwrap();
        let here = layout.child(here).unwrap();
        assert_eq!(items[0].config, blob_path(&here.manifest().unwrap().config.digest));
    }

    #[test]
    fn packed_archives_are_read_too() {
        let temp = tempfile::tempdir().unwrap();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&old_archive().concat()).unwrap();
        let path = temp.path().join("saved.tar.gz");
        std::fs::write(&path, encoder.finish().unwrap()).unwrap();
        let archive = ImageArchive::open(&path, temp.path()).unwrap();
        assert!(archive.document(Some("app:1")).is_ok());
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_archive_with_a_broken_member_is_never_finished() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("archive.tar");
        let sink = ImageArchiveWriter::create(&path, ArchiveForm::Oci).unwrap();
        let descriptor = Descriptor::of(media_type::LAYER_TAR, b"right");
        assert_eq!(sink.put_blob(&descriptor, &b"wrong".to_vec()).unwrap_err().kind(), ErrorKind::Corrupt);
        assert!(sink.put_blob(&descriptor, &b"right".to_vec()).is_err());
        assert_eq!(sink.finish().unwrap_err().kind(), ErrorKind::FailedPrecondition);
        drop(sink);
        assert!(!path.exists());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Any damage is an error, or does not touch what is read: nothing is taken that has not its digest.
        #[test]
        fn damage_never_becomes_an_image(at: prop::sample::Index, bits in 1..=255_u8) {
            let mut bytes = old_archive().concat();
            let at = at.index(bytes.len());
            bytes[at] ^= bits;
            let temp = tempfile::tempdir().unwrap();
            let Ok(archive) = ImageArchive::from_stream(&bytes[..], temp.path()) else { return Ok(()) };
            let sink = LayoutWriter::open(&temp.path().join("layout")).unwrap();
            for entry in archive.list().unwrap() {
                let name = entry.descriptor.unwrap().digest.to_string();
                if let Ok(document) = copy(&archive, Some(&name), &sink, &[], &CopyOptions::default(), &|_| {}) {
                    let layout = Layout::open(&temp.path().join("layout")).unwrap();
                    for blob in document.children() {
                        prop_assert!(crate::transfer::read_blob(&layout, blob).is_ok());
                    }
                }
            }
        }
    }
}
