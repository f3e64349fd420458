//! How a tree wants to be run: the `config` of an OCI image configuration, and the words that change it.
//!
//! Names and meanings are those of the [image configuration](https://github.com/opencontainers/image-spec/blob/main/config.md);
//! the words of [`ImageConfig::change`] are docker's, for `docker import --change` and `docker commit --change`.

use std::collections::BTreeMap;

use rootling_backends::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::or_default;

/// What an image says about how it is run. Fields it does not know are kept as they are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// `user`, `uid`, `user:group`, `uid:gid`; empty for root.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub user: String,
    /// Ports that it listens on: `80/tcp`, each with an empty object.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "or_default")]
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
    /// Variables, `NAME=value`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// What is always executed; arguments come behind it.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub entrypoint: Vec<String>,
    /// Arguments where none are given; the command, where there is no entrypoint.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub cmd: Vec<String>,
    /// Directories that hold data, each with an empty object.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "or_default")]
    pub volumes: BTreeMap<String, serde_json::Value>,
    /// The directory it starts in; empty for `/`.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub working_dir: String,
    /// Anything.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// The signal that asks it to end: `SIGTERM`, `SIGRTMIN+3`, a number; empty for `SIGTERM`.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub stop_signal: String,
    /// What we do not know.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

const WORDS: &str = "CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR";

impl ImageConfig {
    /// Says nothing?
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Applies one change: a word of `WORDS`, upper or lower case, and what follows it in a Dockerfile.
    ///
    /// `CMD` and `ENTRYPOINT` take a JSON list, or a line for `/bin/sh -c`; `ENV` and `LABEL` take `NAME=VALUE` with quotes where there
    /// are spaces, or `NAME VALUE`. As in docker, a new entrypoint makes an old command meaningless and drops it.
    pub fn change(&mut self, text: &str) -> Result<()> {
        let (word, rest) = text.trim().split_once(char::is_whitespace).unwrap_or((text.trim(), ""));
        let rest = rest.trim();
        let need = |what: &str| {
            let error = Error::new(ErrorKind::InvalidInput, format!("{text:?} says no {what}"));
            if rest.is_empty() { Err(error.hint(format!("write {what} after {word}"))) } else { Ok(rest) }
        };
        match word.to_ascii_uppercase().as_str() {
            "CMD" => self.cmd = command(rest),
            "ENTRYPOINT" => {
                self.entrypoint = command(rest);
                self.cmd.clear();
            }
            "ENV" => {
                for (name, value) in
                    pairs(need("variable")?).map_err(|error| error.context(format!("read {text:?}")))?
                {
                    self.set_env(&name, &value);
                }
            }
            "LABEL" => self
                .labels
                .extend(pairs(need("label")?).map_err(|error| error.context(format!("read {text:?}")))?),
            "EXPOSE" => {
                for port in need("port")?.split_whitespace() {
                    self.exposed_ports.insert(exposed(port)?, empty());
                }
            }
            "VOLUME" => {
                let list = serde_json::from_str(need("directory")?);
                let directories: Vec<String> =
                    list.unwrap_or_else(|_| rest.split_whitespace().map(str::to_owned).collect());
                self.volumes.extend(directories.into_iter().map(|path| (path, empty())));
            }
            "STOPSIGNAL" => rest.clone_into(&mut self.stop_signal),
            "USER" => rest.clone_into(&mut self.user),
            "WORKDIR" => {
                let path =
                    std::path::Path::new(if self.working_dir.is_empty() { "/" } else { &self.working_dir });
                self.working_dir = path.join(need("directory")?).to_string_lossy().into_owned();
            }
            _ => {
                let message = format!("{word:?} is no change of an image's configuration");
                return Err(Error::new(ErrorKind::InvalidInput, message).hint(format!("there are {WORDS}")));
            }
        }
        Ok(())
    }

    fn set_env(&mut self, name: &str, value: &str) {
        let entry = format!("{name}={value}");
        match self.env.iter_mut().find(|known| known.split('=').next() == Some(name)) {
            Some(known) => *known = entry,
            None => self.env.push(entry),
        }
    }
}

fn empty() -> serde_json::Value {
    serde_json::Value::Object(serde_json::Map::new())
}

/// The exec form is a JSON list of text; everything else is a line for the shell.
fn command(text: &str) -> Vec<String> {
    match serde_json::from_str(text) {
        Ok(list) => list,
        Err(_) if text.is_empty() => Vec::new(),
        Err(_) => ["/bin/sh", "-c", text].map(str::to_owned).to_vec(),
    }
}

fn exposed(text: &str) -> Result<String> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = port.split_once('-').unwrap_or((port, port));
    let is_port = |text: &str| text.parse::<u16>().is_ok_and(|port| port > 0);
    if is_port(first) && is_port(last) && ["tcp", "udp", "sctp"].contains(&protocol) {
        return Ok(format!("{port}/{protocol}"));
    }
    Err(Error::new(ErrorKind::InvalidInput, format!("{text:?} is no port")).hint("write PORT or PORT/udp"))
}

/// `NAME=VALUE NAME="VALUE" ...`, or the old form `NAME VALUE`.
fn pairs(text: &str) -> Result<Vec<(String, String)>> {
    let first = text.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (name, value) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        return Ok(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    words(text)?
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(Error::new(ErrorKind::InvalidInput, format!("{word:?} is no NAME=VALUE"))),
        })
        .collect()
}

/// Words as a Dockerfile cuts them: quotes keep spaces, a backslash keeps the next character.
fn words(text: &str) -> Result<Vec<String>> {
    let (mut words, mut word) = (Vec::new(), None::<String>);
    let (mut quote, mut letters) = (None, text.chars());
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, '"' | '\'') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(letters.next()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if let Some(quote) = quote {
        return Err(Error::new(ErrorKind::InvalidInput, format!("a {quote} has no end")));
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changes: &[&str]) -> ImageConfig {
        let mut config = ImageConfig::default();
        for change in changes {
            config.change(change).unwrap();
        }
        config
    }

    #[test]
    fn changes_do_what_a_dockerfile_would() {
        let config = changed(&[
            r#"CMD ["old"]"#,
            r#"ENTRYPOINT ["/bin/app", "-v"]"#,
            "cmd serve now",
            r#"ENV A=1 B="two words" C=a\ b"#,
            "ENV A again and more",
            "EXPOSE 80 53/udp 1000-1010",
            r#"LABEL org.name="x y""#,
            "VOLUME /data /more",
            "WORKDIR /srv",
            "WORKDIR app",
            "USER 7:8",
            "STOPSIGNAL SIGQUIT",
        ]);
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(
            text,
            r#"{"User":"7:8","ExposedPorts":{"1000-1010/tcp":{},"53/udp":{},"80/tcp":{}},"Env":["A=again and more","B=two words","C=a b"],"Entrypoint":["/bin/app","-v"],"Cmd":["/bin/sh","-c","serve now"],"Volumes":{"/data":{},"/more":{}},"WorkingDir":"/srv/app","Labels":{"org.name":"x y"},"StopSignal":"SIGQUIT"}"#
        );
        assert_eq!(serde_json::from_str::<ImageConfig>(&text).unwrap(), config);
    }

    #[test]
    fn an_entrypoint_drops_the_command_before_it() {
        assert_eq!(changed(&["CMD a", "ENTRYPOINT b"]).cmd, [""; 0]);
        assert_eq!(changed(&["ENTRYPOINT []"]).entrypoint, [""; 0]);
    }

    #[test]
    fn what_is_no_change_is_refused_with_the_words_there_are() {
        let mut config = ImageConfig::default();
        for bad in [
            "",
            "RUN x",
            "ENV",
            "ENV =1 A=2",
            "ENV A=\"x",
            "EXPOSE 0",
            "EXPOSE 70000",
            "EXPOSE 1/ipx",
            "WORKDIR",
        ] {
            assert_eq!(config.change(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad:?}");
        }
        assert!(config.is_empty());
    }

    #[test]
    fn null_is_nothing_and_unknown_fields_are_kept() {
        let text = r#"{"Cmd":null,"Env":null,"Healthcheck":{"Test":["CMD","x"]},"ArgsEscaped":true}"#;
        let config: ImageConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.cmd, [""; 0]);
        let again: serde_json::Value =
            serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
        assert_eq!(again["Healthcheck"]["Test"][1], "x");
        assert_eq!(again["ArgsEscaped"], true);
    }
}
