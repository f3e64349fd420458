//! Images that a build stands on: found in the store, or pulled.

use std::collections::BTreeMap;

use rootling_backends::{ErrorKind, Result};

use super::super::places::{self, RegistryFlags};
use super::super::pull::{self, PullFlags, When};
use super::super::{Context, store};
use crate::build::plan::{Base, Bases};
use crate::image::{Configuration, DOCUMENT_MAX, Platform};
use crate::reference::Place;
use crate::store::{Name, Node, State, Store};

/// Looks images up, each once.
pub(super) struct Images<'a> {
    pub(super) context: &'a Context,
    pub(super) store: &'a Store,
    pub(super) when: When,
    /// Contexts that are no directories of files.
    pub(super) contexts: &'a BTreeMap<String, Node>,
    pub(super) found: BTreeMap<(String, String), Node>,
}

impl Images<'_> {
    /// Returns the node that a text means, pulled if it is to be.
    pub(super) fn find(&mut self, text: &str, platform: &Platform) -> Result<Node> {
        let key = (text.to_owned(), platform.to_string());
        if let Some(node) = self.found.get(&key) {
            return Ok(node.clone());
        }
        let node = self.look(text, platform)?;
        // What stands on a box stands on its present state.
        let node = match node.record.state {
            State::Active => self.store.line_of(&node)?.end.clone(),
            State::Committed => node,
        };
        self.found.insert(key, node.clone());
        Ok(node)
    }

    fn look(&self, text: &str, platform: &Platform) -> Result<Node> {
        // What is in a file has no name here that it could be found by; what of it is here already is not unpacked again.
        let is_file = Place::parse(text)?.is_some_and(|place| !matches!(place, Place::Registry(_)));
        let there = match self.when {
            _ if is_file => None,
            When::Always => None,
            When::Missing | When::Never => match self.there(text, platform) {
                Ok(node) => Some(node),
                Err(error) if error.kind() == ErrorKind::NotFound && self.when == When::Missing => None,
                Err(error) => return Err(error),
            },
        };
        if let Some(node) = there.filter(|node| fits(node, platform)) {
            return Ok(node);
        }
        let place = places::outside(self.context, text)?;
        let flags = PullFlags::of(Some(platform.clone()), RegistryFlags::default());
        self.context.output.say(format!("pulling {place}"));
        let name = match &place {
            Place::Registry(reference) => foreign_name(&reference.default_name(), platform)?,
            _ => None,
        };
        let pulled = pull::fetch(self.context, self.store, &place, name, &flags);
        match pulled {
            Ok(pulled) => Ok(pulled.image.node),
            // What was made here has no place that it could be pulled from.
            Err(error) if self.when == When::Always => match self.there(text, platform) {
                Ok(node) if node.record.image.is_none() => Ok(node),
                _ => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// Returns what is in the store: for another platform than the machine's under a name of its own first.
    fn there(&self, text: &str, platform: &Platform) -> Result<Node> {
        if let Ok(Place::Registry(reference)) = places::outside(self.context, text)
            && let Some(name) = foreign_name(&reference.default_name(), platform)?
            && let Some(node) = self.store.named(&name)?
        {
            return Ok(node);
        }
        store::find(self.store, text)
    }
}

/// Returns what an image for another platform than the machine's is called, so that it does not take the place of the machine's.
fn foreign_name(name: &str, platform: &Platform) -> Result<Option<Name>> {
    let host = Platform::host();
    if (&host.os, &host.architecture) == (&platform.os, &platform.architecture) {
        return Ok(None);
    }
    Name::parse(&format!("{name}-{}", platform.to_string().replace('/', "-"))).map(Some)
}

/// Is it for that platform, as far as it says?
fn fits(node: &Node, platform: &Platform) -> bool {
    let image = node.record.image.as_ref().and_then(|image| image.platform.as_ref());
    let built = node.record.built.as_ref().and_then(|built| built.platform.as_ref());
    image.or(built).is_none_or(|is| (&is.os, &is.architecture) == (&platform.os, &platform.architecture))
}

/// Returns what a node says of itself.
fn said(store: &Store, node: &Node) -> Result<Base> {
    let record = &node.record;
    let mut base = Base { config: record.config.clone(), ..Base::default() };
    if let Some(image) = &record.image {
        let configuration = Configuration::parse(&store.read_blob(&image.config, DOCUMENT_MAX)?)?;
        base.platform = image.platform.clone();
        base.author = configuration.author;
    } else if let Some(built) = &record.built {
        base.platform = built.platform.clone();
        base.author = built.author.clone().unwrap_or_default();
    }
    Ok(base)
}

impl Bases for Images<'_> {
    fn image(&mut self, image: &str, platform: &Platform) -> Result<Base> {
        let node = self.find(image, platform)?;
        said(self.store, &node)
    }

    fn context(&mut self, name: &str, _platform: &Platform) -> Result<Base> {
        self.contexts.get(name).map_or_else(|| Ok(Base::default()), |node| said(self.store, node))
    }
}
