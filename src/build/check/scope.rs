//! Which variables are set where, as far as a file says it.

use std::collections::{BTreeMap, BTreeSet};

use crate::build::expand::{Expander, Expansion};
use crate::build::syntax::Dockerfile;
use crate::image::Platform;

/// Where an image has no `PATH`, this is it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The variables of a stage, or those before the first.
#[derive(Debug, Clone, Default)]
pub(super) struct Scope {
    pub(super) values: BTreeMap<String, String>,
    /// Arguments, with a value or without: naming them is no mistake.
    pub(super) declared: BTreeSet<String>,
    /// May there be more than is known?
    pub(super) is_open: bool,
    /// Was there a `WORKDIR`?
    pub(super) has_workdir: bool,
}

impl Scope {
    /// Returns what `FROM` sees before anything is declared.
    pub(super) fn automatic() -> Self {
        let mut scope = Self::default();
        let host = Platform::host();
        for prefix in ["BUILD", "TARGET"] {
            for (name, value) in [
                ("PLATFORM", host.to_string()),
                ("OS", host.os.clone()),
                ("OSVERSION", String::new()),
                ("ARCH", host.architecture.clone()),
                ("VARIANT", host.variant.clone()),
            ] {
                scope.values.insert(format!("{prefix}{name}"), value);
            }
        }
        scope.values.insert("TARGETSTAGE".to_owned(), "default".to_owned());
        scope
    }

    /// Returns what a stage begins with that stands on an image.
    pub(super) fn of_image(variables: Option<BTreeMap<String, String>>) -> Self {
        let mut scope = Self { is_open: variables.is_none(), ..Self::default() };
        scope.values = variables.unwrap_or_default();
        scope.values.entry("PATH".to_owned()).or_insert_with(|| PATH.to_owned());
        scope
    }

    /// Expands a word; what cannot be expanded is an error elsewhere.
    pub(super) fn expand(&self, word: &str, file: &Dockerfile) -> Option<Expansion> {
        Expander::new(&|name| self.values.get(name).cloned(), file.directives.escape).expand(word).ok()
    }

    /// Expands the content of a heredoc.
    pub(super) fn document(&self, content: &str) -> Option<Expansion> {
        crate::build::expand::heredoc(content, &|name| self.values.get(name).cloned()).ok()
    }

    /// Declares an argument.
    pub(super) fn declare(&mut self, name: &str, value: Option<String>) {
        self.declared.insert(name.to_owned());
        if let Some(value) = value {
            self.values.insert(name.to_owned(), value);
        }
    }

    /// Returns all names, to find one that may have been meant.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().chain(&self.declared).map(String::as_str)
    }
}
