//! `man`: manual pages of the program, of its commands, and of what protects whoever uses it.

use clap::CommandFactory;
use clap_mangen::roff::{Inline, Roff, bold, roman};
use rootling_backends::{Context as _, Error, ErrorKind, Result};

use super::Context;

/// The page that is no command.
const WALLS: &str = "walls";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Page of one command, or `walls`: what protects you, and from what not [default: the program's own]
    page: Option<String>,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let mut page = Vec::new();
    let written = match arguments.page.as_deref() {
        Some(WALLS) => walls().to_writer(&mut page),
        name => clap_mangen::Man::new(command(name)?).render(&mut page),
    };
    written.context(|| "write the manual page")?;
    context.output.raw(&page);
    Ok(())
}

fn command(name: Option<&str>) -> Result<clap::Command> {
    let mut command = super::Arguments::command();
    command.build();
    let Some(name) = name else { return Ok(command) };
    command.find_subcommand(name).cloned().ok_or_else(|| {
        let error = Error::new(ErrorKind::InvalidInput, format!("there is no page {name:?}"));
        error.hint(format!("`rootling --help` lists the commands; `{WALLS}` is a page too"))
    })
}

/// The text beside the runner, which keeps to headings, paragraphs and lists, with strong and code inside.
fn walls() -> Roff {
    let mut roff = Roff::new();
    roff.control("TH", ["rootling-walls", "7", "", "rootling", ""]);
    for block in blocks(include_str!("../runner/PROTECTION.md")) {
        if let Some(title) = block.strip_prefix("# ") {
            roff.control("SH", ["NAME"]);
            roff.text([roman(format!("rootling-walls - {}", title.to_lowercase()))]);
            roff.control("SH", ["DESCRIPTION"]);
        } else if let Some(title) = block.strip_prefix("## ") {
            roff.control("SH", [title.to_uppercase().as_str()]);
        } else if let Some(item) = block.strip_prefix("* ") {
            roff.control("IP", ["*", "2"]);
            roff.text(inlines(item));
        } else {
            roff.control("PP", []);
            roff.text(inlines(&block));
        }
    }
    roff
}

/// Joins the lines of each heading, paragraph and list item.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        let starts = line.starts_with(['#', '*']);
        if line.is_empty() || starts {
            open = false;
        }
        if line.is_empty() {
            continue;
        }
        match blocks.last_mut().filter(|_| open) {
            Some(block) => {
                block.push(' ');
                block.push_str(line.trim());
            }
            None => blocks.push(line.to_owned()),
        }
        open = !line.starts_with('#');
    }
    blocks
}

/// `**strong**` and `code` are both bold.
fn inlines(text: &str) -> Vec<Inline> {
    let text = text.replace("**", "`");
    text.split('`')
        .enumerate()
        .map(|(index, part)| if index % 2 == 1 { bold(part) } else { roman(part) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_its_sections_and_no_markup() {
        let page = walls().to_roff();
        for wanted in [
            "\n.SH \"WHAT EACH FLAG GIVES AWAY\"",
            "\\fBLandlock\\fR",
            "\n.IP * 2\n",
            "rootling\\-walls \\- what",
        ] {
            assert!(page.contains(wanted), "{wanted:?} is not in {page}");
        }
        assert!(!page.contains("**") && !page.contains('`') && !page.contains("\n#"), "{page}");
    }

    #[test]
    fn lines_are_joined_until_something_new_begins() {
        let text = "# T\n\none\n two\n* a\n  b\n* c\n\n## H\nd\n";
        assert_eq!(blocks(text), ["# T", "one two", "* a b", "* c", "## H", "d"]);
    }
}
