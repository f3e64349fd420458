//! From the line of an instruction to what it says.

mod command;
mod copying;
mod values;

use super::ast::{Command, Flag, Heredoc, Instruction};
use super::flags::Flags;
use super::lines::Line;
use super::problem::Fault;
use super::words::{Json, first, flags, json, split};
use crate::near::near;

/// Every instruction.
pub(super) const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Reads the instruction that begins at `from` in a line. Its heredocs have no content yet, its comments and last
/// line are not known.
pub(super) fn read(line: &Line, from: usize, escape: char) -> Result<Instruction, Fault> {
    let text = line.text.get(from..).unwrap_or_default();
    let from = line.text.len() - text.trim_start().len();
    let text = text.trim();
    let (typed, rest) = first(text);
    let keyword = typed.to_uppercase();
    if !KEYWORDS.contains(&keyword.as_str()) {
        return Err(unknown(typed).at(from));
    }
    let (found, arguments) = flags(&text[rest..]);
    let found: Vec<(usize, Flag)> = found
        .into_iter()
        .map(|(at, word)| (from + rest + at, word))
        .map(|(at, word)| (at, flag(&word, line, at)))
        .collect();
    let at = from + rest + arguments;
    let mut words = Arguments { keyword: &keyword, text: &text[rest + arguments..], at, escape };
    let flags = Flags::check(&keyword, &found)?;
    let read = words.read(&flags, line)?;
    Ok(Instruction {
        keyword: typed.to_owned(),
        position: line.position(from),
        last_line: 0,
        source: text.to_owned(),
        text: words.text.to_owned(),
        arguments: read.arguments,
        is_json: read.is_json,
        heredocs: read.heredocs,
        comments: Vec::new(),
        empty_lines: Vec::new(),
        command: read.command,
        flags: found.into_iter().map(|(_, flag)| flag).collect(),
    })
}

fn flag(word: &str, line: &Line, at: usize) -> Flag {
    let word = word.strip_prefix("--").unwrap_or(word);
    let (name, value) = match word.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (word, None),
    };
    Flag { name: name.to_owned(), value, position: line.position(at) }
}

fn unknown(typed: &str) -> Fault {
    if typed.is_empty() {
        return Fault::new(0, "there is nothing but the end of a line to continue".to_owned())
            .hint("write an instruction before the escape character, or remove it");
    }
    let fault = Fault::new(0, format!("{typed} is no instruction"));
    match near(&typed.to_uppercase(), KEYWORDS.into_iter()).first() {
        Some(keyword) => fault.hint(format!("did you mean {keyword}?")),
        None => fault.hint("if it belongs to the line before, that must end with the escape character"),
    }
}

/// What an instruction says, and how.
struct Reading {
    command: Command,
    arguments: Vec<String>,
    is_json: bool,
    heredocs: Vec<Heredoc>,
}

impl Reading {
    fn new(command: Command, arguments: Vec<String>) -> Self {
        Self { command, arguments, is_json: false, heredocs: Vec::new() }
    }
}

/// What follows the flags.
struct Arguments<'a> {
    keyword: &'a str,
    text: &'a str,
    /// Where it begins in the line.
    at: usize,
    escape: char,
}

impl Arguments<'_> {
    fn fault(&self, message: impl Into<String>) -> Fault {
        Fault::new(self.at, message.into())
    }

    fn read(&mut self, flags: &Flags<'_>, line: &Line) -> Result<Reading, Fault> {
        match self.keyword {
            "FROM" => self.from(flags),
            "RUN" => self.run(flags, line),
            "COPY" | "ADD" => self.transfer(flags, line),
            "ARG" => self.arg(),
            "ENV" => self.pairs(Command::Env),
            "LABEL" => self.pairs(Command::Label),
            "CMD" => self.line(Command::Cmd),
            "ENTRYPOINT" => self.line(Command::Entrypoint),
            "HEALTHCHECK" => self.healthcheck(flags),
            "EXPOSE" => {
                let ports: Vec<String> =
                    split(self.text).into_iter().map(|(_, port)| port.to_owned()).collect();
                self.some(&ports, "EXPOSE 8080 or EXPOSE 53/udp")?;
                Ok(Reading::new(Command::Expose(ports.clone()), ports))
            }
            "VOLUME" => self.volume(),
            "USER" => self.one(Command::User, "USER name, or USER name:group"),
            "WORKDIR" => self.one(Command::Workdir, "WORKDIR /directory"),
            "STOPSIGNAL" => self.one(Command::Stopsignal, "STOPSIGNAL SIGTERM"),
            "MAINTAINER" => self.one(Command::Maintainer, "MAINTAINER name"),
            "SHELL" => self.shell(),
            _ => self.onbuild(line),
        }
    }

    /// Refuses an instruction that has no arguments.
    fn some(&self, arguments: &[String], example: &str) -> Result<(), Fault> {
        if !arguments.is_empty() {
            return Ok(());
        }
        Err(self.fault(format!("{} says nothing", self.keyword)).hint(format!("write {example}")))
    }

    /// An instruction that takes the rest of its line, whatever it is.
    fn one(&self, command: impl Fn(String) -> Command, example: &str) -> Result<Reading, Fault> {
        let text = self.text.to_owned();
        let arguments = if text.is_empty() { vec![] } else { vec![text.clone()] };
        self.some(&arguments, example)?;
        Ok(Reading::new(command(text), arguments))
    }

    /// Returns the strings of a JSON list; `None` where it is none.
    fn json(&self, text: &str, at: usize) -> Result<Option<Vec<String>>, Fault> {
        match json(text) {
            Json::List(list) => Ok(Some(list)),
            Json::None => Ok(None),
            Json::Mixed => Err(Fault::new(at, "a JSON list of arguments holds strings only".to_owned())
                .hint("put every argument in double quotes")),
        }
    }

    fn from(&self, flags: &Flags<'_>) -> Result<Reading, Fault> {
        let words = split(self.text);
        let name = match words.as_slice() {
            [] => {
                return Err(self.fault("FROM names no image").hint("write FROM image:tag, or FROM scratch"));
            }
            [_] => None,
            [_, (_, word), (at, name)] if word.eq_ignore_ascii_case("as") => {
                Some(stage_name(name).map_err(|fault| fault.at(self.at + at))?)
            }
            [_, (at, _), ..] => {
                return Err(Fault::new(self.at + at, "after the image, FROM takes AS and a name".to_owned())
                    .hint("write FROM image, or FROM image AS name"));
            }
        };
        let image = words[0].1.to_owned();
        let arguments = words.iter().map(|(_, word)| (*word).to_owned()).collect();
        let platform = flags.text("platform").map(|(_, platform)| platform);
        Ok(Reading::new(Command::From { platform, image, name }, arguments))
    }

    fn onbuild(&self, line: &Line) -> Result<Reading, Fault> {
        let (word, _) = first(self.text);
        if word.is_empty() {
            return Err(self.fault("ONBUILD says nothing").hint("write ONBUILD and another instruction"));
        }
        match word.to_uppercase().as_str() {
            "ONBUILD" => return Err(self.fault("an ONBUILD within another is not allowed")),
            keyword @ ("FROM" | "MAINTAINER") => {
                return Err(self.fault(format!("{keyword} cannot wait for another build")));
            }
            _ => {}
        }
        let inner = read(line, self.at, self.escape)?;
        let mut arguments = vec![inner.keyword.clone()];
        arguments.extend(inner.arguments.iter().cloned());
        Ok(Reading {
            arguments,
            is_json: inner.is_json,
            heredocs: inner.heredocs.clone(),
            command: Command::Onbuild(self.text.to_owned(), Box::new(inner)),
        })
    }
}

/// Checks the name of a stage, which is returned as it was typed.
fn stage_name(name: &str) -> Result<String, Fault> {
    let lower = name.to_lowercase();
    let mut characters = lower.chars();
    let first = characters.next().is_some_and(|c| c.is_ascii_lowercase());
    let is_good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    if first && characters.all(is_good) {
        return Ok(name.to_owned());
    }
    Err(Fault::new(0, format!("{name:?} is no name for a stage"))
        .hint("begin with a letter, and go on with letters, digits, - _ and ."))
}

#[cfg(test)]
mod tests {
    use super::super::ast::{AddFlags, CommandLine, CopyFlags, Healthcheck, Position, Transfer};
    use super::*;

    fn line(text: &str) -> Line {
        let mut line = Line::default();
        line.push(text, Position { line: 1, column: 1 });
        line
    }

    fn command(text: &str) -> Command {
        match read(&line(text), 0, '\\') {
            Ok(instruction) => instruction.command,
            Err(fault) => panic!("{text:?}: {fault:?}"),
        }
    }

    fn shell(text: &str) -> CommandLine {
        CommandLine::Shell(text.to_owned())
    }

    fn exec(words: &[&str]) -> CommandLine {
        CommandLine::Exec(list(words))
    }

    fn list(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn from_names_an_image_and_a_stage() {
        let from = |platform, image: &str, name| Command::From { platform, image: image.to_owned(), name };
        let cases = [
            ("FROM a", from(None, "a", None)),
            ("FROM  a:b@sha256:c  as\tB.c-d_1", from(None, "a:b@sha256:c", some("B.c-d_1"))),
            (
                "from --platform=$BUILDPLATFORM ${x:-a} As b",
                from(some("$BUILDPLATFORM"), "${x:-a}", some("b")),
            ),
            ("FROM --platform= a", from(None, "a", None)),
            ("FROM \"a\"", from(None, "\"a\"", None)),
        ];
        for (text, expected) in cases {
            assert_eq!(command(text), expected, "{text}");
        }
    }

    #[test]
    fn commands_have_two_forms() {
        let cases = [
            ("CMD a b", Command::Cmd(shell("a b"))),
            ("CMD [\"a\", \"b c\"]", Command::Cmd(exec(&["a", "b c"]))),
            ("CMD [\"a\"] # c", Command::Cmd(shell("[\"a\"] # c"))),
            ("CMD ['a']", Command::Cmd(shell("['a']"))),
            ("CMD []", Command::Cmd(exec(&[]))),
            ("CMD", Command::Cmd(shell(""))),
            ("CMD [ -f x ] && y", Command::Cmd(shell("[ -f x ] && y"))),
            ("ENTRYPOINT [\"a\"]", Command::Entrypoint(exec(&["a"]))),
            ("ENTRYPOINT  a  b ", Command::Entrypoint(shell("a  b"))),
            ("SHELL [\"a\",\"-c\"]", Command::Shell(list(&["a", "-c"]))),
            ("HEALTHCHECK NONE", Command::Healthcheck(Healthcheck::None)),
            ("HEALTHCHECK none", Command::Healthcheck(Healthcheck::None)),
            ("HEALTHCHECK cmd a b", Command::Healthcheck(Healthcheck::Cmd(shell("a b")))),
            ("HEALTHCHECK --interval=5s --retries=0 CMD [\"a\"]", {
                Command::Healthcheck(Healthcheck::Cmd(exec(&["a"])))
            }),
            ("HEALTHCHECK --timeout=1m30s --start-period=0 --start-interval=1.5s CMD a", {
                Command::Healthcheck(Healthcheck::Cmd(shell("a")))
            }),
        ];
        for (text, expected) in cases {
            assert_eq!(command(text), expected, "{text}");
        }
        assert!(read(&line("CMD [\"a\"]"), 0, '\\').unwrap().is_json);
        assert!(!read(&line("CMD [a]"), 0, '\\').unwrap().is_json);
    }

    #[test]
    fn run_has_flags() {
        let text = "RUN --mount=type=cache,target=/a --mount=target=$x,rw --network=none --security=insecure \
                    --device=a.b/c --device=d  make  -j";
        let expected = Command::Run {
            mounts: list(&["type=cache,target=/a", "target=$x,rw"]),
            network: some("none"),
            security: some("insecure"),
            devices: list(&["a.b/c", "d"]),
            line: shell("make  -j"),
        };
        assert_eq!(command(text), expected);
        let Command::Run { line, .. } = command("RUN -- --x") else { panic!() };
        assert_eq!(line, shell("--x"));
    }

    #[test]
    fn names_have_values_in_one_of_two_forms() {
        let cases = [
            ("ENV A=b", pairs(&[("A", "b")])),
            ("ENV A=b C='d e'  F=\"$g h\" I=j\\ k L=", {
                pairs(&[("A", "b"), ("C", "'d e'"), ("F", "\"$g h\""), ("I", "j\\ k"), ("L", "")])
            }),
            ("ENV A=b=c", pairs(&[("A", "b=c")])),
            ("ENV A b  c = 'd'", pairs(&[("A", "b  c = 'd'")])),
            ("ENV A\tb=c", pairs(&[("A", "b=c")])),
            ("ENV \"A\"=b", pairs(&[("\"A\"", "b")])),
        ];
        for (text, expected) in cases {
            assert_eq!(command(text), Command::Env(expected.clone()), "{text}");
            assert_eq!(command(&text.replace("ENV", "LABEL")), Command::Label(expected), "{text}");
        }
        let arg = [("A".to_owned(), None), ("B".to_owned(), some("")), ("C".to_owned(), some("'d e'"))];
        assert_eq!(command("ARG A B= C='d e'"), Command::Arg(arg.to_vec()));
        let backtick = read(&line("ENV A=b` c D=\\ "), 0, '`').unwrap().command;
        assert_eq!(backtick, Command::Env(pairs(&[("A", "b` c"), ("D", "\\")])));
    }

    #[test]
    fn the_rest_take_words_or_their_line() {
        let cases = [
            ("EXPOSE 80 443/udp $p", Command::Expose(list(&["80", "443/udp", "$p"]))),
            ("VOLUME /a /b", Command::Volume(list(&["/a", "/b"]))),
            ("VOLUME [\"/a b\", \" /c \"]", Command::Volume(list(&["/a b", "/c"]))),
            ("USER a:b", Command::User("a:b".to_owned())),
            ("USER a b", Command::User("a b".to_owned())),
            ("WORKDIR  /a b ", Command::Workdir("/a b".to_owned())),
            ("STOPSIGNAL SIGINT", Command::Stopsignal("SIGINT".to_owned())),
            ("MAINTAINER A <b@c>", Command::Maintainer("A <b@c>".to_owned())),
        ];
        for (text, expected) in cases {
            assert_eq!(command(text), expected, "{text}");
        }
        let Command::Onbuild(text, inner) = command("ONBUILD  copy --link a  b") else { panic!() };
        assert_eq!((text.as_str(), inner.keyword.as_str()), ("copy --link a  b", "copy"));
        assert_eq!(inner.position, Position { line: 1, column: 10 });
        assert_eq!(inner.flags[0].position, Position { line: 1, column: 15 });
    }

    #[test]
    fn copy_and_add_have_sources_and_a_destination() {
        let flags = CopyFlags {
            from: some("b"),
            chown: some("$u:g"),
            chmod: some("u=rwX,go="),
            link: true,
            parents: true,
            exclude: list(&["*.o", "x y"]),
        };
        let transfer = Transfer { sources: list(&["a", "b*"]), destination: "/c/".to_owned() };
        let text = "COPY --from=b --chown=$u:g --chmod=u=rwX,go= --link --parents=TRUE --exclude=*.o \
                    --exclude='x y' a b* /c/";
        assert_eq!(command(text), Command::Copy { transfer: transfer.clone(), flags });
        let flags = AddFlags {
            checksum: some("sha256:a"),
            keep_git_dir: Some(true),
            unpack: Some(false),
            ..AddFlags::default()
        };
        let text = "ADD --checksum=sha256:a --keep-git-dir --unpack=false a b* /c/";
        assert_eq!(command(text), Command::Add { transfer, flags });
        let Command::Copy { transfer, flags } = command("COPY --link=false [\"a b\", \"c\"]") else {
            panic!()
        };
        assert_eq!(
            (transfer.sources, transfer.destination, flags.link),
            (list(&["a b"]), "c".to_owned(), false)
        );
        let instruction = read(&line("COPY a <<b 'c' <<'d' /e/"), 0, '\\').unwrap();
        let Command::Copy { transfer, .. } = instruction.command else { panic!() };
        assert_eq!(transfer.sources, ["a", "'c'"]);
        let names: Vec<_> = instruction.heredocs.iter().map(|Heredoc { name, .. }| name.as_str()).collect();
        assert_eq!(names, ["b", "d"]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let cases = [
            ("FROM", 4, "FROM names no image"),
            ("FROM a b", 7, "FROM takes AS and a name"),
            ("FROM a AS", 7, "FROM takes AS and a name"),
            ("FROM a AS b c", 7, "FROM takes AS and a name"),
            ("FROM a AS 1b", 10, "\"1b\" is no name for a stage"),
            ("FROM a AS b/c", 10, "no name for a stage"),
            ("FROM --platfrom=x a", 5, "did you mean --platform?"),
            ("FROM --platform a", 5, "--platform has no value"),
            ("FROM --platform=a --platform=b c", 18, "stands there twice"),
            ("RUN --netwrok=none a", 4, "did you mean --network?"),
            ("RUN --network=bridge a", 4, "it is one of default, none, host"),
            ("RUN --security=x a", 4, "it is one of sandbox, insecure"),
            ("RUN --mount=type=bnid a", 4, "did you mean bind?"),
            ("RUN --mount=from=$x,target=/a b", 4, "from cannot be expanded"),
            ("RUN [\"a\", 1]", 4, "holds strings only"),
            ("COPY", 4, "neither source nor destination"),
            ("COPY a", 5, "a source and no destination"),
            ("COPY [\"a\"]", 5, "a source and no destination"),
            ("ADD --link=maybe a b", 4, "--link is either true or false"),
            ("ADD --link= a b", 4, "--link is either true or false"),
            ("ADD --from=x a b", 4, "--from is no flag of ADD"),
            ("COPY --from=$x a b", 5, "--from cannot be expanded"),
            ("COPY --Chown=x a b", 5, "did you mean --chown?"),
            ("COPY a <<b", 5, "cannot be a destination"),
            ("ARG", 3, "ARG says nothing"),
            ("ARG a =b", 6, "without a name"),
            ("ENV", 3, "ENV says nothing"),
            ("ENV A", 4, "A has no value"),
            ("ENV A=b c", 8, "c has no ="),
            ("ENV =b", 4, "without a name"),
            ("LABEL a", 6, "a has no value"),
            ("EXPOSE", 6, "EXPOSE says nothing"),
            ("VOLUME", 6, "VOLUME says nothing"),
            ("VOLUME []", 7, "VOLUME says nothing"),
            ("VOLUME [\" \"]", 7, "an empty path"),
            ("USER", 4, "USER says nothing"),
            ("WORKDIR", 7, "WORKDIR says nothing"),
            ("WORKDIR --x /a", 8, "WORKDIR has no flags"),
            ("STOPSIGNAL", 10, "says nothing"),
            ("MAINTAINER", 10, "says nothing"),
            ("SHELL /bin/sh -c", 6, "a JSON list of strings"),
            ("SHELL []", 6, "the list is empty"),
            ("HEALTHCHECK", 11, "HEALTHCHECK says nothing"),
            ("HEALTHCHECK curl x", 12, "takes CMD or NONE, and not curl"),
            ("HEALTHCHECK CMD", 15, "has no command"),
            ("HEALTHCHECK CMD []", 16, "has no command"),
            ("HEALTHCHECK NONE x", 17, "nothing to say"),
            ("HEALTHCHECK --interval=5 CMD a", 12, "\"5\" is no length of time"),
            ("HEALTHCHECK --interval=1us CMD a", 12, "the least is 1ms"),
            ("HEALTHCHECK --retries=-1 CMD a", 12, "is not a number of tries"),
            ("HEALTHCHECK --retries=x CMD a", 12, "is not a number of tries"),
            ("ONBUILD", 7, "ONBUILD says nothing"),
            ("ONBUILD ONBUILD RUN a", 8, "not allowed"),
            ("ONBUILD from a", 8, "FROM cannot wait"),
            ("ONBUILD MAINTAINER a", 8, "MAINTAINER cannot wait"),
            ("ONBUILD RNU a", 8, "did you mean RUN?"),
            ("ONBUILD --x RUN a", 8, "ONBUILD has no flags"),
            ("ONBUILD COPY a", 13, "no destination"),
        ];
        for (text, at, expected) in cases {
            let fault = read(&line(text), 0, '\\').err().unwrap_or_else(|| panic!("{text:?} was read"));
            let place = fault.at;
            let problem = fault.problem(Position::default(), "");
            let said = format!("{problem} ({})", problem.hint.clone().unwrap_or_default());
            assert!(said.contains(expected), "{text:?}: {said}");
            assert_eq!(place, at, "{text:?}: {said}");
        }
    }
}
