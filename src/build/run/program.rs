//! What our program does when it is the process of a step: it reads what to run, runs it and answers.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;

use rootling_backends::{Error, ErrorKind, Result};

use super::message::Answer;
use crate::runner::{self, Caller, Outcome, Plan, Spec};

/// What such a process is called, in place of the program's name.
pub const NAME: &str = "rootling-step";

/// The word after the number of the inherited file, for a step whose root could write the program.
pub(super) const SEALED: &str = "sealed";

/// Is this such a process? Then it is one to its end, and this returns its exit code: 0 if it could answer. `arguments` are the program's.
///
/// To be called before anything else was done.
pub fn program(mut arguments: impl Iterator<Item = OsString>, caller: Option<Caller>) -> Option<i32> {
    if arguments.next().as_deref() != Some(OsStr::new(NAME)) {
        return None;
    }
    let number = arguments.next().and_then(|number| number.to_str()?.parse().ok());
    let seals = arguments.next().as_deref() == Some(OsStr::new(SEALED));
    let answered = number.is_some_and(|number| answer(number, seals, caller).is_ok());
    Some(if answered { 0 } else { 125 })
}

fn answer(number: i32, seals: bool, caller: Option<Caller>) -> std::io::Result<()> {
    // Before the file is taken: it is inherited once more.
    let sealed = if seals && !runner::is_sealed() {
        runner::seal("ROOTLING_STEP", SEALED).map(|never| match never {})
    } else {
        Ok(())
    };
    let mut stream = UnixStream::from(runner::take_inherited(number)?);
    let warnings = Warnings::hear();
    let result = sealed.and_then(|()| run(&mut stream, caller));
    let answer = Answer::of(result, warnings.map(Warnings::taken).unwrap_or_default());
    stream.write_all(&serde_json::to_vec(&answer)?)
}

fn run(stream: &mut UnixStream, caller: Option<Caller>) -> Result<Outcome> {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).map_err(|error| Error::io("read(what to run)", error))?;
    let spec: Spec = serde_json::from_slice(&text).map_err(|error| {
        // Nothing of the text: there may be secrets in it.
        let message = format!("what to run is not understood, at byte {}", error.column());
        Error::new(ErrorKind::Corrupt, message)
    })?;
    drop(text);
    let plan = Plan::build(&spec)?;
    drop(spec);
    runner::run(&plan, |_| {
        if let Some(caller) = caller {
            caller.remember();
        }
    })
}

/// What the runner warns of: there is nobody else in this process to hear it.
#[derive(Debug)]
struct Warnings(Mutex<Vec<String>>);

impl Warnings {
    fn hear() -> Option<&'static Self> {
        let warnings: &'static Self = Box::leak(Box::new(Self(Mutex::default())));
        log::set_logger(warnings).ok()?;
        log::set_max_level(log::LevelFilter::Warn);
        Some(warnings)
    }

    fn taken(&self) -> Vec<String> {
        self.0.lock().map(|mut texts| std::mem::take(&mut *texts)).unwrap_or_default()
    }
}

impl log::Log for Warnings {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata())
            && let Ok(mut texts) = self.0.lock()
        {
            texts.push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}
