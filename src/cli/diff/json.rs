//! `diff --json`: each change with what stood there and what stands there now.

use std::borrow::Cow;
use std::os::unix::ffi::OsStrExt;

use rootling_backends::{Aspects, Change, ChangeKind, EntryType, Result};
use serde::Serialize;

use super::ends::Sides;
use super::side::Inode;
use super::{View, patch, stat};

/// One change by itself.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct Brief<'a> {
    /// Bytes that are no UTF-8 are replaced.
    path: Cow<'a, str>,
    /// The path as it is, where it is no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<&'a [u8]>,
    kind: ChangeKind,
    entry_type: EntryType,
    #[serde(skip_serializing_if = "Aspects::is_empty")]
    aspects: Aspects,
}

impl<'a> Brief<'a> {
    pub(in crate::cli) fn of(change: &'a Change) -> Self {
        let Change { path, kind, entry_type, aspects } = change;
        let path = path.as_os_str();
        Self {
            path: path.to_string_lossy(),
            path_bytes: path.to_str().is_none().then(|| path.as_bytes()),
            kind: *kind,
            entry_type: *entry_type,
            aspects: *aspects,
        }
    }
}

/// One change, with both sides.
#[derive(Debug, Serialize)]
pub(super) struct Item<'a> {
    #[serde(flatten)]
    change: Brief<'a>,
    old: Option<Inode>,
    new: Option<Inode>,
    /// For `--stat`: lines added and removed, null for what is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    lines: Option<Option<Lines>>,
    /// For `--content`.
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
}

#[derive(Debug, Serialize)]
struct Lines {
    added: u64,
    removed: u64,
}

pub(super) fn item<'a>(sides: &Sides, change: &'a Change, view: View, context: u32) -> Result<Item<'a>> {
    let inode = |missing_if: ChangeKind, side: &super::side::Side| match change.kind == missing_if {
        true => Ok(None),
        false => side.inode(&change.path),
    };
    let lines = |sides| {
        let counted = stat::lines(sides, change)?;
        Ok::<_, rootling_backends::Error>(counted.map(|(added, removed)| Lines { added, removed }))
    };
    let patch =
        |sides| patch::part(sides, change, context).map(|text| String::from_utf8_lossy(&text).into_owned());
    Ok(Item {
        change: Brief::of(change),
        old: inode(ChangeKind::Added, &sides.old)?,
        new: inode(ChangeKind::Deleted, &sides.new)?,
        lines: (view == View::Stat).then(|| lines(sides)).transpose()?,
        patch: (view == View::Content).then(|| patch(sides)).transpose()?,
    })
}
