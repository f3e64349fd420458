//! What a tag means: the store has names for its own images, and repositories have tags for what was pushed.

use std::fs;
use std::time::SystemTime;

use jiff::Timestamp;
use rootling_backends::{Context, Error, ErrorKind, Result};

use super::Repository;
use super::names::{is_repository, is_tag, repository_of};
use crate::image::{DOCUMENT_MAX, Digest, ImageReference, Parsed, Platform};
use crate::store::{ImageParts, Name, Node, Store, Supply};

/// What a tag means: what was pushed, or an image of the store that is called so. Of both the one that had the name later counts.
#[derive(Debug, Clone)]
pub enum Tagged {
    /// What was pushed. An image of the store that was made of it is the same.
    Pushed(Digest),
    /// An image of the store.
    Image(Box<Node>),
}

/// A tag that was pushed, and is no node.
#[derive(Debug, Clone)]
pub struct PushedTag {
    /// The repository and the tag.
    pub name: String,
    /// What it leads to.
    pub digest: Digest,
    /// When that came.
    pub pushed: Timestamp,
    /// Bytes of what it names.
    pub blob_bytes: u64,
}

impl Store {
    /// Returns the repositories that images of the store are in by their names, sorted. O(names).
    pub fn repositories_of_images(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for name in self.names()?.into_keys() {
            let text = name.as_str();
            let repository = match text.rfind(':') {
                Some(colon) if is_tag(&text[colon + 1..]) => &text[..colon],
                _ => text,
            };
            if !is_repository(repository) || found.last().is_some_and(|last| last == repository) {
                continue;
            }
            if self.named(&name)?.is_some_and(|node| node.record.is_image()) {
                found.push(repository.to_owned());
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Makes an image that was pushed here a node, by the name that it has in a store; `None` where nothing of that name was pushed, or
    /// a node of the name counts, since it is the same or came later.
    ///
    /// Of an index it is the image for `platform`. What is unpacked already is not unpacked again. Durable on return; a kill costs what was
    /// unpacked.
    pub fn materialize(&self, reference: &ImageReference, platform: &Platform) -> Result<Option<Node>> {
        let Some((repository, digest)) = self.pushed(reference)? else { return Ok(None) };
        let whole = reference.familiar();
        let intent = || format!("unpack {whole}, which was pushed here");
        let blobs = self.blobs().context(intent)?;
        let mut manifest = repository.document(&digest).context(intent)?;
        let index = match &manifest.parsed {
            Parsed::Manifest(_) => None,
            Parsed::Index(index) => {
                let chosen = index.select(platform).context(intent)?.digest.clone();
                let chosen = repository.document(&chosen).context(intent)?;
                Some(std::mem::replace(&mut manifest, chosen))
            }
        };
        let Parsed::Manifest(parsed) = &manifest.parsed else {
            let message = format!("{digest} is an index of indexes");
            return Err(Error::new(ErrorKind::Unsupported, message).context(intent()));
        };
        let config = self.read_blob(&parsed.config.digest, DOCUMENT_MAX).context(intent)?;
        let parts = ImageParts { config, index, reference: Some(whole.clone()), manifest };
        let name = Name::parse(&reference.default_name())?;
        let added = self.add_image(&blobs, &[name], &parts, &Supply::none()).context(intent)?;
        Ok(Some(added.node))
    }

    /// Returns the repository and the manifest that a reference means, if that was pushed here and no node of the name counts.
    pub fn pushed(&self, reference: &ImageReference) -> Result<Option<(Repository<'_>, Digest)>> {
        // A registry with a port is no repository here.
        let Ok(repository) = self.repository(&repository_of(reference)) else { return Ok(None) };
        if !repository.exists() {
            return Ok(None);
        }
        let digest = match (reference.digest(), reference.tag_or_latest()) {
            (Some(digest), _) => repository.manifest(digest)?.map(|_| digest.clone()),
            (None, tag) => repository.tag_without_node(tag.unwrap_or_default())?,
        };
        Ok(digest.map(|digest| (repository, digest)))
    }

    /// Removes what was pushed by a name: the tag, or with a digest the manifest and all its tags; says whether there was something.
    pub fn unpush(&self, reference: &ImageReference) -> Result<bool> {
        let Ok(repository) = self.repository(&repository_of(reference)) else { return Ok(false) };
        match (reference.digest(), reference.tag_or_latest()) {
            (Some(digest), _) => repository.remove_manifest(digest),
            (None, tag) => repository.untag(tag.unwrap_or_default()),
        }
    }

    /// Returns what was pushed and counts by its name, for lists: not what a node of the name is, or came after. O(tags).
    pub fn pushed_tags(&self) -> Result<Vec<PushedTag>> {
        let mut found = Vec::new();
        for name in self.repositories()? {
            let repository = self.repository(&name)?;
            for tag in repository.tags()? {
                let Some(digest) = repository.tag_without_node(&tag)? else { continue };
                let Some(pushed) = repository.manifest(&digest)? else { continue };
                let blob_bytes = pushed.keeps.iter().map(|kept| kept.size).sum();
                found.push(PushedTag {
                    name: format!("{name}:{tag}"),
                    digest,
                    pushed: pushed.pushed,
                    blob_bytes,
                });
            }
        }
        Ok(found)
    }
}

impl Repository<'_> {
    /// Returns the images of the store that are called as the repository is, with their tags, sorted. O(names of the store).
    pub fn images(&self) -> Result<Vec<(String, Node)>> {
        let mut images = Vec::new();
        for name in self.store.names()?.into_keys() {
            let Some(tag) = self.tag_of(&name) else { continue };
            let node = self.store.named(&name)?.filter(|node| node.record.is_image());
            images.extend(node.map(|node| (tag, node)));
        }
        images.sort_by(|one, other| one.0.cmp(&other.0));
        images.dedup_by(|one, other| one.0 == other.0);
        Ok(images)
    }

    /// Returns the image of the store that is called by this tag, and since when it is.
    pub fn image(&self, tag: &str) -> Result<Option<(Node, SystemTime)>> {
        let plain = (tag == "latest").then(|| self.name.clone());
        for name in std::iter::once(format!("{}:{tag}", self.name)).chain(plain) {
            let Ok(name) = Name::parse(&name) else { continue };
            let Some(node) = self.store.named(&name)?.filter(|node| node.record.is_image()) else {
                continue;
            };
            let since = fs::symlink_metadata(self.store.name_link(&name)).and_then(|link| link.modified());
            return Ok(Some((node, since.unwrap_or(SystemTime::UNIX_EPOCH))));
        }
        Ok(None)
    }

    /// Returns the box, tree or snapshot of the store that has this tag here, if it is no image: `NAME` is `NAME:latest`, `NAME@LABEL` is
    /// `NAME:LABEL`.
    pub fn node(&self, tag: &str) -> Result<Option<Node>> {
        let plain = (tag == "latest").then(|| self.name.clone());
        let names = [format!("{}@{tag}", self.name), format!("{}:{tag}", self.name)];
        for name in names.into_iter().chain(plain) {
            let Ok(name) = Name::parse_with_label(&name) else { continue };
            if let Some(node) = self.store.named(&name)?.filter(|node| !node.record.is_image()) {
                return Ok(Some(node));
            }
        }
        Ok(None)
    }

    /// Returns the tags of the boxes, trees and snapshots of the store that are called as the repository is. O(names of the store).
    pub fn node_tags(&self) -> Result<Vec<String>> {
        let names = self.store.names()?.into_keys();
        let mut tags: Vec<String> = names.filter_map(|name| self.tag_of(&name)).collect();
        if let Ok(name) = Name::parse(&self.name) {
            tags.extend(
                self.store.labels(&name)?.iter().map(ToString::to_string).filter(|label| is_tag(label)),
            );
        }
        Ok(tags)
    }

    /// Returns what a tag means.
    pub fn tagged(&self, tag: &str) -> Result<Option<Tagged>> {
        Ok(match (self.tag(tag)?, self.image(tag)?) {
            (Some((digest, since)), Some((node, named))) => {
                match named > since && !self.is_made_of(&node, &digest)? {
                    true => Some(Tagged::Image(Box::new(node))),
                    false => Some(Tagged::Pushed(digest)),
                }
            }
            (Some((digest, _)), None) => Some(Tagged::Pushed(digest)),
            (None, Some((node, _))) => Some(Tagged::Image(Box::new(node))),
            (None, None) => None,
        })
    }

    /// Is the image what was pushed with this digest, or the one of that index which runs here?
    fn is_made_of(&self, node: &Node, digest: &Digest) -> Result<bool> {
        let Some(image) = &node.record.image else { return Ok(false) };
        if image.manifest == *digest || image.index.as_ref() == Some(digest) {
            return Ok(true);
        }
        let pushed = self.manifest(digest)?;
        Ok(pushed.is_some_and(|pushed| pushed.keeps.iter().any(|kept| kept.digest == image.manifest)))
    }

    /// Returns what was pushed by a tag, where no image of the store is that, or counts instead.
    fn tag_without_node(&self, tag: &str) -> Result<Option<Digest>> {
        let Some(Tagged::Pushed(digest)) = self.tagged(tag)? else { return Ok(None) };
        let image = self.image(tag)?;
        let is_node = image.map(|(node, _)| self.is_made_of(&node, &digest)).transpose()?.unwrap_or(false);
        Ok((!is_node).then_some(digest))
    }

    /// Returns the tag that a name of the store is in this repository.
    fn tag_of(&self, name: &Name) -> Option<String> {
        let rest = name.as_str().strip_prefix(&self.name)?;
        let tag = if rest.is_empty() { "latest" } else { rest.strip_prefix(':')? };
        is_tag(tag).then(|| tag.to_owned())
    }
}
