//! A patch in a process of its own: killed at any moment, or run by an ordinary user in a user namespace.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::Instant;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid};
use rootling_backends::patch::patch;
use rootling_backends::{Access, Change, CloneMode, DiffOptions, Dir};

use crate::cases::{Case, case};
use crate::patch::{changes, turn_into};
use crate::setup::Setup;
use crate::support::compare::{assert_tree_eq, diff};
use crate::support::require::{Outcome, Skip};
use crate::support::rng::Rng;
use crate::support::tree::{NOBODY, TreeValue, acl, dir, file, symlink, tree};

pub(crate) const CASES: &[Case] =
    &[case!(a_killed_patch_is_finished_by_another), case!(a_user_patches_in_a_namespace_of_their_own)];

/// The file with the changes, where this program is started to do nothing but patch; and the trees.
const CHANGES: &str = "ROOTLING_TEST_PATCH";
const TREES: [&str; 2] = ["ROOTLING_TEST_PATCH_SOURCE", "ROOTLING_TEST_PATCH_TARGET"];
/// Set where an ordinary user is to do it: their number.
const USER: &str = "ROOTLING_TEST_PATCH_USER";

/// Patches if this process was started for that.
pub(crate) fn run_if_asked() -> Option<ExitCode> {
    let changes: Vec<Change> =
        serde_json::from_slice(&fs::read(std::env::var_os(CHANGES)?).unwrap()).unwrap();
    let [source, target] = TREES.map(|name| Dir::open(std::env::var_os(name).unwrap()).unwrap());
    if let Ok(user) = std::env::var(USER) {
        become_user(user.parse().unwrap());
    }
    std::io::stdout().write_all(b"ready\n").unwrap();
    std::io::stdin().read_line(&mut String::new()).unwrap();
    patch(&changes, &source, &target, &CloneMode::Auto.into()).unwrap();
    Some(ExitCode::SUCCESS)
}

/// Enters a user namespace as a user without any privilege; whoever started this process gives it its numbers.
fn become_user(id: u32) {
    let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
    nix::unistd::setgroups(&[]).unwrap();
    nix::unistd::setresgid(group, group, group).unwrap();
    nix::unistd::setresuid(user, user, user).unwrap();
    unshare(CloneFlags::CLONE_NEWUSER).unwrap();
}

/// A process that has read the changes and waits for the word to begin.
struct Patcher {
    child: Child,
    stdout: BufReader<ChildStdout>,
    _changes: tempfile::NamedTempFile,
}

impl Patcher {
    fn start(changes: &[Change], source: &Path, target: &Path, user: Option<u32>) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), serde_json::to_vec(changes).unwrap()).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(CHANGES, file.path()).env(TREES[0], source).env(TREES[1], target);
        command.envs(user.map(|user| (USER, user.to_string())));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { child, stdout, _changes: file }
    }

    fn begin(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    }

    fn finish(mut self) {
        self.begin();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
        drop(self.stdout);
    }
}

/// Each directory has what is changed, added, removed, joined and parted, and what becomes another type.
fn wide(is_other: bool) -> TreeValue {
    let text = if is_other { "other".repeat(2000) } else { "one".repeat(3000) };
    let mut value = tree! { "same" => file("same") };
    for number in 0..16 {
        let top = format!("d{number}");
        let at = |name: &str| Path::new(&top).join(name);
        value.insert(&top, dir().mode(if number % 2 == 0 { 0o555 } else { 0o2750 }));
        value.insert(at("same"), file(&top));
        value.insert(at("mode"), file("m").mode(if is_other { 0o4755 } else { 0o600 }));
        for changed in ["a", "b", "c"] {
            value.insert(at(changed), file(format!("{text}{changed}")));
        }
        value.insert(at(if is_other { "added" } else { "gone" }), symlink(&text[..20]));
        value.insert(at("linked"), file("linked"));
        if is_other {
            value.link(&at("linked"), at("joined"));
            value.insert(at("type"), dir());
            value.insert(at("type/in"), file(&text));
        } else {
            value.insert(at("joined"), file("linked"));
            value.insert(at("type"), file("type"));
        }
    }
    value
}

/// How many patches are cut short.
const CUTS: usize = 3;
const ATTEMPTS: usize = 100;

/// `ROOTLING_SEED` repeats the moments.
fn a_killed_patch_is_finished_by_another(s: &Setup) -> Outcome {
    let values = [false, true].map(wide);
    let sources = [0, 1].map(|index| s.attach_as(&s.parent(&values[index]), Access::ReadOnly));
    let target = s.create(&values[0]);
    let mounted = s.attach(&target);
    let (root, roots) =
        (Dir::open(mounted.path()).unwrap(), [0, 1].map(|index| Dir::open(sources[index].path()).unwrap()));
    let patcher = |goal: usize| {
        Patcher::start(&changes(&root, &roots[goal]), sources[goal].path(), mounted.path(), None)
    };
    let whole = patcher(1);
    let started = Instant::now();
    whole.finish();
    let took = started.elapsed();
    let mut rng = Rng::new(Rng::seed());
    let mut cut_short = 0;
    for attempt in 0..ATTEMPTS {
        let goal = attempt % 2;
        let before = TreeValue::read(&root).unwrap();
        let mut patcher = patcher(goal);
        patcher.begin();
        std::thread::sleep(took.mul_f64(rng.below(1000) as f64 / 1000.0));
        patcher.child.kill().unwrap();
        let status = patcher.child.wait().unwrap();
        let after = TreeValue::read(&root).unwrap();
        let differs = |other: &TreeValue| !diff(other, &after, DiffOptions { times: true }).is_empty();
        let is_cut = status.signal() == Some(libc::SIGKILL) && differs(&before) && differs(&values[goal]);
        cut_short += usize::from(is_cut);
        turn_into(mounted.path(), &roots[goal]);
        assert_tree_eq(&TreeValue::read(&root).unwrap(), &values[goal], "after a killed patch");
        if cut_short == CUTS {
            return Ok(());
        }
    }
    panic!("only {cut_short} of {ATTEMPTS} patches of {took:?} were cut short");
}

/// The user, and the first number of the range that their namespace has.
const ME: u32 = 1000;
const RANGE: u32 = 3_000_000;

fn a_user_patches_in_a_namespace_of_their_own(s: &Setup) -> Outcome {
    if fs::read_to_string("/proc/sys/user/max_user_namespaces").is_ok_and(|number| number.trim() == "0") {
        return Err(Skip::because("user namespaces are forbidden"));
    }
    let ranges = [("0 1000 1\n", ME), ("0 1000 1\n1 3000000 65535\n", RANGE + 5)];
    for (numbers, other) in ranges {
        let [source, target] = [true, false].map(|is_other| owned(wide(is_other), other));
        let (source, tree) = (s.parent(&source), s.create(&target));
        let (from, to) = (s.attach_as(&source, Access::ReadOnly), s.attach(&tree));
        let (from_root, root) = (Dir::open(from.path()).unwrap(), Dir::open(to.path()).unwrap());
        let patcher = Patcher::start(&changes(&root, &from_root), from.path(), to.path(), Some(ME));
        for file in ["gid_map", "uid_map"] {
            fs::write(format!("/proc/{}/{file}", patcher.child.id()), numbers).unwrap();
        }
        patcher.finish();
        assert_tree_eq(&TreeValue::read(&root).unwrap(), &TreeValue::read(&from_root).unwrap(), numbers);
    }
    Ok(())
}

/// Returns a tree of the user's, some of it of another user's of theirs, with an ACL that names that one.
fn owned(mut value: TreeValue, other: u32) -> TreeValue {
    let list = acl(&[(1, 6, NOBODY), (2, 4, other), (4, 4, NOBODY), (0x10, 4, NOBODY), (0x20, 0, NOBODY)]);
    let paths: Vec<_> = value.iter().map(|(path, _)| path.to_owned()).collect();
    for path in paths {
        let node = value.node_mut(&path);
        let is_others = path.ends_with("a") || path.ends_with("d3");
        node.owner = if is_others { (other, other) } else { (ME, ME) };
    }
    let acl_file = file("acl").mode(0o640).owner(ME, other).xattr("system.posix_acl_access", &list);
    value.insert("acl", acl_file);
    value
}
