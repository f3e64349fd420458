//! `RUN`: what is run, with which variables, mounts and walls.

use rootling_backends::{Error, ErrorKind, Result};

use super::outline::Outline;
use super::scene::Scene;
use super::step::{Network, RunStep, Security};
use super::{PlanOptions, mounts};
use crate::build::syntax::{Command, CommandLine, Heredoc, Instruction};

/// Where a heredoc lies that is a program of its own.
const PROGRAMS: &str = "/dev/pipes";

/// Returns what a `RUN` of stage `number` does, and what history says of it. Its proxies are left to be filled in.
pub(super) fn run(
    instruction: &Instruction,
    scene: &Scene,
    outline: &Outline<'_>,
    number: usize,
    options: &PlanOptions,
    escape: char,
) -> Result<(RunStep, String)> {
    let Command::Run { mounts, network, security, devices, line } = &instruction.command else {
        unreachable!("it is a RUN");
    };
    if let Some(device) = devices.first() {
        let error = Error::new(ErrorKind::Unsupported, format!("--device={device} is not supported"));
        return Err(error.hint("leave it out: no devices are given to a build"));
    }
    let (args, files) = command(line, &instruction.heredocs, scene)?;
    let history = format!("RUN {} # buildkit", with_arguments(&args, scene));
    let step = RunStep {
        args,
        files,
        env: scene.env.clone(),
        quiet_env: std::collections::BTreeMap::new(),
        user: scene.config.user.clone(),
        workdir: scene.workdir(),
        mounts: mounts::mounts(mounts, scene, outline, number, escape)?,
        network: network_of(network.as_deref(), options.network)?,
        security: security_of(security.as_deref())?,
    };
    Ok((step, history))
}

type Files = Vec<(String, String, u32)>;

/// A heredoc that stands alone is what is run: a program of its own if it begins with `#!`, else text for the shell. All others are
/// put back behind their line, for the shell to read.
fn command(line: &CommandLine, heredocs: &[Heredoc], scene: &Scene) -> Result<(Vec<String>, Files)> {
    let text = match (line, heredocs) {
        (CommandLine::Exec(list), []) if list.is_empty() => {
            return Err(Error::new(ErrorKind::InvalidInput, "there is nothing to run")
                .hint("write a command, or a list of a program and its arguments"));
        }
        (CommandLine::Exec(list), []) => return Ok((list.clone(), Vec::new())),
        (CommandLine::Exec(_), _) => {
            return Err(Error::new(ErrorKind::InvalidInput, "a list of arguments has no heredocs")
                .hint("write the command without brackets"));
        }
        (CommandLine::Shell(text), []) => text.clone(),
        (CommandLine::Shell(text), [heredoc]) if stands_alone(text, heredoc) => {
            if heredoc.content.starts_with("#!") {
                let path = format!("{PROGRAMS}/{}", heredoc.name);
                return Ok((vec![path.clone()], vec![(path, heredoc.content.clone(), 0o755)]));
            }
            heredoc.content.clone()
        }
        (CommandLine::Shell(text), heredocs) => {
            let after = heredocs.iter().map(|heredoc| format!("\n{}{}", heredoc.content, heredoc.name));
            std::iter::once(text.clone()).chain(after).collect()
        }
    };
    Ok((scene.command(&CommandLine::Shell(text)), Vec::new()))
}

/// Is there nothing on the line but `<<NAME`?
fn stands_alone(line: &str, heredoc: &Heredoc) -> bool {
    let rest = line.trim().trim_start_matches(|letter: char| letter.is_ascii_digit());
    let Some(rest) = rest.strip_prefix("<<") else { return false };
    let word = rest.strip_prefix('-').unwrap_or(rest);
    let bare: String = word.chars().filter(|letter| !['"', '\'', '\\'].contains(letter)).collect();
    bare == heredoc.name
}

/// The arguments that were declared come first, with the values they have here: `|2 A=1 B=2 /bin/sh -c make`.
fn with_arguments(args: &[String], scene: &Scene) -> String {
    let mut words = Vec::new();
    if !scene.args.is_empty() {
        words.push(format!("|{}", scene.args.len()));
        words.extend(scene.args.iter().map(|name| format!("{name}={}", scene.value_of(name))));
    }
    words.extend(args.iter().cloned());
    words.join(" ")
}

fn network_of(text: Option<&str>, of_build: Network) -> Result<Network> {
    match text {
        None | Some("default") => Ok(of_build),
        Some("none") => Ok(Network::None),
        Some("host") => Ok(Network::Host),
        Some(other) => Err(Error::new(ErrorKind::InvalidInput, format!("there is no network {other:?}"))
            .hint("write default, none or host")),
    }
}

fn security_of(text: Option<&str>) -> Result<Security> {
    match text {
        None | Some("sandbox") => Ok(Security::Sandbox),
        Some("insecure") => Ok(Security::Insecure),
        Some(other) => {
            Err(Error::new(ErrorKind::InvalidInput, format!("there is no security mode {other:?}"))
                .hint("write sandbox or insecure"))
        }
    }
}
