//! The numbers of the system calls. They are those of the crate `syscalls`, made from the kernel's tables; here is what
//! that crate leaves out.

use syscalls::{aarch64, arm, riscv64, x86, x86_64};

/// An architecture whose programs a kernel of ours can run.
#[derive(Debug)]
pub(super) struct Arch {
    /// As the kernel calls it.
    pub(super) name: &'static str,
    /// As libseccomp calls it.
    pub(super) libseccomp: &'static str,
    /// `AUDIT_ARCH_*` (linux/audit.h): the ELF machine, and bits for 64-bit and little-endian.
    pub(super) audit: u32,
    /// Are registers 64 bits wide?
    pub(super) wide: bool,
    /// Do numbers from [`X32`] on mean another set of calls?
    pub(super) x32: bool,
    call: fn(usize) -> Option<&'static str>,
    private: &'static [(u32, &'static str)],
}

/// __X32_SYSCALL_BIT (asm/unistd.h): calls of 64-bit x86 with 32-bit pointers. Few kernels have them, few reviewers
/// have seen them, and no distribution has programs that make them.
pub(super) const X32: u32 = 0x4000_0000;

/// All numbers are below this, but the private ones.
const END: u32 = 1024;

const WIDE: u32 = 0x8000_0000;
const LITTLE: u32 = 0x4000_0000;

static X86_64: Arch = Arch {
    name: "x86_64",
    libseccomp: "SCMP_ARCH_X86_64",
    audit: 62 | WIDE | LITTLE,
    wide: true,
    x32: true,
    call: |number| x86_64::Sysno::new(number).map(|call| call.name()),
    private: &[],
};

static I386: Arch = Arch {
    name: "i386",
    libseccomp: "SCMP_ARCH_X86",
    audit: 3 | LITTLE,
    wide: false,
    x32: false,
    call: |number| x86::Sysno::new(number).map(|call| call.name()),
    private: &[],
};

static AARCH64: Arch = Arch {
    name: "aarch64",
    libseccomp: "SCMP_ARCH_AARCH64",
    audit: 183 | WIDE | LITTLE,
    wide: true,
    x32: false,
    call: |number| aarch64::Sysno::new(number).map(|call| call.name()),
    private: &[],
};

static ARM: Arch = Arch {
    name: "arm",
    libseccomp: "SCMP_ARCH_ARM",
    audit: 40 | LITTLE,
    wide: false,
    x32: false,
    call: |number| arm::Sysno::new(number).map(|call| call.name()),
    // __ARM_NR_BASE (arch/arm/include/uapi/asm/unistd.h).
    private: &[
        (0x0f_0001, "breakpoint"),
        (0x0f_0002, "cacheflush"),
        (0x0f_0005, "set_tls"),
        (0x0f_0006, "get_tls"),
    ],
};

static RISCV64: Arch = Arch {
    name: "riscv64",
    libseccomp: "SCMP_ARCH_RISCV64",
    audit: 243 | WIDE | LITTLE,
    wide: true,
    x32: false,
    call: |number| riscv64::Sysno::new(number).map(|call| call.name()),
    private: &[],
};

/// Every architecture we know.
pub(super) static ALL: [&Arch; 5] = [&X86_64, &I386, &AARCH64, &ARM, &RISCV64];

/// Words of libseccomp for architectures that no machine of ours can run: a profile may name them.
pub(super) const FOREIGN: [&str; 20] = [
    "SCMP_ARCH_X32",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
    "SCMP_ARCH_ARMEB",
    "SCMP_ARCH_AARCH64BE",
];

/// The architectures whose programs this machine runs, its own first; none where we know no table.
pub(super) fn native() -> Vec<&'static Arch> {
    if cfg!(target_arch = "x86_64") {
        vec![&X86_64, &I386]
    } else if cfg!(target_arch = "x86") {
        vec![&I386]
    } else if cfg!(target_arch = "aarch64") {
        vec![&AARCH64, &ARM]
    } else if cfg!(target_arch = "arm") {
        vec![&ARM]
    } else if cfg!(target_arch = "riscv64") {
        vec![&RISCV64]
    } else {
        vec![]
    }
}

impl Arch {
    /// Is it one of the numbers far above all others?
    pub(super) fn is_private(&self, number: u32) -> bool {
        self.private.iter().any(|(private, _)| *private == number)
    }

    /// Every call, by rising number.
    pub(super) fn calls(&self) -> impl Iterator<Item = (u32, &'static str)> {
        let named = |number: u32| (self.call)(number as usize).map(|name| (number, spelled(name)));
        // Not the crate's own iterator, which leaves the last one out.
        (0..END).filter_map(named).chain(self.private.iter().copied())
    }
}

/// The kernel's spelling where the crate has another.
fn spelled(name: &'static str) -> &'static str {
    match name {
        "fstatat" => "newfstatat",
        // A word of Rust's.
        "r#break" => "break",
        name => name,
    }
}

/// Other names of a call in profiles.
pub(super) fn canonical(name: &str) -> &str {
    match name {
        "fstatat" => "newfstatat",
        "sync_file_range2" => "arm_sync_file_range",
        "arm_set_tls" => "set_tls",
        name => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_have_what_the_kernels_headers_have() {
        let number = |arch: &Arch, name: &str| arch.calls().find(|call| call.1 == name).map(|call| call.0);
        assert_eq!(number(&X86_64, "execve"), Some(59));
        assert_eq!(number(&I386, "execve"), Some(11));
        assert_eq!(number(&AARCH64, "execve"), Some(221));
        assert_eq!(number(&AARCH64, "newfstatat"), Some(79));
        assert_eq!(number(&ARM, "set_tls"), Some(0x0f_0005));
        for arch in ALL {
            assert_eq!(number(arch, "file_setattr"), Some(469), "{}", arch.name);
            let numbers: Vec<u32> = arch.calls().map(|call| call.0).collect();
            assert!(numbers.is_sorted(), "{}", arch.name);
        }
    }
}
