//! A file as its stages: where each begins, what it is called, which other ones it needs.

use rootling_backends::{Context, Error, ErrorKind, Result};

use super::arguments::Globals;
use super::step::Ground;
use super::{PlanOptions, words};
use crate::build::syntax::{Command, Dockerfile, Instruction, mount};
use crate::image::{ImageReference, Platform};
use crate::near::near;

/// A file as its stages.
#[derive(Debug)]
pub(super) struct Outline<'a> {
    stages: Vec<Part<'a>>,
    options: &'a PlanOptions,
}

/// One stage as it stands in the file.
#[derive(Debug)]
pub(super) struct Part<'a> {
    /// Its place among the stages.
    pub(super) number: usize,
    /// Its name, in lower case.
    pub(super) name: Option<String>,
    /// What it is based on, expanded.
    pub(super) base: String,
    /// `--platform`, expanded.
    pub(super) platform: Option<Platform>,
    /// Its `FROM`.
    pub(super) from: &'a Instruction,
    /// All other instructions.
    pub(super) instructions: &'a [Instruction],
}

impl<'a> Outline<'a> {
    /// Cuts a file into its stages. Only arguments that stand before the first one are expanded in `FROM`.
    pub(super) fn new(file: &'a Dockerfile, options: &'a PlanOptions, globals: &Globals) -> Result<Self> {
        let is_from = |instruction: &Instruction| matches!(instruction.command, Command::From { .. });
        let Some(first) = file.instructions.iter().position(is_from) else {
            return Err(Error::new(ErrorKind::InvalidInput, "the Dockerfile has no FROM")
                .hint("begin it with FROM IMAGE, or FROM scratch"));
        };
        let mut stages = Vec::new();
        let mut rest = &file.instructions[first..];
        while let [from, after @ ..] = rest {
            let end = after.iter().position(is_from).unwrap_or(after.len());
            let part = Part::new(stages.len(), from, &after[..end], globals, file.directives.escape);
            stages.push(part.map_err(|error| at(from, error))?);
            rest = &after[end..];
        }
        let outline = Self { stages, options };
        outline.refuse_cycles()?;
        Ok(outline)
    }

    pub(super) fn stages(&self) -> &[Part<'a>] {
        &self.stages
    }

    /// Returns the number of the stage that is wanted.
    pub(super) fn target(&self) -> Result<usize> {
        let Some(target) = &self.options.target else { return Ok(self.stages.len() - 1) };
        let is_it =
            |part: &Part<'_>| part.name.as_ref().is_some_and(|name| name.eq_ignore_ascii_case(target));
        if let Some(number) = self.stages.iter().rposition(is_it) {
            return Ok(number);
        }
        if let Ok(number) = target.parse::<usize>()
            && number < self.stages.len()
        {
            return Ok(number);
        }
        let error = Error::new(ErrorKind::NotFound, format!("there is no stage {target:?}"));
        let hint = match near(target, self.names()).first() {
            Some(name) => format!("did you mean {name}?"),
            None => match self.names().collect::<Vec<_>>() {
                names if names.is_empty() => {
                    format!("there are {}, from 0, and none has a name", self.count())
                }
                names => format!("there are {}", names.join(", ")),
            },
        };
        Err(error.hint(hint))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.stages.iter().filter_map(|part| part.name.as_deref())
    }

    fn count(&self) -> String {
        match self.stages.len() {
            1 => "1 stage".to_owned(),
            count => format!("{count} stages"),
        }
    }

    /// Returns what a stage stands on. A context takes the place of the stage that has its name.
    pub(super) fn ground_of(&self, number: usize) -> Ground {
        let part = &self.stages[number];
        if let Some(name) = part.name.as_ref().filter(|name| self.options.contexts.contains(*name)) {
            return Ground::Context(name.clone());
        }
        match self.before(&part.base, number) {
            Some(stage) => Ground::Stage(stage),
            None => self.outside(&part.base),
        }
    }

    /// Returns what `from` of a `COPY` or a mount in stage `number` means.
    pub(super) fn source(&self, from: &str, number: usize) -> Result<Ground> {
        if let Ok(index) = from.parse::<usize>() {
            if index >= self.stages.len() {
                let message = format!("there is no stage {index}");
                let hint = format!("there are {}, from 0", self.count());
                return Err(Error::new(ErrorKind::InvalidInput, message).hint(hint));
            }
            return self.stage_before(index, number);
        }
        if let Some(stage) = self.before(from, number) {
            return Ok(Ground::Stage(stage));
        }
        match self.stages.iter().position(|part| part.is_called(from)) {
            Some(stage) => self.stage_before(stage, number),
            None => Ok(self.outside(from)),
        }
    }

    fn stage_before(&self, stage: usize, number: usize) -> Result<Ground> {
        if stage < number {
            return Ok(Ground::Stage(stage));
        }
        let part = &self.stages[stage];
        let error = |why: &str| {
            let message = format!("{} {why}", part.label());
            Error::new(ErrorKind::InvalidInput, message)
        };
        if stage == number {
            return Err(error("cannot take files from itself").hint("name a stage that ends before it"));
        }
        let line = part.from.position.line;
        Err(error("is only made after this one")
            .hint(format!("move it, from line {line} on, above this stage")))
    }

    fn before(&self, name: &str, number: usize) -> Option<usize> {
        self.stages[..number].iter().rposition(|part| part.is_called(name))
    }

    fn outside(&self, name: &str) -> Ground {
        if name == "scratch" {
            return Ground::Scratch;
        }
        let contexts = &self.options.contexts;
        if contexts.contains(name) {
            return Ground::Context(name.to_owned());
        }
        // `alpine`, `alpine:latest` and `docker.io/library/alpine` are the same image.
        let whole = |text: &str| {
            let image = ImageReference::parse(text).ok()?;
            let tag = image.tag_or_latest().map(str::to_owned);
            Some((image.repository(), tag, image.digest().cloned()))
        };
        let same =
            whole(name).and_then(|image| contexts.iter().find(|name| whole(name).as_ref() == Some(&image)));
        match same {
            Some(context) => Ground::Context(context.clone()),
            None => Ground::Image(name.to_owned()),
        }
    }

    /// Returns the stages that instructions of stage `number` take files from.
    pub(super) fn needs(&self, instruction: &Instruction, number: usize) -> Result<Vec<usize>> {
        let mut stages = Vec::new();
        for from in sources(instruction).map_err(|error| at(instruction, error))? {
            let ground = self.source(&from, number);
            let ground = ground.context(|| format!("take files from {from:?}"));
            if let Ground::Stage(stage) = ground.map_err(|error| at(instruction, error))? {
                stages.push(stage);
            }
        }
        Ok(stages)
    }

    /// Refuses stages that wait for each other, whether they are needed or not.
    fn refuse_cycles(&self) -> Result<()> {
        let count = self.stages.len();
        let index = |from: &str, number: usize| match from.parse::<usize>() {
            Ok(index) => Some(index).filter(|index| *index < count),
            Err(_) => {
                self.before(from, number).or_else(|| self.stages.iter().position(|part| part.is_called(from)))
            }
        };
        let mut waits: Vec<Vec<usize>> = Vec::new();
        for part in &self.stages {
            let mut needs: Vec<usize> = self.before(&part.base, part.number).into_iter().collect();
            for instruction in part.instructions {
                // What cannot be read is an error where the stage is needed.
                let from = sources(instruction).unwrap_or_default();
                needs.extend(from.iter().filter_map(|from| index(from, part.number)));
            }
            waits.push(needs);
        }
        // Each stage that waits only for those that are done is done; in what remains, everyone waits for another.
        let mut is_done = vec![false; count];
        loop {
            let ready = |stage: &usize| !is_done[*stage] && waits[*stage].iter().all(|need| is_done[*need]);
            let Some(first) = (0..count).find(ready) else { break };
            // Needs are mostly above: one way down does nearly all.
            for stage in first..count {
                is_done[stage] |= waits[stage].iter().all(|need| is_done[*need]);
            }
        }
        let stuck = |stage: &usize| !is_done[*stage];
        let Some(mut stage) = (0..count).find(stuck) else { return Ok(()) };
        let mut way = Vec::new();
        while !way.contains(&stage) {
            way.push(stage);
            stage = waits[stage].iter().copied().find(stuck).expect("it waits for one that is not done");
        }
        let ring = &way[way.iter().position(|known| *known == stage).expect("the way came back to it")..];
        let part = &self.stages[ring[0]];
        if ring.len() == 1 {
            return Ok(()); // Said where it is needed, with the instruction.
        }
        let labels: Vec<String> = ring.iter().map(|stage| self.stages[*stage].label()).collect();
        let message = format!("{} wait for each other", labels.join(" and "));
        let error = Error::new(ErrorKind::InvalidInput, message);
        Err(at(part.from, error.hint("let one of them take nothing from the others")))
    }
}

impl<'a> Part<'a> {
    fn new(
        number: usize,
        from: &'a Instruction,
        instructions: &'a [Instruction],
        globals: &Globals,
        escape: char,
    ) -> Result<Self> {
        let Command::From { platform, image, name } = &from.command else {
            unreachable!("a stage begins with FROM");
        };
        let word = |text: &str| words::word(text, &|name| globals.get(name), escape);
        let base = word(image)?;
        if base.is_empty() {
            let error = Error::new(ErrorKind::InvalidInput, format!("the base {image:?} is empty"));
            return Err(error.hint("give the argument a value before the first FROM: ARG NAME=VALUE"));
        }
        let platform = match platform {
            None => None,
            Some(typed) => {
                let text = word(typed)?;
                let platform = Platform::parse(&text).context(|| format!("read the platform {typed:?}"))?;
                Some(platform)
            }
        };
        let name = name.as_ref().map(|name| name.to_ascii_lowercase());
        Ok(Self { number, name, base, platform, from, instructions })
    }

    fn is_called(&self, name: &str) -> bool {
        self.name.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(name))
    }

    /// Returns how people call it: `stage build`, `stage 2`.
    pub(super) fn label(&self) -> String {
        match &self.name {
            Some(name) => format!("stage {name}"),
            None => format!("stage {}", self.number),
        }
    }
}

/// Returns what an instruction names with `from`.
fn sources(instruction: &Instruction) -> Result<Vec<String>> {
    match &instruction.command {
        Command::Copy { flags, .. } => Ok(flags.from.iter().cloned().collect()),
        Command::Run { mounts, .. } => {
            mounts.iter().filter_map(|text| mount::from(text).transpose()).collect()
        }
        _ => Ok(Vec::new()),
    }
}

/// Adds where it was and which instruction it is.
pub(super) fn at(instruction: &Instruction, error: Error) -> Error {
    let line = instruction.position.line;
    error.context(format!("line {line}: {}", shown(instruction, 60)))
}

/// Returns an instruction on one line, as it was typed, of `limit` characters at most.
pub(super) fn shown(instruction: &Instruction, limit: usize) -> String {
    let mut text = instruction.source.trim().to_owned();
    if let Some(heredoc) = instruction.heredocs.first() {
        let mut lines = heredoc.content.trim().lines();
        let first = lines.next().unwrap_or_default();
        let more = if lines.next().is_some() { "..." } else { "" };
        text.push_str(&format!(" ({first}{more})"));
    }
    let text: String =
        text.trim_end().chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    if text.chars().count() <= limit {
        return text;
    }
    text.chars().take(limit.saturating_sub(3)).chain("...".chars()).collect()
}
