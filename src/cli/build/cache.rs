//! Steps that were done elsewhere and came with an image: `--cache-from`.

use rootling_backends::Result;

use super::super::places::{self, RegistryFlags};
use super::super::pull::{self, PullFlags};
use super::maker::Maker;
use crate::image::{Configuration, DOCUMENT_MAX, Digest, Document, ImageConfig, annotations};
use crate::store::{Node, StepRecord};

impl Maker<'_> {
    /// Pulls an image, and lets its layers be found as the steps that they say they are. That it is not there, or that it says nothing, is no
    /// error: the steps are done here then.
    pub(super) fn take_steps_of(&self, image: &str) {
        match self.steps_of(image) {
            Ok(0) => self.context.output.say(format!("rootling: {image} says of no layer which step it is")),
            Ok(_) => {}
            Err(error) => {
                self.context.output.error(&error.context(format!("no steps are taken of {image}")));
            }
        }
    }

    /// Returns how many steps it brought, or had brought before.
    fn steps_of(&self, image: &str) -> Result<usize> {
        let (context, store) = (self.context, self.store);
        let place = places::outside(context, image)?;
        let flags = PullFlags::of(self.arguments.platform.clone(), RegistryFlags::default());
        let pulled = pull::fetch(context, store, &place, None, &flags)?.image.node;
        let Some(image) = &pulled.record.image else { return Ok(0) };
        let configuration = Configuration::parse(&store.read_blob(&image.config, DOCUMENT_MAX)?)?;
        let bytes = store.read_blob(&image.manifest, DOCUMENT_MAX)?;
        let manifest = Document::parse_with_digest(bytes, &image.manifest, Some(&image.media_type))?;
        let Some(manifest) = manifest.manifest() else { return Ok(0) };
        let (mut over, mut count): (Option<Node>, usize) = (None, 0);
        for (layer, chain) in manifest.layers.iter().zip(configuration.chain_ids()) {
            let Some(node) = store.chain_node(&chain)? else { break };
            let key = layer.annotation(annotations::STEP_KEY).and_then(|key| Digest::parse(key).ok());
            over = Some(match key {
                Some(key) => {
                    count += 1;
                    match store.step(&key)? {
                        Some(known) => known,
                        None => {
                            let shown = layer.annotation(annotations::STEP_SHOWN).unwrap_or("a layer");
                            let step = came(key, shown, count);
                            store.take_step(&node, over.as_ref(), step, ImageConfig::default())?
                        }
                    }
                }
                None => node,
            });
        }
        store.settle_steps()?;
        Ok(count)
    }
}

/// What is said of a step that came as a layer.
fn came(key: Digest, shown: &str, number: usize) -> StepRecord {
    StepRecord {
        key,
        recipe: None,
        stage: "pulled".to_owned(),
        number: u32::try_from(number).unwrap_or(u32::MAX),
        shown: shown.to_owned(),
        fields: Vec::new(),
        flags: Default::default(),
        failure: None,
        adopted: false,
        took_ms: 0,
    }
}
