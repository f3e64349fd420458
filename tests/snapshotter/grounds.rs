//! Servers on real file systems, with each backend that works there.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::client::Client;
use crate::environment::Environment;
use crate::grounds::on_file_systems;
use crate::host::FileSystem;

/// A server that a test has started; it is killed with its value.
pub(crate) struct Server {
    pub(crate) address: PathBuf,
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Server {
    pub(crate) fn start(environment: &Environment, arguments: &[&str]) -> Self {
        let mut command = environment.command();
        let address = environment.path("run/s.sock");
        command.arg("snapshotter").arg("--address").arg(&address).args(arguments);
        Self::of(command, address)
    }

    /// Starts a command, and waits until it serves.
    pub(crate) fn of(mut command: Command, address: PathBuf) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let said = Arc::new(Mutex::new(String::new()));
        loop {
            let mut line = String::new();
            let read = lines.read_line(&mut line).unwrap();
            said.lock().unwrap().push_str(&line);
            assert!(read > 0, "it does not serve: {}", said.lock().unwrap());
            if line.starts_with("serving ") {
                break;
            }
        }
        let into = said.clone();
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                into.lock().unwrap().push_str(&format!("{line}\n"));
            }
        });
        Self { address, child, said }
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.address)
    }

    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Ends it, as a crash would.
    pub(crate) fn kill(&mut self) {
        // Best effort: it may have ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// The most memory that it ever had, in KiB.
    pub(crate) fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Asks it to end, and sees that it does so well.
    pub(crate) fn end(mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.wait();
        assert!(status.success(), "{status:?}: {}", self.said());
        assert!(!self.address.exists());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a case works with.
pub(crate) struct Ground<'a> {
    pub(crate) environment: &'a Environment,
    pub(crate) server: &'a Server,
    pub(crate) client: Client,
    pub(crate) backend: &'static str,
    pub(crate) work: PathBuf,
    next: AtomicUsize,
}

impl Ground<'_> {
    /// A name that no other case has.
    pub(crate) fn fresh(&self, what: &str) -> String {
        format!("{}/{what} {}", self.work.display(), self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// A directory that no other case has, not made yet.
    pub(crate) fn place(&self) -> PathBuf {
        self.work.join(format!("at-{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }

    /// Does OverlayFS show what is written to?
    pub(crate) fn stacks(&self) -> bool {
        self.backend == "overlay"
    }
}

/// The backends that are tested on a file system.
pub(crate) fn backends(sort: FileSystem) -> &'static [&'static str] {
    match sort {
        FileSystem::Btrfs => &["btrfs", "overlay"],
        FileSystem::Xfs => &["reflink", "overlay"],
        _ => &["copy", "overlay"],
    }
}

/// What is tried, by its name.
pub(crate) type Case = (&'static str, fn(&Ground<'_>));

/// Runs cases with a server of each backend on each file system; afterwards everything can be removed, and nothing is left.
pub(crate) fn on_servers(cases: &[Case]) {
    on_file_systems(|environment, sort| {
        for backend in backends(sort) {
            let server = Server::start(environment, &["--backend", backend]);
            let work = environment.path(&format!("work-{backend}"));
            std::fs::create_dir_all(&work).unwrap();
            let (client, next) = (server.client(), AtomicUsize::new(0));
            let ground = Ground { environment, server: &server, client, backend, work, next };
            for (name, case) in cases {
                let run = std::panic::AssertUnwindSafe(|| case(&ground));
                if std::panic::catch_unwind(run).is_err() {
                    panic!("{name} with {backend} on {sort}; the server said: {}", server.said());
                }
            }
            ground.client.remove_all();
            ground.client.cleanup().unwrap();
            drop(ground);
            server.end();
            assert_nothing_left(environment);
        }
    });
}

/// Neither keys nor trees are in the store, and fsck agrees.
#[track_caller]
pub(crate) fn assert_nothing_left(environment: &Environment) {
    for directory in ["held", "o", "trash", "tmp", "n"] {
        let left: Vec<_> = list(&environment.store().join(directory));
        assert!(left.is_empty(), "{directory}: {left:?}");
    }
    environment.ok(["fsck"]);
}

fn list(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}
