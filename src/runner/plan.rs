//! What will be done, in order: every string made, nothing opened. [`Plan`] is what `--dry-run` prints.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::sched::CloneFlags;
use rootling_backends::{Error, ErrorKind, Result};
use serde::Serialize;

use super::cgroup::Limits;
use super::net::Private;
use super::spec::{Device, Join, Namespace, Namespaces, Net, Owners, Security, Spec, Time, Userns};
use super::user::User;
use print::flag_names;

mod command;
mod mounts;
mod op;
mod order;
mod print;

pub use command::{Command, DEFAULT_PATH};
pub use mounts::PIPES;
pub use op::{Base, Like, NewFs, Op, Part};
pub(super) use order::{DEV_OPTIONS, DEVICES};

/// Everything a box needs, ready for a child that may not allocate.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// The root filesystem, opened before the child goes on.
    pub root: rootling_backends::Mount,
    /// Is it shown read-only?
    pub read_only: bool,
    /// What else of the host is opened before the clone; steps name it by its place here.
    pub sources: Vec<Source>,
    /// Namespaces that exist and are joined before the clone.
    pub joins: Vec<Joined>,
    /// Offsets of the box's own clocks, as `timens_offsets` takes them.
    pub clocks: Option<String>,
    /// `CLONE_NEW*`.
    #[serde(serialize_with = "flag_names")]
    pub namespaces: CloneFlags,
    /// The network that is connected while the child waits.
    pub net: Option<Private>,
    /// Maps that we write for the child.
    pub userns: Userns,
    /// What holds for each command in the box.
    pub security: Security,
    /// What the box may use at most; a cgroup is made for it before the clone.
    pub limits: Limits,
    /// How the name of that cgroup begins.
    pub cgroup: String,
    /// What the first process of the box does, in order.
    pub ops: Vec<Op>,
    /// The command.
    pub command: Command,
}

/// Something of the host that is opened, by the caller and with its rights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Source {
    /// A file or directory.
    Path(PathSource),
    /// A device.
    Device {
        /// The host's path; symbolic links are followed.
        path: PathBuf,
    },
    /// A whole `/dev` of nodes: the usual ones, and more.
    Dev {
        /// The further ones.
        devices: Vec<Device>,
    },
}

/// A file or directory of the host, and how it is opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PathSource {
    /// The host's path; symbolic links are followed.
    pub path: PathBuf,
    /// A tree that is mounted instead.
    pub tree: Option<rootling_backends::Mount>,
    /// What of it, resolved within it.
    pub below: Option<PathBuf>,
    /// With all that is mounted in it?
    pub recursive: bool,
    /// Whose its files are inside.
    pub owners: Owners,
    /// Under a layer in memory that takes what is written?
    pub throw_away: bool,
    /// Under a layer in this directory that takes what is written?
    pub layer: Option<PathBuf>,
    /// User and group, as the host counts them, that all of it is given to.
    pub give: Option<(u32, u32)>,
}

impl PathSource {
    /// Is what is written kept out of it?
    pub(super) fn is_layered(&self) -> bool {
        self.throw_away || self.layer.is_some()
    }

    /// Can it be opened only when the box's user namespace is there?
    pub(super) fn comes_late(&self) -> bool {
        (self.is_layered() || self.tree.is_some()) && self.owners != Owners::Unmapped
    }
}

/// Namespaces that are joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Joined {
    /// Whose.
    pub of: Join,
    /// `CLONE_NEW*`: which.
    #[serde(serialize_with = "flag_names")]
    pub kinds: CloneFlags,
}

impl Plan {
    /// Decides the order and makes every string. Opens nothing; the same spec gives the same plan.
    pub fn build(spec: &Spec) -> Result<Self> {
        check_hostname(&spec.hostname)?;
        check_maps(&spec.userns)?;
        spec.limits.check()?;
        check_landlock(&spec.security)?;
        let mut command = Command::build(&spec.process, &spec.security)?;
        // Root of a user namespace that the box did not start in is in no group of anybody's (BecomeRoot).
        command.is_that_user = spec.userns != Userns::Host && command.user == User::ROOT;
        let mut sources = Vec::new();
        let ops = order::ops(spec, command.tty, &mut sources)?;
        Ok(Self {
            root: spec.root.clone(),
            read_only: spec.read_only,
            sources,
            joins: joins(spec),
            clocks: clocks(&spec.namespaces.time),
            namespaces: namespaces(spec),
            net: match &spec.namespaces.net {
                Net::Private(private) => Some(private.clone()),
                Net::Host | Net::None | Net::Join(_) => None,
            },
            userns: spec.userns.clone(),
            security: spec.security.clone(),
            limits: spec.limits.clone(),
            cgroup: spec.hostname.clone(),
            ops,
            command,
        })
    }
}

/// The namespaces that have a flag and no further settings.
fn simple(namespaces: &Namespaces) -> [(CloneFlags, Namespace); 5] {
    [
        (CloneFlags::CLONE_NEWPID, namespaces.pid.clone()),
        (CloneFlags::CLONE_NEWIPC, namespaces.ipc.clone()),
        (CloneFlags::CLONE_NEWUTS, namespaces.uts.clone()),
        (CloneFlags::CLONE_NEWCGROUP, namespaces.cgroup.clone()),
        (CloneFlags::CLONE_NEWNET, namespaces.net.namespace()),
    ]
}

fn namespaces(spec: &Spec) -> CloneFlags {
    let mut flags = CloneFlags::CLONE_NEWNS;
    for (flag, namespace) in simple(&spec.namespaces) {
        flags.set(flag, namespace == Namespace::Private);
    }
    flags.set(CloneFlags::CLONE_NEWUSER, matches!(spec.userns, Userns::Private { .. }));
    if late_cgroup_namespace(spec) {
        flags.remove(CloneFlags::CLONE_NEWCGROUP);
    }
    flags
}

/// Is the cgroup namespace made by the child itself? Its root is the cgroup in which the process then is, and into
/// those of version 1 the caller moves it only after the clone.
fn late_cgroup_namespace(spec: &Spec) -> bool {
    spec.namespaces.cgroup == Namespace::Private && spec.limits.need_cgroup()
}

/// Files first and user namespaces behind files last, because joining one gives up what the others may need; each
/// box in one call, in which the kernel finds the order.
fn joins(spec: &Spec) -> Vec<Joined> {
    let mut wanted: Vec<(CloneFlags, Join)> = Vec::new();
    for (flag, namespace) in simple(&spec.namespaces) {
        if let Namespace::Join(join) = namespace {
            wanted.push((flag, join));
        }
    }
    if let Time::Join(join) = &spec.namespaces.time {
        wanted.push((sys_flags::NEWTIME, join.clone()));
    }
    if let Userns::Join(join) = &spec.userns {
        wanted.push((CloneFlags::CLONE_NEWUSER, join.clone()));
    }
    let mut joins: Vec<Joined> = Vec::new();
    for (kinds, of) in wanted {
        match joins.iter_mut().find(|known| known.of == of && matches!(of, Join::Box(_))) {
            Some(known) => known.kinds |= kinds,
            None => joins.push(Joined { of, kinds }),
        }
    }
    joins.sort_by_key(|joined| match joined.of {
        Join::Path(_) if joined.kinds != CloneFlags::CLONE_NEWUSER => 0,
        Join::Box(_) => 1,
        Join::Path(_) => 2,
    });
    joins
}

fn clocks(time: &Time) -> Option<String> {
    let Time::Private { monotonic_ns, boottime_ns } = time else { return None };
    Some(format!("monotonic {}\nboottime {}\n", seconds(*monotonic_ns), seconds(*boottime_ns)))
}

/// Seconds and nanoseconds as `timens_offsets` takes them: the second number is never negative.
fn seconds(ns: i64) -> String {
    const SECOND: i64 = 1_000_000_000;
    format!("{} {}", ns.div_euclid(SECOND), ns.rem_euclid(SECOND))
}

/// Flags that the libraries lack.
pub(super) mod sys_flags {
    use nix::sched::CloneFlags;

    /// `CLONE_NEWTIME` (linux/sched.h).
    pub(in crate::runner) const NEWTIME: CloneFlags = CloneFlags::from_bits_retain(0x80);
}

fn check_hostname(name: &str) -> Result<()> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    // HOST_NAME_MAX is 64 (linux/limits.h).
    if name.is_empty() || name.len() > 64 || !name.bytes().all(good) {
        let error = Error::new(ErrorKind::InvalidInput, format!("bad host name {name:?}"));
        return Err(error.hint("use up to 64 letters, digits, '-', '_' and '.'"));
    }
    Ok(())
}

fn check_landlock(security: &Security) -> Result<()> {
    if security.landlock && !security.no_new_privileges {
        let message = "Landlock needs no_new_privileges: it would hold for set-user-id programs too";
        return Err(Error::new(ErrorKind::InvalidInput, message).hint("leave one of the two options out"));
    }
    Ok(())
}

fn check_maps(userns: &Userns) -> Result<()> {
    let Userns::Private { uid_map, gid_map, .. } = userns else { return Ok(()) };
    for (kind, map) in [("user", uid_map), ("group", gid_map)] {
        if !map.iter().any(|range| range.inside == 0 && range.count > 0) {
            return Err(Error::new(ErrorKind::InvalidInput, format!("{kind} 0 is not mapped")));
        }
    }
    Ok(())
}

fn fixed(text: &str) -> CString {
    CString::new(text).expect("our own text has no NUL")
}

fn c_string(text: &OsStr) -> Result<CString> {
    CString::new(text.as_bytes())
        .map_err(|_| Error::new(ErrorKind::InvalidInput, format!("{text:?} contains a NUL byte")))
}

/// Is the network the box's own, so that its `/sys` and its loopback are too?
fn has_own_net(spec: &Spec) -> bool {
    !matches!(spec.namespaces.net, Net::Host | Net::Join(_))
}
