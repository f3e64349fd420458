//! A profile as data: which calls, with which arguments, are answered how. Both readers make one, the generator takes one.

use std::borrow::Cow;
use std::fmt;

use nix::errno::Errno;

use super::arch::Arch;

/// How a call is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Action {
    /// The kernel does it.
    Allow,
    /// The kernel does it and logs it.
    Log,
    /// It fails with this error; 0 is success without anything done.
    Errno(u16),
    /// The process gets `SIGSYS` with this number.
    Trap(u16),
    /// The thread ends.
    KillThread,
    /// The process ends.
    KillProcess,
}

impl Action {
    /// What a filter returns for it (linux/seccomp.h).
    pub(super) fn code(self) -> u32 {
        match self {
            Self::Allow => libc::SECCOMP_RET_ALLOW,
            Self::Log => libc::SECCOMP_RET_LOG,
            Self::Errno(number) => libc::SECCOMP_RET_ERRNO | u32::from(number),
            Self::Trap(number) => libc::SECCOMP_RET_TRAP | u32::from(number),
            Self::KillThread => libc::SECCOMP_RET_KILL_THREAD,
            Self::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow => f.write_str("allow"),
            Self::Log => f.write_str("log"),
            Self::Errno(number) => match Errno::from_raw(i32::from(*number)) {
                Errno::UnknownErrno => write!(f, "errno {number}"),
                errno => write!(f, "{errno:?}"),
            },
            Self::Trap(_) => f.write_str("trap"),
            Self::KillThread => f.write_str("kill-thread"),
            Self::KillProcess => f.write_str("kill-process"),
        }
    }
}

/// How an argument is compared; unsigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Op {
    Equal,
    Different,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// `argument & mask OP value`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Check {
    /// Which argument, 0 to 5.
    pub(super) argument: u8,
    pub(super) mask: u64,
    pub(super) op: Op,
    pub(super) value: u64,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let op = match self.op {
            Op::Equal => "=",
            Op::Different => "!=",
            Op::Less => "<",
            Op::LessOrEqual => "<=",
            Op::Greater => ">",
            Op::GreaterOrEqual => ">=",
        };
        let Self { argument, mask, value, .. } = self;
        match *mask {
            INT => write!(f, "int{argument} {op} {value:#x}"),
            u64::MAX => write!(f, "long{argument} {op} {value:#x}"),
            _ => write!(f, "long{argument} & {mask:#x} {op} {value:#x}"),
        }
    }
}

/// What the kernel reads of an argument that it declares as int.
pub(super) const INT: u64 = 0xffff_ffff;

/// Some calls and one answer.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    /// A word for it.
    pub(super) name: Cow<'static, str>,
    /// Why.
    pub(super) reason: Cow<'static, str>,
    /// By name; those that an architecture does not have are none of its business.
    pub(super) calls: Calls,
    /// Which arguments: one of these lists must hold entirely. No list: all.
    pub(super) any: Vec<Vec<Check>>,
    pub(super) action: Action,
}

/// Names of calls.
#[derive(Debug, Clone)]
pub(super) enum Calls {
    /// With white space between.
    Text(&'static str),
    /// One by one.
    List(Vec<String>),
}

impl Calls {
    /// Each of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        let (text, list) = match self {
            Self::Text(text) => (*text, &[][..]),
            Self::List(list) => ("", &list[..]),
        };
        text.split_ascii_whitespace().chain(list.iter().map(String::as_str))
    }
}

/// What a filter is made of. The first rule that fits a call decides.
#[derive(Debug, Clone)]
pub(super) struct Profile {
    pub(super) name: String,
    /// The architectures whose calls are looked at; the others' end the process.
    pub(super) arches: Vec<&'static Arch>,
    pub(super) rules: Vec<Rule>,
    /// For calls that no rule fits.
    pub(super) default: Action,
    /// For numbers above the largest that a rule names, and above all of Linux 5.0: calls younger than the profile.
    pub(super) newer: Action,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub(super) flags: libc::c_ulong,
}
