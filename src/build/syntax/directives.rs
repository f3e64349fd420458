//! What the first lines of a file ask for.
//!
//! They are comments of the form `name=value`, before anything else: the first line that is none, or has a name that is
//! not known, ends them. A first line `#!` is for the kernel; after it, `escape` has no effect, as with BuildKit.
//! A file of another language may say its `syntax` with `//`, or as JSON.

use super::ast::Directives;
use super::lines::Lines;
use super::problem::Fault;

const NAMES: [&str; 3] = ["syntax", "escape", "check"];

/// What was found at the top of a file.
pub(super) struct Found {
    pub(super) directives: Directives,
    /// How many lines of the file they are, a `#!` among them.
    pub(super) lines: usize,
    /// Does the file name a front end, in a way in which no Dockerfile does?
    pub(super) is_foreign: bool,
}

/// Reads the directives of a file that begins with no byte order mark.
///
/// # Errors
///
/// A directive that stands there twice, and an `escape` that is neither `\` nor a backtick: with the number of its line.
pub(super) fn read(text: &[u8]) -> Result<Found, (usize, Fault)> {
    let mut lines = Lines::new(text);
    let mut directives = Directives { syntax: None, escape: '\\', check: None };
    let mut seen = Vec::new();
    let is_script = text.starts_with(b"#!");
    if is_script {
        lines.next();
    }
    let mut taken = lines.number;
    while let Some((name, value)) = lines.next().and_then(|line| directive(line, "#")) {
        let fault = |message: String| Err((lines.number, Fault::new(0, message)));
        if seen.contains(&name) {
            // BuildKit looks no further once a script has said it.
            if is_script {
                break;
            }
            return fault(format!("the directive {name} stands there twice"));
        }
        seen.push(name);
        taken = lines.number;
        match name {
            "syntax" => directives.syntax = Some(value),
            "check" => directives.check = Some(value),
            _ if is_script => {}
            _ if value == "\\" || value == "`" => directives.escape = value.chars().next().unwrap_or('\\'),
            _ => return fault(format!("the escape character is \\ or `, and not {value}")),
        }
    }
    let foreign = if directives.syntax.is_none() { foreign(text) } else { None };
    let is_foreign = foreign.is_some();
    directives.syntax = directives.syntax.or(foreign);
    Ok(Found { directives, lines: taken, is_foreign })
}

/// Reads `# name = value`.
fn directive(line: &[u8], comment: &str) -> Option<(&'static str, String)> {
    let line = String::from_utf8_lossy(line);
    let (name, value) = line.trim().strip_prefix(comment)?.split_once('=')?;
    let name = name.trim().to_ascii_lowercase();
    let name = NAMES.into_iter().find(|known| *known == name)?;
    let value = value.trim();
    (!value.is_empty()).then(|| (name, value.to_owned()))
}

/// Returns the front end that a file of another language names.
fn foreign(text: &[u8]) -> Option<String> {
    let mut lines = Lines::new(text);
    if text.starts_with(b"#!") {
        lines.next();
    }
    while let Some((name, value)) = lines.next().and_then(|line| directive(line, "//")) {
        if name == "syntax" {
            return Some(value);
        }
    }
    let document: serde_json::Value = serde_json::from_slice(text).ok()?;
    document.get("syntax")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> (Option<String>, char, Option<String>, usize) {
        let found = read(text.as_bytes()).map_err(|(_, fault)| fault).expect(text);
        (found.directives.syntax, found.directives.escape, found.directives.check, found.lines)
    }

    #[test]
    fn directives_stand_at_the_top() {
        let some = |text: &str| Some(text.to_owned());
        let cases = [
            ("", (None, '\\', None, 0)),
            ("# escape=`\nFROM a", (None, '`', None, 1)),
            ("#escape=\\\n", (None, '\\', None, 1)),
            (" # EsCaPe = ` \r\n", (None, '`', None, 1)),
            ("# syntax=docker/dockerfile:1\n# check=skip=all\n# escape=`", {
                (some("docker/dockerfile:1"), '`', some("skip=all"), 3)
            }),
            ("\n# escape=`", (None, '\\', None, 0)),
            ("# comment\n# escape=`", (None, '\\', None, 0)),
            ("# unknown=value\n# escape=`", (None, '\\', None, 0)),
            ("# syntax=a\n# comment\n# escape=`", (some("a"), '\\', None, 1)),
            ("# syntax=\n# escape=`", (None, '\\', None, 0)),
            ("FROM a\n# escape=`", (None, '\\', None, 0)),
            ("#!/bin/x\n# syntax=a\n# escape=`\n# check=b", (some("a"), '\\', some("b"), 4)),
            ("#!/bin/x\n# syntax=a\n# syntax=b", (some("a"), '\\', None, 2)),
            ("// syntax=a\n", (some("a"), '\\', None, 0)),
            ("#!/bin/x\n//check=x\n//syntax = a b\n", (some("a b"), '\\', None, 1)),
            ("{\"syntax\": \"a\", \"b\": [1]}", (some("a"), '\\', None, 0)),
            ("{\"syntax\": 1}", (None, '\\', None, 0)),
        ];
        for (text, expected) in cases {
            assert_eq!(found(text), expected, "{text:?}");
        }
        assert!(read(b"//syntax=a").is_ok_and(|found| found.is_foreign));
        assert!(read(b"# syntax=a").is_ok_and(|found| !found.is_foreign));
    }

    #[test]
    fn a_directive_is_said_once_and_makes_sense() {
        for (text, line) in [
            ("# escape=`\n# ESCAPE=`", 2),
            ("# syntax=a\n# check=b\n# syntax=a", 3),
            ("# escape=x", 1),
            ("# escape=``", 1),
        ] {
            assert_eq!(read(text.as_bytes()).err().expect(text).0, line, "{text}");
        }
    }
}
