//! A server that a test starts, and a client that says exactly what the test wants.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::Duration;

use rootling::image::Digest;
use serde_json::{Value, json};

use crate::environment::Environment;

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A server on a free port; it is killed with its value.
pub(crate) struct Server {
    pub(crate) address: String,
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    lines: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn line(&self, name: &str) -> Option<&str> {
        self.lines.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }

    /// The code of an error in the specification's form.
    pub(crate) fn code(&self) -> String {
        self.json()["errors"][0]["code"].as_str().expect("an error has a code").to_owned()
    }
}

impl Server {
    pub(crate) fn start(environment: &Environment, arguments: &[&str]) -> Self {
        Self::start_with(environment, arguments, &[])
    }

    /// Starts it with variables of its own.
    pub(crate) fn start_with(
        environment: &Environment,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let mut command = environment.command();
        command.args(["serve", "--listen", "127.0.0.1:0"]).args(arguments).envs(variables.iter().copied());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut heard = String::new();
        let address = loop {
            let mut line = String::new();
            assert!(said.read_line(&mut line).unwrap() > 0, "it does not serve: {heard}");
            if let Some((_, rest)) = line.split_once("://") {
                break rest.split(',').next().unwrap().trim().to_owned();
            }
            heard.push_str(&line);
        };
        // Somebody has to read what it says of each request.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Self { address, child }
    }

    /// Asks it to end, and returns how it did.
    pub(crate) fn end(mut self) -> std::process::ExitStatus {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.child.wait().unwrap()
    }

    /// Waits until it was killed.
    pub(crate) fn killed(&mut self) {
        assert!(!self.child.wait().unwrap().success());
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    /// Sends bytes as they are and reads all that comes back.
    pub(crate) fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut said = Vec::new();
        // A server that refuses may close before it has read all.
        drop(stream.read_to_end(&mut said));
        String::from_utf8_lossy(&said).into_owned()
    }

    /// One request on a connection of its own.
    pub(crate) fn ask(&self, method: &str, path: &str, lines: &[(&str, &str)], body: &[u8]) -> Reply {
        self.try_ask(method, path, lines, body).expect("it answers")
    }

    pub(crate) fn try_ask(
        &self,
        method: &str,
        path: &str,
        lines: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Reply> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        for (name, value) in lines {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let is_chunked = lines.iter().any(|(name, _)| *name == "Transfer-Encoding");
        if !is_chunked && method != "GET" && method != "HEAD" {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        // A refusal may come before all is sent.
        drop(stream.write_all(body));
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let end = end.ok_or(std::io::ErrorKind::UnexpectedEof)?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let lines = lines.map(|line| line.split_once(": ").unwrap());
        let lines = lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Ok(Reply { status, lines, body: bytes[end + 4..].to_vec() })
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, &[], b"")
    }

    pub(crate) fn head(&self, path: &str) -> Reply {
        self.ask("HEAD", path, &[], b"")
    }

    pub(crate) fn delete(&self, path: &str) -> Reply {
        self.ask("DELETE", path, &[], b"")
    }

    /// Begins an upload and returns where it is.
    pub(crate) fn begin(&self, repository: &str) -> String {
        let reply = self.ask("POST", &format!("/v2/{repository}/blobs/uploads/"), &[], b"");
        assert_eq!(reply.status, 202, "{reply:?}");
        reply.line("Location").unwrap().to_owned()
    }

    /// Pushes a blob in two requests.
    pub(crate) fn push_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256_of(bytes);
        let place = self.begin(repository);
        let reply = self.ask("PUT", &format!("{place}?digest={digest}"), &[], bytes);
        assert_eq!(reply.status, 201, "{reply:?}");
        digest
    }

    pub(crate) fn push_manifest(&self, repository: &str, reference: &str, manifest: &Value) -> Reply {
        let media_type = manifest["mediaType"].as_str().unwrap();
        let path = format!("/v2/{repository}/manifests/{reference}");
        self.ask("PUT", &path, &[("Content-Type", media_type)], manifest.to_string().as_bytes())
    }

    /// Pushes an image of one layer, and returns its manifest.
    pub(crate) fn push_image(&self, repository: &str, tag: &str, layer: &[u8]) -> Value {
        let manifest = image(layer);
        self.push_blob(repository, layer);
        self.push_blob(repository, &config(layer));
        let reply = self.push_manifest(repository, tag, &manifest);
        assert_eq!(reply.status, 201, "{reply:?}");
        manifest
    }
}

/// Bytes that look like nothing.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |state: &mut u64| {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| step(&mut state)).collect()
}

/// The configuration of an image of one layer, a tar that is not packed.
pub(crate) fn config(layer: &[u8]) -> Vec<u8> {
    let diff_ids = [Digest::sha256_of(layer)];
    let rootfs = json!({ "type": "layers", "diff_ids": diff_ids });
    json!({ "architecture": "amd64", "os": "linux", "rootfs": rootfs }).to_string().into_bytes()
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::sha256_of(bytes), "size": bytes.len() })
}

pub(crate) fn image(layer: &[u8]) -> Value {
    let config = descriptor(CONFIG, &config(layer));
    json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [descriptor(LAYER, layer)] })
}

pub(crate) fn digest_of(document: &Value) -> Digest {
    Digest::sha256_of(document.to_string().as_bytes())
}
