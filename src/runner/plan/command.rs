//! The command, ready for `execve`, with what holds for each command in a box.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use rootling_backends::{Error, ErrorKind, Result};
use serde::Serialize;

use super::c_string;
use super::print::{array, text, texts};
use crate::runner::seccomp::Filter as SeccompFilter;
use crate::runner::spec::{Process, Security, Tty, Ulimit};
use crate::runner::sys::StringArray;
use crate::runner::tty;
use crate::runner::user::User;

/// A command, ready for `execve`.
#[derive(Debug, Serialize)]
pub struct Command {
    /// Paths to try, in order.
    #[serde(serialize_with = "texts")]
    pub candidates: Vec<CString>,
    #[serde(serialize_with = "array")]
    pub(in crate::runner) args: StringArray,
    #[serde(serialize_with = "array")]
    pub(in crate::runner) env: StringArray,
    /// Working directory.
    #[serde(serialize_with = "text")]
    pub cwd: CString,
    /// Who runs it.
    pub user: User,
    /// Is the first process of the box that user already?
    #[serde(skip)]
    pub(in crate::runner) is_that_user: bool,
    /// Whether it gets a terminal; `auto` is decided when the plan is made.
    pub tty: bool,
    /// Limits of the process, set last: ours come before them.
    pub ulimits: Vec<Ulimit>,
    /// Which system calls the kernel does for it.
    pub seccomp: Option<SeccompFilter>,
    /// Is that settled in front of `execve`? Where `execve` may give privileges it takes a capability that the command
    /// does not have by then, and is a step of the set-up instead.
    pub seccomp_last: bool,
}

/// Used when the environment has no `PATH`.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Command {
    /// Makes every string of a command and its filter; `Tty::Auto` looks at our standard input and output.
    pub fn build(process: &Process, security: &Security) -> Result<Self> {
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
            is_that_user: false,
            tty: match process.tty {
                Tty::On => true,
                Tty::Off => false,
                Tty::Auto => tty::wanted(),
            },
            ulimits: security.ulimits.clone(),
            seccomp: SeccompFilter::build(&security.seccomp, security.capabilities)?,
            seccomp_last: security.no_new_privileges,
        })
    }
}

/// The paths `execvp` would try for a program: the text itself if it has a slash, else each entry of `PATH`.
fn candidates(program: &OsStr, env: &[OsString]) -> Result<Vec<CString>> {
    if program.as_bytes().contains(&b'/') {
        return Ok(vec![c_string(program)?]);
    }
    let path = env.iter().rev().find_map(|entry| entry.as_bytes().strip_prefix(b"PATH="));
    let path = path.unwrap_or(DEFAULT_PATH.as_bytes());
    let entries = path.split(|byte| *byte == b':').map(|dir| if dir.is_empty() { b"." } else { dir });
    entries.map(|dir| c_string(OsStr::from_bytes(&[dir, b"/", program.as_bytes()].concat()))).collect()
}
