//! Who may do what: passwords in a file as `htpasswd -B` writes it.
//!
//! A password that was right is remembered for a while by a keyed digest, since bcrypt is slow by intention and a push has hundreds of
//! requests. A name that nobody has takes as long as a wrong password.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rootling_backends::{Context, Error, ErrorKind, Result};

use super::http::Head;
use crate::image::{Algorithm, Hasher};
use crate::store::ObjectId;

/// How long a password that was right is believed without bcrypt.
const REMEMBERED: Duration = Duration::from_secs(300);

/// Most passwords remembered.
const REMEMBERED_MAX: usize = 1024;

/// Bytes in the largest file of passwords.
const FILE_MAX: u64 = 1 << 20;

/// Names, and what passwords are compared with.
pub struct Passwords {
    users: HashMap<String, String>,
    /// What a name that nobody has is compared with: a hash like the others.
    nobody: String,
    key: String,
    remembered: Mutex<HashMap<String, Instant>>,
}

impl std::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Passwords").field("users", &self.users.len()).finish_non_exhaustive()
    }
}

impl Passwords {
    /// Reads a file of lines `NAME:HASH`. Other hashes than bcrypt's are an error: they can be guessed.
    pub fn read(path: &Path) -> Result<Self> {
        let text = rootling_backends::small_file::read_regular(path, FILE_MAX);
        let text = text.context(|| format!("read passwords {path:?}"))?;
        Self::parse(&String::from_utf8_lossy(&text)).context(|| format!("read passwords {path:?}"))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut users = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let refuse = |why: &str| {
                let message = format!("line {}: {why}", number + 1);
                Err(Error::new(ErrorKind::InvalidInput, message).hint("write it with `htpasswd -B`"))
            };
            let Some((name, hash)) = line.split_once(':').filter(|(name, _)| !name.is_empty()) else {
                return refuse("there is no NAME:HASH");
            };
            if !["$2y$", "$2a$", "$2b$"].iter().any(|kind| hash.starts_with(kind)) || hash.len() != 60 {
                return refuse("the hash is not of bcrypt");
            }
            users.insert(name.to_owned(), hash.to_owned());
        }
        let Some(nobody) = users.values().next().cloned() else {
            return Err(Error::new(ErrorKind::InvalidInput, "there is nobody in it")
                .hint("add somebody: htpasswd -B -c FILE NAME"));
        };
        let mut key = String::new();
        while key.len() < 32 {
            key.push_str(ObjectId::random()?.as_str());
        }
        Ok(Self { users, nobody, key, remembered: Mutex::default() })
    }

    /// Returns who sends a request, if the password is theirs.
    pub(super) fn who(&self, head: &Head) -> Option<String> {
        let said = head.line("authorization")?;
        let (scheme, encoded) = said.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
        let (name, password) = decoded.split_once(':')?;
        self.is_right(name, password).then(|| name.to_owned())
    }

    fn is_right(&self, name: &str, password: &str) -> bool {
        // Nobody outside knows the key: how long a look-up takes tells nothing of what is in it.
        let mut hasher = Hasher::new(Algorithm::Sha256);
        for part in [&self.key, name, password] {
            hasher.update(part.as_bytes());
            hasher.update(b"\0");
        }
        let seen = hasher.finish().hex().to_owned();
        let remembered = || self.remembered.lock().expect("nobody panics who holds it");
        if remembered().get(&seen).is_some_and(|then| then.elapsed() < REMEMBERED) {
            return true;
        }
        let hash = self.users.get(name);
        // bcrypt's comparison takes the same time whatever differs.
        let is_right = bcrypt::verify(password, hash.unwrap_or(&self.nobody)).unwrap_or(false);
        if !is_right || hash.is_none() {
            return false;
        }
        let mut all = remembered();
        if all.len() >= REMEMBERED_MAX {
            all.clear();
        }
        all.insert(seen, Instant::now());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By `htpasswd -nbB -C 4`.
    const ALICE: &str = "# who\nalice:$2y$04$ciX/QTVqkRteAg.o.aN7qOsiOkrBSCh3lH9dk44Q.2WoXu.krrp0G\n";

    fn head(line: &str) -> Head {
        Head::parse(format!("GET / HTTP/1.1\r\nHost: h\r\nAuthorization: {line}\r\n\r\n").as_bytes()).unwrap()
    }

    #[test]
    fn only_the_right_password_is_right() {
        let passwords = Passwords::parse(ALICE).unwrap();
        let basic = |text: &str| head(&format!("Basic {}", STANDARD.encode(text)));
        for _ in 0..2 {
            assert_eq!(passwords.who(&basic("alice:wonderland")).as_deref(), Some("alice"));
            for wrong in ["alice:wonderlan", "alice:", "bob:wonderland", ":wonderland", "alice", ""] {
                assert_eq!(passwords.who(&basic(wrong)), None, "{wrong:?}");
            }
        }
        assert_eq!(passwords.who(&head("Bearer x")), None);
        assert_eq!(passwords.who(&head("Basic !!!")), None);
    }

    #[test]
    fn weak_hashes_are_refused() {
        for text in ["alice:{SHA}xxx", "alice:$apr1$x$y", "alice", ":x", "", "# nobody"] {
            assert!(Passwords::parse(text).is_err(), "{text:?}");
        }
    }
}
