//! The flags that are settled when a box starts: namespaces, users, privileges, devices.

use std::path::PathBuf;

use rootling_backends::{Context as _, Error, ErrorKind, Result, small_file};

use super::limits::LimitFlags;
use super::net::NetFlags;
use super::store;
use crate::runner::{self, Device, Join, Namespace, Namespaces, Net, Seccomp, Security, Time, Ulimit};
use crate::store::Store;

/// What is settled when a box starts, and not for each command in it.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Walls (settled when the box starts)")]
pub(super) struct Walls {
    /// Name of the machine as seen inside [default: after the tree]
    #[arg(long, value_name = "NAME")]
    pub(super) hostname: Option<String>,

    #[command(flatten)]
    pub(super) net: NetFlags,

    /// Processes seen: private, host, box:NAME, ns:PATH
    #[arg(long, value_name = "WHOSE", default_value = "private")]
    pid: Place,

    /// Semaphores, message queues and shared memory: private, host, box:NAME, ns:PATH
    #[arg(long, value_name = "WHOSE", default_value = "private")]
    ipc: Place,

    /// Host name: private, host, box:NAME, ns:PATH
    #[arg(long, value_name = "WHOSE", default_value = "private")]
    uts: Place,

    /// View of the cgroups: private, host, box:NAME, ns:PATH
    #[arg(long, value_name = "WHOSE", default_value = "private")]
    cgroupns: Place,

    /// Users: auto (root is nobody outside), host, keep-id (yours is the same inside), box:NAME
    #[arg(long, value_name = "WHOSE", default_value = "auto", env = "ROOTLING_USERNS", hide_env = true)]
    pub(super) userns: Users,

    /// Clocks: host, box:NAME, ns:PATH
    #[arg(long, value_name = "WHOSE", default_value = "host", conflicts_with = "clock_offset")]
    time: Place,

    /// Clocks of its own, off by seconds: monotonic=N,boottime=N
    #[arg(long, value_name = "CLOCK=SECONDS,...", value_delimiter = ',')]
    clock_offset: Vec<ClockOffset>,

    /// Keep a capability (all for every one)
    #[arg(long, value_name = "CAP")]
    cap_add: Vec<String>,

    /// Drop a capability (all for every one)
    #[arg(long, value_name = "CAP")]
    cap_drop: Vec<String>,

    /// Keep all capabilities, hide nothing, let set-user-id work: for who trusts what runs inside
    #[arg(long)]
    privileged: bool,

    /// Let nothing be written to the tree
    #[arg(long)]
    pub(super) read_only: bool,

    /// Show a device of the host, as another path if wanted
    #[arg(long, value_name = "DEVICE[:PATH]")]
    device: Vec<String>,

    /// Limit of each process, as nofile=1024:4096
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<String>,

    /// Kernel parameter of the box's own namespaces
    #[arg(long, value_name = "NAME=VALUE")]
    sysctl: Vec<String>,

    /// seccomp=FILE, seccomp=unconfined, seccomp=i386, landlock=on or off, no-new-privileges=false, mask=PATH, unmask=PATH, unmask=all
    #[arg(long, value_name = "OPTION")]
    security_opt: Vec<String>,

    /// Print what would be done, and do not do it
    #[arg(long)]
    pub(super) dry_run: bool,

    #[command(flatten)]
    pub(super) limits: LimitFlags,
}

/// Whose namespace is wanted, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Host,
    Private,
    Box(String),
    Path(PathBuf),
}

impl Place {
    /// Returns the namespace; that of a box is looked up in the store.
    pub(super) fn find(&self, store: &Store) -> Result<Namespace> {
        Ok(match self {
            Self::Host => Namespace::Host,
            Self::Private => Namespace::Private,
            Self::Box(name) => Namespace::Join(Join::Box(Box::new(store::running(store, name)?))),
            Self::Path(path) => Namespace::Join(Join::Path(path.clone())),
        })
    }
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.split_once(':') {
            _ if text == "host" => Ok(Self::Host),
            _ if text == "private" || text == "none" => Ok(Self::Private),
            // Docker's word for it.
            Some(("box" | "container", name)) if !name.is_empty() => Ok(Self::Box(name.to_owned())),
            Some(("ns", path)) if path.starts_with('/') => Ok(Self::Path(path.into())),
            None if !text.is_empty() => Ok(Self::Box(text.to_owned())),
            _ => Err("write host, private, box:NAME or ns:/PATH".to_owned()),
        }
    }
}

/// Whose users are wanted, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Users {
    Auto,
    Host,
    KeepId,
    Box(String),
}

impl std::str::FromStr for Users {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match (text, text.split_once(':')) {
            ("auto" | "private", _) => Ok(Self::Auto),
            ("host", _) => Ok(Self::Host),
            ("keep-id", _) => Ok(Self::KeepId),
            (_, Some(("box" | "container", name))) if !name.is_empty() => Ok(Self::Box(name.to_owned())),
            _ => Err("write auto, host, keep-id or box:NAME".to_owned()),
        }
    }
}

/// One clock and its offset.
#[derive(Debug, Clone, PartialEq)]
enum ClockOffset {
    Monotonic(i64),
    Boottime(i64),
}

impl std::str::FromStr for ClockOffset {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (clock, offset) = text.split_once('=').ok_or("write monotonic=SECONDS or boottime=SECONDS")?;
        let offset = nanoseconds(offset).ok_or_else(|| format!("{offset:?} is not a number of seconds"))?;
        match clock {
            "monotonic" => Ok(Self::Monotonic(offset)),
            "boottime" => Ok(Self::Boottime(offset)),
            _ => Err(format!("there is no clock {clock:?} to shift: monotonic and boottime can be")),
        }
    }
}

/// Seconds with up to nine decimals, as nanoseconds.
fn nanoseconds(text: &str) -> Option<i64> {
    let (sign, text) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 9 {
        return None;
    }
    let part: i64 = format!("{part:0<9}").parse().ok()?;
    whole.parse::<i64>().ok()?.checked_mul(1_000_000_000)?.checked_add(part)?.checked_mul(sign)
}

impl Walls {
    /// Returns the first of these flags that was given, for a box that runs already.
    pub(super) fn given(&self) -> Option<&'static str> {
        let given = [
            (self.hostname.is_some(), "--hostname"),
            (self.net.given().is_some(), self.net.given().unwrap_or_default()),
            (self.pid != Place::Private, "--pid"),
            (self.ipc != Place::Private, "--ipc"),
            (self.uts != Place::Private, "--uts"),
            (self.cgroupns != Place::Private, "--cgroupns"),
            (matches!(self.userns, Users::KeepId | Users::Box(_)), "--userns"),
            (self.time != Place::Host, "--time"),
            (!self.clock_offset.is_empty(), "--clock-offset"),
            (!self.cap_add.is_empty(), "--cap-add"),
            (!self.cap_drop.is_empty(), "--cap-drop"),
            (self.privileged, "--privileged"),
            (self.read_only, "--read-only"),
            (!self.device.is_empty(), "--device"),
            (!self.ulimit.is_empty(), "--ulimit"),
            (!self.sysctl.is_empty(), "--sysctl"),
            (!self.security_opt.is_empty(), "--security-opt"),
        ];
        given.into_iter().find_map(|(given, flag)| given.then_some(flag)).or_else(|| self.limits.given())
    }

    /// Returns the first of these flags that was given and is for boxes, not for the steps of a build.
    pub(super) fn given_for_box(&self) -> Option<&'static str> {
        let given = [
            (self.pid != Place::Private, "--pid"),
            (self.ipc != Place::Private, "--ipc"),
            (self.uts != Place::Private, "--uts"),
            (self.cgroupns != Place::Private, "--cgroupns"),
            (self.time != Place::Host, "--time"),
            (!self.clock_offset.is_empty(), "--clock-offset"),
            (self.read_only, "--read-only"),
            (self.dry_run, "--dry-run"),
            (self.net.publishes(), "--publish"),
        ];
        given.into_iter().find_map(|(given, flag)| given.then_some(flag))
    }

    /// Do the limits need a cgroup? What is wrong with them is said when the box starts.
    pub(super) fn limits_box(&self) -> bool {
        self.limits.limits().is_ok_and(|limits| limits.need_cgroup())
    }

    /// Refuses what contradicts itself.
    pub(super) fn check(&self) -> Result<()> {
        if self.hostname.is_some() && self.uts != Place::Private {
            return Err(invalid(
                "--hostname needs a host name of the box's own".to_owned(),
                "leave out --hostname or --uts",
            ));
        }
        Ok(())
    }

    /// Returns the box whose namespaces are joined, if one is; its users come with them.
    pub(super) fn joined_box(&self) -> Option<&str> {
        if let Users::Box(name) = &self.userns {
            return Some(name);
        }
        let places = [&self.pid, &self.ipc, &self.uts, &self.cgroupns, &self.time];
        self.net.joined().into_iter().chain(places).find_map(|place| match place {
            Place::Box(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// Returns the namespaces; those of boxes are looked up in the store.
    pub(super) fn namespaces(&self, store: &Store, net: Net) -> Result<Namespaces> {
        let find = |place: &Place| place.find(store);
        let time = match (find(&self.time)?, self.clock_offset.as_slice()) {
            (Namespace::Host, []) => Time::Host,
            (Namespace::Join(join), _) => Time::Join(join),
            (_, offsets) => clocks(offsets),
        };
        Ok(Namespaces {
            pid: find(&self.pid)?,
            ipc: find(&self.ipc)?,
            uts: find(&self.uts)?,
            cgroup: find(&self.cgroupns)?,
            net,
            time,
        })
    }

    /// Returns what the box may not do.
    ///
    /// Landlock is for a box that nothing joins, and that could not mount anyway.
    pub(super) fn security(&self, joinable: bool) -> Result<Security> {
        let mut security = if self.privileged { Security::privileged() } else { Security::default() };
        security.capabilities = capabilities(security.capabilities, &self.cap_add, &self.cap_drop)?;
        let plain = security.capabilities & !runner::DEFAULT_CAPABILITIES == 0;
        let alone = !joinable && self.joined_box().is_none();
        security.landlock = alone && plain && !self.given_no_new_privileges();
        for option in &self.security_opt {
            apply(option, &mut security)?;
        }
        if matches!(security.seccomp, Seccomp::Profile { .. }) {
            // Nothing is forked for a profile that is not understood.
            runner::SeccompFilter::build(&security.seccomp, security.capabilities)?;
        }
        security.ulimits = self.ulimit.iter().map(|text| ulimit(text)).collect::<Result<_>>()?;
        Ok(security)
    }

    fn given_no_new_privileges(&self) -> bool {
        self.security_opt
            .iter()
            .any(|option| option.starts_with("no-new-privileges") && option.ends_with("false"))
    }

    /// Returns the devices asked for.
    pub(super) fn devices(&self) -> Result<Vec<Device>> {
        self.device.iter().map(|text| device(text)).collect()
    }

    /// Returns the kernel parameters asked for.
    pub(super) fn sysctls(&self) -> Result<Vec<(String, String)>> {
        let split = |text: &String| {
            let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
            pair.map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or_else(|| {
                invalid(format!("{text:?} is not a kernel parameter"), "write --sysctl NAME=VALUE")
            })
        };
        self.sysctl.iter().map(split).collect()
    }
}

fn clocks(offsets: &[ClockOffset]) -> Time {
    let (mut monotonic_ns, mut boottime_ns) = (0, 0);
    for offset in offsets {
        match offset {
            ClockOffset::Monotonic(ns) => monotonic_ns = *ns,
            ClockOffset::Boottime(ns) => boottime_ns = *ns,
        }
    }
    Time::Private { monotonic_ns, boottime_ns }
}

fn invalid(message: String, hint: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidInput, message).hint(hint)
}

/// What is dropped by name goes even if all are added, and the other way round (docker's rule).
fn capabilities(default: u64, add: &[String], drop: &[String]) -> Result<u64> {
    let set = |names: &[String]| -> Result<(u64, u64)> {
        let (mut named, mut all) = (0, 0);
        for name in names {
            let bits = runner::parse_capability(name).ok_or_else(|| {
                invalid(format!("there is no capability {name:?}"), "see `man capabilities`")
            })?;
            *if bits.count_ones() > 1 { &mut all } else { &mut named } |= bits;
        }
        Ok((named, all))
    };
    let ((added, all_added), (dropped, all_dropped)) = (set(add)?, set(drop)?);
    Ok((((default | all_added) & !all_dropped) | added) & !dropped)
}

fn apply(option: &str, security: &mut Security) -> Result<()> {
    let (name, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
    match (name, value) {
        ("no-new-privileges", "" | "true") => security.no_new_privileges = true,
        ("no-new-privileges", "false") => security.no_new_privileges = false,
        ("landlock", "" | "on") => security.landlock = true,
        ("landlock", "off") => security.landlock = false,
        ("seccomp", "default") => security.seccomp = Seccomp::Default,
        ("seccomp", "i386") => security.seccomp = Seccomp::I386,
        ("seccomp", "unconfined") => security.seccomp = Seccomp::Unconfined,
        ("seccomp", path) if !path.is_empty() => security.seccomp = seccomp_profile(path)?,
        ("mask", path) if !path.is_empty() => security.masked.extend(path.split(':').map(PathBuf::from)),
        ("unmask", "all" | "ALL") => {
            security.masked.clear();
            security.read_only.clear();
        }
        ("unmask", path) if !path.is_empty() => {
            for path in path.split(':').map(PathBuf::from) {
                security.masked.retain(|known| *known != path);
                security.read_only.retain(|known| *known != path);
            }
        }
        _ => {
            return Err(invalid(
                format!("unknown security option {option:?}"),
                "there are seccomp=FILE, seccomp=unconfined, seccomp=i386, landlock=on, no-new-privileges=false, mask=PATH, unmask=PATH and unmask=all",
            ));
        }
    }
    Ok(())
}

/// Reads a profile; what it says is understood when the plan is made.
fn seccomp_profile(path: &str) -> Result<Seccomp> {
    // One byte more than is understood, so that what is too long is refused where the reason is known.
    let bytes = small_file::read(path, Seccomp::MAX_BYTES + 1);
    let bytes = bytes.map_err(|error| error.with_kind(ErrorKind::InvalidInput));
    let bytes = bytes.context(|| format!("seccomp profile {path:?}"))?;
    let text = String::from_utf8(bytes).map_err(|_| {
        invalid(format!("seccomp profile {path:?} is not text"), "name a file in docker's JSON format")
    })?;
    Ok(Seccomp::Profile { name: path.to_owned(), text })
}

fn device(text: &str) -> Result<Device> {
    let mut parts = text.split(':');
    let source = parts.next().unwrap_or_default();
    let rest: Vec<&str> = parts.collect();
    let all = |access: &str| !access.is_empty() && access.bytes().all(|byte| b"rwm".contains(&byte));
    let (target, access) = match rest.as_slice() {
        [] => (source, "rwm"),
        [access] if all(access) => (source, *access),
        [target] => (*target, "rwm"),
        [target, access] if all(access) => (*target, *access),
        _ => ("", ""),
    };
    if source.is_empty() || target.is_empty() {
        return Err(invalid(format!("{text:?} is no device"), "write --device /dev/NAME[:/dev/PATH]"));
    }
    if !access.contains('r') || !access.contains('w') {
        let hint = "leave it out: who may do what with a device is said by its owner and mode";
        return Err(invalid(format!("{text:?}: access {access:?} to a device cannot be enforced"), hint));
    }
    Ok(Device { source: source.into(), target: target.into() })
}

/// `NAME=SOFT[:HARD]`, numbers or `unlimited`, as getrlimit(2) names and counts them.
fn ulimit(text: &str) -> Result<Ulimit> {
    let bad =
        || invalid(format!("{text:?} is no limit"), "write --ulimit NAME=SOFT[:HARD], as nofile=1024:4096");
    let (name, value) = text.split_once('=').ok_or_else(bad)?;
    let (_, resource) = Ulimit::NAMES.iter().find(|(known, _)| *known == name).ok_or_else(|| {
        let names: Vec<&str> = Ulimit::NAMES.iter().map(|(name, _)| *name).collect();
        invalid(format!("there is no limit {name:?}"), format!("there are {}", names.join(", ")))
    })?;
    let number = |text: &str| match text {
        "unlimited" | "-1" => Ok(u64::MAX),
        _ => text.parse().map_err(|_| bad()),
    };
    let (soft, hard) = value.split_once(':').unwrap_or((value, value));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if soft > hard {
        return Err(invalid(
            format!("{text:?}: the soft limit is above the hard one"),
            "write --ulimit NAME=SOFT:HARD",
        ));
    }
    Ok(Ulimit { resource: *resource, soft, hard })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_added_and_dropped_as_docker_does() {
        let set = |add: &[&str], drop: &[&str]| {
            let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
            capabilities(0b11, &own(add), &own(drop)).unwrap()
        };
        assert_eq!(set(&[], &[]), 0b11);
        assert_eq!(set(&["CAP_KILL"], &["chown"]), 0b10_0010);
        assert_eq!(set(&["kill"], &["all"]), 0b10_0000);
        assert_eq!(set(&["all"], &["chown"]) & 0b111, 0b110);
        assert!(capabilities(0, &["sys_nothing".to_owned()], &[]).is_err());
    }

    #[test]
    fn clocks_and_limits_and_devices_are_read_exactly_or_refused() {
        assert_eq!(nanoseconds("1.5"), Some(1_500_000_000));
        assert_eq!(nanoseconds("-86400"), Some(-86_400_000_000_000));
        assert_eq!(nanoseconds("-0.000000001"), Some(-1));
        for bad in ["", "-", "1.", ".5", "1e3", "1.0000000001", "99999999999"] {
            assert_eq!(nanoseconds(bad), None, "{bad}");
        }
        assert_eq!(ulimit("nofile=1024:4096").unwrap(), Ulimit { resource: 7, soft: 1024, hard: 4096 });
        assert_eq!(ulimit("core=unlimited").unwrap().hard, u64::MAX);
        for bad in ["nofile", "nofile=", "nofile=2:1", "nofile=x", "files=1"] {
            assert!(ulimit(bad).is_err(), "{bad}");
        }
        let pair = |text| device(text).map(|device| (device.source, device.target));
        assert_eq!(pair("/dev/fuse").unwrap(), ("/dev/fuse".into(), "/dev/fuse".into()));
        assert_eq!(pair("/dev/a:/dev/b:rwm").unwrap(), ("/dev/a".into(), "/dev/b".into()));
        assert!(pair("/dev/a:r").is_err(), "read-only cannot be enforced");
    }
}
