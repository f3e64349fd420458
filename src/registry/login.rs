//! Finding out whether credentials are good, before they are kept.

use rootling_backends::{Context as _, Error, ErrorKind, Result};

use super::client::{Call, Client, To};
use super::transport::Method;

impl Client {
    /// Shows [`Settings::given`](super::Settings) to a registry; an error of kind `PermissionDenied` if it is not let in.
    ///
    /// Returns false where the registry lets everybody in and says nothing of credentials. Nothing is kept: that is
    /// [`Credentials::store`](super::Credentials::store).
    pub fn log_in(&self, host: &str) -> Result<bool> {
        let log_in = || {
            if self.settings.given.is_none() {
                return Err(Error::new(ErrorKind::InvalidInput, "there is nothing to show"));
            }
            let endpoint = self.origin(host, "")?;
            self.send(&endpoint, &Call::new(Method::Get, To::Base(""), Vec::new()))?;
            self.wants_credentials(&endpoint)
        };
        log_in().context(|| format!("log in to {host}")).map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied => {
                error.hint("look at the name and the password, or make an access token")
            }
            _ => error,
        })
    }
}
