//! Rules about variables, and about what is said with them: images, platforms, directories, files, ports.

use std::collections::{BTreeMap, BTreeSet};

use super::scope::Scope;
use super::{Findings, Known, Rule};
use crate::build::expand::Expansion;
use crate::build::plan::is_remote;
use crate::build::syntax::{Command, Dockerfile, Instruction, Transfer, mount};
use crate::image::{ImageReference, Platform};
use crate::near::near;

pub(super) fn check(file: &Dockerfile, known: Known<'_>, findings: &mut Findings<'_>) {
    let mut walk = Walk {
        file,
        known,
        globals: Scope::automatic(),
        stage: Scope::default(),
        name: None,
        ended: BTreeMap::new(),
        in_stage: false,
    };
    for instruction in &file.instructions {
        walk.step(instruction, findings);
    }
}

/// A file being followed from its top to its end.
struct Walk<'a> {
    file: &'a Dockerfile,
    known: Known<'a>,
    globals: Scope,
    stage: Scope,
    /// The name of the stage, in lower case.
    name: Option<String>,
    /// The stages before it, by name.
    ended: BTreeMap<String, Scope>,
    in_stage: bool,
}

impl Walk<'_> {
    fn step(&mut self, instruction: &Instruction, findings: &mut Findings<'_>) {
        let line = instruction.position.line;
        match &instruction.command {
            Command::From { platform, image, name } => {
                self.from(platform.as_deref(), image, name.as_deref(), line, findings);
            }
            Command::Arg(list) if self.in_stage => self.arg(list, line, findings),
            Command::Arg(list) => {
                for (name, value) in list {
                    let value = value.as_deref().and_then(|value| self.globals.expand(value, self.file));
                    self.globals.declare(name, value.map(|value| value.text));
                }
            }
            Command::Env(list) => {
                // One instruction sees what was before it.
                let mut after = self.stage.clone();
                for (name, value) in list {
                    let allowed = if self.stage.is_open { Some(name.as_str()) } else { None };
                    let name = self.words(&[name], None, line, findings);
                    let value = self.words(&[value], allowed, line, findings);
                    after.values.extend(name.into_iter().zip(value));
                }
                self.stage = after;
            }
            Command::Label(list) => {
                let words: Vec<&String> = list.iter().flat_map(|(name, value)| [name, value]).collect();
                self.words(&words, None, line, findings);
            }
            Command::Workdir(path) => self.workdir(path, line, findings),
            Command::User(word) | Command::Stopsignal(word) => {
                self.words(&[word], None, line, findings);
            }
            Command::Volume(paths) => {
                self.words(&paths.iter().collect::<Vec<_>>(), None, line, findings);
            }
            Command::Expose(ports) => self.expose(ports, line, findings),
            Command::Copy { transfer, flags } => {
                self.transfer(instruction, transfer, [&flags.chown, &flags.chmod, &None], findings);
                if flags.from.is_none() {
                    self.ignored("COPY", transfer, line, findings);
                }
            }
            Command::Add { transfer, flags } => {
                self.transfer(instruction, transfer, [&flags.chown, &flags.chmod, &flags.checksum], findings);
                self.ignored("ADD", transfer, line, findings);
            }
            Command::Run { mounts, .. } => {
                let mut values = Vec::new();
                for text in mounts {
                    // What cannot be read is an error elsewhere.
                    drop(mount::parse(text, &mut |value| {
                        values.push(value.to_owned());
                        Ok(value.to_owned())
                    }));
                }
                self.words(&values.iter().collect::<Vec<_>>(), None, line, findings);
            }
            _ => {}
        }
    }

    fn from(
        &mut self,
        platform: Option<&str>,
        image: &str,
        name: Option<&str>,
        line: usize,
        findings: &mut Findings<'_>,
    ) {
        if let Some(before) = self.name.take() {
            self.ended.insert(before, std::mem::take(&mut self.stage));
        }
        self.in_stage = true;
        self.name = name.map(str::to_lowercase);
        if let Some(platform) = platform {
            self.platform(platform, line, findings);
        }
        let Some(expansion) = self.globals.expand(image, self.file) else { return };
        self.undeclared(&expansion, line, findings);
        let has_variables = !expansion.found.is_empty() || !expansion.unset.is_empty();
        if has_variables && ImageReference::parse(&expansion.text).is_err() {
            let message =
                format!("Without --build-arg, {image} is {:?}, which names no image", expansion.text);
            findings.add(Rule::InvalidDefaultArgInFrom, line, message);
        }
        self.stage = match self.ended.get(&expansion.text.to_lowercase()) {
            Some(earlier) => earlier.clone(),
            None if expansion.text == "scratch" => Scope::of_image(Some(BTreeMap::new())),
            None => Scope::of_image(self.known.variables.and_then(|variables| variables(&expansion.text))),
        };
    }

    fn platform(&self, platform: &str, line: usize, findings: &mut Findings<'_>) {
        let Some(expansion) = self.globals.expand(platform, self.file) else { return };
        self.undeclared(&expansion, line, findings);
        let target = self.globals.values.get("TARGETPLATFORM");
        if expansion.unset.is_empty()
            && expansion.found.iter().eq(["TARGETPLATFORM"])
            && Some(&expansion.text) == target
        {
            let message = format!("--platform={platform} says what is so without it");
            findings.add(Rule::RedundantTargetPlatform, line, message);
        }
        let is_constant = expansion.found.is_empty() && expansion.unset.is_empty();
        if is_constant && let Ok(parsed) = Platform::parse(&expansion.text) {
            let name = self.name.as_deref().unwrap_or_default();
            if !name.contains(&parsed.os) && !name.contains(&parsed.architecture) {
                let message = format!("--platform={platform} is the same whatever is built for");
                findings.add(Rule::FromPlatformFlagConstDisallowed, line, message);
            }
        }
    }

    /// Reports arguments that `FROM` uses and nobody declared.
    fn undeclared(&self, expansion: &Expansion, line: usize, findings: &mut Findings<'_>) {
        for name in expansion.missed.iter().filter(|name| !self.globals.declared.contains(*name)) {
            let mut message = format!("{name} is not declared before the first FROM");
            if let Some(meant) = near(name, self.globals.names()).first() {
                message.push_str(&format!(" (did you mean {meant}?)"));
            }
            findings.add(Rule::UndefinedArgInFrom, line, message);
        }
    }

    fn arg(&mut self, list: &[(String, Option<String>)], line: usize, findings: &mut Findings<'_>) {
        for (name, value) in list {
            let value = match value {
                Some(value) => self.words(&[value], None, line, findings).pop(),
                None => self.globals.values.get(name).cloned(),
            };
            self.stage.declare(name, value);
        }
    }

    fn workdir(&mut self, path: &str, line: usize, findings: &mut Findings<'_>) {
        let is_certain =
            self.stage.expand(path, self.file).is_some_and(|expansion| expansion.unset.is_empty());
        if let Some(path) = self.words(&[&path.to_owned()], None, line, findings).pop()
            && is_certain
            && !self.stage.has_workdir
            && !path.starts_with('/')
        {
            let message = format!("WORKDIR {path} is relative to whatever the base image says");
            findings.add(Rule::WorkdirRelativePath, line, message);
        }
        self.stage.has_workdir = true;
    }

    fn expose(&self, ports: &[String], line: usize, findings: &mut Findings<'_>) {
        for port in self.words(&ports.iter().collect::<Vec<_>>(), None, line, findings) {
            for port in port.split_whitespace() {
                let container = port.rsplit(':').next().unwrap_or_default();
                let protocol = container.split_once('/').map_or("", |(_, protocol)| protocol);
                if protocol != protocol.to_lowercase() {
                    let message = format!("The protocol of {port} should be in lower case");
                    findings.add(Rule::ExposeProtoCasing, line, message);
                }
                if port.contains(':') {
                    let message = format!("{port} says more than a port of the container, to no effect");
                    findings.add(Rule::ExposeInvalidFormat, line, message);
                }
            }
        }
    }

    fn transfer(
        &self,
        instruction: &Instruction,
        transfer: &Transfer,
        flags: [&Option<String>; 3],
        findings: &mut Findings<'_>,
    ) {
        let line = instruction.position.line;
        let mut words: Vec<&String> = flags.into_iter().flatten().collect();
        words.extend(&transfer.sources);
        words.push(&transfer.destination);
        self.words(&words, None, line, findings);
        for heredoc in instruction.heredocs.iter().filter(|heredoc| heredoc.expand) {
            if let Some(expansion) = self.stage.document(&heredoc.content) {
                self.undefined(&expansion.missed, None, line, findings);
            }
        }
    }

    /// Reports sources that the ignore file leaves out.
    fn ignored(&self, keyword: &str, transfer: &Transfer, line: usize, findings: &mut Findings<'_>) {
        let Some(ignored) = self.known.ignored else { return };
        for source in &transfer.sources {
            let Some(expansion) = self.stage.expand(source, self.file) else { continue };
            let parts = expansion.text.split('/').filter(|part| !part.is_empty() && *part != ".");
            let path = parts.collect::<Vec<_>>().join("/");
            if !path.is_empty() && !is_remote(&expansion.text) && ignored(&path) {
                let message = format!("{keyword} {path} cannot work: the ignore file leaves it out");
                findings.add(Rule::CopyIgnoredFile, line, message);
            }
        }
    }

    /// Expands words, and reports variables that nobody set.
    fn words(
        &self,
        words: &[&String],
        allowed: Option<&str>,
        line: usize,
        findings: &mut Findings<'_>,
    ) -> Vec<String> {
        let mut expanded = Vec::new();
        for word in words {
            let Some(expansion) = self.stage.expand(word, self.file) else { continue };
            self.undefined(&expansion.missed, allowed, line, findings);
            expanded.push(expansion.text);
        }
        expanded
    }

    fn undefined(
        &self,
        missed: &BTreeSet<String>,
        allowed: Option<&str>,
        line: usize,
        findings: &mut Findings<'_>,
    ) {
        let is_fine = |name: &str| self.stage.declared.contains(name) || allowed == Some(name);
        for name in missed.iter().filter(|name| !is_fine(name)) {
            let mut message = format!("${name} is not set here, and so is empty");
            if let Some(meant) = near(name, self.stage.names()).first() {
                message.push_str(&format!(" (did you mean ${meant}?)"));
            }
            findings.add(Rule::UndefinedVar, line, message);
        }
    }
}
