//! What runs: left running, listed, read, visited, ended; and the terminal in front of it. All through the built binary.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;

use crate::environment::{BINARY, Environment, is_root, ran, skip};

mod attacks;
mod life;
mod terminal;
mod words;

const TOOLS: [&str; 24] = [
    "sh", "ls", "cat", "true", "sleep", "id", "grep", "ps", "kill", "stty", "tty", "echo", "env", "dd",
    "head", "tail", "mkdir", "touch", "pwd", "date", "wc", "md5sum", "yes", "seq",
];

/// A store with `base`, a tree of busybox; nothing that a test started outlives it.
pub(crate) struct Boxes {
    environment: Environment,
}

impl std::ops::Deref for Boxes {
    type Target = Environment;
    fn deref(&self) -> &Environment {
        &self.environment
    }
}

impl Boxes {
    /// `None`, and the reason, where boxes cannot be run.
    pub(crate) fn new() -> Option<Self> {
        if !is_root() {
            return None;
        }
        let Some(busybox) = busybox() else {
            skip("busybox is not installed");
            return None;
        };
        let environment = Environment::new();
        let root = environment.path("tree");
        for name in ["bin", "etc", "tmp", "proc", "sys", "dev"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nme:x:1000:1000::/:/bin/sh\n").unwrap();
        fs::copy(busybox, root.join("bin/busybox")).unwrap();
        for tool in TOOLS {
            symlink("busybox", root.join("bin").join(tool)).unwrap();
        }
        fs::set_permissions(root.join("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
        environment.ok(["import", &format!("dir:{}", root.display()), "base"]);
        Some(Self { environment })
    }

    /// With a box called `dev` on it.
    pub(crate) fn with_dev() -> Option<Self> {
        let boxes = Self::new()?;
        boxes.ok(["create", "base", "dev"]);
        Some(boxes)
    }

    /// What `ps -a` knows of one.
    fn row(&self, name: &str) -> serde_json::Value {
        let rows = self.json(["ps", "-a"]);
        let row = rows.as_array().unwrap().iter().find(|row| row["name"] == name).cloned();
        row.unwrap_or(serde_json::Value::Null)
    }

    fn pid(&self, name: &str) -> i32 {
        i32::try_from(self.row(name)["pid"].as_i64().expect("it runs")).unwrap()
    }

    /// Who stands by what runs.
    fn supervisor(&self, name: &str) -> i32 {
        parent(parent(self.pid(name)))
    }

    fn slot(&self, name: &str) -> PathBuf {
        let id = self.row(name)["id"].as_str().unwrap().to_owned();
        let place = self.store().join("o").join(&id);
        if place.exists() { place } else { self.store().join("tmp").join(id) }
    }

    /// Waits until a log has what it should.
    fn logged(&self, name: &str, text: &str) {
        wait_until(&format!("{text:?} in the log of {name}"), || self.ok(["logs", name]).contains(text));
    }
}

impl Drop for Boxes {
    fn drop(&mut self) {
        // What a failed test left running; stopping is what is tested, so by hand.
        let store = self.store();
        for slot in ["o", "tmp"].iter().flat_map(|name| fs::read_dir(store.join(name)).into_iter().flatten())
        {
            let note = slot.ok().and_then(|slot| fs::read(slot.path().join("running.json")).ok());
            let note = note.and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok());
            let Some(pid) = note.filter(|note| note["ended"].is_null()).and_then(|note| note["pid"].as_i64())
            else {
                continue;
            };
            let pid = i32::try_from(pid).unwrap();
            let ours = fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty());
            if ours && parent_if_alive(pid).is_some_and(|init| init > 1) {
                kill(Pid::from_raw(parent(pid)), Signal::SIGKILL).ok();
            }
        }
    }
}

fn busybox() -> Option<PathBuf> {
    ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from).into_iter().find(|path| path.exists())
}

fn parent_if_alive(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

fn parent(pid: i32) -> i32 {
    parent_if_alive(pid).unwrap_or_else(|| panic!("process {pid} has ended"))
}

fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(30), "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A process that does not outlive a failed test.
pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Does nothing to a process that was waited for.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Killed {
    pub(crate) fn code(&mut self) -> i32 {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                use std::os::unix::process::ExitStatusExt;
                return status.code().unwrap_or_else(|| 128 + status.signal().unwrap());
            }
            assert!(start.elapsed() < Duration::from_secs(30), "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).unwrap();
    }
}

/// The program at a terminal of 33 rows and 77 columns, which is its controlling one.
pub(crate) struct Session {
    pub(crate) child: Killed,
    master: fs::File,
    slave: OwnedFd,
    seen: Vec<u8>,
}

impl Session {
    pub(crate) fn start(boxes: &Boxes, arguments: &[&str]) -> Self {
        let mut command = boxes.command();
        command.args(arguments);
        Self::spawn(command)
    }

    fn spawn(command: Command) -> Self {
        let size = Winsize { ws_row: 33, ws_col: 77, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        let end = || Stdio::from(pty.slave.as_fd().try_clone_to_owned().unwrap());
        let mut command = leader(&command);
        command.stdin(end()).stdout(end()).stderr(end());
        let child = Killed(command.spawn().unwrap());
        // The one that is kept is for looking at the settings.
        Self { child, master: pty.master.into(), slave: pty.slave, seen: Vec::new() }
    }

    pub(crate) fn expect(&mut self, text: &str) {
        let start = Instant::now();
        while !self.text().contains(text) {
            assert!(start.elapsed() < Duration::from_secs(30), "{text:?} never came, only {:?}", self.text());
            self.read();
        }
        let end = find(&self.seen, text.as_bytes()).unwrap() + text.len();
        self.seen.drain(..end);
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// Reads what is there, for a tenth of a second at the most.
    fn read(&mut self) -> usize {
        let mut files = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        if poll(&mut files, PollTimeout::from(100_u8)).unwrap() == 0 {
            return 0;
        }
        let mut buffer = [0; 65536];
        let length = self.master.read(&mut buffer).unwrap_or(0);
        self.seen.extend(&buffer[..length]);
        length
    }

    pub(crate) fn type_in(&mut self, bytes: &[u8]) {
        self.master.write_all(bytes).unwrap();
    }

    /// Does the terminal edit lines and echo, as a shell wants it?
    pub(crate) fn is_cooked(&self) -> bool {
        let flags = tcgetattr(&self.slave).unwrap().local_flags;
        flags.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    fn resize(&self, rows: u16, columns: u16) {
        let script = format!("stty rows {rows} cols {columns}");
        let stdin = Stdio::from(self.slave.try_clone().unwrap());
        assert!(Command::new("sh").args(["-c", &script]).stdin(stdin).status().unwrap().success());
    }
}

fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text)
}

/// The same program as the leader of a session whose terminal is its standard input: setsid(1) does in the child what would need
/// code of ours there.
fn leader(command: &Command) -> Command {
    let mut outer = Command::new("setsid");
    outer.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer
}
