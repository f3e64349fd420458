//! `inspect` and `history`: what an image says of itself, in docker's words.

use jiff::Timestamp;
use rootling_backends::Result;
use serde::Serialize;

use super::places::{self, PackFlags, RegistryFlags};
use super::{Context, output, said, store};
use crate::image::{Configuration, DiffId, Document, ImageConfig, ImageReference, Platform};
use crate::reference::Place;
use crate::store::{Node, Store};
use crate::transfer::{Source, StoreSource, read_configuration, resolve};

#[derive(Debug, clap::Args)]
pub(super) struct InspectArguments {
    #[arg(
        help = "Which: a name in the store, docker://NAME, oci:DIR[:IMAGE], oci-archive:FILE, docker-archive:FILE"
    )]
    #[arg(required = true)]
    references: Vec<String>,

    /// Print the manifest, or the index, as the bytes it is
    #[arg(long)]
    raw: bool,

    /// Print the configuration as the bytes it is
    #[arg(long, conflicts_with = "raw")]
    config: bool,

    /// Which image of an index [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = said(Platform::parse))]
    platform: Option<Platform>,

    #[command(flatten)]
    registry: RegistryFlags,
}

#[derive(Debug, clap::Args)]
pub(super) struct HistoryArguments {
    #[arg(
        help = "Which: a name in the store, docker://NAME, oci:DIR[:IMAGE], oci-archive:FILE, docker-archive:FILE"
    )]
    reference: String,

    /// Do not shorten what is long
    #[arg(long)]
    no_trunc: bool,

    /// Which image of an index [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = said(Platform::parse))]
    platform: Option<Platform>,

    #[command(flatten)]
    registry: RegistryFlags,
}

/// An image as docker shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    repo_tags: Vec<String>,
    repo_digests: Vec<String>,
    parent: String,
    comment: String,
    created: Option<String>,
    author: String,
    config: ImageConfig,
    architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    variant: String,
    os: String,
    size: u64,
    #[serde(rename = "RootFS")]
    root_fs: RootFs,
    manifest: String,
    media_type: String,
    layers: Vec<String>,
    /// The node, of an image in the store.
    node: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct RootFs {
    #[serde(rename = "Type")]
    kind: String,
    layers: Vec<DiffId>,
}

/// A step by which an image came to be.
#[derive(Debug, Serialize)]
struct Step {
    created: Option<Timestamp>,
    created_by: String,
    comment: String,
    /// Bytes of the layer as it is packed.
    size: u64,
    digest: Option<String>,
    diff_id: Option<DiffId>,
}

/// An image that is looked at.
struct Looked {
    top: Document,
    manifest: Document,
    config: Vec<u8>,
    configuration: Configuration,
}

/// Looks at an image wherever it is.
fn look<T>(
    context: &Context,
    text: &str,
    platform: Option<&Platform>,
    registry: &RegistryFlags,
    with: impl FnOnce(Looked, Option<(&Store, &Node)>) -> Result<T>,
) -> Result<T> {
    let platform = platform.cloned().unwrap_or_else(Platform::host);
    if let Some(place) = Place::parse(text)? {
        let client = registry.client(context, &place)?;
        let source = places::source(&place, &client, &places::system_spool())?;
        return with(read(&*source, places::image_in(&place), &platform)?, None);
    }
    let store = context.store()?;
    let node = store::find(&store, text)?;
    let blobs = store.blobs()?;
    let source = StoreSource::new(&blobs, &node, PackFlags::usual()?, places::packing(context.output))?;
    with(read(&source, None, &platform)?, Some((&store, &node)))
}

fn read(source: &dyn Source, name: Option<&str>, platform: &Platform) -> Result<Looked> {
    let resolved = resolve(source, name, platform)?;
    let top = resolved.index.unwrap_or_else(|| resolved.manifest.clone());
    let manifest = resolved.manifest;
    let parsed = manifest.manifest().expect("an image was chosen");
    let (config, configuration) = read_configuration(source, parsed)?;
    Ok(Looked { top, manifest, config, configuration })
}

pub(super) fn inspect(context: &Context, arguments: &InspectArguments) -> Result<()> {
    let mut all = Vec::new();
    for text in &arguments.references {
        look(context, text, arguments.platform.as_ref(), &arguments.registry, |looked, node| {
            if arguments.raw {
                context.output.raw(&looked.top.bytes);
            } else if arguments.config {
                context.output.raw(&looked.config);
            } else {
                all.push(inspected(text, looked, node)?);
            }
            Ok(())
        })?;
    }
    if !(arguments.raw || arguments.config) {
        context.output.data(&all, || {
            let mut text = serde_json::to_string_pretty(&all).expect("what we print has text for keys");
            text.push('\n');
            text
        });
    }
    Ok(())
}

fn inspected(text: &str, looked: Looked, node: Option<(&Store, &Node)>) -> Result<Inspected> {
    let Looked { top, manifest, configuration, .. } = looked;
    let parsed = manifest.manifest().expect("an image was chosen");
    let (mut repo_tags, mut repo_digests) = (Vec::new(), Vec::new());
    match node {
        Some((store, node)) => {
            repo_tags = store.naming_as_asked().of(&node.id).iter().map(ToString::to_string).collect();
            let from = node.record.image.as_ref().and_then(|image| image.reference.as_deref());
            let digest =
                node.record.image.as_ref().map(|image| image.index.as_ref().unwrap_or(&image.manifest));
            if let (Some(Ok(from)), Some(digest)) = (from.map(ImageReference::parse), digest) {
                repo_digests.push(format!("{}@{digest}", from.repository()));
            }
        }
        None => {
            if let Some(Place::Registry(reference)) = Place::parse(text)? {
                repo_tags
                    .extend(reference.tag_or_latest().map(|tag| format!("{}:{tag}", reference.repository())));
                repo_digests.push(format!("{}@{}", reference.repository(), top.digest));
            }
        }
    }
    let last = configuration.history.last();
    Ok(Inspected {
        id: parsed.config.digest.to_string(),
        repo_tags,
        repo_digests,
        parent: String::new(),
        comment: last.map(|step| step.comment.clone()).unwrap_or_default(),
        created: configuration.created.clone(),
        author: configuration.author.clone(),
        architecture: configuration.architecture.clone(),
        variant: configuration.variant.clone(),
        os: configuration.os.clone(),
        size: parsed.layers.iter().map(|layer| layer.size).sum(),
        root_fs: RootFs {
            kind: configuration.rootfs.kind.clone(),
            layers: configuration.rootfs.diff_ids.clone(),
        },
        manifest: top.digest.to_string(),
        media_type: top.media_type.clone(),
        layers: parsed.layers.iter().map(|layer| layer.digest.to_string()).collect(),
        config: configuration.config,
        node: node.map(|(_, node)| node.id.to_string()),
    })
}

pub(super) fn history(context: &Context, arguments: &HistoryArguments) -> Result<()> {
    let HistoryArguments { reference, platform, registry, no_trunc } = arguments;
    let steps = look(context, reference, platform.as_ref(), registry, |looked, _| Ok(steps(&looked)))?;
    let now = Timestamp::now();
    let shown = |text: &str, length| match no_trunc {
        true => output::one_line(text),
        false => output::shortened(&output::one_line(text), length),
    };
    context.output.list_of(&steps, steps.iter().filter_map(|step| step.digest.as_ref()), || {
        let rows = steps.iter().map(|step| {
            let age = step.created.map_or_else(|| "-".to_owned(), |created| output::age(created, now));
            let digest = step.digest.as_deref().unwrap_or("-");
            let digest = digest.strip_prefix("sha256:").unwrap_or(digest);
            let digest = if *no_trunc { digest.to_owned() } else { digest.chars().take(12).collect() };
            vec![digest, age, shown(&step.created_by, 60), output::bytes(step.size), shown(&step.comment, 40)]
        });
        output::table(&["LAYER", "CREATED", "CREATED BY", "SIZE", "COMMENT"], &rows.collect::<Vec<_>>())
    });
    Ok(())
}

/// Returns the steps, the newest first, each with its layer.
fn steps(looked: &Looked) -> Vec<Step> {
    let manifest = looked.manifest.manifest().expect("an image was chosen");
    let configuration = &looked.configuration;
    let mut layers = manifest.layers.iter().zip(&configuration.rootfs.diff_ids);
    let fits = configuration.layer_history().iter().all(Option::is_some);
    let mut steps: Vec<Step> = Vec::new();
    let step = |history: Option<&crate::image::History>,
                layer: Option<(&crate::image::Descriptor, &DiffId)>| Step {
        created: history.and_then(crate::image::History::created_at),
        created_by: history.map(|step| step.created_by.clone()).unwrap_or_default(),
        comment: history.map(|step| step.comment.clone()).unwrap_or_default(),
        size: layer.map_or(0, |(blob, _)| blob.size),
        digest: layer.map(|(blob, _)| blob.digest.to_string()),
        diff_id: layer.map(|(_, diff_id)| diff_id.clone()),
    };
    if fits {
        for history in &configuration.history {
            let layer = if history.empty_layer { None } else { layers.next() };
            steps.push(step(Some(history), layer));
        }
    } else {
        steps.extend(layers.map(|layer| step(None, Some(layer))));
    }
    steps.reverse();
    steps
}
