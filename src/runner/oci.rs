//! A box as a `config.json` of the [runtime specification](https://github.com/opencontainers/runtime-spec/blob/main/spec.md), for runc, crun,
//! youki and whoever calls them.
//!
//! The same [`Spec`] that [`Plan`] puts in order for our own runner, so the walls are the same: capabilities, masks, the filter. What
//! that form cannot say is refused by name, and nothing is left out in silence. What another runtime does itself is left to it: the usual
//! devices, the order of steps, making a working directory that is missing, removing nothing that it made in the tree.
//!
//! | ours | there |
//! |---|---|
//! | root file system | `root.path`, a mount that is there already |
//! | generated files (`/etc/hosts`) | files beside `config.json`, bound |
//! | Landlock | cannot be said: refused |
//! | a private network with its ways out | cannot be said: refused; `network` alone has loopback only |
//! | what lies under a throw-away layer, owners given or mapped | cannot be said: refused |
//! | namespaces of a running box | refused: the file outlives the box, and the path would name another process one day |
//!
//! This module opens nothing; of devices it looks up the numbers.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rootling_backends::{Error, ErrorKind, Result};
use serde::Serialize;

use super::caps;
use super::cgroup::Resources;
use super::plan::Plan;
use super::spec::{IdMap, Join, Namespace, Net, Spec, Time, Tty, Ulimit, Userns};

mod devices;
mod mounts;

pub use super::seccomp::{Argument, OciSeccomp, Syscall};
pub use devices::{Device, DeviceRule};
pub use mounts::Mount;

/// `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Configuration {
    /// The oldest version of the specification that has all that is said here.
    pub oci_version: &'static str,
    /// The command.
    pub process: Process,
    /// The root file system.
    pub root: Root,
    /// The name of the machine as seen inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// What is mounted in it, in order.
    pub mounts: Vec<Mount>,
    /// What the image says of itself.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What Linux alone has.
    pub linux: Linux,
}

/// `process`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Does it get a terminal?
    pub terminal: bool,
    /// Who it is.
    pub user: User,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// The whole environment.
    pub env: Vec<String>,
    /// The working directory.
    pub cwd: String,
    /// What it may do.
    pub capabilities: Capabilities,
    /// Its limits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rlimits: Vec<Rlimit>,
    /// Does `execve` never give privileges?
    pub no_new_privileges: bool,
    /// How gladly the kernel kills it when memory is short.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
}

/// `process.user`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub additional_gids: Vec<u32>,
}

/// `process.capabilities`; none is inheritable or ambient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// Those that can ever be had.
    pub bounding: Vec<String>,
    /// Those that count.
    pub effective: Vec<String>,
    /// Those that may be made to count.
    pub permitted: Vec<String>,
}

/// One of `process.rlimits`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rlimit {
    /// `RLIMIT_*`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What is in force.
    pub soft: u64,
    /// How far it may be raised.
    pub hard: u64,
}

/// `root`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Root {
    /// From where `config.json` is.
    pub path: String,
    /// Can nothing be written to it?
    pub readonly: bool,
}

/// `linux`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Linux {
    /// Those of its own, and those that are joined.
    pub namespaces: Vec<NamespaceOf>,
    /// Users, of a user namespace.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uid_mappings: Vec<IdMapping>,
    /// Groups, of a user namespace.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gid_mappings: Vec<IdMapping>,
    /// How clocks of its own are off.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub time_offsets: BTreeMap<&'static str, Offset>,
    /// Devices besides the usual ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
    /// What it may use.
    pub resources: WithDevices,
    /// Kernel parameters.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctl: BTreeMap<String, String>,
    /// Which system calls the kernel does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<OciSeccomp>,
    /// What shows as empty.
    pub masked_paths: Vec<String>,
    /// What cannot be written.
    pub readonly_paths: Vec<String>,
}

/// One of `linux.namespaces`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NamespaceOf {
    /// Of what.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The one that is joined; without it a new one is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// One of the mappings of ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IdMapping {
    /// The first inside.
    #[serde(rename = "containerID")]
    pub container_id: u32,
    /// The first outside.
    #[serde(rename = "hostID")]
    pub host_id: u32,
    /// How many.
    pub size: u32,
}

/// One of `linux.timeOffsets`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Offset {
    /// Seconds.
    pub secs: i64,
    /// And nanoseconds.
    pub nanosecs: u32,
}

/// `linux.resources`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WithDevices {
    /// Who may use which devices, the last that fits.
    pub devices: Vec<DeviceRule>,
    /// The rest.
    #[serde(flatten)]
    pub rest: Resources,
}

impl Configuration {
    /// Makes the configuration of a box whose root file system and generated files are found at these places, the latter by the names that
    /// [`file_name`] gives them.
    ///
    /// `bounding` are the capabilities that can be had at all: runtimes refuse to start what asks for more.
    ///
    /// # Errors
    ///
    /// What [`Plan::build`] refuses, and of kind `Unsupported` what the specification has no words for.
    pub fn build(
        spec: &Spec,
        root: &Path,
        files: &Path,
        bounding: u64,
        annotations: BTreeMap<String, String>,
    ) -> Result<Self> {
        // Refuses what is wrong by itself, in the same words.
        let plan = Plan::build(spec)?;
        if spec.security.landlock {
            return Err(cannot("Landlock", "leave out --security-opt landlock"));
        }
        let has_own_name = spec.namespaces.uts == Namespace::Private;
        let seccomp = plan.command.seccomp.as_ref().map(super::SeccompFilter::oci);
        let linux = Linux {
            namespaces: namespaces(spec)?,
            uid_mappings: mappings(&spec.userns, |uids, _| uids),
            gid_mappings: mappings(&spec.userns, |_, gids| gids),
            time_offsets: offsets(&spec.namespaces.time),
            devices: devices::nodes(&spec.devices)?,
            resources: WithDevices { devices: devices::rules(spec)?, rest: spec.limits.oci()? },
            sysctl: spec
                .sysctls
                .iter()
                .map(|(name, value)| (name.replace('/', "."), value.clone()))
                .collect(),
            seccomp,
            masked_paths: paths(&spec.security.masked)?,
            readonly_paths: paths(&spec.security.read_only)?,
        };
        let mounts = mounts::mounts(spec, files)?;
        let is_newer = linux.seccomp.is_some()
            || linux.namespaces.iter().any(|namespace| namespace.kind == "time")
            || mounts.iter().any(Mount::is_recursive);
        Ok(Self {
            // Errors of a filter that differ, clocks, and restrictions on all that is mounted in a directory are of 1.1.
            oci_version: if is_newer { "1.1.0" } else { "1.0.2" },
            process: process(spec, bounding)?,
            root: Root { path: text(root.as_os_str())?, readonly: spec.read_only },
            hostname: has_own_name.then(|| spec.hostname.clone()),
            mounts,
            annotations,
            linux,
        })
    }

    /// Returns the text of the file.
    pub fn to_text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("plain fields, and text as keys");
        text.push('\n');
        text
    }
}

/// Returns what the file is called that a generated one is kept in.
pub fn file_name(target: &Path) -> PathBuf {
    let text = target.to_string_lossy();
    text.trim_matches('/').replace('/', "-").into()
}

fn process(spec: &Spec, bounding: u64) -> Result<Process> {
    let process = &spec.process;
    let list = |texts: &[std::ffi::OsString]| texts.iter().map(|one| text(one)).collect::<Result<Vec<_>>>();
    let held = caps::Names(spec.security.capabilities & bounding).list();
    let held: Vec<String> = held.iter().map(|name| format!("CAP_{}", name.to_ascii_uppercase())).collect();
    let user = &process.user;
    Ok(Process {
        terminal: process.tty == Tty::On,
        user: User { uid: user.uid, gid: user.gid, additional_gids: user.groups.clone() },
        args: list(&process.args)?,
        env: list(&process.env)?,
        cwd: text(process.cwd.as_os_str())?,
        capabilities: Capabilities { bounding: held.clone(), effective: held.clone(), permitted: held },
        rlimits: spec.security.ulimits.iter().map(rlimit).collect::<Result<_>>()?,
        no_new_privileges: spec.security.no_new_privileges,
        oom_score_adj: spec.limits.oom_score_adj,
    })
}

fn rlimit(limit: &Ulimit) -> Result<Rlimit> {
    let name = limit.name().ok_or_else(|| {
        cannot(&format!("the limit {}", limit.resource), "leave out the limit that has no name")
    })?;
    let kind = format!("RLIMIT_{}", name.to_ascii_uppercase());
    Ok(Rlimit { kind, soft: limit.soft, hard: limit.hard })
}

fn namespaces(spec: &Spec) -> Result<Vec<NamespaceOf>> {
    let all = &spec.namespaces;
    let time = match &all.time {
        Time::Host => Namespace::Host,
        Time::Private { .. } => Namespace::Private,
        Time::Join(join) => Namespace::Join(join.clone()),
    };
    if let Net::Private(private) = &all.net {
        let what = format!("a network by {}", private.way.name());
        let hint = "make it beforehand and name it: --net ns:/run/netns/NAME; --net none has loopback only";
        return Err(cannot(&what, hint));
    }
    let mut found = vec![NamespaceOf { kind: "mount", path: None }];
    let wanted = [
        ("pid", all.pid.clone()),
        ("ipc", all.ipc.clone()),
        ("uts", all.uts.clone()),
        ("cgroup", all.cgroup.clone()),
        ("network", all.net.namespace()),
        ("time", time),
    ];
    for (kind, namespace) in wanted {
        match namespace {
            Namespace::Host => {}
            Namespace::Private => found.push(NamespaceOf { kind, path: None }),
            Namespace::Join(Join::Path(path)) => {
                found.push(NamespaceOf { kind, path: Some(text(path.as_os_str())?) });
            }
            Namespace::Join(Join::Box(_)) => return Err(of_box(kind)),
        }
    }
    match &spec.userns {
        Userns::Host => {}
        Userns::Private { .. } => found.push(NamespaceOf { kind: "user", path: None }),
        Userns::Join(_) => return Err(of_box("user")),
    }
    Ok(found)
}

fn of_box(kind: &str) -> Error {
    cannot(
        &format!("the {kind} namespace of a running box"),
        "the file outlives the box: name a namespace that lasts, as ns:/run/netns/NAME",
    )
}

fn mappings(userns: &Userns, which: fn(Vec<IdMap>, Vec<IdMap>) -> Vec<IdMap>) -> Vec<IdMapping> {
    let Userns::Private { uid_map, gid_map, .. } = userns else { return Vec::new() };
    let ranges = which(uid_map.clone(), gid_map.clone()).into_iter();
    ranges
        .map(|IdMap { inside, outside, count }| IdMapping {
            container_id: inside,
            host_id: outside,
            size: count,
        })
        .collect()
}

fn offsets(time: &Time) -> BTreeMap<&'static str, Offset> {
    const SECOND: i64 = 1_000_000_000;
    let Time::Private { monotonic_ns, boottime_ns } = time else { return BTreeMap::new() };
    let offset = |ns: i64| Offset {
        secs: ns.div_euclid(SECOND),
        nanosecs: u32::try_from(ns.rem_euclid(SECOND)).expect("less than a second"),
    };
    [("monotonic", offset(*monotonic_ns)), ("boottime", offset(*boottime_ns))].into()
}

fn paths(list: &[PathBuf]) -> Result<Vec<String>> {
    list.iter().map(|path| text(path.as_os_str())).collect()
}

/// JSON is text.
fn text(bytes: &OsStr) -> Result<String> {
    bytes.to_str().map(str::to_owned).ok_or_else(|| {
        let error = Error::new(ErrorKind::InvalidInput, format!("{bytes:?} is not UTF-8"));
        error.hint("a runtime configuration is JSON, which holds text only")
    })
}

fn cannot(what: &str, hint: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("a runtime configuration cannot say {what}")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::super::spec::{Namespaces, Security};
    use super::super::{Limits, User as Who};
    use super::*;

    fn spec() -> Spec {
        Spec {
            root: rootling_backends::Mount::Bind { source: "/tree".into() },
            read_only: false,
            process: super::super::Process {
                args: vec!["tool".into()],
                env: Vec::new(),
                cwd: "/".into(),
                user: Who::ROOT,
                tty: Tty::Off,
            },
            hostname: "inside".into(),
            namespaces: Namespaces::PRIVATE,
            userns: Userns::Host,
            security: Security { landlock: false, ..Security::default() },
            limits: Limits::default(),
            shm_bytes: None,
            devices: Vec::new(),
            sysctls: Vec::new(),
            tmpfs: Vec::new(),
            binds: Vec::new(),
            make_dirs: Vec::new(),
            files: Vec::new(),
        }
    }

    fn configuration(spec: &Spec) -> Result<Configuration> {
        Configuration::build(spec, Path::new("rootfs"), Path::new("/files"), u64::MAX, BTreeMap::new())
    }

    #[test]
    fn shared_memory_has_the_size_that_was_asked_for() {
        for (bytes, says) in [(None, "size=65536k"), (Some(1 << 20), "size=1048576")] {
            let made = configuration(&Spec { shm_bytes: bytes, ..spec() }).unwrap();
            let shm = made.mounts.iter().find(|mount| mount.destination == "/dev/shm").unwrap();
            assert!(shm.options.iter().any(|option| option == says), "{shm:?}");
        }
    }

    #[test]
    fn a_limit_without_a_name_is_refused() {
        let limit = Ulimit { resource: 99, soft: 1, hard: 1 };
        let security = Security { ulimits: vec![limit], ..spec().security };
        let error = configuration(&Spec { security, ..spec() }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("the limit 99"), "{error}");
    }
}
