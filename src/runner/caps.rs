//! Which capabilities a command keeps, and how the rest is dropped.

use std::fmt;

use nix::errno::Errno;
use rootling_backends::sys::{self as kernel, Capabilities};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::sys;

/// All of capabilities(7), by number.
const NAMES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

/// Every capability there is.
const ALL: u64 = (1 << NAMES.len()) - 1;

/// What Docker gives a container (moby, profiles and oci/caps): chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap,
/// net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap. Enough for package managers and
/// servers that drop their own, nothing that reaches the machine.
pub const DEFAULT: u64 = 0xa804_25fb;

/// The bounding set of a process that has just come into a user namespace.
pub(super) const FRESH: u64 = u64::MAX;

/// Returns the bit of a capability, or all for `all`; case and the prefix `CAP_` are of no matter.
pub fn parse(name: &str) -> Option<u64> {
    let name = name.to_ascii_lowercase();
    let name = name.strip_prefix("cap_").unwrap_or(&name);
    if name == "all" {
        return Some(ALL);
    }
    NAMES.iter().position(|known| *known == name).map(|bit| 1 << bit)
}

/// Prints a set of capabilities.
#[derive(Debug)]
pub(super) struct Names(pub(super) u64);

impl Names {
    /// The names, in order of their numbers.
    pub(super) fn list(&self) -> Vec<&'static str> {
        let bits = NAMES.iter().enumerate().filter(|(bit, _)| self.0 & (1 << bit) != 0);
        bits.map(|(_, name)| *name).collect()
    }
}

/// A set in JSON: the names, or `all`.
pub(super) fn serialize<S: Serializer>(set: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    if set & ALL == ALL { ["all"].serialize(serializer) } else { Names(*set).list().serialize(serializer) }
}

/// The reverse of [`serialize`]; `all` is everything that the kernel may have.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    names.iter().try_fold(0, |set, name| match parse(name) {
        Some(ALL) => Ok(u64::MAX),
        Some(bit) => Ok(set | bit),
        None => Err(D::Error::custom(format!("there is no capability {name:?}"))),
    })
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 & ALL == ALL {
            return f.write_str("all");
        }
        f.write_str(&self.list().join(" "))
    }
}

/// *child*: keeps what is in `keep` and permitted now; bounding set first, because that needs setpcap.
///
/// `bounding` is the bounding set before, so that only bits that are set cost a call; [`FRESH`] in a user namespace that
/// this process is the first in, or has just joined: there everything is permitted and nothing ambient (user_namespaces(7)).
pub(super) fn drop_all_but(keep: u64, bounding: u64) -> nix::Result<()> {
    for bit in (0..64).filter(|bit| bounding & !keep & (1 << bit) != 0) {
        match sys::prctl(libc::PR_CAPBSET_DROP, bit) {
            // Past the kernel's last capability.
            Err(Errno::EINVAL) => break,
            other => other?,
        }
    }
    let only = |set: u64| Capabilities { effective: set, permitted: set, inheritable: 0 };
    if bounding == FRESH {
        return kernel::set_capabilities(only(keep));
    }
    kernel::set_capabilities(only(kernel::capabilities()?.permitted & keep))?;
    let clear_all = libc::c_ulong::try_from(libc::PR_CAP_AMBIENT_CLEAR_ALL).expect("a small constant");
    sys::prctl(libc::PR_CAP_AMBIENT, clear_all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_set_is_dockers() {
        let names = "audit_write chown dac_override fowner fsetid kill mknod net_bind_service net_raw setfcap setgid setpcap setuid sys_chroot";
        let set = names.split(' ').map(|name| parse(name).unwrap()).fold(0, |set, bit| set | bit);
        assert_eq!(DEFAULT, set);
    }

    #[test]
    fn sets_are_names_in_json() {
        #[derive(Serialize, Deserialize)]
        struct Set(#[serde(with = "super")] u64);
        for (set, json) in [(0b1_0001, r#"["chown","fsetid"]"#), (u64::MAX, r#"["all"]"#), (0, "[]")] {
            assert_eq!(serde_json::to_string(&Set(set)).unwrap(), json);
            assert_eq!(serde_json::from_str::<Set>(json).unwrap().0, set);
        }
        assert!(serde_json::from_str::<Set>(r#"["sys_nothing"]"#).is_err());
    }

    #[test]
    fn names_are_those_of_the_kernels_numbers() {
        assert_eq!(parse("CAP_SYS_ADMIN"), Some(1 << 21));
        assert_eq!(parse("Checkpoint_Restore"), Some(1 << 40));
        assert_eq!(parse("sys_nothing"), None);
        assert_eq!(Names(parse("all").unwrap()).to_string(), "all");
    }
}
