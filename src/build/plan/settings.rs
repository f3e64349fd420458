//! Instructions that only say something of the image. Each returns what the image's history says of it.

use rootling_backends::{Context, Error, ErrorKind, Result};
use serde_json::{Map, Value, json};

use super::arguments::{Globals, NO_VARIABLES};
use super::scene::{HEALTHCHECK, ONBUILD, SHELL, Scene};
use super::words::Words;
use super::{PlanOptions, go, ports};
use crate::build::syntax::{CommandLine, Flag, Healthcheck, duration};
use crate::process::signal;

impl Scene {
    /// `ENV`: all values are expanded with what held before.
    pub(super) fn set_variables(&mut self, pairs: &[(String, String)], escape: char) -> Result<String> {
        let pairs = expanded(pairs, self.words(escape))?;
        for (name, value) in &pairs {
            self.set_env(name, value);
        }
        Ok(history("ENV", &pairs))
    }

    /// `LABEL`, likewise.
    pub(super) fn set_labels(&mut self, pairs: &[(String, String)], escape: char) -> Result<String> {
        let pairs = expanded(pairs, self.words(escape))?;
        self.config.labels.extend(pairs.iter().cloned());
        Ok(history("LABEL", &pairs))
    }

    /// `ARG`: each sees those before it. What was given wins over the default, that over what holds before the first stage.
    pub(super) fn declare(
        &mut self,
        list: &[(String, Option<String>)],
        options: &PlanOptions,
        globals: &Globals,
        escape: char,
    ) -> Result<String> {
        let mut said = Vec::new();
        for (name, default) in list {
            let value = match (options.args.get(name), default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(self.words(escape).word(default)?),
                (None, None) => globals.get(name),
            };
            said.push(match &value {
                Some(value) => format!("{name}={value}"),
                None => name.clone(),
            });
            if !self.args.contains(name) {
                self.args.push(name.clone());
            }
            if let Some(value) = value
                && !NO_VARIABLES.contains(&name.as_str())
            {
                self.env.insert(name.clone(), value);
            }
        }
        Ok(format!("ARG {}", said.join(" ")))
    }

    /// Returns a command as the image has it: a line is for the shell.
    pub(super) fn command(&self, line: &CommandLine) -> Vec<String> {
        match line {
            CommandLine::Exec(list) => list.clone(),
            CommandLine::Shell(line) => self.shell().into_iter().chain([line.clone()]).collect(),
        }
    }

    /// `CMD`.
    pub(super) fn set_cmd(&mut self, line: &CommandLine) -> String {
        self.config.cmd = self.command(line);
        self.has_own_cmd = true;
        format!("CMD {}", go::quoted(&self.config.cmd))
    }

    /// `ENTRYPOINT`: arguments of the base were meant for that of the base.
    pub(super) fn set_entrypoint(&mut self, line: &CommandLine) -> String {
        self.config.entrypoint = self.command(line);
        if !self.has_own_cmd {
            self.config.cmd.clear();
        }
        format!("ENTRYPOINT {}", go::quoted(&self.config.entrypoint))
    }

    /// `SHELL`.
    pub(super) fn set_shell(&mut self, list: &[String]) -> String {
        self.config.other.insert(SHELL.to_owned(), json!(list));
        format!("SHELL {}", go::plain(list))
    }

    /// `HEALTHCHECK`: spans of time are nanoseconds.
    pub(super) fn set_healthcheck(&mut self, check: &Healthcheck, flags: &[Flag]) -> Result<String> {
        let test = match check {
            Healthcheck::None => vec!["NONE".to_owned()],
            Healthcheck::Cmd(CommandLine::Shell(line)) => vec!["CMD-SHELL".to_owned(), line.clone()],
            Healthcheck::Cmd(CommandLine::Exec(list)) => {
                std::iter::once("CMD".to_owned()).chain(list.iter().cloned()).collect()
            }
        };
        let mut said = format!("Test:{}", go::plain(&test));
        let mut config = Map::new();
        config.insert("Test".to_owned(), json!(test));
        for (flag, field) in [
            ("interval", "Interval"),
            ("timeout", "Timeout"),
            ("start-period", "StartPeriod"),
            ("start-interval", "StartInterval"),
        ] {
            let span = span(flags, flag)?;
            said.push_str(&format!(" {field}:{}", go::shown_duration(span)));
            if span != 0 {
                config.insert(field.to_owned(), json!(span));
            }
        }
        let retries = retries(flags)?;
        said.push_str(&format!(" Retries:{retries}"));
        if retries != 0 {
            config.insert("Retries".to_owned(), json!(retries));
        }
        self.config.other.insert(HEALTHCHECK.to_owned(), Value::Object(config));
        Ok(format!("HEALTHCHECK {{{said}}}"))
    }

    /// `EXPOSE`.
    pub(super) fn expose(&mut self, list: &[String], escape: char) -> Result<String> {
        let mut all = Vec::new();
        for text in list {
            for word in self.words(escape).words(text)? {
                all.extend(ports::exposed(&word)?);
            }
        }
        self.config.exposed_ports.extend(all.iter().map(|port| (port.clone(), empty())));
        Ok(format!("EXPOSE {}", go::plain(&all)))
    }

    /// `VOLUME`.
    pub(super) fn add_volumes(&mut self, list: &[String], escape: char) -> Result<String> {
        let directories = self.words(escape).each(list)?;
        if directories.iter().any(String::is_empty) {
            let error = Error::new(ErrorKind::InvalidInput, "a volume has no name");
            return Err(error.hint("write the directory that is one, as in VOLUME /data"));
        }
        self.config.volumes.extend(directories.iter().map(|path| (path.clone(), empty())));
        Ok(format!("VOLUME {}", go::plain(&directories)))
    }

    /// `USER`.
    pub(super) fn set_user(&mut self, text: &str, escape: char) -> Result<String> {
        let user = self.words(escape).word(text)?;
        self.config.user.clone_from(&user);
        Ok(format!("USER {user}"))
    }

    /// `STOPSIGNAL`.
    pub(super) fn set_stop_signal(&mut self, text: &str, escape: char) -> Result<String> {
        let name = self.words(escape).word(text)?;
        signal(&name)?;
        self.config.stop_signal.clone_from(&name);
        Ok(format!("STOPSIGNAL {name}"))
    }

    /// `ONBUILD`: history says nothing of it.
    pub(super) fn leave(&mut self, text: &str) {
        let list = self.config.other.entry(ONBUILD.to_owned()).or_insert_with(|| json!([]));
        if let Value::Array(list) = list {
            list.push(json!(text));
        }
    }

    /// `MAINTAINER`.
    pub(super) fn set_maintainer(&mut self, text: &str) -> String {
        text.clone_into(&mut self.author);
        format!("MAINTAINER {text}")
    }
}

fn expanded(pairs: &[(String, String)], words: Words<'_>) -> Result<Vec<(String, String)>> {
    pairs.iter().map(|(name, value)| Ok((words.word(name)?, words.word(value)?))).collect()
}

fn history(word: &str, pairs: &[(String, String)]) -> String {
    let pairs = pairs.iter().map(|(name, value)| format!(" {name}={value}"));
    std::iter::once(word.to_owned()).chain(pairs).collect()
}

fn empty() -> Value {
    Value::Object(Map::new())
}

fn flag<'a>(flags: &'a [Flag], name: &str) -> Option<&'a str> {
    let flag = flags.iter().find(|flag| flag.name == name)?;
    flag.value.as_deref().filter(|value| !value.is_empty())
}

/// Nothing is what the engine's own default is.
fn span(flags: &[Flag], name: &str) -> Result<u64> {
    let Some(text) = flag(flags, name) else { return Ok(0) };
    let span = duration(text).context(|| format!("read --{name}"))?;
    Ok(span.unsigned_abs())
}

fn retries(flags: &[Flag]) -> Result<u32> {
    let Some(text) = flag(flags, "retries") else { return Ok(0) };
    text.parse().map_err(|_| {
        Error::new(ErrorKind::InvalidInput, format!("--retries={text} is no number of tries"))
            .hint("write a number from 1, as in --retries=3")
    })
}
