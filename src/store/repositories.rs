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
//!
//! | file | what it is for |
//! |---|---|
//! | `meaning` | what a tag means, since images of the store have names too |
//! | `names` | what repositories and tags may be called |
//! | `sweep` | what repositories keep, and what goes out of them by itself |

use std::fs::{self, File};
use std::io::ErrorKind as IoKind;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use rootling_backends::{Context, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::files::{self, Durability};
use super::lock::{self, Mode};
use super::{Blobs, Store, fault};
use crate::image::{DOCUMENT_MAX, Descriptor, Digest, Document, Parsed};

mod meaning;
mod names;
mod sweep;

pub use meaning::{PushedTag, Tagged};
use names::{NAME_MAX, is_repository};
pub use names::{canonical, is_tag, repository_of};

/// From which age on a blob that was asked for is as young as a new one.
const OLD_BLOB: Duration = Duration::from_secs(24 * 3600);

/// Bytes in the largest file about a manifest: a manifest of 4 MiB may name many blobs.
const PUSHED_MAX: u64 = 16 << 20;

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
        let removed = files::remove_if_exists(&mark)?;
        if removed {
            files::sync_parent(&mark)?;
        }
        Ok(removed)
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
}

/// Returns what a document says that it is about.
fn subject(document: &Document) -> Option<Digest> {
    let subject = match &document.parsed {
        Parsed::Manifest(manifest) => &manifest.subject,
        Parsed::Index(index) => &index.subject,
    };
    subject.as_ref().map(|subject| subject.digest.clone())
}
