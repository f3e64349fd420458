//! `pull`: an image from elsewhere into the store.

use std::num::NonZeroUsize;

use rootling_backends::{Error, ErrorKind, Result};
use serde::Serialize;

use super::places::{self, RegistryFlags};
use super::{Context, live, output, said, store};
use crate::image::{ImageReference, Platform};
use crate::reference::Place;
use crate::store::{Name, Node, Store};
use crate::transfer::{self, PullOptions, Pulled, pull};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[arg(
        help = "What: [HOST/]NAME[:TAG][@DIGEST] in a registry, oci:DIR[:IMAGE], oci-archive:FILE[:IMAGE], docker-archive:FILE[:IMAGE]"
    )]
    #[arg(value_name = "IMAGE")]
    image: String,

    /// What it is called here [default: its name without docker.io/library/]
    #[arg(value_parser = said(Name::parse))]
    name: Option<Name>,

    #[command(flatten)]
    flags: PullFlags,
}

/// How images are pulled.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct PullFlags {
    /// What it is to run on [default: this machine]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = said(Platform::parse))]
    platform: Option<Platform>,

    /// How many layers to fetch at once
    #[arg(short, long, value_name = "N", default_value_t = usual_jobs())]
    jobs: NonZeroUsize,

    #[command(flatten)]
    registry: RegistryFlags,
}

fn usual_jobs() -> NonZeroUsize {
    const { NonZeroUsize::new(transfer::pull::THREADS).expect("it is more than none") }
}

impl PullFlags {
    /// Returns what is to be done with an image that has no name yet.
    pub(super) fn options(&self, reference: Option<String>) -> PullOptions {
        let platform = self.platform.clone().unwrap_or_else(Platform::host);
        PullOptions { names: Vec::new(), platform, reference, threads: self.jobs.get() }
    }

    /// Returns the usual ones, for this platform.
    pub(super) fn of(platform: Option<Platform>, registry: RegistryFlags) -> Self {
        Self { platform, registry, ..Self::default() }
    }
}

impl Default for PullFlags {
    fn default() -> Self {
        Self { platform: None, jobs: usual_jobs(), registry: RegistryFlags::default() }
    }
}

/// When the image of a command is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum When {
    /// If it is not there
    Missing,
    /// Each time, so that it is the newest
    Always,
    /// Not at all
    Never,
}

/// Whether and how the image of a command is pulled.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct PullWhen {
    /// When to pull the image [default: missing for docker://NAME and names with a registry, else never]
    #[arg(long, value_enum, value_name = "WHEN")]
    pull: Option<When>,

    /// What the image is to run on, where it is pulled [default: this machine]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = said(Platform::parse))]
    platform: Option<Platform>,
}

impl PullWhen {
    /// Returns the node that a reference means, pulled if it is to be.
    pub(super) fn find(&self, context: &Context, store: &Store, text: &str) -> Result<Node> {
        let place = match Place::parse(text)? {
            Some(place) if place.has_images() => Some(place),
            None if self.pull.is_some_and(|when| when != When::Never) || says_registry(text) => {
                places::outside(context, text).ok()
            }
            _ => None,
        };
        let Some(place) = place else { return store::find(store, text) };
        let when = self.pull.unwrap_or(When::Missing);
        if when == When::Always {
            return self.fetch(context, store, &place);
        }
        let found = match &place {
            Place::Registry(_) => store::find(store, text),
            // Whatever is in it now: what is here already is not fetched again.
            _ if when == When::Missing => return self.fetch(context, store, &place),
            _ => store::find(store, text),
        };
        match found {
            Err(error) if error.kind() == ErrorKind::NotFound && when == When::Missing => {
                self.fetch(context, store, &place)
            }
            found => found,
        }
    }

    fn fetch(&self, context: &Context, store: &Store, place: &Place) -> Result<Node> {
        let flags = PullFlags::of(self.platform.clone(), RegistryFlags::default());
        context.output.say(format!("pulling {place}"));
        let pulled = fetch(context, store, place, None, &flags)?;
        Ok(pulled.image.node)
    }
}

/// Does a name say which registry it is in?
fn says_registry(text: &str) -> bool {
    let host = text.split_once('/').map(|(host, _)| host);
    host.is_some_and(|host| host.contains(['.', ':']) || host == "localhost")
        && ImageReference::parse(text).is_ok()
}

/// What is printed of an image that was pulled.
#[derive(Debug, Serialize)]
struct Row<'a> {
    event: &'static str,
    name: &'a str,
    id: &'a str,
    digest: String,
    layers: usize,
    fetched: usize,
    unpacked: usize,
    was_there: bool,
    snapshots: Vec<&'a str>,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let store = context.store()?;
    let place = places::outside(context, &arguments.image)?;
    let pulled = fetch(context, &store, &place, arguments.name.clone(), &arguments.flags)?;
    tell(context, &place, &pulled);
    Ok(())
}

/// Pulls an image, and shows how it goes.
pub(super) fn fetch(
    context: &Context,
    store: &Store,
    place: &Place,
    name: Option<Name>,
    flags: &PullFlags,
) -> Result<Pulled> {
    let client = flags.registry.client(context, place)?;
    let source = places::source(place, &client, &places::spool(store))?;
    let name = name.map_or_else(|| places::default_name(place, &*source), Ok)?;
    require_free_or_image(store, &name)?;
    let reference = match place {
        Place::Registry(reference) => reference.to_string(),
        other => other.to_string(),
    };
    let options = PullOptions { names: vec![name], ..flags.options(Some(reference)) };
    let bars = context.output.bars(false);
    let pulled = pull(&*source, places::image_in(place), store, &options, &places::show(&bars));
    drop(bars);
    let pulled = pulled?;
    store::remember(store, &pulled.image.node);
    say_other_platform(context, flags.platform.as_ref(), &pulled);
    Ok(pulled)
}

/// Says that an image is there for one platform only, and that this is not the one that was asked for.
fn say_other_platform(context: &Context, asked: Option<&Platform>, pulled: &Pulled) {
    let image = pulled.image.node.record.image.as_ref();
    if let (Some(asked), Some(is)) = (asked, image.and_then(|image| image.platform.as_ref()))
        && (asked.os != is.os || asked.architecture != is.architecture)
    {
        context.output.say(format!("{} is for {is}, not for {asked}", pulled.image.node.label()));
    }
}

/// Refuses a name that something else has, before anything is fetched.
fn require_free_or_image(store: &Store, name: &Name) -> Result<()> {
    live::require_no_fork(store, name)?;
    match store.named(name)? {
        Some(node) if !node.record.is_image() => {
            let message = format!("{name} is no image, and keeps its name");
            Err(Error::new(ErrorKind::AlreadyExists, message)
                .hint("choose another name: rootling pull IMAGE NAME"))
        }
        _ => Ok(()),
    }
}

/// Says what came.
pub(super) fn tell(context: &Context, place: &Place, pulled: &Pulled) {
    let layers = pulled.manifest.manifest().map_or(0, |manifest| manifest.layers.len());
    let node = &pulled.image.node;
    if context.output.format == output::Format::Json {
        let labels = pulled.snapshots.iter().map(Node::label);
        return context.output.line(&Row {
            event: "pulled",
            name: node.label(),
            id: node.id.as_str(),
            digest: pulled.digest.to_string(),
            layers,
            fetched: pulled.fetched,
            unpacked: pulled.image.unpacked,
            was_there: pulled.image.was_there,
            snapshots: labels.collect(),
        });
    }
    let what = match pulled.image.was_there {
        true => format!("{} is up to date with {place}", node.label()),
        false => format!(
            "pulled {place} as {}: {layers} layer{}, {} fetched, {} unpacked",
            node.label(),
            if layers == 1 { "" } else { "s" },
            pulled.fetched,
            pulled.image.unpacked
        ),
    };
    context.output.say(what);
    for snapshot in &pulled.snapshots {
        context.output.say(format!("  with {}", snapshot.label()));
    }
    context.output.raw(format!("{}\n", node.id).as_bytes());
}
