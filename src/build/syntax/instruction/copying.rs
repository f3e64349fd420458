//! `COPY` and `ADD`.

use super::super::ast::{AddFlags, Command, CopyFlags, Transfer};
use super::super::flags::Flags;
use super::super::heredoc;
use super::super::lines::Line;
use super::super::problem::Fault;
use super::super::words::split;
use super::{Arguments, Reading};
use crate::build::expand::Expander;

impl Arguments<'_> {
    pub(super) fn transfer(&self, flags: &Flags<'_>, line: &Line) -> Result<Reading, Fault> {
        let list = self.json(self.text, self.at)?;
        let is_json = list.is_some();
        let arguments: Vec<String> = list.unwrap_or_else(|| {
            split(self.text).into_iter().map(|(_, argument)| argument.to_owned()).collect()
        });
        let heredocs = if is_json { vec![] } else { heredoc::of_line(&line.text) };
        let is_heredoc = |argument: &str| {
            heredoc::of_word(argument).is_some_and(|word| heredocs.iter().any(|doc| doc.name == word.name))
        };
        let (destination, sources) = match arguments.as_slice() {
            [] => return Err(self.missing("has neither source nor destination")),
            [_] => return Err(self.missing("has a source and no destination")),
            [sources @ .., destination] => (destination.clone(), sources),
        };
        if is_heredoc(&destination) {
            return Err(self
                .fault(format!("{destination} is a heredoc, and cannot be a destination"))
                .hint("the destination is the last argument: put the heredoc before it"));
        }
        let sources = sources.iter().filter(|source| is_json || !is_heredoc(source)).cloned().collect();
        let transfer = Transfer { sources, destination };
        let command = if self.keyword == "COPY" {
            Command::Copy { transfer, flags: copy_flags(flags)? }
        } else {
            Command::Add { transfer, flags: add_flags(flags) }
        };
        Ok(Reading { command, arguments, is_json, heredocs })
    }

    pub(super) fn missing(&self, what: &str) -> Fault {
        let keyword = self.keyword;
        self.fault(format!("{keyword} {what}")).hint(format!("write {keyword} source destination"))
    }
}

fn text(flags: &Flags<'_>, name: &str) -> Option<String> {
    flags.text(name).map(|(_, value)| value)
}

fn texts(flags: &Flags<'_>, name: &str) -> Vec<String> {
    flags.texts(name).into_iter().map(|(_, value)| value).collect()
}

fn copy_flags(flags: &Flags<'_>) -> Result<CopyFlags, Fault> {
    if let Some((at, from)) = flags.text("from")
        && let Ok(expansion) = Expander::new(&|_| None, '\\').expand(&from)
        && !expansion.unset.is_empty()
    {
        return Err(Fault::new(
            at,
            format!("--from={from} has a variable in it, and --from cannot be expanded"),
        )
        .hint("give it a name first, with FROM ... AS NAME, and say --from=NAME"));
    }
    Ok(CopyFlags {
        from: text(flags, "from"),
        chown: text(flags, "chown"),
        chmod: text(flags, "chmod"),
        link: flags.switch("link").unwrap_or(false),
        parents: flags.switch("parents").unwrap_or(false),
        exclude: texts(flags, "exclude"),
    })
}

fn add_flags(flags: &Flags<'_>) -> AddFlags {
    AddFlags {
        chown: text(flags, "chown"),
        chmod: text(flags, "chmod"),
        link: flags.switch("link").unwrap_or(false),
        exclude: texts(flags, "exclude"),
        checksum: text(flags, "checksum"),
        keep_git_dir: flags.switch("keep-git-dir"),
        unpack: flags.switch("unpack"),
    }
}
