//! `build`: an image from a Dockerfile, each step a snapshot; or from a command in a fork of a tree.

use base64::Engine as _;
use rootling_backends::Result;

use super::{Context, places};
use crate::build::context::{Loading, Place};
use crate::build::run::Given;
use crate::build::syntax::{self, Dockerfile};
use crate::runner;
use crate::sources::{Fetch, Means};
use crate::store::Node;

mod by_hand;
mod cache;
mod finish;
mod flags;
mod images;
mod lint;
mod maker;
mod outputs;
mod progress;
mod recipe;

pub(super) use flags::Arguments;
use flags::Form;
use lint::Lint;
use maker::Maker;
use progress::Progress;
use recipe::Recipe;

/// How a build ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// The exit code.
    pub(super) code: i32,
    /// What was built.
    pub(super) node: Option<Box<Node>>,
}

impl Ended {
    fn with(code: i32) -> Self {
        Self { code, node: None }
    }
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<i32> {
    build(context, arguments, false).map(|ended| ended.code)
}

/// Builds, and says nothing unless something has to be done.
pub(super) fn quietly(context: &Context, arguments: &Arguments) -> Result<Ended> {
    build(context, arguments, true)
}

fn build(context: &Context, arguments: &Arguments, quietly: bool) -> Result<Ended> {
    outputs::check(&arguments.output)?;
    arguments.walls.check()?;
    let quiet = (arguments.progress == Progress::Quiet).then(|| context.quiet());
    let context = quiet.as_ref().unwrap_or(context);
    let store = context.store()?;
    let make_client = places::anonymous(context);
    let (fetch, scratch) = (Fetch::new(&make_client), store.root().join("tmp"));
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok();
    let means = Means {
        fetch: &fetch,
        scratch: &scratch,
        bind: runner::ends_with_caller_keeping,
        source_date_epoch: epoch.as_deref(),
        tell: &|_| {},
    };
    let given = Given::read(&arguments.secret, &arguments.ssh, |name| std::env::var_os(name))?;
    let header = git_header(&given);
    let loading = Loading::new(&store, &means, header.as_deref());
    let maker = Maker { context, arguments, store: &store, loading: &loading, given: &given, quietly };
    if !arguments.command.is_empty() {
        return maker.build_by_command(&arguments.context, &arguments.command);
    }
    if maker.means_a_tree() {
        return maker.build_by_shell(&arguments.context);
    }
    maker.refuse_flags_of_boxes()?;
    let recipe = Recipe::load(&Place::parse(&arguments.context)?, arguments.file.as_deref(), &loading)?;
    let file =
        syntax::parse(&recipe.text).map_err(|error| error.context(format!("read {}", recipe.shown)))?;
    if let Some(form) = arguments.print {
        print(context, &file, form);
        return Ok(Ended::with(0));
    }
    let lint = Lint { context, store: &store, recipe: &recipe, file: &file };
    if arguments.check {
        return lint.print().map(Ended::with);
    }
    lint.demand()?;
    maker.build(recipe, &file)
}

/// Returns what git shows servers of http, as BuildKit has it: the secret `GIT_AUTH_HEADER`, or `GIT_AUTH_TOKEN` as a password.
fn git_header(given: &Given) -> Option<String> {
    let text = |id| given.secret(id).and_then(|secret| std::str::from_utf8(secret).ok()).map(str::trim);
    if let Some(header) = text("GIT_AUTH_HEADER") {
        return Some(format!("Authorization: {header}"));
    }
    let token = text("GIT_AUTH_TOKEN")?;
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("x-access-token:{token}"));
    Some(format!("Authorization: basic {basic}"))
}

/// Prints what was read.
fn print(context: &Context, file: &Dockerfile, form: Form) {
    match form {
        Form::Ast => context.output.raw(syntax::to_text(file).as_bytes()),
        Form::Json => {
            let text = serde_json::to_string_pretty(&syntax::to_json(file)).expect("it has text for keys");
            context.output.raw(format!("{text}\n").as_bytes());
        }
    }
}
