//! What a build is given that must leave no trace: secrets and ssh agents, as `--secret` and `--ssh` name them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rootling_backends::{Context as _, Error, ErrorKind, Result, small_file};

use crate::near::near;

/// The most that a secret may hold, as BuildKit has it.
const MAX_SECRET_BYTES: usize = 500 * 1024;

/// The agent that is meant where none is named.
pub const DEFAULT_AGENT: &str = "default";

/// Secrets and agents by their ids.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Given {
    secrets: BTreeMap<String, Vec<u8>>,
    agents: BTreeMap<String, PathBuf>,
}

/// Where a secret comes from, as written: `id=ID[,src=FILE|,env=NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFlag {
    id: String,
    from: SecretFrom,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum SecretFrom {
    File(PathBuf),
    Variable(String),
    /// The variable of that name if there is one, else the file.
    Either(String),
}

/// An agent, as written: `default`, `ID=SOCKET`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshFlag {
    id: String,
    /// `None` for that of `SSH_AUTH_SOCK`.
    socket: Option<PathBuf>,
}

fn invalid(message: String, hint: &'static str) -> Error {
    Error::new(ErrorKind::InvalidInput, message).hint(hint)
}

/// Reads `--secret`.
pub fn parse_secret(text: &str) -> Result<SecretFlag> {
    const HINT: &str = "write id=ID,src=FILE or id=ID,env=NAME";
    let bad = |message: String| Err(invalid(message, HINT));
    let (mut id, mut src, mut env, mut kind) = (None, None, None, None);
    for field in text.split(',') {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        let place = match key.trim().to_ascii_lowercase().as_str() {
            "id" => &mut id,
            "src" | "source" => &mut src,
            "env" => &mut env,
            "type" => &mut kind,
            _ => return bad(format!("secret {text:?}: there is no {key:?}")),
        };
        if value.is_empty() {
            return bad(format!("secret {text:?}: {key:?} has no value"));
        }
        if place.replace(value.to_owned()).is_some() {
            return bad(format!("secret {text:?}: {key:?} is given twice"));
        }
    }
    let of_variable = match kind.as_deref() {
        None => None,
        Some("file") => Some(false),
        Some("env") => Some(true),
        Some(other) => return bad(format!("secret {text:?}: there is no type {other:?}")),
    };
    let Some(id) = id else {
        return bad(format!("secret {text:?} has no id"));
    };
    let from = match (src, env, of_variable) {
        (Some(_), Some(_), _) => return bad(format!("secret {text:?} has a file and a variable")),
        (None, Some(_), Some(false)) => {
            return bad(format!("secret {text:?} is a file and names a variable"));
        }
        (None, Some(name), _) | (Some(name), None, Some(true)) => SecretFrom::Variable(name),
        (Some(path), None, _) => SecretFrom::File(path.into()),
        (None, None, Some(true)) => SecretFrom::Variable(id.clone()),
        (None, None, Some(false)) => SecretFrom::File(id.clone().into()),
        (None, None, None) => SecretFrom::Either(id.clone()),
    };
    Ok(SecretFlag { id, from })
}

/// Reads `--ssh`.
pub fn parse_ssh(text: &str) -> Result<SshFlag> {
    let (id, socket) = text.split_once('=').map_or((text, None), |(id, socket)| (id, Some(socket)));
    if id.is_empty() || socket == Some("") {
        return Err(invalid(format!("{text:?} is no ssh agent"), "write default, or ID=SOCKET"));
    }
    Ok(SshFlag { id: id.to_owned(), socket: socket.map(PathBuf::from) })
}

impl Given {
    /// Reads the secrets and finds the agents that the flags name; `variable` looks one up in the environment of the caller.
    pub fn read(
        secrets: &[SecretFlag],
        agents: &[SshFlag],
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self> {
        let mut given = Self::default();
        for flag in secrets {
            let content = flag.from.read(&variable).context(|| format!("secret {:?}", flag.id))?;
            given.secrets.insert(flag.id.clone(), content);
        }
        for flag in agents {
            let intent = || format!("ssh agent {:?}", flag.id);
            let socket = flag.socket.clone().or_else(|| variable("SSH_AUTH_SOCK").map(PathBuf::from));
            let socket = socket.filter(|socket| !socket.as_os_str().is_empty()).ok_or_else(|| {
                let error = Error::new(ErrorKind::NotFound, "SSH_AUTH_SOCK is not set");
                error.hint("start an agent, as with `eval $(ssh-agent)`, or name a socket: --ssh ID=SOCKET")
            });
            given.agents.insert(flag.id.clone(), a_socket(&socket.context(intent)?).context(intent)?);
        }
        Ok(given)
    }

    /// Returns a secret; `None` where it was not given.
    pub fn secret(&self, id: &str) -> Option<&[u8]> {
        self.secrets.get(id).map(Vec::as_slice)
    }

    /// Returns the socket of an agent; `None` where it was not given.
    pub fn agent(&self, id: &str) -> Option<&Path> {
        self.agents.get(id).map(PathBuf::as_path)
    }

    /// Returns the error for a secret that a step cannot do without.
    pub(super) fn no_secret(&self, id: &str) -> Error {
        let error = Error::new(ErrorKind::NotFound, format!("there is no secret {id:?}"));
        match near(id, self.secrets.keys().map(String::as_str)).first() {
            Some(meant) => error.hint(format!("did you mean {meant:?}, which was given?")),
            None => error.hint(format!("give it: --secret id={id},src=FILE")),
        }
    }

    /// Returns the error for an agent that a step cannot do without.
    pub(super) fn no_agent(&self, id: &str) -> Error {
        let flag = if id == DEFAULT_AGENT { id.to_owned() } else { format!("{id}=SOCKET") };
        let error = Error::new(ErrorKind::NotFound, format!("there is no ssh agent {id:?}"));
        error.hint(format!("give it: --ssh {flag}"))
    }
}

/// Names, and never what they stand for.
impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secrets: Vec<&String> = self.secrets.keys().collect();
        f.debug_struct("Given").field("secrets", &secrets).field("agents", &self.agents).finish()
    }
}

impl SecretFrom {
    fn read(&self, variable: &impl Fn(&str) -> Option<OsString>) -> Result<Vec<u8>> {
        let path = match self {
            Self::Variable(name) => {
                let value = variable(name).ok_or_else(|| {
                    let error = Error::new(ErrorKind::NotFound, format!("the variable {name} is not set"));
                    error.hint(format!("set it, and export it: export {name}=..."))
                })?;
                return limited(value.as_bytes().to_vec());
            }
            Self::Either(name) => match variable(name) {
                Some(value) => return limited(value.as_bytes().to_vec()),
                None => Path::new(name),
            },
            Self::File(path) => path,
        };
        // One byte more than is taken, so that what is too long is told from what fits.
        limited(small_file::read(path, MAX_SECRET_BYTES as u64 + 1)?)
    }
}

fn limited(content: Vec<u8>) -> Result<Vec<u8>> {
    if content.len() > MAX_SECRET_BYTES {
        let message = format!("it is longer than {MAX_SECRET_BYTES} bytes");
        return Err(invalid(message, "show a file of that size with --build-context and a bind mount"));
    }
    Ok(content)
}

fn a_socket(path: &Path) -> Result<PathBuf> {
    let found = std::fs::metadata(path).context(|| format!("stat({path:?})"))?;
    if !found.file_type().is_socket() {
        return Err(invalid(
            format!("{path:?} is not a socket"),
            "name the socket of an agent that has the key: keys themselves are not given to steps",
        ));
    }
    std::path::absolute(path).context(|| format!("getcwd() for {path:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(secrets: &[&str], variables: &[(&str, &str)]) -> Result<Given> {
        let secrets: Vec<_> = secrets.iter().map(|text| parse_secret(text)).collect::<Result<_>>()?;
        let of =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        Given::read(&secrets, &[], of)
    }

    #[test]
    fn secrets_come_from_files_and_variables_as_docker_reads_them() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, b"of\0file\n").unwrap();
        let path = file.to_str().unwrap();
        let by = |text: &str, id: &str| {
            read(&[text], &[("TOKEN", "of variable"), ("id", "same")]).unwrap().secret(id).map(<[u8]>::to_vec)
        };
        assert_eq!(by(&format!("id=a,src={path}"), "a").unwrap(), b"of\0file\n");
        assert_eq!(by(&format!("id=a,type=file,source={path}"), "a").unwrap(), b"of\0file\n");
        assert_eq!(by("id=a,env=TOKEN", "a").unwrap(), b"of variable");
        assert_eq!(by("type=env,id=TOKEN", "TOKEN").unwrap(), b"of variable");
        assert_eq!(by("id=id", "id").unwrap(), b"same");
        assert_eq!(by("id=a,env=TOKEN", "b"), None);
    }

    #[test]
    fn what_is_no_secret_is_refused_with_a_hint() {
        for bad in [
            "",
            "id=",
            "id=a,id=b",
            "id=a,src=x,env=Y",
            "id=a,what=b",
            "id=a,type=key",
            "id=a,type=file,env=X",
        ] {
            assert!(parse_secret(bad).unwrap_err().first_hint().is_some(), "{bad}");
        }
        let error = read(&["id=a,env=NOTHING"], &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(!format!("{:?}", read(&["id=a,env=B"], &[("B", "hush")]).unwrap()).contains("hush"));
    }

    #[test]
    fn agents_are_sockets() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let read = |text: &str, of: Option<&Path>| {
            Given::read(&[], &[parse_ssh(text).unwrap()], |_| of.map(OsString::from))
        };
        assert_eq!(read("default", Some(&socket)).unwrap().agent("default"), Some(&*socket));
        assert_eq!(read(&format!("x={}", socket.display()), None).unwrap().agent("x"), Some(&*socket));
        assert!(read("default", None).is_err());
        assert!(read(&format!("x={}", dir.path().display()), None).is_err(), "a directory is no agent");
        assert!(parse_ssh("=x").is_err() && parse_ssh("x=").is_err());
    }
}
