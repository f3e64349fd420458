//! Other people's programs: where they are, a script fed to one, and one that runs beside the box.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rootling_backends::{Context, Error, ErrorKind, Result};

/// Returns the path of a program: administrators' directories are searched too, which an ordinary `PATH` often lacks.
pub fn find_tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// Something a network needs and this host has not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lacking {
    /// What is missing.
    pub reason: String,
    /// One action that would help.
    pub fix: String,
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl Lacking {
    pub(super) fn new(reason: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { reason: reason.into(), fix: fix.into() }
    }

    pub(super) fn package(reason: &str, package: &str) -> Self {
        Self::new(reason, format!("install the package {package}"))
    }
}

impl From<Lacking> for Error {
    fn from(lacking: Lacking) -> Self {
        Self::new(ErrorKind::Unsupported, format!("no private network: {}", lacking.reason)).hint(lacking.fix)
    }
}

/// A command of its own process group, so that Ctrl-C in the terminal is the box's alone.
pub(super) fn command(tool: &Path) -> Command {
    let mut command = Command::new(tool);
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).env("LC_ALL", "C");
    command
}

/// Runs a program to its end with `script` as its input; what it says on standard error is the error.
pub(super) fn feed(tool: &Path, arguments: &[&str], script: &str) -> Result<()> {
    feed_to(command(tool).args(arguments), tool, script)
}

/// As [`feed`], to a command that is made already.
pub(super) fn feed_to(command: &mut Command, tool: &Path, script: &str) -> Result<()> {
    let mut input = memory_file("script")?;
    input.write_all(script.as_bytes()).and_then(|()| input.rewind()).context(|| "write(script)")?;
    let output = command.stdin(input).output().context(|| format!("start {tool:?}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(tool, &String::from_utf8_lossy(&output.stderr)))
}

/// Returns what a program prints.
pub(super) fn ask(tool: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = command(tool);
    let output =
        command.args(arguments).stdout(Stdio::piped()).output().context(|| format!("start {tool:?}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failed(tool, &String::from_utf8_lossy(&output.stderr)))
}

/// One line: what a program complained of.
fn failed(tool: &Path, stderr: &str) -> Error {
    let name = tool.file_name().unwrap_or_default().to_string_lossy();
    // pasta's own worry, where no system logger is.
    let tells = |line: &&str| !line.is_empty() && !line.ends_with("bytes to syslog");
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(tells).take(4).collect();
    let said = if lines.is_empty() { "it failed and does not say why".to_owned() } else { lines.join("; ") };
    Error::new(ErrorKind::Io, format!("{name}: {said}"))
}

/// A file without a name.
pub(super) fn memory_file(name: &str) -> Result<File> {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    memfd_create(name, MFdFlags::MFD_CLOEXEC).map(File::from).context(|| "memfd_create()")
}

/// A program that runs beside the box and ends with it, or with us, or with the thread that started it.
#[derive(Debug)]
pub(super) struct Beside {
    child: Child,
    /// What it says; in memory, so that nobody has to read for it to go on.
    said: File,
    tool: PathBuf,
    /// Did it come to serve the box?
    in_use: bool,
}

impl Beside {
    /// Starts it in a mount namespace of its own with `shelf` mounted at `/tmp`; `netns` is bound at `/tmp/netns`.
    ///
    /// By a path, because pasta gives up the capability to look at other processes before it opens the
    /// namespace, and closes what it was not told of; in a mount namespace of its own, because then nothing is
    /// left of the path however it ends.
    pub(super) fn start(tool: &Path, command: &mut Command, shelf: &Shelf, netns: OwnedFd) -> Result<Self> {
        let said = memory_file("stderr")?;
        let copy = said.try_clone().context(|| "dup(stderr)")?;
        let shelf = shelf.mount.try_clone().context(|| "dup(tmpfs)")?;
        let netns_path = format!("/proc/self/fd/{}\0", netns.as_raw_fd());
        let parent = std::process::id();
        let enclose = move || enclose(&shelf, &netns_path, parent);
        super::super::sys::before_exec(command, enclose);
        let child = command.stderr(copy).spawn().context(|| format!("start {tool:?}"));
        // Open until after the fork: the closure knows it by number.
        drop(netns);
        Ok(Self { child: child?, said, tool: tool.to_owned(), in_use: false })
    }

    /// From now on it is needed: that it ended before the box is said.
    pub(super) fn serves(mut self) -> Self {
        self.in_use = true;
        self
    }

    /// Returns the error of a program that ended while it was still needed.
    pub(super) fn ended(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            _ => Err(self.complaint()),
        }
    }

    /// What it said so far, as an error.
    pub(super) fn complaint(&mut self) -> Error {
        let mut text = Vec::new();
        // Best effort: without its words the error is shorter.
        drop(self.said.rewind().and_then(|()| self.said.read_to_end(&mut text)));
        failed(&self.tool, &String::from_utf8_lossy(&text))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if !std::thread::panicking() && self.in_use && self.ended().is_err() {
            log::warn!("the box had no network at the end: {}", self.complaint());
        }
        // Best effort: it may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Between fork and exec: system calls only.
fn enclose(shelf: &OwnedFd, netns_path: &str, parent: u32) -> std::io::Result<()> {
    use nix::mount::{MsFlags, mount};
    use std::ffi::CStr;
    let kill = nix::libc::SIGKILL;
    super::super::sys::prctl(nix::libc::PR_SET_PDEATHSIG, u64::from(kill.unsigned_abs()))?;
    if nix::unistd::getppid().as_raw().cast_unsigned() != parent {
        return Err(std::io::ErrorKind::NotFound.into());
    }
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    let none = None::<&CStr>;
    mount(none, c"/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    rootling_backends::sys::move_mount_to(std::os::fd::AsFd::as_fd(shelf), nix::fcntl::AT_FDCWD, c"/tmp")?;
    let netns = CStr::from_bytes_with_nul(netns_path.as_bytes()).unwrap_or(c"");
    mount(Some(netns), c"/tmp/netns", none, MsFlags::MS_BIND, none)?;
    Ok(())
}

/// An empty file system in memory that is mounted nowhere but in the namespaces of programs beside the box.
#[derive(Debug)]
pub(super) struct Shelf {
    mount: OwnedFd,
}

impl Shelf {
    /// Makes it, with an empty file `netns` in it. It goes with its last descriptor and mount.
    pub(super) fn new() -> Result<Self> {
        use rootling_backends::sys;
        use std::os::fd::AsFd;
        let context = sys::fsopen(c"tmpfs").context(|| "fsopen(tmpfs)")?;
        sys::fsconfig_string(context.as_fd(), c"mode", c"0700").context(|| "fsconfig(tmpfs, mode=0700)")?;
        sys::fsconfig_create(context.as_fd()).context(|| "fsconfig(tmpfs)")?;
        let mount = sys::fsmount(context.as_fd(), 0).context(|| "fsmount(tmpfs)")?;
        let shelf = Self { mount };
        File::create(shelf.path("netns")).context(|| "create(netns)")?;
        Ok(shelf)
    }

    /// Returns the path at which this process finds a file on it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        format!("/proc/self/fd/{}/{name}", self.mount.as_raw_fd()).into()
    }
}
