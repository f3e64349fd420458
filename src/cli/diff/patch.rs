//! `diff --content`: one patch that git and patch(1) can apply, with lines of our own before each part for what these do not know.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rootling_backends::{Change, ChangeKind, EntryType, Result};

use super::super::output;
use super::ends::Sides;
use super::side::{Content, Inode, Side};
use super::text::Compared;

/// Returns the part of the patch that tells one change.
pub(super) fn part(sides: &Sides, change: &Change, context: u32) -> Result<Vec<u8>> {
    let path = &change.path;
    let old = if change.kind == ChangeKind::Added { None } else { sides.old.inode(path)? };
    let new = if change.kind == ChangeKind::Deleted { None } else { sides.new.inode(path)? };
    let mut text = Vec::new();
    match (&old, &new) {
        // As git does: one goes and another comes.
        (Some(before), Some(now)) if before.entry_type != now.entry_type => {
            text.extend(one(sides, path, Some(before), None, context)?);
            text.extend(one(sides, path, None, Some(now), context)?);
        }
        (before, now) => text.extend(one(sides, path, before.as_ref(), now.as_ref(), context)?),
    }
    Ok(text)
}

fn one(
    sides: &Sides,
    path: &Path,
    old: Option<&Inode>,
    new: Option<&Inode>,
    context: u32,
) -> Result<Vec<u8>> {
    let mut text = notes(path, old, new);
    let Some(kind) = new.or(old).map(|inode| inode.entry_type) else { return Ok(text) };
    if !matches!(kind, EntryType::File | EntryType::Symlink) {
        return Ok(text);
    }
    let content = |side: &Side, inode: Option<&Inode>| {
        inode.map_or(Ok(None), |inode| side.content(path, inode).map(Some))
    };
    let (before, now) = (content(&sides.old, old)?, content(&sides.new, new)?);
    let (a, b) = (quoted("a/", path), quoted("b/", path));
    let mode = match (old, new) {
        (None, Some(new)) => format!("new file mode {:06o}\n", mode_of(new)),
        (Some(old), None) => format!("deleted file mode {:06o}\n", mode_of(old)),
        (Some(old), Some(new)) if mode_of(old) != mode_of(new) => {
            format!("old mode {:06o}\nnew mode {:06o}\n", mode_of(old), mode_of(new))
        }
        _ => String::new(),
    };
    let left = if old.is_some() { a.clone() } else { "/dev/null".to_owned() };
    let right = if new.is_some() { b.clone() } else { "/dev/null".to_owned() };
    let body = match (before.unwrap_or(Content::Text(Vec::new())), now.unwrap_or(Content::Text(Vec::new()))) {
        (Content::Text(before), Content::Text(now)) if before == now => Vec::new(),
        (Content::Text(before), Content::Text(now)) => {
            let lines = Compared::new(&before, &now).unified(context);
            [format!("--- {left}\n+++ {right}\n").as_bytes(), &lines].concat()
        }
        _ if sides.is_same_content(path, old, new)? => Vec::new(),
        _ => format!("Binary files {left} and {right} differ\n").into_bytes(),
    };
    if !mode.is_empty() || !body.is_empty() {
        text.extend(format!("diff --git {a} {b}\n{mode}").bytes());
        text.extend(body);
    }
    Ok(text)
}

/// Returns the mode as git writes it: a link has no bits of its own.
fn mode_of(inode: &Inode) -> u32 {
    if inode.entry_type == EntryType::Symlink { 0o120_000 } else { inode.bits }
}

impl Sides {
    /// Have two files that are no text the same bytes, so that only something else of them differs?
    fn is_same_content(&self, path: &Path, old: Option<&Inode>, new: Option<&Inode>) -> Result<bool> {
        use rootling_backends::{DiffOptions, compare};
        if old.is_none() || new.is_none() {
            return Ok(false);
        }
        let (parent, name) = super::ends::split(path);
        let [old, new] = self.roots().map(|root| root.open_deep(parent));
        let aspects = compare::compare_entries((&old?, name), (&new?, name), DiffOptions::default())?;
        Ok(!aspects.content)
    }
}

/// Says what no patch can say, in lines that whoever applies it skips.
fn notes(path: &Path, old: Option<&Inode>, new: Option<&Inode>) -> Vec<u8> {
    let mut said = Vec::new();
    match (old, new) {
        (Some(old), Some(new)) => {
            if (old.uid, old.gid) != (new.uid, new.gid) {
                said.push(format!("owner {}:{} -> {}:{}", old.uid, old.gid, new.uid, new.gid));
            }
            if old.mode != new.mode && !is_in_patch(new) {
                said.push(format!("mode {} -> {}", old.mode, new.mode));
            }
            if old.device != new.device {
                let shown = |inode: &Inode| inode.device.clone().unwrap_or_default();
                said.push(format!("device {} -> {}", shown(old), shown(new)));
            }
            let signed = |sign, these: &Inode, those: &Inode| {
                let names = these.xattrs.iter().filter(|name| !those.xattrs.contains(name));
                names.map(|name| format!("{sign}{}", output::plain_text(name.as_ref()))).collect::<Vec<_>>()
            };
            let names = [signed('+', new, old), signed('-', old, new)].concat();
            if !names.is_empty() {
                said.push(format!("xattrs {}", names.join(" ")));
            }
        }
        (None, Some(new)) if !is_in_patch(new) || (new.uid, new.gid) != (0, 0) || !new.xattrs.is_empty() => {
            said.push(format!("new {}", described(new)));
        }
        (Some(old), None) if !is_in_patch(old) => said.push(format!("deleted {}", described(old))),
        _ => {}
    }
    let path = output::plain(path);
    said.iter().flat_map(|said| format!("# /{path}: {said}\n").into_bytes()).collect()
}

/// Does a patch tell its type and mode?
fn is_in_patch(inode: &Inode) -> bool {
    matches!(inode.entry_type, EntryType::File | EntryType::Symlink)
}

fn described(inode: &Inode) -> String {
    let kind = super::word(inode.entry_type);
    let device = inode.device.as_ref().map(|device| format!(" {device}")).unwrap_or_default();
    let xattrs: String =
        inode.xattrs.iter().map(|name| format!(" +{}", output::plain_text(name.as_ref()))).collect();
    format!("{kind}{device} mode {} owner {}:{}{xattrs}", inode.mode, inode.uid, inode.gid)
}

/// Returns a name as git writes it: in quotes and escaped where it could be taken for something else.
fn quoted(prefix: &str, path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let plain = |byte: &u8| (b' '..0x7f).contains(byte) && !matches!(byte, b'"' | b'\\');
    if bytes.iter().all(plain) {
        return format!("{prefix}{}", path.display());
    }
    let mut text = format!("\"{prefix}");
    for byte in bytes {
        match byte {
            b'"' | b'\\' => text.extend(['\\', char::from(*byte)]),
            byte if plain(byte) => text.push(char::from(*byte)),
            byte => text.push_str(&format!("\\{byte:03o}")),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn names_are_quoted_as_git_does() {
        assert_eq!(quoted("a/", Path::new("etc/two words")), "a/etc/two words");
        assert_eq!(quoted("b/", Path::new(OsStr::from_bytes(b"a\n\"\\\xff"))), r#""b/a\012\"\\\377""#);
    }
}
