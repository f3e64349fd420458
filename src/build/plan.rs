//! From instructions to steps: stages, arguments and settings, by the rules of the language.
//!
//! A plan is whole before anything is done: what an image says of itself follows from the text and from its base. The rules are
//! BuildKit's: where its reference is silent, what its `dockerfile2llb` does.

mod arguments;
mod copy;
mod go;
mod mounts;
mod outline;
mod paths;
mod ports;
mod run;
mod scene;
mod settings;
mod stages;
mod step;
mod words;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use rootling_backends::Result;

use arguments::{Globals, proxies, target_name, unused};
pub(in crate::build) use copy::is_remote;
use outline::Outline;
use stages::Planner;
pub use step::{
    CopyStep, From, Ground, Heredoc, MountKind, Network, Owner, RunMount, RunStep, Security, Sharing, Stage,
    Step, Work,
};

use super::syntax::Dockerfile;
use crate::image::{ImageConfig, Platform};

/// What a plan depends on beside the file.
#[derive(Debug, Clone, Default)]
pub struct PlanOptions {
    /// The stage that is wanted, by its name or number; `None` for the last.
    pub target: Option<String>,
    /// Build arguments.
    pub args: BTreeMap<String, String>,
    /// What is built for; `None` for the machine's own, and then for whatever the base image is for.
    pub platform: Option<Platform>,
    /// What the build runs on; `None` for the machine's own.
    pub build_platform: Option<Platform>,
    /// The names of further contexts: they take the place of stages and images of that name.
    pub contexts: BTreeSet<String>,
    /// Labels that the image gets last.
    pub labels: BTreeMap<String, String>,
    /// The network of each `RUN` that says nothing of it.
    pub network: Network,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The stages that are needed, in the order of the file: each needs only those before it.
    pub stages: Vec<Stage>,
    /// Which of them is wanted: the number that its stage has in the file.
    pub target: usize,
    /// What is built for.
    pub platform: Platform,
    /// What all times in the image are: `SOURCE_DATE_EPOCH`, seconds.
    pub epoch: Option<i64>,
    /// What is allowed, and may not be what was meant.
    pub warnings: Vec<Warning>,
}

/// Something that may not be what was meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// What it is.
    pub message: String,
    /// What can be done.
    pub hint: Option<String>,
}

/// What an image, or a context, says of itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Base {
    /// How it is run; `OnBuild` is among what is not known.
    pub config: ImageConfig,
    /// What it was made for, if it says so.
    pub platform: Option<Platform>,
    /// Who made it.
    pub author: String,
}

/// Where bases are looked up. Only those that are needed are asked for.
pub trait Bases {
    /// Returns what an image, or any other node, says of itself; it may be pulled.
    fn image(&mut self, image: &str, platform: &Platform) -> Result<Base>;

    /// Returns what a context that was named says of itself: nothing, where it is no image.
    fn context(&mut self, name: &str, platform: &Platform) -> Result<Base>;
}

/// Plans what a file says: the stages that the target needs, each with all that its steps depend on.
///
/// Only bases of those stages are asked for. Errors say the line and the instruction; what cannot be known before files are there (a
/// user's number, a pattern that means nothing) is left to whoever does the work.
pub fn plan(file: &Dockerfile, options: &PlanOptions, bases: &mut dyn Bases) -> Result<Plan> {
    let globals = Globals::new(file, options, &target_name(file, options))?;
    let outline = Outline::new(file, options, &globals)?;
    let target = outline.target()?;
    let build_platform = options.build_platform.clone().unwrap_or_else(Platform::host);
    let platform = options.platform.clone().unwrap_or(build_platform);
    let planner = Planner {
        outline,
        options,
        globals: &globals,
        proxies: proxies(options),
        platform: platform.clone(),
        escape: file.directives.escape,
    };
    let mut stages = planner.stages(target, bases)?;
    if let Some(last) = stages.last_mut() {
        last.config.labels.extend(options.labels.clone());
    }
    let (epoch, warnings) = (globals.epoch(options)?, unused(file, options, &globals));
    Ok(Plan { stages, target, platform, epoch, warnings })
}
