//! `build` through the binary, as a person uses it: what is in the trees, what images say, what is done again, what failures leave.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::environment::{Environment, Ran, ran};

mod backends;
mod beside;
mod by_hand;
mod cache;
mod cases;
mod contexts;
mod failures;
mod hostile;
mod language;
mod options;
mod outputs;

/// A store with the image `base` of busybox, and a context.
pub(super) struct Project {
    pub(super) environment: Environment,
}

/// What a build said.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) ran: Ran,
    /// `hit`, `did` or `failed`, and the instruction, in the order in which they ended.
    pub(super) steps: Vec<String>,
    /// What was said of each of these before it was done.
    pub(super) because: Vec<String>,
    /// What commands wrote.
    pub(super) said: String,
}

impl Project {
    /// `None` where it cannot be run here.
    pub(super) fn new() -> Option<Self> {
        let environment = Environment::new();
        environment.import_busybox().then(|| Self::on(environment))
    }

    /// A context beside a store.
    pub(super) fn on(environment: Environment) -> Self {
        fs::create_dir(environment.path("context")).unwrap();
        Self { environment }
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.environment.path("context").join(path)
    }

    /// Writes a file of the context.
    pub(super) fn write(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        write(&self.path(path), content);
        self
    }

    /// `rootling build` in the context, with flags.
    pub(super) fn command(&self, flags: &[&str]) -> Command {
        let mut command = self.environment.command();
        command.args(["build", "--progress", "json"]).args(flags);
        command.current_dir(self.environment.path("context")).env_remove("SOURCE_DATE_EPOCH");
        command
    }

    /// Builds the context.
    pub(super) fn build(&self, flags: &[&str]) -> Built {
        Built::of(ran(self.command(&[flags, &["."]].concat()).output().unwrap()))
    }

    /// Builds a Dockerfile, which succeeds; returns the steps.
    pub(super) fn built(&self, dockerfile: &str, flags: &[&str]) -> Built {
        self.write("Dockerfile", dockerfile);
        self.build(flags).succeeded()
    }

    /// Builds a Dockerfile, which fails; returns what was said, with the paths of this test made nameless.
    pub(super) fn refused(&self, dockerfile: &str, flags: &[&str]) -> String {
        self.write("Dockerfile", dockerfile);
        let built = self.build(flags);
        assert_ne!(built.ran.code, 0, "succeeded: {:?}", built.ran);
        let lines = built.ran.stderr.lines().filter(|line| !line.starts_with('{'));
        let text: String = lines.map(|line| format!("{line}\n")).collect();
        text.replace(&*self.environment.dir.path().to_string_lossy(), "DIR")
    }

    /// Returns what is in a tree and not in the base, as lines `TYPE MODE OWNER PATH`, with ` = CONTENT` or ` -> TARGET`.
    pub(super) fn added(&self, reference: &str) -> String {
        let base = lines(&self.environment.path("root"));
        let made = lines(&self.exported(reference));
        let base: std::collections::BTreeSet<&str> = base.lines().collect();
        made.lines().filter(|line| !base.contains(line)).map(|line| format!("{line}\n")).collect()
    }

    /// Writes a tree to a directory.
    pub(super) fn exported(&self, reference: &str) -> PathBuf {
        let path = self.environment.path("exported");
        if path.exists() {
            fs::remove_dir_all(&path).unwrap();
        }
        self.environment.ok(["export", reference, &format!("dir:{}", path.display())]);
        path
    }

    /// Returns a file of a tree.
    pub(super) fn cat(&self, reference: &str, path: &str) -> String {
        fs::read_to_string(self.exported(reference).join(path)).unwrap()
    }

    /// Returns what an image says of how it is run.
    pub(super) fn config(&self, reference: &str) -> Value {
        self.environment.json(["inspect", reference])[0]["Config"].clone()
    }

    /// Nothing is left over but what has a name, and all of it is as it should be.
    pub(super) fn assert_clean(&self) {
        let store = self.environment.store();
        for directory in ["tmp", "trash"] {
            let left: Vec<_> =
                fs::read_dir(store.join(directory)).unwrap().map(|e| e.unwrap().path()).collect();
            assert!(left.is_empty(), "{left:?}");
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(&*store.to_string_lossy()), "{mounts}");
        self.environment.ok(["fsck", "--verify"]);
    }
}

impl Built {
    pub(super) fn of(ran: Ran) -> Self {
        let (mut steps, mut because, mut said) = (Vec::new(), Vec::new(), String::new());
        let mut begun = std::collections::BTreeMap::new();
        for line in ran.stderr.lines().filter(|line| line.starts_with('{')) {
            let event: Value = serde_json::from_str(line).expect("each line is JSON");
            let which = (event["stage"].as_str().unwrap().to_owned(), event["step"].as_u64().unwrap());
            if let Some(instruction) = event["instruction"].as_str() {
                begun.insert(which.clone(), instruction.to_owned());
                because.extend(event["because"].as_str().map(|why| format!("{instruction}: {why}")));
            }
            let how = match event["event"].as_str().unwrap() {
                "cached" => "hit",
                "done" => "did",
                "failed" => "failed",
                "said" => {
                    said.push_str(event["text"].as_str().unwrap());
                    continue;
                }
                _ => continue,
            };
            steps.push(format!("{how} {}", begun[&which]));
        }
        Self { ran, steps, because, said }
    }

    pub(super) fn succeeded(self) -> Self {
        assert_eq!(self.ran.code, 0, "{}", self.ran.stderr);
        self
    }

    /// Returns the instructions that were done, not found.
    pub(super) fn did(&self) -> Vec<&str> {
        self.steps.iter().filter_map(|step| step.strip_prefix("did ")).collect()
    }
}

/// Writes a file of mode 644, in directories of mode 755: tests beside this one may have cleared the umask.
pub(super) fn write(path: &Path, content: impl AsRef<[u8]>) {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let parent = path.parent().unwrap();
    let missing: Vec<&Path> = parent.ancestors().take_while(|above| !above.exists()).collect();
    for directory in missing.into_iter().rev() {
        fs::DirBuilder::new().mode(0o755).create(directory).unwrap();
        fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let is_new = !path.exists();
    fs::write(path, content).unwrap();
    if is_new {
        fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    }
}

/// Lists a tree; of what a start mounts in every box, nothing.
pub(super) fn lines(root: &Path) -> String {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let mut text = String::new();
    let entries = walkdir::WalkDir::new(root).min_depth(1).sort_by_file_name();
    for entry in entries {
        let entry = entry.unwrap();
        let metadata = entry.path().symlink_metadata().unwrap();
        let path = entry.path().strip_prefix(root).unwrap().to_str().unwrap();
        if ["dev", "proc", "sys", "run", "etc", "tmp"].contains(&path) {
            continue;
        }
        let kind = metadata.file_type();
        let (letter, rest) = if kind.is_dir() {
            ('d', String::new())
        } else if kind.is_symlink() {
            ('l', format!(" -> {}", fs::read_link(entry.path()).unwrap().display()))
        } else if kind.is_file() && metadata.len() < 4096 {
            (
                'f',
                format!(
                    " = {}",
                    String::from_utf8_lossy(&fs::read(entry.path()).unwrap()).trim_end().replace('\n', "|")
                ),
            )
        } else {
            ('o', format!(" of {}", metadata.len()))
        };
        let mode = if letter == 'l' { 0o777 } else { metadata.permissions().mode() & 0o7777 };
        text += &format!("{letter} {mode:o} {}:{} {path}{rest}\n", metadata.uid(), metadata.gid());
    }
    text
}
