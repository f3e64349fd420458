//! Somebody who runs a command: in a root file system of its own, or in a box that runs already.

use std::path::Path;
use std::process::Command;

use rootling_backends::Result;

use super::guest::Guest;
use crate::command::command;

/// Makes the command that runs these words; what must be ready before the clock starts is made ready here.
type Make = Box<dyn Fn(&[&str]) -> Result<Command>>;

/// One contender.
pub(super) struct Runner {
    /// What tables call it.
    pub(super) name: String,
    /// The namespaces without which its work would not be equal.
    pub(super) must_make: &'static [&'static str],
    /// Why a hundred of it are not started at once.
    pub(super) not_at_once: Option<&'static str>,
    guest: Option<Guest>,
    make: Make,
}

impl Runner {
    pub(super) fn new(
        name: impl Into<String>,
        must_make: &'static [&'static str],
        make: impl Fn(&[&str]) -> Result<Command> + 'static,
    ) -> Self {
        Self { name: name.into(), must_make, not_at_once: None, guest: None, make: Box::new(make) }
    }

    /// The same, as an ordinary user.
    pub(super) fn of(mut self, guest: Option<&Guest>) -> Self {
        if let Some(guest) = guest {
            self.name = format!("{}, {}", self.name, guest.label);
            self.guest = Some(guest.clone());
        }
        self
    }

    pub(super) fn alone(mut self, why: &'static str) -> Self {
        self.not_at_once = Some(why);
        self
    }

    pub(super) fn is_ours(&self) -> bool {
        self.name.starts_with("rootling")
    }

    /// Returns the command that runs these words.
    pub(super) fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = (self.make)(words)?;
        if let Some(guest) = &self.guest {
            guest.dress(&mut command);
        }
        Ok(command)
    }

    /// Returns the same command below strace, which counts the calls of all its processes.
    pub(super) fn counted(&self, words: &[&str], report: &Path) -> Result<Command> {
        let traced = (self.make)(words)?;
        let mut strace = command("strace", ["-f", "-c", "-o"]);
        strace.arg(report);
        strace.envs(traced.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(guest) = &self.guest {
            strace.args(guest.traced());
            guest.surround(&mut strace);
        }
        strace.arg("--").arg(traced.get_program()).args(traced.get_args());
        Ok(strace)
    }
}
