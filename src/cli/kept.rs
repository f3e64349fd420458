//! Settings kept with a box: flags as they were typed, made into what the store keeps, and merged with what is typed later.
//!
//! What is typed wins; where a flag can be given several times, what is typed is added, and replaces what it names anew: the same
//! variable, the same mount point. All of it goes through the parser of the command line, so kept and typed flags cannot differ.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, absolute};

use clap::{ArgAction, ArgMatches, Args, FromArgMatches, parser::ValueSource};
use rootling_backends::{Context as _, Error, ErrorKind, Result};

use super::start::Settings;
use super::{Context, me};
use crate::store::{BoxSettings, VolumeName};

/// Flags that say something of one command, not of a box.
const OF_ONE_COMMAND: [&str; 1] = ["dry-run"];

/// Flags of which only one can be given.
const EITHER: [(&str, &str); 2] = [("tty", "no-tty"), ("time", "clock-offset")];

/// Flags as they were typed: the long name without hyphens, and the values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Given(BTreeMap<String, Vec<OsString>>);

/// The parser of these flags and no others.
fn parser() -> clap::Command {
    Settings::augment_args(clap::Command::new("settings").no_binary_name(true).disable_help_flag(true))
}

impl Given {
    /// Takes what was typed of the flags that settings are made of.
    pub(super) fn of(matches: &ArgMatches) -> Self {
        let mut given = Self::default();
        for arg in parser().get_arguments() {
            let id = arg.get_id().as_str();
            let is_typed = matches.try_contains_id(id).unwrap_or(false)
                && matches.value_source(id) == Some(ValueSource::CommandLine);
            if let Some(long) = arg.get_long().filter(|_| is_typed) {
                let raw = matches.get_raw(id).into_iter().flatten().map(OsStr::to_owned);
                let values = if takes_value(arg) { raw.collect() } else { Vec::new() };
                given.0.insert(long.to_owned(), values);
            }
        }
        given
    }

    /// Was none of them typed?
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns one of those that were typed.
    pub(super) fn first(&self) -> Option<&str> {
        self.0.keys().next().map(String::as_str)
    }

    /// Was this flag typed?
    pub(super) fn has(&self, long: &str) -> bool {
        self.0.contains_key(long)
    }

    /// Returns what a box keeps of them besides what it has: checked, and with nothing in it that depends on where or by whom it was
    /// said.
    pub(super) fn kept(&self, context: &Context, before: BoxSettings) -> Result<BoxSettings> {
        let kept = self.over_kept(before)?;
        let is_me = kept.flags.get("user").is_some_and(|user| *user == ["me"]);
        let says_so = is_me && (self.has("user") || kept.me.is_none());
        let me = if says_so { Some(me::uid(context)?) } else { kept.me };
        Ok(BoxSettings { me, ..kept })
    }

    fn over_kept(&self, before: BoxSettings) -> Result<BoxSettings> {
        if let Some(long) = OF_ONE_COMMAND.iter().find(|long| self.has(long)) {
            let message = format!("--{long} cannot be kept with a box");
            return Err(Error::new(ErrorKind::InvalidInput, message)
                .hint("say it to the command that starts the box"));
        }
        let mut merged = self.clone();
        if let Some(files) = merged.0.remove("env-file") {
            // Read once, as docker does: the box does not need the file later.
            let read = parse(&Self([("env-file".to_owned(), files)].into()))?.surroundings.env()?;
            let typed = merged.0.remove("env").unwrap_or_default();
            merged.0.insert("env".to_owned(), read.into_iter().map(OsString::from).chain(typed).collect());
        }
        for (long, values) in &mut merged.0 {
            for value in values {
                let text = value.to_str().ok_or_else(|| {
                    let message = format!("--{long} {value:?} is not UTF-8 and cannot be kept");
                    Error::new(ErrorKind::InvalidInput, message)
                        .hint("say it to the command that starts the box")
                })?;
                *value = anywhere(long, text)?.into();
            }
        }
        let flags = merged.over(&before)?;
        let settings = parse(&flags)?;
        settings.check()?;
        let text = |values: &Vec<OsString>| {
            values.iter().map(|value| value.to_string_lossy().into_owned()).collect()
        };
        Ok(BoxSettings {
            grammar: BoxSettings::GRAMMAR,
            flags: flags.0.iter().map(|(long, values)| (long.clone(), text(values))).collect(),
            volumes: settings.mounts.volumes().cloned().collect::<BTreeSet<VolumeName>>(),
            ..before
        })
    }

    /// Returns what these flags and a box's own come to.
    pub(super) fn with(&self, kept: &BoxSettings) -> Result<Settings> {
        parse(&self.over(kept)?)
    }

    fn over(&self, kept: &BoxSettings) -> Result<Self> {
        if kept.grammar > BoxSettings::GRAMMAR {
            let message = "the settings of this box were written by a later version";
            return Err(Error::new(ErrorKind::Unsupported, message).hint("use a newer rootling"));
        }
        let parser = parser();
        let own = |values: &Vec<String>| values.iter().map(OsString::from).collect();
        let mut all: BTreeMap<String, Vec<OsString>> =
            kept.flags.iter().map(|(long, values)| (long.clone(), own(values))).collect();
        for (one, other) in EITHER {
            for (typed, kept) in [(one, other), (other, one)] {
                if self.has(typed) {
                    all.remove(kept);
                }
            }
        }
        for (long, values) in &self.0 {
            let adds = parser
                .get_arguments()
                .any(|arg| arg.get_long() == Some(long) && matches!(arg.get_action(), ArgAction::Append));
            let known = all.entry(long.clone()).or_default();
            if !adds {
                known.clear();
            }
            for value in values {
                known.retain(|old| names(long, old) != names(long, value));
                known.push(value.clone());
            }
        }
        Ok(Self(all))
    }
}

fn takes_value(arg: &clap::Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
}

/// Reads flags as the command line is read.
fn parse(given: &Given) -> Result<Settings> {
    let parser = parser();
    let mut words = Vec::new();
    for (long, values) in &given.0 {
        let flag = OsString::from(format!("--{long}"));
        if values.is_empty() {
            words.push(flag.clone());
        }
        for value in values {
            let mut word = flag.clone();
            word.push("=");
            word.push(value);
            words.push(word);
        }
    }
    let matches = parser.try_get_matches_from(words);
    matches.and_then(|matches| Settings::from_arg_matches(&matches)).map_err(|error| {
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default();
        let message = line.strip_prefix("error: ").unwrap_or(line).to_owned();
        Error::new(ErrorKind::InvalidInput, message).hint("see `rootling create --help`")
    })
}

/// What a value of a flag that can be given several times is about: a later one about the same replaces it.
fn names<'a>(long: &str, value: &'a OsStr) -> &'a [u8] {
    let bytes = value.as_encoded_bytes();
    let before = |separators: &[u8]| {
        let end = bytes.iter().position(|byte| separators.contains(byte)).unwrap_or(bytes.len());
        bytes.get(..end).unwrap_or(bytes)
    };
    match long {
        "env" | "sysctl" | "ulimit" | "clock-offset" => before(b"="),
        "add-host" => before(b"=:"),
        "tmpfs" => before(b":"),
        // The mount point.
        "volume" => bytes.split(|byte| *byte == b':').nth(1).unwrap_or(bytes),
        "mount" => {
            let target = |field: &&[u8]| {
                [&b"target="[..], b"destination=", b"dst="].iter().any(|key| field.starts_with(key))
            };
            let field = bytes.split(|byte| *byte == b',').find(target).unwrap_or(bytes);
            field.splitn(2, |byte| *byte == b'=').last().unwrap_or(bytes)
        }
        _ => bytes,
    }
}

/// A value that means the same wherever it is said: paths of the host become absolute.
fn anywhere(long: &str, text: &str) -> Result<String> {
    let fixed = |path: &str| -> Result<String> {
        let path = absolute(Path::new(path)).context(|| format!("make {path:?} absolute"))?;
        // It was text, and the working directory need not be.
        path.into_os_string().into_string().map_err(|path| {
            Error::new(ErrorKind::InvalidInput, format!("{path:?} is not UTF-8 and cannot be kept"))
        })
    };
    Ok(match long {
        "volume" if text.starts_with('.') => {
            let (source, rest) = text.split_once(':').unwrap_or((text, ""));
            format!("{}:{rest}", fixed(source)?)
        }
        "mount" => {
            let is_bind = text.split(',').any(|field| field.trim_matches('"') == "type=bind");
            let absolute = |field: &str| match field.split_once('=') {
                Some((key @ ("source" | "src"), path)) if is_bind || path.starts_with('.') => {
                    Ok(format!("{key}={}", fixed(path)?))
                }
                _ => Ok(field.to_owned()),
            };
            text.split(',').map(absolute).collect::<Result<Vec<_>>>()?.join(",")
        }
        "security-opt" => match text.split_once(['=', ':']) {
            Some(("seccomp", path)) if !["default", "i386", "unconfined", ""].contains(&path) => {
                format!("seccomp={}", fixed(path)?)
            }
            _ => text.to_owned(),
        },
        _ => text.to_owned(),
    })
}

/// One line for each flag of a box, as it would be typed.
pub(super) fn lines(settings: &BoxSettings) -> Vec<String> {
    let line = |long: &String, values: &Vec<String>| match values.as_slice() {
        [] => vec![format!("--{long}")],
        values => values.iter().map(|value| format!("--{long} {value}")).collect(),
    };
    let home = settings.home.iter().map(|home| match &home.volume {
        Some(volume) => format!("--home {} ({}, in volume {volume})", home.mode.name(), home.path.display()),
        None => format!("--home {} ({})", home.mode.name(), home.path.display()),
    });
    settings.flags.iter().flat_map(|(long, values)| line(long, values)).chain(home).collect()
}

/// Splits what is to be taken away: a flag, and one value of it where only that is meant.
pub(super) fn flag_and_value(text: &str) -> (&str, Option<&str>) {
    let (long, value) = text.split_once('=').map_or((text, None), |(long, value)| (long, Some(value)));
    (long.trim_start_matches('-'), value)
}

/// Takes flags away: all that was given of one (`env`), or one value (`env=A=1`; of a variable also `env=A`).
pub(super) fn without(mut settings: BoxSettings, unset: &[String]) -> Result<BoxSettings> {
    for text in unset {
        let (long, value) = flag_and_value(text);
        let missing = || {
            Error::new(ErrorKind::NotFound, format!("the box has no setting {text:?}"))
                .hint("`rootling show` lists what it has")
        };
        let known = settings.flags.get_mut(long).ok_or_else(missing)?;
        let before = known.len();
        if let Some(value) = value {
            known.retain(|old| {
                old != value && (long != "env" || names(long, OsStr::new(old)) != value.as_bytes())
            });
            if known.len() == before {
                return Err(missing());
            }
        }
        if value.is_none() || known.is_empty() {
            settings.flags.remove(long);
        }
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(flags: &[(&str, &[&str])]) -> Given {
        let own = |values: &[&str]| values.iter().map(OsString::from).collect();
        Given(flags.iter().map(|(long, values)| ((*long).to_owned(), own(values))).collect())
    }

    fn kept(flags: &[(&str, &[&str])]) -> BoxSettings {
        given(flags).over_kept(BoxSettings::default()).unwrap()
    }

    #[test]
    fn what_is_typed_wins_and_lists_grow() {
        let before = kept(&[
            ("env", &["A=1", "B=2"]),
            ("volume", &["data:/d", "/src:/s:ro"]),
            ("memory", &["64m"]),
            ("tty", &[]),
        ]);
        assert_eq!(before.volumes.iter().map(VolumeName::as_str).collect::<Vec<_>>(), ["data"]);
        let typed =
            given(&[("env", &["A=3"]), ("volume", &["other:/d"]), ("memory", &["1g"]), ("no-tty", &[])]);
        let after = typed.over_kept(before).unwrap();
        assert_eq!(after.flags["env"], ["B=2", "A=3"]);
        assert_eq!(after.flags["volume"], ["/src:/s:ro", "other:/d"]);
        assert_eq!(after.flags["memory"], ["1g"]);
        assert!(after.flags.contains_key("no-tty") && !after.flags.contains_key("tty"));
        assert_eq!(after.volumes.iter().map(VolumeName::as_str).collect::<Vec<_>>(), ["other"]);
        let fewer = without(after, &["env=B".into(), "memory".into(), "volume=other:/d".into()]).unwrap();
        assert_eq!(lines(&fewer), ["--env A=3", "--no-tty", "--volume /src:/s:ro"]);
        assert_eq!(without(fewer, &["memory".into()]).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn nonsense_is_refused_when_it_is_kept() {
        for (long, value) in [
            ("memory", "lots"),
            ("cap-add", "sys_nothing"),
            ("ulimit", "nofile"),
            ("sysctl", "x"),
            ("device", ""),
            ("volume", "/only"),
            ("env", "=1"),
            ("security-opt", "seccomp=/nowhere/profile.json"),
            ("security-opt", "what"),
            ("net", "ns:x"),
        ] {
            let error = given(&[(long, &[value])]).over_kept(BoxSettings::default()).unwrap_err();
            assert!(
                matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::NotFound),
                "{long} {value}: {error:?}"
            );
        }
        assert!(given(&[("dry-run", &[])]).over_kept(BoxSettings::default()).is_err());
        let later = BoxSettings { grammar: 2, ..BoxSettings::default() };
        assert_eq!(given(&[]).with(&later).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn paths_are_kept_for_wherever_it_is_started() {
        let here = std::env::current_dir().unwrap().into_os_string().into_string().unwrap();
        let settings = kept(&[
            ("volume", &["./src:/s", "data:/d"]),
            ("mount", &["type=bind,source=rel,target=/t", "type=volume,source=data,target=/u"]),
        ]);
        assert_eq!(settings.flags["volume"], [format!("{here}/src:/s"), "data:/d".to_owned()]);
        assert_eq!(settings.flags["mount"][0], format!("type=bind,source={here}/rel,target=/t"));
        assert_eq!(settings.flags["mount"][1], "type=volume,source=data,target=/u");
    }

    #[test]
    fn every_flag_that_can_be_given_is_read_again_from_what_was_kept() {
        // The words are clap's long names: an argument without one could not be kept.
        for arg in parser().get_arguments() {
            assert!(arg.get_long().is_some(), "{arg:?}");
        }
    }
}
