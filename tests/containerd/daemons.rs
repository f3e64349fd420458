//! containerd and `rootling snapshotter`: started, killed, started again at the same place.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::environment::{BINARY, Environment, Ran, ran};

/// Sockets, in the `/run` that is the test's own: a path of a socket has 108 bytes.
pub(super) const OUR_SOCKET: &str = "/run/rootling-test/snapshotter.sock";
pub(super) const SOCKET: &str = "/run/rootling-test/containerd.sock";

/// How long a daemon may take to start, and a command to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon, which ends with its value.
struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts it and waits until it listens.
    fn start(mut command: Command, log: &Path, socket: &str) -> Self {
        fs::create_dir_all("/run/rootling-test").unwrap();
        let file = File::options().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let child = command.spawn().unwrap();
        let mut daemon = Self { child, log: log.to_owned() };
        let start = Instant::now();
        while UnixStream::connect(socket).is_err() {
            let ended = daemon.child.try_wait().unwrap();
            assert!(
                ended.is_none() && start.elapsed() < PATIENCE,
                "{:?} does not start ({ended:?}): {}",
                command.get_program(),
                daemon.said()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        daemon
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let id = i32::try_from(self.child.id()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), signal).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // What it would lose is what tests of kills look at.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// `rootling snapshotter` on the store of an environment.
pub(super) struct Snapshotter {
    daemon: Option<Daemon>,
    store: PathBuf,
    log: PathBuf,
    flags: Vec<String>,
}

impl Snapshotter {
    pub(super) fn start(environment: &Environment, flags: &[&str]) -> Self {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let (store, log) = (environment.store(), environment.path("snapshotter.log"));
        let mut snapshotter = Self { daemon: None, store, log, flags };
        snapshotter.start_again();
        snapshotter
    }

    /// Starts it, if need be after its end.
    pub(super) fn start_again(&mut self) {
        let mut command = Command::new(BINARY);
        command.args(["snapshotter", "--address", OUR_SOCKET]).args(&self.flags);
        command.env("ROOTLING_ROOT", &self.store).env("ROOTLING_NET", "host").env_remove("ROOTLING_FAULT");
        // A socket of one that was killed is in nobody's way.
        self.daemon = Some(Daemon::start(command, &self.log, OUR_SOCKET));
    }

    /// Ends it as the kernel does when memory runs out.
    pub(super) fn kill(&mut self) {
        self.daemon = None;
    }

    /// Asks it to end, and returns with what code it did.
    pub(super) fn stop(&mut self) -> Option<i32> {
        let mut daemon = self.daemon.take().unwrap();
        daemon.signal(nix::sys::signal::Signal::SIGTERM);
        daemon.child.wait().unwrap().code()
    }
}

/// A containerd of our own.
pub(super) struct Containerd {
    daemon: Option<Daemon>,
    pub(super) directory: PathBuf,
    /// Which snapshotter is meant where one has to be named.
    pub(super) snapshotter: String,
    /// The namespace that commands are about.
    pub(super) namespace: String,
    config: PathBuf,
}

impl Containerd {
    pub(super) fn start(directory: &Path, snapshotter: &str, namespace: &str) -> Self {
        Self::start_with(
            directory,
            snapshotter,
            namespace,
            "disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n",
            "",
        )
    }

    /// Starts it with lines of a configuration of its own, before and after the rest.
    pub(super) fn start_with(
        directory: &Path,
        snapshotter: &str,
        namespace: &str,
        first: &str,
        more: &str,
    ) -> Self {
        fs::create_dir_all(directory).unwrap();
        let config = directory.join("config.toml");
        let root = directory.join("root");
        let text = format!(
            "version = 2\nroot = {root:?}\nstate = \"/run/rootling-test/state\"\n{first}[grpc]\naddress = {SOCKET:?}\n[ttrpc]\n\
             address = \"/run/rootling-test/ttrpc.sock\"\n[proxy_plugins.rootling]\ntype = \"snapshot\"\naddress = {OUR_SOCKET:?}\n{more}"
        );
        fs::write(&config, text).unwrap();
        let mut containerd = Self {
            daemon: None,
            directory: directory.to_owned(),
            snapshotter: snapshotter.to_owned(),
            namespace: namespace.to_owned(),
            config,
        };
        containerd.start_again();
        containerd
    }

    pub(super) fn start_again(&mut self) {
        let mut command = Command::new("containerd");
        command.arg("--config").arg(&self.config);
        self.daemon = Some(Daemon::start(command, &self.directory.join("log"), SOCKET));
        let start = Instant::now();
        // It listens before it answers.
        while self.ctr(&["version"]).code != 0 {
            assert!(start.elapsed() < PATIENCE, "containerd does not answer: {}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(super) fn kill(&mut self) {
        self.daemon = None;
    }

    pub(super) fn said(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Returns what talks to whoever listens in its place.
    pub(super) fn client(&self) -> Self {
        Self {
            daemon: None,
            directory: self.directory.clone(),
            snapshotter: self.snapshotter.clone(),
            namespace: self.namespace.clone(),
            config: self.config.clone(),
        }
    }

    /// Returns a command of `ctr` in a namespace of containerd.
    pub(super) fn command(&self, namespace: &str, words: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.args(["--address", SOCKET, "--namespace", namespace]).args(words).stdin(Stdio::null());
        command
    }

    pub(super) fn ctr(&self, words: &[&str]) -> Ran {
        ran(self.command(&self.namespace, words).output().unwrap())
    }

    /// Runs what must succeed; returns its standard output.
    pub(super) fn ok(&self, words: &[&str]) -> String {
        let ran = self.ctr(words);
        assert_eq!(ran.code, 0, "ctr {words:?}: {}{}", ran.stdout, ran.stderr);
        ran.stdout
    }

    /// Runs what must fail; returns its standard error.
    pub(super) fn fails(&self, words: &[&str]) -> String {
        let ran = self.ctr(words);
        assert_ne!(ran.code, 0, "ctr {words:?} succeeded: {}", ran.stdout);
        ran.stderr
    }
}
