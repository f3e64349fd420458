//! What a machine needs to be told so that containerd finds this server: units of systemd, a part of containerd's configuration.

use std::path::Path;

use rootling_backends::Result;

use super::mounts::text;

const SERVICE: &str = include_str!("setup/rootling-snapshotter.service");
const SOCKET: &str = include_str!("setup/rootling-snapshotter.socket");
const CONTAINERD: &str = include_str!("setup/containerd.toml");

/// What is filled in.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    /// This program.
    pub program: &'a Path,
    /// The store.
    pub root: &'a Path,
    /// Where the server listens.
    pub address: &'a Path,
    /// Where containerd does.
    pub containerd: &'a Path,
    /// Can the store take a tree that was prepared on nothing onto another one? It needs OverlayFS for that.
    pub rebases: bool,
}

impl Setup<'_> {
    /// Returns the unit that starts the server.
    pub fn service(&self) -> Result<String> {
        let word = |path| text(path).map(systemd_word);
        Ok(SERVICE
            .replace("@PROGRAM@", &word(self.program)?)
            .replace("@ROOT@", &word(self.root)?)
            .replace("@ADDRESS@", &word(self.address)?)
            .replace("@CONTAINERD@", &word(self.containerd)?))
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

/// A word of a command line (systemd.service(5), "Command lines"; systemd.syntax(7), "Quoting").
fn systemd_word(text: &str) -> String {
    let text = text.replace('%', "%%").replace('$', "$$");
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

    fn setup<'a>(root: &'a str, rebases: bool) -> Setup<'a> {
        let program = Path::new("/usr/bin/rootling");
        let (address, containerd) =
            (Path::new("/run/rootling/snapshotter.sock"), Path::new("/run/containerd/containerd.sock"));
        Setup { program, root: root.as_ref(), address, containerd, rebases }
    }

    #[test]
    fn a_unit_starts_the_program_with_the_store() {
        let service = setup("/srv/my store/100%", true).service().unwrap();
        let line = "ExecStart=/usr/bin/rootling --root \"/srv/my store/100%%\" snapshotter --address /run/rootling/snapshotter.sock --containerd /run/containerd/containerd.sock";
        assert!(service.lines().any(|found| found == line), "{service}");
        assert!(!service.contains('@'), "{service}");
        assert!(!setup("/s", true).socket().unwrap().contains('@'));
    }

    #[test]
    fn containerd_is_told_of_rebase_only_where_it_holds() {
        for rebases in [true, false] {
            let config = setup("/srv/a\"b", rebases).containerd().unwrap();
            assert_eq!(config.contains("rebase"), rebases);
            assert!(config.contains("root = \"/srv/a\\\"b\"") && !config.contains('@'), "{config}");
            toml::from_str::<toml::Table>(&config).unwrap();
            // What is commented out is whole as well.
            let (_, of_2) = config.split_once("#version = 3").unwrap();
            let of_2: String =
                of_2.lines().map(|line| format!("{}\n", line.trim_start_matches('#'))).collect();
            let of_2 = toml::from_str::<toml::Table>(&of_2).unwrap();
            assert_eq!(of_2["proxy_plugins"]["rootling"]["type"].as_str(), Some("snapshot"));
        }
    }
}
