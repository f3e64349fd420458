//! Debian's docker-registry on a free port of loopback, in several dresses.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::tokens::TokenServer;
use crate::environment::skip;
use crate::lab::find;

/// `alice` with the password `wonderland`, by `htpasswd -nbB -C 4`.
const HTPASSWD: &str = "alice:$2y$04$ciX/QTVqkRteAg.o.aN7qOsiOkrBSCh3lH9dk44Q.2WoXu.krrp0G\n";

/// A registry that ends with its value.
pub(crate) struct Registry {
    /// `127.0.0.1:PORT`.
    pub(crate) host: String,
    directory: TempDir,
    server: Child,
    /// Gives tokens, where the registry wants such.
    pub(crate) tokens: Option<TokenServer>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It has nothing to lose.
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

impl Registry {
    /// http, open to all.
    pub(crate) fn plain() -> Option<Self> {
        let program = program()?;
        Some(Self::start(program, TempDir::new().unwrap(), "", "", None))
    }

    /// https by a certificate of an authority of the test's own; lets in alice.
    pub(crate) fn with_password() -> Option<Self> {
        let program = program()?;
        let directory = TempDir::new().unwrap();
        make_certificates(directory.path());
        fs::write(directory.path().join("htpasswd"), HTPASSWD).unwrap();
        let auth = format!(
            "auth:\n  htpasswd:\n    realm: test\n    path: {}/htpasswd\n",
            directory.path().display()
        );
        let tls = tls(directory.path());
        Some(Self::start(program, directory, &tls, &auth, None))
    }

    /// https, and lets in who shows a certificate of the same authority.
    pub(crate) fn with_client_certificates() -> Option<Self> {
        let program = program()?;
        let directory = TempDir::new().unwrap();
        make_certificates(directory.path());
        let tls = format!(
            "{}    clientcas:\n      - {}/ca.crt\n",
            tls(directory.path()),
            directory.path().display()
        );
        Some(Self::start(program, directory, &tls, "", None))
    }

    /// http, with tokens of a server beside it.
    pub(crate) fn with_tokens() -> Option<Self> {
        let program = program()?;
        let directory = TempDir::new().unwrap();
        let tokens = TokenServer::start(directory.path());
        let auth = format!(
            "auth:\n  token:\n    realm: http://{}/token\n    service: test registry\n    issuer: test\n    rootcertbundle: {}/token.crt\n",
            tokens.host,
            directory.path().display()
        );
        Some(Self::start(program, directory, "", &auth, Some(tokens)))
    }

    /// Returns the certificate of who signed the server's.
    pub(crate) fn authority(&self) -> PathBuf {
        self.certificates().join("ca.crt")
    }

    /// Returns a directory as `certs.d` has one for each host.
    pub(crate) fn certificates(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    fn start(program: &str, directory: TempDir, tls: &str, auth: &str, tokens: Option<TokenServer>) -> Self {
        // Between our trying a port and its use somebody else may take it.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let root = directory.path().display();
            let configuration = format!(
                "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {root}/data\n  delete:\n    enabled: true\nhttp:\n  addr: 127.0.0.1:{port}\n{tls}{auth}"
            );
            let file = directory.path().join("config.yml");
            fs::write(&file, configuration).unwrap();
            let mut server = Command::new(program)
                .arg("serve")
                .arg(&file)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(fs::File::create(directory.path().join("log")).unwrap())
                .spawn()
                .unwrap();
            if answers(port, &mut server) {
                return Self { host: format!("127.0.0.1:{port}"), directory, server, tokens };
            }
            drop(server.kill());
            drop(server.wait());
        }
        let log = fs::read_to_string(directory.path().join("log")).unwrap_or_default();
        panic!("docker-registry does not start: {log}");
    }
}

/// Returns docker's registry as this distribution calls it; without it, or what else these tests run, they are skipped.
fn program() -> Option<&'static str> {
    let found = ["docker-registry", "registry"].into_iter().find(|name| find(name).is_some());
    let missing = ["skopeo", "openssl"].into_iter().find(|name| find(name).is_none());
    match (found, missing) {
        (None, _) => skip("docker-registry is not installed"),
        (_, Some(missing)) => skip(&format!("{missing} is not installed")),
        (Some(found), None) => return Some(found),
    }
    None
}

fn answers(port: u16, server: &mut Child) -> bool {
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end && server.try_wait().unwrap().is_none() {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

fn tls(directory: &Path) -> String {
    let directory = directory.display();
    format!("  tls:\n    certificate: {directory}/server.pem\n    key: {directory}/server.secret\n")
}

pub(super) fn openssl(directory: &Path, arguments: &str) {
    let output =
        Command::new("openssl").args(arguments.split_whitespace()).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority, and certificates of it for the server and for a client.
fn make_certificates(directory: &Path) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    openssl(directory, &format!("req -x509 {key} -subj /CN=authority -keyout ca.secret -out ca.crt"));
    fs::write(
        directory.join("server.ext"),
        "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth\n",
    )
    .unwrap();
    fs::write(directory.join("client.ext"), "extendedKeyUsage=clientAuth\n").unwrap();
    for (name, certificate, secret) in
        [("server", "server.pem", "server.secret"), ("client", "client.cert", "client.key")]
    {
        openssl(
            directory,
            &format!("req {} -subj /CN={name} -keyout {secret} -out {name}.csr", key.replace("-days 2", "")),
        );
        openssl(
            directory,
            &format!(
                "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.secret -CAcreateserial -days 2 -extfile {name}.ext -out {certificate}"
            ),
        );
    }
}
