//! A new cgroup: its directories, in the hierarchies that its limits need, and the limits in them.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use rootling_backends::{Context, Error, ErrorKind, Result};

use super::directory::Directory;
use super::layout::{Hierarchy, Layout};
use super::limits::{Limits, parse_list};
use super::settings::{Controller, DeviceNumber, Setting, Version, settings};
use super::{Cgroup, Place, enable, sweep};

/// See [`Cgroup::make`].
pub(super) fn make(stem: &str, limits: &Limits) -> Result<Cgroup> {
    limits.check()?;
    let devices = device_numbers(limits)?;
    let layout = Layout::read()?;
    let homes = homes(&layout, limits)?;
    let version = |controller| home(&homes, controller).map_or(Version::V2, |home| home.hierarchy.version);
    let settings = settings(limits, version, &devices);
    let first_flag = settings.first().map_or("a cgroup", |setting| setting.flag);
    let Some((anchor, base)) = layout.anchor_and_base() else { return Err(nowhere(&layout, first_flag)) };
    sweep::sweep(&layout);
    let mut cgroup = anchored(stem, anchor, &base)?;
    for home in &homes {
        let base = home.hierarchy.base().ok_or_else(|| not_writable(home.hierarchy, home.needs[0].1))?;
        let index = directory_in(&mut cgroup, home.hierarchy, &base)
            .map_err(|error| error.context(format!("make a cgroup for {}", home.needs[0].1)))?;
        if home.hierarchy.version == Version::V2 {
            enable::enable(&base, &home.needs)?;
        } else if home.needs.iter().any(|(controller, _)| *controller == Controller::Cpuset) {
            inherit_cpuset(&base, &cgroup.directories[index])?;
        }
        let here =
            |setting: &&Setting| home.needs.iter().any(|(controller, _)| *controller == setting.controller);
        for setting in settings.iter().filter(here) {
            apply(&cgroup.directories[index], setting)?;
        }
    }
    Ok(cgroup)
}

/// A hierarchy with the controllers that have limits in it, each with the first flag that needs it.
struct Home<'a> {
    hierarchy: &'a Hierarchy,
    needs: Vec<(Controller, &'static str)>,
}

fn home<'a, 'b>(homes: &'b [Home<'a>], controller: Controller) -> Option<&'b Home<'a>> {
    homes.iter().find(|home| home.needs.iter().any(|(other, _)| *other == controller))
}

fn homes<'a>(layout: &'a Layout, limits: &Limits) -> Result<Vec<Home<'a>>> {
    // Which controllers are needed depends neither on the version nor on the numbers.
    let wanted = settings(limits, |_| Version::V2, &vec![(0, 0); limits.io_rates.len()]);
    let mut homes: Vec<Home<'_>> = Vec::new();
    for controller in Controller::ALL {
        let Some(setting) = wanted.iter().find(|setting| setting.controller == controller) else { continue };
        let Some(hierarchy) = layout.controller(controller) else {
            return Err(no_controller(controller, setting.flag));
        };
        let need = (controller, setting.flag);
        match homes.iter_mut().find(|home| home.hierarchy == hierarchy) {
            Some(home) => home.needs.push(need),
            None => homes.push(Home { hierarchy, needs: vec![need] }),
        }
    }
    Ok(homes)
}

/// Makes the first directory, and locks it: until the lock is held a sweep may take it for a dead one.
fn anchored(stem: &str, hierarchy: &Hierarchy, base: &Path) -> Result<Cgroup> {
    let (stem, me) = (file_name(stem), std::process::id());
    for number in 1..1000 {
        // In another pid namespace somebody else may have our number.
        let name = if number == 1 { format!("{stem}-{me}") } else { format!("{stem}-{me}-{number}") };
        let directory = match Directory::make(base, &name, hierarchy.version) {
            Ok(directory) => directory,
            Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound) => continue,
            Err(error) => return Err(error),
        };
        if directory.lock() {
            let mut cgroup = Cgroup { directories: vec![directory], place: Place::default(), made: true };
            note(&mut cgroup, hierarchy);
            return Ok(cgroup);
        }
    }
    let message = format!("no name for a cgroup is free in {base:?}");
    Err(Error::new(ErrorKind::Busy, message).hint("try again"))
}

/// Returns the index of the cgroup's directory in a hierarchy, which is made if it is not there yet.
fn directory_in(cgroup: &mut Cgroup, hierarchy: &Hierarchy, base: &Path) -> Result<usize> {
    let known = cgroup.directories.iter().position(|directory| directory.path.starts_with(&hierarchy.mount));
    if let Some(index) = known {
        return Ok(index);
    }
    let name = cgroup.anchor().path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    cgroup.directories.push(Directory::make(base, &name, hierarchy.version)?);
    note(cgroup, hierarchy);
    Ok(cgroup.directories.len() - 1)
}

/// Writes the last directory down as the one of a hierarchy.
fn note(cgroup: &mut Cgroup, hierarchy: &Hierarchy) {
    let Some(path) = cgroup.directories.last().map(|directory| directory.path.clone()) else { return };
    match hierarchy.version {
        Version::V2 => cgroup.place.unified = Some(path),
        Version::V1 => {
            let names = hierarchy.controllers.iter().map(|name| (name.clone(), path.clone()));
            cgroup.place.controllers.extend(names);
        }
    }
}

fn apply(directory: &Directory, setting: &Setting) -> Result<()> {
    if setting.controller == Controller::Cpuset {
        require_available(directory, setting)?;
    }
    match directory.write_first(&setting.files) {
        Err(error) if error.kind() == ErrorKind::NotFound && !setting.asked => Ok(()),
        done => done.map_err(|error| refused(error, setting)),
    }
}

/// A name of a directory: what people give may hold anything. Never that of a file of the kernel, because a number
/// follows.
fn file_name(stem: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let name: String = stem.chars().map(plain).take(100).collect();
    format!("box-{name}").trim_end_matches('-').to_owned()
}

/// Numbers of the devices of the limits, in order.
pub(super) fn device_numbers(limits: &Limits) -> Result<Vec<DeviceNumber>> {
    let number = |rate: &super::IoRate| {
        let meta = std::fs::metadata(&rate.device)
            .context(|| format!("stat({:?})", rate.device))
            .context(|| rate.what.flag())?;
        if !meta.file_type().is_block_device() {
            let message = format!("{} {:?} is no block device", rate.what.flag(), rate.device);
            return Err(Error::new(ErrorKind::InvalidInput, message).hint("give a disk, see lsblk"));
        }
        Ok((libc::major(meta.rdev()).into(), libc::minor(meta.rdev()).into()))
    };
    limits.io_rates.iter().map(number).collect()
}

// ---------------------------------------------------------------- cpusets

/// Version 1: a cpuset takes no process until it has processors and memory nodes (cgroup-v1/cpusets.rst, 1.3).
fn inherit_cpuset(base: &Path, directory: &Directory) -> Result<()> {
    let base = Directory::open(base, Version::V1)?;
    let middle = directory.path.parent().unwrap_or(&directory.path);
    let middle = Directory::open(middle, Version::V1)?;
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let all = base.read(file)?;
        for below in [&middle, directory] {
            // Ours may use it already, and then it must not be made smaller.
            if below.read(file)?.trim().is_empty() {
                below.write(file, all.trim())?;
            }
        }
    }
    Ok(())
}

/// The kernel takes a list with processors that are not there, and ignores it in silence.
fn require_available(directory: &Directory, setting: &Setting) -> Result<()> {
    let Some((file, wanted)) = setting.files.first() else { return Ok(()) };
    let middle = directory.path.parent().unwrap_or(&directory.path);
    let middle = Directory::open(middle, directory.version)?;
    let available = match directory.version {
        Version::V1 => middle.read(file)?,
        Version::V2 => middle.read(&format!("{file}.effective"))?,
    };
    let there = parse_list(&available)?;
    let missing: Vec<String> = parse_list(wanted)?
        .into_iter()
        .filter(|number| !there.contains(number))
        .map(|number| number.to_string())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!("{} {wanted}: {} cannot be used here", setting.flag, missing.join(", "));
    Err(Error::new(ErrorKind::InvalidInput, message).hint(format!("available are {}", available.trim())))
}

// ---------------------------------------------------------------- words

/// No hierarchy has the controller.
fn no_controller(controller: Controller, flag: &str) -> Error {
    let name = controller.name(Version::V1);
    let known = std::fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let line = known.lines().find(|line| line.split('\t').next() == Some(name));
    let off = line.is_some_and(|line| line.ends_with("\t0"));
    let message = format!("{flag} needs the cgroup controller {}, which ", controller.name(Version::V2));
    let (why, hint) = match (line, off) {
        (Some(_), true) => (
            "was turned off when the machine started",
            format!("add cgroup_enable={name} to the kernel's command line"),
        ),
        (Some(_), false) => ("is not mounted or not handed down to this cgroup", delegation_hint()),
        (None, _) => ("this kernel does not have", "leave the limit out, or use another kernel".to_owned()),
    };
    Error::new(ErrorKind::Unsupported, format!("{message}{why}")).hint(hint)
}

fn delegation_hint() -> String {
    "mount -t cgroup2 none /sys/fs/cgroup, or let whoever started this container hand it down".to_owned()
}

/// There is no cgroup file system, or none that we may write.
pub(super) fn nowhere(layout: &Layout, flag: &str) -> Error {
    match layout.0.first() {
        None => Error::new(ErrorKind::Unsupported, format!("{flag} needs cgroups, and none are mounted"))
            .hint("mount -t cgroup2 none /sys/fs/cgroup"),
        Some(hierarchy) => not_writable(hierarchy, flag),
    }
}

fn not_writable(hierarchy: &Hierarchy, flag: &str) -> Error {
    let place: &PathBuf = &hierarchy.own;
    let error = |why: &str| {
        Error::new(ErrorKind::PermissionDenied, format!("{flag} needs a cgroup, and {place:?} {why}"))
    };
    match nix::unistd::access(place, nix::unistd::AccessFlags::W_OK) {
        Err(Errno::EROFS) => error("is read-only").hint("mount it writable, or limit the container that this is"),
        _ if hierarchy.version == Version::V1 => error("belongs to the cgroup version 1 of the host's root")
            .hint("run it as root, or boot with systemd.unified_cgroup_hierarchy=1: users get cgroups of version 2 only"),
        _ => error("was not handed to you")
            .hint("log in through systemd (its user manager hands you one), or run it as root"),
    }
}

fn refused(error: Error, setting: &Setting) -> Error {
    let hint = match (setting.controller, error.errno()) {
        (Controller::Io, Some(Errno::ENODEV)) => "give a whole disk, not a partition: see lsblk",
        (Controller::Io, None) => "use a disk with the scheduler bfq, or a kernel with the io cost model",
        (Controller::Memory, None) => "add swapaccount=1 to the kernel's command line",
        (_, Some(Errno::EINVAL | Errno::ERANGE)) => "give a value that the kernel takes",
        _ => "leave the limit out",
    };
    let missing = error.errno().is_none();
    let error = error.context(format!("{} cannot be enforced", setting.flag)).hint(hint);
    if missing { error.with_kind(ErrorKind::Unsupported) } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_stem_is_a_name() {
        assert_eq!(file_name("base"), "box-base");
        assert_eq!(file_name("../../etc/x y\n"), "box-.._.._etc_x_y_");
        assert_eq!(file_name(""), "box");
        assert_eq!(file_name(&"ü".repeat(300)).len(), 104);
    }

    #[test]
    fn a_rate_needs_a_block_device() {
        let rate = |device: &str| Limits {
            io_rates: vec![super::super::parse_rate(device, super::super::IoKind::ReadBytes).unwrap()],
            ..Limits::default()
        };
        let error = device_numbers(&rate("/dev/null:1m")).unwrap_err();
        assert_eq!(error.to_string(), "--device-read-bps \"/dev/null\" is no block device");
        let error = device_numbers(&rate("/nowhere:1m")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.to_string(), "--device-read-bps");
    }
}
