//! The end of a build: an image with its names, sent where it is to go; or a step that failed.

use std::collections::BTreeMap;

use rootling_backends::{Context as _, Result};
use serde::Serialize;

use super::super::output::Format;
use super::super::places::PackFlags;
use super::super::store;
use super::flags::{LayersChoice, OnError, tag};
use super::maker::Maker;
use super::{Ended, outputs};
use crate::build::execute::{Failed, Made};
use crate::build::plan::Plan;
use crate::build::result::{self, Destination, ImageOptions, Layers, Output};
use crate::build::run::Stop;
use crate::image::Digest;
use crate::store::{Name, Node};
use crate::transfer::making;

impl Maker<'_> {
    /// Makes what was built an image, and sends it where it is to go.
    pub(super) fn finish(&self, plan: &Plan, made: &Made, recipe: &str) -> Result<Ended> {
        let (context, arguments, store) = (self.context, self.arguments, self.store);
        let mut annotations: BTreeMap<String, String> = arguments.annotation.iter().cloned().collect();
        annotations.extend(arguments.output.iter().flat_map(|output| output.annotations.clone()));
        let layers = match (arguments.squash, arguments.layers) {
            (true, _) | (_, LayersChoice::BaseAndOne) => Layers::BaseAndOne,
            (_, LayersChoice::Steps) => Layers::Steps,
            (_, LayersChoice::One) => Layers::One,
            (_, LayersChoice::Marked) => Layers::Marked,
        };
        let options = ImageOptions {
            layers,
            annotations,
            recipe: Some(recipe.to_owned()),
            carries_keys: arguments.cache_to.is_some(),
        };
        let image = result::image(store, plan, &made.line, made.base.node.as_ref(), &options)?;
        let mut names = arguments.tag.clone();
        for output in &arguments.output {
            if let Destination::Image { names: more, .. } = &output.destination {
                names.extend(more.iter().map(|name| tag(name)).collect::<Result<Vec<_>>>()?);
            }
        }
        let node = store.publish_built(image.top.as_ref(), &names, image.config, image.built)?;
        store::remember(store, &node);
        self.write_files(&node, &names)?;
        if (arguments.resume || arguments.adopt.is_some()) && !made.used_instead {
            let what = "the step that failed last was not to be done in this build: nothing was taken of it";
            context.output.say(what);
        }
        let known = if made.done == 0 { "all of it was there".to_owned() } else { steps(made) };
        match names.first() {
            _ if self.quietly && made.done == 0 => {}
            Some(name) => context.output.say(format!("built {name}: {known}")),
            None => context.output.say(format!("built {}: {known}", node.id)),
        }
        outputs::send_all(context, store, &node, &arguments.output, self.loading)?;
        if arguments.push {
            let names: Vec<String> = arguments.tag.iter().map(Name::to_string).collect();
            outputs::push_all(context, store, &node, &names, &PackFlags::usual()?)?;
        }
        if !self.quietly && !arguments.output.iter().any(Output::is_stdout) {
            self.print(&node, &names, made);
        }
        Ok(Ended { code: 0, node: Some(Box::new(node)) })
    }

    fn print(&self, node: &Node, names: &[Name], made: &Made) {
        let output = self.context.output;
        if output.format == Format::Json {
            output.line(&Row {
                event: "built",
                id: node.id.as_str(),
                names: names.iter().map(Name::as_str).collect(),
                cached: made.cached,
                done: made.done,
            });
        } else {
            output.raw(format!("{}\n", node.id).as_bytes());
        }
    }

    /// Writes what `--iidfile` and `--metadata-file` ask for; for digests the layers have to be made.
    fn write_files(&self, node: &Node, names: &[Name]) -> Result<()> {
        let arguments = self.arguments;
        if arguments.iidfile.is_none() && arguments.metadata_file.is_none() {
            return Ok(());
        }
        let blobs = self.store.blobs()?;
        let line = self.store.line_of(node)?;
        let made = making::make(&blobs, &line, &PackFlags::usual()?, &|_| {})?;
        if let Some(path) = &arguments.iidfile {
            let id = Digest::sha256_of(&made.config).to_string();
            std::fs::write(path, id).context(|| format!("write({path:?})"))?;
        }
        if let Some(path) = &arguments.metadata_file {
            let names: Vec<String> = names.iter().map(Name::to_string).collect();
            let said = result::metadata(&made, &names);
            let text = serde_json::to_string_pretty(&said).expect("it has text for keys");
            std::fs::write(path, format!("{text}\n")).context(|| format!("write({path:?})"))?;
        }
        Ok(())
    }

    pub(super) fn failed(&self, failed: Failed, stop: &Stop) -> Result<Ended> {
        if let Some(signal) = stop.signal() {
            self.context.output.say("rootling: the build was ended; what was done of it is there");
            return Ok(Ended::with(128 + signal));
        }
        let error = failed.error.context("build");
        let Some(left) = failed.left else { return Err(error) };
        let error = error.hint(format!("enter it: rootling enter @fail ({})", left.id));
        if self.arguments.on_error == Some(OnError::Shell) {
            self.context.output.error(&error);
            return self.shell().map(Ended::with);
        }
        Err(error)
    }

    /// Opens a shell in what a step left.
    fn shell(&self) -> Result<i32> {
        let mut program = std::process::Command::new("/proc/self/exe");
        program.arg("--root").arg(self.context.store_path()?).args(["enter", "@fail"]);
        if let Some((name, value)) = self.context.as_entered() {
            program.env(name, value);
        }
        let status = program.status().context(|| "execute \"/proc/self/exe\"")?;
        Ok(if status.success() { 1 } else { status.code().unwrap_or(1) })
    }
}

/// What is printed of an image that was built.
#[derive(Debug, Serialize)]
struct Row<'a> {
    event: &'static str,
    id: &'a str,
    names: Vec<&'a str>,
    cached: usize,
    done: usize,
}

fn steps(made: &Made) -> String {
    let done = if made.done == 1 { "1 step".to_owned() } else { format!("{} steps", made.done) };
    match made.cached {
        0 => done,
        1 => format!("{done}, 1 was there"),
        cached => format!("{done}, {cached} were there"),
    }
}
