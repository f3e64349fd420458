//! From bytes to instructions: which lines belong together, and where heredocs end.

use std::borrow::Cow;

use rootling_backends::Result;

use super::ast::{Command, Dockerfile, Heredoc, Instruction, Position};
use super::instruction::KEYWORDS;
use super::lines::{Line, Lines, continued, decode, is_comment, without_end};
use super::problem::{Fault, Problem, error};
use super::{directives, heredoc, instruction};

/// Reads a Dockerfile.
///
/// # Errors
///
/// `InvalidInput` with one line for each problem (ten at the most), in the order of the file, and the hint of the first.
pub fn parse(text: &[u8]) -> Result<Dockerfile> {
    problems(text).map_err(|problems| error(&problems))
}

/// Reads a Dockerfile, or returns all that is wrong with it.
///
/// # Errors
///
/// At least one problem.
pub fn problems(text: &[u8]) -> Result<Dockerfile, Vec<Problem>> {
    let mut parser = Parser::new(text)?;
    parser.read_all();
    parser.check_order();
    parser.finish()
}

/// Reads what an image left for those that stand on it: one instruction, without `ONBUILD`.
///
/// # Errors
///
/// As [`parse`]; and if it is none, or more than one.
pub fn parse_trigger(text: &str) -> Result<Instruction> {
    let read = || {
        let mut parser = Parser::new(text.as_bytes())?;
        parser.read_all();
        if parser.problems.is_empty() && parser.instructions.len() != 1 {
            let fault = Fault::new(0, "it is not one instruction".to_owned());
            parser.problems.push(fault.problem(Position { line: 1, column: 1 }, ""));
        }
        parser.finish()
    };
    let mut dockerfile =
        read().map_err(|problems| error(&problems).context(format!("read ONBUILD {text:?}")))?;
    Ok(dockerfile.instructions.remove(0))
}

struct Parser<'a> {
    lines: Lines<'a>,
    directives: directives::Found,
    comments: Vec<String>,
    instructions: Vec<Instruction>,
    problems: Vec<Problem>,
}

impl<'a> Parser<'a> {
    fn new(text: &'a [u8]) -> Result<Self, Vec<Problem>> {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let directives = directives::read(text)
            .map_err(|(line, fault)| vec![fault.problem(Position { line, column: 1 }, "")])?;
        if directives.is_foreign {
            let image = directives.directives.syntax.unwrap_or_default();
            let fault = Fault::new(0, format!("the file is no Dockerfile: it is for the front end {image}"))
                .hint("rootling reads Dockerfiles itself, and runs no front ends");
            return Err(vec![fault.problem(Position { line: 1, column: 1 }, "")]);
        }
        Ok(Self {
            lines: Lines::new(text),
            directives,
            comments: Vec::new(),
            instructions: Vec::new(),
            problems: Vec::new(),
        })
    }

    fn finish(self) -> Result<Dockerfile, Vec<Problem>> {
        if !self.problems.is_empty() {
            return Err(self.problems);
        }
        Ok(Dockerfile { directives: self.directives.directives, instructions: self.instructions })
    }

    fn read_all(&mut self) {
        while let Some(bytes) = self.lines.next() {
            let Some(line) = self.instruction_line(bytes) else { continue };
            let position = line.position(0);
            match instruction::read(&line, 0, self.directives.directives.escape) {
                Ok(instruction) => self.take(instruction, &line, position.line),
                Err(fault) => self.refuse(fault, &line),
            }
        }
    }

    /// Notes what is wrong with an instruction, and goes on behind it.
    fn refuse(&mut self, fault: Fault, line: &Line) {
        let keyword = line.text.split_whitespace().next().unwrap_or_default().to_uppercase();
        let keyword = KEYWORDS.into_iter().find(|known| *known == keyword).unwrap_or_default();
        let position = line.position(fault.at);
        self.problems.push(fault.problem(position, keyword));
        self.comments.clear();
        if matches!(keyword, "RUN" | "COPY" | "ADD" | "ONBUILD") {
            for heredoc in heredoc::of_line(&line.text) {
                let before = self.lines;
                if self.heredoc(&heredoc).is_none() {
                    self.lines = before;
                }
            }
        }
    }

    /// Returns the whole line that begins with `bytes`; `None` where there is no instruction in it.
    fn instruction_line(&mut self, bytes: &'a [u8]) -> Option<Line> {
        let text = self.decode(bytes)?;
        if is_comment(&text) {
            self.comment(&text);
            return None;
        }
        let text = without_end(&text);
        let begin = text.trim_start();
        let column = 1 + text.chars().count() - begin.chars().count();
        let (part, mut is_open) = continued(begin, self.directives.directives.escape);
        if part.is_empty() && !is_open {
            self.comments.clear();
            return None;
        }
        let mut line = Line::default();
        line.push(part, Position { line: self.lines.number, column });
        while is_open {
            let Some(bytes) = self.lines.next() else { break };
            let Some(text) = self.decode(bytes) else { continue };
            if is_comment(&text) {
                continue;
            }
            let text = without_end(&text);
            if text.trim_start().is_empty() {
                line.empty.push(self.lines.number);
                continue;
            }
            let (part, goes_on) = continued(text, self.directives.directives.escape);
            line.push(part, Position { line: self.lines.number, column: 1 });
            is_open = goes_on;
        }
        Some(line)
    }

    /// Returns a line as text, or notes what is wrong with it.
    fn decode(&mut self, bytes: &'a [u8]) -> Option<Cow<'a, str>> {
        decode(bytes)
            .map_err(|fault| {
                let text = String::from_utf8_lossy(bytes);
                let column = 1 + text.get(..fault.at).unwrap_or_default().chars().count();
                self.problems.push(fault.problem(Position { line: self.lines.number, column }, ""));
            })
            .ok()
    }

    /// Keeps a comment for the instruction that follows. One without text parts what is before it from what follows.
    fn comment(&mut self, line: &str) {
        if self.lines.number <= self.directives.lines {
            return;
        }
        match line.trim_start().trim_start_matches('#').trim() {
            "" => self.comments.clear(),
            text => self.comments.push(text.to_owned()),
        }
    }

    /// Takes an instruction, and reads its heredocs from the lines that follow.
    fn take(&mut self, mut instruction: Instruction, line: &Line, first: usize) {
        let mut heredocs = std::mem::take(&mut instruction.heredocs);
        for heredoc in &mut heredocs {
            match self.heredoc(heredoc) {
                Some(content) => heredoc.content = content,
                None => {
                    let fault = Fault::new(0, format!("the heredoc {} does not end", heredoc.name));
                    let hint = format!("write a line with {} and nothing else after its text", heredoc.name);
                    let position = Position { line: first, ..instruction.position };
                    self.problems.push(fault.hint(hint).problem(position, &instruction.keyword));
                    return;
                }
            }
        }
        instruction.comments = std::mem::take(&mut self.comments);
        instruction.empty_lines.clone_from(&line.empty);
        instruction.last_line = self.lines.number;
        if let Command::Onbuild(text, inner) = &mut instruction.command {
            for heredoc in &heredocs {
                text.push('\n');
                text.push_str(&heredoc.content);
                text.push_str(&heredoc.name);
            }
            inner.last_line = instruction.last_line;
            inner.heredocs.clone_from(&heredocs);
        }
        instruction.heredocs = heredocs;
        self.instructions.push(instruction);
    }

    /// Reads lines up to the one that ends a heredoc; `None` if there is none.
    fn heredoc(&mut self, heredoc: &Heredoc) -> Option<String> {
        let mut content = String::new();
        while let Some(bytes) = self.lines.next() {
            let text = self.decode(bytes).unwrap_or_default();
            let text = if heredoc.strips_tabs { text.trim_start_matches('\t') } else { &text };
            if without_end(text) == heredoc.name {
                return Some(content);
            }
            content.push_str(text);
        }
        None
    }

    /// Checks what a whole file must have: a stage, and nothing but arguments before it. Where something could not be
    /// read, that may be what is missing.
    fn check_order(&mut self) {
        if !self.problems.is_empty() {
            return;
        }
        let hint = "begin with FROM image, or FROM scratch; only ARG may come before it";
        let is_from = |instruction: &Instruction| matches!(instruction.command, Command::From { .. });
        let Some(first) = self.instructions.iter().position(is_from) else {
            let message = if self.instructions.is_empty() {
                "the file has no instructions"
            } else {
                "there is no FROM"
            };
            let position = Position { line: self.lines.number.max(1), column: 1 };
            self.problems.push(Fault::new(0, message.to_owned()).hint(hint).problem(position, ""));
            return;
        };
        for early in
            self.instructions[..first].iter().filter(|early| !matches!(early.command, Command::Arg(_)))
        {
            let fault = Fault::new(0, "it stands before the first FROM".to_owned()).hint(hint);
            self.problems.push(fault.problem(early.position, &early.keyword));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::syntax::CommandLine;

    fn read(text: &str) -> Dockerfile {
        parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text:?}: {error}"))
    }

    /// Returns keyword, text, first and last line of each instruction after the first, which is FROM.
    fn lines(text: &str) -> Vec<(String, String, usize, usize)> {
        let file = read(&format!("FROM a\n{text}"));
        let instructions = file.instructions.into_iter().skip(1);
        instructions.map(|one| (one.keyword, one.text, one.position.line, one.last_line)).collect()
    }

    fn refused(text: &str) -> String {
        let error = parse(text.as_bytes()).err().unwrap_or_else(|| panic!("{text:?} was read"));
        assert_eq!(error.kind(), rootling_backends::ErrorKind::InvalidInput, "{text:?}");
        match error.first_hint() {
            Some(hint) => format!("{error} ({hint})"),
            None => error.to_string(),
        }
    }

    #[test]
    fn lines_are_joined_as_buildkit_joins_them() {
        let one = |text: &str, last| vec![("RUN".to_owned(), text.to_owned(), 2, last)];
        let cases = [
            ("RUN a", one("a", 2)),
            ("  \t RUN  a  ", one("a", 2)),
            ("RUN a \\\n b", one("a  b", 3)),
            ("RUN a\\\nb", one("ab", 3)),
            ("RUN a\\  \t\n b", one("a b", 3)),
            ("RUN a\\\\\n", one("a\\\\", 2)),
            ("RUN \\\n a", one("a", 3)),
            ("R\\\nUN a", one("a", 3)),
            ("RUN a \\\n# comment\n b", one("a  b", 4)),
            ("RUN a \\\n  # comment \\\n b", one("a  b", 4)),
            ("RUN a \\\n\n  \n b", one("a  b", 5)),
            ("RUN a \\\n\n\n", one("a", 4)),
            ("RUN a \\", one("a", 2)),
            ("RUN a \\\n", one("a", 2)),
            ("RUN a \\\n# comment", one("a", 3)),
            ("RUN a # no comment", one("a # no comment", 2)),
            ("RUN a\r\n", one("a", 2)),
            ("RUN a \\\r\n b\r\n", one("a  b", 3)),
            ("RUN a\\\n\tb \\\n\tc", one("a\tb \tc", 4)),
            ("\n# comment\n\nRUN a", vec![("RUN".to_owned(), "a".to_owned(), 5, 5)]),
            ("RUN a`\n", one("a`", 2)),
        ];
        for (text, expected) in cases {
            assert_eq!(lines(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_backtick_continues_where_the_file_says_so() {
        let file = read("# escape=`\nFROM a\nRUN a `\n b\nRUN c:\\\n");
        assert_eq!(file.directives.escape, '`');
        assert_eq!(file.instructions[1].text, "a  b");
        assert_eq!(file.instructions[2].text, "c:\\");
    }

    #[test]
    fn keywords_are_of_any_case_and_kept_as_they_were_typed() {
        let file = read("from a\nRun b\n");
        assert_eq!(file.instructions[0].keyword, "from");
        assert_eq!(file.instructions[1].keyword, "Run");
        assert_eq!(file.instructions[1].source, "Run b");
    }

    #[test]
    fn a_byte_order_mark_and_a_script_line_are_no_instructions() {
        assert_eq!(read("\u{feff}FROM a").instructions.len(), 1);
        let file = read("\u{feff}# escape=`\nFROM a");
        assert_eq!((file.directives.escape, file.instructions.len()), ('`', 1));
        let file = read("#!/usr/bin/env -S x\n# syntax=y\nFROM a");
        assert_eq!(file.directives.syntax.as_deref(), Some("y"));
        assert_eq!(file.instructions[0].comments, Vec::<String>::new());
    }

    #[test]
    fn comments_belong_to_what_follows_them() {
        let text = "# syntax=a\n# one\n#two \nFROM a\n# three\n\nRUN b\n# four\n#\n # five\nRUN c\\\n# six\nd\nRUN e";
        let file = read(text);
        let comments: Vec<_> = file.instructions.iter().map(|one| one.comments.join("|")).collect();
        assert_eq!(comments, ["one|two", "", "five", ""]);
    }

    #[test]
    fn empty_lines_within_an_instruction_are_noted() {
        let file = read("FROM a\nRUN b \\\n\n \t\n c\n\nRUN d\n");
        assert_eq!(file.instructions[1].empty_lines, [3, 4]);
        assert_eq!(file.instructions[2].empty_lines, Vec::<usize>::new());
    }

    #[test]
    fn heredocs_follow_their_line() {
        let file = read(concat!(
            "FROM a\nRUN <<EOF cat\n  one \\\n# two\n\nEOF \nEOF\n",
            "COPY <<-A 3<<'B' /d/\n\tx\t\n\t\tA\n$y\r\nB\nRUN last\n",
        ));
        let [_, run, copy, last] = file.instructions.as_slice() else { panic!("{file:?}") };
        assert_eq!((run.position.line, run.last_line), (2, 7));
        assert_eq!(run.heredocs[0].content, "  one \\\n# two\n\nEOF \n");
        assert_eq!(run.text, "<<EOF cat");
        let [a, b] = copy.heredocs.as_slice() else { panic!("{copy:?}") };
        assert_eq!((a.content.as_str(), a.strips_tabs, a.expand, a.descriptor), ("x\t\n", true, true, 0));
        assert_eq!((b.content.as_str(), b.strips_tabs, b.expand, b.descriptor), ("$y\r\n", false, false, 3));
        let Command::Copy { transfer, .. } = &copy.command else { panic!("{copy:?}") };
        assert_eq!((transfer.sources.len(), transfer.destination.as_str()), (0, "/d/"));
        assert_eq!((last.position.line, last.last_line), (13, 13));
    }

    #[test]
    fn only_some_instructions_have_heredocs() {
        assert_eq!(lines("CMD cat <<EOF").len(), 1);
        assert_eq!(lines("RUN [\"cat\", \"<<EOF\"]").len(), 1);
        assert_eq!(lines("COPY [\"<<EOF\", \"/x\"]").len(), 1);
        let file = read("FROM a\nONBUILD RUN <<EOF\necho hi\nEOF\n");
        let Command::Onbuild(text, inner) = &file.instructions[1].command else { panic!("{file:?}") };
        assert_eq!(text, "RUN <<EOF\necho hi\nEOF");
        assert_eq!(inner.heredocs[0].content, "echo hi\n");
        assert_eq!(parse_trigger(text).unwrap().command, inner.command);
        // A heredoc that ends with the file.
        assert_eq!(read("FROM a\nRUN <<EOF\r\nx\r\nEOF").instructions[1].heredocs[0].content, "x\r\n");
    }

    #[test]
    fn problems_say_where_and_what() {
        let cases = [
            ("", "line 1, column 1: the file has no instructions (begin with FROM"),
            ("# only a comment\n\n", "line 2, column 1: the file has no instructions"),
            ("ARG a", "line 1, column 1: there is no FROM"),
            ("RUN a\nFROM b", "line 1, column 1: RUN: it stands before the first FROM"),
            ("FROM a\nRUN <<EOF\nx\n", "line 2, column 1: RUN: the heredoc EOF does not end"),
            ("FROM a\n  RNU b", "line 2, column 3: RNU is no instruction (did you mean RUN?)"),
            (
                "FROM a\nRUN b\nmake all",
                "line 3, column 1: make is no instruction (if it belongs to the line before",
            ),
            ("FROM a\n\\\n\n", "line 2, column 1: there is nothing but the end of a line"),
            (
                "FROM a\nRUN b \\\n --x\nCOPY \\\n  --form=b c d",
                "line 5, column 3: COPY: --form is no flag of COPY (did you mean --from?)",
            ),
            ("# escape=x\nFROM a", "line 1, column 1: the escape character is \\ or `, and not x"),
            ("# syntax=a\n# syntax=b\nFROM a", "line 2, column 1: the directive syntax stands there twice"),
            (
                "// syntax=a/b\nthing",
                "line 1, column 1: the file is no Dockerfile: it is for the front end a/b",
            ),
            ("{\"syntax\": \"a/b\"}", "it is for the front end a/b"),
        ];
        for (text, expected) in cases {
            let said = refused(text);
            assert!(said.contains(expected), "{text:?}: {said}");
        }
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let text = "FROM a\nRNU b\nCOPY c\nRUN --bad <<EOF\nFRO x\nEOF\nUSER\n";
        let problems = problems(text.as_bytes()).unwrap_err();
        let places: Vec<_> = problems.iter().map(|problem| problem.position.line).collect();
        assert_eq!(places, [2, 3, 4, 7]);
        assert_eq!(refused(text).lines().count(), 4);
        let many = refused(&format!("FROM a\n{}", "BAD\n".repeat(20)));
        assert!(many.contains("and 10 more"), "{many}");
    }

    #[test]
    fn lines_may_be_long_but_not_too_long() {
        let long = "a".repeat(65_535 - "RUN ".len());
        assert_eq!(lines(&format!("RUN {long}")).len(), 1);
        assert!(
            refused(&format!("FROM a\nRUN {long}a\n"))
                .contains("line 2, column 1: the line is longer than 65535")
        );
        assert!(refused(&format!("FROM a\nRUN <<E\n{long}aaaaa\nE")).contains("line 3, column 1"));
        let halves = format!("RUN {long}\\\n{long}");
        assert!(refused(&format!("FROM a\n{halves}")).contains("longer"));
        let halves = format!("RUN {}\\\n{long}", &long[1..]);
        assert_eq!(lines(&halves).len(), 1);
    }

    #[test]
    fn text_is_utf8_and_comments_are_anything() {
        parse(b"# caf\xe9\nFROM a\nRUN b\\\n # caf\xe9\n c").unwrap();
        let error = parse(b"FROM a\nRUN \xc3\xa9 caf\xe9").unwrap_err();
        assert_eq!(error.to_string(), "line 2, column 10: the line is not UTF-8");
    }

    #[test]
    fn a_trigger_is_one_instruction() {
        let run = parse_trigger("RUN --mount=type=cache,target=/a b").unwrap();
        let Command::Run { mounts, line, .. } = &run.command else { panic!("{run:?}") };
        assert_eq!(mounts, &["type=cache,target=/a"]);
        assert_eq!(line, &CommandLine::Shell("b".to_owned()));
        for text in ["", "RUN a\nRUN b", "NOPE", "# x"] {
            parse_trigger(text).expect_err(text);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(text in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            drop(problems(&text));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "(FROM a\n)?((RUN|COPY|ADD|ENV|ONBUILD|HEALTHCHECK|FROM|#|<<|EOF|\\\\|`|'|\"|\\[|--[a-z]+=?|=|\n|\r| |\t|[a-z]|\\PC)){0,60}") {
            if let Ok(file) = problems(text.as_bytes()) {
                for pair in file.instructions.windows(2) {
                    proptest::prop_assert!(pair[0].position.line <= pair[0].last_line);
                    proptest::prop_assert!(pair[0].last_line < pair[1].position.line);
                }
            }
        }
    }
}
