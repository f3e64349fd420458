//! Instructions that hold a command: `RUN`, `CMD`, `ENTRYPOINT`, `SHELL`, `HEALTHCHECK`.

use super::super::ast::{Command, CommandLine, Healthcheck};
use super::super::duration::duration;
use super::super::flags::Flags;
use super::super::lines::Line;
use super::super::problem::Fault;
use super::super::{heredoc, mount};
use super::{Arguments, Reading};

impl Arguments<'_> {
    /// Reads a command in one of its two forms.
    pub(super) fn command_line(
        &self,
        text: &str,
        at: usize,
    ) -> Result<(CommandLine, Vec<String>, bool), Fault> {
        Ok(match self.json(text, at)? {
            Some(list) => (CommandLine::Exec(list.clone()), list, true),
            None if text.is_empty() => (CommandLine::Shell(String::new()), vec![], false),
            None => (CommandLine::Shell(text.to_owned()), vec![text.to_owned()], false),
        })
    }

    pub(super) fn line(&self, command: impl Fn(CommandLine) -> Command) -> Result<Reading, Fault> {
        let (line, arguments, is_json) = self.command_line(self.text, self.at)?;
        Ok(Reading { is_json, ..Reading::new(command(line), arguments) })
    }

    pub(super) fn run(&self, flags: &Flags<'_>, line: &Line) -> Result<Reading, Fault> {
        let mounts = flags.texts("mount");
        for (at, mount) in &mounts {
            mount::check(mount).map_err(|error| Fault::of(*at, &error))?;
        }
        let one_of = |name: &str, words: &[&str]| match flags.text(name) {
            Some((at, value)) if !words.contains(&value.as_str()) => {
                let fault = Fault::new(at, format!("--{name} {value:?} is not known"));
                Err(fault.hint(format!("it is one of {}", words.join(", "))))
            }
            value => Ok(value.map(|(_, value)| value)),
        };
        let network = one_of("network", &["default", "none", "host"])?;
        let security = one_of("security", &["sandbox", "insecure"])?;
        let (command, arguments, is_json) = self.command_line(self.text, self.at)?;
        let mounts = mounts.into_iter().map(|(_, mount)| mount).collect();
        let devices = flags.texts("device").into_iter().map(|(_, device)| device).collect();
        Ok(Reading {
            command: Command::Run { mounts, network, security, devices, line: command },
            arguments,
            is_json,
            heredocs: if is_json { vec![] } else { heredoc::of_line(&line.text) },
        })
    }

    pub(super) fn shell(&self) -> Result<Reading, Fault> {
        match self.json(self.text, self.at)? {
            Some(list) if !list.is_empty() => {
                Ok(Reading { is_json: true, ..Reading::new(Command::Shell(list.clone()), list) })
            }
            Some(_) => Err(self.fault("the list is empty").hint("write SHELL [\"/bin/sh\", \"-c\"]")),
            None => Err(self
                .fault("SHELL takes a JSON list of strings")
                .hint("write SHELL [\"/bin/sh\", \"-c\"], with double quotes")),
        }
    }

    pub(super) fn healthcheck(&self, flags: &Flags<'_>) -> Result<Reading, Fault> {
        for name in ["interval", "timeout", "start-period", "start-interval"] {
            if let Some((at, value)) = flags.text(name) {
                duration(&value).map_err(|error| Fault::of(at, &error))?;
            }
        }
        if let Some((at, value)) = flags.text("retries")
            && !value.parse::<i32>().is_ok_and(|retries| retries >= 0)
        {
            return Err(Fault::new(at, format!("--retries {value:?} is not a number of tries")));
        }
        let (form, rest) = match self.text.split_once(char::is_whitespace) {
            Some((form, rest)) => (form, rest.trim_start()),
            None => (self.text, ""),
        };
        let at = self.at + self.text.len() - rest.len();
        match form.to_uppercase().as_str() {
            "NONE" if rest.is_empty() => {
                Ok(Reading::new(Command::Healthcheck(Healthcheck::None), vec![form.to_owned()]))
            }
            "NONE" => Err(Fault::new(at, "after NONE there is nothing to say".to_owned())),
            "CMD" => {
                let (line, mut arguments, is_json) = self.command_line(rest, at)?;
                if arguments.is_empty() {
                    let fault = Fault::new(at, "HEALTHCHECK CMD has no command".to_owned());
                    return Err(fault.hint("write HEALTHCHECK CMD command, or HEALTHCHECK NONE"));
                }
                arguments.insert(0, form.to_owned());
                let command = Command::Healthcheck(Healthcheck::Cmd(line));
                Ok(Reading { is_json, ..Reading::new(command, arguments) })
            }
            "" => Err(self
                .fault("HEALTHCHECK says nothing")
                .hint("write HEALTHCHECK CMD command, or HEALTHCHECK NONE")),
            _ => Err(self
                .fault(format!("HEALTHCHECK takes CMD or NONE, and not {form}"))
                .hint("write CMD before the command")),
        }
    }
}
