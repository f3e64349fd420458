//! Places that images come from and go to, as they are typed, opened.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rootling_backends::{Error, ErrorKind, Result};

use super::output::{self, Bars, Output, Stage};
use super::{Context, me};
use crate::image::{DOCUMENT_MAX, Digest, Document, ImageReference};
use crate::layer::{Compression, CreateOptions, Packing};
use crate::reference::{InFile, Place};
use crate::registry::{self, Client, Credential, Progress, Settings};
use crate::store::{Name, Node, Store};
use crate::transfer::making::MakeOptions;
use crate::transfer::{
    ArchiveForm, Event, ImageArchive, ImageArchiveWriter, Layout, LayoutWriter, Repository, Sibling, Sink,
    Source,
};

/// How registries are spoken to.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct RegistryFlags {
    /// Who to be, instead of who `login` or docker's and podman's files say
    #[arg(long, value_name = "USER:PASSWORD", value_parser = parse_credential)]
    creds: Option<Creds>,

    /// Take plain http, and certificates of anybody
    #[arg(long)]
    insecure: bool,
}

/// A name and a password; never printed.
#[derive(Clone)]
struct Creds(Credential);

impl std::fmt::Debug for Creds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

fn parse_credential(text: &str) -> std::result::Result<Creds, String> {
    let (username, password) = text.split_once(':').ok_or("it has no `:`: write USER:PASSWORD")?;
    Ok(Creds(Credential::Password { username: username.to_owned(), password: password.to_owned() }))
}

impl RegistryFlags {
    /// Returns flags that say only this.
    pub(super) fn insecure(insecure: bool) -> Self {
        Self { creds: None, insecure }
    }

    /// Returns the settings of a client, for an image of this registry.
    pub(super) fn settings(&self, context: &Context, host: Option<&str>) -> Result<Settings> {
        let mut settings = settings(context)?;
        settings.given = self.creds.clone().map(|creds| creds.0);
        if self.insecure {
            settings.hosts.insecure.extend(host.map(str::to_owned));
        }
        Ok(settings)
    }

    /// Returns a client, for an image of this registry; connects to nobody.
    pub(super) fn client(&self, context: &Context, place: &Place) -> Result<Client> {
        let host = match place {
            Place::Registry(reference) => Some(reference.domain()),
            _ => None,
        };
        Ok(Client::new(self.settings(context, host)?))
    }
}

/// Returns the settings that the environment and the usual files have.
fn settings(context: &Context) -> Result<Settings> {
    settings_of(uid_of(context), context.output)
}

fn settings_of(uid: u32, output: Output) -> Result<Settings> {
    let mut settings = Settings::of(&|name| std::env::var(name).ok(), uid)?;
    settings.progress = Arc::new(Talk(output));
    Ok(settings)
}

fn uid_of(context: &Context) -> u32 {
    me::uid(context).unwrap_or_else(|_| nix::unistd::getuid().as_raw())
}

/// Returns what makes a client for servers that are no registries, which are shown nothing.
pub(super) fn anonymous(context: &Context) -> impl Fn() -> Result<Client> + Sync + use<> {
    let (uid, output) = (uid_of(context), context.output);
    move || Ok(Client::new(settings_of(uid, output)?))
}

/// Says why nothing happens at the moment.
struct Talk(Output);

impl Progress for Talk {
    fn waiting(&self, host: &str, wait: Duration, why: &str) {
        self.0.say(format!("waiting {} s for {host}: {why}", wait.as_secs_f64().ceil()));
    }
}

/// Returns what a word means where images are elsewhere: a place, or else the name of an image in a registry.
pub(super) fn outside(context: &Context, text: &str) -> Result<Place> {
    if let Some(place) = Place::parse(text)? {
        return Ok(place);
    }
    let whole = settings(context)?.hosts.qualify(text);
    ImageReference::parse(&whole).map(Place::Registry)
}

// ---------------------------------------------------------------- sources

/// Opens a place to read images; `spool` is a directory for temporary files.
pub(super) fn source<'a>(place: &Place, client: &'a Client, spool: &Path) -> Result<Box<dyn Source + 'a>> {
    Ok(match place {
        Place::Registry(reference) => Box::new(Repository::new(client, reference.clone())),
        Place::Layout(place) => Box::new(Layout::open(&place.path)?),
        Place::OciArchive(place) | Place::DockerArchive(place) => Box::new(archive(place, spool)?),
        Place::Directory(_) | Place::Tar(_) | Place::Host => return Err(no_images(place)),
    })
}

/// Opens an archive of images, of whichever form.
pub(super) fn archive(place: &InFile, spool: &Path) -> Result<ImageArchive> {
    if place.is_stream() {
        ImageArchive::from_stream(io::stdin(), spool)
    } else {
        ImageArchive::open(&place.path, spool)
    }
}

fn no_images(place: &Place) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("{place} holds a tree, and no images"))
        .hint("use `rootling import` and `rootling export` for trees")
}

/// Returns which image of a place is meant.
pub(super) fn image_in(place: &Place) -> Option<&str> {
    match place {
        Place::Layout(place) | Place::OciArchive(place) | Place::DockerArchive(place) => {
            place.image.as_deref()
        }
        _ => None,
    }
}

/// Returns where temporary files may lie: beside the store, where there is room.
pub(super) fn spool(store: &Store) -> PathBuf {
    store.root().join("tmp")
}

/// Returns where temporary files may lie of commands that need no store.
pub(super) fn system_spool() -> PathBuf {
    std::env::temp_dir()
}

/// Returns what an image of a place is called in the store.
pub(super) fn default_name(place: &Place, source: &dyn Source) -> Result<Name> {
    let reference = match place {
        Place::Registry(reference) => Some(reference.clone()),
        _ => {
            let typed = image_in(place).map(str::to_owned);
            let listed = || {
                let listed = source.list().ok()?;
                listed.into_iter().filter_map(|listed| listed.name).next()
            };
            typed
                .or_else(listed)
                .filter(|name| name.contains([':', '/']))
                .and_then(|name| ImageReference::parse(&name).ok())
        }
    };
    match reference {
        Some(reference) => Name::parse(&reference.default_name()),
        None => {
            Err(Error::new(ErrorKind::InvalidInput, format!("{place} does not say what its image is called"))
                .hint(format!("say it: rootling pull {place} NAME")))
        }
    }
}

/// What an image that is known by this text is called in the store.
pub(super) fn name_of(text: &str) -> Result<Name> {
    ImageReference::parse(text).and_then(|reference| Name::parse(&reference.default_name()))
}

// ---------------------------------------------------------------- sinks

/// Opens a place to write images, with the names they get there.
pub(super) fn sink<'a>(
    place: &Place,
    client: &'a Client,
    siblings: Vec<Sibling>,
    output: Output,
) -> Result<(Box<dyn Sink + 'a>, Vec<String>)> {
    let name = |place: &InFile| place.image.iter().cloned().collect();
    let archive = |place: &InFile, form| match place.is_stream() {
        true => ImageArchiveWriter::to_stream(output.sink()?, form),
        false => ImageArchiveWriter::create(&place.path, form),
    };
    Ok(match place {
        Place::Registry(reference) if reference.digest().is_some() => {
            let message = format!("{place} says a digest, which what is sent has of itself");
            return Err(Error::new(ErrorKind::InvalidInput, message).hint("send it to HOST/NAME:TAG"));
        }
        Place::Registry(reference) => {
            let repository = Repository::new(client, reference.clone()).with_siblings(siblings);
            let named = reference.tag_or_latest().map(str::to_owned);
            (Box::new(repository), named.into_iter().collect())
        }
        Place::Layout(place) => (Box::new(LayoutWriter::open(&place.path)?), name(place)),
        Place::OciArchive(place) => (Box::new(archive(place, ArchiveForm::Oci)?), name(place)),
        Place::DockerArchive(place) => (Box::new(archive(place, ArchiveForm::Docker)?), name(place)),
        Place::Directory(_) | Place::Tar(_) | Place::Host => return Err(no_images(place)),
    })
}

/// Returns other repositories of the same registry that images of the store came from, with what they have of those.
pub(super) fn siblings(store: &Store, place: &Place) -> Result<Vec<Sibling>> {
    let Place::Registry(to) = place else { return Ok(Vec::new()) };
    let mut found: BTreeMap<String, BTreeSet<Digest>> = BTreeMap::new();
    for image in store.images()?.into_iter().filter_map(|entry| entry.image) {
        let reference = image.reference.as_deref().and_then(|text| ImageReference::parse(text).ok());
        let Some(from) = reference.filter(|from| from.domain() == to.domain() && from.path() != to.path())
        else {
            continue;
        };
        // Best effort: what cannot be read is no reason not to push something else.
        let bytes = store.read_blob(&image.manifest, DOCUMENT_MAX);
        let document = bytes.and_then(|bytes| Document::parse(bytes, Some(&image.media_type)));
        if let Some(manifest) = document.as_ref().ok().and_then(Document::manifest) {
            let blobs = found.entry(from.path().to_owned()).or_default();
            blobs.extend(manifest.blobs().map(|blob| blob.digest.clone()));
        }
    }
    Ok(found.into_iter().map(|(path, blobs)| Sibling { path, blobs: Some(blobs) }).collect())
}

// ---------------------------------------------------------------- packing

/// How the layers of what is no image yet are packed.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct PackFlags {
    /// How to pack layers that have to be made [default: gzip; of tar:FILE as its name ends, else none]
    #[arg(long, value_enum, value_name = "HOW")]
    compression: Option<CompressionChoice>,

    /// How much time to take for that: 0 to 9 for gzip, 1 to 22 for zstd
    #[arg(long, value_name = "N")]
    level: Option<i32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum CompressionChoice {
    /// What everybody reads
    Gzip,
    /// Smaller and faster; not for docker before 23
    Zstd,
    /// Not at all
    None,
}

impl PackFlags {
    /// Returns the usual ones.
    pub(super) fn usual() -> Result<MakeOptions> {
        Self { compression: None, level: None }.options()
    }

    /// Returns the usual ones for an archive of a tree.
    pub(super) fn of_tar(path: &Path) -> Result<MakeOptions> {
        Self { compression: None, level: None }.options_of_tar(path)
    }

    /// As [`options`](Self::options), for an archive of a tree: packed only if that was asked for, or the name says so.
    pub(super) fn options_of_tar(self, path: &Path) -> Result<MakeOptions> {
        let name = path.as_os_str().to_string_lossy();
        let compression = self.compression.unwrap_or_else(|| match () {
            () if name.ends_with(".zst") => CompressionChoice::Zstd,
            () if name.ends_with(".gz") || name.ends_with(".tgz") || self.level.is_some() => {
                CompressionChoice::Gzip
            }
            () => CompressionChoice::None,
        });
        Self { compression: Some(compression), ..self }.options()
    }

    pub(super) fn options(self) -> Result<MakeOptions> {
        let compression = match self.compression {
            None | Some(CompressionChoice::Gzip) => Compression::Gzip,
            Some(CompressionChoice::Zstd) => Compression::Zstd,
            Some(CompressionChoice::None) => Compression::None,
        };
        let packing = Packing::new(compression, self.level)?;
        Ok(MakeOptions { create: CreateOptions { packing, epoch: epoch()?, ..CreateOptions::default() } })
    }
}

/// Returns the latest time that files in layers may have, as [reproducible builds](https://reproducible-builds.org/specs/source-date-epoch/) say it.
fn epoch() -> Result<Option<i64>> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH") else { return Ok(None) };
    let seconds = text.to_str().and_then(|text| text.trim().parse().ok());
    let wrong =
        || Error::new(ErrorKind::InvalidInput, format!("SOURCE_DATE_EPOCH={text:?} is no number of seconds"));
    seconds.map(Some).ok_or_else(wrong)
}

// ---------------------------------------------------------------- telling

/// Shows what happens in a transfer.
pub(super) fn show(bars: &Bars) -> impl Fn(Event<'_>) + Send + Sync + '_ {
    |event| {
        let (stage, blob, bytes) = match event {
            Event::Begun(blob) => (Stage::Begun, blob, 0),
            Event::Moved(blob, bytes) => (Stage::Moved, blob, bytes),
            Event::Done(blob) => (Stage::Done, blob, 0),
            Event::Present(blob) => (Stage::Present, blob, 0),
            _ => return,
        };
        bars.tell(stage, &blob.digest.to_string(), blob.size, bytes);
    }
}

/// Says that a layer is being made, which takes time.
pub(super) fn packing(output: Output) -> impl Fn(&Node) + Sync {
    move |node| {
        let step = node.record.step.as_ref().map(|step| output::shortened(&step.shown, 60));
        output.say(format!("packing {}", step.as_deref().unwrap_or(node.label())));
    }
}

/// Returns the key under which credentials of a registry are kept.
pub(super) fn registry_key(text: &str) -> Result<String> {
    let host = text.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    match host {
        "" | "index.docker.io/v1" | "index.docker.io" | "registry-1.docker.io" => Ok("docker.io".to_owned()),
        host => Ok(host.to_owned()),
    }
}

/// Returns the credentials' files.
pub(super) fn credentials(context: &Context) -> Result<registry::Credentials> {
    Ok(settings(context)?.credentials)
}
