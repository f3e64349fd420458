//! Filters of lists, as containerd has them: which of the held trees are meant.
//!
//! ```text
//! filters   = filter*                        one of them must match; none of them match everything
//! filter    = selector ("," selector)*       all of them must match; an empty one matches everything
//! selector  = field ("." field)* [operator value]
//! operator  = "==" | "!=" | "~="             equal, not equal, matches the regular expression; without one: is there
//! field     = quoted | [-_A-Za-z0-9]+
//! value     = quoted | what has neither a comma nor a blank in it and begins with no sign of its own
//! quoted    = a string of Go in "; the value after ~= in / or | too
//! ```
//!
//! Blanks may stand between any two of these. A field that is not there is not equal to anything, and matches as an empty text
//! would. Regular expressions are those of the crate `regex`, which are RE2's but for `\Q`, `\C` and what `\d` counts beyond ASCII.
//!
//! This module opens nothing: it is fuzzed.

use regex::{Regex, RegexBuilder};
use rootling_backends::{Error, ErrorKind, Result};

use super::quoted;
use super::quoted::Wrong;

/// Bytes of memory that a compiled regular expression may take: a client writes it.
const REGEX_MAX: usize = 1 << 20;

/// Filters, read.
#[derive(Debug, Default)]
pub struct Filters(Vec<Vec<Selector>>);

#[derive(Debug)]
struct Selector {
    field: Vec<String>,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Present,
    Equal(String),
    Different(String),
    Matching(Regex),
}

impl Filters {
    /// Reads filters. A malformed one is an error of kind `InvalidInput` that names the byte.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self> {
        let one = |text: &T| {
            let text = text.as_ref();
            Parser { text, at: 0 }.filter().map_err(|(at, why)| {
                let message = format!("filter {text:?}, byte {at}: {why}");
                Error::new(ErrorKind::InvalidInput, message)
            })
        };
        texts.iter().map(one).collect::<Result<_>>().map(Self)
    }

    /// Does what has these fields match? `field` is asked for one by its path.
    pub fn matches<'a>(&self, field: impl Fn(&[String]) -> Option<&'a str>) -> bool {
        let holds = |selector: &Selector| selector.test.holds(field(&selector.field));
        self.0.is_empty() || self.0.iter().any(|filter| filter.iter().all(holds))
    }
}

impl Test {
    fn holds(&self, value: Option<&str>) -> bool {
        match self {
            Self::Present => value.is_some(),
            Self::Equal(wanted) => value == Some(wanted),
            Self::Different(unwanted) => value.unwrap_or_default() != unwanted,
            Self::Matching(regex) => regex.is_match(value.unwrap_or_default()),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn filter(&mut self) -> Result<Vec<Selector>, Why> {
        let mut selectors = Vec::new();
        self.skip_blanks();
        if self.peek().is_none() {
            return Ok(selectors);
        }
        loop {
            selectors.push(self.selector()?);
            match self.peek() {
                None => return Ok(selectors),
                Some(b',') => self.at += 1,
                Some(_) => return Err(self.wrong("expected a comma")),
            }
        }
    }

    fn selector(&mut self) -> Result<Selector, Why> {
        let mut field = vec![self.field()?];
        while self.peek() == Some(b'.') {
            self.at += 1;
            field.push(self.field()?);
        }
        let test = match self.peek() {
            None | Some(b',') => Test::Present,
            Some(_) => self.test()?,
        };
        Ok(Selector { field, test })
    }

    fn field(&mut self) -> Result<String, Why> {
        self.skip_blanks();
        if self.peek() == Some(b'"') {
            return self.quoted();
        }
        let is_of_field = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let field = self.take_while(is_of_field).to_owned();
        if field.is_empty() {
            return Err(self.wrong("expected a field, or one in \""));
        }
        self.skip_blanks();
        Ok(field)
    }

    fn test(&mut self) -> Result<Test, Why> {
        let from = self.at;
        let operator = self.take_while(|c| matches!(c, '=' | '!' | '~'));
        match operator {
            "==" => self.value(b"\"").map(Test::Equal),
            "!=" => self.value(b"\"").map(Test::Different),
            "~=" => {
                self.skip_blanks();
                let from = self.at;
                let pattern = self.value(b"\"/|")?;
                let regex = RegexBuilder::new(&pattern).size_limit(REGEX_MAX).build();
                regex.map(Test::Matching).map_err(|error| (from, said(&error)))
            }
            _ => Err((from, "expected ==, != or ~=".to_owned())),
        }
    }

    fn value(&mut self, quotes: &[u8]) -> Result<String, Why> {
        self.skip_blanks();
        let from = self.at;
        let value = match self.peek() {
            Some(quote) if quotes.contains(&quote) => self.quoted()?,
            // Signs that would begin something else.
            Some(b'/' | b'|' | b'"' | b',' | b'.' | b'=' | b'!' | b'~') | None => String::new(),
            Some(_) => self.take_while(|c| c != ',' && !c.is_whitespace() && !c.is_control()).to_owned(),
        };
        if self.at == from {
            return Err(
                self.wrong("expected a value: one that is empty, or begins with a sign, is written in \"")
            );
        }
        self.skip_blanks();
        Ok(value)
    }

    fn quoted(&mut self) -> Result<String, Why> {
        let read = quoted::read(self.text, self.at);
        let (text, end) = read.map_err(|(at, why): Wrong| (at, why.to_owned()))?;
        self.at = end;
        self.skip_blanks();
        Ok(text)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_blanks(&mut self) {
        self.take_while(char::is_whitespace);
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &str {
        let rest = &self.text[self.at..];
        let end = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn wrong(&self, why: &str) -> Why {
        (self.at, why.to_owned())
    }
}

/// What is wrong, and at which byte.
type Why = (usize, String);

/// The last line of what is said of a regular expression; those before show it.
fn said(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
    format!("not a regular expression: {last}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn matches(filters: &[&str], fields: &[(&str, &str)]) -> bool {
        let fields: BTreeMap<&str, &str> = fields.iter().copied().collect();
        let filters = Filters::parse(filters).unwrap();
        filters.matches(|path| fields.get(path.join(".").as_str()).copied())
    }

    fn wrong(filter: &str) -> String {
        Filters::parse(&[filter]).unwrap_err().to_string()
    }

    const FIELDS: [(&str, &str); 5] = [
        ("name", "sha256:ab"),
        ("kind", "active"),
        ("parent", ""),
        ("labels.containerd.io/gc.root", "check, walk"),
        ("labels.with \\ and \".post", "pre/sent"),
    ];

    #[test]
    fn filters_are_or_and_selectors_and() {
        for (filters, expected) in [
            (&[][..], true),
            (&[""], true),
            (&["name"], true),
            (&["nothing"], false),
            (&["name==sha256:ab"], true),
            (&["name==x", "kind==active"], true),
            (&["name==x,kind==active"], false),
            (&["name == sha256:ab , kind ~= ^act"], true),
            (&["parent"], true),
            (&["parent!=\"\""], false),
            (&["nothing!=\"\""], false),
            (&["nothing!=x"], true),
            (&["nothing==\"\""], false),
            (&["labels.\"containerd.io/gc.root\""], true),
            (&["labels.containerd.\"io/gc\".root==\"check, walk\""], true),
            (&[r#"labels."with \\ and \"".post=="pre/sent""#], true),
            (&[r#"labels."with \\ and \"".post==pre/sent"#], true),
            (&["name~=/^sha256:[0-9a-f]{2}$/,kind"], true),
            (&["name~=|^sha256:[0-9a-f]{3}$|"], false),
            (&[r"name~=^sha\d{3}:"], true),
            (&["name~=\"\\x73ha\\062\\u0035\""], true),
        ] {
            assert_eq!(matches(filters, &FIELDS), expected, "{filters:?}");
        }
    }

    #[test]
    fn what_is_malformed_is_named_by_its_byte() {
        let expected = "expected a value: one that is empty, or begins with a sign, is written in \"";
        for (filter, said) in [
            ("name==foo,", "10: expected a field, or one in \""),
            ("labels.", "7: expected a field, or one in \""),
            ("labels.|foo|==x", "7: expected a field, or one in \""),
            ("image~=,id?=?fbaq", &format!("7: {expected}")),
            ("name==/a/", &format!("6: {expected}")),
            ("name=foo", "4: expected ==, != or ~="),
            ("name===foo", "4: expected ==, != or ~="),
            ("name==foo bar", "10: expected a comma"),
            ("name==\"foo", "6: the quotes are not closed"),
            ("name==\"\\q\"", "7: there is no such escape; a backslash is written as two"),
            ("name==\"\\xff\"", "6: what is in the quotes is not UTF-8"),
            ("name==\"\\ud800\"", "7: \\u has four hexadecimal digits and \\U eight, of a character"),
            ("name~=(", "6: not a regular expression: unclosed group"),
        ] {
            assert_eq!(wrong(filter), format!("filter {filter:?}, byte {said}"));
        }
        assert!(wrong("name~=\\w{900}{900}").contains("not a regular expression"));
    }

    /// A value as a client would write it, quoting only where that is needed, if it likes to.
    fn written(value: &str, quotes: bool) -> String {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if !quotes && !value.is_empty() && value.chars().all(is_plain) {
            return value.to_owned();
        }
        let mut text = "\"".to_owned();
        for c in value.chars() {
            match c {
                '"' | '\\' => text.extend(['\\', c]),
                c if c.is_control() => text.push_str(&format!("\\U{:08x}", u32::from(c))),
                c => text.push(c),
            }
        }
        text + "\""
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in any::<String>()) {
            if let Ok(filters) = Filters::parse(&[&text]) {
                filters.matches(|_| Some("x"));
            }
        }

        #[test]
        fn any_text_of_the_grammar_s_signs_is_read_or_refused_and_read_again_after_a_comma(text in "[a. ,\"\\\\=!~/|x0u()*\u{e4}-]{0,24}") {
            if let Ok(once) = Filters::parse(&[&text]) && !text.trim().is_empty() {
                // All selectors must match: to say them twice changes nothing.
                let twice = Filters::parse(&[format!("{text},{text}")]).unwrap();
                for value in [None, Some(""), Some(text.as_str())] {
                    prop_assert_eq!(once.matches(|_| value), twice.matches(|_| value));
                }
            }
        }

        /// What was written is what is compared.
        #[test]
        fn any_field_and_value_are_told_apart_from_all_others(
            keys in proptest::collection::vec(any::<String>().prop_filter("a key", |key| !key.is_empty()), 1..4),
            value in any::<String>(), other in any::<String>(), quotes in any::<bool>(), blanks in " {0,2}",
        ) {
            let path: Vec<String> = keys.iter().map(|key| written(key, quotes)).collect();
            let path = path.join(".");
            let (one, another) = (written(&value, quotes), written(&other, quotes));
            let found = |filter: String, value: Option<&str>| {
                let filters = Filters::parse(&[filter]).unwrap();
                filters.matches(|path| { assert_eq!(path, keys); value })
            };
            let b = &blanks;
            let pattern = format!("^{}$", regex::escape(&value));
            let holds = [
                (found(format!("{path}{b}=={b}{one}{b}"), Some(&value)), true),
                (found(format!("{path}=={another}"), Some(&value)), value == other),
                (found(format!("{path}!={another}"), Some(&value)), value != other),
                (found(format!("{path}=={one}"), None), false),
                (found(format!("{b}{path}{b}"), Some("")), true),
                (found(format!("{path}~={},{path}", written(&pattern, true)), Some(&value)), true),
            ];
            prop_assert!(holds.iter().all(|(found, expected)| found == expected), "{:?}", holds);
        }
    }
}
