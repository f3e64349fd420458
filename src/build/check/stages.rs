//! Rules about stages, and about what a stage says twice.

use std::collections::BTreeMap;

use super::{Findings, Rule};
use crate::build::syntax::{Command, CommandLine, Dockerfile, Healthcheck};

pub(super) fn check(file: &Dockerfile, findings: &mut Findings<'_>) {
    names(file, findings);
    let mut stage = Stage::default();
    for instruction in &file.instructions {
        let line = instruction.position.line;
        match &instruction.command {
            Command::From { .. } => stage = Stage::default(),
            Command::Shell(_) => stage.has_shell = true,
            Command::Cmd(command) => {
                stage.again("CMD", line, findings);
                stage.shell_form("CMD", command, line, findings);
            }
            Command::Entrypoint(command) => {
                stage.again("ENTRYPOINT", line, findings);
                stage.shell_form("ENTRYPOINT", command, line, findings);
            }
            Command::Healthcheck(Healthcheck::None | Healthcheck::Cmd(_)) => {
                stage.again("HEALTHCHECK", line, findings);
            }
            _ => {}
        }
    }
}

fn names(file: &Dockerfile, findings: &mut Findings<'_>) {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for instruction in &file.instructions {
        let Command::From { name: Some(name), .. } = &instruction.command else { continue };
        let (name, line) = (name.to_lowercase(), instruction.position.line);
        if name == "scratch" || name == "context" {
            let message = format!("The stage has the name {name}, which means something else");
            findings.add(Rule::ReservedStageName, line, message);
        }
        if let Some(first) = seen.get(&name) {
            let message = format!("The stage has the name {name}, and so has that of line {first}");
            findings.add(Rule::DuplicateStageName, line, message);
        }
        seen.entry(name).or_insert(line);
    }
}

/// What the stage said so far.
#[derive(Default)]
struct Stage {
    has_shell: bool,
    said: BTreeMap<&'static str, usize>,
}

impl Stage {
    /// The earlier one is what does not count.
    fn again(&mut self, keyword: &'static str, line: usize, findings: &mut Findings<'_>) {
        if let Some(earlier) = self.said.insert(keyword, line) {
            let message = format!("This {keyword} has no effect: the one in line {line} takes its place");
            findings.add(Rule::MultipleInstructionsDisallowed, earlier, message);
        }
    }

    /// Who names a shell means it.
    fn shell_form(&self, keyword: &str, command: &CommandLine, line: usize, findings: &mut Findings<'_>) {
        if matches!(command, CommandLine::Shell(_)) && !self.has_shell {
            let message = format!("{keyword} should be a JSON list, so that signals reach the command");
            findings.add(Rule::JSONArgsRecommended, line, message);
        }
    }
}
