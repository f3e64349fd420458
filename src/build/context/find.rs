//! Paths and patterns of `COPY` become sources.
//!
//! A path is cleaned as if the context were the root of everything, so `..` leads no higher. Links on the way and at its end are
//! followed inside; where one leads to what is left out, there is nothing. From the first name with a wildcard on, names are compared
//! and links on the way are not followed.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::FileStat;
use rootling_backends::{Dir, EntryType, Error, ErrorKind, Result};

use super::{Context, Selection};
use crate::build::glob::{self, Pattern};
use crate::build::ignore::Level;

/// Links that are followed for one path: as many as the kernel does.
const MOST_LINKS: usize = 40;

/// Something in a context that is there and not left out.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its path as it was typed, or as a pattern meant it: cleaned, relative to the root; empty for the root. Its last name is what a copy
    /// is called.
    pub path: PathBuf,
    /// Where it is: no part of this is a link. Relative to the root; empty for the root.
    pub real: PathBuf,
    /// Its inode: never that of a link.
    pub stat: FileStat,
    /// Was it a pattern that meant it?
    pub is_match: bool,
}

impl Source {
    /// Is it a directory?
    pub fn is_dir(&self) -> bool {
        EntryType::of_mode(self.stat.st_mode) == EntryType::Directory
    }
}

impl Context {
    /// Returns what a path or pattern means and is taken; nothing, where nothing of that is there. Sorted by name, directory by directory.
    ///
    /// A pattern that cannot be read is an error of kind `InvalidInput`; one that means a link that leads nowhere inside, of kind `NotFound`.
    pub fn sources(&self, text: &str, selection: &Selection) -> Result<Vec<Source>> {
        let cleaned = cleaned(text.as_bytes());
        let names: Vec<&[u8]> = cleaned.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
        let plain = names.iter().position(|name| glob::has_wildcards(name)).unwrap_or(names.len());
        let (fixed, patterns) = names.split_at(plain);
        let start = PathBuf::from(OsStr::from_bytes(&fixed.join(&b'/')));
        if patterns.is_empty() {
            let found = self.find(&start)?;
            return Ok(found.into_iter().filter(|found| !selection.leaves_out(found)).collect());
        }
        let patterns: Vec<Pattern> =
            patterns.iter().map(|name| Pattern::parse(name)).collect::<Result<_>>()?;
        let Some(real) = self.resolve(&start)?.map(|found| found.real) else { return Ok(Vec::new()) };
        let mut paths = vec![(start, real)];
        for (at, pattern) in patterns.iter().enumerate() {
            let is_last = at + 1 == patterns.len();
            let mut next = Vec::new();
            for (path, real) in paths {
                self.matching(pattern, &path, &real, is_last, &mut next)?;
            }
            paths = next;
        }
        let mut sources = Vec::with_capacity(paths.len());
        for (path, real) in paths {
            let found = self.find_from(&path, &real)?.map(|found| Source { is_match: true, ..found });
            match found {
                Some(found) if selection.leaves_out(&found) => {}
                Some(found) => sources.push(found),
                None if self.is_link_at(&real)? && !selection.names(&path) => {
                    return Err(leads_nowhere(&path));
                }
                // What is left out but for something in it that is not there; what is gone.
                None => {}
            }
        }
        Ok(sources)
    }

    /// Adds what has a name that a pattern means, in one directory; what is no directory only where it is the last pattern.
    fn matching(
        &self,
        pattern: &Pattern,
        path: &Path,
        real: &Path,
        is_last: bool,
        found: &mut Vec<(PathBuf, PathBuf)>,
    ) -> Result<()> {
        let dir = match self.root.open_deep(real) {
            Err(error) if is_absent(&error) => return Ok(()),
            other => other?,
        };
        let level = self.level(real);
        let mut names = Vec::new();
        for entry in dir.entries_once()? {
            let name = entry.name.as_bytes();
            if !pattern.matches(name) || self.ignored().judge(&level, name) && !self.may_hold(&level, name) {
                continue;
            }
            let is_directory = match entry.entry_type {
                Some(kind) => kind == EntryType::Directory,
                None => dir.stat_if_exists(name_of(name))?.is_some_and(|stat| is_directory(&stat)),
            };
            if is_last || is_directory {
                names.push(entry.name);
            }
        }
        names.sort();
        found.extend(names.into_iter().map(|name| (path.join(&name), real.join(&name))));
        Ok(())
    }

    /// Returns what is at a path, links followed; `None` where there is nothing, or it is left out.
    pub fn find(&self, path: &Path) -> Result<Option<Source>> {
        let path = PathBuf::from(OsStr::from_bytes(&cleaned(path.as_os_str().as_bytes())));
        self.find_from(&path, &path)
    }

    fn find_from(&self, path: &Path, start: &Path) -> Result<Option<Source>> {
        let Some(found) = self.resolve(start)? else { return Ok(None) };
        let source = Source { path: path.to_owned(), real: found.real, stat: found.stat, is_match: false };
        if !found.is_ignored {
            return Ok(Some(source));
        }
        // Left out, and yet there if a line takes back something in it.
        let holds_something = source.is_dir()
            && self.ignored().may_differ_below(&self.level(&source.real))
            && self.list(&source, &Selection::default())?.len() > 1;
        Ok(holds_something.then_some(source))
    }

    fn is_link_at(&self, real: &Path) -> Result<bool> {
        let names: Vec<Vec<u8>> =
            real.as_os_str().as_bytes().split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect();
        Ok(self.stat_of(&names)?.is_some_and(|stat| is_link(&stat)))
    }

    /// Follows a path to where it leads.
    fn resolve(&self, path: &Path) -> Result<Option<Resolved>> {
        let split = |path: &[u8]| -> Vec<Vec<u8>> {
            path.split(|byte| *byte == b'/')
                .filter(|name| !name.is_empty() && *name != b".")
                .map(<[u8]>::to_vec)
                .collect()
        };
        let mut ahead: VecDeque<Vec<u8>> = split(path.as_os_str().as_bytes()).into();
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut stat = self.root.stat_self()?;
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            if name == b".." {
                names.pop();
                stat = self.stat_of(&names)?.unwrap_or(stat);
                continue;
            }
            names.push(name);
            match self.stat_of(&names)? {
                None => return Ok(None),
                Some(found) if is_link(&found) => {
                    links += 1;
                    if links > MOST_LINKS {
                        let path = path.display();
                        return Err(Error::call(format!("follow {path} in {}", self.label), Errno::ELOOP));
                    }
                    let Some(target) = self.read_link(&names)? else { return Ok(None) };
                    // A link that is left out is not there.
                    if self.is_ignored(&names) {
                        return Ok(None);
                    }
                    names.pop();
                    if target.first() == Some(&b'/') {
                        names.clear();
                    }
                    stat = self.stat_of(&names)?.unwrap_or(stat);
                    for name in split(&target).into_iter().rev() {
                        ahead.push_front(name);
                    }
                }
                Some(found) if !is_directory(&found) && !ahead.is_empty() => return Ok(None),
                Some(found) => stat = found,
            }
        }
        let is_ignored = self.is_ignored(&names);
        Ok(Some(Resolved {
            real: PathBuf::from(std::ffi::OsString::from_vec(names.join(&b'/'))),
            stat,
            is_ignored,
        }))
    }

    fn stat_of(&self, names: &[Vec<u8>]) -> Result<Option<FileStat>> {
        let Some((dir, name)) = self.parent_of(names)? else { return Ok(None) };
        dir.stat_if_exists(name)
    }

    fn read_link(&self, names: &[Vec<u8>]) -> Result<Option<Vec<u8>>> {
        let Some((dir, name)) = self.parent_of(names)? else { return Ok(None) };
        match dir.read_link(name) {
            // Replaced a moment ago: the next who looks sees what is there now.
            Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::EINVAL)) => Ok(None),
            other => other.map(|target| Some(target.into_vec())),
        }
    }

    /// Opens the directory that a name is in, if all on the way are directories.
    fn parent_of<'n>(&self, names: &'n [Vec<u8>]) -> Result<Option<(Dir, &'n OsStr)>> {
        let Some((name, above)) = names.split_last() else {
            return Ok(Some((self.root.try_clone()?, OsStr::new("."))));
        };
        match self.root.open_deep(Path::new(OsStr::from_bytes(&above.join(&b'/')))) {
            Err(error) if is_absent(&error) => Ok(None),
            other => other.map(|dir| Some((dir, name_of(name)))),
        }
    }

    fn is_ignored(&self, names: &[Vec<u8>]) -> bool {
        !self.ignored().is_empty() && self.ignored().matches(Path::new(OsStr::from_bytes(&names.join(&b'/'))))
    }

    /// Returns what the ignore file says of a directory.
    pub(super) fn level(&self, real: &Path) -> Level {
        let names = real.as_os_str().as_bytes().split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        names.fold(self.ignored().root(), |level, name| self.ignored().enter(&level, name))
    }

    /// May what is left out be a directory that something in it keeps?
    fn may_hold(&self, level: &Level, name: &[u8]) -> bool {
        self.ignored().may_differ_below(&self.ignored().enter(level, name))
    }
}

impl Selection {
    /// Does it leave out a source itself?
    fn leaves_out(&self, source: &Source) -> bool {
        (source.is_match || !source.is_dir()) && self.names(&source.path)
    }

    fn names(&self, path: &Path) -> bool {
        let name = path.file_name();
        name.is_some_and(|name| self.exclude.judge(&self.exclude.root(), name.as_bytes()))
    }
}

struct Resolved {
    real: PathBuf,
    stat: FileStat,
    is_ignored: bool,
}

/// Cleans a path as one from the root, and makes it relative to that.
fn cleaned(path: &[u8]) -> Vec<u8> {
    glob::clean(&[b"/", path].concat())[1..].to_vec()
}

/// Nobody would expect that less is copied than a pattern means.
fn leads_nowhere(path: &Path) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("{path:?} is a link to what is not in the context, or left out of it"),
    )
    .hint("leave the link out by a line in .dockerignore, or by --exclude")
}

fn name_of(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

fn is_directory(stat: &FileStat) -> bool {
    EntryType::of_mode(stat.st_mode) == EntryType::Directory
}

fn is_link(stat: &FileStat) -> bool {
    EntryType::of_mode(stat.st_mode) == EntryType::Symlink
}

/// Is it an error that says that a directory is not there, or no directory?
pub(super) fn is_absent(error: &Error) -> bool {
    matches!(error.errno(), Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP))
}
