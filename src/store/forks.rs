//! Several boxes at once, on one state: `fork --count`.

use rootling_backends::{Access, Context, Dir, Result, Tree};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::draft::Draft;
use super::files::{self, Durability};
use super::identity::{self, Identity};
use super::{Base, BoxSettings, CreateOptions, Name, Node, Record, Store, fault};

impl Store {
    /// Makes a box of each name, all on one state of `base`: a box is frozen once.
    ///
    /// Durable on return. When anything fails, a name that is taken included, none of them is left. A kill leaves either no name
    /// or, while the names are given one by one, the first few; all of them are whole, and the rest is the sweep's.
    pub fn create_all(&self, base: Base<'_>, names: &[Name], options: &CreateOptions) -> Result<Vec<Node>> {
        let intent = || match base {
            Base::Node(node) => format!("fork {} {} times", node.shown(), names.len()),
            Base::Host => format!("fork host:/ {} times", names.len()),
        };
        let _lock = self.share_to_write().context(intent)?;
        names.iter().try_for_each(|name| self.require_free(name)).context(intent)?;
        if let Some(settings) = &options.settings {
            let settings = vec![settings.clone(); names.len()];
            return self.fork_all(base, names, options, settings).context(intent);
        }
        let mut inherited = Vec::with_capacity(names.len());
        let made = names
            .iter()
            .try_for_each(|name| self.inherited_settings(base, name, true).map(|own| inherited.push(own)))
            .and_then(|()| self.fork_all(base, names, options, inherited.clone()));
        made.inspect_err(|_| inherited.iter().for_each(|settings| self.discard_home(settings)))
            .context(intent)
    }

    /// Forks under these names, with these settings.
    fn fork_all(
        &self,
        base: Base<'_>,
        names: &[Name],
        options: &CreateOptions,
        settings: Vec<BoxSettings>,
    ) -> Result<Vec<Node>> {
        let committed = self.committed(base)?;
        let _held = committed.as_ref().map(|node| self.hold(node)).transpose()?;
        let base = committed.as_ref().map_or(base, Base::Node);
        let drafts: Result<Vec<(Draft, Record)>> =
            names.iter().map(|name| self.draft_of_box(base, name, options)).collect();
        let mut drafts = drafts?;
        for ((_, record), settings) in drafts.iter_mut().zip(settings) {
            record.life.settings = settings;
        }
        fault::point("forks.forked");
        let mut made = Vec::with_capacity(names.len());
        let published = self.publish_all(drafts, names, &mut made);
        published.inspect_err(|_| self.withdraw(&made))?;
        Ok(made)
    }

    /// Makes the drafts nodes, then names them; what was made so far is in `made`.
    fn publish_all(&self, drafts: Vec<(Draft, Record)>, names: &[Name], made: &mut Vec<Node>) -> Result<()> {
        for (draft, record) in drafts {
            made.push(self.publish(draft, &record, None, Durability::Lazy)?);
            fault::point("forks.published");
        }
        // One sync for all of them.
        Dir::open(self.root.join("o"))?.sync_file_system()?;
        fault::point("forks.synced");
        for (node, name) in made.iter_mut().zip(names) {
            self.link_name(name, &node.id)?;
            node.name = Some(name.clone());
            fault::point("forks.named");
        }
        files::sync_dir(&self.root.join("n"))
    }

    /// Takes back what was made before something failed.
    fn withdraw(&self, made: &[Node]) {
        for node in made {
            let gone = match &node.name {
                Some(name) => files::remove_if_exists(&self.name_link(name)).map(drop),
                None => Ok(()),
            };
            // Best effort: an object without a name is the sweep's, and the first error is the one to tell.
            if let Err(error) = gone.and_then(|()| self.discard(&node.id, node.record.parent.as_ref(), None))
            {
                log::warn!("{} is left behind: {error}", node.shown());
            }
        }
        drop(self.empty_trash());
    }

    /// Gives a fork that nobody else can see yet the identity that was asked for. Durable on return.
    pub(super) fn give_identity(
        &self,
        draft: &Draft,
        record: &Record,
        tree: &Tree,
        name: &Name,
        identity: Identity,
    ) -> Result<()> {
        let Identity::New { hostname } = identity else { return Ok(()) };
        let backend = self.backend(record.backend)?;
        let mount = backend.mount(tree, Access::ReadWrite, false).open(Access::ReadWrite)?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = nix::fcntl::openat(&mount, ".", flags, Mode::empty())
            .context(|| format!("openat({:?}, \".\")", tree.fs()))?;
        identity::renew(&Dir::from_fd(root, tree.fs()), &hostname(name.as_str()))
            .context(|| format!("give {name} an identity of its own"))?;
        drop(mount);
        backend.barrier(&draft.slot)?;
        fault::point("create.identified");
        Ok(())
    }
}
