//! The one error type of this crate: what was tried, on which object, why it failed, and what to do.
//!
//! The bottom of a chain shows the system call; each layer above adds its own intent and object once.
//! `Display` never prints the source, so that a caller who prints the whole chain prints nothing twice.

use std::borrow::Cow;
use std::fmt;
use std::io;

use nix::errno::Errno;

/// The result of every fallible function here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller may branch on: exit codes, fallbacks, hints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The object does not exist.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The request can never work as it stands.
    InvalidInput,
    /// The request does not fit the object's present state.
    FailedPrecondition,
    /// The kernel, the file system or this build cannot do it.
    Unsupported,
    /// Not allowed for this user.
    PermissionDenied,
    /// Somebody else is using it.
    Busy,
    /// The file system, or the quota, is full.
    NoSpace,
    /// The file system is read-only.
    ReadOnly,
    /// The two ends lie on different file systems.
    CrossDevice,
    /// Out of file descriptors.
    TooManyOpenFiles,
    /// What is on disk is not what was written.
    Corrupt,
    /// A layer that means something only on the tree that it is meant to lie on.
    NeedsLower,
    /// Anything else the kernel reported.
    Io,
}

impl From<Errno> for ErrorKind {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::ENOENT => Self::NotFound,
            Errno::EEXIST | Errno::ENOTEMPTY => Self::AlreadyExists,
            Errno::EINVAL | Errno::ENAMETOOLONG | Errno::ENOTDIR | Errno::EISDIR | Errno::ELOOP => {
                Self::InvalidInput
            }
            Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::ENOTTY | Errno::ENODEV => Self::Unsupported,
            Errno::EPERM | Errno::EACCES => Self::PermissionDenied,
            Errno::EBUSY | Errno::ETXTBSY | Errno::EAGAIN => Self::Busy,
            Errno::ENOSPC | Errno::EDQUOT => Self::NoSpace,
            Errno::EROFS => Self::ReadOnly,
            Errno::EXDEV => Self::CrossDevice,
            Errno::EMFILE | Errno::ENFILE => Self::TooManyOpenFiles,
            Errno::EUCLEAN | Errno::EBADMSG => Self::Corrupt,
            _ => Self::Io,
        }
    }
}

/// A failure, with its object, its cause and (where one is known) the one action that helps.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    hint: Option<Cow<'static, str>>,
    source: Option<Source>,
}

enum Source {
    Io(io::Error),
    Ours(Error),
}

impl Error {
    /// Returns an error that starts here: `message` names the operation and the object.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), hint: None, source: None }))
    }

    /// Returns the error of one system call; `call` shows it as strace would.
    pub fn call(call: impl Into<Cow<'static, str>>, errno: Errno) -> Self {
        Self(Box::new(Inner {
            kind: errno.into(),
            message: call.into(),
            hint: None,
            source: Some(Source::Io(errno.into())),
        }))
    }

    /// Returns the error of an operation of the standard library.
    pub fn io(call: impl Into<Cow<'static, str>>, error: io::Error) -> Self {
        let kind = match error.raw_os_error() {
            Some(raw) => Errno::from_raw(raw).into(),
            None => match error.kind() {
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
                io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => ErrorKind::InvalidInput,
                io::ErrorKind::UnexpectedEof => ErrorKind::Corrupt,
                _ => ErrorKind::Io,
            },
        };
        Self(Box::new(Inner { kind, message: call.into(), hint: None, source: Some(Source::Io(error)) }))
    }

    /// Wraps this error in the caller's intent and object; the kind stays.
    #[must_use]
    pub fn context(self, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind: self.kind(),
            message: message.into(),
            hint: None,
            source: Some(Source::Ours(self)),
        }))
    }

    /// Adds the one action the user can take.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Replaces the kind, where the caller knows better than the errno.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Returns what to branch on.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the outermost hint of the chain.
    pub fn first_hint(&self) -> Option<&str> {
        match (&self.0.hint, &self.0.source) {
            (Some(hint), _) => Some(hint),
            (None, Some(Source::Ours(inner))) => inner.first_hint(),
            (None, _) => None,
        }
    }

    /// Returns what it says and what its causes say, the outermost first.
    pub fn chain(&self) -> Vec<String> {
        let mut chain = vec![self.to_string()];
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            chain.push(cause.to_string());
            source = cause.source();
        }
        chain
    }

    /// Returns the error of which these words are left: its kind, [`chain`](Self::chain) and [`first_hint`](Self::first_hint). It knows no errno.
    pub fn retold(kind: ErrorKind, chain: Vec<String>, hint: Option<String>) -> Self {
        let mut texts = chain.into_iter().rev();
        let innermost = Self::new(kind, texts.next().unwrap_or_default());
        let error = texts.fold(innermost, Self::context);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    /// Returns the errno at the bottom of the chain, if a system call failed there.
    pub fn errno(&self) -> Option<Errno> {
        match &self.0.source {
            Some(Source::Io(error)) => error.raw_os_error().map(Errno::from_raw),
            Some(Source::Ours(inner)) => inner.errno(),
            None => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

/// Shows the whole chain: this is what a failed assertion prints.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.0.message)?;
        match &self.0.source {
            Some(Source::Io(error)) => write!(f, ": {error}"),
            Some(Source::Ours(error)) => write!(f, ": {error:?}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0.source {
            Some(Source::Io(error)) => Some(error),
            Some(Source::Ours(error)) => Some(error),
            None => None,
        }
    }
}

/// Adds intent and object to a failure in one word.
pub trait Context<T> {
    /// Wraps the error in `message()`.
    fn context<M: Into<Cow<'static, str>>>(self, message: impl FnOnce() -> M) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context<M: Into<Cow<'static, str>>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|error| error.context(message()))
    }
}

impl<T> Context<T> for nix::Result<T> {
    /// Here the message is the call itself.
    fn context<M: Into<Cow<'static, str>>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|errno| Error::call(message(), errno))
    }
}

impl<T> Context<T> for io::Result<T> {
    /// Here the message is the call itself.
    fn context<M: Into<Cow<'static, str>>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|error| Error::io(message(), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_again_says_the_same() {
        let error = Error::call("open(\"/x\")", Errno::ENOENT).hint("make it").context("read the list");
        assert_eq!(error.chain()[..2], ["read the list", "open(\"/x\")"]);
        let again = Error::retold(error.kind(), error.chain(), error.first_hint().map(str::to_owned));
        assert_eq!((again.kind(), again.chain()), (error.kind(), error.chain()));
        assert_eq!((again.first_hint(), again.errno()), (Some("make it"), None));
    }
}
