//! A program around the runner, for its tests: reads a spec and runs it, in a process of its own.
//!
//! `box run SPEC [STARTED]`, `box rootless SPEC`, `box plan SPEC`, `box exec RUNNING PROCESS`; all JSON files.
//! `STARTED` is where it writes how to find the running box. Ends as the command did, or with 125.

use std::error::Error;
use std::process::ExitCode;

use rootling::runner::{self, Outcome, Plan, Process, Running, Spec};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match go(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            say(&format!("{error:?}"));
            ExitCode::from(125)
        }
    }
}

fn go(arguments: &[&str]) -> Result<u8, Box<dyn Error>> {
    match arguments {
        ["rootless", spec, rest @ ..] => {
            say(&format!("entered: {:?}", runner::enter_userns()?));
            go(&[&["run", spec], rest].concat())
        }
        ["plan", spec] => {
            let plan = Plan::build(&serde_json::from_slice(&std::fs::read(spec)?)?)?;
            serde_json::to_writer_pretty(std::io::stdout(), &plan)?;
            Ok(0)
        }
        ["run", spec, rest @ ..] => {
            let spec: Spec = serde_json::from_slice(&std::fs::read(spec)?)?;
            let started = |running: &Running| {
                if let [path] = rest {
                    let text = serde_json::to_vec(running).expect("plain data");
                    let written = std::fs::write(format!("{path}.new"), text);
                    written.and_then(|()| std::fs::rename(format!("{path}.new"), path)).expect("STARTED");
                }
            };
            Ok(ended(runner::run(&Plan::build(&spec)?, started)?))
        }
        ["exec", running, process] => {
            let running: Running = serde_json::from_slice(&std::fs::read(running)?)?;
            let process: Process = serde_json::from_slice(&std::fs::read(process)?)?;
            Ok(ended(runner::exec(&running, &process)?))
        }
        ["many", times, specs @ ..] => {
            let before = holdings()?;
            for spec in specs.repeat(times.parse()?) {
                let spec: Spec = serde_json::from_slice(&std::fs::read(spec)?)?;
                // What fails leaves as little as what does not.
                drop(runner::run(&Plan::build(&spec)?, |_| {}));
            }
            let after = holdings()?;
            if before == after { Ok(0) } else { Err(format!("{before:?} became {after:?}").into()) }
        }
        _ => Err("usage: box run|rootless|plan|exec FILE [FILE]".into()),
    }
}

/// Descriptors, children, mounts and namespaces of this process.
fn holdings() -> Result<[Vec<String>; 4], Box<dyn Error>> {
    let links = |directory: &str| -> Result<Vec<String>, Box<dyn Error>> {
        let mut links = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            // The one that reads this directory is closed by now.
            if let Ok(target) = std::fs::read_link(&path) {
                links.push(format!("{path:?} {target:?}"));
            }
        }
        links.sort();
        Ok(links)
    };
    let lines =
        |path: &str| std::fs::read_to_string(path).map(|text| text.lines().map(str::to_owned).collect());
    let children = lines("/proc/thread-self/children")?;
    Ok([links("/proc/self/fd")?, children, lines("/proc/self/mountinfo")?, links("/proc/self/ns")?])
}

fn ended(outcome: Outcome) -> u8 {
    for note in outcome.notes {
        say(&note);
    }
    if let Some(refused) = outcome.refused {
        say(&format!("{refused:?}"));
    }
    outcome.status
}

#[expect(clippy::print_stderr, reason = "this is a program")]
fn say(text: &str) {
    eprintln!("{text}");
}
