//! The links in `held/`: what each key leads to, and which objects are held.
//!
//! ```text
//! held/<hex>     <hex> is the SHA-256 of the key: a key may be any text. Only the last part of a link's target counts
//! ```
//!
//! A record says what its key is, and what it is about to be; the link under which the object is found says which of the two is true.

use std::io::ErrorKind as IoKind;
use std::path::PathBuf;

use rayon::prelude::*;
use rootling_backends::{Context, Error, ErrorKind, Result};

use super::super::{ObjectId, Record, Store, files};
use super::record::Held;
use crate::image::Digest;

/// Returns the file name of a key's link.
pub(super) fn file_name(key: &str) -> String {
    Digest::sha256_of(key.as_bytes()).hex().to_owned()
}

impl Store {
    pub(super) fn held_dir(&self) -> PathBuf {
        self.root.join("held")
    }

    pub(super) fn held_link(&self, key: &str) -> PathBuf {
        self.held_dir().join(file_name(key))
    }

    /// Returns the object that a link leads to; `None` where there is no link.
    pub(super) fn held_target(&self, file_name: &str) -> Result<Option<ObjectId>> {
        let link = self.held_dir().join(file_name);
        match std::fs::read_link(&link) {
            Ok(target) => {
                let id = target.file_name().and_then(|id| id.to_str());
                Ok(id.and_then(|id| ObjectId::parse(id).ok()))
            }
            Err(error) if error.kind() == IoKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(format!("readlink({link:?})"), error)),
        }
    }

    /// Returns the file name of every link in `held/`, and what it leads to. One call for each, in parallel.
    pub(in super::super) fn held_links(&self) -> Result<Vec<(String, ObjectId)>> {
        let names = files::list(&self.held_dir())?.into_par_iter();
        let links = names.filter_map(|name| match self.held_target(&name) {
            Ok(target) => target.map(|id| Ok((name, id))),
            Err(error) => Some(Err(error)),
        });
        links.collect()
    }

    /// Returns what a record says its object is held as, if a link says so too: what it is, or what it was about to become.
    pub(in super::super) fn held_as(&self, id: &ObjectId, record: &Record) -> Result<Option<Held>> {
        let Some(held) = record.held.as_deref() else { return Ok(None) };
        let leads_here = |key: &str| Ok::<_, Error>(self.held_target(&file_name(key))?.as_ref() == Some(id));
        if leads_here(&held.key)? {
            return Ok(Some(Held { becoming: None, ..held.clone() }));
        }
        match &held.becoming {
            Some(becoming) if leads_here(&becoming.name)? => Ok(Some(Held::committed(becoming))),
            _ => Ok(None),
        }
    }

    /// Does another program hold the object? Of one whose record is damaged all links are looked at.
    pub(in super::super) fn is_held(&self, id: &ObjectId) -> Result<bool> {
        // In most stores nothing ever was: then no record is read for it.
        let directory = self.held_dir();
        if !directory.try_exists().context(|| format!("stat({directory:?})"))? {
            return Ok(false);
        }
        match Record::read(&self.object_dir(id)) {
            Ok(record) => Ok(self.held_as(id, &record)?.is_some()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(_) => Ok(self.held_links()?.iter().any(|(_, target)| target == id)),
        }
    }
}
