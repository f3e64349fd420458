//! What to run and in what surroundings: plain data, nothing opened, nothing checked against the host.

use std::ffi::OsString;
use std::path::PathBuf;

use rootling_backends::Mount;
use serde::{Deserialize, Serialize};

use super::cgroup::Limits;
use super::net::Private;
use super::running::Running;
use super::seccomp::Choice as Seccomp;
use super::user::User;

mod mounts;

pub use mounts::{Bind, FileAt, Owners, Restrictions, Tmpfs};

/// A box: a root filesystem, what is mounted in it, its walls, and the command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The root filesystem.
    pub root: Mount,
    /// May nothing be written to it?
    pub read_only: bool,
    /// The command.
    pub process: Process,
    /// The name of the machine as seen inside; needs a UTS namespace that is the box's own.
    pub hostname: String,
    /// What of the kernel's state is the box's own.
    pub namespaces: Namespaces,
    /// The user namespace.
    pub userns: Userns,
    /// What the box may not do, though its user could.
    pub security: Security,
    /// What the box may use at most. Without limits it has no cgroup of its own.
    #[serde(default)]
    pub limits: Limits,
    /// Bytes that `/dev/shm` may hold; `None` for its share of the 64 MiB of `/dev`.
    #[serde(default)]
    pub shm_bytes: Option<u64>,
    /// Devices of the host shown inside besides the usual six.
    pub devices: Vec<Device>,
    /// Kernel parameters of the box's own namespaces, as sysctl(8) names them.
    pub sysctls: Vec<(String, String)>,
    /// Empty file systems in memory.
    pub tmpfs: Vec<Tmpfs>,
    /// Directories and files of the host shown inside.
    pub binds: Vec<Bind>,
    /// Directories that are made in the tree where they are missing, with those above them, by root and for all to read.
    #[serde(default)]
    pub make_dirs: Vec<PathBuf>,
    /// Files with content made by the caller, shown over those of the tree and thrown away at the end.
    pub files: Vec<FileAt>,
}

/// A command and the identity and terminal it gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The program and its arguments; a program without `/` is looked up in the `PATH` of `env`, inside.
    #[serde(with = "text_list")]
    pub args: Vec<OsString>,
    /// The whole environment, `NAME=value`.
    #[serde(with = "text_list")]
    pub env: Vec<OsString>,
    /// The working directory, inside.
    pub cwd: PathBuf,
    /// Who runs it.
    pub user: User,
    /// Whether it gets a terminal of its own.
    pub tty: Tty,
}

/// When a process gets a terminal of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tty {
    /// When our standard input and output both are terminals.
    Auto,
    /// Always.
    On,
    /// Never: our three descriptors are passed on as they are.
    Off,
}

/// Which namespaces a box has to itself; the mount namespace always is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Processes.
    pub pid: Namespace,
    /// System V IPC and POSIX message queues.
    pub ipc: Namespace,
    /// Host name.
    pub uts: Namespace,
    /// Where in the tree of cgroups the box believes to be.
    pub cgroup: Namespace,
    /// Network.
    pub net: Net,
    /// Monotonic and boot-time clocks.
    pub time: Time,
}

impl Namespaces {
    /// Everything the box's own, and no network.
    pub const PRIVATE: Self = Self {
        pid: Namespace::Private,
        ipc: Namespace::Private,
        uts: Namespace::Private,
        cgroup: Namespace::Private,
        net: Net::None,
        time: Time::Host,
    };
}

/// Whose namespace is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Namespace {
    /// The caller's.
    Host,
    /// A new one.
    Private,
    /// One that exists.
    Join(Join),
}

/// A namespace that exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Join {
    /// That of a running box.
    Box(Box<Running>),
    /// That behind a file: `/proc/PID/ns/*`, `/run/netns/NAME`.
    Path(PathBuf),
}

/// Which network is seen inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Net {
    /// The caller's.
    Host,
    /// None but loopback.
    None,
    /// One of its own that is connected to the host's.
    Private(Private),
    /// One that exists.
    Join(Join),
}

impl Net {
    /// As a namespace like the others.
    pub(super) fn namespace(&self) -> Namespace {
        match self {
            Self::Host => Namespace::Host,
            Self::None | Self::Private(_) => Namespace::Private,
            Self::Join(join) => Namespace::Join(join.clone()),
        }
    }
}

/// Which clocks are seen inside (time_namespaces(7)); the time of day is always the host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Time {
    /// The caller's.
    Host,
    /// Those of one's own, shifted against the caller's.
    Private {
        /// Nanoseconds added to `CLOCK_MONOTONIC`.
        monotonic_ns: i64,
        /// Nanoseconds added to `CLOCK_BOOTTIME`.
        boottime_ns: i64,
    },
    /// Those of one that exists.
    Join(Join),
}

/// Which users exist inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Userns {
    /// The caller's.
    Host,
    /// Those mapped; user and group 0 must be among them.
    Private {
        /// Users.
        uid_map: Vec<IdMap>,
        /// Groups.
        gid_map: Vec<IdMap>,
        /// Show the tree through an id-mapped mount, so that its files have the owners that are on disk inside, and
        /// what is written inside lies on disk under the ids it has there. Otherwise owners go through the maps.
        idmapped_tree: bool,
    },
    /// Those of a running box; the tree is shown as that box sees it.
    Join(Join),
}

impl Userns {
    /// Has the box a user namespace that lies in its caller's?
    pub(super) fn is_own(&self) -> bool {
        match self {
            Self::Private { .. } => true,
            Self::Join(Join::Box(running)) => running.userns.is_own(),
            Self::Host | Self::Join(Join::Path(_)) => false,
        }
    }

    /// Is the tree shown through the maps, so that it can be mounted only once they are there?
    pub fn maps_tree(&self) -> bool {
        match self {
            Self::Private { idmapped_tree, .. } => *idmapped_tree,
            Self::Join(Join::Box(running)) => running.userns.maps_tree(),
            Self::Host | Self::Join(Join::Path(_)) => false,
        }
    }

    /// Returns what a user and a group of the caller's are inside; `None` where there are no maps, or none for them.
    pub fn inside(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        match self {
            Self::Private { uid_map, gid_map, .. } => Some((inside(uid_map, uid)?, inside(gid_map, gid)?)),
            Self::Join(Join::Box(running)) => running.userns.inside(uid, gid),
            Self::Host | Self::Join(Join::Path(_)) => None,
        }
    }

    /// Returns what a user and a group inside are outside; `None` where there are no maps, or none for them.
    pub fn outside(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        match self {
            Self::Private { uid_map, gid_map, .. } => Some((outside(uid_map, uid)?, outside(gid_map, gid)?)),
            Self::Join(Join::Box(running)) => running.outside(uid, gid),
            Self::Host | Self::Join(Join::Path(_)) => None,
        }
    }
}

fn inside(map: &[IdMap], id: u32) -> Option<u32> {
    map.iter().find_map(|range| {
        let offset = id.checked_sub(range.outside).filter(|offset| *offset < range.count)?;
        range.inside.checked_add(offset)
    })
}

fn outside(map: &[IdMap], id: u32) -> Option<u32> {
    map.iter().find_map(|range| {
        let offset = id.checked_sub(range.inside).filter(|offset| *offset < range.count)?;
        range.outside.checked_add(offset)
    })
}

/// What a box may not do, though its user could. The same for every command in it, `exec` included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// Capabilities that stay where the caller has them: bounding, permitted and effective. None is inheritable or ambient.
    #[serde(with = "super::caps")]
    pub capabilities: u64,
    /// Does `execve` never give privileges (no set-user-id, no file capabilities)?
    pub no_new_privileges: bool,
    /// Paths below `/proc` and `/sys` that show as empty. Those that do not exist are no matter.
    pub masked: Vec<PathBuf>,
    /// Paths below `/proc` and `/sys` that cannot be written. Those that do not exist are no matter.
    pub read_only: Vec<PathBuf>,
    /// Is `/sys` writable where the kernel lets its user?
    pub writable_sys: bool,
    /// Do device nodes work that are in the tree or made inside?
    pub device_nodes: bool,
    /// Limits of each process (getrlimit(2)).
    pub ulimits: Vec<Ulimit>,
    /// Is Landlock used, where the kernel has it, to keep files outside the box shut? Needs `no_new_privileges`; what is
    /// inside can then mount nothing, and commands that join cannot trace those that run.
    pub landlock: bool,
    /// Which system calls the kernel does.
    pub seccomp: Seccomp,
}

impl Default for Security {
    /// Docker's capabilities, no new privileges, the masks of SEQUENCE.md, the default filter.
    fn default() -> Self {
        Self {
            capabilities: super::caps::DEFAULT,
            no_new_privileges: true,
            masked: super::walls::MASKED.map(PathBuf::from).to_vec(),
            read_only: super::walls::READ_ONLY.map(PathBuf::from).to_vec(),
            writable_sys: false,
            device_nodes: false,
            ulimits: Vec::new(),
            landlock: false,
            seccomp: Seccomp::Default,
        }
    }
}

impl Security {
    /// No wall but the namespaces: every capability and system call, nothing masked, `/sys` writable, device nodes
    /// work.
    pub fn privileged() -> Self {
        Self {
            capabilities: u64::MAX,
            no_new_privileges: false,
            masked: Vec::new(),
            read_only: Vec::new(),
            writable_sys: true,
            device_nodes: true,
            ulimits: Vec::new(),
            landlock: false,
            seccomp: Seccomp::Unconfined,
        }
    }
}

/// A device of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The host's path; it must be a device.
    pub source: PathBuf,
    /// The path inside, below `/dev`.
    pub target: PathBuf,
}

/// A limit of each process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// `RLIMIT_*`, by its number.
    pub resource: u32,
    /// What is in force; `u64::MAX` is unlimited.
    pub soft: u64,
    /// How far it may be raised.
    pub hard: u64,
}

impl Ulimit {
    /// What can be limited, in docker's words and by number.
    pub const NAMES: [(&str, libc::__rlimit_resource_t); 16] = [
        ("as", libc::RLIMIT_AS),
        ("core", libc::RLIMIT_CORE),
        ("cpu", libc::RLIMIT_CPU),
        ("data", libc::RLIMIT_DATA),
        ("fsize", libc::RLIMIT_FSIZE),
        ("locks", libc::RLIMIT_LOCKS),
        ("memlock", libc::RLIMIT_MEMLOCK),
        ("msgqueue", libc::RLIMIT_MSGQUEUE),
        ("nice", libc::RLIMIT_NICE),
        ("nofile", libc::RLIMIT_NOFILE),
        ("nproc", libc::RLIMIT_NPROC),
        ("rss", libc::RLIMIT_RSS),
        ("rtprio", libc::RLIMIT_RTPRIO),
        ("rttime", libc::RLIMIT_RTTIME),
        ("sigpending", libc::RLIMIT_SIGPENDING),
        ("stack", libc::RLIMIT_STACK),
    ];

    /// Returns the word for what is limited, if there is one.
    pub fn name(&self) -> Option<&'static str> {
        Self::NAMES.iter().find(|(_, resource)| *resource == self.resource).map(|(name, _)| *name)
    }
}

/// One range of ids: `count` from `inside` on are `outside` and those after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// First id in the namespace.
    pub inside: u32,
    /// First id in the caller's namespace.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// Strings of bytes in JSON: text where they are UTF-8, a list of numbers where they are not.
mod text_list {
    use std::ffi::{OsStr, OsString};
    use std::os::unix::ffi::{OsStrExt, OsStringExt};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Text {
        Text(String),
        Bytes(Vec<u8>),
    }

    impl Text {
        fn of(text: &OsStr) -> Self {
            text.to_str()
                .map_or_else(|| Self::Bytes(text.as_bytes().to_vec()), |text| Self::Text(text.into()))
        }
    }

    pub(super) fn serialize<S: Serializer>(list: &[OsString], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(list.iter().map(|text| Text::of(text)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<OsString>, D::Error> {
        let list = Vec::<Text>::deserialize(deserializer)?;
        Ok(list
            .into_iter()
            .map(|text| match text {
                Text::Text(text) => text.into(),
                Text::Bytes(bytes) => OsString::from_vec(bytes),
            })
            .collect())
    }
}
