//! What will be done, in order: every string made, nothing opened. [`Plan`] is what `--dry-run` prints.

use std::ffi::{CString, OsStr};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sched::CloneFlags;
use rootling_backends::sys::{MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY};
use rootling_backends::{Error, ErrorKind, Result};
use serde::{Serialize, Serializer};

use super::caps;
use super::spec::{Net, Process, Spec, Tty, Userns};
use super::sys::StringArray;
use super::user::User;

const NO_SUID_DEV_EXEC: u64 = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;

/// The host's devices that every box gets.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const DEV_LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// Hidden: they tell about, or act on, the whole machine. containers-common's list and kallsyms.
const MASKED_PROC: [&str; 10] = [
    "acpi",
    "interrupts",
    "kallsyms",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
];
const MASKED_SYS: [&str; 4] = ["firmware", "fs/selinux", "devices/virtual/powercap", "kernel/debug"];
const READ_ONLY_PROC: [&str; 6] = ["asound", "bus", "fs", "irq", "sys", "sysrq-trigger"];

/// Where a path starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Base {
    /// The root of the box. A target here is one name, never followed, or resolved within the root.
    Root,
    /// The proc file system that was mounted, by descriptor.
    Proc,
    /// The `/sys` that was mounted, by descriptor.
    Sys,
    /// The `/dev` that was mounted, by descriptor.
    Dev,
}

/// A new instance of a file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NewFs {
    /// Its type.
    #[serde(serialize_with = "text")]
    pub fs: CString,
    /// Options, key and value.
    #[serde(serialize_with = "pairs")]
    pub options: Vec<(CString, CString)>,
    /// An option that is left out where the kernel refuses it.
    #[serde(serialize_with = "pairs")]
    pub wishes: Vec<(CString, CString)>,
    /// `MOUNT_ATTR_*`.
    pub attributes: u64,
}

/// One step of the child. Each is a handful of system calls; a failure names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Op {
    /// Ask to be killed when the caller dies, and check that it has not.
    DieWithParent,
    /// Become user and group 0 of the new user namespace.
    BecomeRoot,
    /// Stop mounts made here from showing up on the host.
    SlavePropagation,
    /// Attach the root filesystem over `/`, still reachable by descriptor only.
    AttachRoot,
    /// Mount a new file system on a directory.
    Mount {
        /// What.
        new: NewFs,
        /// Where the target starts.
        base: Base,
        /// The directory: the last name is not followed, unless `resolve`.
        #[serde(serialize_with = "text")]
        target: CString,
        /// Follow symbolic links within the root, because the user named the path.
        resolve: bool,
        /// Make the directory where it is missing.
        make: bool,
        /// Go on without it.
        optional: bool,
        /// Remember its descriptor as this base.
        keep: Option<Base>,
    },
    /// Show the host's `/sys`, read-only: a new one needs a network namespace of its own.
    BindSys,
    /// Show a device of the host after checking that it is that device.
    Device {
        /// Name in the host's and the box's `/dev`.
        #[serde(serialize_with = "text")]
        source: CString,
        /// Name in `/dev`.
        #[serde(serialize_with = "text")]
        target: CString,
        /// Major and minor number it must have.
        device: (u32, u32),
    },
    /// Make a symbolic link in `/dev`.
    DevLink {
        /// Its name.
        #[serde(serialize_with = "text")]
        name: CString,
        /// Where it points.
        #[serde(serialize_with = "text")]
        target: CString,
    },
    /// Show a path of the host.
    Bind {
        /// The host's path.
        #[serde(serialize_with = "text")]
        source: CString,
        /// The path inside, resolved within the root.
        #[serde(serialize_with = "text")]
        target: CString,
        /// `MOUNT_ATTR_*`.
        attributes: u64,
    },
    /// Attach a scratch file system for generated files.
    OpenFiles,
    /// Write a generated file and show it over one of the tree.
    File {
        /// Its name in the scratch file system.
        #[serde(serialize_with = "text")]
        name: CString,
        /// The path inside, resolved within the root.
        #[serde(serialize_with = "text")]
        target: CString,
        /// Its content.
        #[serde(serialize_with = "text")]
        content: CString,
    },
    /// Detach the scratch file system; what is shown of it stays.
    CloseFiles,
    /// Make a path read-only; a missing one is fine.
    ReadOnly {
        /// Where the path starts.
        base: Base,
        /// The path.
        #[serde(serialize_with = "text")]
        path: CString,
    },
    /// Cover a file with the null device, a directory with an empty one; a missing one is fine.
    Mask {
        /// Where the path starts.
        base: Base,
        /// The path.
        #[serde(serialize_with = "text")]
        path: CString,
    },
    /// Bring the loopback interface up.
    Loopback,
    /// Make the root filesystem `/` and let go of the host's.
    Pivot,
    /// Set the name of the machine.
    Hostname {
        /// The name.
        #[serde(serialize_with = "text")]
        name: CString,
    },
    /// Open a terminal in the box's own `/dev/pts`, send us its master, show it as `/dev/console`.
    Terminal,
    /// Leave the caller's keyring.
    Keyring,
    /// Set the file mode creation mask to 022.
    Umask,
    /// Drop every capability that is not kept, for good.
    DropCapabilities {
        /// Those that stay if we have them, as a bit set.
        keep: u64,
    },
    /// Refuse new privileges on exec, for good.
    NoNewPrivileges,
}

/// Everything a box needs, ready for a child that may not allocate.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// The root filesystem, opened before the child exists.
    pub root: rootling_backends::Mount,
    /// Is it shown read-only?
    pub read_only: bool,
    /// `CLONE_NEW*`.
    #[serde(serialize_with = "flag_names")]
    pub namespaces: CloneFlags,
    /// Maps that we write for the child.
    pub userns: Userns,
    /// The network.
    pub net: Net,
    /// What the first process of the box does, in order.
    pub ops: Vec<Op>,
    /// The command.
    pub command: Command,
}

/// A command, ready for `execve`.
#[derive(Debug, Serialize)]
pub struct Command {
    /// Paths to try, in order.
    #[serde(serialize_with = "texts")]
    pub candidates: Vec<CString>,
    #[serde(serialize_with = "array")]
    pub(super) args: StringArray,
    #[serde(serialize_with = "array")]
    pub(super) env: StringArray,
    /// Working directory.
    #[serde(serialize_with = "text")]
    pub cwd: CString,
    /// Who runs it.
    pub user: User,
    /// Whether it gets a terminal; `auto` is decided when the plan is made.
    pub tty: bool,
}

/// Used when the environment has no `PATH`.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Command {
    /// Makes every string of a command; `Tty::Auto` looks at our standard input and output.
    pub fn build(process: &Process) -> Result<Self> {
        let program = process.args.first().filter(|program| !program.is_empty()).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "no command").hint("name a program after `--`")
        })?;
        if !process.cwd.is_absolute() {
            let message = format!("the working directory {:?} is not absolute", process.cwd);
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        Ok(Self {
            candidates: candidates(program, &process.env)?,
            args: StringArray::new(process.args.iter().map(|text| c_string(text)).collect::<Result<_>>()?),
            env: StringArray::new(process.env.iter().map(|text| c_string(text)).collect::<Result<_>>()?),
            cwd: c_string(process.cwd.as_os_str())?,
            user: process.user.clone(),
            tty: match process.tty {
                Tty::On => true,
                Tty::Off => false,
                Tty::Auto => super::tty::wanted(),
            },
        })
    }
}

/// The paths `execvp` would try for a program: the text itself if it has a slash, else each entry of `PATH`.
fn candidates(program: &OsStr, env: &[std::ffi::OsString]) -> Result<Vec<CString>> {
    if program.as_bytes().contains(&b'/') {
        return Ok(vec![c_string(program)?]);
    }
    let path = env.iter().rev().find_map(|entry| entry.as_bytes().strip_prefix(b"PATH="));
    let path = path.unwrap_or(DEFAULT_PATH.as_bytes());
    let entries = path.split(|byte| *byte == b':').map(|dir| if dir.is_empty() { b"." } else { dir });
    entries.map(|dir| c_string(OsStr::from_bytes(&[dir, b"/", program.as_bytes()].concat()))).collect()
}

impl Plan {
    /// Decides the order and makes every string. Opens nothing; the same spec gives the same plan.
    pub fn build(spec: &Spec) -> Result<Self> {
        check_hostname(&spec.hostname)?;
        check_maps(&spec.userns)?;
        let command = Command::build(&spec.process)?;
        Ok(Self {
            root: spec.root.clone(),
            read_only: spec.read_only,
            namespaces: namespaces(spec),
            userns: spec.userns.clone(),
            net: spec.net.clone(),
            ops: ops(spec, command.tty)?,
            command,
        })
    }
}

fn namespaces(spec: &Spec) -> CloneFlags {
    let mut flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    flags.set(CloneFlags::CLONE_NEWNET, spec.net != Net::Host);
    flags.set(CloneFlags::CLONE_NEWUSER, spec.userns != Userns::Host);
    flags
}

/// The order of SEQUENCE.md.
fn ops(spec: &Spec, tty: bool) -> Result<Vec<Op>> {
    let mut ops = Vec::with_capacity(64);
    if spec.userns != Userns::Host {
        ops.push(Op::BecomeRoot);
    }
    ops.extend([Op::DieWithParent, Op::Umask, Op::SlavePropagation, Op::AttachRoot]);
    // In a read-only tree mkdir fails: the error names the directory.
    ops.push(mount("proc", &[], NO_SUID_DEV_EXEC, (Base::Root, "proc"), Some(Base::Proc)));
    sys_ops(spec, &mut ops);
    dev_ops(&mut ops);
    user_ops(spec, &mut ops)?;
    ops.push(mount(
        "tmpfs",
        &[("mode", "1777"), ("size", "64m")],
        NO_SUID_DEV_EXEC,
        (Base::Dev, "shm"),
        None,
    ));
    ops.extend(READ_ONLY_PROC.map(|path| Op::ReadOnly { base: Base::Proc, path: fixed(path) }));
    ops.extend(MASKED_PROC.map(|path| Op::Mask { base: Base::Proc, path: fixed(path) }));
    ops.extend(MASKED_SYS.map(|path| Op::Mask { base: Base::Sys, path: fixed(path) }));
    if spec.net != Net::Host {
        ops.push(Op::Loopback);
    }
    ops.extend([Op::Pivot, Op::Hostname { name: c_string(spec.hostname.as_ref())? }, Op::Keyring]);
    if tty {
        ops.push(Op::Terminal);
    }
    ops.extend([Op::DropCapabilities { keep: caps::DEFAULT }, Op::NoNewPrivileges]);
    Ok(ops)
}

fn sys_ops(spec: &Spec, ops: &mut Vec<Op>) {
    ops.push(match spec.net {
        Net::None | Net::Private(_) => {
            let attributes = NO_SUID_DEV_EXEC | MOUNT_ATTR_RDONLY;
            mount("sysfs", &[], attributes, (Base::Root, "sys"), Some(Base::Sys))
        }
        Net::Host => Op::BindSys,
    });
    ops.push(Op::Mount {
        new: new_fs("cgroup2", &[], NO_SUID_DEV_EXEC | MOUNT_ATTR_RDONLY),
        base: Base::Sys,
        target: fixed("fs/cgroup"),
        resolve: false,
        make: false,
        optional: true,
        keep: None,
    });
}

fn dev_ops(ops: &mut Vec<Op>) {
    let no_exec = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;
    let options = [("mode", "0755"), ("size", "64k")];
    ops.push(mount("tmpfs", &options, no_exec, (Base::Root, "dev"), Some(Base::Dev)));
    ops.extend(DEVICES.map(|(name, major, minor)| Op::Device {
        source: fixed(&format!("/dev/{name}")),
        target: fixed(name),
        device: (major, minor),
    }));
    ops.extend(DEV_LINKS.map(|(name, target)| Op::DevLink { name: fixed(name), target: fixed(target) }));
    let mut pts = new_fs("devpts", &[("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620")], no_exec);
    // Group 5 is tty; a user namespace need not have it.
    pts.wishes.push((fixed("gid"), fixed("5")));
    ops.push(mount_fs(pts, (Base::Dev, "pts"), None));
    ops.push(mount("mqueue", &[], NO_SUID_DEV_EXEC, (Base::Dev, "mqueue"), None));
}

/// What the caller asked for, in its order; files last, so that they can lie on a tmpfs or a bind.
fn user_ops(spec: &Spec, ops: &mut Vec<Op>) -> Result<()> {
    for tmpfs in &spec.tmpfs {
        let mode = format!("{:o}", tmpfs.mode & 0o7777);
        ops.push(Op::Mount {
            new: new_fs("tmpfs", &[("mode", &mode)], MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV),
            base: Base::Root,
            target: inside(&tmpfs.target)?,
            resolve: true,
            make: false,
            optional: false,
            keep: None,
        });
    }
    for bind in &spec.binds {
        let read_only = if bind.read_only { MOUNT_ATTR_RDONLY } else { 0 };
        ops.push(Op::Bind {
            source: c_string(bind.source.as_os_str())?,
            target: inside(&bind.target)?,
            attributes: MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | read_only,
        });
    }
    if !spec.files.is_empty() {
        ops.push(Op::OpenFiles);
        for (index, file) in spec.files.iter().enumerate() {
            ops.push(Op::File {
                name: fixed(&index.to_string()),
                target: inside(&file.target)?,
                content: c_string(file.content.as_ref())?,
            });
        }
        ops.push(Op::CloseFiles);
    }
    Ok(())
}

/// A mount point the user named: absolute, and not among those that carry the box's own defences.
fn inside(path: &Path) -> Result<CString> {
    let mut names = path.components();
    let absolute = names.next() == Some(std::path::Component::RootDir);
    let first = names.next().map(|name| name.as_os_str().as_bytes());
    let ours = [&b"proc"[..], b"sys", b"dev", b".."];
    if !absolute || first.is_none_or(|first| ours.contains(&first)) {
        let message = format!("cannot mount on {path:?}");
        let error = Error::new(ErrorKind::InvalidInput, message);
        return Err(error.hint("name an absolute path that is not /, /proc, /sys or /dev"));
    }
    c_string(path.as_os_str())
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

fn check_maps(userns: &Userns) -> Result<()> {
    let Userns::Private { uid_map, gid_map } = userns else { return Ok(()) };
    for (kind, map) in [("user", uid_map), ("group", gid_map)] {
        if !map.iter().any(|range| range.inside == 0 && range.count > 0) {
            return Err(Error::new(ErrorKind::InvalidInput, format!("{kind} 0 is not mapped")));
        }
    }
    Ok(())
}

fn new_fs(fs: &str, options: &[(&str, &str)], attributes: u64) -> NewFs {
    let options = options.iter().map(|(key, value)| (fixed(key), fixed(value))).collect();
    NewFs { fs: fixed(fs), options, wishes: Vec::new(), attributes }
}

fn mount(fs: &str, options: &[(&str, &str)], attributes: u64, at: (Base, &str), keep: Option<Base>) -> Op {
    mount_fs(new_fs(fs, options, attributes), at, keep)
}

fn mount_fs(new: NewFs, (base, target): (Base, &str), keep: Option<Base>) -> Op {
    Op::Mount { new, base, target: fixed(target), resolve: false, make: true, optional: false, keep }
}

fn fixed(text: &str) -> CString {
    CString::new(text).expect("our own text has no NUL")
}

fn c_string(text: &OsStr) -> Result<CString> {
    CString::new(text.as_bytes())
        .map_err(|_| Error::new(ErrorKind::InvalidInput, format!("{text:?} contains a NUL byte")))
}

// ---------------------------------------------------------------- printing

fn text<S: Serializer>(text: &CString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text.to_string_lossy())
}

fn texts<S: Serializer>(list: &[CString], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(list.iter().map(|text| text.to_string_lossy()))
}

fn array<S: Serializer>(list: &StringArray, serializer: S) -> Result<S::Ok, S::Error> {
    texts(list.strings(), serializer)
}

fn pairs<S: Serializer>(list: &[(CString, CString)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(list.iter().map(|(key, value)| (key.to_string_lossy(), value.to_string_lossy())))
}

fn flag_names<S: Serializer>(flags: &CloneFlags, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(flags.iter_names().map(|(name, _)| name))
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DieWithParent => f.write_str("die with the caller"),
            Self::BecomeRoot => f.write_str("become root of the user namespace"),
            Self::SlavePropagation => f.write_str("make / a slave, recursively"),
            Self::AttachRoot => f.write_str("attach the root filesystem"),
            Self::Mount { new, base, target, .. } => write!(f, "mount {new} on {base}{}", Shown(target)),
            Self::BindSys => f.write_str("mount the host's /sys on /sys, read-only"),
            Self::Device { source, target, .. } => {
                write!(f, "show {} as /dev/{}", Shown(source), Shown(target))
            }
            Self::DevLink { name, target } => write!(f, "link /dev/{} to {}", Shown(name), Shown(target)),
            Self::Bind { source, target, .. } => write!(f, "bind {} on {}", Shown(source), Shown(target)),
            Self::OpenFiles => f.write_str("mount a tmpfs for generated files"),
            Self::File { target, content, .. } => {
                write!(f, "show {} generated bytes as {}", content.count_bytes(), Shown(target))
            }
            Self::CloseFiles => f.write_str("detach the tmpfs of generated files"),
            Self::ReadOnly { base, path } => write!(f, "make {base}{} read-only", Shown(path)),
            Self::Mask { base, path } => write!(f, "mask {base}{}", Shown(path)),
            Self::Loopback => f.write_str("bring lo up"),
            Self::Pivot => f.write_str("pivot into the root filesystem and detach the host's"),
            Self::Hostname { name } => write!(f, "set the host name to {}", Shown(name)),
            Self::Terminal => f.write_str("open a terminal in /dev/pts and show it as /dev/console"),
            Self::Keyring => f.write_str("join a new session keyring"),
            Self::Umask => f.write_str("set the umask to 022"),
            Self::DropCapabilities { keep } => write!(f, "drop all capabilities but {}", caps::Names(*keep)),
            Self::NoNewPrivileges => f.write_str("set no_new_privs"),
        }
    }
}

struct Shown<'a>(&'a CString);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Escaped: names come from users and images and end up on terminals.
        write!(f, "{}", self.0.to_string_lossy().escape_debug())
    }
}

impl fmt::Display for NewFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Shown(&self.fs))?;
        for (key, value) in self.options.iter().chain(&self.wishes) {
            write!(f, " {}={}", Shown(key), Shown(value))?;
        }
        let names = [
            (MOUNT_ATTR_RDONLY, " ro"),
            (MOUNT_ATTR_NOSUID, " nosuid"),
            (MOUNT_ATTR_NODEV, " nodev"),
            (MOUNT_ATTR_NOEXEC, " noexec"),
        ];
        names.iter().filter(|(bit, _)| self.attributes & bit != 0).try_for_each(|(_, name)| f.write_str(name))
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "/",
            Self::Proc => "/proc/",
            Self::Sys => "/sys/",
            Self::Dev => "/dev/",
        })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = if self.read_only { "read-only" } else { "read-write" };
        writeln!(f, "open {} {access}", self.root)?;
        let names: Vec<&str> = self.namespaces.iter_names().map(|(name, _)| name).collect();
        writeln!(f, "clone3 {}", names.join(" "))?;
        self.ops.iter().try_for_each(|op| writeln!(f, "{op}"))?;
        let Command { user, cwd, candidates, args, .. } = &self.command;
        writeln!(f, "become user {} group {} groups {:?}", user.uid, user.gid, user.groups)?;
        writeln!(f, "change directory to {}", Shown(cwd))?;
        let tried: Vec<String> = candidates.iter().map(|path| Shown(path).to_string()).collect();
        writeln!(f, "execute the first of {}", tried.join(", "))?;
        write!(f, "with arguments {:?}", args.strings())
    }
}
