//! A store under test, driven by the built program as a user would.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::compare::assert_tree_eq;
use crate::support::tree::TreeValue;

const PROGRAM: &str = env!("CARGO_BIN_EXE_rootling");
static VIEWS: AtomicUsize = AtomicUsize::new(0);

/// A store and where to look at its trees.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    pub(crate) root: PathBuf,
    scratch: PathBuf,
}

/// What a store holds on disk, for comparisons: whatever is in one and not in the other has leaked or is lost.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Holdings {
    names: BTreeSet<String>,
    objects: usize,
    subvolumes: usize,
}

impl Holdings {
    /// Asserts that the same is there, give or take `slack` objects.
    #[track_caller]
    pub(crate) fn assert_like(&self, expected: &Self, slack: usize, when: &str) {
        let same_names = self.names == expected.names;
        let like = same_names
            && self.subvolumes.abs_diff(expected.subvolumes) <= slack
            && self.objects.abs_diff(expected.objects) <= slack;
        assert!(like, "{when}: leaked or lost\n  is        {self:?}\n  should be {expected:?}");
    }
}

impl Store {
    pub(crate) fn new(root: PathBuf, scratch: &Path) -> Self {
        std::fs::create_dir_all(scratch).unwrap();
        Self { root, scratch: scratch.to_owned() }
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("--root").arg(&self.root).args(arguments).stdin(Stdio::null());
        command.env_remove("ROOTLING_FAULT").env_remove("ROOTLING_FAULT_TRACE").env_remove("ROOTLING_ROOT");
        command
    }

    pub(crate) fn try_run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must succeed and returns its output.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let output = self.try_run(arguments);
        assert!(output.status.success(), "rootling {arguments:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn spawn(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Returns all names of boxes and trees.
    #[track_caller]
    pub(crate) fn names(&self) -> BTreeSet<String> {
        let json: serde_json::Value = serde_json::from_str(&self.run(&["ls", "--format", "json"])).unwrap();
        let list = json.as_array().expect("`ls --format json` prints an array");
        list.iter().filter_map(|node| node["name"].as_str().map(str::to_owned)).collect()
    }

    /// Asserts that fsck has nothing to complain of, bytes included.
    #[track_caller]
    pub(crate) fn assert_clean(&self, when: &str) {
        let output = self.try_run(&["fsck", "--verify"]);
        assert!(output.status.success(), "{when}: fsck: {}", said(&output));
    }

    /// Does something in the tree of a name, shown for reading and, if it is a box, writing.
    #[track_caller]
    pub(crate) fn in_tree<T>(&self, name: &str, look: impl FnOnce(&Path) -> T) -> T {
        let at = self.scratch.join(format!("view-{}", VIEWS.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir(&at).unwrap();
        let path = at.to_str().expect("scratch paths are ASCII");
        self.run(&["mount", name, path]);
        let result = look(&at);
        self.unmount(path);
        std::fs::remove_dir(&at).unwrap();
        result
    }

    /// A child that another trial just forked holds our descriptors until it executes its program: then a mount is busy.
    #[track_caller]
    fn unmount(&self, path: &str) {
        for _ in 0..100 {
            if self.try_run(&["umount", path]).status.success() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.run(&["umount", path]);
    }

    /// Asserts what is in the tree of a name.
    #[track_caller]
    pub(crate) fn assert_tree(&self, name: &str, expected: &TreeValue, when: &str) {
        let found = self.in_tree(name, TreeValue::read_path);
        assert_tree_eq(&found.without_times(), &expected.clone().without_times(), &format!("{when}: {name}"));
    }

    /// Removes garbage and asserts that none of it, no lock and no mount is left.
    #[track_caller]
    pub(crate) fn holdings_after_prune(&self, when: &str) -> Holdings {
        self.run(&["prune"]);
        for emptied in ["tmp", "trash"] {
            assert_eq!(entries(&self.root.join(emptied)), Vec::<String>::new(), "{when}: left in {emptied}/");
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = self.root.to_str().expect("store paths are ASCII");
        let left: Vec<_> = mounts.lines().filter(|line| line.contains(&format!("{root}/"))).collect();
        assert!(left.is_empty(), "{when}: mounts left: {left:?}");
        Holdings {
            names: self.names(),
            objects: entries(&self.root.join("o")).len(),
            subvolumes: subvolumes(&self.root),
        }
    }

    /// Removes every name and asserts that nothing at all remains.
    #[track_caller]
    pub(crate) fn assert_can_be_emptied(&self, when: &str) {
        self.run(&["volume", "prune", "--caches"]);
        self.run(&["prune", "--builds=all"]);
        let mut left = self.names();
        while !left.is_empty() {
            // What still has children refuses to go before them.
            for name in &left {
                self.try_run(&["rm", "--now", name]);
            }
            // States of a box between two commits have no name, and are children too.
            self.run(&["prune", "--removed", "--builds=all"]);
            let now = self.names();
            assert!(now.len() < left.len(), "{when}: none of {left:?} can be removed");
            left = now;
        }
        let holdings = self.holdings_after_prune(when);
        assert_eq!((holdings.objects, holdings.subvolumes), (0, 0), "{when}: leaked");
    }
}

/// Returns how a command ended and what it said.
pub(crate) fn said(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{} {}{}", output.status, out, err)
}

/// Returns the fault points that an operation passed, in order, each as who is to be killed there is told: with how often it was passed by then.
#[track_caller]
pub(crate) fn faults(trace: &Path, operation: &str) -> Vec<String> {
    let passed = std::fs::read_to_string(trace).unwrap_or_default();
    let passed: Vec<&str> = passed.lines().collect();
    assert!(!passed.is_empty(), "{operation} passes no fault point");
    let nth = |index: usize| passed[..=index].iter().filter(|other| **other == passed[index]).count();
    (0..passed.len()).map(|index| format!("{}:{}", passed[index], nth(index))).collect()
}

/// Was it killed, as asked?
pub(crate) fn was_killed(output: &Output) -> bool {
    output.status.signal() == Some(libc::SIGKILL)
}

fn entries(dir: &Path) -> Vec<String> {
    let listed = std::fs::read_dir(dir).into_iter().flatten();
    listed.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// Counts btrfs subvolumes below a directory: their roots have inode number 256.
fn subvolumes(dir: &Path) -> usize {
    let is_btrfs =
        nix::sys::statfs::statfs(dir).unwrap().filesystem_type() == nix::sys::statfs::BTRFS_SUPER_MAGIC;
    if !is_btrfs {
        return 0;
    }
    let found = walkdir::WalkDir::new(dir).min_depth(1).into_iter().filter_map(Result::ok);
    found
        .filter(|entry| entry.file_type().is_dir() && entry.metadata().is_ok_and(|meta| meta.ino() == 256))
        .count()
}
