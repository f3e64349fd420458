//! Rules that look at words as they were typed, one instruction at a time.

use super::{Findings, Rule};
use crate::build::syntax::{Command, Dockerfile, Instruction};

/// Words in the name of a variable that speak of a secret.
const SECRET: [&str; 10] =
    ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];

/// Words in it that say it is none.
const HARMLESS: [&str; 3] = ["public", "file", "version"];

pub(super) fn check(file: &Dockerfile, findings: &mut Findings<'_>) {
    let first_stage = file.instructions.iter().position(is_from).unwrap_or_default();
    casing(&file.instructions[first_stage..], findings);
    for (number, instruction) in file.instructions.iter().enumerate() {
        let line = instruction.position.line;
        if let Some(line) = instruction.empty_lines.first() {
            findings.add(Rule::NoEmptyContinuation, *line, "An empty line stands within an instruction");
        }
        match &instruction.command {
            Command::From { name, .. } => {
                from(instruction, findings);
                if let Some(name) = name {
                    described(instruction, &[name.to_lowercase()], findings);
                }
            }
            Command::Arg(list) => {
                let names: Vec<String> = list.iter().map(|(name, _)| name.clone()).collect();
                described(instruction, &names, findings);
                // Before the first stage nothing is kept of it.
                if number > first_stage {
                    names.iter().for_each(|name| secret("ARG", name, line, findings));
                }
            }
            Command::Env(list) => {
                old_form(instruction, findings);
                list.iter().for_each(|(name, _)| secret("ENV", name, line, findings));
            }
            Command::Label(_) => old_form(instruction, findings),
            Command::Maintainer(name) => {
                let message = format!(
                    "MAINTAINER is deprecated: write LABEL org.opencontainers.image.authors={name:?}"
                );
                findings.add(Rule::MaintainerDeprecated, line, message);
            }
            _ => {}
        }
    }
}

fn is_from(instruction: &Instruction) -> bool {
    matches!(instruction.command, Command::From { .. })
}

fn is_lower(word: &str) -> bool {
    word == word.to_lowercase()
}

fn is_upper(word: &str) -> bool {
    word == word.to_uppercase()
}

/// All in capitals or all not, as most are.
fn casing(instructions: &[Instruction], findings: &mut Findings<'_>) {
    let keywords = || instructions.iter().map(|instruction| instruction.keyword.as_str());
    let lower = keywords().filter(|word| is_lower(word)).count();
    let is_mostly_lower = lower > keywords().filter(|word| is_upper(word)).count();
    for instruction in instructions {
        let word = &instruction.keyword;
        let (is_good, how) =
            if is_mostly_lower { (is_lower(word), "in lower case") } else { (is_upper(word), "in capitals") };
        if !is_good {
            let message = format!("{word} should be {how}, as most instructions here are");
            findings.add(Rule::ConsistentInstructionCasing, instruction.position.line, message);
        }
    }
}

fn from(instruction: &Instruction, findings: &mut Findings<'_>) {
    let line = instruction.position.line;
    let [_, word, name] = instruction.arguments.as_slice() else { return };
    if !is_lower(name) {
        let message = format!("The stage {name} should have its name in lower case");
        findings.add(Rule::StageNameCasing, line, message);
    }
    let keyword = &instruction.keyword;
    // One that is of neither case is another rule's.
    if (is_lower(keyword) && !is_lower(word)) || (is_upper(keyword) && !is_upper(word)) {
        let message = format!("{word} is not in the same case as {keyword}");
        findings.add(Rule::FromAsCasing, line, message);
    }
}

fn described(instruction: &Instruction, names: &[String], findings: &mut Findings<'_>) {
    let Some(comment) = instruction.comments.last() else { return };
    let first = comment.split(' ').next().unwrap_or_default();
    if !names.is_empty() && !names.iter().any(|name| name == first) {
        let name = if let [name] = names { name } else { "NAME" };
        let message = format!(
            "The comment before {} should be: # {name} description",
            instruction.keyword.to_uppercase()
        );
        findings.add(Rule::InvalidDefinitionDescription, instruction.position.line, message);
    }
}

fn old_form(instruction: &Instruction, findings: &mut Findings<'_>) {
    let [name, value] = instruction.arguments.as_slice() else { return };
    if !name.contains('=') {
        let keyword = instruction.keyword.to_uppercase();
        let message = format!("Write {keyword} {name}={value:?} instead of the old form without =");
        findings.add(Rule::LegacyKeyValueFormat, instruction.position.line, message);
    }
}

fn secret(keyword: &str, name: &str, line: usize, findings: &mut Findings<'_>) {
    let lower = name.to_lowercase();
    let has = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
    if has(&SECRET) && !has(&HARMLESS) {
        let message = format!("{keyword} {name} looks like a secret, and all who have the image can read it");
        findings.add(Rule::SecretsUsedInArgOrEnv, line, message);
    }
}
