//! `# check=skip=RULE,...;error=true;experimental=all`: which rules are followed, and what follows from them.

use rootling_backends::{Error, ErrorKind, Result};

use super::rule::Rule;
use crate::build::syntax::Dockerfile;
use crate::near::near;

/// Which rules are followed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    skip: Names,
    experimental: Names,
    /// Is it an error if there is a finding?
    pub error: bool,
}

/// Some rules, or all. Names that are no rule's are kept out: they may be those of another version.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Names {
    All,
    Some(Vec<Rule>),
}

impl Default for Names {
    fn default() -> Self {
        Self::Some(Vec::new())
    }
}

impl Names {
    fn parse(text: &str) -> Self {
        if text.trim() == "all" {
            return Self::All;
        }
        let named = |name: &str| Rule::ALL.iter().copied().find(|rule| rule.name() == name.trim());
        Self::Some(text.split(',').filter_map(named).collect())
    }

    fn has(&self, rule: Rule) -> bool {
        match self {
            Self::All => true,
            Self::Some(rules) => rules.contains(&rule),
        }
    }
}

impl Options {
    /// Reads what the file itself asks for.
    ///
    /// # Errors
    ///
    /// As [`Self::parse`].
    pub fn of(file: &Dockerfile) -> Result<Self> {
        file.directives.check.as_deref().map_or_else(|| Ok(Self::default()), Self::parse)
    }

    /// Reads the value of a directive.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for an option that is not known, or has no value.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |message: String| Error::new(ErrorKind::InvalidInput, message);
        let mut options = Self::default();
        for option in text.split(';').map(str::trim).filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').ok_or_else(|| {
                wrong(format!("{option:?} is no option of check"))
                    .hint("write skip=RULE,RULE or error=true, with ; between them")
            })?;
            match (name.trim(), value.trim()) {
                ("skip", value) => options.skip = Names::parse(value),
                ("experimental", value) => options.experimental = Names::parse(value),
                ("error", "1" | "t" | "T" | "true" | "TRUE" | "True") => options.error = true,
                ("error", "0" | "f" | "F" | "false" | "FALSE" | "False") => options.error = false,
                ("error", value) => return Err(wrong(format!("error={value} is neither true nor false"))),
                (name, _) => {
                    let all = ["skip", "error", "experimental"];
                    let error = wrong(format!("{name:?} is no option of check"));
                    return Err(match near(name, all.into_iter()).first() {
                        Some(name) => error.hint(format!("did you mean {name}?")),
                        None => error.hint("the options are skip, error and experimental"),
                    });
                }
            }
        }
        Ok(options)
    }

    /// Is this rule followed?
    pub fn wants(&self, rule: Rule) -> bool {
        !self.skip.has(rule) && (!rule.is_experimental() || self.experimental.has(rule))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_skipped_by_name() {
        let options =
            Options::parse("skip=JSONArgsRecommended, StageNameCasing,Unknown; error=true").unwrap();
        assert!(options.error);
        assert!(!options.wants(Rule::JSONArgsRecommended) && !options.wants(Rule::StageNameCasing));
        assert!(options.wants(Rule::UndefinedVar) && !options.wants(Rule::CopyIgnoredFile));
        let options = Options::parse("skip=all").unwrap();
        assert!(Rule::ALL.iter().all(|rule| !options.wants(*rule)));
        let options = Options::parse("experimental=all").unwrap();
        assert!(Rule::ALL.iter().all(|rule| options.wants(*rule)));
        let options = Options::parse("experimental=CopyIgnoredFile;error=false").unwrap();
        assert!(options.wants(Rule::CopyIgnoredFile) && !options.wants(Rule::InvalidDefinitionDescription));
        assert_eq!(Options::parse("").unwrap(), Options::default());
        assert_eq!(Rule::ALL.len(), 21);
    }

    #[test]
    fn options_that_are_not_known_are_refused() {
        for (text, expected) in [
            ("skip", "no option of check"),
            ("skpi=all", "did you mean skip?"),
            ("error=maybe", "neither true nor false"),
            ("a=b", "the options are"),
        ] {
            let error = Options::parse(text).expect_err(text);
            let said = format!("{error} {}", error.first_hint().unwrap_or_default());
            assert!(said.contains(expected), "{text}: {said}");
        }
    }
}
