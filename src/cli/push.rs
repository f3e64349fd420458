//! `push` and `copy`: images to a registry, or from any place to any other, without being unpacked.

use std::path::Path;

use rootling_backends::{Error, ErrorKind, Result};
use serde::Serialize;

use super::places::{self, PackFlags, RegistryFlags};
use super::pull::{self, PullFlags};
use super::{Context, output, said, store};
use crate::image::{Document, ImageReference, Platform};
use crate::reference::Place;
use crate::store::{Name, Node, Store};
use crate::transfer::making::MakeOptions;
use crate::transfer::{CopyOptions, Platforms, Sibling, Source, StoreSource, copy};

#[derive(Debug, clap::Args)]
pub(super) struct PushArguments {
    /// What: an image, a box as it stands with its history, any tree
    reference: String,

    #[arg(
        help = "Where to: [HOST/]NAME[:TAG], docker://, oci:DIR[:NAME], oci-archive:FILE[:NAME], docker-archive:FILE[:NAME] [default: where its name says]"
    )]
    #[arg(value_name = "DESTINATION")]
    destination: Option<String>,

    #[command(flatten)]
    pack: PackFlags,

    #[command(flatten)]
    registry: RegistryFlags,
}

#[derive(Debug, clap::Args)]
pub(super) struct CopyArguments {
    #[arg(
        help = "From where: docker://NAME, oci:DIR[:IMAGE], oci-archive:FILE[:IMAGE], docker-archive:FILE[:IMAGE], or a name in the store"
    )]
    source: String,

    /// To where, likewise
    destination: String,

    /// Copy the images of all platforms, and their index
    #[arg(short, long, conflicts_with = "platform")]
    all: bool,

    /// Which image of an index [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = said(Platform::parse))]
    platform: Option<Platform>,

    #[command(flatten)]
    pack: PackFlags,

    #[command(flatten)]
    registry: RegistryFlags,
}

/// What is printed of an image that went somewhere.
#[derive(Debug, Serialize)]
struct Row {
    event: &'static str,
    destination: String,
    digest: Option<String>,
    size: Option<u64>,
}

pub(super) fn push(context: &Context, arguments: &PushArguments) -> Result<()> {
    let store = context.store()?;
    let node = store::find(&store, &arguments.reference)?;
    let place = match &arguments.destination {
        Some(text) => places::outside(context, text)?,
        None => home(&node)?,
    };
    let document = send(context, &store, &node, &place, arguments.pack.options()?, &arguments.registry)?;
    tell(context, "pushed", &place, &document);
    Ok(())
}

/// Returns where an image goes by its name.
pub(super) fn home(node: &Node) -> Result<Place> {
    let unclear = || {
        let message = format!("the name {} does not say where to push it", node.label());
        Error::new(ErrorKind::InvalidInput, message).hint(format!(
            "say it: rootling push {0} HOST/{0}",
            node.label().split('@').next().unwrap_or_default()
        ))
    };
    let name = node.name.as_ref().filter(|name| !name.is_snapshot()).ok_or_else(unclear)?;
    let from = node.record.image.as_ref().and_then(|image| image.reference.as_deref());
    let from = from.and_then(|text| ImageReference::parse(text).ok());
    // A name that was given here says more than where it came from once.
    match from.filter(|from| from.default_name() == name.as_str()) {
        Some(from) if from.tag_or_latest().is_some() => {
            from.with_tag(from.tag_or_latest().unwrap_or("latest")).map(Place::Registry)
        }
        _ if name.as_str().contains('/') => ImageReference::parse(name.as_str()).map(Place::Registry),
        _ => Err(unclear()),
    }
}

/// Sends a node of the store somewhere as an image.
pub(super) fn send(
    context: &Context,
    store: &Store,
    node: &Node,
    place: &Place,
    pack: MakeOptions,
    registry: &RegistryFlags,
) -> Result<Document> {
    let blobs = store.blobs()?;
    let source = StoreSource::new(&blobs, node, pack, places::packing(context.output))?;
    let client = registry.client(context, place)?;
    let siblings = places::siblings(store, place)?;
    let (sink, mut names) = places::sink(place, &client, siblings, context.output)?;
    if names.is_empty()
        && let Some(name) = &node.name
    {
        // As docker's and podman's archives have it: what is loaded is called as it was.
        names.extend(ImageReference::parse(name.as_str()).map(|name| with_tag(&name)).ok());
    }
    let bars = context.output.bars(is_stdout(place));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let document = copy(&source, None, &*sink, &names, &CopyOptions::default(), &places::show(&bars))?;
    sink.finish()?;
    Ok(document)
}

/// Returns a reference with its tag written out.
pub(super) fn with_tag(reference: &ImageReference) -> String {
    let tag = reference.tag_or_latest().unwrap_or("latest");
    reference.with_tag(tag).map_or_else(|_| reference.to_string(), |reference| reference.to_string())
}

pub(super) fn run_copy(context: &Context, arguments: &CopyArguments) -> Result<()> {
    let (from, to) = (Place::parse(&arguments.source)?, Place::parse(&arguments.destination)?);
    match (from, to) {
        (None, to) => {
            if arguments.all || arguments.platform.is_some() {
                let message = "an image in the store is for one platform";
                return Err(Error::new(ErrorKind::InvalidInput, message)
                    .hint("leave out --all and --platform; of a registry it is docker://NAME"));
            }
            let store = context.store()?;
            let node = store::find(&store, &arguments.source)?;
            let Some(to) = to else {
                let message = "both are in the store";
                return Err(Error::new(ErrorKind::InvalidInput, message).hint(format!(
                    "give it one name more: rootling tag {} {}; or fork it: rootling fork",
                    arguments.source, arguments.destination
                )));
            };
            let document = send(context, &store, &node, &to, arguments.pack.options()?, &arguments.registry)?;
            tell(context, "copied", &to, &document);
            Ok(())
        }
        (Some(from), None) => {
            if arguments.all {
                let message = "an image in the store is for one platform";
                return Err(Error::new(ErrorKind::InvalidInput, message)
                    .hint("choose it with --platform, or copy --all to oci:DIR"));
            }
            let store = context.store()?;
            let name = Name::parse(&arguments.destination)?;
            let flags = PullFlags::of(arguments.platform.clone(), arguments.registry.clone());
            let pulled = pull::fetch(context, &store, &from, Some(name), &flags)?;
            pull::tell(context, &from, &pulled);
            Ok(())
        }
        (Some(from), Some(to)) => {
            let document = between(context, arguments, &from, &to)?;
            tell(context, "copied", &to, &document);
            Ok(())
        }
    }
}

/// Copies from one place outside the store to another.
fn between(context: &Context, arguments: &CopyArguments, from: &Place, to: &Place) -> Result<Document> {
    let registry = &arguments.registry;
    let (reader, writer) = (registry.client(context, from)?, registry.client(context, to)?);
    let source = places::source(from, &reader, &places::system_spool())?;
    let siblings = match (from, to) {
        (Place::Registry(from), Place::Registry(to)) if from.domain() == to.domain() => {
            vec![Sibling { path: from.path().to_owned(), blobs: None }]
        }
        _ => Vec::new(),
    };
    let (sink, mut names) = places::sink(to, &writer, siblings, context.output)?;
    if names.is_empty() {
        names.extend(name_in(from, &*source));
    }
    let options = CopyOptions {
        platforms: match arguments.all {
            true => Platforms::All,
            false => Platforms::One(arguments.platform.clone().unwrap_or_else(Platform::host)),
        },
        ..CopyOptions::default()
    };
    let bars = context.output.bars(is_stdout(to));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let name = places::image_in(from);
    let document = copy(&*source, name, &*sink, &names, &options, &places::show(&bars))?;
    sink.finish()?;
    Ok(document)
}

/// Returns what an image of a place is called there.
fn name_in(place: &Place, source: &dyn Source) -> Option<String> {
    match place {
        Place::Registry(reference) => Some(with_tag(reference)),
        _ => places::image_in(place).map(str::to_owned).or_else(|| {
            let listed = source.list().ok()?;
            listed.into_iter().filter_map(|listed| listed.name).next()
        }),
    }
}

/// Says where an image is now.
pub(super) fn tell(context: &Context, event: &'static str, place: &Place, document: &Document) {
    let size = document.manifest().map_or(0, |manifest| manifest.layers.iter().map(|layer| layer.size).sum());
    let digest = document.digest.to_string();
    let row = Row { event, destination: place.to_string(), digest: Some(digest.clone()), size: Some(size) };
    if context.output.format == output::Format::Json {
        // A stream that carries the image carries nothing else.
        if !is_stdout(place) {
            context.output.line(&row);
        }
        return;
    }
    context.output.say(format!("{event} {place}: {}, {}", digest, output::bytes(size)));
    if !is_stdout(place) {
        context.output.raw(format!("{}\n", digest).as_bytes());
    }
}

/// Says that a tree is somewhere now, to a program: people were told more.
pub(super) fn tell_of_tree(context: &Context, place: &Place) {
    let is_data = matches!(place, Place::Tar(path) if path == Path::new("-"));
    if context.output.format == output::Format::Json && !is_data {
        let row = Row { event: "exported", destination: place.to_string(), digest: None, size: None };
        context.output.line(&row);
    }
}

fn is_stdout(place: &Place) -> bool {
    matches!(place, Place::OciArchive(place) | Place::DockerArchive(place) if place.is_stream())
}
