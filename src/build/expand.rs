//! `$x` and its forms: what a word of an instruction becomes.
//!
//! The rules are those of BuildKit's word lexer, which are like a shell's and not the same:
//!
//! | form | becomes |
//! |---|---|
//! | `$x` `${x}` | the value; nothing where it is unset; `$1`, `$@` and the like are variables that nobody sets |
//! | `${x:-w}` `${x-w}` | `w` where x is unset, or (with the colon) empty; else the value |
//! | `${x:+w}` `${x+w}` | `w` where x is set, and (with the colon) not empty; else nothing |
//! | `${x:?w}` `${x?w}` | an error that says `w` where x is unset, or empty; else the value |
//! | `${x#p}` `${x##p}` | the value without the shortest, longest beginning that matches `p` |
//! | `${x%p}` `${x%%p}` | the value without the shortest, longest end that matches `p` |
//! | `${x/p/w}` `${x//p/w}` | the value with `w` for the first, for every match of `p` |
//! | `\$` | a dollar sign; the escape character takes the meaning from any character |
//! | `'...'` | all of it as it stands |
//! | `"..."` | variables are expanded; only `"`, `$` and the escape character can be escaped |
//!
//! Nothing here knows where values come from, or which instruction expands what.

mod pattern;

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::str::Chars;

use rootling_backends::{Error, ErrorKind, Result};

use pattern::Pattern;

/// How deep `${a:-${b:-...}}` may go: enough for people, and no danger for the stack.
const DEEPEST: usize = 100;

/// Returns the value of a variable; `None` where it is unset.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What a word became.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expansion {
    /// All of it, white space and all.
    pub text: String,
    /// What it falls into at white space that was not quoted, before or after values were put in.
    pub words: Vec<String>,
    /// The variables that were asked for and are set.
    pub found: BTreeSet<String>,
    /// The variables that were asked for and are not.
    pub unset: BTreeSet<String>,
    /// Those of them that no `-`, `+` or `?` stands behind: whoever wrote the word did not think of it.
    pub missed: BTreeSet<String>,
}

/// Returns `word` with its variables expanded and its quotes removed.
///
/// # Errors
///
/// `InvalidInput` for a quote or brace that is not closed, a form that is not known, and for `${x:?why}`.
pub fn expand(word: &str, lookup: Lookup<'_>, escape: char) -> Result<String> {
    Ok(Expander::new(lookup, escape).expand(word)?.text)
}

/// Returns the words that `text` falls into once its variables are expanded; a value with spaces makes several.
///
/// # Errors
///
/// As [`expand`].
pub fn words(text: &str, lookup: Lookup<'_>, escape: char) -> Result<Vec<String>> {
    Ok(Expander::new(lookup, escape).expand(text)?.words)
}

/// Returns the content of a heredoc of `COPY` or `ADD` with its variables expanded: quotes are characters like others
/// there, and the backslash escapes whatever the file's escape character is.
///
/// # Errors
///
/// As [`expand`].
pub fn heredoc(content: &str, lookup: Lookup<'_>) -> Result<Expansion> {
    Expander::new(lookup, '\\').quotes_are_text().expand(content)
}

/// Expands words, in one of several ways.
#[expect(missing_debug_implementations, reason = "a closure has none")]
pub struct Expander<'a> {
    lookup: Lookup<'a>,
    escape: char,
    keeps_quotes: bool,
    keeps_escapes: bool,
    keeps_unset: bool,
    quotes_are_text: bool,
    joins_heredocs: bool,
}

impl<'a> Expander<'a> {
    /// Returns one that removes quotes and escape characters, as most instructions want it.
    pub fn new(lookup: Lookup<'a>, escape: char) -> Self {
        Self {
            lookup,
            escape,
            keeps_quotes: false,
            keeps_escapes: false,
            keeps_unset: false,
            quotes_are_text: false,
            joins_heredocs: false,
        }
    }

    /// Leaves quotes where they stand; what is in them is read as ever.
    #[must_use]
    pub fn keep_quotes(self) -> Self {
        Self { keeps_quotes: true, ..self }
    }

    /// Leaves escape characters where they stand.
    #[must_use]
    pub fn keep_escapes(self) -> Self {
        Self { keeps_escapes: true, ..self }
    }

    /// Leaves variables that are not set as they were typed.
    #[must_use]
    pub fn keep_unset(self) -> Self {
        Self { keeps_unset: true, ..self }
    }

    /// Takes quotes for characters like others.
    #[must_use]
    pub fn quotes_are_text(self) -> Self {
        Self { quotes_are_text: true, ..self }
    }

    /// Takes `<<` and the white space behind it for parts of the word that follows.
    #[must_use]
    pub fn join_heredocs(self) -> Self {
        Self { joins_heredocs: true, ..self }
    }

    /// Expands `word`.
    ///
    /// # Errors
    ///
    /// As [`expand`].
    pub fn expand(&self, word: &str) -> Result<Expansion> {
        let mut run = Run {
            how: self,
            rest: word.chars().peekable(),
            depth: 0,
            found: BTreeSet::new(),
            unset: BTreeSet::new(),
            missed: BTreeSet::new(),
        };
        let (text, words) = run.until(None, self.keeps_escapes)?;
        Ok(Expansion { text, words, found: run.found, unset: run.unset, missed: run.missed })
    }
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidInput, message.into())
}

fn not_closed() -> Error {
    wrong("a ${ is not closed").hint("close it with }, or write \\$ for a dollar sign")
}

/// Words under construction.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    word: String,
}

impl Words {
    /// Adds a character that ends the word if it is white space.
    fn add(&mut self, c: char) {
        if !c.is_whitespace() {
            self.word.push(c);
        } else if !self.word.is_empty() {
            self.done.push(std::mem::take(&mut self.word));
        }
    }

    fn finish(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.done.push(self.word);
        }
        self.done
    }
}

/// One word being expanded.
struct Run<'a> {
    how: &'a Expander<'a>,
    rest: Peekable<Chars<'a>>,
    depth: usize,
    found: BTreeSet<String>,
    unset: BTreeSet<String>,
    missed: BTreeSet<String>,
}

impl Run<'_> {
    /// Reads up to `stop`, which is taken, or to the end.
    fn until(&mut self, stop: Option<char>, keeps_escapes: bool) -> Result<(String, Vec<String>)> {
        let mut text = String::new();
        let mut words = Words::default();
        while let Some(c) = self.rest.next() {
            match c {
                _ if Some(c) == stop => return Ok((text, words.finish())),
                '$' => {
                    let value = self.dollar()?;
                    value.chars().for_each(|c| words.add(c));
                    text.push_str(&value);
                }
                '\'' | '"' if !self.how.quotes_are_text => {
                    let quoted =
                        if c == '"' { self.double_quoted(keeps_escapes)? } else { self.single_quoted()? };
                    words.word.push_str(&quoted);
                    text.push_str(&quoted);
                }
                _ if c == self.how.escape => {
                    if keeps_escapes {
                        words.word.push(c);
                        text.push(c);
                    }
                    if let Some(c) = self.rest.next() {
                        words.word.push(c);
                        text.push(c);
                    }
                }
                '<' if self.how.joins_heredocs && self.rest.peek() == Some(&'<') => {
                    let mut arrows = String::from(c);
                    arrows.extend(self.rest.next());
                    while let Some(blank) = self.rest.next_if(|c| c.is_whitespace()) {
                        arrows.push(blank);
                    }
                    words.word.push_str(&arrows);
                    text.push_str(&arrows);
                }
                _ => {
                    words.add(c);
                    text.push(c);
                }
            }
        }
        match stop {
            None => Ok((text, words.finish())),
            Some(_) => Err(not_closed()),
        }
    }

    fn single_quoted(&mut self) -> Result<String> {
        let mut text = String::new();
        self.quote('\'', &mut text);
        loop {
            match self.rest.next() {
                None => return Err(wrong("a ' is not closed").hint("write \\' for the character itself")),
                Some('\'') => break,
                Some(c) => text.push(c),
            }
        }
        self.quote('\'', &mut text);
        Ok(text)
    }

    fn double_quoted(&mut self, keeps_escapes: bool) -> Result<String> {
        let mut text = String::new();
        self.quote('"', &mut text);
        loop {
            match self.rest.next() {
                None => return Err(wrong("a \" is not closed").hint("write \\\" for the character itself")),
                Some('"') => break,
                Some('$') => text.push_str(&self.dollar()?),
                Some(c) if c == self.how.escape => {
                    let escape = self.how.escape;
                    let next = self.rest.next_if(|next| matches!(next, '"' | '$') || *next == escape);
                    if keeps_escapes || next.is_none() {
                        text.push(c);
                    }
                    text.extend(next);
                }
                Some(c) => text.push(c),
            }
        }
        self.quote('"', &mut text);
        Ok(text)
    }

    fn quote(&self, quote: char, text: &mut String) {
        if self.how.keeps_quotes {
            text.push(quote);
        }
    }

    /// Reads what follows a `$`.
    fn dollar(&mut self) -> Result<String> {
        if self.rest.next_if_eq(&'{').is_some() {
            self.depth += 1;
            if self.depth > DEEPEST {
                return Err(wrong(format!("more than {DEEPEST} of ${{ lie in each other")));
            }
            let value = self.braced();
            self.depth -= 1;
            return value;
        }
        let name = self.name();
        if name.is_empty() {
            return Ok("$".to_owned());
        }
        Ok(match self.value(&name) {
            None if self.how.keeps_unset => format!("${name}"),
            value => value.unwrap_or_default(),
        })
    }

    /// Reads what follows a `${`, with the closing brace.
    fn braced(&mut self) -> Result<String> {
        match self.rest.peek() {
            None => return Err(not_closed()),
            Some('{' | '}' | ':') => {
                return Err(wrong("a ${ names no variable").hint("write ${NAME}, or \\$ for a dollar sign"));
            }
            Some(_) => {}
        }
        let name = self.name();
        let mut operator = self.rest.next().ok_or_else(not_closed)?;
        let colon = operator == ':';
        if colon {
            operator = self.rest.next().ok_or_else(not_closed)?;
        }
        let shown = if colon { format!(":{operator}") } else { operator.to_string() };
        match operator {
            '}' if !colon => {
                let value = self.value(&name);
                Ok(match value {
                    None if self.how.keeps_unset => format!("${{{name}}}"),
                    value => value.unwrap_or_default(),
                })
            }
            '-' | '+' | '?' => {
                let (word, _) = self.until(Some('}'), false)?;
                let value = self.seen(&name);
                if value.is_none() && self.how.keeps_unset {
                    return Ok(format!("${{{name}{shown}{word}}}"));
                }
                choose(&name, operator, colon, value, word)
            }
            '#' | '%' => {
                let (word, _) = self.until(Some('}'), true)?;
                match self.value(&name) {
                    None if self.how.keeps_unset => Ok(format!("${{{name}{shown}{word}}}")),
                    value => trim(&value.unwrap_or_default(), &word, operator),
                }
            }
            '/' if !colon => self.replace(&name),
            _ => {
                let message = format!("${{{name}{shown}...}} is no form of expansion");
                Err(wrong(message).hint("the forms are :- - :+ + :? ? # ## % %% / and //"))
            }
        }
    }

    /// Reads the rest of `${x/` and returns the value with replacements.
    fn replace(&mut self, name: &str) -> Result<String> {
        let all = self.rest.next_if_eq(&'/').is_some();
        let (pattern, _) = self.until(Some('/'), true).map_err(|error| {
            if self.rest.peek().is_some() { error } else { wrong(format!("${{{name}/ has no second /")) }
        })?;
        let (with, _) = self.until(Some('}'), true)?;
        match self.value(name) {
            None if self.how.keeps_unset => {
                Ok(format!("${{{name}/{}{pattern}/{with}}}", if all { "/" } else { "" }))
            }
            value => Ok(Pattern::parse(&pattern)?.replace(&value.unwrap_or_default(), &with, all)),
        }
    }

    /// Reads a name: letters, digits and `_`; or digits; or one of the shell's special characters.
    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.rest.peek() {
            Some(c) if c.is_ascii_digit() => {
                while let Some(c) = self.rest.next_if(char::is_ascii_digit) {
                    name.push(c);
                }
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => name.extend(self.rest.next()),
            _ => {
                while let Some(c) = self.rest.next_if(|c| c.is_alphanumeric() || *c == '_') {
                    name.push(c);
                }
            }
        }
        name
    }

    /// Returns the value of a variable that is thought to be set.
    fn value(&mut self, name: &str) -> Option<String> {
        let value = self.seen(name);
        if value.is_none() {
            note(&mut self.missed, name);
        }
        value
    }

    /// Returns the value of a variable, and remembers that it was asked for.
    fn seen(&mut self, name: &str) -> Option<String> {
        let value = (self.how.lookup)(name);
        note(if value.is_some() { &mut self.found } else { &mut self.unset }, name);
        value
    }
}

fn note(names: &mut BTreeSet<String>, name: &str) {
    if !names.contains(name) {
        names.insert(name.to_owned());
    }
}

/// Decides between value and word.
fn choose(name: &str, operator: char, colon: bool, value: Option<String>, word: String) -> Result<String> {
    let there = value.filter(|value| !(colon && value.is_empty()));
    match (operator, there) {
        ('+', None) => Ok(String::new()),
        ('+', Some(_)) | ('-', None) => Ok(word),
        ('?', None) => {
            let why = if !word.is_empty() {
                word
            } else if colon {
                "it must be set, and not be empty".to_owned()
            } else {
                "it must be set".to_owned()
            };
            let hint = format!("give it with --build-arg {name}=..., or with ENV or ARG before this line");
            Err(wrong(format!("${name}: {why}")).hint(hint))
        }
        (_, value) => Ok(value.unwrap_or_default()),
    }
}

/// Takes a beginning or an end off.
fn trim(value: &str, word: &str, operator: char) -> Result<String> {
    let (pattern, longest) = match word.strip_prefix(operator) {
        Some(pattern) => (pattern, true),
        None => (word, false),
    };
    let pattern = Pattern::parse(pattern)?;
    Ok(if operator == '#' {
        pattern.without_beginning(value, longest)
    } else {
        pattern.without_end(value, longest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(name: &str) -> Option<String> {
        Some(
            match name {
                "x" => "value",
                "empty" => "",
                "two" => "one two",
                "path" => "/usr/local/lib/libx.so.1",
                "star" => "a*b",
                "dots" => "a.b.c",
                _ => return None,
            }
            .to_owned(),
        )
    }

    #[test]
    fn words_become_what_they_say() {
        let cases = [
            ("plain", "plain"),
            ("$x", "value"),
            ("${x}", "value"),
            ("a$x.b", "avalue.b"),
            ("$xs", ""),
            ("$nobody", ""),
            ("a${nobody}b", "ab"),
            ("$", "$"),
            ("a$", "a$"),
            ("$ x", "$ x"),
            ("$(date)", "$(date)"),
            ("$$", ""),
            ("$1$23x$@$*$#$?$-$!$0", "x"),
            ("${1}", ""),
            // Default, alternative, demand.
            ("${x:-w}", "value"),
            ("${x-w}", "value"),
            ("${empty:-w}", "w"),
            ("${empty-w}", ""),
            ("${nobody:-w}", "w"),
            ("${nobody-w}", "w"),
            ("${nobody:-}", ""),
            ("${nobody:-$x}", "value"),
            ("${nobody:-${other:-${x}}}", "value"),
            ("${nobody:-a b}", "a b"),
            ("${nobody:-'a}b'}", "a}b"),
            ("${nobody:-\\}}", "}"),
            ("${x:+w}", "w"),
            ("${x+w}", "w"),
            ("${empty:+w}", ""),
            ("${empty+w}", "w"),
            ("${nobody:+w}", ""),
            ("${nobody+w}", ""),
            ("${x:?why}", "value"),
            ("${empty?why}", ""),
            // Beginnings and ends.
            ("${path#*/}", "usr/local/lib/libx.so.1"),
            ("${path##*/}", "libx.so.1"),
            ("${path%/*}", "/usr/local/lib"),
            ("${path%%/lib*}", "/usr/local"),
            ("${path%.?}", "/usr/local/lib/libx.so"),
            ("${path#nothing}", "/usr/local/lib/libx.so.1"),
            ("${path%nothing}", "/usr/local/lib/libx.so.1"),
            ("${dots#*.}", "b.c"),
            ("${dots##*.}", "c"),
            ("${dots%.*}", "a.b"),
            ("${dots%%.*}", "a"),
            ("${star#a\\*}", "b"),
            ("${star%\\**}", "a"),
            ("${nobody#x}", ""),
            ("${x#$x}", ""),
            // With and without a colon it is the same.
            ("${dots:#*.}", "b.c"),
            // Replacements.
            ("${dots/./-}", "a-b.c"),
            ("${dots//./-}", "a-b-c"),
            ("${dots//./}", "abc"),
            ("${path//\\//:}", ":usr:local:lib:libx.so.1"),
            ("${path/l*l/X}", "/usr/Xibx.so.1"),
            ("${dots//?/x}", "xxxxx"),
            ("${x/zzz/y}", "value"),
            ("${nobody/a/b}", ""),
            ("${star/\\*/-}", "a-b"),
            ("${x//*/all}", "all"),
            // Quotes and escapes.
            ("'$x'", "$x"),
            ("\"$x\"", "value"),
            ("\"'$x'\"", "'value'"),
            ("'\"'", "\""),
            ("\\$x", "$x"),
            ("\"\\$x\"", "$x"),
            ("\"a\\nb\"", "a\\nb"),
            ("\"a\\\"b\\\\c\"", "a\"b\\c"),
            ("a\\nb", "anb"),
            ("'a\\nb'", "a\\nb"),
            ("a\\", "a"),
            ("a\\ b", "a b"),
            ("he'll'o \"w\"orld", "hello world"),
            ("é$x→", "évalue→"),
        ];
        for (word, expected) in cases {
            assert_eq!(expand(word, &value, '\\').expect(word), expected, "{word}");
        }
    }

    #[test]
    fn a_backtick_escapes_where_the_file_says_so() {
        for (word, expected) in
            [("`$x", "$x"), ("\\$x", "\\value"), ("c:\\dir", "c:\\dir"), ("\"`\"\"", "\""), ("a``b", "a`b")]
        {
            assert_eq!(expand(word, &value, '`').expect(word), expected, "{word}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_error_that_says_why() {
        let cases = [
            ("${", "is not closed"),
            ("${x", "is not closed"),
            ("${x:", "is not closed"),
            ("${x:-", "is not closed"),
            ("${x:-w", "is not closed"),
            ("${}", "names no variable"),
            ("${:x}", "names no variable"),
            ("${{x}}", "names no variable"),
            ("${x:=w}", "no form of expansion"),
            ("${x=w}", "no form of expansion"),
            ("${x!}", "no form of expansion"),
            ("${x:}}", "no form of expansion"),
            ("${x y}", "no form of expansion"),
            ("${x^^}", "no form of expansion"),
            ("${x/a}", "no second /"),
            ("${x/a/b", "is not closed"),
            ("${x#\\a}", "\\a"),
            ("'a", "' is not closed"),
            ("\"a", "\" is not closed"),
            ("\"a\\\"", "\" is not closed"),
            ("\"$x", "\" is not closed"),
            ("${nobody:?}", "must be set"),
            ("${nobody?}", "must be set"),
            ("${empty:?}", "not be empty"),
            ("${nobody:?give me $x}", "$nobody: give me value"),
        ];
        for (word, expected) in cases {
            let error = expand(word, &value, '\\').expect_err(word);
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{word}");
            assert!(error.to_string().contains(expected), "{word}: {error}");
        }
    }

    #[test]
    fn a_very_deep_word_is_an_error() {
        let word = format!("{}{}", "${a:-".repeat(100_000), "}".repeat(100_000));
        assert!(expand(&word, &value, '\\').is_err());
        let word = format!("{}w{}", "${a:-".repeat(DEEPEST), "}".repeat(DEEPEST));
        assert_eq!(expand(&word, &value, '\\').unwrap(), "w");
    }

    #[test]
    fn words_are_split_after_values_are_put_in() {
        let cases: [(&str, &[&str]); 9] = [
            ("", &[]),
            ("  a \t b ", &["a", "b"]),
            ("$two", &["one", "two"]),
            ("\"$two\"", &["one two"]),
            ("a$two", &["aone", "two"]),
            ("'a b' c", &["a b", "c"]),
            ("a\\ b c", &["a b", "c"]),
            ("$empty a", &["a"]),
            ("${nobody:-a b} c", &["a", "b", "c"]),
        ];
        for (text, expected) in cases {
            assert_eq!(words(text, &value, '\\').expect(text), expected, "{text}");
        }
    }

    #[test]
    fn quotes_escapes_and_what_is_unset_can_be_kept() {
        let how = Expander::new(&value, '\\').keep_quotes();
        assert_eq!(how.expand("a'b'\"$x\"").unwrap().text, "a'b'\"value\"");
        let how = Expander::new(&value, '\\').keep_escapes();
        assert_eq!(how.expand("a\\b\"\\$\\n\"").unwrap().text, "a\\b\\$\\n");
        let how = Expander::new(&value, '\\').keep_unset();
        for word in ["$a", "${a}", "${a:-w}", "${a#p}", "${a%%p}", "${a/b/c}", "${a//b/c}"] {
            assert_eq!(how.expand(word).unwrap().text, word);
        }
        assert_eq!(how.expand("$x").unwrap().text, "value");
    }

    #[test]
    fn a_heredoc_keeps_its_quotes() {
        let text = "a='$x' \"$x\" don't\n\\$x \\\\ ${nobody:-w}\n";
        let expanded = heredoc(text, &value).unwrap();
        assert_eq!(expanded.text, "a='value' \"value\" don't\n$x \\ w\n");
    }

    #[test]
    fn it_is_known_which_variables_were_asked_for() {
        let expansion = Expander::new(&value, '\\').expand("$x ${empty:-$b} ${c+d} '$e' \\$f").unwrap();
        assert_eq!(expansion.found, BTreeSet::from(["empty".to_owned(), "x".to_owned()]));
        assert_eq!(expansion.unset, BTreeSet::from(["b".to_owned(), "c".to_owned()]));
        assert_eq!(expansion.missed, BTreeSet::from(["b".to_owned()]));
    }

    proptest::proptest! {
        #[test]
        fn any_word_is_expanded_or_refused(word in "([$\\{\\}:#%/?*'\"\\\\ ax-]|\\PC){0,40}") {
            drop(expand(&word, &value, '\\'));
            drop(expand(&word, &value, '`'));
            drop(heredoc(&word, &value));
        }

        #[test]
        fn a_single_quoted_word_stays_as_it_is(word in "[^']{0,30}") {
            proptest::prop_assert_eq!(expand(&format!("'{word}'"), &value, '\\').unwrap(), word);
        }

        #[test]
        fn an_escaped_word_stays_as_it_is(word in "\\PC{0,30}") {
            let escaped: String = word.chars().flat_map(|c| ['\\', c]).collect();
            proptest::prop_assert_eq!(expand(&escaped, &value, '\\').unwrap(), word);
        }
    }
}
