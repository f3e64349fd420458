//! The words behind a scheme: `PATH?KEY=VALUE&KEY=VALUE`.

use rootling_backends::{Error, ErrorKind, Result};

use crate::registry;

/// Bytes in the longest source that is read.
const LIMIT: usize = 4 << 10;

/// What stands behind a scheme, taken apart.
#[derive(Debug)]
pub(super) struct Words<'a> {
    /// All of it, for messages.
    text: &'a str,
    /// What stands before the question mark.
    pub(super) path: &'a str,
    options: Vec<(&'a str, String)>,
}

impl<'a> Words<'a> {
    /// Takes `rest` apart; `text` is the whole source.
    pub(super) fn parse(text: &'a str, rest: &'a str) -> Result<Self> {
        if text.len() > LIMIT {
            return Err(Error::new(ErrorKind::InvalidInput, format!("a source of {} bytes", text.len())));
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut options = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(wrong(text, format!("{pair:?} is not KEY=VALUE")));
            };
            options.push((key, unescaped(text, value)?));
        }
        Ok(Self { text, path, options })
    }

    /// Returns an error that shows the source and says why.
    pub(super) fn wrong(&self, why: impl Into<String>) -> Error {
        wrong(self.text, why.into())
    }

    /// Takes the values of an option, which may be given several times, each a list with commas.
    pub(super) fn list(&mut self, key: &str) -> Vec<String> {
        let (taken, left) =
            std::mem::take(&mut self.options).into_iter().partition(|(known, _)| *known == key);
        self.options = left;
        let taken: Vec<(&str, String)> = taken;
        let values = taken.iter().flat_map(|(_, value)| value.split(','));
        values.filter(|value| !value.is_empty()).map(str::to_owned).collect()
    }

    /// Takes an option that has one value.
    pub(super) fn one(&mut self, key: &str) -> Result<Option<String>> {
        let mut values = self.list(key);
        match values.len() {
            0 | 1 => Ok(values.pop()),
            _ => Err(self.wrong(format!("{key} has one value"))),
        }
    }

    /// Refuses what is left; `known` are the options that there are.
    pub(super) fn finish(self, known: &str) -> Result<()> {
        match self.options.first() {
            None => Ok(()),
            Some((key, _)) => {
                Err(self.wrong(format!("there is no option {key:?}")).hint(format!("there are {known}")))
            }
        }
    }
}

fn wrong(text: &str, why: String) -> Error {
    let shown: String = text.chars().take(200).collect();
    Error::new(ErrorKind::InvalidInput, format!("source {shown:?}: {why}"))
}

/// Decodes `%26` and its like; everything else stays as it is.
fn unescaped(text: &str, value: &str) -> Result<String> {
    let bytes = registry::unescaped(value)
        .ok_or_else(|| wrong(text, "after % come two hexadecimal digits".to_owned()))?;
    let decoded =
        String::from_utf8(bytes).map_err(|_| wrong(text, "what is behind % is no text".to_owned()))?;
    match decoded.chars().any(char::is_control) {
        true => Err(wrong(text, "there are control characters in it".to_owned())),
        false => Ok(decoded),
    }
}

/// Is this what names of suites, packages and architectures are made of? Never something that a program takes for a flag.
pub(super) fn is_word(text: &str, more: &[u8]) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-+._".contains(&byte) || more.contains(&byte);
    !text.is_empty() && text.len() <= 128 && text.bytes().all(fits) && !text.starts_with(['-', '.'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_taken_and_the_rest_is_refused() {
        let text = "x:a/b?include=c,d&include=e&mirror=http%3A//h/%3Fq%3D1%2C2&what=1";
        let mut words = Words::parse(text, &text[2..]).unwrap();
        assert_eq!(words.path, "a/b");
        assert_eq!(words.list("include"), ["c", "d", "e"]);
        assert_eq!(words.list("mirror"), ["http://h/?q=1", "2"]);
        assert_eq!(words.one("arch").unwrap(), None);
        let error = words.finish("include and mirror").unwrap_err();
        assert!(error.to_string().contains("no option \"what\""), "{error}");
        for text in ["a?b", "a?b=%", "a?b=%zz", "a?b=%ff", "a?b=%0a", "a?b=%+1"] {
            assert!(Words::parse(text, text).is_err(), "{text}");
        }
    }

    #[test]
    fn words_are_no_flags() {
        assert!(is_word("bookworm-backports", b"") && is_word("g++:arm64", b":"));
        for text in ["", "-x", "--help", ".", "a b", "a\n", "a:b", "../x", &"a".repeat(129)] {
            assert!(!is_word(text, b""), "{text:?}");
        }
    }
}
