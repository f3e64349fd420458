//! Adds the image of an OCI layout to a store, as a pull does: what has to be unpacked is downloaded, from the layout.
//!
//! `adder add STORE LAYOUT NAME...` prints how many layers were unpacked; `adder list STORE` prints names and digests of images;
//! `adder half STORE LAYOUT` downloads half of the first layer and is cut off.

#![expect(clippy::print_stdout, reason = "that is what it is for")]

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use rootling::image::{Descriptor, Document, Index, Manifest, Parsed};
use rootling::store::{Blobs, ImageParts, Name, Store, Supply};
use rootling_backends::{Context, Error, ErrorKind, Result};

fn main() -> Result<()> {
    rootling_backends::sys::clear_umask();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["add", store, layout, names @ ..] => add(&Store::open(Path::new(store))?, Path::new(layout), names),
        ["half", store, layout] => half(&Store::open(Path::new(store))?, Path::new(layout)),
        ["list", store] => list(&Store::open(Path::new(store))?),
        _ => Err(Error::new(ErrorKind::InvalidInput, "say add, half or list")),
    }
}

fn add(store: &Store, layout: &Path, names: &[&str]) -> Result<()> {
    let names = names.iter().map(|name| Name::parse(name)).collect::<Result<Vec<_>>>()?;
    let parts = read(layout)?;
    let blobs = store.blobs()?;
    let fetch = |blob: &Descriptor| download(&blobs, layout, blob, u64::MAX);
    let added = store.add_image(&blobs, &names, &parts, &Supply { fetch: &fetch, ..Supply::none() })?;
    println!("{} {} {}", added.node.id, added.unpacked, added.was_there);
    Ok(())
}

fn half(store: &Store, layout: &Path) -> Result<()> {
    let parts = read(layout)?;
    let first = &manifest(&parts).layers[0];
    download(&store.blobs()?, layout, first, first.size / 2)
}

fn list(store: &Store) -> Result<()> {
    for image in store.images()? {
        let names: Vec<&str> = image.names.iter().map(Name::as_str).collect();
        let manifest = image.image.as_ref().map_or("-".to_owned(), |image| image.manifest.to_string());
        let size = image.size_bytes.unwrap_or_default();
        println!("{} {manifest} {} {size}", names.join(","), image.layers);
    }
    Ok(())
}

fn manifest(parts: &ImageParts) -> &Manifest {
    let Parsed::Manifest(manifest) = &parts.manifest.parsed else { panic!("an index") };
    manifest
}

fn read(layout: &Path) -> Result<ImageParts> {
    let index: Index =
        serde_json::from_slice(&bytes(&layout.join("index.json"))?).expect("the test wrote it");
    let document = Document::parse_verified(blob(layout, &index.manifests[0])?, &index.manifests[0])?;
    let mut parts = ImageParts { manifest: document, config: Vec::new(), index: None, reference: None };
    parts.config = blob(layout, &manifest(&parts).config)?;
    parts.reference = Some(format!("oci:{}", layout.display()));
    Ok(parts)
}

fn blob(layout: &Path, blob: &Descriptor) -> Result<Vec<u8>> {
    bytes(&layout.join("blobs/sha256").join(blob.digest.hex()))
}

fn bytes(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).context(|| format!("read({path:?})"))
}

/// Goes on with a download, from where it was cut off, for so many bytes.
fn download(blobs: &Blobs<'_>, layout: &Path, blob: &Descriptor, limit: u64) -> Result<()> {
    let Some(mut partial) = blobs.partial(&blob.digest, blob.size)? else { return Ok(()) };
    let path = layout.join("blobs/sha256").join(blob.digest.hex());
    let mut file = File::open(&path).context(|| format!("open({path:?})"))?;
    file.seek(SeekFrom::Start(partial.have())).context(|| format!("lseek({path:?})"))?;
    std::io::copy(&mut file.take(limit), &mut partial).context(|| format!("copy({path:?})"))?;
    partial.flush().context(|| "flush")?;
    if limit < blob.size { Ok(()) } else { partial.finish() }
}
