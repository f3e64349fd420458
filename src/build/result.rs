//! The end of a build: which of its steps become layers, and what the image says of how it came to be.
//!
//! Nothing is packed here: the image is a node that shares the tree of the last step, and its layers are made when it leaves the store
//! (`transfer::making`).

mod output;

use std::collections::BTreeMap;

use jiff::Timestamp;
use rootling_backends::{Error, ErrorKind, Result};

pub use output::{Destination, Output, annotation};

use super::plan::{Plan, Stage, Step};
use crate::image::{Descriptor, History, ImageConfig, media_type};
use crate::store::{Built, Node, Store};
use crate::transfer::making::{self, Made};

/// What the history of an image says beside a step of ours, as BuildKit's does.
const COMMENT: &str = "buildkit.dockerfile.v0";

/// Which states of a build become layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Layers {
    /// Each step that changed files.
    #[default]
    Steps,
    /// One, with all that is in the image.
    One,
    /// One, on those of the image that it was built on: `--squash`.
    BaseAndOne,
    /// Those that a comment `# rootling: layer` marks, and the last.
    Marked,
}

/// What an image says that its stages do not.
#[derive(Debug, Clone, Default)]
pub struct ImageOptions {
    /// Which states become layers.
    pub layers: Layers,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// The recipe, as the build calls it.
    pub recipe: Option<String>,
    /// Does the image say which steps its layers are, so that another store can take them for those?
    pub carries_keys: bool,
}

/// What the end of a build is: what [`Store::publish_built`] asks for.
#[derive(Debug, Clone)]
pub struct Image {
    /// The node whose tree it has; `None` for an empty one.
    pub top: Option<Node>,
    /// How it is run.
    pub config: ImageConfig,
    /// What else it says.
    pub built: Built,
}

/// Makes what the store is told of the end of a build. `line` and `base` are those of [`execute::Made`](super::execute::Made): the stages that
/// the target stands on, with the node of each step, and what the lowest of them stands on.
///
/// Reads the configuration of the base, and walks no tree: a step that changed nothing is found out when its layer would be made.
pub fn image(
    store: &Store,
    plan: &Plan,
    line: &[(usize, Vec<Option<Node>>)],
    base: Option<&Node>,
    options: &ImageOptions,
) -> Result<Image> {
    let stage = |number: usize| plan.stages.iter().find(|stage| stage.number == number);
    let Some(target) = stage(plan.target) else {
        return Err(Error::new(ErrorKind::InvalidInput, "the plan has no target"));
    };
    let mut history = base.map_or_else(|| Ok(Vec::new()), |base| making::history_of(store, base))?;
    let all = steps(line, base, &stage);
    let last = all.iter().rposition(|(_, node)| node.is_some());
    let top = last.and_then(|number| all[number].1).or(base);
    let mut times = Times::new(plan, base);
    let mut layers = Vec::new();
    for (number, (step, node)) in all.iter().enumerate() {
        let may_end = match options.layers {
            Layers::Steps => true,
            Layers::Marked => step.is_marked || Some(number) == last,
            Layers::One | Layers::BaseAndOne => Some(number) == last,
        };
        let layer = node.filter(|_| may_end);
        layers.extend(layer.map(|node| node.id.clone()));
        times.pass(*node);
        if !step.created_by.is_empty() {
            history.push(entry(step, times.now, layer.is_some()));
        }
    }
    let mut below = base;
    if let (Layers::One, Some(top)) = (options.layers, top) {
        // The one layer is all of the tree, whatever it began as.
        (below, layers) = (None, vec![top.id.clone()]);
        let count = history.len();
        history.iter_mut().enumerate().for_each(|(number, entry)| entry.empty_layer = number + 1 < count);
    }
    let built = Built {
        history,
        steps: layers,
        base: below.map(|base| base.id.clone()),
        annotations: options.annotations.clone(),
        platform: Some(target.platform.clone()),
        created: times.now,
        epoch: plan.epoch,
        carries_keys: options.carries_keys,
        author: Some(target.author.clone()).filter(|author| !author.is_empty()),
        recipe: options.recipe.clone(),
    };
    Ok(Image { top: top.cloned(), config: target.config.clone(), built })
}

/// Returns all steps, in order, each with its node, if it made one: what had nothing to do has that of the step before.
fn steps<'a>(
    line: &'a [(usize, Vec<Option<Node>>)],
    base: Option<&'a Node>,
    stage: &dyn Fn(usize) -> Option<&'a Stage>,
) -> Vec<(&'a Step, Option<&'a Node>)> {
    let mut before = base.map(|base| &base.id);
    let mut all = Vec::new();
    for (number, nodes) in line {
        let steps = stage(*number).map(|stage| stage.steps.iter()).unwrap_or_default();
        for (step, node) in steps.zip(nodes) {
            let node = node.as_ref().filter(|node| Some(&node.id) != before);
            before = node.map(|node| &node.id).or(before);
            all.push((step, node));
        }
    }
    all
}

/// When what was built was made: a build that finds all its steps done makes the same image as the one that did them.
struct Times {
    now: Option<Timestamp>,
    is_set: bool,
}

impl Times {
    fn new(plan: &Plan, base: Option<&Node>) -> Self {
        let set = plan.epoch.and_then(|seconds| Timestamp::from_second(seconds).ok());
        let of_base = base.map(|base| {
            let record = &base.record;
            let said = match (&record.image, &record.built) {
                (Some(image), _) => image.created,
                (None, Some(built)) => built.created,
                (None, None) => None,
            };
            said.unwrap_or(record.created)
        });
        Self { now: set.or(of_base), is_set: set.is_some() }
    }

    /// Goes on to a step.
    fn pass(&mut self, node: Option<&Node>) {
        if let Some(node) = node.filter(|_| !self.is_set) {
            self.now = self.now.max(Some(node.record.created));
        }
    }
}

fn entry(step: &Step, at: Option<Timestamp>, is_layer: bool) -> History {
    History {
        created: at.map(|at| at.to_string()),
        created_by: step.created_by.clone(),
        comment: COMMENT.to_owned(),
        empty_layer: !is_layer,
        ..History::default()
    }
}

/// Returns what `--metadata-file` says of an image that was made, in buildx's words.
pub fn metadata(made: &Made, names: &[String]) -> serde_json::Value {
    let config = Descriptor::of(media_type::CONFIG, &made.config);
    let manifest = Descriptor::of(&made.manifest.media_type, &made.manifest.bytes);
    let mut said = serde_json::json!({
        "containerimage.config.digest": config.digest,
        "containerimage.digest": manifest.digest,
        "containerimage.descriptor": manifest,
    });
    if !names.is_empty() {
        said["image.name"] = names.join(",").into();
    }
    said
}
