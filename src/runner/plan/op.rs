//! The steps of the init, as data. [`child`](super::super::child) does them, [`order`](super::order) puts them in order.

use std::ffi::{CStr, CString};

use serde::Serialize;

use super::print::{lossy, optional_text, pairs, text};
use crate::runner::caps;

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

/// One name of a path to a mount point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    /// The path up to and including the name.
    #[serde(serialize_with = "text")]
    pub path: CString,
    /// The name.
    #[serde(serialize_with = "text")]
    pub name: CString,
}

/// What a mount point is made as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Like {
    /// A directory.
    Directory,
    /// A file, which a symbolic link that leads nowhere also does for.
    File,
    /// As the source is.
    Source(usize),
}

/// One step of the child. Each is a handful of system calls; a failure names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Op {
    /// Wait until the caller has done what only it can: id maps, the tree of an id-mapped box, cgroups, networks.
    Wait,
    /// Ask to be killed when the caller dies, and check that it has not.
    DieWithParent,
    /// Become user and group 0 of the new user namespace.
    BecomeRoot,
    /// Take the cgroup that the caller has put us in for the root of all.
    CgroupNamespace,
    /// Stop mounts made here from showing up on the host.
    SlavePropagation,
    /// Attach the root filesystem over `/`, still reachable by descriptor only.
    AttachRoot {
        /// `MOUNT_ATTR_*`.
        attributes: u64,
    },
    /// Do the first; where that fails, the second.
    Either {
        /// The first.
        first: Box<Op>,
        /// The second.
        second: Box<Op>,
    },
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
    /// Show a directory of the host, because a new file system of its kind would need a namespace that is the box's own.
    BindHost {
        /// The host's path.
        #[serde(serialize_with = "text")]
        source: CString,
        /// With all that is mounted in it. In a user namespace that is so in any case.
        recursive: bool,
        /// Where the target starts.
        base: Base,
        /// The directory: not followed, made where it is missing.
        #[serde(serialize_with = "text")]
        target: CString,
        /// `MOUNT_ATTR_*`.
        attributes: u64,
        /// Remember its descriptor as this base.
        keep: Option<Base>,
    },
    /// Attach the `/dev` that the caller made, on `dev`: not followed, made where it is missing.
    AttachDev {
        /// Which of [`Plan::sources`](super::Plan).
        source: usize,
    },
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
    /// Make a directory in `/dev` where there is none.
    DevDirectory {
        /// Path in `/dev`.
        #[serde(serialize_with = "text")]
        path: CString,
        /// Its permission bits.
        mode: u32,
    },
    /// Show a directory of the host as one that is made in `/dev`.
    ShowDirectory {
        /// Which.
        source: usize,
        /// Its name in `/dev`.
        #[serde(serialize_with = "text")]
        target: CString,
        /// `MOUNT_ATTR_*`.
        attributes: u64,
    },
    /// Show a device that the caller opened.
    ShowDevice {
        /// Which of [`Plan::sources`](super::Plan).
        source: usize,
        /// Path in `/dev`.
        #[serde(serialize_with = "text")]
        target: CString,
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
    /// Take a source that the caller could open only after the box's user namespace was there.
    Receive {
        /// Which of [`Plan::sources`](super::Plan).
        source: usize,
    },
    /// Make a mount point where nothing is, name by name, and tell the caller, who removes it again.
    MountPoint {
        /// The names of the path inside, from the root on; each is resolved within the root.
        parts: Vec<Part>,
        /// As what.
        like: Like,
        /// Go on without it.
        optional: bool,
    },
    /// Show a path of the host that the caller opened.
    Bind {
        /// Which of [`Plan::sources`](super::Plan).
        source: usize,
        /// The path inside, resolved within the root.
        #[serde(serialize_with = "text")]
        target: CString,
        /// `MOUNT_ATTR_*`, for all that is mounted in it, too.
        attributes: u64,
        /// Do mounts that the host makes in it later show?
        follows_host: bool,
    },
    /// Write a generated file in `/dev` and show it over one of the tree, or where it is.
    File {
        /// Its path in `/dev`.
        #[serde(serialize_with = "text")]
        name: CString,
        /// The path inside, resolved within the root; `None` for a file that stays in `/dev`.
        #[serde(serialize_with = "optional_text")]
        target: Option<CString>,
        /// Its content.
        #[serde(serialize_with = "lossy")]
        content: Vec<u8>,
        /// Permission bits.
        mode: u32,
        /// User and group.
        owner: (u32, u32),
        /// `MOUNT_ATTR_*`.
        attributes: u64,
        /// Go on where there is no place for it.
        optional: bool,
    },
    /// Set a kernel parameter.
    Sysctl {
        /// Path below `/proc/sys`.
        #[serde(serialize_with = "text")]
        path: CString,
        /// What is written.
        #[serde(serialize_with = "text")]
        value: CString,
    },
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
    /// Make a directory in the tree where it is missing.
    MakeDirectory {
        /// The directory it is in, as seen inside.
        #[serde(serialize_with = "text")]
        parent: CString,
        /// Its name.
        #[serde(serialize_with = "text")]
        name: CString,
    },
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
    /// Install the command's filter of system calls, here because `execve` may give privileges: that takes
    /// `CAP_SYS_ADMIN`, which goes next.
    Seccomp,
    /// Drop every capability that is not kept, for good.
    DropCapabilities {
        /// Those that stay if we have them, as a bit set.
        #[serde(serialize_with = "caps::serialize")]
        keep: u64,
    },
    /// Refuse new privileges on exec, for good.
    NoNewPrivileges,
    /// Keep files outside the box shut, for good, where the kernel has Landlock.
    Landlock,
}

impl Op {
    /// Returns the name of what the step makes in the tree where it is missing; `part` counts the names of a path.
    pub(in crate::runner) fn made(&self, part: usize) -> Option<&CStr> {
        match self {
            Self::MountPoint { parts, .. } => parts.get(part).map(|part| part.name.as_c_str()),
            Self::Mount { base: Base::Root, target, make: true, .. }
            | Self::BindHost { base: Base::Root, target, .. } => Some(target),
            Self::AttachDev { .. } => Some(c"dev"),
            Self::Either { first, .. } => first.made(part),
            _ => None,
        }
    }
}
