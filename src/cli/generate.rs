//! `generate`: what other programs need to start boxes. Restarting is theirs.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::Subcommand;
use rootling_backends::{Context as _, Error, ErrorKind, Result};

use super::{Context, store};

mod timer;

use crate::runner::Entered;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print a unit of systemd that runs a box
    Systemd(SystemdArguments),
    /// Print a service and a timer of systemd that snapshot boxes and prune as their policies say
    Timer(timer::Arguments),
}

#[derive(Debug, clap::Args)]
struct SystemdArguments {
    /// The box
    name: String,

    /// Seconds that it may take to stop
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    time: u64,

    /// The command [default: the box's own]
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let arguments = match &arguments.what {
        What::Systemd(arguments) => arguments,
        What::Timer(arguments) => return timer::run(context, arguments),
    };
    let store = context.store()?;
    let node = store::find(&store, &arguments.name)?;
    node.require_box()?;
    let config = &node.record.config;
    if arguments.command.is_empty() && config.entrypoint.is_empty() && config.cmd.is_empty() {
        let message = format!("{} has no command of its own", node.label());
        return Err(Error::new(ErrorKind::InvalidInput, message)
            .hint(format!("name one: rootling generate systemd {} -- COMMAND", node.label())));
    }
    let mut words = program(store.root())?;
    words.extend(["start", "--foreground", "--no-tty", "--", node.label()].map(OsString::from));
    words.extend(arguments.command.iter().cloned());
    let words = words.iter().map(quoted).collect::<Result<Vec<_>>>()?;
    let signal = if config.stop_signal.is_empty() { "SIGTERM" } else { &config.stop_signal };
    // Of a user: their own service manager, which has targets of its own.
    let (after, target) = if context.entered == Entered::Root && nix::unistd::geteuid().is_root() {
        ("After=network-online.target\nWants=network-online.target\n", "multi-user.target")
    } else {
        ("", "default.target")
    };
    let unit = format!(
        "# Made by rootling {version}. It restarts what fails; `systemctl stop` asks with {signal} and waits {time} s.\n\
         [Unit]\n\
         Description=rootling box {name}\n\
         {after}\n\
         [Service]\n\
         Type=exec\n\
         ExecStart={command}\n\
         KillMode=mixed\n\
         KillSignal={signal}\n\
         TimeoutStopSec={time}\n\
         SuccessExitStatus=143\n\
         Restart=on-failure\n\
         RestartPreventExitStatus=125 126 127\n\
         Delegate=yes\n\n\
         [Install]\n\
         WantedBy={target}\n",
        version = env!("CARGO_PKG_VERSION"),
        time = arguments.time,
        name = node.label(),
        command = words.join(" "),
    );
    context.output.raw(unit.as_bytes());
    Ok(())
}

/// This program on this store, as words of a command line.
fn program(root: &std::path::Path) -> Result<Vec<OsString>> {
    let program = std::env::current_exe().context(|| "readlink(/proc/self/exe)")?;
    Ok(vec![program.into_os_string(), "--root".into(), root.into()])
}

/// A word as systemd.service(5) reads it: in double quotes, with `\`, `"`, `$` and `%` made harmless.
fn quoted(word: &OsString) -> Result<String> {
    let refused = || {
        Error::new(ErrorKind::InvalidInput, format!("{word:?} cannot stand in a unit"))
            .hint("put the command into a script in the box")
    };
    let text = std::str::from_utf8(word.as_bytes()).map_err(|_| refused())?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:=,@".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '\\' | '"' => quoted.extend(['\\', c]),
            '$' | '%' => quoted.extend([c, c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => return Err(refused()),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    Ok(quoted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_through_systemd_unchanged() {
        let made = |text: &str| quoted(&text.into()).unwrap();
        assert_eq!(made("/usr/bin/x"), "/usr/bin/x");
        assert_eq!(made(""), "\"\"");
        assert_eq!(made("a b"), "\"a b\"");
        assert_eq!(made("$HOME %h \"q\" \\ ;"), "\"$$HOME %%h \\\"q\\\" \\\\ ;\"");
        assert!(quoted(&"\u{1b}".into()).is_err());
    }
}
