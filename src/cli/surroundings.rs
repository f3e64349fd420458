//! The flags of one command: its environment, directory, user and terminal.

use std::path::PathBuf;

use rootling_backends::{Context as _, Error, ErrorKind, Result};

use crate::runner::{Entered, Tty};

use super::Context;
use super::walls::{Users, Walls};

/// How a command is run.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Surroundings {
    /// Set a variable, or pass ours on
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    env: Vec<String>,

    /// Set the variables of a file, one NAME=VALUE or NAME a line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,

    /// Directory to start in [default: yours where it is the same one inside, else the image's or box's, else the user's home]
    #[arg(short, long, value_name = "PATH")]
    pub(super) workdir: Option<PathBuf>,

    /// User to run as: a name or number of the tree's own, with :GROUP if wanted; me for yourself, with your name, number, shell and groups [default: the image's or box's, else root]
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,

    /// Give it a terminal [default: if standard input and output are one]
    #[arg(short, long)]
    tty: bool,

    /// Give it no terminal
    #[arg(short = 'T', long, conflicts_with = "tty")]
    no_tty: bool,
}

impl Surroundings {
    /// Returns the variables: those of files first, so that flags win.
    pub(super) fn env(&self) -> Result<Vec<String>> {
        let mut env = Vec::new();
        for path in &self.env_file {
            let text = std::fs::read_to_string(path).context(|| format!("read({path:?})"))?;
            env.extend(
                parse_env(&text).map_err(|error| error.context(format!("read variables of {path:?}")))?,
            );
        }
        env.extend(self.env.iter().cloned());
        match env.iter().find(|variable| variable.is_empty() || variable.starts_with('=')) {
            Some(nameless) => {
                let message = format!("variable {nameless:?} has no name");
                Err(Error::new(ErrorKind::InvalidInput, message).hint("write -e NAME=VALUE"))
            }
            None => Ok(env),
        }
    }

    /// Is it run as the person who calls?
    pub(super) fn is_me(&self) -> bool {
        self.user.as_deref() == Some("me")
    }

    /// Was another user asked for than what runs has?
    pub(super) fn names_user(&self) -> bool {
        self.user.is_some()
    }

    /// Returns who runs the command.
    pub(super) fn user(&self, context: &Context, walls: &Walls, inherited: Option<&str>) -> String {
        match (&self.user, &walls.userns, &context.entered) {
            (Some(user), ..) => user.clone(),
            (None, Users::KeepId, Entered::Range { uid, gid, .. }) => format!("{uid}:{gid}"),
            (None, ..) => inherited.unwrap_or("root").to_owned(),
        }
    }

    /// Was a terminal asked for?
    pub(super) fn wants_terminal(&self) -> bool {
        self.tty
    }

    /// Returns whether there is a terminal; nobody is at one beside what is left running, unless that is asked for.
    pub(super) fn terminal(&self, detaches: bool) -> Tty {
        match (self.tty, self.no_tty || detaches) {
            (true, _) => Tty::On,
            (_, true) => Tty::Off,
            _ => Tty::Auto,
        }
    }
}

/// Docker's format: a variable a line, `#` begins a comment line, nothing is unquoted or expanded.
fn parse_env(text: &str) -> Result<Vec<String>> {
    let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim_start()));
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| {
            let name = line.split('=').next().unwrap_or_default();
            if name.is_empty() || name.contains(char::is_whitespace) {
                let message = format!("line {number}: {name:?} is not a variable");
                return Err(Error::new(ErrorKind::InvalidInput, message).hint("write NAME=VALUE or NAME"));
            }
            Ok(line.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn env_files_are_read_as_docker_does() {
        let text = "# note\n\nA=1\n  B= two words # kept\nC\nD=\"q\"\n";
        assert_eq!(parse_env(text).unwrap(), ["A=1", "B= two words # kept", "C", "D=\"q\""]);
        for bad in ["=1\n", "A B=1\n"] {
            assert!(parse_env(bad).unwrap_err().to_string().contains("line 1"), "{bad:?}");
        }
    }
}
