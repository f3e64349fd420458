//! Patterns of names, as Go's `filepath.Match` has them: what `COPY` calls wildcards, and what patterns of ignore files are made of.
//!
//! | | means |
//! |---|---|
//! | `*` | any characters but `/`, none at all too |
//! | `?` | one character but `/` |
//! | `[a-z]` `[^a-z]` | one character of those, or one that is none of those |
//! | `\x` | `x`, whatever it means otherwise |
//!
//! A dot at the beginning is a character like others. Names are bytes: each byte that is no UTF-8 is one character.
//!
//! Matching is a set of places in the text that moves through the pattern: O(pattern × text) at the worst, whoever wrote the two.

use std::borrow::Cow;

use rootling_backends::{Error, ErrorKind, Result};

/// A pattern that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    tokens: Vec<Token>,
}

/// What a pattern is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// This byte.
    Byte(u8),
    /// `?`.
    Any,
    /// `[…]`.
    Class(Class),
    /// `*`.
    Star,
    /// Any directories, none at all too: in ignore files, `**/`.
    Directories,
    /// Anything at all: in ignore files, `**` at the end.
    Rest,
}

/// Characters, or all but these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Class {
    negated: bool,
    ranges: Vec<(char, char)>,
}

impl Pattern {
    /// Reads a pattern. One that `filepath.Match` calls bad is an error of kind `InvalidInput` that says why.
    pub fn parse(text: &[u8]) -> Result<Self> {
        Ok(Self { tokens: tokens(text)? })
    }

    /// Is this a name, or a path, that the pattern means?
    ///
    /// As `filepath.Match`, for all text that is UTF-8; where it is not, a pattern with several stars may match more.
    pub fn matches(&self, text: &[u8]) -> bool {
        matches(&self.tokens, text)
    }
}

/// Is there something in a text that makes it a pattern?
pub fn has_wildcards(text: &[u8]) -> bool {
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// Returns the shortest path that means the same without looking at any file: Go's `filepath.Clean`.
///
/// `.` and double slashes go, `..` takes the name before it away, and no slash stays at the end. The empty path is `.`.
pub fn clean(path: &[u8]) -> Cow<'_, [u8]> {
    let is_absolute = path.first() == Some(&b'/');
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." if names.last().is_some_and(|last| *last != b"..") => drop(names.pop()),
            b".." if is_absolute => {}
            name => names.push(name),
        }
    }
    let mut cleaned = if is_absolute { b"/".to_vec() } else { Vec::new() };
    cleaned.extend(names.join(&b'/'));
    if cleaned.is_empty() {
        return Cow::Borrowed(b".");
    }
    if cleaned == path { Cow::Borrowed(path) } else { Cow::Owned(cleaned) }
}

// ------------------------------------------------------------ reading

/// Takes a pattern apart.
pub(super) fn tokens(text: &[u8]) -> Result<Vec<Token>> {
    let bad = |why: &str| {
        let message = format!("pattern {:?} is wrong: {why}", String::from_utf8_lossy(text));
        Error::new(ErrorKind::InvalidInput, message)
    };
    let mut tokens = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        tokens.push(match byte {
            b'*' => Token::Star,
            b'?' => Token::Any,
            b'[' => Token::Class(class(&mut rest).map_err(bad)?),
            b'\\' => {
                let (escaped, after) = rest.split_first().ok_or_else(|| bad("it ends with a \\"))?;
                rest = after;
                Token::Byte(*escaped)
            }
            byte => Token::Byte(*byte),
        });
    }
    Ok(tokens)
}

/// Reads what follows a `[`, to its end.
fn class(rest: &mut &[u8]) -> Result<Class, &'static str> {
    let negated = take(rest, b'^');
    let mut ranges = Vec::new();
    while ranges.is_empty() || !take(rest, b']') {
        let low = class_character(rest)?;
        let high = if take(rest, b'-') { class_character(rest)? } else { low };
        ranges.push((low, high));
    }
    Ok(Class { negated, ranges })
}

fn class_character(rest: &mut &[u8]) -> Result<char, &'static str> {
    const OPEN: &str = "a [ is not closed";
    match rest.first() {
        None => return Err(OPEN),
        Some(b']') => return Err("a character is missing before a ]; write \\] for the ] itself"),
        Some(b'-') => return Err("a character is missing before a -; write \\- for the - itself"),
        Some(b'\\') => *rest = &rest[1..],
        Some(_) => {}
    }
    let (character, length) = character(rest).ok_or(OPEN)?;
    if character == char::REPLACEMENT_CHARACTER && length == 1 {
        return Err("what stands in [] is not UTF-8");
    }
    *rest = &rest[length..];
    if rest.is_empty() { Err(OPEN) } else { Ok(character) }
}

fn take(rest: &mut &[u8], byte: u8) -> bool {
    let after = rest.strip_prefix(&[byte]);
    *rest = after.unwrap_or(rest);
    after.is_some()
}

/// Returns the first character and how many bytes it has; a byte that begins none is one of its own.
fn character(text: &[u8]) -> Option<(char, usize)> {
    let first = *text.first()?;
    if first.is_ascii() {
        return Some((char::from(first), 1));
    }
    let valid = text[..text.len().min(4)].utf8_chunks().next().map_or("", |chunk| chunk.valid());
    let found = valid.chars().next().map(|found| (found, found.len_utf8()));
    Some(found.unwrap_or((char::REPLACEMENT_CHARACTER, 1)))
}

// ------------------------------------------------------------ matching

/// Does the pattern mean the whole text?
pub(super) fn matches(tokens: &[Token], text: &[u8]) -> bool {
    let mut places = Places::start();
    for token in tokens {
        places.pass(token, text);
        if places.0.is_empty() {
            return false;
        }
    }
    places.0.last() == Some(&text.len())
}

/// Could the pattern mean a text that begins with this one and is longer?
pub(super) fn may_go_on(tokens: &[Token], text: &[u8]) -> bool {
    let mut places = Places::start();
    for token in tokens {
        let is_at_end = |places: &Places| places.0.last() == Some(&text.len());
        if is_at_end(&places) {
            return true;
        }
        places.pass(token, text);
        match token {
            Token::Directories | Token::Rest if !places.0.is_empty() => return true,
            Token::Star if is_at_end(&places) => return true,
            _ => {}
        }
    }
    false
}

/// Where in a text one can be after a part of a pattern: offsets, ascending.
struct Places(Vec<usize>);

impl Places {
    fn start() -> Self {
        Self(vec![0])
    }

    fn pass(&mut self, token: &Token, text: &[u8]) {
        let before = std::mem::take(&mut self.0);
        let Some(first) = before.first().copied() else { return };
        match token {
            Token::Byte(byte) => {
                let moved = before.into_iter().filter(|at| text.get(*at) == Some(byte));
                self.0.extend(moved.map(|at| at + 1));
            }
            Token::Any => self.step(&before, text, |found| found != '/'),
            Token::Class(class) => self.step(&before, text, |found| class.holds(found)),
            Token::Star => {
                for at in before {
                    // What an earlier place reached, up to the next slash, this one reaches too.
                    if self.0.last().is_some_and(|reached| *reached >= at) {
                        continue;
                    }
                    let length = text[at..].iter().position(|byte| *byte == b'/').unwrap_or(text.len() - at);
                    self.0.extend(at..=at + length);
                }
            }
            Token::Directories => {
                let is_below = |at: usize| at > first && text[at - 1] == b'/';
                self.0.extend(
                    (first..=text.len()).filter(|at| is_below(*at) || before.binary_search(at).is_ok()),
                );
            }
            Token::Rest => self.0.extend(first..=text.len()),
        }
    }

    fn step(&mut self, before: &[usize], text: &[u8], fits: impl Fn(char) -> bool) {
        for at in before {
            if let Some((found, length)) = character(&text[*at..])
                && fits(found)
            {
                self.0.push(at + length);
            }
        }
        // Characters that begin within each other may end in another order: text that is not UTF-8.
        self.0.sort_unstable();
        self.0.dedup();
    }
}

impl Class {
    fn holds(&self, found: char) -> bool {
        self.ranges.iter().any(|(low, high)| (*low..=*high).contains(&found)) != self.negated
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matched(pattern: &str, text: &str) -> bool {
        Pattern::parse(pattern.as_bytes()).unwrap().matches(text.as_bytes())
    }

    #[test]
    fn names_are_matched() {
        for (pattern, text, wanted) in [
            ("", "", true),
            ("", "a", false),
            ("readme", "readme", true),
            ("readme", "readme.md", false),
            ("*", "", true),
            ("*", ".hidden", true),
            ("*", "a/b", false),
            ("**", "ab", true),
            ("**", "a/b", false),
            ("*.md", "notes.md", true),
            ("*.md", ".md", true),
            ("*.md", "notes.mdx", false),
            ("no*s", "notes", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "abbc", true),
            ("a*b*c", "acb", false),
            ("*a", "aaab", false),
            ("*aab", "aaab", true),
            ("a/*/c", "a/b/c", true),
            ("a/*/c", "a/b/d/c", false),
            ("a/*", "a/", true),
            ("?", "a", true),
            ("?", "", false),
            ("?", "/", false),
            ("?", "é", true),
            ("??", "é", false),
            ("file-?.txt", "file-1.txt", true),
            ("[abc]x", "bx", true),
            ("[a-c]x", "dx", false),
            ("[^a-c]x", "dx", true),
            ("[^a-c]x", "ax", false),
            ("[!a]", "!", true),
            ("[!a]", "b", false),
            ("[à-ö]", "é", true),
            ("[\\]]", "]", true),
            ("[\\-x]", "-", true),
            ("[a\\-z]", "m", false),
            ("[*]", "*", true),
            ("[*]", "a", false),
            ("[[]1].txt", "[1].txt", true),
            ("a]", "a]", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("\\a", "a", true),
            ("a\\[b", "a[b", true),
            ("[z-a]", "m", false),
        ] {
            assert_eq!(matched(pattern, text), wanted, "{pattern:?} {text:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_characters() {
        let pattern = |bytes: &[u8]| Pattern::parse(bytes).unwrap();
        assert!(pattern(b"a?b").matches(b"a\xffb"));
        assert!(!pattern(b"a?b").matches(b"a\xff\xffb"));
        assert!(pattern(b"a*b").matches(b"a\xff\xfe\xc3b"));
        assert!(pattern(b"\xff*").matches(b"\xffx"));
        assert!(!pattern(b"[a-z]").matches(b"\xff"));
        assert!(pattern(b"[^a-z]").matches(b"\xff"));
    }

    #[test]
    fn bad_patterns_are_refused() {
        for text in [
            "[", "a[", "[]", "[^]", "[]a]", "[a", "[a-", "[a-]", "[-a]", "[a-b-c]", "\\", "a\\", "[\\",
            "[a\\",
        ] {
            let error = Pattern::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
        }
        assert!(Pattern::parse(b"[\xff]").is_err());
        assert_eq!(
            Pattern::parse(b"x[a-").unwrap_err().to_string(),
            "pattern \"x[a-\" is wrong: a [ is not closed"
        );
    }

    #[test]
    fn wildcards_are_seen() {
        for (text, wanted) in
            [("a", false), ("a*", true), ("\\*", false), ("\\\\*", true), ("x?", true), ("[", true)]
        {
            assert_eq!(has_wildcards(text.as_bytes()), wanted, "{text}");
        }
    }

    #[test]
    fn paths_are_cleaned() {
        for (path, wanted) in [
            ("", "."),
            (".", "."),
            ("/", "/"),
            ("//", "/"),
            ("a", "a"),
            ("a/", "a"),
            ("./a", "a"),
            ("a//b/./c/", "a/b/c"),
            ("a/../b", "b"),
            ("a/..", "."),
            ("../a", "../a"),
            ("a/../../b", "../b"),
            ("../../a", "../../a"),
            ("/..", "/"),
            ("/../a/..", "/"),
            ("/a/../../b", "/b"),
            ("...", "..."),
        ] {
            assert_eq!(String::from_utf8_lossy(&clean(path.as_bytes())), wanted, "{path:?}");
        }
    }

    /// The rules once more, without any care for time.
    fn slowly(pattern: &[char], text: &[char]) -> bool {
        match pattern {
            [] => text.is_empty(),
            ['*', rest @ ..] => {
                slowly(rest, text)
                    || (text.first().is_some_and(|found| *found != '/') && slowly(pattern, &text[1..]))
            }
            ['?', rest @ ..] => text.first().is_some_and(|found| *found != '/') && slowly(rest, &text[1..]),
            ['\\', literal, rest @ ..] => text.first() == Some(literal) && slowly(rest, &text[1..]),
            ['[', '^', one, ']', rest @ ..] => {
                text.first().is_some_and(|found| found != one) && slowly(rest, &text[1..])
            }
            ['[', low, '-', high, ']', rest @ ..] => {
                text.first().is_some_and(|found| low <= found && found <= high) && slowly(rest, &text[1..])
            }
            [literal, rest @ ..] => text.first() == Some(literal) && slowly(rest, &text[1..]),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn matching_is_what_the_rules_say(
            pattern in proptest::collection::vec(
                prop_oneof![Just("*"), Just("?"), Just("a"), Just("b"), Just("/"), Just("é"), Just("\\*"), Just("[^a]"), Just("[a-b]")],
                0..8,
            ),
            text in "[ab/é*]{0,8}",
        ) {
            let pattern = pattern.concat();
            let slow = slowly(&pattern.chars().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>());
            prop_assert_eq!(matched(&pattern, &text), slow, "{} {}", pattern, text);
        }

        #[test]
        fn what_begins_a_match_may_go_on(pattern in "[ab*?/]{0,8}", text in "[ab/]{1,8}", cut: prop::sample::Index) {
            let tokens = tokens(pattern.as_bytes()).unwrap();
            let cut = cut.index(text.len());
            if matches(&tokens, text.as_bytes()) {
                prop_assert!(may_go_on(&tokens, &text.as_bytes()[..cut]));
            }
        }

        #[test]
        fn no_bytes_are_too_strange(pattern: Vec<u8>, text: Vec<u8>) {
            if let Ok(pattern) = Pattern::parse(&pattern) {
                pattern.matches(&text);
            }
            let cleaned = clean(&text).into_owned();
            prop_assert_eq!(clean(&cleaned).into_owned(), cleaned);
        }
    }

    #[test]
    fn a_hostile_pattern_takes_no_time() {
        let pattern = Pattern::parse(("*a".repeat(200) + "b").as_bytes()).unwrap();
        assert!(!pattern.matches("a".repeat(4000).as_bytes()));
    }
}
