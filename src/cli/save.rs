//! `save` and `load`: images in a file, as docker writes and reads them.

use std::io;
use std::path::{Path, PathBuf};

use rootling_backends::{Error, ErrorKind, Result};

use super::places::{self, PackFlags};
use super::pull::PullFlags;
use super::push::with_tag;
use super::{Context, output, said, store};
use crate::image::{ImageReference, Platform};
use crate::reference::{InFile, Place};
use crate::store::Name;
use crate::transfer::{
    ArchiveForm, CopyOptions, ImageArchive, ImageArchiveWriter, PullOptions, Sink, Source, StoreSource, copy,
    pull,
};

#[derive(Debug, clap::Args)]
pub(super) struct SaveArguments {
    /// Which: images, boxes as they stand, any trees
    #[arg(required = true)]
    references: Vec<String>,

    /// The file to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Write no list for docker: what skopeo and podman call oci-archive
    #[arg(long)]
    oci: bool,

    #[command(flatten)]
    pack: PackFlags,
}

#[derive(Debug, clap::Args)]
pub(super) struct LoadArguments {
    /// The file to read, packed or not [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,

    /// Which image of an index [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = said(Platform::parse))]
    platform: Option<Platform>,
}

pub(super) fn save(context: &Context, arguments: &SaveArguments) -> Result<()> {
    let store = context.store()?;
    let form = if arguments.oci { ArchiveForm::Oci } else { ArchiveForm::Docker };
    let nodes: Result<Vec<_>> = arguments.references.iter().map(|text| store::find(&store, text)).collect();
    let nodes = nodes?;
    let file = arguments.output.as_deref().filter(|path| *path != Path::new("-"));
    let writer = match file {
        Some(path) => ImageArchiveWriter::create(path, form)?,
        None => ImageArchiveWriter::to_stream(context.output.sink()?, form)?,
    };
    let blobs = store.blobs()?;
    let options = arguments.pack.options()?;
    let bars = context.output.bars(file.is_none());
    for node in nodes {
        let source = StoreSource::new(&blobs, &node, options, places::packing(context.output))?;
        let name = node.name.as_ref().and_then(|name| ImageReference::parse(name.as_str()).ok());
        let name = name.as_ref().map(with_tag);
        let names: Vec<&str> = name.as_deref().into_iter().collect();
        copy(&source, None, &writer, &names, &CopyOptions::default(), &places::show(&bars))?;
    }
    writer.finish()
}

pub(super) fn load(context: &Context, arguments: &LoadArguments) -> Result<()> {
    let store = context.store()?;
    let spool = places::spool(&store);
    let archive = match arguments.input.as_deref().filter(|path| *path != Path::new("-")) {
        Some(path) => ImageArchive::open(path, &spool)?,
        None => ImageArchive::from_stream(io::stdin(), &spool)?,
    };
    let path = arguments.input.clone().unwrap_or_else(|| "-".into());
    let flags = PullFlags::of(arguments.platform.clone(), places::RegistryFlags::default());
    let listed = archive.list()?;
    if listed.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "there is no image in it"));
    }
    for image in listed {
        let place = Place::DockerArchive(InFile { path: path.clone(), image: image.name.clone() });
        let key =
            image.name.clone().or_else(|| image.descriptor.as_ref().map(|found| found.digest.to_string()));
        // What has no name is had by the beginning of its digest, as what is pulled by digest.
        let name = match (&image.name, &image.descriptor) {
            (Some(name), _) => places::name_of(name)?,
            (None, Some(found)) => {
                Name::parse(&format!("{}-{}", found.digest.algorithm(), found.digest.short()))?
            }
            (None, None) => places::default_name(&place, &archive)?,
        };
        let options = PullOptions { names: vec![name], ..flags.options(image.name.clone()) };
        let bars = context.output.bars(false);
        let pulled = pull(&archive, key.as_deref(), &store, &options, &places::show(&bars));
        drop(bars);
        let pulled = pulled?;
        store::remember(&store, &pulled.image.node);
        if context.output.format == output::Format::Json {
            super::pull::tell(context, &place, &pulled);
        } else {
            context.output.say(format!("loaded {}", pulled.image.node.label()));
            context.output.raw(format!("{}\n", pulled.image.node.id).as_bytes());
        }
    }
    Ok(())
}
