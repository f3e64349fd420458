//! The order of SEQUENCE.md: from what is wanted to steps.

use std::ffi::{CStr, CString};
use std::path::{Component, Path, PathBuf};

use nix::sched::CloneFlags;
use rootling_backends::sys::{MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY};
use rootling_backends::{Error, ErrorKind, Result};

use super::op::{Base, NewFs, Op};
use super::{Source, c_string, fixed, has_own_net, joins, late_cgroup_namespace, mounts, namespaces};
use crate::runner::device;
use crate::runner::seccomp::Choice as Seccomp;
use crate::runner::spec::{Namespace, Net, Spec, Userns};

const NO_SUID_DEV_EXEC: u64 = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;

/// The devices that every box gets: name, major and minor number (kernel documentation, admin-guide/devices.txt).
pub(in crate::runner) const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Of the file system on `/dev`, with room for `/dev/shm`, which is a directory of it.
pub(in crate::runner) const DEV_OPTIONS: [(&CStr, &CStr); 2] = [(c"mode", c"0755"), (c"size", c"64m")];

const DEV_LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// Puts all steps in order; what the caller has to open goes to `sources`.
pub(super) fn ops(spec: &Spec, tty: bool, sources: &mut Vec<Source>) -> Result<Vec<Op>> {
    let mut ops = Vec::with_capacity(64);
    if needs_caller(spec) {
        ops.push(Op::Wait);
    }
    // Here, behind what `Wait` waits for: the places of what comes late are known at the end.
    let late = ops.len();
    if spec.userns != Userns::Host {
        ops.push(Op::BecomeRoot);
    }
    if late_cgroup_namespace(spec) {
        ops.push(Op::CgroupNamespace);
    }
    let nodev = if spec.security.device_nodes { 0 } else { MOUNT_ATTR_NODEV };
    // no_new_privs makes set-user-id do nothing; so does this, should a way around be found.
    let nosuid = if spec.security.no_new_privileges { MOUNT_ATTR_NOSUID } else { 0 };
    let attributes = nodev | nosuid;
    ops.extend([Op::DieWithParent, Op::Umask, Op::SlavePropagation, Op::AttachRoot { attributes }]);
    proc_ops(spec, &mut ops);
    sys_ops(spec, &mut ops);
    dev_ops(spec, &mut ops, sources)?;
    mounts::ops(spec, &mut ops, sources)?;
    let comes_late = |source: &Source| matches!(source, Source::Path(source) if source.comes_late());
    let receive = (0..sources.len()).filter(|index| comes_late(&sources[*index]));
    ops.splice(late..late, receive.map(|source| Op::Receive { source }));
    shm_ops(spec, &mut ops);
    for (name, value) in &spec.sysctls {
        ops.push(sysctl(spec, name, value)?);
    }
    for path in &spec.security.read_only {
        let (base, path) = of_kernel(path)?;
        ops.push(Op::ReadOnly { base, path });
    }
    for path in &spec.security.masked {
        let (base, path) = of_kernel(path)?;
        ops.push(Op::Mask { base, path });
    }
    if has_own_net(spec) {
        ops.push(Op::Loopback);
    }
    ops.push(Op::Pivot);
    for directory in &spec.make_dirs {
        make_directory(directory, &mut ops)?;
    }
    if spec.namespaces.uts == Namespace::Private {
        ops.push(Op::Hostname { name: c_string(spec.hostname.as_ref())? });
    }
    ops.push(Op::Keyring);
    if tty {
        ops.push(Op::Terminal);
    }
    if !spec.security.no_new_privileges && spec.security.seccomp != Seccomp::Unconfined {
        ops.push(Op::Seccomp);
    }
    ops.push(Op::DropCapabilities { keep: spec.security.capabilities });
    if spec.security.no_new_privileges {
        ops.push(Op::NoNewPrivileges);
    }
    if spec.security.landlock {
        ops.push(Op::Landlock);
    }
    Ok(ops)
}

/// Must the caller do something while the child waits?
fn needs_caller(spec: &Spec) -> bool {
    matches!(spec.userns, Userns::Private { .. })
        || matches!(spec.namespaces.net, Net::Private(_))
        || !joins(spec).is_empty()
        || !spec.security.ulimits.is_empty()
        || !spec.limits.is_empty()
}

fn proc_ops(spec: &Spec, ops: &mut Vec<Op>) {
    ops.push(if spec.namespaces.pid == Namespace::Host {
        bind_host("/proc", (Base::Root, "proc"), NO_SUID_DEV_EXEC, Some(Base::Proc))
    } else {
        // In a read-only tree mkdir fails: the error names the directory.
        mount("proc", &[], NO_SUID_DEV_EXEC, (Base::Root, "proc"), Some(Base::Proc))
    });
}

fn sys_ops(spec: &Spec, ops: &mut Vec<Op>) {
    let read_only = if spec.security.writable_sys { 0 } else { MOUNT_ATTR_RDONLY };
    let attributes = NO_SUID_DEV_EXEC | read_only;
    let new = mount("sysfs", &[], attributes, (Base::Root, "sys"), Some(Base::Sys));
    let hosts = bind_host("/sys", (Base::Root, "sys"), attributes, Some(Base::Sys));
    ops.push(match spec.namespaces.net.namespace() {
        Namespace::Private => new,
        Namespace::Host => hosts,
        // It may belong to another user namespace.
        Namespace::Join(_) => either(new, hosts),
    });
    ops.push(if spec.namespaces.cgroup == Namespace::Host {
        // A new mount in the host's cgroup namespace would change the options of the host's (cgroup-v2.rst, "Mounting").
        Op::BindHost {
            source: fixed("/sys/fs/cgroup"),
            recursive: true,
            base: Base::Sys,
            target: fixed("fs/cgroup"),
            attributes,
            keep: None,
        }
    } else {
        Op::Mount {
            new: new_fs("cgroup2", &[], attributes),
            base: Base::Sys,
            target: fixed("fs/cgroup"),
            resolve: false,
            make: false,
            optional: true,
            keep: None,
        }
    });
}

fn dev_ops(spec: &Spec, ops: &mut Vec<Op>, sources: &mut Vec<Source>) -> Result<()> {
    let no_exec = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;
    for device in &spec.devices {
        below_dev(&device.target)?;
    }
    if spec.userns.maps_tree() {
        ops.push(Op::AttachDev { source: sources.len() });
        sources.push(Source::Dev { devices: spec.devices.clone() });
    } else {
        let options = DEV_OPTIONS.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let new = NewFs {
            fs: fixed("tmpfs"),
            options: options.to_vec(),
            wishes: Vec::new(),
            attributes: NO_SUID_DEV_EXEC,
        };
        // Devices are mounts of their own: a node made here is dead.
        ops.push(mount_fs(new, (Base::Root, "dev"), Some(Base::Dev)));
        hosts_devices(spec, ops, sources)?;
    }
    ops.extend(DEV_LINKS.map(|(name, target)| Op::DevLink { name: fixed(name), target: fixed(target) }));
    let mut pts = new_fs("devpts", &[("ptmxmode", "0666"), ("mode", "0620")], no_exec);
    // Group 5 is tty; a user namespace need not have it.
    pts.wishes.push((fixed("gid"), fixed("5")));
    ops.push(mount_fs(pts, (Base::Dev, "pts"), None));
    ops.push(Op::Mount {
        new: new_fs("mqueue", &[], NO_SUID_DEV_EXEC),
        base: Base::Dev,
        target: fixed("mqueue"),
        resolve: false,
        make: true,
        // It belongs to whoever owns the IPC namespace.
        optional: spec.namespaces.ipc != Namespace::Private,
        keep: None,
    });
    Ok(())
}

/// Shows devices of the host one by one.
fn hosts_devices(spec: &Spec, ops: &mut Vec<Op>, sources: &mut Vec<Source>) -> Result<()> {
    ops.extend(DEVICES.map(|(name, major, minor)| Op::Device {
        source: fixed(&format!("/dev/{name}")),
        target: fixed(name),
        device: (major, minor),
    }));
    for device in &spec.devices {
        let target = below_dev(&device.target)?;
        for parent in device::parents(target) {
            ops.push(Op::DevDirectory { path: c_string(parent.as_os_str())?, mode: 0o755 });
        }
        ops.push(Op::ShowDevice { source: sources.len(), target: c_string(target.as_os_str())? });
        sources.push(Source::Device { path: device.source.clone() });
    }
    Ok(())
}

/// Where a device is shown, relative to `/dev`.
pub(super) fn below_dev(path: &Path) -> Result<&Path> {
    let below = path.strip_prefix("/dev").ok().filter(|below| {
        let mut names = below.components();
        below.file_name().is_some() && names.all(|name| matches!(name, Component::Normal(_)))
    });
    below.ok_or_else(|| {
        let error = Error::new(ErrorKind::InvalidInput, format!("cannot show anything as {path:?}"));
        error.hint("name a path below /dev")
    })
}

fn shm_ops(spec: &Spec, ops: &mut Vec<Op>) {
    let own = Op::DevDirectory { path: fixed("shm"), mode: 0o1777 };
    let size = spec.shm_bytes.map(|bytes| bytes.to_string());
    ops.push(match size {
        // Whoever shares semaphores shares memory.
        _ if spec.namespaces.ipc == Namespace::Host => {
            either(bind_host("/dev/shm", (Base::Dev, "shm"), NO_SUID_DEV_EXEC, None), own)
        }
        Some(size) => {
            let options = [("mode", "1777"), ("size", size.as_str())];
            mount("tmpfs", &options, NO_SUID_DEV_EXEC, (Base::Dev, "shm"), None)
        }
        None => own,
    });
}

/// Kernel parameters that belong to a namespace (namespaces(7), ipc_namespaces(7), network_namespaces(7)); all others
/// are the whole machine's.
fn sysctl(spec: &Spec, name: &str, value: &str) -> Result<Op> {
    let path = name.replace('.', "/");
    let private = namespaces(spec);
    let ipc = ["kernel/shm", "kernel/msg", "kernel/sem", "fs/mqueue/"];
    let own = if path.starts_with("net/") {
        private.contains(CloneFlags::CLONE_NEWNET)
    } else if ipc.iter().any(|prefix| path.starts_with(prefix)) {
        private.contains(CloneFlags::CLONE_NEWIPC)
    } else {
        false
    };
    if !own || path.split('/').any(|part| part.is_empty() || part == "..") {
        let error = Error::new(ErrorKind::InvalidInput, format!("sysctl {name} is not the box's own"));
        return Err(error.hint(
            "net.* needs a network of the box's own, kernel.shm*, kernel.msg*, kernel.sem and fs.mqueue.* an own IPC namespace",
        ));
    }
    Ok(Op::Sysctl { path: c_string(path.as_ref())?, value: c_string(value.as_ref())? })
}

/// A path of `/proc` or `/sys`, as it is reached from there.
fn of_kernel(path: &Path) -> Result<(Base, CString)> {
    for (root, base) in [("/proc", Base::Proc), ("/sys", Base::Sys)] {
        if let Ok(below) = path.strip_prefix(root)
            && below.components().all(|name| matches!(name, Component::Normal(_)))
            && !below.as_os_str().is_empty()
        {
            return Ok((base, c_string(below.as_os_str())?));
        }
    }
    let error = Error::new(ErrorKind::InvalidInput, format!("cannot hide or lock {path:?}"));
    Err(error.hint("name a path below /proc or /sys"))
}

fn either(first: Op, second: Op) -> Op {
    Op::Either { first: Box::new(first), second: Box::new(second) }
}

pub(super) fn new_fs(fs: &str, options: &[(&str, &str)], attributes: u64) -> NewFs {
    let options = options.iter().map(|(key, value)| (fixed(key), fixed(value))).collect();
    NewFs { fs: fixed(fs), options, wishes: Vec::new(), attributes }
}

fn mount(fs: &str, options: &[(&str, &str)], attributes: u64, at: (Base, &str), keep: Option<Base>) -> Op {
    mount_fs(new_fs(fs, options, attributes), at, keep)
}

fn mount_fs(new: NewFs, (base, target): (Base, &str), keep: Option<Base>) -> Op {
    Op::Mount { new, base, target: fixed(target), resolve: false, make: true, optional: false, keep }
}

fn bind_host(source: &str, (base, target): (Base, &str), attributes: u64, keep: Option<Base>) -> Op {
    Op::BindHost { source: fixed(source), recursive: false, base, target: fixed(target), attributes, keep }
}

/// One step for each part of the path: nothing is followed that is made on the way.
fn make_directory(path: &Path, ops: &mut Vec<Op>) -> Result<()> {
    let mut parent = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => {
                ops.push(Op::MakeDirectory { parent: c_string(parent.as_os_str())?, name: c_string(name)? });
                parent.push(name);
            }
            Component::ParentDir => drop(parent.pop()),
            _ => {}
        }
    }
    Ok(())
}
