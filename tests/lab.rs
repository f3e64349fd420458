//! A host that a test has to itself, as far as networks go: a network namespace with one interface, behind which lies another
//! namespace, the *world*. Nothing of it is seen outside, and all of it goes with the thread that made it.
//!
//! ```text
//!   a box        | the host (H)                          | the world (W)
//!   10.200.236.x | rootling0 ... up0 203.0.113.2 --------|-- eth0 203.0.113.1
//! ```
//!
//! `/run` is the test's own too, because that is where rootling keeps its locks.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use crate::environment::{BINARY, Environment, Ran, is_root, ran, skip};

pub(crate) const WORLD: &str = "203.0.113.1";
pub(crate) const HOST: &str = "203.0.113.2";

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// The first of the users that rootless tests are run as: far from the ranges that other tests' users have, whose files lie in /tmp, too.
const FIRST_USER: u32 = 400_000_000;
/// The next user that a rootless test is run as: in no account file, so without a range of ids, and each test's own, because
/// tests look for what is theirs.
static NEXT_USER: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Lab {
    pub(crate) environment: Environment,
    pub(crate) world: OwnedFd,
    pub(crate) host: OwnedFd,
    pub(crate) user: u32,
}

/// Runs a test in a lab of its own, or says why it cannot run here.
pub(crate) fn in_lab(tools: &[&str], test: impl FnOnce(&Lab) + Send) {
    if !is_root() {
        return;
    }
    if let Some(tool) = ["ip"].iter().chain(tools).find(|tool| find(tool).is_none()) {
        return skip(&format!("{tool} is not installed"));
    }
    // A thread of its own: namespaces are a thread's, and libtest may use the thread again.
    let run = || {
        if let Some(lab) = Lab::new() {
            test(&lab);
        }
    };
    std::thread::scope(|scope| {
        if let Err(panic) = scope.spawn(run).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

pub(crate) fn find(tool: &str) -> Option<String> {
    let places = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    places.iter().map(|place| format!("{place}/{tool}")).find(|path| Path::new(path).exists())
}

fn current_net() -> OwnedFd {
    File::open("/proc/thread-self/ns/net").unwrap().into()
}

pub(crate) fn sh(script: &str) -> String {
    let ran = ran(Command::new("sh").args(["-euc", script]).stdin(Stdio::null()).output().unwrap());
    assert_eq!(ran.code, 0, "{script}: {}{}", ran.stdout, ran.stderr);
    ran.stdout
}

/// Waits until something holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "it never happened: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Lab {
    fn new() -> Option<Self> {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=0755")).unwrap();
        // resolv.conf is often a link into /run.
        fs::write("/run/resolv.conf", format!("nameserver {WORLD}\nsearch lab\n")).unwrap();
        let file = fs::canonicalize("/etc/resolv.conf").unwrap_or_else(|_| "/etc/resolv.conf".into());
        if file.exists() {
            mount(Some("/run/resolv.conf"), &file, none, MsFlags::MS_BIND, none).unwrap();
        }
        sh(&format!(
            "echo 0 > /proc/sys/net/ipv4/ip_forward
            ip netns add world; ip link set lo up; ip link add up0 type veth peer name eth0 netns world
            ip address add {HOST}/24 dev up0; ip link set up0 up; ip route add default via {WORLD}
            ip -n world link set lo up; ip -n world address add {WORLD}/24 dev eth0; ip -n world link set eth0 up"
        ));
        let world = File::open("/run/netns/world").unwrap().into();
        let user = FIRST_USER + std::process::id() % 10_000 * 32 + NEXT_USER.fetch_add(1, Ordering::Relaxed);
        let environment = Environment::new();
        fs::create_dir_all(environment.path("root/etc")).unwrap();
        fs::write(environment.path("root/etc/resolv.conf"), "").unwrap();
        environment.import_busybox().then_some(Self { environment, world, host: current_net(), user })
    }

    /// Runs something in another network namespace.
    pub(crate) fn at<T: Send>(&self, place: &OwnedFd, act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                setns(place, CloneFlags::CLONE_NEWNET).unwrap();
                act()
            });
            there.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A server that answers each connection with the address it comes from, on all addresses of a namespace.
    pub(crate) fn serve(&self, place: &OwnedFd, port: u16) {
        let listener = self.at(place, || TcpListener::bind(("0.0.0.0", port)).unwrap());
        // Ends with the test program; its namespace has no way out of the lab.
        std::thread::spawn(move || {
            while let Ok((mut stream, peer)) = listener.accept() {
                // The client asks and hangs up first, as with HTTP: pasta of 2023 loses what a server says as it closes.
                let asked = stream.read(&mut [0]);
                drop(asked.and_then(|_| stream.write_all(format!("{}\n", peer.ip()).as_bytes())));
                drop(stream.read(&mut [0]));
            }
        });
    }

    /// As [`serve`](Self::serve), for datagrams.
    pub(crate) fn serve_datagrams(&self, place: &OwnedFd, port: u16) {
        let socket = self.at(place, || UdpSocket::bind(("0.0.0.0", port)).unwrap());
        std::thread::spawn(move || {
            while let Ok((_, peer)) = socket.recv_from(&mut [0; 64]) {
                drop(socket.send_to(peer.ip().to_string().as_bytes(), peer));
            }
        });
    }

    /// The address that a server sees us at, when we connect from somewhere; `None` where nobody answers.
    pub(crate) fn seen_as(&self, from: &OwnedFd, address: &str, port: u16) -> Option<String> {
        let address = SocketAddr::new(address.parse::<IpAddr>().unwrap(), port);
        self.at(from, || {
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            stream.write_all(b"?").ok()?;
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).ok()?;
            Some(line.trim().to_owned()).filter(|text| !text.is_empty())
        })
    }

    /// As [`seen_as`](Self::seen_as), by a datagram.
    pub(crate) fn seen_as_by_datagram(&self, from: &OwnedFd, address: &str, port: u16) -> Option<String> {
        self.at(from, || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            socket.connect((address, port)).unwrap();
            socket.send(b"?").ok()?;
            let mut text = [0; 64];
            let length = socket.recv(&mut text).ok()?;
            Some(String::from_utf8_lossy(&text[..length]).into_owned())
        })
    }

    /// Takes a program away, for this lab.
    pub(crate) fn hide(&self, tool: &str) {
        for place in ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"] {
            let path = format!("{place}/{tool}");
            if Path::new(&path).is_file() {
                mount(Some("/dev/null"), path.as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>)
                    .unwrap();
            }
        }
    }

    /// The program, by whom it is run, with nothing said about networks.
    pub(crate) fn program(&self, who: Who) -> Command {
        let mut command = match who {
            Who::Root => self.environment.command(),
            Who::User => {
                let mut command = Command::new("setpriv");
                let id = self.user.to_string();
                command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "/run/user/rootling"]);
                command.env("ROOTLING_ROOT", "/run/user/store").env("HOME", "/run/user").stdin(Stdio::null());
                command.current_dir("/run/user");
                command
            }
        };
        command.env_remove("ROOTLING_NET");
        command
    }

    /// Runs it as it talks to a person.
    pub(crate) fn run_talking(&self, who: Who, arguments: &[&str]) -> Ran {
        ran(self.program(who).args(arguments).output().unwrap())
    }

    pub(crate) fn run(&self, who: Who, arguments: &[&str]) -> Ran {
        ran(self.program(who).arg("--quiet").args(arguments).output().unwrap())
    }

    pub(crate) fn ok(&self, who: Who, arguments: &[&str]) -> String {
        let ran = self.run(who, arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {}{}", ran.stdout, ran.stderr);
        ran.stdout
    }

    /// Makes a store for the user, and the device that its tools need: the node is the lab's own.
    pub(crate) fn invite_user(&self) -> bool {
        fs::create_dir("/run/user").unwrap();
        fs::copy(BINARY, "/run/user/rootling").unwrap();
        fs::set_permissions("/run/user/rootling", PermissionsExt::from_mode(0o755)).unwrap();
        chown("/run/user", Some(self.user), Some(self.user)).unwrap();
        sh(
            "{ test -e /dev/net/tun && mknod -m 666 /run/tun c 10 200 && mount --bind /run/tun /dev/net/tun; } || true",
        );
        if File::options().read(true).write(true).open("/dev/net/tun").is_err() {
            skip("/dev/net/tun cannot be opened");
            return false;
        }
        let root = self.environment.path("root");
        fs::set_permissions(self.environment.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        self.ok(Who::User, &["init"]);
        let imported = self.run(Who::User, &["import", &format!("dir:{}", root.display()), "base"]);
        if imported.code != 0 {
            skip(&format!("no user namespaces for ordinary users: {}", imported.stderr));
        }
        imported.code == 0
    }

    /// Starts a box that waits, and returns once its command runs.
    pub(crate) fn start(&self, who: Who, arguments: &[&str]) -> Waiting {
        let mut command = self.program(who);
        command.arg("--quiet").args(arguments).args(["--", "sh", "-c", "echo ready; exec cat"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        if line != "ready\n" {
            let mut error = String::new();
            child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
            panic!("{arguments:?} did not start: {error}");
        }
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        // The init is the child that has the box's network; a helper has the host's.
        let host = fs::read_link("/proc/thread-self/ns/net").unwrap();
        let net = fs::read_to_string(children).unwrap().split_whitespace().find_map(|pid| {
            let path = format!("/proc/{pid}/ns/net");
            (fs::read_link(&path).ok()? != host).then(|| OwnedFd::from(File::open(&path).unwrap()))
        });
        Waiting { child, net, _output: output }
    }
}

/// Who runs the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Root,
    User,
}

/// A box that waits until it is let go.
pub(crate) struct Waiting {
    child: Child,
    net: Option<OwnedFd>,
    _output: BufReader<std::process::ChildStdout>,
}

impl Waiting {
    /// The box's network namespace.
    pub(crate) fn net(&self) -> &OwnedFd {
        self.net.as_ref().expect("the box has a network of its own")
    }

    /// The processes that it was started with and by.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        children.split_whitespace().map(|pid| pid.parse().unwrap()).chain([id]).collect()
    }

    /// Ends the box as one ends it, and returns what was said.
    pub(crate) fn end(mut self) -> String {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        said
    }

    /// Ends the program that made it as the kernel does when memory runs out.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // Does nothing to a process that was waited for.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
