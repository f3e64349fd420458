//! What a machine needs to be told so that containerd finds this server: units of systemd, a part of containerd's configuration.

use std::ffi::OsString;
use std::path::Path;

use rootling_backends::Result;

use super::mounts::text;

const SERVICE: &str = include_str!("setup/rootling-snapshotter.service");
const SOCKET: &str = include_str!("setup/rootling-snapshotter.socket");
const CONTAINERD: &str = include_str!("setup/containerd.toml");

/// What is filled in.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    /// The command that serves, word by word.
    pub command: &'a [OsString],
    /// The store.
    pub root: &'a Path,
    /// Where the server listens.
    pub address: &'a Path,
    /// Can the store take a tree that was prepared on nothing onto another one? It needs OverlayFS for that.
    pub rebases: bool,
}

impl Setup<'_> {
    /// Returns the unit that starts the server.
    pub fn service(&self) -> Result<String> {
        let word = |word: &OsString| text(Path::new(word)).map(|word| systemd_word(&word.replace('$', "$$")));
        let command: Vec<String> = self.command.iter().map(word).collect::<Result<_>>()?;
        let root = systemd_word(text(self.root)?);
        Ok(SERVICE.replace("@COMMAND@", &command.join(" ")).replace("@ROOT@", &root))
    }

    /// Returns the unit by which systemd makes the server's socket.
    pub fn socket(&self) -> Result<String> {
        Ok(SOCKET.replace("@ADDRESS@", &text(self.address)?.replace('%', "%%")))
    }

    /// Returns the part of containerd's configuration.
    pub fn containerd(&self) -> Result<String> {
        let filled = CONTAINERD
            .replace("@ADDRESS@", &toml_string(text(self.address)?))
            .replace("@ROOT@", &toml_string(text(self.root)?));
        let holds = |line: &&str| self.rebases || !line.contains("\"rebase\"");
        Ok(filled.lines().filter(holds).map(|line| format!("{line}\n")).collect())
    }
}

/// A word of a list (systemd.syntax(7), "Quoting"); in a command line a `$` is doubled besides (systemd.service(5), "Command lines").
fn systemd_word(text: &str) -> String {
    let text = text.replace('%', "%%");
    if text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+@:%$=".contains(c)) {
        return text;
    }
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A string of TOML, which has JSON's escapes.
fn toml_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup<'a>(command: &'a [OsString], root: &'a str, rebases: bool) -> Setup<'a> {
        Setup { command, root: root.as_ref(), address: Path::new("/run/rootling/snapshotter.sock"), rebases }
    }

    #[test]
    fn a_unit_starts_the_command_word_by_word() {
        let command = ["/usr/bin/rootling", "--root", "/srv/my store/100%", "$x\"\\"].map(OsString::from);
        let service = setup(&command, "/srv/my store/$100%", true).service().unwrap();
        let line = "ExecStart=/usr/bin/rootling --root \"/srv/my store/100%%\" \"$$x\\\"\\\\\"";
        assert!(service.lines().any(|found| found == line), "{service}");
        assert!(
            service.lines().any(|found| found == "RequiresMountsFor=\"/srv/my store/$100%%\""),
            "{service}"
        );
        assert!(!service.contains('@') && !setup(&[], "/s", true).socket().unwrap().contains('@'));
    }

    #[test]
    fn containerd_is_told_of_rebase_only_where_it_holds() {
        for rebases in [true, false] {
            let config = setup(&[], "/srv/a\"b", rebases).containerd().unwrap();
            assert_eq!(config.contains("rebase"), rebases);
            assert!(config.contains("root = \"/srv/a\\\"b\"") && !config.contains('@'), "{config}");
        }
    }
}
