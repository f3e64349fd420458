//! Where a Dockerfile and its files are.

use std::io::Read;
use std::path::{Path, PathBuf};

use rootling_backends::{Context as _, Dir, Error, ErrorKind, Result, small_file};

use crate::build::context::{Context, DOCKERFILE_LIMIT, Loaded, Loading, Place};
use crate::build::ignore::IgnoreFile;

/// What a Dockerfile is called where nothing is said, in the order in which it is looked for.
const NAMES: [&str; 3] = ["Dockerfile", "Containerfile", "dockerfile"];

/// A Dockerfile with the files that it may name.
pub(super) struct Recipe {
    /// Its text.
    pub(super) text: Vec<u8>,
    /// The files, without those that are left out.
    pub(super) context: Context,
    /// What it is called, by which the next build of it finds what this one left.
    pub(super) name: String,
    /// Where it was found, for messages.
    pub(super) shown: String,
}

impl Recipe {
    /// Finds it. `file` is what `--file` says.
    pub(super) fn load(place: &Place, file: Option<&Path>, loading: &Loading<'_>) -> Result<Self> {
        let from_stdin = file == Some(Path::new("-"));
        if from_stdin && *place == Place::Stdin {
            let message = "standard input cannot be the Dockerfile and the context";
            return Err(Error::new(ErrorKind::InvalidInput, message)
                .hint("name a directory for the context, or leave out -f"));
        }
        let Loaded { context, dockerfile } = place.load(loading, std::io::stdin())?;
        let found = match (dockerfile, file) {
            (Some(text), None) => Found { text, shown: place.to_string(), beside: None },
            (Some(_), Some(_)) => {
                let message = format!("{place} is a Dockerfile, and --file names another");
                return Err(Error::new(ErrorKind::InvalidInput, message).hint("leave out one of them"));
            }
            (None, Some(_)) if from_stdin => {
                Found { text: stdin()?, shown: "standard input".to_owned(), beside: None }
            }
            (None, Some(path)) => named(&context, place, path)?,
            (None, None) => usual(&context, place)?,
        };
        let beside = found.beside.as_ref().map(|(dir, name)| (dir, name.as_str()));
        let ignored = IgnoreFile::find(beside, context.root())?;
        let whole = match place {
            Place::Path(path) => {
                std::path::absolute(path).unwrap_or_else(|_| path.clone()).display().to_string()
            }
            other => other.to_string(),
        };
        let name = format!("{whole} {}", found.shown);
        Ok(Self { text: found.text, context: context.with_ignored(ignored), name, shown: found.shown })
    }
}

struct Found {
    text: Vec<u8>,
    shown: String,
    /// The directory it lies in, and its name there.
    beside: Option<(Dir, String)>,
}

fn stdin() -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let read = std::io::stdin().lock().take(DOCKERFILE_LIMIT + 1).read_to_end(&mut text);
    read.context(|| "read the Dockerfile from standard input")?;
    if text.len() as u64 > DOCKERFILE_LIMIT {
        let message = format!("the Dockerfile has more than {DOCKERFILE_LIMIT} bytes");
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    Ok(text)
}

/// Reads the Dockerfile of that path: of the directory one is in, where the context is on this machine, else of the context.
fn named(context: &Context, place: &Place, path: &Path) -> Result<Found> {
    if matches!(place, Place::Path(_)) && path.exists() {
        let text = small_file::read(path, DOCKERFILE_LIMIT)?;
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let dir = Dir::open(directory.unwrap_or(Path::new(".")))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        return Ok(Found { text, shown: path.display().to_string(), beside: Some((dir, name)) });
    }
    let inside = inside(context, path)?;
    inside.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("there is no Dockerfile {path:?}"))
            .hint("--file is relative to the directory you are in, or else to the context")
    })
}

fn usual(context: &Context, place: &Place) -> Result<Found> {
    for name in NAMES {
        if let Some(found) = inside(context, Path::new(name))? {
            return Ok(found);
        }
    }
    Err(Error::new(ErrorKind::NotFound, format!("there is no Dockerfile in {place}"))
        .hint("say where it is: -f PATH; or name a tree to build on: rootling build REF -- COMMAND"))
}

fn inside(context: &Context, path: &Path) -> Result<Option<Found>> {
    let Some(text) = context.read(path, DOCKERFILE_LIMIT)? else { return Ok(None) };
    let name: PathBuf = path.to_owned();
    let shown = name.display().to_string();
    Ok(Some(Found { text, beside: Some((context.root().try_clone()?, shown.clone())), shown }))
}
