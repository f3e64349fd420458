//! `export`: a tree, out of the store: as files, as a tar, or as an image.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rootling_backends::entry::CloneMode;
use rootling_backends::{Dir, Error, ErrorKind, Result, private, replicate};

use super::places::{PackFlags, RegistryFlags};
use super::{Context, import, output, push, said, store};
use crate::reference::Place;
use crate::store::{Line, Node, Store};
use crate::transfer::making::MakeOptions;
use crate::transfer::{stream_tar, write_tar};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Which: an image, a box as it stands, any tree
    reference: String,

    #[arg(
        help = "Where to: tar:FILE, tar:- for standard output, dir:PATH (not there yet, or empty), oci:DIR[:NAME], oci-archive:FILE[:NAME], docker-archive:FILE[:NAME]"
    )]
    #[arg(value_parser = said(Place::parse_outside), default_value = "tar:-")]
    destination: Place,

    #[command(flatten)]
    pack: PackFlags,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let store = context.store()?;
    let node = store::find(&store, &arguments.reference)?;
    let place = &arguments.destination;
    if send_tree(context, &store, &node, place, arguments.pack)? {
        return Ok(());
    }
    match place {
        Place::Host => Err(Error::new(ErrorKind::InvalidInput, "host:/ is this machine")
            .hint("take changes over with `rootling apply`")),
        _ => {
            let document = push::send(
                context,
                &store,
                &node,
                place,
                arguments.pack.options()?,
                &RegistryFlags::default(),
            )?;
            push::tell(context, "exported", place, &document);
            Ok(())
        }
    }
}

/// Exports a tree as files or as a tar; false where the place is for something else.
pub(super) fn send_tree(
    context: &Context,
    store: &Store,
    node: &Node,
    place: &Place,
    pack: PackFlags,
) -> Result<bool> {
    match place {
        Place::Directory(path) => to_directory(context, store, node, path)?,
        Place::Tar(path) => to_tar(context, store, node, path, &pack.options_of_tar(path)?)?,
        _ => return Ok(false),
    }
    push::tell_of_tree(context, place);
    Ok(true)
}

/// Opens the tree that goes out: of a box its present state.
fn tree(store: &Store, node: &Node) -> Result<(Line, Dir)> {
    let line = store.line_of(node)?;
    let root = store.open_root(&line.end)?;
    Ok((line, root))
}

fn to_directory(context: &Context, store: &Store, node: &Node, path: &Path) -> Result<()> {
    let (_held, root) = tree(store, node)?;
    private::make_dirs(path)?;
    let target = Dir::open(path)?;
    if !target.entries()?.is_empty() {
        return Err(Error::new(ErrorKind::AlreadyExists, format!("{path:?} is not empty"))
            .hint("export to a directory that is not there yet"));
    }
    let options = replicate::Options { clone: CloneMode::Auto, owners: import::owners(context, false) };
    let progress = context.output.progress(format!("exporting {}", node.label()));
    let cost = replicate::replicate(&root, &target, &options);
    drop(progress);
    let cost = cost?;
    context.output.say(format!("exported {} to {path:?}: {}", node.label(), output::describe(&cost)));
    Ok(())
}

/// Writes a tree as a tar, or to standard output.
pub(super) fn to_tar(
    context: &Context,
    store: &Store,
    node: &Node,
    path: &Path,
    options: &MakeOptions,
) -> Result<()> {
    let options = &options.create;
    let (_held, root) = tree(store, node)?;
    let created = if path == Path::new("-") {
        let mut out = context.output.sink()?;
        stream_tar(&root, &mut *out, options)?
    } else {
        let _progress = context.output.progress(format!("exporting {}", node.label()));
        write_tar(&root, path, options)?
    };
    for skipped in created.notes.iter().take(5) {
        let path = output::plain_text(OsStr::from_bytes(&skipped.path));
        context.output.say(format!("left out {path}: {}", skipped.reason));
    }
    context.output.say(format!(
        "exported {} to tar:{}: {} entries",
        node.label(),
        path.display(),
        created.entries
    ));
    Ok(())
}
