//! `set`: change what is kept with a box.

use rootling_backends::{Error, ErrorKind, Result};

use super::home::{self, HomeChoice, HomeFlag};
use super::start::Settings;
use super::{Context, kept, live, store};
use crate::store::{BoxSettings, Name, Node, Store};

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
    let (home, unset) = home_and_others(&node.record.life.settings, arguments);
    let change = |before| context.given.kept(context, kept::without(before, &unset)?);
    let node = if home.is_given() {
        with_home(context, &store, &node, &name, (home, change))?
    } else {
        store.change_settings(&node, change)?
    };
    store::remember(&store, &node);
    if live::note_in(&store.slot(&node))?.is_some_and(|note| note.running.is_alive()) {
        context.output.say(format!("{name} runs: it takes effect at the next start"));
    }
    let settings = &node.record.life.settings;
    context.output.data(settings, || kept::lines(settings).iter().map(|line| format!("{line}\n")).collect());
    Ok(())
}

/// Returns the home that is asked for, and what is to be taken away besides.
fn home_and_others(before: &BoxSettings, arguments: &Arguments) -> (HomeFlag, Vec<String>) {
    let mode = before.home.as_ref().map(|home| home.mode.name());
    let is_home = |text: &String| {
        let (long, value) = kept::flag_and_value(text);
        long == "home" && mode.is_some_and(|mode| value.is_none_or(|value| value == mode))
    };
    // What is said of a home that the box has not is not known, as with any setting.
    let (homes, others): (Vec<String>, _) = arguments.unset.iter().cloned().partition(is_home);
    let none = (!homes.is_empty()).then_some(HomeChoice::None);
    (HomeFlag { home: arguments.home.home.or(none) }, others)
}

/// Changes the settings and the home. A copy takes its time: it is made before others have to wait.
fn with_home(
    context: &Context,
    store: &Store,
    node: &Node,
    name: &Name,
    (home, change): (HomeFlag, impl FnOnce(BoxSettings) -> Result<BoxSettings>),
) -> Result<Node> {
    let before = &node.record.life.settings;
    let after = home.settle(context, store, name, change(before.clone())?)?;
    let changed = store.change_settings(node, |now| {
        if now == *before {
            return Ok(after.clone());
        }
        Err(Error::new(ErrorKind::Busy, format!("the settings of {name} have changed meanwhile"))
            .hint("try again"))
    });
    match &changed {
        Ok(_) => home::say_what_stays(context, store, name, before),
        Err(_) => home::let_go(store, &after),
    }
    changed
}
