//! Where the end of a build goes besides the store.

use std::path::Path;

use rootling_backends::graft::Origin;
use rootling_backends::{Dir, Error, ErrorKind, Result, private};

use super::super::places::{PackFlags, RegistryFlags};
use super::super::{Context, export, output, push};
use crate::build::context::{self, Loading};
use crate::build::copy::{self, Destination as Target, choose};
use crate::build::plan::{CopyStep, From};
use crate::build::result::{Destination, Output};
use crate::reference::{InFile, Place};
use crate::store::{Node, Store};
use crate::transfer::making::MakeOptions;

/// Sends what was built to each of these places.
pub(super) fn send_all(
    context: &Context,
    store: &Store,
    node: &Node,
    outputs: &[Output],
    loading: &Loading<'_>,
) -> Result<()> {
    for output in outputs {
        send(context, store, node, output, loading)?;
    }
    Ok(())
}

fn send(context: &Context, store: &Store, node: &Node, output: &Output, loading: &Loading<'_>) -> Result<()> {
    let mut options = PackFlags::usual()?;
    if let Some(packing) = output.packing {
        options.create.packing = packing;
    }
    let in_file = |path: &Path| InFile { path: path.to_owned(), image: None };
    let place = match &output.destination {
        Destination::Directory(path) => return to_directory(context, store, node, path, loading),
        Destination::Tar(path) => {
            let options = match output.packing {
                Some(_) => options,
                None => PackFlags::of_tar(path)?,
            };
            return export::to_tar(context, store, node, path, &options);
        }
        Destination::Layout(path) => Place::Layout(in_file(path)),
        Destination::OciArchive(path) => Place::OciArchive(in_file(path)),
        Destination::DockerArchive(path) => Place::DockerArchive(in_file(path)),
        Destination::Image { push: false, .. } => return Ok(()),
        Destination::Image { names, .. } => return push_all(context, store, node, names, &options),
    };
    let document = push::send(context, store, node, &place, options, &RegistryFlags::default())?;
    push::tell(context, "exported", &place, &document);
    Ok(())
}

/// Sends an image to the registries that names of it mean: those given, or that of the node.
pub(super) fn push_all(
    context: &Context,
    store: &Store,
    node: &Node,
    names: &[String],
    options: &MakeOptions,
) -> Result<()> {
    let places = match names {
        [] => vec![push::home(node)?],
        names => names
            .iter()
            .map(|name| crate::image::ImageReference::parse(name).map(Place::Registry))
            .collect::<Result<_>>()?,
    };
    for place in places {
        let document = push::send(context, store, node, &place, *options, &RegistryFlags::default())?;
        push::tell(context, "pushed", &place, &document);
    }
    Ok(())
}

/// Copies the files of a tree into a directory: what is there stays, unless something takes its place.
fn to_directory(
    context: &Context,
    store: &Store,
    node: &Node,
    path: &Path,
    loading: &Loading<'_>,
) -> Result<()> {
    private::make_dirs(path)?;
    let origin: Origin = store.open_origin(node)?;
    let files = context::Context::of_tree(origin.root().try_clone()?, node.label());
    let step = CopyStep::of_all(From::MainContext);
    let chosen = choose(&step, &files, loading)?;
    let target = Target::directory(Dir::open(path)?)?;
    let copied =
        copy::perform(&step, &chosen, &chosen.list()?, &origin, &target).map_err(|error| {
            match error.kind() {
                ErrorKind::PermissionDenied => {
                    error.hint("owners of files are kept, which only root can do everywhere")
                }
                _ => error,
            }
        })?;
    context.output.say(format!("wrote {} to {path:?}: {}", node.label(), output::describe(&copied.cost)));
    Ok(())
}

/// Refuses outputs that cannot be together: standard output is one.
pub(super) fn check(outputs: &[Output]) -> Result<()> {
    let streams = outputs.iter().filter(|output| output.is_stdout()).count();
    if streams > 1 {
        let message = "standard output is the destination of several outputs";
        return Err(Error::new(ErrorKind::InvalidInput, message).hint("give all but one a file: dest=FILE"));
    }
    Ok(())
}
