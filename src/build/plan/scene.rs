//! What holds at one place of a stage: the variables, and what the image says so far. Instructions change it one after the other.

use std::collections::BTreeMap;

use rootling_backends::{Error, ErrorKind, Result};
use serde_json::Value;

use super::Base;
use super::outline::Part;
use super::paths;
use super::words::Words;
use crate::image::{ImageConfig, Platform};
use crate::runner::DEFAULT_PATH;

/// What holds at one place of a stage.
#[derive(Debug, Clone)]
pub(super) struct Scene {
    /// Variables: those of the image, and arguments that were declared; where both have a name, the later one holds.
    pub(super) env: BTreeMap<String, String>,
    /// The arguments that were declared, in order, each once.
    pub(super) args: Vec<String>,
    /// What the image says.
    pub(super) config: ImageConfig,
    /// Who made it.
    pub(super) author: String,
    /// What it is made for.
    pub(super) platform: Platform,
    /// Was there a `CMD` in this stage? A new `ENTRYPOINT` drops only one of the base.
    pub(super) has_own_cmd: bool,
}

impl Scene {
    /// Returns what holds where a stage begins on something that is no stage.
    pub(super) fn on(base: Base, platform: Platform) -> Self {
        let mut scene = Self {
            env: BTreeMap::new(),
            args: Vec::new(),
            config: base.config,
            author: base.author,
            platform,
            has_own_cmd: false,
        };
        scene.config.other.remove(ONBUILD);
        // As Go has it: of two variables of a name the later holds, and one without a value is empty.
        for variable in &scene.config.env {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            scene.env.insert(name.to_owned(), value.to_owned());
        }
        if !scene.env.contains_key("PATH") {
            scene.set_env("PATH", DEFAULT_PATH);
        }
        scene
    }

    /// Returns what holds where a stage begins that stands on one that ends like this.
    pub(super) fn continued(&self) -> Self {
        let mut scene = Self { has_own_cmd: false, ..self.clone() };
        scene.config.other.remove(ONBUILD);
        scene
    }

    /// Returns how words are expanded here.
    pub(super) fn words(&self, escape: char) -> Words<'_> {
        Words::new(&self.env, escape)
    }

    /// Sets a variable of the image.
    pub(super) fn set_env(&mut self, name: &str, value: &str) {
        self.env.insert(name.to_owned(), value.to_owned());
        let entry = format!("{name}={value}");
        let list = &mut self.config.env;
        match list.iter_mut().find(|known| known.split('=').next() == Some(name)) {
            Some(known) => *known = entry,
            None => list.push(entry),
        }
    }

    /// Returns the directory that commands run in.
    pub(super) fn workdir(&self) -> String {
        paths::absolute("/", &self.config.working_dir)
    }

    /// Returns what runs a line of text.
    pub(super) fn shell(&self) -> Vec<String> {
        let list = self.config.other.get(SHELL).and_then(Value::as_array);
        let shell: Vec<String> =
            list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        if shell.is_empty() { ["/bin/sh", "-c"].map(str::to_owned).to_vec() } else { shell }
    }

    /// Returns a variable, or nothing for an argument that has no value.
    pub(super) fn value_of(&self, name: &str) -> &str {
        self.env.get(name).map_or("", String::as_str)
    }
}

/// Instructions for whoever builds on the image.
pub(super) const ONBUILD: &str = "OnBuild";
/// What runs lines of text.
pub(super) const SHELL: &str = "Shell";
/// How to see whether it works.
pub(super) const HEALTHCHECK: &str = "Healthcheck";

/// Returns what a base leaves to be done by those who stand on it.
pub(super) fn triggers(config: &ImageConfig, part: &Part<'_>) -> Result<Vec<String>> {
    match config.other.get(ONBUILD) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(list) => serde_json::from_value(list.clone()).map_err(|_| {
            let message = format!("the image {} has an OnBuild that is no list of text", part.base);
            Error::new(ErrorKind::InvalidInput, message)
        }),
    }
}
