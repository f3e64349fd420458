//! Build arguments: those that are always there, those before the first stage, and those that nobody asked for.

use std::collections::BTreeMap;

use rootling_backends::{Error, ErrorKind, Result};

use super::outline::at;
use super::{PlanOptions, Warning, words};
use crate::build::syntax::{Command, Dockerfile, Instruction};
use crate::image::Platform;
use crate::near::near;

/// Arguments that need no `ARG`, and then are no part of the history or the key; in capitals or not.
const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// Arguments that never become variables.
pub(super) const NO_VARIABLES: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// Arguments as they are before the first stage: what `FROM` sees, and what `ARG NAME` in a stage means.
#[derive(Debug)]
pub(super) struct Globals(BTreeMap<String, String>);

impl Globals {
    /// Returns the arguments of a file: automatic ones, and those that stand before its first stage.
    pub(super) fn new(file: &Dockerfile, options: &PlanOptions, target_name: &str) -> Result<Self> {
        let mut globals = Self(automatic(options, target_name));
        for instruction in &file.instructions {
            let Command::Arg(list) = &instruction.command else { break };
            for (name, default) in list {
                let value = match (options.args.get(name), default) {
                    (Some(given), _) => Some(given.clone()),
                    (None, Some(default)) => {
                        let value = words::word(default, &|name| globals.get(name), file.directives.escape);
                        Some(value.map_err(|error| at(instruction, error))?)
                    }
                    (None, None) => None,
                };
                if let Some(value) = value {
                    globals.0.insert(name.clone(), value);
                }
            }
        }
        Ok(globals)
    }

    pub(super) fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    /// Returns what all times shall be.
    pub(super) fn epoch(&self, options: &PlanOptions) -> Result<Option<i64>> {
        let Some(text) =
            options.args.get(EPOCH).or_else(|| self.0.get(EPOCH)).filter(|text| !text.is_empty())
        else {
            return Ok(None);
        };
        let seconds =
            text.parse::<i64>().ok().filter(|seconds| jiff::Timestamp::from_second(*seconds).is_ok());
        seconds.map(Some).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("{EPOCH} is {text:?}, which is no number of seconds"))
                .hint("give seconds since 1970, as `date +%s` prints them")
        })
    }
}

fn automatic(options: &PlanOptions, target_name: &str) -> BTreeMap<String, String> {
    let build = options.build_platform.clone().unwrap_or_else(Platform::host);
    let target = options.platform.clone().unwrap_or_else(|| build.clone());
    let mut all = BTreeMap::new();
    for (prefix, platform) in [("BUILD", &build), ("TARGET", &target)] {
        for (name, value) in [
            ("PLATFORM", platform.to_string()),
            ("OS", platform.os.clone()),
            ("OSVERSION", platform.os_version.clone()),
            ("ARCH", platform.architecture.clone()),
            ("VARIANT", platform.variant.clone()),
        ] {
            all.insert(format!("{prefix}{name}"), value);
        }
    }
    all.insert("TARGETSTAGE".to_owned(), target_name.to_owned());
    for (name, value) in &mut all {
        if let Some(given) = options.args.get(name) {
            value.clone_from(given);
        }
    }
    all
}

/// Returns the name of the stage that is wanted, as `TARGETSTAGE` says it.
pub(super) fn target_name(file: &Dockerfile, options: &PlanOptions) -> String {
    if let Some(target) = &options.target {
        return target.clone();
    }
    let last = file.instructions.iter().rev().find_map(|instruction| match &instruction.command {
        Command::From { name, .. } => Some(name.clone()),
        _ => None,
    });
    last.flatten().map_or_else(|| "default".to_owned(), |name| name.to_ascii_lowercase())
}

/// Returns the proxies that were given, as variables: programs look for either spelling.
pub(super) fn proxies(options: &PlanOptions) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for (name, value) in &options.args {
        if !value.is_empty() && PROXIES.contains(&name.to_ascii_uppercase().as_str()) {
            variables.insert(name.to_ascii_uppercase(), value.clone());
            variables.insert(name.to_ascii_lowercase(), value.clone());
        }
    }
    variables
}

/// Says which of the arguments that were given no `ARG` asks for.
pub(super) fn unused(file: &Dockerfile, options: &PlanOptions, globals: &Globals) -> Vec<Warning> {
    let declared: Vec<&str> = file.instructions.iter().flat_map(declared).collect();
    let is_known = |name: &str| {
        declared.contains(&name)
            || globals.0.contains_key(name)
            || PROXIES.contains(&name.to_ascii_uppercase().as_str())
            || name.starts_with("BUILDKIT_")
            || name == EPOCH
    };
    let unused = options.args.keys().filter(|name| !is_known(name));
    unused
        .map(|name| Warning {
            message: format!("build argument {name} is not used: no ARG asks for it"),
            hint: near(name, declared.iter().copied()).first().map(|known| format!("did you mean {known}?")),
        })
        .collect()
}

fn declared(instruction: &Instruction) -> Vec<&str> {
    match &instruction.command {
        Command::Arg(list) => list.iter().map(|(name, _)| name.as_str()).collect(),
        Command::Onbuild(_, inner) => declared(inner),
        _ => Vec::new(),
    }
}
