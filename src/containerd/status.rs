//! What a client is told of a failure: a code of gRPC, and one line with every cause.
//!
//! containerd makes errors of its own of the codes, and branches on them: garbage collection goes on to the next snapshot at
//! `FailedPrecondition` and gives up at every other; a pull takes `AlreadyExists` for success; a lazy unpack needs `NotFound`.

use rootling_backends::{Error, ErrorKind};
use tonic::{Code, Status};

/// Bytes of the longest message: it is sent as a line of a head, of which clients take only so much, and each byte may become three.
const MESSAGE_MAX: usize = 2048;

/// Returns what an error is over gRPC.
pub(super) fn status(error: &Error) -> Status {
    Status::new(code(error.kind()), message(error))
}

/// Returns the code of a kind of error, as containerd's own snapshotters would answer.
pub(super) fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::InvalidInput => Code::InvalidArgument,
        // Somebody uses it, or nobody can write just now: that may pass, and must not stop what else is to be done.
        ErrorKind::FailedPrecondition | ErrorKind::Busy | ErrorKind::ReadOnly | ErrorKind::NeedsLower => {
            Code::FailedPrecondition
        }
        ErrorKind::Unsupported => Code::Unimplemented,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        ErrorKind::NoSpace | ErrorKind::TooManyOpenFiles => Code::ResourceExhausted,
        ErrorKind::Corrupt => Code::DataLoss,
        _ => Code::Internal,
    }
}

/// Returns the causes, the outermost first, and the hint: on one line, whatever names are in it.
fn message(error: &Error) -> String {
    let mut text = error.chain().join(": ");
    if let Some(hint) = error.first_hint() {
        text = format!("{text} ({hint})");
    }
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.len() > MESSAGE_MAX {
        let fits = (0..=MESSAGE_MAX).rev().find(|end| line.is_char_boundary(*end));
        line.truncate(fits.unwrap_or_default());
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_of_all_causes() {
        let error =
            Error::new(ErrorKind::NotFound, "openat(\"a\nb\")").context("stat KEY").hint("look again");
        let status = status(&error);
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(status.message(), "stat KEY: openat(\"a b\") (look again)");
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let error = Error::new(ErrorKind::Io, "ä".repeat(3000));
        let status = status(&error);
        assert_eq!(status.code(), Code::Internal);
        assert_eq!(status.message().len(), MESSAGE_MAX + '…'.len_utf8());
    }
}
