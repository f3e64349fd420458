//! `import`: make a committed tree of something outside the store.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rootling_backends::attributes::Owners;
use rootling_backends::entry::CloneMode;
use rootling_backends::{Context as _, Cost, Dir, Error, ErrorKind, Result, replicate};

use super::pull::PullFlags;
use super::{Context, Materialize, live, output, pull, said, show, store};
use crate::layer;
use crate::reference::Place;
use crate::runner::Entered;
use crate::store::{Name, Node, Store};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[arg(
        help = "What: dir:PATH, tar:FILE (plain, gzip, xz or zstd), tar:- for standard input, host:/ for this machine; of images docker://NAME, oci:DIR[:IMAGE], oci-archive:FILE[:IMAGE], docker-archive:FILE[:IMAGE]"
    )]
    #[arg(value_parser = said(Place::parse_outside))]
    source: Place,

    /// Name of the tree
    #[arg(value_parser = said(Name::parse))]
    name: Name,

    /// Give everything to root instead of the owners that the source names
    #[arg(long)]
    no_owners: bool,

    /// Say how it is run, in a Dockerfile's words: 'CMD [\"/bin/app\"]', 'ENV A=b', 'USER app'
    #[arg(long, value_name = "CHANGE")]
    change: Vec<String>,

    #[command(flatten)]
    materialize: Materialize,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let store = context.store()?;
    live::require_free(&store, &arguments.name)?;
    if arguments.source.has_images() {
        return import_image(context, &store, arguments);
    }
    let progress = context.output.progress(format!("importing {}", arguments.source));
    let imported = import(context, &store, arguments);
    drop(progress);
    let node = imported?;
    store::remember(&store, &node);
    let what = format!("imported {} as {}", arguments.source, node.label());
    context.output.cost(&what, node.record.backend, &node.record.cost);
    show::made(context, &store, &node)
}

fn import_image(context: &Context, store: &Store, arguments: &Arguments) -> Result<()> {
    if arguments.no_owners || !arguments.change.is_empty() {
        let message = "an image is taken as it is: --no-owners and --change are for trees";
        return Err(Error::new(ErrorKind::InvalidInput, message)
            .hint("change it in a box, and commit that: rootling commit BOX NAME --change CHANGE"));
    }
    let (source, name) = (&arguments.source, Some(arguments.name.clone()));
    let pulled = pull::fetch(context, store, source, name, &PullFlags::default())?;
    context.output.say(format!("imported {source} as {}", pulled.image.node.label()));
    show::made(context, store, &pulled.image.node)
}

fn import(context: &Context, store: &Store, arguments: &Arguments) -> Result<Node> {
    let (name, source) = (&arguments.name, arguments.source.to_string());
    let mut options = arguments.materialize.options();
    for change in &arguments.change {
        options.config.change(change)?;
    }
    let always_clone = options.always_clone;
    match &arguments.source {
        Place::Host => {
            context.require_root_for_host()?;
            store.import_host(name, options)
        }
        Place::Directory(path) => store.import(name, &source, options, |target| {
            copy_directory(path, target, always_clone, owners(context, arguments.no_owners))
        }),
        Place::Tar(path) if path == Path::new("-") => store.import(name, &source, options, |target| {
            unpack(context, io::stdin(), target, arguments.no_owners)
        }),
        Place::Tar(path) => {
            let file = File::open(path).context(|| format!("open({path:?})"))?;
            store.import(name, &source, options, |target| unpack(context, file, target, arguments.no_owners))
        }
        Place::Registry(_) | Place::Layout(_) | Place::OciArchive(_) | Place::DockerArchive(_) => {
            unreachable!("images are pulled")
        }
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

fn unpack(
    context: &Context,
    archive: impl io::Read + Send + 'static,
    target: &Dir,
    no_owners: bool,
) -> Result<Cost> {
    let (_, archive) = layer::decompress(archive)?;
    let options = layer::ApplyOptions { owners: !no_owners, ..layer::ApplyOptions::default() };
    let applied = layer::apply(archive, target, &options)?;
    for skipped in applied.skipped.iter().take(5) {
        let path = output::plain_text(OsStr::from_bytes(&skipped.path));
        context.output.say(format!("skipped {path}: {}", skipped.reason));
    }
    if applied.skipped_count > 5 {
        context.output.say(format!("skipped {} more", applied.skipped_count - 5));
    }
    Ok(Cost { files_copied: applied.entries, bytes_copied: applied.bytes_written, ..Cost::default() })
}
