//! `set`: change what is kept with a box.

use rootling_backends::{Error, ErrorKind, Result};

use super::home::HomeFlag;
use super::start::Settings;
use super::{Context, kept, live, store};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The box
    name: String,

    /// Take a setting away: all of one flag (env), or one value of it (env=NAME, volume=data:/d); first, so that what is given besides replaces it
    #[arg(long, visible_alias = "clear", value_name = "FLAG[=VALUE]")]
    unset: Vec<String>,

    #[command(flatten)]
    home: HomeFlag,

    #[command(flatten)]
    settings: Settings,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let store = context.store()?;
    let node = store::find(&store, &arguments.name)?;
    node.require_box()?;
    if context.given.is_empty() && arguments.unset.is_empty() && !arguments.home.is_given() {
        return Err(Error::new(ErrorKind::InvalidInput, "nothing was said to be set")
            .hint("give the flags of `start`, --home or --unset; `rootling show` lists what there is"));
    }
    let name = node.name.clone().ok_or_else(|| {
        Error::new(ErrorKind::FailedPrecondition, format!("{} has no name and cannot be started", node.id))
    })?;
    let node = store.change_settings(&node, |before| {
        let fewer = kept::without(before, &arguments.unset)?;
        arguments.home.settle(context, &store, &name, context.given.kept(context, fewer)?)
    })?;
    store::remember(&store, &node);
    if live::note_in(&store.slot(&node))?.is_some_and(|note| note.running.is_alive()) {
        context.output.say(format!("{name} runs: it takes effect at the next start"));
    }
    let settings = &node.record.life.settings;
    context.output.data(settings, || kept::lines(settings).iter().map(|line| format!("{line}\n")).collect());
    Ok(())
}
