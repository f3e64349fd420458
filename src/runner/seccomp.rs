//! The system call filter of a box: which calls the kernel does for it, and which errno the others get.
//!
//! | module | what it is for |
//! |---|---|
//! | `default.policy` | our own list: groups of calls, each with a reason |
//! | `policy` | reads that list |
//! | `docker` | reads profiles in docker's JSON format |
//! | `profile` | what both are read into |
//! | `arch` | numbers of calls |
//! | `generate` | from a profile to the kernel's program |
//! | `oci` | from a profile to what other runtimes read |
//!
//! # When it is installed
//!
//! Last: after `no_new_privs`, after every other step, in front of `execve`. What comes after it is filtered as well:
//! `execve`, and where that fails the report (`sendmsg`) and the exit. Our own list allows those three; a profile of
//! the user's that does not shows as exit status 126 without words. Where `execve` may give privileges the kernel wants
//! `CAP_SYS_ADMIN` for a filter (seccomp(2)): then it is installed right before the capabilities go, and has to allow
//! the rest of SEQUENCE.md and the loop of process 1. It stays for the process and all that come from it; more can be
//! added, none removed.
//!
//! # Why a generator of our own
//!
//! The default list for x86_64, made at run time in a release build and installed on Linux 6.18 (two cores of a virtual
//! machine; `making_and_installing_the_filter_takes` in `tests/attack/seccomp.rs`):
//!
//! | | instructions | made in | installed in | i386 programs |
//! |---|---|---|---|---|
//! | ours | 348 | 0.12 ms the first time, 0.05 ms then | 0.07 ms, one call | run |
//! | seccompiler 0.5 | 1978: five a call, and one filter for each errno | 0.12 ms, 0.05 ms | 0.72 ms, three calls | are killed |
//!
//! libseccomp can do all that ours can, but is a C library, whose static archive few machines have. Which calls the list
//! allows depends on the capabilities that the box keeps; making the program at build time would mean one for each
//! combination, or a build script that does half of it, to save a tenth of a millisecond.

mod arch;
mod docker;
mod generate;
mod oci;
mod policy;
mod profile;
#[cfg(test)]
mod simulate;

use std::fmt;

use libc::sock_filter;
use rootling_backends::{Context, Error, ErrorKind, Result};
use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

use super::caps;
use profile::{Profile, Rule};

pub use oci::{Argument, Seccomp as OciSeccomp, Syscall};

/// Which filter a box gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// Our own list. An i386 program that makes its sockets through `socketcall`, as glibc's do, cannot make any: a
    /// filter cannot see which.
    Default,
    /// Our own list, and all of `socketcall`: for trees of i386 programs. Sockets of any family can then be had by
    /// whoever runs 32-bit code, in whatever tree.
    I386,
    /// No filter.
    Unconfined,
    /// A profile in docker's JSON format.
    Profile {
        /// What it is called in messages: its path.
        name: String,
        /// What it says.
        text: String,
    },
}

impl Choice {
    /// The size that the text of a profile may have; docker's own default has 17 KiB.
    pub const MAX_BYTES: u64 = docker::MAX_BYTES;
}

/// A program for `seccomp(2)`, and what it was made from.
#[derive(Debug)]
pub struct Filter {
    profile: Profile,
    ours: bool,
    program: Vec<sock_filter>,
}

/// What a policy calls the permission that [`Choice::I386`] gives.
const I386_SOCKETS: &str = "i386_sockets";

impl Filter {
    /// Returns the filter for a box that keeps `capabilities` (a bit set); `None` where no filter was asked for.
    ///
    /// Costs a tenth of a millisecond. The same choice gives the same filter on the same kernel; a profile may
    /// ask for its version, which is the only thing that is looked at.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a profile that is no JSON, has a word that is not understood, or is too large for the
    /// kernel; `Unsupported` for one that needs a supervisor, and on architectures whose numbers we do not have.
    pub fn build(choice: &Choice, capabilities: u64) -> Result<Option<Self>> {
        if *choice == Choice::Unconfined {
            return Ok(None);
        }
        let native = arch::native();
        if native.is_empty() {
            let message = "there is no table of system calls for this machine's architecture";
            return Err(Error::new(ErrorKind::Unsupported, message)
                .hint("--security-opt seccomp=unconfined does without a filter"));
        }
        let profile = match choice {
            Choice::Profile { name, text } => {
                let here = docker::Surroundings { capabilities, kernel: kernel()?, native };
                docker::read(name, text, &here)?
            }
            Choice::I386 => policy::default("i386", |word| word == I386_SOCKETS || keeps(capabilities, word)),
            _ => policy::default("default", |word| keeps(capabilities, word)),
        };
        Self::of(profile, !matches!(choice, Choice::Profile { .. })).map(Some)
    }

    fn of(profile: Profile, ours: bool) -> Result<Self> {
        let program = generate::generate(&profile).map_err(|generate::TooLong| {
            let limit = generate::LIMIT;
            let message = format!("seccomp profile {:?} needs more than {limit} instructions", profile.name);
            Error::new(ErrorKind::InvalidInput, message)
                .hint("the kernel takes no more: compare fewer arguments")
        })?;
        Ok(Self { profile, ours, program })
    }

    /// Returns the program.
    pub fn instructions(&self) -> &[sock_filter] {
        &self.program
    }

    /// Was it made of our own list, which allows what the runner does itself?
    pub(super) fn is_ours(&self) -> bool {
        self.ours
    }

    /// Returns `SECCOMP_FILTER_FLAG_*` to install it with.
    pub fn flags(&self) -> libc::c_ulong {
        self.profile.flags
    }
}

/// One line.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Profile { name, default, .. } = &self.profile;
        write!(f, "seccomp filter {name:?}: {} instructions, other calls {default}", self.program.len())
    }
}

impl Serialize for Filter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Filter", 5)?;
        object.serialize_field("name", &self.profile.name)?;
        object.serialize_field("instructions", &self.program.len())?;
        let arches: Vec<&str> = self.profile.arches.iter().map(|arch| arch.name).collect();
        object.serialize_field("architectures", &arches)?;
        object.serialize_field("default", &self.profile.default.to_string())?;
        let groups: Vec<Group<'_>> = self.profile.rules.iter().map(Group::of).collect();
        object.serialize_field("groups", &groups)?;
        object.end()
    }
}

/// A rule in words.
#[derive(Serialize)]
struct Group<'a> {
    name: &'a str,
    action: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    calls: Vec<&'a str>,
    /// One of these lines must hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    when: Vec<String>,
}

impl<'a> Group<'a> {
    fn of(rule: &'a Rule) -> Self {
        let line =
            |all: &Vec<profile::Check>| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
        Self {
            name: &rule.name,
            action: rule.action.to_string(),
            reason: policy::sentence(&rule.reason),
            calls: rule.calls.iter().collect(),
            when: rule.any.iter().map(line).collect(),
        }
    }
}

fn keeps(capabilities: u64, word: &str) -> bool {
    capability(word).is_some_and(|bit| capabilities & bit != 0)
}

/// Returns the bit of one capability by its name.
fn capability(name: &str) -> Option<u64> {
    caps::parse(name).filter(|bits| bits.is_power_of_two())
}

/// Major and minor version of the running kernel.
fn kernel() -> Result<(u32, u32)> {
    let uname = nix::sys::utsname::uname().context(|| "uname()")?;
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => Err(Error::new(ErrorKind::Unsupported, format!("uname(): {release:?} is no version"))),
    }
}
