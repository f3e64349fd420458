//! How words of instructions are expanded with the variables of a place.

use std::collections::BTreeMap;

use rootling_backends::Result;

use crate::build::expand;

/// Expands a word: variables are put in, quotes and escapes are gone.
pub(super) fn word(text: &str, lookup: &dyn Fn(&str) -> Option<String>, escape: char) -> Result<String> {
    expand::expand(text, lookup, escape)
}

/// How words are expanded at one place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words<'a> {
    env: &'a BTreeMap<String, String>,
    escape: char,
}

impl<'a> Words<'a> {
    pub(super) fn new(env: &'a BTreeMap<String, String>, escape: char) -> Self {
        Self { env, escape }
    }

    fn lookup(self, name: &str) -> Option<String> {
        self.env.get(name).cloned()
    }

    /// Expands a word.
    pub(super) fn word(self, text: &str) -> Result<String> {
        word(text, &|name| self.lookup(name), self.escape)
    }

    /// Expands what may be there.
    pub(super) fn optional(self, text: Option<&String>) -> Result<Option<String>> {
        text.map(|text| self.word(text)).transpose()
    }

    /// Expands each of some words.
    pub(super) fn each(self, list: &[String]) -> Result<Vec<String>> {
        list.iter().map(|text| self.word(text)).collect()
    }

    /// Expands a word that may become several, or none.
    pub(super) fn words(self, text: &str) -> Result<Vec<String>> {
        expand::words(text, &|name| self.lookup(name), self.escape)
    }

    /// Expands the text of a file: quotes in it are its own.
    pub(super) fn document(self, text: &str) -> Result<String> {
        Ok(expand::heredoc(text, &|name| self.lookup(name))?.text)
    }
}
