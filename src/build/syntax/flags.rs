//! The flags of each instruction.

use super::ast::Flag;
use super::problem::Fault;
use crate::near::near;

/// What a flag takes.
#[derive(Clone, Copy, PartialEq)]
enum Takes {
    /// A value.
    Text,
    /// A value; it may stand there many times.
    Texts,
    /// Nothing, or `true` or `false`.
    Switch,
}

use Takes::{Switch, Text, Texts};

/// Returns the flags that an instruction knows.
fn known(keyword: &str) -> &'static [(&'static str, Takes)] {
    match keyword {
        "FROM" => &[("platform", Text)],
        "RUN" => &[("mount", Texts), ("network", Text), ("security", Text), ("device", Texts)],
        "COPY" => &[
            ("from", Text),
            ("chown", Text),
            ("chmod", Text),
            ("link", Switch),
            ("parents", Switch),
            ("exclude", Texts),
        ],
        "ADD" => &[
            ("chown", Text),
            ("chmod", Text),
            ("link", Switch),
            ("exclude", Texts),
            ("checksum", Text),
            ("keep-git-dir", Switch),
            ("unpack", Switch),
        ],
        "HEALTHCHECK" => &[
            ("interval", Text),
            ("timeout", Text),
            ("start-period", Text),
            ("start-interval", Text),
            ("retries", Text),
        ],
        _ => &[],
    }
}

/// The flags that an instruction has, known to be good ones.
pub(super) struct Flags<'a>(&'a [(usize, Flag)]);

impl<'a> Flags<'a> {
    /// Checks flags, each with where it begins.
    pub(super) fn check(keyword: &str, flags: &'a [(usize, Flag)]) -> Result<Self, Fault> {
        for (number, (at, flag)) in flags.iter().enumerate() {
            let known = known(keyword);
            let Some((name, takes)) = known.iter().find(|(name, _)| *name == flag.name) else {
                return Err(unknown(*at, keyword, flag));
            };
            let fault = |message: String| Err(Fault::new(*at, message));
            if *takes != Texts && flags[..number].iter().any(|(_, before)| before.name == flag.name) {
                return fault(format!("--{name} stands there twice"));
            }
            match (takes, flag.value.as_deref()) {
                (Text | Texts, None) => {
                    return Err(Fault::new(*at, format!("--{name} has no value"))
                        .hint(format!("write --{name}=VALUE, with no blank before the value")));
                }
                (Switch, Some(value)) if truth(value).is_none() => {
                    return fault(format!("--{name} is either true or false, and not {value:?}"));
                }
                _ => {}
            }
        }
        Ok(Self(flags))
    }

    fn all(&self, name: &str) -> impl Iterator<Item = (usize, &'a Flag)> {
        self.0.iter().filter(move |(_, flag)| flag.name == name).map(|(at, flag)| (*at, flag))
    }

    /// Returns the value of a flag, with where it begins. An empty value says as much as none.
    pub(super) fn text(&self, name: &str) -> Option<(usize, String)> {
        let (at, flag) = self.all(name).next()?;
        flag.value.clone().filter(|value| !value.is_empty()).map(|value| (at, value))
    }

    /// Returns the values of a flag that may stand there many times.
    pub(super) fn texts(&self, name: &str) -> Vec<(usize, String)> {
        self.all(name).map(|(at, flag)| (at, flag.value.clone().unwrap_or_default())).collect()
    }

    /// Returns whether a switch is on; `None` where it is not there.
    pub(super) fn switch(&self, name: &str) -> Option<bool> {
        let (_, flag) = self.all(name).next()?;
        Some(flag.value.as_deref().is_none_or(|value| truth(value) == Some(true)))
    }
}

fn truth(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

fn unknown(at: usize, keyword: &str, flag: &Flag) -> Fault {
    let known = known(keyword);
    let fault = Fault::new(at, format!("--{} is no flag of {keyword}", flag.name));
    if known.is_empty() {
        return fault.hint(format!("{keyword} has no flags"));
    }
    match near(&flag.name.to_ascii_lowercase(), known.iter().map(|(name, _)| *name)).first() {
        Some(name) => fault.hint(format!("did you mean --{name}?")),
        None => {
            let names: Vec<String> = known.iter().map(|(name, _)| format!("--{name}")).collect();
            fault.hint(format!("it has {}", names.join(", ")))
        }
    }
}
