//! What went wrong, as clients understand it: the [errors](https://github.com/opencontainers/distribution-spec/blob/main/spec.md#error-codes)
//! of the specification.

use std::io;

use rootling_backends::{Error, ErrorKind};
use serde_json::json;

use super::http::Answer;

/// The codes of the specification that are used here, and docker's for tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    Denied,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    TagInvalid,
    Unauthorized,
    Unknown,
    Unsupported,
}

impl Code {
    fn name(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::Denied => "DENIED",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::TagInvalid => "TAG_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Unknown => "UNKNOWN",
            Self::Unsupported => "UNSUPPORTED",
        }
    }
}

/// Why a request is not answered with what it asked for.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The client is told this.
    Refused(Answer),
    /// The store could not.
    Failed(Error),
    /// The client is gone, or does not speak HTTP.
    Cut(io::Error),
}

pub(super) type Answered<T = Answer> = Result<T, Trouble>;

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Cut(error)
    }
}

/// Returns an answer that says what is wrong.
pub(super) fn says(status: u16, code: Code, message: impl Into<String>) -> Answer {
    let error = json!({ "errors": [{ "code": code.name(), "message": message.into() }] });
    Answer::json(status, "application/json", &error)
}

/// Refuses a request.
pub(super) fn refuse<T>(status: u16, code: Code, message: impl Into<String>) -> Answered<T> {
    Err(Trouble::Refused(says(status, code, message)))
}

/// Says that another registry, which should have had it, could not.
pub(super) fn failed_there<T>(error: &Error) -> Answered<T> {
    if error.kind() == ErrorKind::NoSpace {
        return Err(Trouble::Refused(of_failure(error)));
    }
    log::warn!("{error}");
    refuse(502, Code::Unknown, "the registry that is mirrored does not answer as it should")
}

/// Returns what the client is told of a failure, which is not everything: paths and numbers of this machine are not its business.
pub(super) fn of_failure(error: &Error) -> Answer {
    match error.kind() {
        ErrorKind::NoSpace => says(507, Code::Unknown, "the disk of the registry is full"),
        ErrorKind::Busy => {
            says(503, Code::Unknown, "what is asked for is in use, try again").line("Retry-After", "2")
        }
        ErrorKind::ReadOnly | ErrorKind::PermissionDenied => {
            says(405, Code::Unsupported, "the store of the registry cannot be written")
        }
        ErrorKind::FailedPrecondition => says(403, Code::Denied, error.to_string()),
        _ => says(500, Code::Unknown, "the registry failed; its log says why"),
    }
}
