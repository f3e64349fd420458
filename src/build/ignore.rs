//! Patterns that leave files out, or take some in: `.dockerignore`, `--exclude`, `--parents`.
//!
//! A line of an ignore file is a pattern of whole paths, relative to the root of the context:
//!
//! * `#` in the first column makes it a comment; blanks around it go; it is cleaned as a path; a `/` at its beginning goes.
//! * `!` before it takes back what lines before it left out. The last line that means a path decides.
//! * What means a directory means all that is in it.
//! * `*`, `?`, `[…]`, `\x` as in [`super::glob`]. `**/` is any number of directories, none too; `**` at the end is all that follows.
//!   A pattern that begins with `**` and has nothing special besides means every path that ends like the rest of it.
//!
//! This is what the engine of docker does, with two differences: a letter after `\` is that letter, as the manual has it, and no class of regular
//! expressions; and in `[…]` stars and question marks are themselves.
//!
//! A directory that is left out is not looked into, unless a later `!` may mean something in it.

use std::fmt;
use std::path::Path;

use rootling_backends::{Dir, Error, ErrorKind, Result};

use super::glob::{self, Token, clean};

/// Patterns in their order. Without any, nothing is matched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patterns {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// Does it begin with `!`?
    negated: bool,
    /// Cleaned, without the `!`.
    text: Vec<u8>,
    shape: Shape,
}

/// How a pattern is matched: most need no more than a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Shape {
    /// The path is this.
    Exact(Vec<u8>),
    /// The path begins so.
    Prefix(Vec<u8>),
    /// The path ends so; one that is the same without the slash at the beginning, too.
    Suffix(Vec<u8>),
    /// A pattern whose first and last bytes are known.
    Tokens { tokens: Vec<Token>, first: Vec<u8>, last: Vec<u8> },
}

/// What patterns say of a directory: enough to judge what is in it by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level {
    /// The directory's path with a slash at its end; nothing for the root.
    path: Vec<u8>,
    /// Which rules mean the directory or one that it is in.
    covered: Vec<bool>,
}

impl Patterns {
    /// Does one of them take back what others mean?
    pub fn takes_back(&self) -> bool {
        self.rules.iter().any(|rule| rule.negated)
    }

    /// Reads the text of an ignore file.
    ///
    /// A line that cannot be read is an error of kind `InvalidInput` with its number.
    pub fn parse_file(text: &[u8]) -> Result<Self> {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let mut patterns = Self::default();
        for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
            if !line.starts_with(b"#") {
                patterns.add(line, true).map_err(|error| error.context(format!("line {}", number + 1)))?;
            }
        }
        Ok(patterns)
    }

    /// Reads patterns that were given one by one.
    pub fn of(texts: &[impl AsRef<str>]) -> Result<Self> {
        let mut patterns = Self::default();
        texts.iter().try_for_each(|text| patterns.add(text.as_ref().as_bytes(), false))?;
        Ok(patterns)
    }

    fn add(&mut self, text: &[u8], from_root: bool) -> Result<()> {
        let text = trim(text);
        let (negated, text) = text.strip_prefix(b"!").map_or((false, text), |rest| (true, trim(rest)));
        if text.is_empty() {
            return if negated {
                let error = Error::new(ErrorKind::InvalidInput, "there is no pattern after the !");
                Err(error.hint("write \\! for a name that begins with one"))
            } else {
                Ok(())
            };
        }
        let mut text = clean(text).into_owned();
        if from_root && text.len() > 1 && text[0] == b'/' {
            text.remove(0);
        }
        let shape = Shape::of(&text)?;
        self.rules.push(Rule { negated, text, shape });
        Ok(())
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Do they mean a path relative to the root, or a directory that it is in?
    pub fn matches(&self, path: &Path) -> bool {
        use std::os::unix::ffi::OsStrExt;
        let mut level = self.root();
        let mut names = path
            .as_os_str()
            .as_bytes()
            .split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty())
            .peekable();
        while let Some(name) = names.next() {
            if names.peek().is_none() {
                return self.judge(&level, name);
            }
            level = self.enter(&level, name);
        }
        false
    }

    // ------------------------------------------------------------ walking

    /// Returns what they say of the root: nothing.
    pub fn root(&self) -> Level {
        Level { path: Vec::new(), covered: vec![false; self.rules.len()] }
    }

    /// Do they mean what has this name in a directory?
    pub fn judge(&self, level: &Level, name: &[u8]) -> bool {
        if self.rules.is_empty() {
            return false;
        }
        let path = level.with(name);
        let deciding =
            (0..self.rules.len()).rev().find(|at| level.covered[*at] || self.rules[*at].shape.is(&path));
        deciding.is_some_and(|at| !self.rules[at].negated)
    }

    /// Returns what they say of a directory of this name in a directory.
    pub fn enter(&self, level: &Level, name: &[u8]) -> Level {
        let mut path = level.with(name);
        let covered =
            self.rules.iter().zip(&level.covered).map(|(rule, covered)| *covered || rule.shape.is(&path));
        let covered = covered.collect();
        path.push(b'/');
        Level { path, covered }
    }

    /// Do they mean the directory itself?
    pub fn means(&self, level: &Level) -> bool {
        self.deciding(level).is_some_and(|at| !self.rules[at].negated)
    }

    fn deciding(&self, level: &Level) -> Option<usize> {
        level.covered.iter().rposition(|covered| *covered)
    }

    /// May they say something else of what is in the directory than of itself?
    pub fn may_differ_below(&self, level: &Level) -> bool {
        let deciding = self.deciding(level);
        let is_meant = deciding.is_some_and(|at| !self.rules[at].negated);
        let later = &self.rules[deciding.map_or(0, |at| at + 1)..];
        later.iter().any(|rule| rule.negated == is_meant && rule.shape.may_be_below(&level.path))
    }
}

impl Level {
    /// Returns the directory's path, without a slash at its end.
    pub fn path(&self) -> &[u8] {
        self.path.strip_suffix(b"/").unwrap_or(&self.path)
    }

    fn with(&self, name: &[u8]) -> Vec<u8> {
        [&self.path, name].concat()
    }
}

impl fmt::Display for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for rule in &self.rules {
            writeln!(f, "{}{}", if rule.negated { "!" } else { "" }, String::from_utf8_lossy(&rule.text))?;
        }
        Ok(())
    }
}

/// Takes blanks from both ends, those of Unicode too.
fn trim(text: &[u8]) -> &[u8] {
    match std::str::from_utf8(text) {
        Ok(text) => text.trim().as_bytes(),
        Err(_) => text.trim_ascii(),
    }
}

impl Shape {
    fn of(pattern: &[u8]) -> Result<Self> {
        let tokens = join_stars(glob::tokens(pattern)?);
        let literal = |tokens: &[Token]| -> Option<Vec<u8>> {
            let bytes =
                tokens.iter().map(|token| if let Token::Byte(byte) = token { Some(*byte) } else { None });
            bytes.collect()
        };
        let is_plain = !pattern.contains(&b'\\');
        match tokens.as_slice() {
            [Token::Rest] => return Ok(Self::Prefix(Vec::new())),
            // The slash is part of it: nothing but the end of a name counts, where one was written.
            [Token::Directories, rest @ ..] if is_plain && literal(rest).is_some() => {
                return Ok(Self::Suffix(pattern[2..].to_vec()));
            }
            [start @ .., Token::Rest] => {
                if let Some(start) = literal(start) {
                    return Ok(Self::Prefix(start));
                }
            }
            all => {
                if let Some(all) = literal(all) {
                    return Ok(Self::Exact(all));
                }
            }
        }
        let bytes_of = |token: &Token| if let Token::Byte(byte) = token { Some(*byte) } else { None };
        let first = tokens.iter().map_while(bytes_of).collect();
        let mut last: Vec<u8> = tokens.iter().rev().map_while(bytes_of).collect();
        last.reverse();
        Ok(Self::Tokens { tokens, first, last })
    }

    /// Is it this very path?
    fn is(&self, path: &[u8]) -> bool {
        match self {
            Self::Exact(text) => path == text,
            Self::Prefix(start) => path.starts_with(start),
            Self::Suffix(end) => path.ends_with(end) || end.strip_prefix(b"/").is_some_and(|end| path == end),
            Self::Tokens { tokens, first, last } => {
                path.starts_with(first) && path.ends_with(last) && glob::matches(tokens, path)
            }
        }
    }

    /// May it be a path in this directory, whose path ends with a slash, or in the root?
    fn may_be_below(&self, directory: &[u8]) -> bool {
        let agree = |start: &[u8]| start.starts_with(directory) || directory.starts_with(start);
        match self {
            Self::Exact(text) => text.len() > directory.len() && text.starts_with(directory),
            Self::Prefix(start) => agree(start),
            Self::Suffix(_) => true,
            Self::Tokens { tokens, first, .. } => agree(first) && glob::may_go_on(tokens, directory),
        }
    }
}

/// Makes two stars what they mean in ignore files: a slash after them belongs to them.
fn join_stars(tokens: Vec<Token>) -> Vec<Token> {
    let mut joined = Vec::with_capacity(tokens.len());
    let mut rest = tokens.into_iter().peekable();
    while let Some(token) = rest.next() {
        if token == Token::Star && rest.next_if_eq(&Token::Star).is_some() {
            rest.next_if_eq(&Token::Byte(b'/'));
            joined.push(if rest.peek().is_none() { Token::Rest } else { Token::Directories });
        } else {
            joined.push(token);
        }
    }
    joined
}

// ------------------------------------------------------------ files

/// Bytes in the largest ignore file that is read.
const LIMIT: u64 = 4 << 20;

/// An ignore file that was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IgnoreFile {
    /// Its name; `None` where there is none.
    pub name: Option<String>,
    /// What it leaves out.
    pub patterns: Patterns,
}

impl IgnoreFile {
    /// Reads the ignore file of a Dockerfile, which lies in `beside` under `dockerfile`, or that of the context: the first that there is of
    /// `DOCKERFILE.dockerignore` and `DOCKERFILE.containerignore` there, `.dockerignore` and `.containerignore` in `context`.
    pub fn find(dockerfile: Option<(&Dir, &str)>, context: &Dir) -> Result<Self> {
        const NAMES: [&str; 2] = [".dockerignore", ".containerignore"];
        let own =
            dockerfile.into_iter().flat_map(|(dir, name)| NAMES.map(|end| (dir, format!("{name}{end}"))));
        let general = NAMES.map(|name| (context, name.to_owned()));
        for (dir, name) in own.chain(general) {
            if let Some(bytes) = super::context::read_file(dir, Path::new(&name), LIMIT)? {
                let patterns = Patterns::parse_file(&bytes)
                    .map_err(|error| error.context(format!("read {}", dir.path().join(&name).display())))?;
                return Ok(Self { name: Some(name), patterns });
            }
        }
        Ok(Self::default())
    }
}

#[cfg(test)]
mod tests;
