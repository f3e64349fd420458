//! crun and runc with bundles that are ready: what is timed begins when the configuration has been written.
//!
//! The configuration is what the runtime's own `spec` prints, with the tree as its root, without limits (a bench may have no right
//! to set them), and with the namespaces that rootling makes added where they lack.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use rootling_backends::{Context, Error, ErrorKind, Result};
use serde_json::{Value, json};

use super::guest::Guest;
use crate::command::{command, timed};
use crate::fixture::Scratch;

/// Each container has a name that no other had.
static CONTAINERS: AtomicUsize = AtomicUsize::new(0);

/// One runtime as one user, with bundles of one tree.
#[derive(Debug)]
pub(super) struct Bundles {
    runtime: &'static str,
    directory: PathBuf,
    state: PathBuf,
    config: Value,
}

impl Bundles {
    /// `run` is a tmpfs, as `/run` is on most machines. A second call of the same kind shares what the first one made.
    pub(super) fn new(
        runtime: &'static str,
        guest: Option<&Guest>,
        tree: &Path,
        directory: &Path,
        run: &Path,
    ) -> Result<Self> {
        let name = guest.map_or_else(|| runtime.to_owned(), |guest| format!("{runtime}-{}", guest.id()));
        let bundles = directory.join(&name);
        let state = run.join(&name);
        for path in [&bundles, &state] {
            std::fs::create_dir_all(path).context(|| format!("mkdir({path:?})"))?;
        }
        let mut spec = command(runtime, ["spec"]);
        if let Some(guest) = guest {
            spec.arg("--rootless");
            chown(&state, Some(guest.id()), Some(guest.id())).context(|| format!("chown({state:?})"))?;
        }
        let path = bundles.join("config.json");
        if !path.exists() {
            timed(spec.current_dir(&bundles))?;
        }
        let text = std::fs::read_to_string(&path).context(|| format!("read({path:?})"))?;
        let mut config: Value = serde_json::from_str(&text).map_err(|error| {
            Error::new(ErrorKind::Corrupt, format!("`{runtime} spec` wrote no JSON: {error}"))
        })?;
        edit(&mut config, tree, guest)?;
        Ok(Self { runtime, directory: bundles, state, config })
    }

    /// Returns a name for a container.
    pub(super) fn name(&self) -> String {
        format!("bench-{}", CONTAINERS.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes the bundle of these words, if this is the first time, and returns the command that runs it as `name`.
    pub(super) fn run(&self, name: &str, words: &[&str]) -> Result<Command> {
        let mut hasher = DefaultHasher::new();
        words.hash(&mut hasher);
        let bundle = self.directory.join(format!("{:016x}", hasher.finish()));
        if !bundle.exists() {
            std::fs::create_dir(&bundle).context(|| format!("mkdir({bundle:?})"))?;
            let mut config = self.config.clone();
            config["process"]["args"] = json!(words);
            let path = bundle.join("config.json");
            std::fs::write(&path, config.to_string()).context(|| format!("write {path:?}"))?;
        }
        let mut command = self.command("run", None);
        command.arg("--bundle").arg(bundle).arg(name);
        Ok(command)
    }

    /// Returns the command that runs these words in a container that runs.
    pub(super) fn exec(&self, name: &str, words: &[&str]) -> Command {
        let mut command = self.command("exec", None);
        command.arg(name).args(words);
        command
    }

    /// Returns the command that ends a container, whatever state it is in.
    pub(super) fn delete(&self, name: &str) -> Command {
        let mut command = self.command("delete", Some("--force"));
        command.arg(name);
        command
    }

    fn command(&self, verb: &str, flag: Option<&str>) -> Command {
        let mut command = command(self.runtime, ["--root"]);
        command.arg(&self.state);
        // rootling makes no cgroup either where no limit is asked for; runc has no such choice.
        if self.runtime == "crun" {
            command.arg("--cgroup-manager=disabled");
        }
        command.arg(verb).args(flag);
        command
    }
}

fn edit(config: &mut Value, tree: &Path, guest: Option<&Guest>) -> Result<()> {
    let strange = || Error::new(ErrorKind::Corrupt, "`spec` wrote a configuration of another shape");
    let process = config["process"].as_object_mut().ok_or_else(strange)?;
    process.insert("terminal".to_owned(), json!(false));
    process.remove("rlimits");
    config["root"] = json!({ "path": tree, "readonly": false });
    let linux = config["linux"].as_object_mut().ok_or_else(strange)?;
    linux.remove("resources");
    if let Some(guest) = guest {
        let map = json!([{ "containerID": 0, "hostID": guest.id(), "size": 1 }]);
        linux.insert("uidMappings".to_owned(), map.clone());
        linux.insert("gidMappings".to_owned(), map);
    }
    let namespaces = linux.get_mut("namespaces").and_then(Value::as_array_mut).ok_or_else(strange)?;
    for kind in ["cgroup", "network"] {
        if !namespaces.iter().any(|namespace| namespace["type"] == kind) {
            namespaces.push(json!({ "type": kind }));
        }
    }
    Ok(())
}

/// Lets crun run where cgroups are mounted in both versions, which it refuses when the second has controllers of its own: in the
/// bench's mount namespace it has none. Returns what to say of it.
pub(crate) fn hide_hybrid_controllers(scratch: &Scratch) -> Result<Option<String>> {
    let controllers = Path::new("/sys/fs/cgroup/unified/cgroup.controllers");
    if std::fs::read_to_string(controllers).unwrap_or_default().trim().is_empty() {
        return Ok(None);
    }
    let none = scratch.path().join("no-controllers");
    std::fs::write(&none, "").context(|| format!("write {none:?}"))?;
    timed(command("mount", ["--bind"]).arg(&none).arg(controllers))?;
    Ok(Some("crun sees no controllers of cgroups v2: it refuses machines with both versions".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_has_the_tree_the_missing_namespaces_and_no_limits() {
        let mut config = json!({
            "process": { "terminal": true, "args": ["sh"], "rlimits": [1] },
            "root": { "path": "rootfs", "readonly": true },
            "linux": { "resources": {}, "namespaces": [{ "type": "pid" }, { "type": "network" }] },
        });
        edit(&mut config, Path::new("/tree"), None).unwrap();
        let expected = json!({
            "process": { "terminal": false, "args": ["sh"] },
            "root": { "path": "/tree", "readonly": false },
            "linux": { "namespaces": [{ "type": "pid" }, { "type": "network" }, { "type": "cgroup" }] },
        });
        assert_eq!(config, expected);
        assert!(edit(&mut json!({}), Path::new("/tree"), None).is_err());
    }
}
