//! `completion`: what shells read about the program, and what they ask it while somebody types.
//!
//! The scripts know commands and flags by themselves. For what is in the store they call the hidden command `complete-words` with the
//! words typed so far; it prints what the last one may become, one a line, says nothing when something is wrong, and reads
//! one directory.

use std::ffi::OsString;

use clap::CommandFactory;
use clap_complete::Shell;
use rootling_backends::Result;

use super::{Context, output};
use crate::loop_store;
use crate::reference::Source;
use crate::sources;
use crate::store::{Name, Store};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(super) struct WordsArguments {
    /// The words so far, the program's name first, the one to be completed last
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

pub(super) fn completion(context: &Context, arguments: &Arguments) -> Result<()> {
    context.output.raw(script(arguments.shell).as_bytes());
    Ok(())
}

/// How zsh's script ends: it hands itself over, or is called.
const ZSH_END: &str = "if [ \"$funcstack[1]\" = \"_rootling\" ]; then\n";

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::Arguments::command(), "rootling", &mut script);
    let mut script = String::from_utf8(script).expect("help is UTF-8");
    match shell {
        Shell::Bash => script.push_str(include_str!("completion/live.bash")),
        Shell::Fish => script.push_str(include_str!("completion/live.fish")),
        Shell::Zsh => {
            let (functions, _) = script.rsplit_once(ZSH_END).expect("so clap_complete ends it");
            let live = include_str!("completion/live.zsh");
            return format!(
                "{functions}{live}{ZSH_END}    _rootling_live \"$@\"\nelse\n    compdef _rootling_live rootling\nfi\n"
            );
        }
        _ => {}
    }
    script
}

/// Prints what the last word may become. Whatever goes wrong, somebody is just typing: nothing is printed, and it is no failure.
pub(super) fn words(context: &Context, arguments: &WordsArguments) -> Result<()> {
    let words: Option<Vec<&str>> = arguments.words.iter().map(|word| word.to_str()).collect();
    let found = words.and_then(|words| candidates(context, &words)).unwrap_or_default();
    let text: String = found.iter().map(|word| format!("{}\n", output::plain_text(word.as_ref()))).collect();
    context.output.raw(text.as_bytes());
    Ok(())
}

fn candidates(context: &Context, words: &[&str]) -> Option<Vec<String>> {
    let (last, before) = words.split_last()?;
    let Typed { root, takes } = typed(before)?;
    let takes = takes.filter(|_| !last.starts_with('-'))?;
    if takes == Takes::Sources {
        let schemes = ["dir:", "tar:", "host:/"].into_iter().chain(sources::SCHEMES);
        return Some(schemes.filter(|scheme| scheme.starts_with(last)).map(str::to_owned).collect());
    }
    let path = root.map_or_else(|| context.store_path().ok(), |root| Some(root.into()))?;
    // A store is not made, and a loop file not mounted, because somebody presses a key.
    let store = Store::open(&loop_store::mounted(&path).unwrap_or(path)).ok()?;
    let names = store.name_texts().ok()?;
    // Of a range, the second half.
    let (kept, last) = last.rsplit_once("..").map_or(("", *last), |(from, to)| (&last[..from.len() + 2], to));
    let names = names.iter().filter_map(|name| match (takes, name.strip_prefix("_volume/")) {
        (Takes::References, None) => Some(name.clone()),
        (Takes::Volumes, Some(name)) => Some(name.replacen('/', "@", 1)),
        _ => None,
    });
    // Snapshots only once their box is typed: there may be thousands.
    let wanted = names.filter(|name| name.contains('@') == last.contains('@') && name.starts_with(last));
    Some(wanted.map(|name| format!("{kept}{name}")).collect())
}

/// What stands at a place of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// Boxes, trees and their snapshots.
    References,
    /// Volumes and theirs.
    Volumes,
    /// What can be imported.
    Sources,
}

#[derive(Debug, PartialEq, Eq)]
struct Typed<'a> {
    root: Option<&'a str>,
    takes: Option<Takes>,
}

/// Reads the words before the one to be completed, the program's name first; `None` where no command is among them yet.
fn typed<'a>(words: &[&'a str]) -> Option<Typed<'a>> {
    let mut command = super::Arguments::command();
    command.build();
    let (mut root, mut verb, mut position) = (None, None::<clap::Command>, 0);
    let mut words = words.iter().skip(1);
    let mut only_positions = false;
    while let Some(word) = words.next() {
        let at = verb.as_ref().unwrap_or(&command);
        if *word == "--" && !only_positions {
            only_positions = true;
        } else if word.starts_with('-') && word.len() > 1 && !only_positions {
            let (flag, joined) =
                word.split_once('=').map_or((*word, None), |(flag, value)| (flag, Some(value)));
            let argument = at.get_arguments().find(|argument| is_called(argument, flag));
            let takes_value = argument.is_some_and(|argument| argument.get_action().takes_values());
            let takes_word =
                argument.is_some_and(|argument| takes_value && !argument.is_require_equals_set());
            let value = if takes_word { joined.or_else(|| words.next().copied()) } else { joined };
            if let (Some(argument), None, true) = (argument, value, takes_word) {
                return Some(Typed { root, takes: takes(at, argument) });
            }
            if flag == "--root" {
                root = value;
            }
        } else if let Some(below) = at.find_subcommand(word) {
            verb = Some(below.clone());
        } else {
            position += 1;
        }
    }
    let verb = verb?;
    let at = verb.get_positionals().nth(position).or_else(|| {
        verb.get_positionals()
            .last()
            .filter(|last| last.get_num_args().is_some_and(|count| count.max_values() > 1))
    });
    Some(Typed { root, takes: at.and_then(|at| takes(&verb, at)) })
}

fn is_called(argument: &clap::Arg, flag: &str) -> bool {
    match flag.strip_prefix("--") {
        Some(long) => argument.get_long_and_visible_aliases().is_some_and(|longs| longs.contains(&long)),
        // Of letters joined only the last can take the next word.
        None => argument
            .get_short_and_visible_aliases()
            .is_some_and(|shorts| shorts.iter().any(|short| flag.ends_with(*short))),
    }
}

/// What an argument means, by its name: the same in all commands. What is of type `Name` is the name of something to be made.
fn takes(verb: &clap::Command, argument: &clap::Arg) -> Option<Takes> {
    const EXISTING: [&str; 12] = [
        "reference",
        "references",
        "name",
        "names",
        "boxes",
        "from",
        "to",
        "old",
        "new",
        "range",
        "onto",
        "adopt",
    ];
    if argument.get_value_parser().type_id() == std::any::TypeId::of::<Source>() {
        return Some(Takes::Sources);
    }
    let makes = argument.get_value_parser().type_id() == std::any::TypeId::of::<Name>();
    if makes || !EXISTING.contains(&argument.get_id().as_str()) {
        return None;
    }
    let is_volume = verb.get_bin_name().is_some_and(|path| path.contains(" volume "));
    Some(if is_volume { Takes::Volumes } else { Takes::References })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(line: &str) -> Option<Takes> {
        typed(&line.split_whitespace().collect::<Vec<_>>()).and_then(|typed| typed.takes)
    }

    #[test]
    fn names_are_offered_where_something_that_exists_is_named() {
        for line in [
            "rootling show",
            "rootling -q --root /s show",
            "rootling rm a b",
            "rootling enter -e A=b",
            "rootling delete",
            "rootling --format=json log a",
            "rootling fork",
            "rootling build --adopt",
            "rootling build . -t app --adopt",
            "rootling rebase dev --onto",
            "rootling bundle --memory 1g",
            "rootling mount",
            "rootling umount",
        ] {
            assert_eq!(what(line), Some(Takes::References), "{line}");
        }
        for line in [
            "rootling",
            "rootling create base",
            "rootling fork base",
            "rootling exec dev",
            "rootling man",
            "rootling import dir:/x",
            "rootling build",
            "rootling build --pull",
            "rootling build --adopt fix",
            "rootling build --target",
            "rootling bundle base dir",
            "rootling mount base",
        ] {
            assert_eq!(what(line), None, "{line}");
        }
        assert_eq!(what("rootling import --fresh"), Some(Takes::Sources));
        assert_eq!(typed(&["rootling", "--root=/s", "ls"]).unwrap().root, Some("/s"));
    }

    #[test]
    fn every_shell_has_a_script_and_those_we_know_ask_for_names() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            assert!(script(shell).contains("complete-words"), "{shell}");
        }
        assert!(script(Shell::Elvish).contains("commit"));
        assert_eq!(script(Shell::Zsh).matches(ZSH_END).count(), 1);
    }
}
