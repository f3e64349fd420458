//! `create`: make a box on a tree.

use rootling_backends::Result;

use super::home::HomeFlag;
use super::pull::PullWhen;
use super::start::Settings;
use super::{Context, Materialize, home, live, said, show, store};
use crate::process;
use crate::reference::Reference;
use crate::store::{Base, CreateOptions, Identity, Name, Node, Store};

#[derive(Debug, clap::Args)]
pub(super) struct CreateArguments {
    /// What the box stands on: an image or another name, an id, host:/; docker://NAME is pulled if it is not there
    reference: String,

    /// Name of the box
    #[arg(value_parser = said(Name::parse))]
    name: Name,

    /// Whether it stays the machine that it is made of [default: keep]
    ///
    /// A new one gets a machine id, a host name and a random seed of its own, and no ssh host keys: `ssh-keygen -A`, which
    /// distributions run before sshd starts, makes them.
    #[arg(long, value_enum, default_value = "keep", hide_default_value = true)]
    identity: IdentityChoice,

    #[command(flatten)]
    pull: PullWhen,

    #[command(flatten)]
    home: HomeFlag,

    /// What is kept with the box
    #[command(flatten)]
    settings: Settings,

    #[command(flatten)]
    materialize: Materialize,
}

pub(super) fn create(context: &Context, arguments: &CreateArguments) -> Result<()> {
    let CreateArguments { reference, name, materialize, pull, home, identity, settings: _ } = arguments;
    let options = CreateOptions { identity: identity.identity(), ..materialize.options() };
    let store = context.store()?;
    let base = if Reference::is_host(reference) {
        None
    } else {
        // A name that is taken is told before anything is pulled.
        live::require_free(&store, name)?;
        Some(pull.find(context, &store, reference)?)
    };
    make(context, &store, reference, base, name, options, *home)
}

/// The identities of a box, as they are written on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum IdentityChoice {
    /// Another machine
    New,
    /// The same machine
    Keep,
}

impl IdentityChoice {
    pub(super) fn identity(self) -> Identity {
        match self {
            Self::New => Identity::New { hostname: process::hostname_of },
            Self::Keep => Identity::Keep,
        }
    }
}

/// Makes one box and says so. Without a base it is one of the running machine.
pub(super) fn make(
    context: &Context,
    store: &Store,
    reference: &str,
    base: Option<Node>,
    name: &Name,
    options: CreateOptions,
    home: HomeFlag,
) -> Result<()> {
    live::require_free(store, name)?;
    if base.is_none() {
        context.require_root_for_host()?;
    }
    let node = base;
    let base = node.as_ref().map_or(Base::Host, Base::Node);
    let said = !context.given.is_empty() || home.is_given();
    let settings = said.then(|| {
        let inherited = store.inherited_settings(base, name, !home.is_given())?;
        home.settle(context, store, name, context.given.kept(context, inherited)?)
    });
    let settings = settings.transpose()?;
    let progress = context.output.progress(format!("forking {reference}"));
    let made = store.create(base, name, CreateOptions { settings: settings.clone(), ..options });
    drop(progress);
    if let (Err(_), Some(settings)) = (&made, &settings) {
        home::let_go(store, settings);
    }
    let node: Node = made?;
    store::remember(store, &node);
    context.output.cost(&format!("forked {reference} as {name}"), node.record.backend, &node.record.cost);
    warn_of_host(context, &node);
    show::made(context, store, &node)
}

/// Says what is different with a box that stands on the running system.
pub(super) fn warn_of_host(context: &Context, node: &Node) {
    if node.record.outside.is_some() {
        context.output.say(
            "it stands on the running system: what you change outside shows inside, so keep it short-lived \
             (import host:/ makes an independent copy)",
        );
    }
}
