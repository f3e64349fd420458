//! `verify`: are a tree and what it was made from still what was put there?

use rootling_backends::{Error, ErrorKind, Result};
use serde::Serialize;

use super::places::{self, RegistryFlags};
use super::{Context, output, store};
use crate::image::{Digest, ImageReference};
use crate::reference::Place;
use crate::store::{Fate, Image, Node, Store, Supply, Verified};
use crate::transfer::{self, Source};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Which: an image, or anything made from one
    #[arg(required = true)]
    references: Vec<String>,

    /// Unpack damaged layers again from their blobs, and fetch those that are damaged from where the image came
    #[arg(long)]
    repair: bool,
}

/// Returns 0 where everything is whole, or was repaired, and 1 where something is still damaged.
pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<i32> {
    let store = context.store()?;
    let mut rows = Vec::new();
    for reference in &arguments.references {
        let node = store::find(&store, reference)?;
        let progress = context.output.progress(format!("verifying {}", node.label()));
        let verified = if arguments.repair { repair(context, &store, &node) } else { store.verify(&node) };
        drop(progress);
        rows.push(Row { name: node.label().to_owned(), verified: verified? });
    }
    context.output.data(&rows, || rows.iter().map(render).collect());
    Ok(i32::from(rows.iter().any(|row| !row.verified.is_whole())))
}

/// Repairs what can be repaired; nobody is asked for anything before something is missing.
fn repair(context: &Context, store: &Store, node: &Node) -> Result<Verified> {
    let blobs = store.blobs()?;
    let Some((image, place)) = origin(store, node)? else {
        return store.repair(node, &blobs, &Supply::none());
    };
    let client = RegistryFlags::default().client(context, &place)?;
    // What is wrong with the place matters only once something is missing.
    let opened = places::source(&place, &client, &places::spool(store));
    let open = || match &opened {
        Ok(source) => Ok(&**source),
        Err(error) => Err(Error::new(error.kind(), format!("{error}: {place}"))),
    };
    let supply = Supply {
        fetch: &|blob| transfer::fetch_blob(open()?, &blobs, blob),
        document: &|digest| document(open()?, &image, digest),
        progress: None,
    };
    store.repair(node, &blobs, &supply)
}

/// Returns the image that a node began as, and where that came from.
fn origin(store: &Store, node: &Node) -> Result<Option<(Image, Place)>> {
    let mut at = Some(node.clone());
    while let Some(node) = at {
        if let Some(image) = node.record.image {
            let place = image.reference.as_deref().map(Place::parse).transpose()?.flatten();
            let place = match (place, &image.reference) {
                (None, Some(text)) => ImageReference::parse(text).ok().map(Place::Registry),
                (place, _) => place.filter(Place::has_images),
            };
            return Ok(place.map(|place| (image, place)));
        }
        at = node.record.parent.as_ref().map(|id| store.node(id)).transpose()?;
    }
    Ok(None)
}

/// Fetches a document of an image, verified.
fn document(source: &dyn Source, image: &Image, digest: &Digest) -> Result<Vec<u8>> {
    if *digest != image.config {
        let document = source.document(Some(&digest.to_string()))?;
        return match document.digest == *digest {
            true => Ok(document.bytes),
            false => Err(Error::new(ErrorKind::Corrupt, format!("{} came for {digest}", document.digest))),
        };
    }
    let manifest = source.document(Some(&image.manifest.to_string()))?;
    let config = manifest.manifest().map(|manifest| manifest.config.clone());
    let config = config.filter(|config| config.digest == *digest).ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, format!("manifest {} names no {digest}", image.manifest))
    })?;
    transfer::read_blob(source, &config)
}

/// What was found of one reference.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    #[serde(flatten)]
    verified: Verified,
}

fn render(Row { name, verified }: &Row) -> String {
    let mut text = String::new();
    let word = |fate: &Fate| match fate {
        Fate::Left => "DAMAGED".to_owned(),
        Fate::Repaired => "repaired".to_owned(),
        Fate::Failed(why) => format!("NOT REPAIRED ({})", output::plain_text(why.as_ref())),
    };
    for (digest, fate) in &verified.damaged_blobs {
        text.push_str(&format!("{}: blob {digest}\n", word(fate)));
    }
    for damage in &verified.damaged {
        let layer = damage.layer.as_ref().map_or_else(String::new, |layer| format!(" (layer {layer})"));
        for path in &damage.paths {
            let path = output::plain_text(path.as_os_str());
            text.push_str(&format!("{}: /{path} in {}{layer}\n", word(&damage.fate), damage.id));
        }
    }
    let unknown = match verified.unknown {
        0 => String::new(),
        unknown => format!(", {unknown} without an index"),
    };
    let state = if verified.is_whole() { "whole" } else { "DAMAGED" };
    text.push_str(&format!(
        "{name}: {} trees verified{unknown}, {} blobs: {state}\n",
        verified.trees, verified.blobs
    ));
    text
}
