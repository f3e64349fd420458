//! `images`, `rmi`, `tag`: the images in the store.

use jiff::Timestamp;
use rootling_backends::{Error, ErrorKind, Result};
use serde::Serialize;

use super::places;
use super::{Context, live, output, rm, show, store};
use crate::image::ImageReference;
use crate::store::{ImageEntry, Name, Node, PushedTag, State};

#[derive(Debug, clap::Args)]
pub(super) struct ImagesArguments {
    /// Show the digests by which registries know them
    #[arg(long)]
    digests: bool,

    /// List trees that did not come as images, too: what was committed or imported here
    #[arg(short, long)]
    all: bool,

    /// Only those whose name has this in it
    #[arg(value_name = "TEXT")]
    filter: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct TagArguments {
    /// Which: an image, a tree or a snapshot
    reference: String,

    /// The further name; of an image it may be any name of one: HOST/NAME:TAG
    #[arg(value_name = "NAME")]
    further: String,
}

/// An image.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    /// None of what was pushed here and not unpacked yet.
    id: Option<String>,
    digest: Option<String>,
    config_digest: Option<String>,
    platform: Option<String>,
    reference: Option<String>,
    created: Option<Timestamp>,
    added: Timestamp,
    layers: Option<usize>,
    size_bytes: Option<u64>,
    blob_bytes: u64,
}

pub(super) fn list(context: &Context, arguments: &ImagesArguments) -> Result<()> {
    let store = context.store()?;
    let mut rows: Vec<Row> = store.images()?.iter().flat_map(rows_of).collect();
    rows.extend(store.pushed_tags()?.into_iter().map(row_of_push));
    if arguments.all {
        let trees = store.nodes()?.into_iter();
        rows.extend(trees.filter(|node| node.record.state == State::Committed).filter_map(row_of_tree));
    }
    rows.sort_by(|one, other| one.name.cmp(&other.name));
    if let Some(text) = &arguments.filter {
        rows.retain(|row| row.name.contains(text.as_str()));
    }
    let now = Timestamp::now();
    context.output.list_of(&rows, rows.iter().map(|row| row.id.as_ref().unwrap_or(&row.name)), || {
        let heading: &[&str] = match arguments.digests {
            true => &["REPOSITORY", "TAG", "DIGEST", "ID", "CREATED", "SIZE"],
            false => &["REPOSITORY", "TAG", "ID", "CREATED", "SIZE"],
        };
        let cells: Vec<Vec<String>> = rows.iter().map(|row| row.cells(arguments.digests, now)).collect();
        output::table(heading, &cells)
    });
    Ok(())
}

/// Returns a row for each name of an image.
fn rows_of(entry: &ImageEntry) -> Vec<Row> {
    let (image, made) = (entry.image.as_ref(), entry.made.as_ref());
    let came = image.map(|image| image.index.as_ref().unwrap_or(&image.manifest));
    let row = |name: &Name| Row {
        name: name.to_string(),
        id: Some(entry.id.to_string()),
        digest: came.or(made.map(|made| &made.manifest)).map(ToString::to_string),
        config_digest: image
            .map(|image| &image.config)
            .or(made.map(|made| &made.config))
            .map(ToString::to_string),
        platform: entry.platform.as_ref().map(ToString::to_string),
        reference: image.and_then(|image| image.reference.clone()),
        created: entry.created,
        added: entry.added,
        layers: Some(entry.layers),
        size_bytes: entry.size_bytes,
        blob_bytes: entry.blob_bytes,
    };
    entry.names.iter().map(row).collect()
}

/// Returns a row for a tree that is no image yet: it becomes one when it goes elsewhere.
fn row_of_tree(node: Node) -> Option<Row> {
    if node.record.is_image() {
        return None;
    }
    Some(Row {
        name: node.name?.to_string(),
        id: Some(node.id.to_string()),
        digest: None,
        config_digest: None,
        platform: None,
        reference: node.record.source,
        created: Some(node.record.created),
        added: node.record.created,
        layers: None,
        size_bytes: None,
        blob_bytes: 0,
    })
}

/// Returns the row of what clients of `serve` pushed, and nobody ran yet: it has no node.
fn row_of_push(pushed: PushedTag) -> Row {
    Row {
        name: pushed.name,
        id: None,
        digest: Some(pushed.digest.to_string()),
        config_digest: None,
        platform: None,
        reference: None,
        created: None,
        added: pushed.pushed,
        layers: None,
        size_bytes: None,
        blob_bytes: pushed.blob_bytes,
    }
}

impl Row {
    fn cells(&self, digests: bool, now: Timestamp) -> Vec<String> {
        let (repository, tag) = match self.name.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, tag),
            _ => (self.name.as_str(), "-"),
        };
        let mut cells = vec![repository.to_owned(), tag.to_owned()];
        if digests {
            cells.push(self.digest.clone().unwrap_or_else(|| "-".to_owned()));
        }
        let age = self.created.map_or_else(|| "-".to_owned(), |created| output::age(created, now));
        let dash = || "-".to_owned();
        let size = self.size_bytes.map_or_else(dash, output::bytes);
        cells.extend([self.id.clone().unwrap_or_else(dash), age, size]);
        cells
    }
}

pub(super) fn remove(context: &Context, arguments: &rm::Arguments) -> Result<()> {
    if arguments.lists() {
        return rm::run(context, arguments);
    }
    let store = context.store()?;
    let (mut pushed, mut nodes) = (Vec::new(), Vec::new());
    for text in arguments.references() {
        let reference = ImageReference::parse(text).ok();
        let has_no_node =
            reference.as_ref().map(|reference| store.pushed(reference)).transpose()?.flatten().is_some();
        pushed.extend(reference);
        if has_no_node {
            continue;
        }
        let node = store::find(&store, text)?;
        if node.record.state == State::Active {
            let message = format!("{} is a box, and no image", node.label());
            return Err(Error::new(ErrorKind::FailedPrecondition, message)
                .hint(format!("remove it as a box: rootling rm {}", node.label())));
        }
        nodes.push(text.clone());
    }
    // What clients of `serve` pushed by the name goes with it: else the name would mean that from now on.
    for reference in pushed {
        if store.unpush(&reference)? {
            context.output.say(format!("removed what was pushed as {}", reference.familiar()));
        }
    }
    if nodes.is_empty() { Ok(()) } else { rm::run(context, &arguments.only(nodes)) }
}

pub(super) fn tag(context: &Context, arguments: &TagArguments) -> Result<()> {
    let store = context.store()?;
    let node = store::find(&store, &arguments.reference)?;
    let name = match node.record.is_image() {
        true => places::name_of(&arguments.further)?,
        false => Name::parse(&arguments.further)?,
    };
    live::require_no_fork(&store, &name)?;
    let node = match node.record.is_image() {
        // As docker's: a name of an image moves.
        true => store.name_image(&node, &[name])?,
        false => store.tag(&node, &name)?,
    };
    context.output.data(&show::summary(&store, &node)?, || format!("{}\n", node.id));
    Ok(())
}
