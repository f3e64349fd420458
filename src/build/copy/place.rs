//! Where things go in the tree.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use nix::sys::stat::FileStat;
use rootling_backends::attributes::Attributes;
use rootling_backends::graft::{Graft, Origin, Picked};
use rootling_backends::ground::Ground;
use rootling_backends::{Context as _, EntryType, Error, ErrorKind, Result};

use super::super::context::{Entry, Fetched, Loading, Ownership, Selection, Source, is_copied_xattr};
use super::super::plan::CopyStep;
use super::checkout::Checkout;
use super::choose::{Part, is_on_the_way};
use super::mode::Chmod;
use super::remote::Remote;
use super::{Copied, Destination, Work, lay, owner, unpack};

/// What becomes of the attributes of copies.
pub(super) struct Looks {
    /// As `--chown` says.
    pub(super) owner: Option<(u32, u32)>,
    chmod: Option<Chmod>,
    ownership: Ownership,
}

/// One step at work.
pub(super) struct Placing<'a> {
    pub(super) step: &'a CopyStep,
    /// Where it is written: the tree itself, or a layer of its own.
    pub(super) ground: &'a Ground,
    /// Opens the tree for writing as it looks, where that is not what is written to.
    pub(super) open: Option<&'a dyn Fn() -> Result<rootling_backends::Dir>>,
    pub(super) looks: Looks,
    graft: Graft<'a>,
    /// What was made that is no directory.
    placed: HashSet<PathBuf>,
    /// Directories that were made only because something is in them.
    implied: HashSet<PathBuf>,
    pub(super) copied: Copied,
}

pub(super) fn perform(step: &CopyStep, work: &Work<'_>, destination: &Destination<'_>) -> Result<Copied> {
    let owner = step
        .chown
        .as_ref()
        .map(|text| owner::resolve(text, &destination.before).context(|| format!("read --chown={text}")));
    let owner = owner.transpose()?;
    if !step.link {
        let is_delta = destination.ground.beneath().is_some();
        let open = is_delta.then_some(&*destination.open as &dyn Fn() -> Result<rootling_backends::Dir>);
        let (copied, _) = place_all(step, work, &destination.ground, open, owner)?;
        return Ok(copied);
    }
    match destination.ground.beneath() {
        Some(beneath) => {
            let (copied, implied) = place_all(step, work, &destination.ground.alone()?, None, owner)?;
            lay::look_as_beneath(destination.ground.own(), beneath, &implied)?;
            Ok(copied)
        }
        None => lay::over(destination.ground.own(), |layer| {
            place_all(step, work, &Ground::full(layer), None, owner)
        }),
    }
}

fn place_all(
    step: &CopyStep,
    work: &Work<'_>,
    ground: &Ground,
    open: Option<&dyn Fn() -> Result<rootling_backends::Dir>>,
    owner: Option<(u32, u32)>,
) -> Result<(Copied, HashSet<PathBuf>)> {
    let chosen = work.chosen;
    let mut placing = Placing {
        step,
        ground,
        open,
        looks: Looks {
            owner,
            chmod: step.chmod.as_deref().map(Chmod::parse).transpose()?,
            ownership: chosen.context.ownership(),
        },
        graft: Graft::new(ground),
        placed: HashSet::new(),
        implied: HashSet::new(),
        copied: Copied { notes: chosen.notes.clone(), ..Copied::default() },
    };
    for (part, listed) in chosen.parts.iter().zip(&work.listing.parts) {
        match part {
            Part::Local(local) => {
                for (source, entries) in listed {
                    let shown = || format!("copy /{} of {}", source.path.display(), chosen.context.label());
                    placing.local(work.origin, source, entries, &local.selection).context(shown)?;
                }
            }
            Part::Remote(remote) => placing.remote(remote, chosen.loading)?,
            Part::Repository(checkout) => placing.repository(checkout, chosen.loading)?,
        }
    }
    for heredoc in &step.heredocs {
        placing
            .text(&heredoc.name, heredoc.content.as_bytes())
            .context(|| format!("write {}", heredoc.name))?;
    }
    placing.copied.cost = placing.graft.cost();
    Ok((placing.copied, placing.implied))
}

impl Placing<'_> {
    fn local(
        &mut self,
        origin: &Origin,
        source: &Source,
        entries: &[Entry],
        selection: &Selection,
    ) -> Result<()> {
        // A socket.
        if entries.is_empty() {
            return Ok(());
        }
        if source.is_dir() {
            let to = self.destination_directory()?;
            let picked: Vec<Picked<'_>> = entries[1..]
                .iter()
                .map(|entry| Picked {
                    path: &entry.path,
                    kind: entry.kind(),
                    on_the_way: is_on_the_way(selection, entry),
                    expected: self.looks.expected(entry),
                })
                .collect();
            let looks = &self.looks;
            let change = |attributes: &mut Attributes, kind| looks.change(attributes, kind);
            return self.graft.content(origin, &source.real, &to, &picked, &change);
        }
        let unpacks = self.step.unpack.unwrap_or(self.step.is_add);
        if unpacks
            && let Some(file) = unpack::open(origin, &source.real)?
            && unpack::unpack(self, &file)?
        {
            return Ok(());
        }
        let target = self.target_of(|| Ok(source.path.file_name().unwrap_or_default().to_owned()))?;
        let looks = &self.looks;
        let change = |attributes: &mut Attributes, kind| looks.change(attributes, kind);
        self.graft.entry(origin, &source.real, &target, looks.expected(&entries[0]), &change)
    }

    /// Places the files of a repository: root's, whoever checked them out.
    fn repository(&mut self, checkout: &Checkout, loading: &Loading<'_>) -> Result<()> {
        let (files, source, entries) = checkout.listed(loading)?;
        let ownership = std::mem::replace(&mut self.looks.ownership, files.ownership());
        let origin = Origin::plain(files.root().try_clone()?);
        let shown = || format!("copy {}", files.label());
        self.local(&origin, &source, &entries, checkout.selection()).context(shown)?;
        self.looks.ownership = ownership;
        Ok(())
    }

    /// Places what a server gave: for its owner alone, as docker has it.
    fn remote(&mut self, remote: &Remote, loading: &Loading<'_>) -> Result<()> {
        if remote.is_unsafe() {
            self.copied
                .notes
                .push("it came in the clear, and no --checksum says what it should be".to_owned());
        }
        let fetched = remote.fetch(loading)?;
        let Fetched { file, said } = &*fetched;
        if self.step.unpack == Some(true) && unpack::unpack(self, file)? {
            return Ok(());
        }
        let target = self.target_of(|| remote.name(said).map(OsString::from))?;
        let (user, group) = self.looks.owner.unwrap_or((0, 0));
        let mode = self.looks.mode(0o600);
        self.graft.file(file, &target, mode, (user, group), said.modified.unwrap_or(0))
    }

    /// Writes a file that stands in the Dockerfile.
    fn text(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let target = self.target_of(|| Ok(name.into()))?;
        self.graft.text(content, &target, self.looks.mode(0o644), self.looks.owner.unwrap_or((0, 0)))
    }

    /// Makes the destination a directory, and returns where it is.
    pub(super) fn destination_directory(&mut self) -> Result<PathBuf> {
        let led = self.ground.lead(Path::new(&self.step.destination))?;
        if led.stat.is_some() && !led.is_directory() {
            let message = format!("/{} is there and is no directory", led.path.display());
            return Err(Error::new(ErrorKind::InvalidInput, message)
                .hint("a directory cannot take its place: name another destination, or remove it first"));
        }
        self.make(&led.path)?;
        Ok(led.path)
    }

    /// Returns where a file of this name goes: into the destination, if that is a directory or ends with a slash, else under its name.
    fn target_of(&mut self, name: impl FnOnce() -> Result<OsString>) -> Result<PathBuf> {
        let destination = Path::new(&self.step.destination);
        if self.step.destination.ends_with('/') {
            let to = self.destination_directory()?;
            return Ok(self.noted(to.join(name()?)));
        }
        let led = self.ground.lead(destination)?;
        if led.is_directory() {
            self.make(&led.path)?;
            return Ok(self.noted(led.path.join(name()?)));
        }
        if self.placed.contains(&led.path) {
            let message =
                "with more than one source the destination must be a directory and end with a slash";
            return Err(Error::new(ErrorKind::InvalidInput, message)
                .hint(format!("write {}/", self.step.destination)));
        }
        self.make(led.path.parent().unwrap_or(Path::new("")))?;
        Ok(self.noted(led.path))
    }

    fn noted(&mut self, path: PathBuf) -> PathBuf {
        self.placed.insert(path.clone());
        path
    }

    fn make(&mut self, path: &Path) -> Result<()> {
        let made = self.ground.make_dirs(path, self.looks.owner.unwrap_or((0, 0)))?;
        self.implied.extend(made.new);
        Ok(())
    }
}

impl Looks {
    /// Returns what a file must still be when it is copied: a tree does not change, and what a stack shows is another inode than what is read.
    fn expected<'e>(&self, entry: &'e Entry) -> Option<&'e FileStat> {
        (self.ownership == Ownership::Root && entry.kind() == EntryType::File).then_some(&entry.stat)
    }

    /// Returns the mode of a file that would have this one.
    fn mode(&self, mode: u32) -> u32 {
        self.chmod.as_ref().map_or(mode, |chmod| chmod.apply(mode, EntryType::File))
    }

    fn change(&self, attributes: &mut Attributes, kind: EntryType) {
        if let Some((user, group)) = self.owner.or((self.ownership == Ownership::Root).then_some((0, 0))) {
            (attributes.user, attributes.group) = (user, group);
        }
        if let Some(chmod) = self.chmod.as_ref().filter(|_| kind != EntryType::Symlink) {
            attributes.mode = chmod.apply(attributes.mode, kind);
        }
        attributes.xattrs.retain(|(name, _)| kind == EntryType::File && is_copied_xattr(name));
    }
}
