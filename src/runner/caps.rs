//! Which capabilities a command keeps, and how the rest is dropped.

use std::fmt;

use nix::errno::Errno;

use super::sys;

const NAMES: [(u32, &str); 14] = [
    (0, "chown"),
    (1, "dac_override"),
    (3, "fowner"),
    (4, "fsetid"),
    (5, "kill"),
    (6, "setgid"),
    (7, "setuid"),
    (8, "setpcap"),
    (10, "net_bind_service"),
    (13, "net_raw"),
    (18, "sys_chroot"),
    (27, "mknod"),
    (29, "audit_write"),
    (31, "setfcap"),
];

/// What Docker gives a container (moby, profiles and oci/caps: 0xa80425fb): enough for package managers and
/// servers that drop their own, nothing that reaches the machine.
pub const DEFAULT: u64 = {
    let mut set = 0;
    let mut index = 0;
    while index < NAMES.len() {
        set |= 1 << NAMES[index].0;
        index += 1;
    }
    set
};

/// Prints a set of these capabilities.
#[derive(Debug)]
pub(super) struct Names(pub(super) u64);

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> =
            NAMES.iter().filter(|(bit, _)| self.0 & (1 << bit) != 0).map(|(_, name)| *name).collect();
        f.write_str(&names.join(" "))
    }
}

/// *child*: keeps what is in `keep` and permitted now; bounding set first, because that needs setpcap.
///
/// `bounding` is the bounding set before, so that only bits that are set cost a call.
pub(super) fn drop_all_but(keep: u64, bounding: u64) -> nix::Result<()> {
    for bit in (0..64).filter(|bit| bounding & !keep & (1 << bit) != 0) {
        match sys::prctl(libc::PR_CAPBSET_DROP, bit) {
            // Past the kernel's last capability.
            Err(Errno::EINVAL) => break,
            other => other?,
        }
    }
    sys::set_capabilities(sys::permitted()? & keep)?;
    let clear_all = libc::c_ulong::try_from(libc::PR_CAP_AMBIENT_CLEAR_ALL).expect("a small constant");
    sys::prctl(libc::PR_CAP_AMBIENT, clear_all)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_default_set_is_dockers() {
        assert_eq!(super::DEFAULT, 0xa804_25fb);
    }
}
