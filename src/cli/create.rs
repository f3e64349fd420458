//! `create` and `fork`: make a box on a tree.

use rootling_backends::{ErrorKind, Result};

use super::{Context, Materialize, live, said, show, store};
use crate::reference::Reference;
use crate::store::{Base, Name, Node, Store};

#[derive(Debug, clap::Args)]
pub(super) struct CreateArguments {
    /// What the box stands on: a name, an id, host:/
    reference: String,

    /// Name of the box
    #[arg(value_parser = said(Name::parse))]
    name: Name,

    #[command(flatten)]
    materialize: Materialize,
}

#[derive(Debug, clap::Args)]
pub(super) struct ForkArguments {
    /// What is forked: a tree, or a box as it stands now
    reference: String,

    /// Name of the fork [default: the name of what is forked, with a number]
    #[arg(value_parser = said(Name::parse))]
    name: Option<Name>,

    #[command(flatten)]
    materialize: Materialize,
}

pub(super) fn create(context: &Context, arguments: &CreateArguments) -> Result<()> {
    make(context, &context.store()?, &arguments.reference, &arguments.name, arguments.materialize)
}

pub(super) fn fork(context: &Context, arguments: &ForkArguments) -> Result<()> {
    let store = context.store()?;
    if let Some(name) = &arguments.name {
        return make(context, &store, &arguments.reference, name, arguments.materialize);
    }
    // Somebody else may take the number that was free: then the next one.
    loop {
        let name = free_name(&store, &arguments.reference)?;
        match make(context, &store, &arguments.reference, &name, arguments.materialize) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            other => return other,
        }
    }
}

/// Returns a name that nothing has: the stem with a number. Looks up a few names, however many are taken.
fn free_name(store: &Store, reference: &str) -> Result<Name> {
    let stem = match Reference::parse(reference)? {
        Reference::Host => "host".to_owned(),
        Reference::Node { .. } => store::find(store, reference)?.label().replace('@', "-"),
    };
    let name = |number: u64| Name::parse(&format!("{stem}-{number}"));
    let is_free = |number: u64| store.resolve_name(&name(number)?).map(|taken| taken.is_none());
    let (mut taken, mut free) = (1, 2);
    while !is_free(free)? {
        (taken, free) = (free, free * 2);
    }
    while free - taken > 1 {
        let middle = taken.midpoint(free);
        if is_free(middle)? { free = middle } else { taken = middle }
    }
    name(free)
}

fn make(
    context: &Context,
    store: &Store,
    reference: &str,
    name: &Name,
    materialize: Materialize,
) -> Result<()> {
    live::require_free(store, name)?;
    let progress = context.output.progress(format!("forking {reference}"));
    let made = match Reference::parse(reference)? {
        Reference::Host => context
            .require_root_for_host()
            .and_then(|()| store.create(Base::Host, name, materialize.options())),
        Reference::Node { .. } => store::find(store, reference)
            .and_then(|node| store.create(Base::Node(&node), name, materialize.options())),
    };
    drop(progress);
    let node: Node = made?;
    store::remember(store, &node);
    context.output.cost(&format!("forked {reference} as {name}"), node.record.backend, &node.record.cost);
    if node.record.outside.is_some() {
        context.output.say(
            "it stands on the running system: what you change outside shows inside, so keep it short-lived \
             (import host:/ makes an independent copy)",
        );
    }
    show::made(context, store, &node)
}
