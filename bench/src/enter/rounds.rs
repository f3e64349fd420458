//! The loop of the times. In each round every contender has one turn, and each round another one begins; round 0 is not counted.

use std::process::Command;
use std::time::Duration;

use rootling_backends::{Context, Error, ErrorKind, Result};

use super::{Place, Runner};
use crate::cases::AT_ONCE;
use crate::command::{timed, timed_at_once};
use crate::load;
use crate::options::Options;
use crate::samples::Samples;

/// What one contender may take in all once it has this many rounds; its n tells how many those were.
const TIME: Duration = Duration::from_secs(6);
const LEAST_ROUNDS: usize = 30;

/// How many are started at once, and how often.
const MANY: usize = 100;
const MANY_ROUNDS: usize = 5;

/// Times each alone.
pub(super) fn one_by_one(
    runners: &[Runner],
    case: &'static str,
    place: &Place,
    options: &Options,
    samples: &mut Samples,
) -> Result<()> {
    let mut used = vec![Duration::ZERO; runners.len()];
    for round in 0..=options.command_rounds() {
        if round % 10 == 1 {
            samples.processors.push(load::processors());
        }
        for turn in 0..runners.len() {
            let index = (turn + round) % runners.len();
            let runner = &runners[index];
            if used[index] > TIME && round > LEAST_ROUNDS {
                continue;
            }
            let mut command = runner.command(&["/bin/true"])?;
            let time = timed(&mut command).context(|| runner.name.clone())?;
            used[index] += time;
            if round > 0 {
                samples.add(place.key(case, &runner.name), round, time.as_secs_f64() * 1e3);
            }
        }
    }
    Ok(())
}

/// Times a hundred at once of each.
pub(super) fn at_once(
    runners: &[Runner],
    place: &Place,
    options: &Options,
    samples: &mut Samples,
) -> Result<()> {
    let mut failed = vec![false; runners.len()];
    for (runner, failed) in runners.iter().zip(&mut failed) {
        if let Some(why) = runner.not_at_once {
            samples.fail(place.key(AT_ONCE.id, &runner.name), &Error::new(ErrorKind::Unsupported, why));
            *failed = true;
        }
    }
    for round in 0..=if options.quick { 2 } else { MANY_ROUNDS } {
        for (runner, failed) in runners.iter().zip(&mut failed).filter(|(_, failed)| !**failed) {
            let mut commands: Vec<Command> =
                (0..MANY).map(|_| runner.command(&["/bin/true"])).collect::<Result<_>>()?;
            match timed_at_once(&mut commands) {
                Ok(time) if round > 0 => {
                    samples.add(place.key(AT_ONCE.id, &runner.name), round, time.as_secs_f64() * 1e3);
                }
                Ok(_) => {}
                Err(error) if runner.is_ours() => return Err(error.context(runner.name.clone())),
                Err(error) => {
                    samples.fail(place.key(AT_ONCE.id, &runner.name), &error);
                    *failed = true;
                }
            }
        }
    }
    Ok(())
}
