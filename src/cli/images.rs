//! `images`, `rmi`, `tag`: the images in the store.

use jiff::Timestamp;
use rootling_backends::{Error, ErrorKind, Result};
use serde::Serialize;

use super::places;
use super::{Context, live, output, rm, show, store};
use crate::store::{ImageEntry, Name, State};

#[derive(Debug, clap::Args)]
pub(super) struct ImagesArguments {
    /// Show the digests by which registries know them
    #[arg(long)]
    digests: bool,

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
    id: String,
    digest: String,
    config_digest: String,
    platform: Option<String>,
    reference: Option<String>,
    created: Option<Timestamp>,
    added: Timestamp,
    layers: usize,
    size_bytes: u64,
    blob_bytes: u64,
}

pub(super) fn list(context: &Context, arguments: &ImagesArguments) -> Result<()> {
    let store = context.store()?;
    let mut rows: Vec<Row> = store.images()?.iter().flat_map(rows_of).collect();
    if let Some(text) = &arguments.filter {
        rows.retain(|row| row.name.contains(text.as_str()));
    }
    let now = Timestamp::now();
    context.output.list_of(&rows, rows.iter().map(|row| &row.id), || {
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
    let row = |name: &Name| Row {
        name: name.to_string(),
        id: entry.id.to_string(),
        digest: entry.image.index.as_ref().unwrap_or(&entry.image.manifest).to_string(),
        config_digest: entry.image.config.to_string(),
        platform: entry.image.platform.as_ref().map(ToString::to_string),
        reference: entry.image.reference.clone(),
        created: entry.created,
        added: entry.added,
        layers: entry.layers,
        size_bytes: entry.size_bytes,
        blob_bytes: entry.blob_bytes,
    };
    entry.names.iter().map(row).collect()
}

impl Row {
    fn cells(&self, digests: bool, now: Timestamp) -> Vec<String> {
        let (repository, tag) = match self.name.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, tag),
            _ => (self.name.as_str(), "-"),
        };
        let mut cells = vec![repository.to_owned(), tag.to_owned()];
        if digests {
            cells.push(self.digest.clone());
        }
        let age = self.created.map_or_else(|| "-".to_owned(), |created| output::age(created, now));
        cells.extend([self.id.clone(), age, output::bytes(self.size_bytes)]);
        cells
    }
}

pub(super) fn remove(context: &Context, arguments: &rm::Arguments) -> Result<()> {
    let store = context.store()?;
    for text in arguments.references() {
        let node = store::find(&store, text)?;
        if node.record.state == State::Active {
            let message = format!("{} is a box, and no image", node.label());
            return Err(Error::new(ErrorKind::FailedPrecondition, message)
                .hint(format!("remove it as a box: rootling rm {}", node.label())));
        }
    }
    rm::run(context, arguments)
}

pub(super) fn tag(context: &Context, arguments: &TagArguments) -> Result<()> {
    let store = context.store()?;
    let node = store::find(&store, &arguments.reference)?;
    let name = match &node.record.image {
        Some(_) => places::name_of(&arguments.further)?,
        None => Name::parse(&arguments.further)?,
    };
    live::require_no_fork(&store, &name)?;
    let node = match &node.record.image {
        // As docker's: a name of an image moves.
        Some(_) => store.name_image(&node, &[name])?,
        None => store.tag(&node, &name)?,
    };
    context.output.data(&show::summary(&store, &node)?, || format!("{}\n", node.id));
    Ok(())
}
