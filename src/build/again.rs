//! What a command needs to find itself where that of a `RUN` was: flags of the command line, which `enter` of the step adds.
//!
//! The directory, caches, memory, variables, the network, the walls, and what is bound of a directory that stays. Not secrets and agents, which leave no
//! trace, nor what is bound of another stage.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::plan::{Ground, MountKind, Network, RunStep, Security};
use crate::store::VolumeName;

/// Returns the flags; `directory` says which directory of the host a ground is, `None` being the context of the build.
pub fn flags(
    step: &RunStep,
    directory: impl Fn(Option<&Ground>) -> Option<PathBuf>,
) -> BTreeMap<String, Vec<String>> {
    let mut flags: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut add = |long: &str, value: String| flags.entry(long.to_owned()).or_default().push(value);
    add("workdir", step.workdir.clone());
    for (name, value) in &step.env {
        add("env", format!("{name}={value}"));
    }
    for mount in &step.mounts {
        let target = &mount.target;
        match &mount.kind {
            MountKind::Cache { id, read_only, .. } => {
                let options = if *read_only { ":ro" } else { "" };
                add("volume", format!("{}:{target}{options}", VolumeName::of_cache(id)));
            }
            MountKind::Tmpfs { size } => {
                add("tmpfs", size.map_or_else(|| target.clone(), |size| format!("{target}:size={size}")));
            }
            MountKind::Bind { from, source, .. } => {
                let bound = directory(from.as_ref()).map(|place| place.join(source.trim_start_matches('/')));
                let Some(bound) = bound.as_ref().and_then(|bound| bound.to_str()) else { continue };
                // The grammar has no way to say a comma.
                if !bound.contains(',') && !target.contains(',') {
                    add("mount", format!("type=bind,source={bound},target={target},readonly"));
                }
            }
            MountKind::Secret { .. } | MountKind::Ssh { .. } => {}
        }
    }
    match step.network {
        Network::Default => {}
        Network::None => add("net", "none".to_owned()),
        Network::Host => add("net", "host".to_owned()),
    }
    if step.security == Security::Insecure {
        flags.entry("privileged".to_owned()).or_default();
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Owner, RunMount, Sharing};
    use super::*;

    #[test]
    fn flags_say_what_can_be_had_again() {
        let mount = |target: &str, kind| RunMount { target: target.to_owned(), kind };
        let owner = Owner { uid: 0, gid: 0, mode: 0o755 };
        let bind =
            |from: Option<Ground>| MountKind::Bind { from, source: "/src".to_owned(), writable: false };
        let step = RunStep {
            args: vec!["make".to_owned()],
            files: Vec::new(),
            env: BTreeMap::from([("A".to_owned(), "1 2".to_owned())]),
            quiet_env: BTreeMap::from([("http_proxy".to_owned(), "x".to_owned())]),
            user: String::new(),
            workdir: "/".to_owned(),
            mounts: vec![
                mount(
                    "/cache",
                    MountKind::Cache {
                        id: "/cache".to_owned(),
                        sharing: Sharing::Shared,
                        from: None,
                        source: String::new(),
                        read_only: true,
                        owner,
                    },
                ),
                mount("/memory", MountKind::Tmpfs { size: Some(4096) }),
                mount("/bound", bind(None)),
                mount("/other", bind(Some(Ground::Stage(0)))),
                mount(
                    "/secret",
                    MountKind::Secret { id: "x".to_owned(), required: true, env: None, is_file: true, owner },
                ),
            ],
            network: Network::None,
            security: Security::Insecure,
        };
        let found = flags(&step, |from| from.is_none().then(|| PathBuf::from("/here")));
        let expected = [
            ("env", vec!["A=1 2".to_owned()]),
            ("mount", vec!["type=bind,source=/here/src,target=/bound,readonly".to_owned()]),
            ("net", vec!["none".to_owned()]),
            ("privileged", Vec::new()),
            ("tmpfs", vec!["/memory:size=4096".to_owned()]),
            ("volume", vec![format!("{}:/cache:ro", VolumeName::of_cache("/cache"))]),
            ("workdir", vec!["/".to_owned()]),
        ];
        assert_eq!(found, expected.map(|(long, values)| (long.to_owned(), values)).into());
    }
}
