//! One case's surroundings: a backend, a directory of its own on the file system, and the steps every story is made of.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rootling_backends::{
    Access, Backend, Baseline, Change, DiffOptions, Dir, ErrorKind, ForkOptions, Form, Mount, Snapshotted,
    Tree, compare,
};

use crate::support::compare::{assert_tree_eq, diff, lines};
use crate::support::host::FileSystem;
use crate::support::mounted::Mounted;
use crate::support::require::Outcome;
use crate::support::rng::Rng;
use crate::support::tree::TreeValue;

/// A backend on a file system, ready for one case.
pub(crate) struct Setup {
    pub(crate) backend: Arc<dyn Backend>,
    /// All backends that work here, the one above included.
    pub(crate) all: Vec<Arc<dyn Backend>>,
    pub(crate) file_system: FileSystem,
    /// The case's own directory on the file system under test.
    pub(crate) dir: PathBuf,
    /// Where trees are shown while they are written to: on another file system.
    pub(crate) scratch: PathBuf,
    counter: AtomicUsize,
}

/// Tells a story with as many seeds. `ROOTLING_SEED=n` repeats a failure.
pub(crate) fn with_seeds(rounds: u64, story: impl Fn(u64)) -> Outcome {
    let first = Rng::seed();
    for seed in first..first + rounds {
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| story(seed)));
        if let Err(cause) = told {
            let text = cause.downcast_ref::<String>().map(String::as_str);
            let text = text.or(cause.downcast_ref::<&str>().copied()).unwrap_or_default();
            panic!("ROOTLING_SEED={seed}: {text}");
        }
    }
    Ok(())
}

/// A writable tree with what its changes are searched by.
pub(crate) struct Fork {
    pub(crate) tree: Tree,
    pub(crate) parent: Tree,
    pub(crate) baseline: Baseline,
}

impl Setup {
    pub(crate) fn new(
        backend: Arc<dyn Backend>,
        all: Vec<Arc<dyn Backend>>,
        file_system: FileSystem,
        dir: PathBuf,
        scratch: PathBuf,
    ) -> Self {
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::create_dir_all(&scratch).unwrap();
        Self { backend, all, file_system, dir, scratch, counter: AtomicUsize::new(0) }
    }

    /// Returns the same surroundings for another backend.
    pub(crate) fn with(&self, backend: &Arc<dyn Backend>) -> Self {
        let part = format!("with-{}-{}", backend.kind(), self.number());
        let (dir, scratch) = (self.dir.join(&part), self.scratch.join(&part));
        Self::new(Arc::clone(backend), self.all.clone(), self.file_system, dir, scratch)
    }

    fn number(&self) -> usize {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    /// Are the trees that `fork` makes deltas?
    pub(crate) fn makes_deltas(&self) -> bool {
        self.backend.capabilities().fork_form == Form::Delta
    }

    /// Do deltas keep their marks in `user.`?
    pub(crate) fn marks_in_user(&self) -> bool {
        match self.backend.mount(&Tree::delta("/x", &Tree::full("/y")), Access::ReadOnly, false) {
            Mount::Overlay(overlay) | Mount::FuseOverlay(overlay) => overlay.userxattr,
            Mount::Bind { .. } => false,
        }
    }

    /// Makes an empty slot.
    pub(crate) fn slot(&self) -> PathBuf {
        let slot = self.dir.join(format!("{}", self.number()));
        std::fs::create_dir(&slot).unwrap();
        slot
    }

    /// Shows a tree for writing.
    pub(crate) fn attach(&self, tree: &Tree) -> Mounted {
        self.attach_as(tree, Access::ReadWrite)
    }

    pub(crate) fn attach_as(&self, tree: &Tree, access: Access) -> Mounted {
        let at = self.scratch.join(format!("{}", self.number()));
        Mounted::attach(&self.backend.mount(tree, access, false), access, at).unwrap()
    }

    /// Changes a tree as a program in it would.
    pub(crate) fn edit<T>(&self, tree: &Tree, change: impl FnOnce(&Path) -> T) -> T {
        let mounted = self.attach(tree);
        change(mounted.path())
    }

    /// Makes a full tree that nobody has sealed.
    pub(crate) fn create(&self, value: &TreeValue) -> Tree {
        let slot = self.slot();
        self.backend.create(&slot).unwrap();
        let tree = Tree::full(slot);
        self.edit(&tree, |root| value.make(root));
        tree
    }

    /// Makes a sealed full tree.
    pub(crate) fn parent(&self, value: &TreeValue) -> Tree {
        let tree = self.create(value);
        self.backend.seal(&tree).unwrap();
        tree
    }

    pub(crate) fn fork(&self, parent: &Tree) -> Fork {
        let slot = self.slot();
        let forked = self.backend.fork(parent, &slot, ForkOptions::default()).unwrap();
        Fork { tree: tree_of(forked.form, slot, parent), parent: parent.clone(), baseline: forked.baseline }
    }

    /// Forks, changes and seals.
    pub(crate) fn child(&self, parent: &Tree, change: impl FnOnce(&Path)) -> Tree {
        let fork = self.fork(parent);
        self.edit(&fork.tree, change);
        self.backend.seal(&fork.tree).unwrap();
        fork.tree
    }

    pub(crate) fn snapshot(&self, fork: &Fork) -> (Tree, Snapshotted) {
        let slot = self.slot();
        let parent = Some((&fork.parent, &fork.baseline));
        let snapshotted = self.backend.snapshot(&fork.tree, parent, &slot).unwrap();
        (tree_of(snapshotted.form, slot, &fork.parent), snapshotted)
    }

    /// Returns what a reader of the tree sees.
    pub(crate) fn view(&self, tree: &Tree) -> TreeValue {
        TreeValue::read(&self.root(tree)).unwrap()
    }

    /// Asserts what a reader of the tree sees.
    #[track_caller]
    pub(crate) fn assert_view(&self, tree: &Tree, expected: &TreeValue, what: &str) {
        assert_tree_eq(&self.view(tree), expected, what);
    }

    pub(crate) fn changes(&self, fork: &Fork, options: DiffOptions) -> Vec<Change> {
        self.backend.changes(&fork.tree, &fork.parent, &fork.baseline, options).unwrap()
    }

    pub(crate) fn root(&self, tree: &Tree) -> Dir {
        self.backend.open_root(tree).unwrap()
    }

    /// Asserts that `changes` finds exactly what differs, with and without times, as judged by the kit and by `diff_trees`.
    #[track_caller]
    pub(crate) fn assert_changes_exact(&self, fork: &Fork) {
        let (old, new) = (self.view(&fork.parent), self.view(&fork.tree));
        for options in [DiffOptions { times: false }, DiffOptions { times: true }] {
            let found = lines(&self.changes(fork, options));
            assert_eq!(found, lines(&diff(&old, &new, options)), "changes with {options:?}");
            let judged =
                compare::diff_trees(&self.root(&fork.parent), &self.root(&fork.tree), options).unwrap();
            assert_eq!(found, lines(&judged), "diff_trees with {options:?}");
        }
    }

    /// Asserts what `changes` finds, in lines like `C "etc/passwd" File content`.
    #[track_caller]
    pub(crate) fn assert_changes(&self, fork: &Fork, expected: &[&str]) {
        assert_eq!(lines(&self.changes(fork, DiffOptions::default())), expected);
        self.assert_changes_exact(fork);
    }
}

pub(crate) fn tree_of(form: Form, slot: PathBuf, parent: &Tree) -> Tree {
    match form {
        Form::Full => Tree::full(slot),
        Form::Delta => Tree::delta(slot, parent),
    }
}

/// Asserts kind and object of a failure: somewhere in the chain the object must be named.
#[track_caller]
pub(crate) fn assert_error<T: std::fmt::Debug>(
    result: rootling_backends::Result<T>,
    kinds: &[ErrorKind],
    object: &str,
) {
    let error = result.expect_err("this must not work");
    assert!(kinds.contains(&error.kind()), "kind {:?} is none of {kinds:?}: {error:?}", error.kind());
    assert!(format!("{error:?}").contains(object), "{object:?} is not named in: {error:?}");
}
