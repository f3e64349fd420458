//! `try`: a command in a fork, and what becomes of the change: a box of its own, the box that was forked, or nothing.

use std::ffi::OsString;
use std::path::PathBuf;

use rootling_backends::{Change, DiffOptions, Error, ErrorKind, Result};

use super::output::{self, Answer};
use super::run::{self, Ran, Wish};
use super::start::Settings;
use super::{Context, Materialize, diff, live, said, store};
use crate::reference::Reference;
use crate::runner::log::DEFAULT_LIMIT;
use crate::store::{Name, Node, State, Store};

#[derive(Debug, clap::Args)]
pub(super) struct TryArguments {
    /// What it is tried on: a box or tree as it stands, host:/
    reference: String,

    /// What becomes of the change [default: ask at a terminal, else keep with --keep-as, discard without]
    #[arg(long, value_enum, value_name = "WHAT")]
    on_exit: Option<OnExit>,

    /// Name of the box that is kept [default: the name of what was forked, with a number]
    #[arg(long, value_name = "NAME", value_parser = said(Name::parse))]
    keep_as: Option<Name>,

    /// Apply to host:/ without asking once more
    #[arg(short, long)]
    yes: bool,

    /// Apply to host:/ also what somebody has changed there since the fork was made; what they wrote is kept with the rest
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    materialize: Materialize,

    #[command(flatten)]
    pub(super) settings: Settings,

    /// The command [default: the tree's own, else the user's shell]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// What becomes of what was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum OnExit {
    /// Make it a box of its own
    Keep,
    /// Make the box that was forked what the fork is, or do the same to the files of host:/, if the command ended with 0; undo
    /// brings back what was
    Apply,
    /// Throw it away
    Discard,
    /// Show it and ask
    Ask,
}

/// Something that was tried.
#[derive(Debug)]
struct Tried<'a> {
    context: &'a Context,
    store: &'a Store,
    arguments: &'a TryArguments,
    ran: Ran,
    changes: Vec<Change>,
    /// What changed, in a few words.
    receipt: String,
}

pub(super) fn run(context: &Context, mut arguments: TryArguments) -> Result<i32> {
    let store = context.store()?;
    let can_ask = context.output.can_ask();
    let on_exit = arguments.on_exit.unwrap_or(match &arguments.keep_as {
        _ if can_ask => OnExit::Ask,
        Some(_) => OnExit::Keep,
        None => OnExit::Discard,
    });
    refuse_flags_without_use(&arguments)?;
    if on_exit == OnExit::Ask && !can_ask {
        return Err(Error::new(ErrorKind::InvalidInput, "nobody can be asked: this is no terminal")
            .hint("say what becomes of the change: --on-exit keep, apply or discard"));
    }
    if let Some(name) = &arguments.keep_as {
        live::require_free(&store, name)?;
    }
    if on_exit == OnExit::Apply {
        require_applicable(&store, &arguments, can_ask)?;
    }
    let wish = Wish {
        pull: None,
        reference: &arguments.reference,
        name: None,
        entrypoint: None,
        command: std::mem::take(&mut arguments.command),
        flags: arguments.settings.flags(DEFAULT_LIMIT, false),
        options: arguments.materialize.options(),
        volatile: false,
    };
    let Some(ran) = run::in_fork(context, &store, wish)? else { return Ok(0) };
    let code = ran.code;
    let progress = context.output.progress("comparing");
    let changes = store.ephemeral_changes(&ran.fork, DiffOptions::default());
    let receipt = changes.and_then(|changes| Ok((receipt(&store, &ran, &changes)?, changes)));
    drop(progress);
    let (receipt, changes) = receipt?;
    let tried = Tried { context, store: &store, arguments: &arguments, ran, changes, receipt };
    if tried.changes.is_empty() {
        context.output.say("nothing changed");
        tried.discard();
        return Ok(code);
    }
    match on_exit {
        OnExit::Keep => tried.keep()?,
        OnExit::Apply if code == 0 && tried.is_agreed()? => tried.apply()?,
        OnExit::Apply if code == 0 => tried.keep()?,
        OnExit::Apply => {
            context
                .output
                .say(format!("{}: discarded, because the command did not end with 0", tried.receipt));
            tried.discard();
        }
        OnExit::Discard => {
            let hint = if arguments.on_exit.is_none() { " (--on-exit keep or apply would not)" } else { "" };
            context.output.say(format!("{}: discarded{hint}", tried.receipt));
            tried.discard();
        }
        OnExit::Ask => tried.ask()?,
    }
    Ok(code)
}

/// What is said of an end that does not come is refused.
fn refuse_flags_without_use(arguments: &TryArguments) -> Result<()> {
    if arguments.keep_as.is_some() && arguments.on_exit == Some(OnExit::Discard) {
        let message = "--keep-as names what is kept, and --on-exit discard keeps nothing";
        return Err(Error::new(ErrorKind::InvalidInput, message).hint("leave one of them out"));
    }
    let of_host = [("--yes", arguments.yes), ("--force", arguments.force)];
    match of_host.iter().find(|(_, is_given)| *is_given) {
        Some((flag, _)) if Reference::parse(&arguments.reference)? != Reference::Host => {
            let message = format!("{flag} is of host:/, and {} is not", arguments.reference);
            Err(Error::new(ErrorKind::InvalidInput, message).hint("leave it out: undo brings a box back"))
        }
        _ => Ok(()),
    }
}

/// What something is applied to must be a box, because a committed tree never changes; or the host, where somebody agrees.
fn require_applicable(store: &Store, arguments: &TryArguments, can_ask: bool) -> Result<()> {
    let reference = &arguments.reference;
    if Reference::parse(reference)? == Reference::Host {
        if arguments.yes || can_ask {
            return Ok(());
        }
        return Err(Error::new(
            ErrorKind::InvalidInput,
            "nobody can be asked before files of this machine change",
        )
        .hint("--yes agrees; whatever changes is kept before, and `rootling undo host:/` brings it back"));
    }
    let node = store::find(store, reference)?;
    if is_box(&node) {
        return Ok(());
    }
    let message = format!("{} is committed: nothing can be applied to it", node.label());
    Err(Error::new(ErrorKind::FailedPrecondition, message)
        .hint(format!("keep what was tried as a box: rootling try --on-exit keep {reference} COMMAND")))
}

/// Is it a box, or was one when a kill cut off what sealed it? Whoever opens that next makes it one again.
fn is_box(node: &Node) -> bool {
    let continues = node.record.continued_by == node.name;
    node.name.is_some() && (node.record.state == State::Active || continues)
}

/// Says how much changed, what was in directories that are gone included: `changed 41 files (+312 ~18 -0), 12.0 MiB`.
fn receipt(store: &Store, ran: &Ran, changes: &[Change]) -> Result<String> {
    let new = store.backend(ran.fork.backend())?.open_root(&ran.fork.tree)?;
    let sides = diff::Sides::of(ran.fork.open_parent(store)?, new);
    let changes = diff::expanded(&sides, changes)?;
    let diff::Summary { files: [added, modified, deleted], bytes, .. } = diff::Summary::of(&sides, &changes)?;
    let what = match (added + modified + deleted, changes.len()) {
        (0, 1) => "1 directory".to_owned(),
        (0, directories) => format!("{directories} directories"),
        (1, _) => "1 file".to_owned(),
        (files, _) => format!("{files} files"),
    };
    Ok(format!("changed {what} (+{added} ~{modified} -{deleted}), {}", output::bytes(bytes)))
}

impl Tried<'_> {
    /// Asks until it is known what becomes of it.
    fn ask(self) -> Result<()> {
        let Self { context, .. } = self;
        context.output.say(format!("{}:\n{}", self.receipt, diff::beginning(&self.changes, "").trim_end()));
        let target = self.target();
        let apply = target.as_ref().map_or_else(String::new, |target| format!("[a]pply to {target}  "));
        let question = format!("[k]eep as a new box  {apply}[d]iff  [x] discard > ");
        loop {
            match context.output.ask(&question)? {
                Answer::Line(line) => match line.trim() {
                    "k" | "keep" => return self.keep(),
                    "a" | "apply" if target.is_some() => match self.refusal() {
                        None if self.is_agreed()? => return self.apply(),
                        None => {}
                        Some(error) => context.output.error(&error),
                    },
                    "d" | "diff" => context.output.say(diff::render(&self.changes).trim_end()),
                    "x" | "discard" => {
                        self.discard();
                        return Ok(());
                    }
                    _ => {}
                },
                Answer::Interrupted => {
                    context.output.say("discarded");
                    self.discard();
                    return Ok(());
                }
                // Whoever goes without a word does not say that it may be lost.
                Answer::End => return self.keep(),
            }
        }
    }

    /// What it can be applied to.
    fn target(&self) -> Option<String> {
        let Some(node) = &self.ran.node else { return Some("host:/".to_owned()) };
        is_box(node).then(|| node.label().to_owned())
    }

    /// Why it cannot be applied right now.
    fn refusal(&self) -> Option<Error> {
        match &self.ran.node {
            Some(node) => self.store.replaceable(node, &self.ran.fork).err(),
            None => self.host_is_ready().err(),
        }
    }

    /// Does the person agree that files of this machine change? A box is not asked for.
    fn is_agreed(&self) -> Result<bool> {
        if self.ran.node.is_some() || self.arguments.yes {
            return Ok(true);
        }
        self.context.output.say(diff::render(&self.changes).trim_end());
        let question = format!("apply these {} changes to this machine? [y/N] ", self.changes.len());
        let answer = self.context.output.ask(&question)?;
        Ok(matches!(answer, Answer::Line(line) if matches!(line.trim(), "y" | "yes")))
    }

    /// Refuses changes that cannot or should not be made to the machine.
    fn host_is_ready(&self) -> Result<()> {
        let review = self.store.review_host(&self.ran.fork, &self.changes)?;
        let list = |paths: &[PathBuf]| {
            let shown = paths.iter().take(10).map(|path| format!("/{}", output::plain(path)));
            let more = paths.len().checked_sub(10).filter(|more| *more > 0);
            shown.chain(more.map(|more| format!("and {more} more"))).collect::<Vec<_>>().join(", ")
        };
        if !review.mounted.is_empty() {
            let message = format!("other file systems are mounted there: {}", list(&review.mounted));
            return Err(Error::new(ErrorKind::FailedPrecondition, message).hint(
                "only what lies on the file system of the root can be applied: keep the rest as a box",
            ));
        }
        if !review.changed.is_empty() && !self.arguments.force {
            let message = format!("changed on this machine since it was forked: {}", list(&review.changed));
            return Err(Error::new(ErrorKind::FailedPrecondition, message)
                .hint("--force replaces them, and keeps what is there now"));
        }
        Ok(())
    }

    fn keep(self) -> Result<()> {
        let Self { context, store, arguments, ran, receipt, .. } = self;
        let name = match &arguments.keep_as {
            Some(name) => name.clone(),
            None => super::fork::free_name(store, &arguments.reference)?,
        };
        ran.claimed.unlink(ran.fork.slot());
        let kept = store.keep(ran.fork, &name)?;
        store::remember(store, &kept);
        context.output.say(format!("{receipt}: kept as {}", kept.label()));
        Ok(())
    }

    /// Applies it, or, where that cannot be, keeps it and fails.
    fn apply(self) -> Result<()> {
        let Some(node) = &self.ran.node else { return self.apply_to_host() };
        let replaceable = match self.store.replaceable(node, &self.ran.fork) {
            Ok(replaceable) => replaceable,
            Err(error) => {
                self.keep()?;
                return Err(error);
            }
        };
        let Self { context, store, ran, receipt, .. } = self;
        ran.claimed.unlink(ran.fork.slot());
        let applied = store.replace(replaceable, ran.fork, ran.command)?;
        store::remember(store, &applied.node);
        let (name, before) = (applied.node.label(), applied.before.label());
        context.output.say(format!(
            "{receipt}: applied to {name}; what it was is {before}: rootling undo {name} brings it back"
        ));
        Ok(())
    }

    fn apply_to_host(self) -> Result<()> {
        let applied = self.host_is_ready().and_then(|()| {
            self.store.apply_to_host(&self.ran.fork, &self.changes, &format!("before {}", self.ran.command))
        });
        match applied {
            Ok(before) => {
                let (receipt, before) = (&self.receipt, before.label());
                self.context.output.say(format!(
                    "{receipt}: applied to host:/; what was there is {before}: rootling undo host:/ brings it back"
                ));
                self.discard();
                Ok(())
            }
            Err(error) => {
                self.keep()?;
                Err(error)
            }
        }
    }

    fn discard(self) {
        let Ran { fork, claimed, .. } = self.ran;
        // Before the note is let go: whoever waits for the end finds nothing left.
        claimed.unlink(fork.slot());
        drop(fork);
    }
}
