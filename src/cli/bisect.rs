//! `bisect`: finds the state of a box in which something broke, by halves, in forks that are thrown away.
//!
//! ```text
//! good - ? - ? - ? - ? - ? - bad        the middle one is tried: good or bad, half of the others are the same
//!                ^
//! ```
//!
//! Each step is `rootling run`, a process of its own: what runs a box acts on its whole process (signals, namespaces, cgroups).

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use jiff::Timestamp;
use nix::sys::signal::{SigSet, Signal};
use rootling_backends::{Change, Context as _, DiffOptions, Error, ErrorKind, Result};
use serde::Serialize;

use super::output::Format;
use super::restore::described;
use super::start::Settings;
use super::{Context, diff, store};
use crate::runner;
use crate::store::{Name, Naming, Node, ObjectId, State, Store};

/// What `run` exits with where it was not the command that failed: as any end that says nothing of the state.
const NOT_RUN: u8 = 255;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The box, or an image that was built
    #[arg(value_name = "BOX")]
    reference: String,

    /// A state that is good [default: what the box was made from, or the image built on]
    #[arg(value_name = "GOOD")]
    from: Option<String>,

    /// A later state that is bad [default: the box as it stands]
    #[arg(value_name = "BAD")]
    to: Option<String>,

    #[command(flatten)]
    pub(super) settings: Settings,

    /// Command that exits with 0 where the state is good
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// What a command's exit code says of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Good,
    Bad,
    /// It could not be told.
    Skip,
}

impl Verdict {
    /// As `git bisect run` takes it; `None` where the search ends.
    fn of(code: i32) -> Option<Self> {
        match code {
            0 => Some(Self::Good),
            125 => Some(Self::Skip),
            1..128 => Some(Self::Bad),
            _ => None,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Bad => "bad",
            Self::Skip => "skipped",
        }
    }
}

/// What is known of a line of states, of which the first is good and the last is bad.
#[derive(Debug)]
struct Search {
    /// The last one that is good.
    good: usize,
    /// The first one that is bad.
    bad: usize,
    skipped: Vec<bool>,
}

impl Search {
    /// Begins with `count` states, at least two.
    fn new(count: usize) -> Self {
        Self { good: 0, bad: count - 1, skipped: vec![false; count] }
    }

    fn open(&self) -> impl Iterator<Item = usize> {
        (self.good + 1..self.bad).filter(|state| !self.skipped[*state])
    }

    /// Returns the state to be tried next: of those that nothing is known of the one nearest to the middle.
    fn next(&self) -> Option<usize> {
        let middle = self.good.midpoint(self.bad);
        self.open().min_by_key(|state| state.abs_diff(middle))
    }

    fn learn(&mut self, state: usize, verdict: Verdict) {
        match verdict {
            Verdict::Good => self.good = state,
            Verdict::Bad => self.bad = state,
            Verdict::Skip => self.skipped[state] = true,
        }
    }

    /// Returns how many more steps it takes, if none is skipped.
    fn steps_left(&self) -> u32 {
        usize::BITS - self.open().count().leading_zeros()
    }

    /// Returns the states of which one is the first that is bad: one, unless some were skipped.
    fn candidates(&self) -> std::ops::RangeInclusive<usize> {
        self.good + 1..=self.bad
    }
}

/// The states that are searched, from the good one to the bad one.
#[derive(Debug)]
struct Line<'a> {
    /// The box.
    of: Option<Name>,
    states: Vec<Node>,
    naming: Naming<'a>,
}

/// One that was tried.
#[derive(Debug, Serialize)]
struct Step {
    state: String,
    state_id: ObjectId,
    exit_code: i32,
    verdict: Verdict,
}

/// The document.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// Null where it could not be decided.
    first_bad: Option<String>,
    first_bad_id: Option<&'a ObjectId>,
    message: Option<&'a str>,
    created: Option<Timestamp>,
    /// The last state that is good.
    good: String,
    good_id: &'a ObjectId,
    /// The states of which one is the first that is bad.
    candidates: Vec<String>,
    steps: &'a [Step],
    /// What the first bad state changed.
    changed: Vec<diff::Brief<'a>>,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<i32> {
    if arguments.settings.walls.dry_run {
        return Err(Error::new(ErrorKind::InvalidInput, "--dry-run is of a single command")
            .hint(format!("rootling run --dry-run {} COMMAND", arguments.reference)));
    }
    let store = context.store()?;
    let line = Line::find(&store, arguments)?;
    // The command is in the foreground: these are its own, and how it ended says what came of them, as with system(3).
    let typed: SigSet = [Signal::SIGINT, Signal::SIGQUIT].into_iter().collect();
    typed.thread_block().context(|| "sigprocmask(SIGINT, SIGQUIT)")?;
    let mut search = Search::new(line.states.len());
    let mut steps: Vec<Step> = Vec::new();
    while let Some(tried) = search.next() {
        let (exit_code, verdict) = line.test(context, tried, &arguments.command)?;
        if matches!(exit_code, 126 | 127) && steps.iter().all(|step| !matches!(step.exit_code, 126 | 127)) {
            line.require_command(context, &arguments.command)?;
        }
        search.learn(tried, verdict);
        let more = match search.steps_left() {
            0 => String::new(),
            count => format!(", {count} more"),
        };
        let state = &line.states[tried];
        let described = described(&line.label(tried), state);
        context.output.say(format!("{described}: {}{more}", verdict.word()));
        steps.push(Step { state: line.label(tried), state_id: state.id.clone(), exit_code, verdict });
    }
    line.report(context, &store, &search, &steps)
}

impl<'a> Line<'a> {
    /// Finds the states from GOOD to BAD.
    fn find(store: &'a Store, arguments: &Arguments) -> Result<Self> {
        let node = store::find(store, &arguments.reference)?;
        let mut bad = match &arguments.to {
            Some(text) => store::find(store, text)?,
            None => node.clone(),
        };
        if bad.record.state == State::Active
            && !store.differs(&bad)?
            && let Some(last) = store.predecessor(&bad)?
        {
            // The box is as its last snapshot.
            bad = last;
        }
        let is_build = bad.record.built.is_some() || bad.record.step.is_some();
        bad = store.last_state(&bad)?;
        let good = match &arguments.from {
            Some(text) => Some(store::find(store, text)?),
            None if is_build => store.ground_of_build(&bad)?,
            None => store.origin(&node)?,
        };
        let naming = store.naming()?;
        let of = node.name.clone();
        let mut line = Self { of, states: vec![bad.clone()], naming };
        let is_good = |state: &Node| good.as_ref().is_some_and(|good| good.id == state.id);
        while !line.states.last().is_some_and(is_good) {
            match store.predecessor(line.states.last().expect("it has the bad one"))? {
                Some(before) => line.states.push(before),
                // Without an origin all of its history is its own.
                None if good.is_none() => break,
                None => return Err(line.no_ancestor(&good.expect("checked above"), &bad)),
            }
        }
        line.states.reverse();
        if line.states.len() < 2 {
            let message = format!("{} is the good state and the bad one", line.label(0));
            return Err(Error::new(ErrorKind::InvalidInput, message)
                .hint(format!("`rootling log {}` shows the states", arguments.reference)));
        }
        Ok(line)
    }

    fn no_ancestor(&self, good: &Node, bad: &Node) -> Error {
        let (good, bad) = (self.label_of(good), self.label_of(bad));
        Error::new(ErrorKind::InvalidInput, format!("{good} is not a state that {bad} came from"))
            .hint(format!("the good state comes before the bad one; `rootling log {bad}` shows what does"))
    }

    /// What a person calls a state: of several names the one that makes it a state of the box.
    fn label_of(&self, node: &Node) -> String {
        let names = self.naming.of(&node.id);
        let own = names.iter().find(|name| name.of_snapshot().map(|(owner, _)| owner) == self.of);
        own.or(names.first()).map_or_else(|| node.id.to_string(), ToString::to_string)
    }

    fn label(&self, state: usize) -> String {
        self.label_of(&self.states[state])
    }

    /// Runs the command in a fork of a state; what ends the search is an error.
    fn test(&self, context: &Context, state: usize, command: &[OsString]) -> Result<(i32, Verdict)> {
        let code = fork(context, &self.label(state), command)?;
        let verdict = Verdict::of(code).ok_or_else(|| {
            let label = self.label(state);
            if code == i32::from(NOT_RUN) {
                let message = format!("the command could not be run in {label}, or exited with {code}");
                return Error::new(ErrorKind::FailedPrecondition, message);
            }
            let message = format!("the command exited with {code} in {label}");
            let hint =
                "0 is good, 1 to 124, 126 and 127 are bad, 125 skips the state, 128 and above end the search";
            Error::new(ErrorKind::FailedPrecondition, message).hint(hint)
        })?;
        Ok((code, verdict))
    }

    /// Refuses a command that cannot be executed even where all is good: every state would seem bad.
    fn require_command(&self, context: &Context, command: &[OsString]) -> Result<()> {
        match self.test(context, 0, command)? {
            (code @ (126 | 127), _) => {
                let name = command[0].to_string_lossy();
                let message = format!("{name} exits with {code} in {}, the good state, too", self.label(0));
                Err(Error::new(ErrorKind::FailedPrecondition, message)
                    .hint("a line of shell is run by: -- sh -c 'LINE'"))
            }
            _ => Ok(()),
        }
    }

    /// Says what was found; 1 where it could not be decided.
    fn report(&self, context: &Context, store: &Store, search: &Search, steps: &[Step]) -> Result<i32> {
        let good = &self.states[search.good];
        let candidates: Vec<usize> = search.candidates().collect();
        let found = Some(search.bad).filter(|_| candidates.len() == 1);
        let node = found.map(|found| &self.states[found]);
        let changes = node.map(|node| store.diff(good, node, DiffOptions::default())).transpose()?;
        let changes = changes.unwrap_or_default();
        if let Some(node) = node {
            store::remember(store, &Node { name: self.naming.first(&node.id), ..node.clone() });
        }
        let report = Report {
            first_bad: found.map(|found| self.label(found)),
            first_bad_id: node.map(|node| &node.id),
            message: node.and_then(|node| node.record.message.as_deref()),
            created: node.map(|node| node.record.created),
            good: self.label(search.good),
            good_id: &good.id,
            candidates: candidates.iter().map(|state| self.label(*state)).collect(),
            steps,
            changed: changes.iter().map(diff::Brief::of).collect(),
        };
        context.output.list_of(&report, report.candidates.iter(), || match found {
            Some(found) => self.found(found, &report.good, &changes),
            None => self.undecided(&candidates),
        });
        Ok(i32::from(found.is_none()))
    }

    fn found(&self, found: usize, good: &str, changes: &[Change]) -> String {
        let label = self.label(found);
        let state = described(&label, &self.states[found]);
        let changed = diff::beginning(changes, &format!(": rootling diff {good} {label}"));
        format!("{state} is the first bad state\n{changed}")
    }

    fn undecided(&self, candidates: &[usize]) -> String {
        let mut text = "only skipped states are left; the first bad state is one of\n".to_owned();
        for state in candidates {
            text.push_str(&format!("  {}\n", described(&self.label(*state), &self.states[*state])));
        }
        text
    }
}

/// Runs the command in a fork that is thrown away; returns its exit code as a shell shows it.
fn fork(context: &Context, label: &str, command: &[OsString]) -> Result<i32> {
    let mut program = Command::new("/proc/self/exe");
    program.args(["--quiet", "--root"]).arg(context.store_path()?);
    program.arg("run").arg(format!("--failure-code={NOT_RUN}")).args(&context.settings);
    program.arg(label).arg("--").args(command);
    if let Some((name, value)) = context.as_entered() {
        program.env(name, value);
    }
    if context.output.format == Format::Json {
        // Standard output is for the document.
        program.stdout(context.output.talk()?);
    }
    runner::ends_with_caller(&mut program);
    let status = program.status().map_err(|error| Error::io("execute \"/proc/self/exe\"", error))?;
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches among `count` states of which `first` is the first bad one; returns the steps and what is left.
    fn search(count: usize, first: usize, skipped: &[usize]) -> (usize, Vec<usize>) {
        let (mut search, mut steps) = (Search::new(count), 0);
        while let Some(state) = search.next() {
            let verdict = match state {
                state if skipped.contains(&state) => Verdict::Skip,
                state if state < first => Verdict::Good,
                _ => Verdict::Bad,
            };
            let most = search.steps_left();
            search.learn(state, verdict);
            assert!(verdict == Verdict::Skip || search.steps_left() < most);
            steps += 1;
        }
        (steps, search.candidates().collect())
    }

    #[test]
    fn the_first_bad_state_is_found_in_logarithmic_steps() {
        for count in 2..140_usize {
            let most = (count - 2).checked_ilog2().map_or(0, |log| log as usize + 1);
            for first in 1..count {
                let (steps, left) = search(count, first, &[]);
                assert_eq!(left, [first]);
                assert!(steps <= most, "{steps} steps for {count} states");
            }
        }
    }

    #[test]
    fn what_was_skipped_is_left_only_where_it_matters() {
        assert_eq!(search(20, 13, &[3, 10]).1, [13]);
        assert_eq!(search(20, 13, &[12, 13]).1, [12, 13, 14]);
        assert_eq!(search(20, 13, &(1..19).collect::<Vec<_>>()).1, (1..20).collect::<Vec<_>>());
    }

    #[test]
    fn exit_codes_mean_what_they_mean_to_git() {
        use Verdict::{Bad, Good, Skip};
        let verdicts = [0, 1, 124, 125, 126, 127, 128, 130, 255].map(Verdict::of);
        let expected = [Some(Good), Some(Bad), Some(Bad), Some(Skip), Some(Bad), Some(Bad), None, None, None];
        assert_eq!(verdicts, expected);
    }
}
