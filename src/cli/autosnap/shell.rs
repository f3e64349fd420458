//! What an interactive bash or zsh is given so that it says when a command has ended, and waits until it is told to go on.
//!
//! The shell's own start-up files are read as always; ours adds one function before each prompt. It writes `NUMBER TEXT`, one line,
//! into the pipe `ask`, and reads from `answer` until a line begins with that number. Nothing else is in the directory.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use rootling_backends::{Error, ErrorKind, Result};

use crate::runner::{PIPES, Process};

/// Of a command line 900 characters are passed on: with four bytes for each they fit what a pipe takes in one piece (pipe(7)).
const BASH: &str = r#"# Made by rootling, for `enter --autosnap`.
if [ -r ~/.bashrc ]; then . ~/.bashrc; fi
__rootling_asked=0
__rootling_known=$(HISTTIMEFORMAT= history 1)
__rootling_snap() {
    local status=$? line number answer
    line=$(HISTTIMEFORMAT= history 1)
    if [ "$line" = "$__rootling_known" ]; then line=; fi
    __rootling_known=$(HISTTIMEFORMAT= history 1)
    read -r number line <<< "${line//$'\n'/ }"
    # Nothing else of the box waits for this: after the time it goes on without.
    printf '%d %s\n' "$__rootling_asked" "${line:0:900}" > /dev/rootling/ask
    while read -r -t 60 number answer < /dev/rootling/answer; do
        if [ "$number" = "$__rootling_asked" ]; then break; fi
    done
    if [ -n "$answer" ]; then printf 'rootling: %s\n' "$answer" >&2; fi
    __rootling_asked=$((__rootling_asked + 1))
    return "$status"
}
PROMPT_COMMAND="__rootling_snap${PROMPT_COMMAND:+; $PROMPT_COMMAND}"
"#;

const ZSHENV: &str = r#"# Made by rootling, for `enter --autosnap`.
if [[ -r ~/.zshenv ]]; then . ~/.zshenv; fi
"#;

const ZSHRC: &str = r#"# Made by rootling, for `enter --autosnap`.
ZDOTDIR=$HOME
if [[ -r ~/.zshrc ]]; then . ~/.zshrc; fi
typeset -g __rootling_asked=0 __rootling_line=
__rootling_begins() { __rootling_line=$1; }
__rootling_snap() {
    local number answer line=${__rootling_line//$'\n'/ }
    __rootling_line=
    print -r -- "$__rootling_asked ${line[1,900]}" > /dev/rootling/ask
    while read -r -t 60 number answer < /dev/rootling/answer; do
        if [[ $number = $__rootling_asked ]]; then break; fi
    done
    if [[ -n $answer ]]; then print -r -u2 -- "rootling: $answer"; fi
    __rootling_asked=$((__rootling_asked + 1))
}
preexec_functions+=(__rootling_begins)
precmd_functions=(__rootling_snap $precmd_functions)
"#;

/// The start-up files, by name.
pub(super) const FILES: [(&str, &str); 3] = [("bashrc", BASH), (".zshenv", ZSHENV), (".zshrc", ZSHRC)];

/// Makes the command a shell that reads our start-up file. Another command is an error of kind `InvalidInput`.
pub(super) fn prepare(process: &mut Process) -> Result<()> {
    let program = process.args.first().map(Path::new).and_then(Path::file_name).map(OsStr::to_os_string);
    let plain = process.args.len() == 1;
    match program.as_deref().and_then(OsStr::to_str) {
        Some("bash") if plain => {
            process.args.extend(["--rcfile".into(), OsString::from(format!("{PIPES}/bashrc"))]);
            Ok(())
        }
        Some("zsh") if plain => {
            process.env.retain(|variable| !variable.as_encoded_bytes().starts_with(b"ZDOTDIR="));
            process.env.push(format!("ZDOTDIR={PIPES}").into());
            Ok(())
        }
        _ => {
            let words: Vec<_> = process.args.iter().map(|word| word.to_string_lossy()).collect();
            let message = format!("{:?} does not say when one of its commands has ended", words.join(" "));
            Err(Error::new(ErrorKind::InvalidInput, message)
                .hint("--autosnap needs an interactive bash or zsh: rootling enter --autosnap BOX bash"))
        }
    }
}
