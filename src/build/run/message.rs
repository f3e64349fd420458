//! What a build and the process of a step say to each other: what to run in one direction, what came of it in the other.

use rootling_backends::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

use crate::runner::Outcome;

/// What came of a step.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The command ended, or could not be executed.
    Ended {
        /// As a shell shows it.
        status: u8,
        /// Why it could not be executed.
        refused: Option<Said>,
        /// What was left out.
        notes: Vec<String>,
    },
    /// It never ran.
    Failed(Said),
}

impl Answer {
    /// `notes` go before those of the run itself.
    pub(super) fn of(result: Result<Outcome, Error>, mut notes: Vec<String>) -> Self {
        match result {
            Ok(outcome) => {
                notes.extend(outcome.notes);
                let refused = outcome.refused.as_ref().map(Said::of);
                Self::Ended { status: outcome.status, refused, notes }
            }
            Err(error) => Self::Failed(Said::of(&error)),
        }
    }
}

/// An error in words.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Said {
    kind: usize,
    /// The outermost first.
    chain: Vec<String>,
    hint: Option<String>,
}

/// By their places here; one that is not here becomes `Io`.
const KINDS: [ErrorKind; 13] = [
    ErrorKind::Io,
    ErrorKind::NotFound,
    ErrorKind::AlreadyExists,
    ErrorKind::InvalidInput,
    ErrorKind::FailedPrecondition,
    ErrorKind::Unsupported,
    ErrorKind::PermissionDenied,
    ErrorKind::Busy,
    ErrorKind::NoSpace,
    ErrorKind::ReadOnly,
    ErrorKind::CrossDevice,
    ErrorKind::TooManyOpenFiles,
    ErrorKind::Corrupt,
];

impl Said {
    pub(super) fn of(error: &Error) -> Self {
        let kind = KINDS.iter().position(|kind| *kind == error.kind()).unwrap_or(0);
        Self { kind, chain: error.chain(), hint: error.first_hint().map(str::to_owned) }
    }

    pub(super) fn into_error(self) -> Error {
        let kind = KINDS.get(self.kind).copied().unwrap_or(ErrorKind::Io);
        Error::retold(kind, self.chain, self.hint)
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    #[test]
    fn an_error_arrives_as_it_was_said() {
        let error = Error::call("open(\"x\")", Errno::EROFS).hint("make it writable").context("show \"x\"");
        let text = serde_json::to_string(&Said::of(&error)).unwrap();
        let arrived = serde_json::from_str::<Said>(&text).unwrap().into_error();
        assert_eq!((arrived.kind(), arrived.first_hint()), (error.kind(), error.first_hint()));
        assert_eq!(Said::of(&arrived).chain, Said::of(&error).chain);
    }
}
