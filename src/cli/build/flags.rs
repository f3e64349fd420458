//! What may be said to `build`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use rootling_backends::{Error, ErrorKind, Result};

use super::super::mounts::MountFlags;
use super::super::pull::When;
use super::super::walls::Walls;
use super::super::{BackendChoice, said};
use super::progress::Progress;
use crate::build::context::NamedContext;
use crate::build::result::{Output, annotation};
use crate::build::run::{SecretFlag, SshFlag, parse_secret, parse_ssh};
use crate::image::{ImageReference, Platform};
use crate::reference::Place;
use crate::store::Name;

#[derive(Debug, clap::Args)]
pub(in super::super) struct Arguments {
    #[arg(
        help = "Where files come from: a directory, a tar archive, - for standard input, a git repository, a URL; or a tree to run COMMAND in"
    )]
    #[arg(value_name = "CONTEXT", default_value = ".")]
    pub(super) context: String,

    /// Run this in a fork of a tree instead, and keep what it changed if it exits with 0 [default: a shell]
    #[arg(last = true, value_name = "COMMAND")]
    pub(super) command: Vec<OsString>,

    /// The Dockerfile, - for standard input [default: Dockerfile or Containerfile of the context]
    #[arg(short, long, value_name = "PATH")]
    pub(super) file: Option<PathBuf>,

    /// What the image is called
    #[arg(short, long, value_name = "NAME[:TAG]", value_parser = said(tag))]
    pub(super) tag: Vec<Name>,

    /// The stage to build [default: the last]
    #[arg(long, value_name = "STAGE")]
    pub(super) target: Option<String>,

    /// Value of an ARG; without a value ours is passed on
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(super) build_arg: Vec<String>,

    /// A further place that files and images come from: NAME=DIRECTORY, NAME=oci-layout://DIRECTORY, NAME=docker-image://IMAGE, NAME=git repository or URL
    #[arg(long, value_name = "NAME=PLACE", value_parser = said(NamedContext::parse))]
    pub(super) build_context: Vec<NamedContext>,

    /// A file or variable that RUN --mount=type=secret sees, and nobody else: id=ID,src=FILE or id=ID,env=NAME
    #[arg(long, value_name = "id=ID,...", value_parser = said(parse_secret))]
    pub(super) secret: Vec<SecretFlag>,

    /// An ssh agent for RUN --mount=type=ssh: default, or ID=SOCKET
    #[arg(long, value_name = "ID[=SOCKET]", value_parser = said(parse_ssh))]
    pub(super) ssh: Vec<SshFlag>,

    /// Allow what goes beyond the walls: security.insecure, network.host
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    pub(super) allow: Vec<Entitlement>,

    /// Do every step, also where the same was done before
    #[arg(long)]
    pub(super) no_cache: bool,

    /// Do every step of a stage
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub(super) no_cache_filter: Vec<String>,

    /// Take the layers of an image for the steps that they are: one that was built with --cache-to inline, mostly somewhere else
    #[arg(long, value_name = "IMAGE", value_parser = said(cache_from))]
    pub(super) cache_from: Vec<String>,

    /// Let the image say which steps its layers are, for --cache-from: inline
    #[arg(long, value_name = "WHERE", value_parser = said(cache_to))]
    pub(super) cache_to: Option<CacheTo>,

    /// When to pull base images: missing, always, never [default: missing; always without a value]
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "always")]
    pub(super) pull: Option<When>,

    /// What it is to run on [default: this machine]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = said(Platform::parse))]
    pub(super) platform: Option<Platform>,

    /// A label of the image
    #[arg(long, value_name = "NAME=VALUE")]
    pub(super) label: Vec<String>,

    /// An annotation of the manifest
    #[arg(long, value_name = "NAME=VALUE", value_parser = said(annotation))]
    pub(super) annotation: Vec<(String, String)>,

    /// Write the image's id to a file
    #[arg(long, value_name = "FILE")]
    pub(super) iidfile: Option<PathBuf>,

    /// Write what was built to a file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) metadata_file: Option<PathBuf>,

    #[arg(
        help = "Where the result goes: DIRECTORY, -, type=local|tar|oci|docker,dest=PATH, type=image,name=NAME,push=true, type=registry,name=NAME"
    )]
    #[arg(short, long, value_name = "OUTPUT", value_parser = said(Output::parse))]
    pub(super) output: Vec<Output>,

    /// Send the image to the registry of its name
    #[arg(long, requires = "tag")]
    pub(super) push: bool,

    /// Which steps become layers of the image: steps, one (also those of the base), base+1, marked (steps behind `# rootling: layer`)
    #[arg(long, value_enum, value_name = "WHICH", conflicts_with = "squash", default_value = "steps")]
    pub(super) layers: LayersChoice,

    /// Make one layer of what was built: --layers base+1
    #[arg(long)]
    pub(super) squash: bool,

    /// How the build is shown
    #[arg(long, value_enum, value_name = "HOW", default_value = "auto")]
    pub(super) progress: Progress,

    /// Say of each step whether it was there, and what differed first where it was not
    #[arg(long)]
    pub(super) explain: bool,

    /// Look for what is allowed and unwise in the Dockerfile, and build nothing
    #[arg(long)]
    pub(super) check: bool,

    /// Print what was read of the Dockerfile, and build nothing
    #[arg(long, value_enum, value_name = "FORM", conflicts_with = "check")]
    pub(super) print: Option<Form>,

    /// How many steps are done at once [default: as many as there are processors]
    #[arg(short, long, value_name = "N")]
    pub(super) jobs: Option<NonZeroUsize>,

    /// What happens when a step fails: keep what it left, to be entered as @fail; open a shell in it; or leave nothing [default: keep, without a Dockerfile fail]
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(super) on_error: Option<OnError>,

    /// Do the step that failed last again in what it left
    #[arg(long, conflicts_with = "adopt")]
    pub(super) resume: bool,

    /// Take a tree for the result of the step that failed last: a box that was made of @fail and repaired
    #[arg(long, value_name = "REF")]
    pub(super) adopt: Option<String>,

    /// Keep what a step writes to its cache mounts only if it succeeds
    #[arg(long)]
    pub(super) cache_on_success: bool,

    /// Bytes of /dev/shm: 64m
    #[arg(long, value_name = "SIZE", value_parser = said(crate::runner::cgroup::parse_size))]
    pub(super) shm_size: Option<u64>,

    /// Backend that makes the trees [default: the store's for what is thrown away]
    #[arg(long, value_enum)]
    pub(super) backend: Option<BackendChoice>,

    #[command(flatten)]
    pub(in super::super) walls: Walls,

    #[command(flatten)]
    pub(super) mounts: MountFlags,
}

/// What was read of a Dockerfile, as text or as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Form {
    /// An instruction a line
    Ast,
    /// With flags, arguments, heredocs and lines
    Json,
}

/// Which steps become layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum LayersChoice {
    /// Each that changed files
    Steps,
    /// One, also of what the base has
    One,
    /// One, on those of the base
    #[value(name = "base+1")]
    BaseAndOne,
    /// Those behind a comment `# rootling: layer`, and the last
    Marked,
}

/// What happens when a step fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum OnError {
    /// What it left can be entered as @fail
    Keep,
    /// The same, and a shell is opened in it
    Shell,
    /// What it left is thrown away
    Fail,
}

/// Where the steps of a build can be found by others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CacheTo {
    /// In the image itself.
    Inline,
}

/// Reads `inline` or `type=inline`.
fn cache_to(text: &str) -> Result<CacheTo> {
    match text {
        "inline" | "type=inline" => Ok(CacheTo::Inline),
        _ => Err(Error::new(ErrorKind::InvalidInput, format!("{text:?} is no place for a cache"))
            .hint("write inline, and push the image")),
    }
}

/// Reads the name of an image, or `type=registry,ref=IMAGE`.
fn cache_from(text: &str) -> Result<String> {
    let image = match text.strip_prefix("type=") {
        None => text,
        Some(rest) => rest.strip_prefix("registry,ref=").ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("{text:?} is no cache that can be read"))
                .hint("name an image that was built with --cache-to inline")
        })?,
    };
    if Place::parse(image)?.is_none() {
        ImageReference::parse(image)?;
    }
    Ok(image.to_owned())
}

/// What steps may ask for beyond the walls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entitlement {
    Insecure,
    HostNetwork,
}

impl std::str::FromStr for Entitlement {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "security.insecure" => Ok(Self::Insecure),
            "network.host" => Ok(Self::HostNetwork),
            _ => Err("write security.insecure or network.host".to_owned()),
        }
    }
}

/// Reads the name of an image: without a tag it is `latest`.
pub(super) fn tag(text: &str) -> Result<Name> {
    let reference = ImageReference::parse(text)?;
    if reference.digest().is_some() {
        let message = format!("{text:?} says what the image is to be");
        return Err(Error::new(ErrorKind::InvalidInput, message).hint("leave out the digest"));
    }
    Name::parse(&reference.default_name())
}

/// Reads `NAME=VALUE`.
pub(super) fn pairs(texts: &[String], what: &str) -> Result<BTreeMap<String, String>> {
    let split = |text: &String| {
        let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
        pair.map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("{text:?} is no {what}")).hint("write NAME=VALUE")
        })
    };
    texts.iter().map(split).collect()
}
