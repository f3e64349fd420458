//! What a token is asked for: [`repository:NAME:pull,push`](https://distribution.github.io/distribution/spec/auth/scope/).

use std::fmt;

/// What is done with something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Action {
    Pull,
    Push,
    Delete,
}

/// One thing and what is done with it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Scope {
    Repository(String, Action),
    Catalog,
    /// What a challenge asked for, in its own words.
    Asked(String),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repository(name, Action::Pull) => write!(f, "repository:{name}:pull"),
            // Who pushes looks first at what is there.
            Self::Repository(name, Action::Push) => write!(f, "repository:{name}:pull,push"),
            Self::Repository(name, Action::Delete) => write!(f, "repository:{name}:delete"),
            Self::Catalog => f.write_str("registry:catalog:*"),
            Self::Asked(text) => f.write_str(text),
        }
    }
}
