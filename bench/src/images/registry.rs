//! docker's registry on a free port of loopback, which ends with its value; its blobs lie outside of what is measured.

use std::collections::HashSet;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rootling_backends::{Context, Error, ErrorKind, Result};
use serde_json::Value;

use super::SECOND;
use crate::command::{command, output, timed};

/// What this and other distributions call it.
const PROGRAMS: [&str; 2] = ["docker-registry", "registry"];

const REPOSITORY: &str = "bench/tree";

/// A registry without users, by plain http.
#[derive(Debug)]
pub(crate) struct Registry {
    host: String,
    data: PathBuf,
    server: Child,
}

impl Registry {
    /// Starts it with its blobs in a new directory.
    pub(crate) fn start(directory: &Path) -> Result<Self> {
        let data = directory.join("data");
        std::fs::create_dir_all(&data).context(|| format!("mkdir({data:?})"))?;
        // Between our trying a port and its use somebody else may take it.
        for _ in 0..5 {
            let port = free_port().context(|| "bind(\"127.0.0.1:0\")")?;
            let configuration = format!(
                "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
                data.display()
            );
            let file = directory.join("config.yml");
            std::fs::write(&file, configuration).context(|| format!("write {file:?}"))?;
            let mut server = serve(&file)?;
            if answers(port, &mut server) {
                return Ok(Self { host: format!("127.0.0.1:{port}"), data, server });
            }
            drop(server.kill());
            drop(server.wait());
        }
        Err(Error::new(ErrorKind::Unsupported, "docker's registry does not start here"))
    }

    /// Returns what an image here is called.
    pub(crate) fn reference(&self, tag: &str) -> String {
        format!("{}/{REPOSITORY}:{tag}", self.host)
    }

    /// Takes an image of an OCI layout, blobs as they are.
    pub(crate) fn take(&self, layout: &Path, tag: &str) -> Result<()> {
        let mut copy = command("skopeo", ["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]);
        copy.arg(format!("oci:{}:{tag}", layout.display()));
        timed(copy.arg(format!("docker://{}", self.reference(tag)))).map(drop)
    }

    /// Makes sure that the layers of an image, without those of the image it was made from, have these files, and that the
    /// first of them ends in that line.
    pub(super) fn check_pushed(&self, tag: &str, files: &[PathBuf], line: &str) -> Result<()> {
        let known: HashSet<String> = self.layers(SECOND)?.into_iter().collect();
        let new: Vec<PathBuf> = self
            .layers(tag)?
            .iter()
            .filter(|digest| !known.contains(*digest))
            .map(|digest| self.blob(digest))
            .collect();
        let mut names = HashSet::new();
        for blob in &new {
            let text = output(command("tar", ["--list", "--file"]).arg(blob))?;
            names.extend(text.lines().map(|name| PathBuf::from(name.trim_start_matches("./"))));
        }
        if let Some(path) = files.iter().find(|path| !names.contains(*path)) {
            let message = format!("{path:?} was written to and is not in what was pushed as {tag}");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        let Some(first) = files.first() else { return Ok(()) };
        let ends = new.iter().any(|blob| {
            ["", "./"].iter().any(|before| {
                let name = format!("{before}{}", first.display());
                let content =
                    output(command("tar", ["--extract", "--to-stdout", "--file"]).arg(blob).arg(name));
                content.is_ok_and(|content| content.ends_with(line))
            })
        });
        if ends {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Corrupt, format!("{first:?} as pushed in {tag} is not what was written")))
    }

    fn layers(&self, tag: &str) -> Result<Vec<String>> {
        let mut inspect = command("skopeo", ["inspect", "--raw", "--tls-verify=false"]);
        let text = output(inspect.arg(format!("docker://{}", self.reference(tag))))?;
        let manifest: Value = serde_json::from_str(&text)
            .map_err(|error| Error::new(ErrorKind::Corrupt, format!("the manifest of {tag}: {error}")))?;
        let layers = manifest["layers"].as_array().into_iter().flatten();
        Ok(layers.filter_map(|layer| layer["digest"].as_str()).map(str::to_owned).collect())
    }

    /// Returns where the registry's file system driver keeps a blob.
    fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        let blobs = self.data.join("docker/registry/v2/blobs/sha256");
        blobs.join(hex.get(..2).unwrap_or_default()).join(hex).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Best effort: it has nothing to lose.
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn serve(configuration: &Path) -> Result<Child> {
    for program in PROGRAMS {
        let mut serve = Command::new(program);
        serve.arg("serve").arg(configuration);
        match serve.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            started => return started.context(|| format!("execve({program:?})")),
        }
    }
    let error = Error::new(ErrorKind::NotFound, format!("{} is not installed", PROGRAMS[0]));
    Err(error.hint("install what the tests need: bench/scripts/deps test"))
}

fn answers(port: u16, server: &mut Child) -> bool {
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end && matches!(server.try_wait(), Ok(None)) {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}
