//! Repositories: what clients pushed to a store that is served as a registry, and what it fetched for them.
//!
//! What was pushed is not unpacked: it is blobs, and small files that say which repository has them under which name. Who runs an image that
//! is here has it unpacked first ([`materialize`](Store::materialize)), and from then on it is a node like any other.
//!
//! ```text
//! refs/<repository>/                      `/` in its name is written %2F
//!     manifests/<algorithm>:<hex>         what is said of a manifest beside its bytes, which are a blob: the commit point of a push
//!     tags/<tag>                          a symbolic link ../manifests/<algorithm>:<hex>
//!     blobs/<algorithm>:<hex>             empty: the repository has this blob
//!     referrers/<subject>/<digest>        an empty file: that manifest may say that it is about this one
//! ```
//!
//! Whoever changes a repository holds the store's lock, shared, and its directory's, alone. A tag that leads to no manifest is none, and a
//! referrer without a manifest is none. A blob that no manifest names is kept for a week: the manifest may be on its way.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::ErrorKind as IoKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use rootling_backends::{Context, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::files::{self, Durability};
use super::lock::{self, Mode};
use super::{Blobs, ImageParts, Name, Node, Store, Supply, fault};
use crate::image::{DOCUMENT_MAX, Descriptor, Digest, Document, ImageReference, Parsed, Platform};

/// How long a blob stays that no manifest names.
const KEPT_BLOB: Duration = Duration::from_secs(7 * 24 * 3600);

/// From which age on a blob that was asked for is as young as a new one.
const OLD_BLOB: Duration = Duration::from_secs(24 * 3600);

/// Bytes in the largest file about a manifest: a manifest of 4 MiB may name many blobs.
const PUSHED_MAX: u64 = 16 << 20;

/// Bytes in the longest name of a repository, and in the longest that one becomes as the name of a directory.
const NAME_MAX: usize = 255;

/// What is said of a manifest beside its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pushed {
    /// What it is, as whoever pushed it said.
    pub media_type: String,
    /// When it came.
    pub pushed: Timestamp,
    /// What it names and the store has to keep: blobs, or manifests. Of an index that was fetched, some may be missing.
    pub keeps: Vec<Kept>,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Digest>,
    /// Where it was fetched from; missing if it was pushed here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Was it made here, of a box or a tree? Then it can be made again, and goes after a week without a tag.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub made: bool,
}

/// One thing that a manifest names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// A manifest that gets names.
#[derive(Debug, Clone, Copy)]
pub struct Push<'p> {
    /// The manifest.
    pub document: &'p Document,
    /// What it is, as it is said beside it.
    pub media_type: &'p str,
    /// The tags that lead to it from now on.
    pub tags: &'p [&'p str],
    /// Where it was fetched from, if it was not pushed.
    pub from: Option<&'p str>,
    /// Was it made here?
    pub made: bool,
}

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

/// One repository. It is not there before something is in it.
#[derive(Debug, Clone)]
pub struct Repository<'a> {
    store: &'a Store,
    name: String,
    directory: PathBuf,
}

impl Store {
    fn refs_dir(&self) -> PathBuf {
        self.root.join("refs")
    }

    /// Returns the names of the repositories that something was pushed to, sorted.
    pub fn repositories(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> =
            files::list(&self.refs_dir())?.into_iter().map(|name| name.replace("%2F", "/")).collect();
        names.retain(|name| is_repository(name));
        names.sort_unstable();
        Ok(names)
    }

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
            if self.named(&name)?.is_some_and(|node| node.record.image.is_some()) {
                found.push(repository.to_owned());
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Returns a repository; whether it is there shows when it is asked. A name that no repository may have is an error of kind
    /// `InvalidInput`.
    pub fn repository(&self, name: &str) -> Result<Repository<'_>> {
        let encoded = name.replace('/', "%2F");
        if !is_repository(name) || encoded.len() > NAME_MAX {
            let shown: String = name.chars().take(NAME_MAX).collect();
            return Err(Error::new(ErrorKind::InvalidInput, format!("{shown:?} is no name of a repository"))
                .hint("use lower case letters and digits, with single . _ - or / between them"));
        }
        Ok(Repository { store: self, name: name.to_owned(), directory: self.refs_dir().join(encoded) })
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

    /// Returns all blobs that repositories keep. One file that cannot be read is an error: it may keep any of them.
    pub(super) fn pushed_blobs(&self) -> Result<HashSet<Digest>> {
        let mut kept = HashSet::new();
        for name in self.repositories()? {
            let repository = self.repository(&name)?;
            kept.extend(repository.listed("blobs")?);
            for digest in repository.manifests()? {
                kept.extend(
                    repository
                        .manifest(&digest)?
                        .into_iter()
                        .flat_map(|pushed| pushed.keeps)
                        .map(|kept| kept.digest),
                );
                kept.insert(digest);
            }
        }
        Ok(kept)
    }

    /// Forgets blobs that no manifest named for a week, what leads to no manifest, and repositories with nothing in them. The caller holds the
    /// store alone.
    pub(super) fn tidy_repositories(&self) -> Result<()> {
        for name in self.repositories()? {
            self.repository(&name)?.tidy()?;
        }
        Ok(())
    }
}

/// Returns the repository of the store that has an image's tags: that of its familiar name.
pub fn repository_of(reference: &ImageReference) -> String {
    canonical(&reference.repository()).to_owned()
}

/// Returns what a repository is called here: Docker Hub's have no host, and its official images no `library/`.
pub fn canonical(name: &str) -> &str {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    name.strip_prefix("library/").filter(|rest| !rest.contains('/')).unwrap_or(name)
}

impl<'a> Repository<'a> {
    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Is there anything in it?
    pub fn exists(&self) -> bool {
        self.directory.is_dir()
    }

    // ------------------------------------------------------------ looking

    /// Returns its tags, sorted. O(tags).
    pub fn tags(&self) -> Result<Vec<String>> {
        let mut tags = files::list(&self.directory.join("tags"))?;
        tags.retain(|tag| is_tag(tag) && self.tag(tag).is_ok_and(|found| found.is_some()));
        Ok(tags)
    }

    /// Returns the manifest that a tag leads to, and since when it does.
    pub fn tag(&self, tag: &str) -> Result<Option<(Digest, SystemTime)>> {
        if !is_tag(tag) {
            return Ok(None);
        }
        let link = self.directory.join("tags").join(tag);
        let target = match fs::read_link(&link) {
            Ok(target) => target,
            Err(error) if error.kind() == IoKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(format!("readlink({link:?})"), error)),
        };
        let digest = target.file_name().and_then(|name| name.to_str()).map(Digest::parse);
        let digest = digest.transpose().context(|| format!("read tag {tag} of {}", self.name))?;
        let since =
            fs::symlink_metadata(&link).and_then(|link| link.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        let is_there = digest.as_ref().is_some_and(|digest| self.manifest_file(digest).is_file());
        Ok(digest.filter(|_| is_there).map(|digest| (digest, since)))
    }

    /// Returns the digests of its manifests and indexes, sorted. O(manifests).
    pub fn manifests(&self) -> Result<Vec<Digest>> {
        self.listed("manifests")
    }

    /// Returns what is said of a manifest; `None` where the repository has none of that digest.
    pub fn manifest(&self, digest: &Digest) -> Result<Option<Pushed>> {
        let path = self.manifest_file(digest);
        let bytes = match files::read(&path, PUSHED_MAX) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            bytes => bytes?,
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Error::new(ErrorKind::Corrupt, format!("{path:?} is damaged: {error}"))
                .hint("push the image again")
        })
    }

    /// Returns a manifest of the repository, verified.
    pub fn document(&self, digest: &Digest) -> Result<Document> {
        let pushed = self.manifest(digest)?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("{} has no manifest {digest}", self.name))
        })?;
        let bytes = self.store.read_blob(digest, DOCUMENT_MAX)?;
        Document::parse_with_digest(bytes, digest, Some(&pushed.media_type))
    }

    /// Returns the length of a blob that the repository has. Who asks may be about to name it: it stays for another week.
    pub fn blob(&self, digest: &Digest) -> Result<Option<u64>> {
        let mark = self.blob_mark(digest);
        let Ok(found) = fs::symlink_metadata(&mark) else { return Ok(None) };
        if found.modified().is_ok_and(|then| then.elapsed().is_ok_and(|age| age > OLD_BLOB)) {
            // Best effort: a store that is only read has no sweep.
            drop(
                File::options().write(true).open(&mark).and_then(|file| file.set_modified(SystemTime::now())),
            );
        }
        self.store.blob_size(digest)
    }

    /// Does a manifest of the repository name this blob? O(manifests).
    pub fn manifest_that_needs(&self, blob: &Digest) -> Result<Option<Digest>> {
        for digest in self.manifests()? {
            let pushed = self.manifest(&digest)?;
            if pushed.is_some_and(|pushed| pushed.keeps.iter().any(|kept| kept.digest == *blob)) {
                return Ok(Some(digest));
            }
        }
        Ok(None)
    }

    /// Returns the manifests that say that they are about `subject`, which need not be there.
    pub fn referrers(&self, subject: &Digest) -> Result<Vec<Digest>> {
        let mut referrers = self.listed(&format!("referrers/{subject}"))?;
        referrers.retain(|digest| {
            self.manifest(digest)
                .is_ok_and(|pushed| pushed.is_some_and(|pushed| pushed.subject.as_ref() == Some(subject)))
        });
        Ok(referrers)
    }

    // ------------------------------------------------------------ images of the store

    /// Returns the images of the store that are called as the repository is, with their tags, sorted. O(names of the store).
    pub fn images(&self) -> Result<Vec<(String, Node)>> {
        let mut images = Vec::new();
        for name in self.store.names()?.into_keys() {
            let Some(tag) = self.tag_of(&name) else { continue };
            let node = self.store.named(&name)?.filter(|node| node.record.image.is_some());
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
            let Some(node) = self.store.named(&name)?.filter(|node| node.record.image.is_some()) else {
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
            if let Some(node) = self.store.named(&name)?.filter(|node| node.record.image.is_none()) {
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

    // ------------------------------------------------------------ changing

    /// Notes that the repository has a blob, which is there. Durable on return; a second call makes it young.
    pub fn add_blob(&self, digest: &Digest) -> Result<()> {
        let _lock = self.store.share_to_write()?;
        let _change = self.change()?;
        let mark = self.blob_mark(digest);
        self.make_dir("blobs")?;
        let file = File::options().write(true).create(true).truncate(true).open(&mark);
        let file = file.context(|| format!("open({mark:?}, O_CREAT)"))?;
        file.set_modified(SystemTime::now()).context(|| format!("futimens({mark:?})"))?;
        fault::point("push.blob");
        files::sync_parent(&mark)
    }

    /// Forgets that the repository has a blob; says whether it had. Its bytes go with the sweep, unless another needs them.
    pub fn remove_blob(&self, digest: &Digest) -> Result<bool> {
        let _lock = self.store.share_to_write()?;
        if !self.exists() {
            return Ok(false);
        }
        let _change = self.change()?;
        let mark = self.blob_mark(digest);
        Ok(files::remove_if_exists(&mark)? && files::sync_parent(&mark).is_ok())
    }

    /// Takes in a manifest and gives it its tags, one after the other. Whether all that it names is here, the caller has looked.
    ///
    /// Durable on return. A kill leaves it without some of its tags, or a blob that nothing needs.
    pub fn put(&self, blobs: &Blobs<'_>, push: &Push<'_>) -> Result<()> {
        let Push { document, media_type, tags, from, made } = push;
        let digest = &document.digest;
        blobs.put(
            document.bytes.as_slice(),
            Some((digest, document.bytes.len() as u64)),
            Durability::Synced,
        )?;
        fault::point("push.document");
        let _lock = self.store.share_to_write()?;
        let _change = self.change()?;
        let subject = subject(document);
        if let Some(subject) = &subject {
            let about = format!("referrers/{subject}");
            self.make_dir("referrers")?;
            self.make_dir(&about)?;
            let mark = self.directory.join(about).join(digest.to_string());
            File::create(&mark).context(|| format!("open({mark:?}, O_CREAT)"))?;
            files::sync_parent(&mark)?;
        }
        self.make_dir("manifests")?;
        let keeps = document.children().into_iter();
        let pushed = Pushed {
            media_type: (*media_type).to_owned(),
            pushed: Timestamp::now(),
            keeps: keeps
                .map(|Descriptor { digest, size, .. }| Kept { digest: digest.clone(), size: *size })
                .collect(),
            subject,
            from: from.map(str::to_owned),
            made: *made,
        };
        let text = serde_json::to_vec(&pushed).expect("it has text for keys");
        files::replace(&self.manifest_file(digest), &text, Durability::Synced)?;
        fault::point("push.manifest");
        if tags.is_empty() {
            return Ok(());
        }
        self.make_dir("tags")?;
        for tag in *tags {
            files::link_over(&format!("../manifests/{digest}"), &self.directory.join("tags").join(tag))?;
            fault::point("push.tag");
        }
        files::sync_dir(&self.directory.join("tags"))
    }

    /// Removes a tag; says whether it was there. What it led to stays, to be found by its digest.
    pub fn untag(&self, tag: &str) -> Result<bool> {
        let _lock = self.store.share_to_write()?;
        if !self.exists() || self.tag(tag)?.is_none() {
            return Ok(false);
        }
        let _change = self.change()?;
        let removed = files::remove_if_exists(&self.directory.join("tags").join(tag))?;
        files::sync_dir(&self.directory.join("tags"))?;
        Ok(removed)
    }

    /// Removes a manifest with the tags that lead to it; says whether it was there.
    ///
    /// Durable on return. A kill leaves it, or tags that lead to nothing, which are none.
    pub fn remove_manifest(&self, digest: &Digest) -> Result<bool> {
        let _lock = self.store.share_to_write()?;
        if !self.exists() {
            return Ok(false);
        }
        let _change = self.change()?;
        let tags = self.tags()?;
        if !files::remove_if_exists(&self.manifest_file(digest))? {
            return Ok(false);
        }
        fault::point("unpush.manifest");
        files::sync_dir(&self.directory.join("manifests"))?;
        for tag in tags {
            let link = self.directory.join("tags").join(tag);
            let leads_there = fs::read_link(&link).is_ok_and(|target| {
                target.file_name().is_some_and(|name| name == digest.to_string().as_str())
            });
            if leads_there {
                files::remove_if_exists(&link)?;
            }
        }
        Ok(true)
    }

    // ------------------------------------------------------------ files

    fn manifest_file(&self, digest: &Digest) -> PathBuf {
        self.directory.join("manifests").join(digest.to_string())
    }

    fn blob_mark(&self, digest: &Digest) -> PathBuf {
        self.directory.join("blobs").join(digest.to_string())
    }

    fn listed(&self, directory: &str) -> Result<Vec<Digest>> {
        let names = files::list(&self.directory.join(directory))?;
        Ok(names.iter().filter_map(|name| Digest::parse(name).ok()).collect())
    }

    /// Makes the repository, and keeps others from changing it. The caller holds the store's lock.
    fn change(&self) -> Result<File> {
        let refs = self.store.refs_dir();
        if !self.exists() {
            files::make_dir(&refs)?;
            files::make_dir(&self.directory)?;
            files::sync_dir(&refs)?;
            files::sync_parent(&refs)?;
        }
        lock::lock_dir(&self.directory, Mode::Exclusive, &format!("repository {}", self.name))
    }

    fn make_dir(&self, below: &str) -> Result<()> {
        let directory = self.directory.join(below);
        if directory.is_dir() {
            return Ok(());
        }
        files::make_dir(&directory)?;
        files::sync_parent(&directory)
    }

    fn tidy(&self) -> Result<()> {
        let tags = self.tags()?.into_iter().filter_map(|tag| self.tag(&tag).ok().flatten());
        let tagged: HashSet<Digest> = tags.map(|(digest, _)| digest).collect();
        for digest in self.manifests()?.into_iter().filter(|digest| !tagged.contains(digest)) {
            let path = self.manifest_file(&digest);
            if is_older(&path, KEPT_BLOB)
                && self.manifest(&digest).is_ok_and(|found| found.is_some_and(|found| found.made))
            {
                files::remove_if_exists(&path)?;
            }
        }
        let mut needed = HashSet::new();
        for digest in self.manifests()? {
            // One that is damaged may need any.
            let Ok(Some(pushed)) = self.manifest(&digest) else { return Ok(()) };
            needed.extend(pushed.keeps.into_iter().map(|kept| kept.digest));
        }
        for digest in self.listed("blobs")?.into_iter().filter(|digest| !needed.contains(digest)) {
            let mark = self.blob_mark(&digest);
            if is_older(&mark, KEPT_BLOB) {
                files::remove_if_exists(&mark)?;
            }
        }
        for name in files::list(&self.directory.join("tags"))? {
            if self.tag(&name).is_ok_and(|found| found.is_none()) {
                files::remove_if_exists(&self.directory.join("tags").join(name))?;
            }
        }
        for name in files::list_where(&self.directory.join("manifests"), files::is_leftover)? {
            files::remove_if_exists(&self.directory.join("manifests").join(name))?;
        }
        for subject in files::list(&self.directory.join("referrers"))? {
            let about = self.directory.join("referrers").join(&subject);
            for digest in self.listed(&format!("referrers/{subject}"))? {
                if !self.manifest_file(&digest).is_file() {
                    files::remove_if_exists(&about.join(digest.to_string()))?;
                }
            }
            remove_if_empty(&about);
        }
        for below in ["manifests", "tags", "blobs", "referrers"] {
            remove_if_empty(&self.directory.join(below));
        }
        remove_if_empty(&self.directory);
        Ok(())
    }
}

/// Returns what a document says that it is about.
fn subject(document: &Document) -> Option<Digest> {
    let subject = match &document.parsed {
        Parsed::Manifest(manifest) => &manifest.subject,
        Parsed::Index(index) => &index.subject,
    };
    subject.as_ref().map(|subject| subject.digest.clone())
}

fn is_older(path: &Path, age: Duration) -> bool {
    let touched = fs::symlink_metadata(path).and_then(|found| found.modified());
    touched.is_ok_and(|touched| touched.elapsed().is_ok_and(|since| since > age))
}

fn remove_if_empty(directory: &Path) {
    // Best effort: one that is not empty stays, and an empty one harms nobody.
    drop(fs::remove_dir(directory));
}

/// May a repository be called that? As the [specification](https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests)
/// has it: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, and again behind each `/`.
fn is_repository(name: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_part = |part: &str| {
        let bytes = part.as_bytes();
        let ends = [bytes.first(), bytes.last()];
        let separators =
            part.split(|c: char| u8::try_from(c).is_ok_and(is_word)).filter(|text| !text.is_empty());
        ends.iter().all(|end| end.is_some_and(|byte| is_word(*byte))) && { separators }
            .all(|text| matches!(text, "." | "_" | "__") || text.bytes().all(|byte| byte == b'-'))
    };
    name.len() <= NAME_MAX && name.split('/').all(is_part)
}

/// May a tag be called that: up to 128 letters, digits and `_ . -`, not beginning with `.` or `-`?
pub fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_called_as_the_specification_says() {
        for name in ["a", "library/alpine", "a.b/c_d/e__f/g---h", "ghcr.io/x/y", "0"] {
            assert!(is_repository(name), "{name}");
        }
        let names = [
            "", "/", "a/", "/a", "a//b", "..", "a/../b", "A", "a..b", "a___b", "-a", "a-", "a_.b", "a:1",
            "a%2fb", "é", "a b", "a\0",
        ];
        for name in names {
            assert!(!is_repository(name), "{name:?}");
        }
        assert!(!is_repository(&"a".repeat(256)));
    }

    #[test]
    fn tags_are_called_as_the_specification_says() {
        assert!(["latest", "_1", "1.2-x", "V3"].iter().all(|tag| is_tag(tag)));
        assert!(["", ".", "..", "-x", ".x", "a/b", "a:b", "a~", "a b"].iter().all(|tag| !is_tag(tag)));
        assert!(!is_tag(&"a".repeat(129)));
    }

    #[test]
    fn the_hub_has_no_host_here() {
        assert_eq!(canonical("docker.io/library/alpine"), "alpine");
        assert_eq!(canonical("library/alpine"), "alpine");
        assert_eq!(canonical("library/a/b"), "library/a/b");
        assert_eq!(canonical("ghcr.io/library"), "ghcr.io/library");
    }
}
