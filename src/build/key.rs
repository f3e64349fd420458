//! What a step depends on, by name, and the digest of it.
//!
//! Two steps with the same key leave the same tree, as far as a builder can know: the fields say all that a command is given, except what
//! it fetches by itself. What changes from one build to the next without meaning anything is not among them: secrets, the content of
//! cache mounts, proxies, further names of hosts, limits.

use serde::{Deserialize, Serialize};

use super::plan::{CopyStep, MountKind, Network, Owner, RunMount, RunStep, Security};
use crate::image::{Digest, Platform};

/// The language of the fields: steps that were made by another one are not found.
const VERSION: &str = "1";

/// What a step depends on: names and values, in the order in which they are explained.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fields(Vec<(String, String)>);

/// The first thing in which a step differs from what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Which field.
    pub name: String,
    /// What it was; `None` where there was none.
    pub before: Option<String>,
    /// What it is.
    pub now: Option<String>,
}

impl Fields {
    fn of(form: &str, platform: &Platform) -> Self {
        let mut fields = Self::default();
        fields.add("rootling", VERSION);
        fields.add("form", form);
        fields.add("platform", platform.to_string());
        fields
    }

    fn add(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push((name.into(), value.into()));
    }

    /// Takes them from a record.
    pub fn from_pairs(pairs: Vec<(String, String)>) -> Self {
        Self(pairs)
    }

    /// Returns them as the record of a step keeps them.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// Returns their digest: of each name and value with its length, so that no two lists give the same bytes.
    pub fn key(&self) -> Digest {
        let mut bytes = Vec::new();
        for text in self.0.iter().flat_map(|(name, value)| [name, value]) {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        Digest::sha256_of(&bytes)
    }

    /// Returns the first of them that is not what it was.
    pub fn first_difference(&self, before: &[(String, String)]) -> Option<Difference> {
        let value = |pairs: &[(String, String)], name: &str| {
            pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
        };
        let names = self.0.iter().chain(before).map(|(name, _)| name);
        names
            .map(|name| Difference {
                name: name.clone(),
                before: value(before, name),
                now: value(&self.0, name),
            })
            .find(|found| found.before != found.now)
    }
}

/// Returns what a command depends on. `contents` says what each of its bind mounts shows, as [`of_copy`] takes it.
pub fn of_run(step: &RunStep, parent: &str, platform: &Platform, contents: &[String]) -> Fields {
    let mut fields = Fields::of("run", platform);
    fields.add("command", serde_json::to_string(&step.args).expect("a list of text"));
    for (path, content, mode) in &step.files {
        fields.add(format!("script {path} {mode:o}"), content);
    }
    for (name, value) in &step.env {
        fields.add(format!("variable {name}"), value);
    }
    fields.add("user", &step.user);
    fields.add("directory", &step.workdir);
    fields.add(
        "network",
        match step.network {
            Network::Default => "default",
            Network::None => "none",
            Network::Host => "host",
        },
    );
    fields.add(
        "security",
        match step.security {
            Security::Sandbox => "sandbox",
            Security::Insecure => "insecure",
        },
    );
    let mut contents = contents.iter();
    for mount in &step.mounts {
        let (name, value) = of_mount(mount);
        fields.add(&name, value);
        if let (MountKind::Bind { .. }, Some(content)) = (&mount.kind, contents.next()) {
            fields.add(format!("{name} content"), content);
        }
    }
    fields.add("parent", parent);
    fields
}

/// What a mount is, without what it shows.
fn of_mount(mount: &RunMount) -> (String, String) {
    let name = format!("mount {}", mount.target);
    let value = match &mount.kind {
        MountKind::Bind { source, writable, .. } => format!("bind {source:?} writable={writable}"),
        MountKind::Cache { id, read_only, owner, .. } => {
            format!("cache {id:?} read-only={read_only} owner={}", of_owner(owner))
        }
        MountKind::Tmpfs { .. } => "tmpfs".to_owned(),
        MountKind::Secret { id, env, is_file, owner, .. } => {
            format!("secret {id:?} variable={env:?} file={is_file} owner={}", of_owner(owner))
        }
        MountKind::Ssh { id, owner, .. } => format!("ssh {id:?} owner={}", of_owner(owner)),
    };
    (name, value)
}

fn of_owner(Owner { uid, gid, mode }: &Owner) -> String {
    format!("{uid}:{gid} mode={mode:o}")
}

/// Returns what a copy depends on.
///
/// `content` is the digest of what is read, or the key of the stage that it is read from: the first for what is there before anything
/// is done, the second so that a stage need not be made in order to know.
pub fn of_copy(step: &CopyStep, parent: &str, platform: &Platform, content: &str) -> Fields {
    let mut fields = Fields::of(if step.is_add { "add" } else { "copy" }, platform);
    fields.add("sources", serde_json::to_string(&step.sources).expect("a list of text"));
    fields.add("destination", &step.destination);
    for file in &step.heredocs {
        fields.add(format!("file {}", file.name), &file.content);
    }
    let given = [
        ("owner", step.chown.clone()),
        ("mode", step.chmod.clone()),
        ("checksum", step.checksum.clone()),
        ("unpack", step.unpack.map(|unpack| unpack.to_string())),
    ];
    for (name, value) in given {
        if let Some(value) = value {
            fields.add(name, value);
        }
    }
    let switches =
        [("link", step.link), ("parents", step.parents), ("keep git directory", step.keep_git_dir)];
    for (name, _) in switches.iter().filter(|(_, is_on)| *is_on) {
        fields.add(*name, "yes");
    }
    if !step.exclude.is_empty() {
        fields.add("left out", serde_json::to_string(&step.exclude).expect("a list of text"));
    }
    fields.add("files", content);
    fields.add("parent", parent);
    fields
}

/// Returns what a directory depends on.
pub fn of_dir(path: &str, user: &str, parent: &str, platform: &Platform) -> Fields {
    let mut fields = Fields::of("directory", platform);
    fields.add("path", path);
    fields.add("user", user);
    fields.add("parent", parent);
    fields
}

#[cfg(test)]
mod tests {
    use super::super::plan::Sharing;
    use super::*;

    fn run(args: &[&str], env: &[(&str, &str)]) -> Fields {
        let step = RunStep {
            args: args.iter().map(|text| (*text).to_owned()).collect(),
            files: vec![],
            env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            quiet_env: [("HTTP_PROXY".to_owned(), args.concat())].into(),
            user: String::new(),
            workdir: "/".to_owned(),
            mounts: vec![],
            network: Network::Default,
            security: Security::Sandbox,
        };
        of_run(&step, "parent", &Platform::host(), &[])
    }

    #[test]
    fn a_key_tells_apart_what_only_looks_alike() {
        let keys = [
            run(&["a", "b"], &[]).key(),
            run(&["a b"], &[]).key(),
            run(&["ab"], &[("X", "1")]).key(),
            run(&["ab"], &[("X", "")]).key(),
            run(&["ab"], &[]).key(),
            run(&["ab"], &[("X", "1"), ("Y", "2")]).key(),
            run(&["ab"], &[("X", "1Y2")]).key(),
        ];
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[..index].contains(key), "{index}");
        }
    }

    #[test]
    fn a_key_says_which_secret_and_cache_it_was_and_not_what_they_hold() {
        let owner = Owner { uid: 0, gid: 0, mode: 0o400 };
        let secret = |id: &str, required, owner| MountKind::Secret {
            id: id.to_owned(),
            required,
            env: None,
            is_file: true,
            owner,
        };
        let of = |kind| of_mount(&RunMount { target: "/m".to_owned(), kind });
        assert_eq!(of(secret("a", true, owner)), of(secret("a", false, owner)));
        assert_ne!(of(secret("a", true, owner)), of(secret("b", true, owner)));
        assert_ne!(of(secret("a", true, owner)), of(secret("a", true, Owner { mode: 0o444, ..owner })));
        let ssh = |id: &str| MountKind::Ssh { id: id.to_owned(), required: true, owner };
        assert_ne!(of(ssh("a")), of(ssh("b")));
        let cache = |id: &str, sharing| MountKind::Cache {
            id: id.to_owned(),
            sharing,
            from: None,
            source: "/".to_owned(),
            read_only: false,
            owner,
        };
        assert_eq!(of(cache("a", Sharing::Shared)), of(cache("a", Sharing::Locked)));
        assert_ne!(of(cache("a", Sharing::Shared)), of(cache("b", Sharing::Shared)));
    }

    #[test]
    fn what_differs_first_is_named() {
        let (old, new) = (run(&["a"], &[("X", "1")]), run(&["a"], &[("X", "2"), ("Y", "")]));
        assert_eq!(old.first_difference(old.pairs()), None);
        let found = new.first_difference(old.pairs()).unwrap();
        assert_eq!((found.name.as_str(), found.before.as_deref()), ("variable X", Some("1")));
        assert_eq!(found.now.as_deref(), Some("2"));
        let gone = run(&["a"], &[]).first_difference(old.pairs()).unwrap();
        assert_eq!((gone.name.as_str(), gone.now), ("variable X", None));
    }
}
