//! `COPY` and `ADD`: which files go where.

use rootling_backends::{Error, ErrorKind, Result};

use super::outline::Outline;
use super::paths;
use super::scene::Scene;
use super::step::{CopyStep, From, Heredoc};
use super::words::Words;
use crate::build::syntax::{self, AddFlags, CopyFlags, Transfer};

/// Returns what a `COPY` of stage `number` does, and what history says of it.
pub(super) fn copy(
    transfer: &Transfer,
    flags: &CopyFlags,
    heredocs: &[syntax::Heredoc],
    scene: &Scene,
    (outline, number, escape): (&Outline<'_>, usize, char),
) -> Result<(CopyStep, String)> {
    let words = scene.words(escape);
    let from = match &flags.from {
        None => From::MainContext,
        Some(from) => From::Ground(outline.source(from, number)?),
    };
    let (sources, destination) = (words.each(&transfer.sources)?, words.word(&transfer.destination)?);
    if let Some(remote) = sources.iter().find(|source| is_remote(source)) {
        let error = Error::new(ErrorKind::InvalidInput, format!("COPY cannot fetch {remote}"));
        return Err(error.hint("write ADD instead"));
    }
    let heredocs = expanded(heredocs, words)?;
    let step = CopyStep {
        is_add: false,
        from,
        sources: sources.iter().map(|source| tidy(source, flags.parents)).collect(),
        heredocs,
        destination: paths::destination(&scene.workdir(), &destination),
        chown: words.optional(flags.chown.as_ref())?.filter(|owner| !owner.is_empty()),
        chmod: mode(words.optional(flags.chmod.as_ref())?)?,
        link: flags.link,
        parents: flags.parents,
        exclude: flags.exclude.clone(),
        checksum: None,
        unpack: None,
        keep_git_dir: false,
    };
    let history = history(&step, &sources, &destination);
    Ok((step, history))
}

/// Returns what an `ADD` does, and what history says of it.
pub(super) fn add(
    transfer: &Transfer,
    flags: &AddFlags,
    heredocs: &[syntax::Heredoc],
    scene: &Scene,
    escape: char,
) -> Result<(CopyStep, String)> {
    let words = scene.words(escape);
    let (sources, destination) = (words.each(&transfer.sources)?, words.word(&transfer.destination)?);
    let checksum = words.optional(flags.checksum.as_ref())?.filter(|checksum| !checksum.is_empty());
    if checksum.is_some() {
        check_checksum(&sources)?;
    }
    let tidied =
        sources.iter().map(|source| if is_remote(source) { source.clone() } else { tidy(source, false) });
    let step = CopyStep {
        is_add: true,
        from: From::MainContext,
        sources: tidied.collect(),
        heredocs: expanded(heredocs, words)?,
        destination: paths::destination(&scene.workdir(), &destination),
        chown: words.optional(flags.chown.as_ref())?.filter(|owner| !owner.is_empty()),
        chmod: mode(words.optional(flags.chmod.as_ref())?)?,
        link: flags.link,
        parents: false,
        exclude: flags.exclude.clone(),
        checksum,
        unpack: flags.unpack,
        keep_git_dir: flags.keep_git_dir.unwrap_or(false),
    };
    let history = history(&step, &sources, &destination);
    Ok((step, history))
}

fn check_checksum(sources: &[String]) -> Result<()> {
    let refuse = |why: &str| {
        Err(Error::new(ErrorKind::InvalidInput, why.to_owned()).hint("write an ADD of its own for each URL"))
    };
    match sources {
        [source] if is_remote(source) => Ok(()),
        [_] => refuse("--checksum is for what is fetched, not for files of the context"),
        _ => refuse("--checksum is for one source"),
    }
}

/// Is it fetched? A source may also be a repository without a protocol: `git@host:path`.
pub(in crate::build) fn is_remote(source: &str) -> bool {
    ["http://", "https://", "git://", "ssh://", "git@"].iter().any(|start| source.starts_with(start))
}

/// Returns a source without what leads out of its root; the `/./` that says which directories `--parents` keeps stays.
fn tidy(source: &str, parents: bool) -> String {
    match source.split_once("/./").filter(|_| parents) {
        Some((before, after)) => format!("{}/./{}", paths::source(before), paths::source(after)),
        None => paths::source(source),
    }
}

fn expanded(heredocs: &[syntax::Heredoc], words: Words<'_>) -> Result<Vec<Heredoc>> {
    let expanded = heredocs.iter().map(|heredoc| {
        let content =
            if heredoc.expand { words.document(&heredoc.content)? } else { heredoc.content.clone() };
        Ok(Heredoc { name: heredoc.name.clone(), content })
    });
    expanded.collect()
}

/// A mode of digits is octal; others are symbolic, and read where they are used.
fn mode(text: Option<String>) -> Result<Option<String>> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number && !u32::from_str_radix(&text, 8).is_ok_and(|mode| mode <= 0o7777) {
        let error = Error::new(ErrorKind::InvalidInput, format!("{text:?} is no mode"));
        return Err(error.hint("write an octal number up to 7777, or something like u+x,go=r"));
    }
    Ok(Some(text))
}

fn history(step: &CopyStep, sources: &[String], destination: &str) -> String {
    let mut text = if step.is_add { "ADD" } else { "COPY" }.to_owned();
    if step.parents {
        text.push_str(" --parents");
    }
    for (flag, value) in [("chown", &step.chown), ("chmod", &step.chmod)] {
        if let Some(value) = value {
            text.push_str(&format!(" --{flag}={value}"));
        }
    }
    for source in sources {
        text.push_str(&format!(" {source}"));
    }
    for heredoc in &step.heredocs {
        text.push_str(&format!(" <<{}", heredoc.name));
    }
    text.push_str(&format!(" {destination} # buildkit"));
    text
}
