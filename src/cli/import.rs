//! `import`: make a committed tree of something outside the store.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rootling_backends::attributes::Owners;
use rootling_backends::entry::CloneMode;
use rootling_backends::{Cost, Dir, Error, ErrorKind, Result, replicate};

use super::pull::PullFlags;
use super::{Context, Materialize, Reflink, live, output, places, pull, said, show, store};
use crate::image::Digest;
use crate::reference::{Place, Source};
use crate::runner::{self, Entered};
use crate::sources::{self, Fetch, Made, Means, Progress, Resolved, Strip, Treatment};
use crate::store::{CreateOptions, Name, Node, Store};

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Arguments {
    /// What to import
    #[arg(value_parser = said(Source::parse))]
    source: Source,

    /// Name of the tree
    #[arg(value_parser = said(Name::parse))]
    name: Name,

    /// Refuse the file unless this is its SHA-256
    #[arg(long, value_name = "HEX", value_parser = said(sources::parse_sha256))]
    sha256: Option<Digest>,

    /// Take so many leading directories off all paths of an archive; without this, a root filesystem in a directory is found
    #[arg(long, value_name = "N")]
    strip_components: Option<u32>,

    /// Make the tree anew, even if it was made of the same before
    #[arg(long)]
    fresh: bool,

    /// Give everything to root instead of the owners that the source names
    #[arg(long)]
    no_owners: bool,

    /// Say how it is run, in a Dockerfile's words: 'CMD ["/bin/app"]', 'ENV A=b', 'USER app'
    #[arg(long, value_name = "CHANGE")]
    change: Vec<String>,

    #[command(flatten)]
    materialize: Materialize,
}

/// What `--help` says of sources.
const HELP: &str = "\
Sources:
  dir:PATH                      a directory
  tar:FILE, tar:-               a tar archive, or one on standard input (plain, gzip, xz or zstd)
  https://HOST/FILE.tar.xz      the same from a server, with its checksum: --sha256, or FILE.sha256 or SHA256SUMS beside it
  squashfs:FILE, squashfs:URL   a squashfs
  bootstrap:debian/bookworm     Debian or Ubuntu of its packages, by mmdebstrap:
                                ?variant=minbase&include=curl,vim&components=main&mirror=URL&arch=arm64
  images:debian/bookworm        an image of images.linuxcontainers.org: ?variant=cloud&arch=arm64
  ubuntu:24.04                  an image of cloud-images.ubuntu.com; ubuntu-daily: for those of today
  simplestreams:SERVER/ALIAS    an image of another such server; SERVER//ALIAS if the server's part has slashes
  lxc:debian/bookworm           the same by the classic index: lxc:DIST/RELEASE/ARCH/VARIANT
  docker://NAME, oci:DIR[:IMAGE], oci-archive:FILE[:IMAGE], docker-archive:FILE[:IMAGE]
                                an image, as pull takes it
  host:/                        this machine

What was made of the same content before is not made again: it gets one more name.";

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let store = context.store()?;
    live::require_free(&store, &arguments.name)?;
    let mut options = arguments.materialize.options();
    for change in &arguments.change {
        options.config.change(change)?;
    }
    match &arguments.source {
        Source::Place(place) if place.has_images() => return import_image(context, &store, arguments, place),
        Source::Place(Place::Host | Place::Directory(_)) => {}
        _ => return from_elsewhere(context, &store, arguments, options),
    }
    if arguments.sha256.is_some() || arguments.strip_components.is_some() {
        let message =
            format!("{} is no file: it has neither a checksum nor leading directories", arguments.source);
        return Err(
            Error::new(ErrorKind::InvalidInput, message).hint("leave out --sha256 and --strip-components")
        );
    }
    let progress = context.output.progress(format!("importing {}", arguments.source));
    let imported = from_here(context, &store, arguments, options);
    drop(progress);
    say_imported(context, &store, arguments, &imported?)
}

fn import_image(context: &Context, store: &Store, arguments: &Arguments, place: &Place) -> Result<()> {
    let Arguments { sha256, strip_components, fresh, no_owners, change, materialize, source: _, name: _ } =
        arguments;
    let for_trees = [
        ("--sha256", sha256.is_some()),
        ("--strip-components", strip_components.is_some()),
        ("--fresh", *fresh),
        ("--no-owners", *no_owners),
        ("--change", !change.is_empty()),
        ("--backend", materialize.backend.is_some()),
        ("--reflink", materialize.reflink == Reflink::Always),
    ];
    if let Some((flag, _)) = for_trees.iter().find(|(_, is_given)| *is_given) {
        let message = format!("an image is taken as it is: {flag} is for trees");
        return Err(Error::new(ErrorKind::InvalidInput, message)
            .hint("change it in a box, and commit that: rootling commit BOX NAME --change CHANGE"));
    }
    let pulled = pull::fetch(context, store, place, Some(arguments.name.clone()), &PullFlags::default())?;
    context.output.say(format!("imported {place} as {}", pulled.image.node.label()));
    show::made(context, store, &pulled.image.node)
}

fn say_imported(context: &Context, store: &Store, arguments: &Arguments, node: &Node) -> Result<()> {
    store::remember(store, node);
    let what = format!("imported {} as {}", arguments.source, node.label());
    context.output.cost(&what, node.record.backend, &node.record.cost);
    show::made(context, store, node)
}

fn from_here(
    context: &Context,
    store: &Store,
    arguments: &Arguments,
    options: CreateOptions,
) -> Result<Node> {
    let (name, source) = (&arguments.name, arguments.source.to_string());
    let always_clone = options.always_clone;
    match &arguments.source {
        Source::Place(Place::Directory(path)) => store.import(name, &source, options, |target| {
            copy_directory(path, target, always_clone, owners(context, arguments.no_owners))
        }),
        _ => {
            if arguments.no_owners {
                let message = "host:/ is imported with its owners";
                return Err(Error::new(ErrorKind::InvalidInput, message).hint("leave out --no-owners"));
            }
            context.require_root_for_host()?;
            store.import_host(name, options)
        }
    }
}

/// Imports an archive, or what a server or a program has: names what was made of the same before, or makes it.
fn from_elsewhere(
    context: &Context,
    store: &Store,
    arguments: &Arguments,
    mut options: CreateOptions,
) -> Result<()> {
    let source = arguments.source.to_string();
    let progress = context.output.progress(format!("importing {source}"));
    let tell = |word: Progress<'_>| progress.tell(|| shown(&source, word));
    let make_client = places::anonymous(context);
    let (fetch, scratch) = (Fetch::new(&make_client), store.root().join("tmp"));
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok();
    let means = Means {
        fetch: &fetch,
        scratch: &scratch,
        bind: runner::ends_with_caller_keeping,
        source_date_epoch: epoch.as_deref(),
        tell: &tell,
    };
    let treatment = Treatment {
        owners: owners(context, arguments.no_owners),
        strip: arguments.strip_components.map_or(Strip::Auto, Strip::Exactly),
    };
    let resolved = match &arguments.source {
        Source::Place(Place::Tar(path)) if path != Path::new("-") => {
            Some(Resolved::local(path.clone(), arguments.sha256.clone()))
        }
        Source::Elsewhere(elsewhere) => Some(elsewhere.resolve(&means, arguments.sha256.clone())?),
        _ => None,
    };
    options.source_key = resolved.as_ref().and_then(|resolved| resolved.key(&treatment));
    if !arguments.fresh
        && let Some(node) = named_again(store, &arguments.name, &options)?
    {
        drop(progress);
        store::remember(store, &node);
        context.output.say(format!("{} is what {source} was before: nothing was made", node.label()));
        return show::made(context, store, &node);
    }
    let mut made = Made::default();
    let imported = store.import(&arguments.name, &source, options, |target| {
        made = match &resolved {
            Some(resolved) => resolved.make(&means, target, &treatment)?,
            None => sources::unpack(io::stdin(), arguments.sha256.clone(), target, &treatment, &tell)?,
        };
        Ok(made.cost.clone())
    });
    drop(progress);
    let node = imported?;
    say_made(context, &arguments.source, resolved.as_ref(), &made);
    say_imported(context, store, arguments, &node)
}

/// Gives what was made of the same before one more name.
fn named_again(store: &Store, name: &Name, options: &CreateOptions) -> Result<Option<Node>> {
    let Some(node) = store.imported(options)? else { return Ok(None) };
    match store.tag(&node, name) {
        // Removed since it was found.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        named => named.map(Some),
    }
}

fn shown(source: &str, word: Progress<'_>) -> String {
    match word {
        Progress::Read(read, Some(length)) => {
            format!("importing {source}: {} of {}", output::bytes(read), output::bytes(length))
        }
        Progress::Read(read, None) => format!("importing {source}: {}", output::bytes(read)),
        Progress::Says(line) => format!("importing {source}: {}", output::plain_text(line.as_ref())),
    }
}

/// Says what is to be known of what was made. Words of servers, programs and archives are printed so that they do nothing.
fn say_made(context: &Context, source: &Source, resolved: Option<&Resolved>, made: &Made) {
    if let Some(version) = resolved.and_then(|resolved| resolved.version.as_ref()) {
        context.output.say(format!("{source} is {}", output::plain_text(version.as_ref())));
    }
    for note in &made.notes {
        context.output.say(output::plain_text(note.as_ref()));
    }
    for skipped in made.skipped.iter().take(5) {
        let path = output::plain_text(OsStr::from_bytes(&skipped.path));
        context.output.say(format!("skipped {path}: {}", skipped.reason));
    }
    if made.skipped_count > 5 {
        context.output.say(format!("skipped {} more", made.skipped_count - 5));
    }
    let came_unverified =
        matches!(source, Source::Elsewhere(_)) && resolved.is_some_and(|resolved| !resolved.is_verified());
    if let (true, Some(digest)) = (came_unverified, &made.digest) {
        context.output.say(format!(
            "no checksum was found for it: to be sure next time, say --sha256 {}",
            digest.hex()
        ));
    }
}

/// The owners that a user namespace has no number for cannot be kept, and are not told apart either.
pub(super) fn owners(context: &Context, none: bool) -> Owners {
    let shown = |id: &str| {
        let text = fs::read_to_string(format!("/proc/sys/kernel/overflow{id}"));
        // The kernel's own default.
        text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(65534)
    };
    match context.entered {
        _ if none => Owners::Caller,
        Entered::Root => Owners::Keep,
        _ => Owners::CallerInsteadOf { user: shown("uid"), group: shown("gid") },
    }
}

fn copy_directory(path: &Path, target: &Dir, always_clone: bool, owners: Owners) -> Result<Cost> {
    let clone = if always_clone { CloneMode::Always } else { CloneMode::Auto };
    replicate::replicate(&Dir::open(path)?, target, &replicate::Options { clone, owners }).map_err(|error| {
        if owners != Owners::Keep && error.kind() == ErrorKind::PermissionDenied {
            error.hint("import it as root, or as the user who may read all of it")
        } else {
            error
        }
    })
}
