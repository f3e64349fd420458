//! A virtual machine for what this machine's kernel is not set up for: Debian's cloud kernel under qemu, whose whole
//! user space is an archive that the test makes. It starts in about two seconds without hardware help, prints to
//! its serial line and switches itself off.
//!
//! The kernel's package is fetched once by `apt-get download` into the target directory, and not installed.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::environment::skip;

/// A machine that waits to be started.
pub(crate) struct Machine {
    kernel: PathBuf,
    modules: PathBuf,
    archive: Archive,
    init: String,
}

impl Machine {
    /// Finds or fetches what is needed; where there can be no machine, says why and returns `None`.
    pub(crate) fn new() -> Option<Self> {
        // Nothing that could be installed would help there, so that nobody can require it.
        let why = match is_in_path("apt-get") {
            _ if !cfg!(target_arch = "x86_64") => Some("the virtual machine is made for x86_64"),
            false => Some("the kernel of the virtual machine is a package of Debian's"),
            true => None,
        };
        if let Some(why) = why {
            say(&format!("SKIPPED: {why}"));
            return None;
        }
        Self::make().map_err(|why| skip(&why)).ok()
    }

    fn make() -> Result<Self, String> {
        for tool in ["qemu-system-x86_64", "dpkg-deb", "xz"] {
            if !is_in_path(tool) {
                return Err(format!("{tool} is not installed"));
            }
        }
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from);
        let busybox =
            busybox.into_iter().find(|path| path.exists()).ok_or("busybox-static is not installed")?;
        let root = kernel_package()?;
        let kernel = only_entry(&root.join("boot"), "vmlinuz-")?;
        let modules = only_entry(&root.join("lib/modules"), "")?.join("kernel");
        let mut archive = Archive::default();
        archive.file("bin/busybox", &fs::read(&busybox).map_err(|error| format!("{busybox:?}: {error}"))?);
        // A root that is mounted over the first one can be pivoted; the first one cannot.
        let init = "#!/bin/busybox sh\n\
            /bin/busybox --install -s /bin\nexport PATH=/bin\n\
            mkdir /new && mount --bind / /new && cd /new && mount --move . / && exec chroot . /bin/sh /second\n";
        archive.file("init", init.as_bytes());
        for directory in ["proc", "sys", "dev", "tmp"] {
            archive.directory(directory);
        }
        let init =
            "mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev\n".to_owned();
        Ok(Self { kernel, modules, archive, init })
    }

    /// Adds a program and the libraries that it needs.
    pub(crate) fn program(&mut self, path: &Path, name: &str) {
        self.archive.file(name, &fs::read(path).expect("the program is built"));
        let output = Command::new("ldd").arg(path).output().expect("ldd comes with the C library");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for library in text.split_whitespace().filter(|word| word.starts_with('/')) {
            self.archive.file(library, &fs::read(library).expect("ldd found it"));
        }
    }

    /// Adds a module of the kernel, and loads it when the machine starts.
    pub(crate) fn module(&mut self, path: &str) {
        let name = path.rsplit('/').next().expect("split has a last part");
        let plain = self.modules.join(path);
        let packed = self.modules.join(format!("{path}.xz"));
        let bytes = fs::read(&plain).or_else(|_| {
            let output = Command::new("xz").arg("-dc").arg(&packed).output()?;
            Ok::<_, std::io::Error>(output.stdout)
        });
        self.archive.file(name, &bytes.expect("the kernel has the module"));
        self.script(&format!("insmod /{name}\n"));
    }

    /// Adds a file that can be executed.
    pub(crate) fn file(&mut self, name: &str, content: &str) {
        self.archive.file(name, content.as_bytes());
    }

    /// Adds lines of shell to what the machine does.
    pub(crate) fn script(&mut self, lines: &str) {
        self.init.push_str(lines);
    }

    /// Starts it, and returns what it printed when it has switched itself off.
    ///
    /// On a busy host the emulator loses a timer's interrupt now and then, and one of its processors stands still for good: such a
    /// run says nothing of what was to be tested, so there is another.
    pub(crate) fn run(mut self) -> String {
        self.init.push_str("\necho \"## END OF SCRIPT\"\npoweroff -f\n");
        let init = std::mem::take(&mut self.init);
        self.archive.file("second", init.as_bytes());
        let dir = tempfile::tempdir().expect("a temporary directory");
        let initrd = dir.path().join("initrd");
        let archive = std::mem::take(&mut self.archive);
        fs::write(&initrd, archive.finish()).expect("the archive is written");
        for _ in 0..2 {
            let text = self.run_once(&initrd);
            if !text.contains(STALLED) {
                return text;
            }
            say(&format!("the emulator stood still, once more:\n{text}"));
        }
        self.run_once(&initrd)
    }

    fn run_once(&self, initrd: &Path) -> String {
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"])
            .args(["-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "768"])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(initrd)
            .args([
                "-append",
                "console=ttyS0 quiet panic=-1 mitigations=off sysctl.kernel.panic_on_rcu_stall=1",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut qemu = command.spawn().expect("qemu starts");
        let mut stdout = qemu.stdout.take().expect("piped");
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            stdout.read_to_end(&mut bytes).expect("the serial line");
            String::from_utf8_lossy(&bytes).replace('\r', "")
        });
        let start = Instant::now();
        let status = loop {
            if let Some(status) = qemu.try_wait().expect("qemu is ours") {
                break Some(status);
            }
            // It needs a tenth of that on an idle machine.
            if start.elapsed() > Duration::from_secs(300) {
                qemu.kill().expect("qemu is ours");
                qemu.wait().expect("qemu is ours");
                break None;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let text = reader.join().expect("it only reads");
        let mut said = String::new();
        qemu.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        assert!(status.is_some(), "the machine does not end; it printed:\n{text}{said}");
        let ended = text.contains("END OF SCRIPT") || text.contains(STALLED);
        assert!(ended, "the machine did not get to its end:\n{text}{said}");
        text
    }
}

/// What the kernel says of a processor that stands still, before it panics because of that.
const STALLED: &str = "rcu: INFO: rcu_";

#[expect(clippy::print_stderr, reason = "a skipped test says why")]
fn say(text: &str) {
    eprintln!("{text}");
}

/// Unpacks the newest cloud kernel of this Debian into the target directory, once.
fn kernel_package() -> Result<PathBuf, String> {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cloud-kernel");
    let unpacked = cache.join("root");
    if unpacked.exists() {
        return Ok(unpacked);
    }
    let output = Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]).output();
    let output = output.map_err(|error| format!("apt-cache: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let package = text.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    let package = package.ok_or("there is no package linux-image-cloud-amd64 here (only Debian has it)")?;
    fs::create_dir_all(&cache).map_err(|error| format!("{cache:?}: {error}"))?;
    let scratch = tempfile::tempdir_in(&cache).map_err(|error| format!("{cache:?}: {error}"))?;
    let downloaded = Command::new("apt-get")
        .args(["-q", "-o", "APT::Sandbox::User=root", "download", package])
        .current_dir(scratch.path())
        .output()
        .map_err(|error| format!("apt-get: {error}"))?;
    let archive = only_entry(scratch.path(), "linux-image-").map_err(|_| {
        format!("apt-get download {package} failed: {}", String::from_utf8_lossy(&downloaded.stderr).trim())
    })?;
    let root = scratch.path().join("root");
    let status = Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&root).status();
    if !status.is_ok_and(|status| status.success()) {
        return Err(format!("{archive:?} cannot be unpacked"));
    }
    // Another test may have been as fast: then theirs is as good.
    if let Err(error) = fs::rename(&root, &unpacked)
        && !unpacked.exists()
    {
        return Err(format!("rename to {unpacked:?}: {error}"));
    }
    Ok(unpacked)
}

fn only_entry(directory: &Path, prefix: &str) -> Result<PathBuf, String> {
    let entries = fs::read_dir(directory).map_err(|error| format!("{directory:?}: {error}"))?;
    let mut entries =
        entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    entries.next().map(|entry| entry.path()).ok_or_else(|| format!("{directory:?} has no {prefix}..."))
}

fn is_in_path(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let executable = |file: PathBuf| {
        fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(&path).any(|directory| executable(directory.join(tool)))
}

/// An archive in the kernel's format for its first root: cpio "newc"
/// (Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    names: Vec<String>,
}

impl Archive {
    /// A file that can be executed; the second of one name is left out.
    fn file(&mut self, name: &str, content: &[u8]) {
        let name = name.trim_start_matches('/');
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.directory(parent);
        }
        self.entry(name, 0o100_755, content);
    }

    fn directory(&mut self, name: &str) {
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.directory(parent);
        }
        self.entry(name, 0o040_755, b"");
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        if self.names.iter().any(|known| known == name) {
            return;
        }
        self.names.push(name.to_owned());
        let number = self.names.len();
        let (size, length) = (content.len(), name.len() + 1);
        // magic, inode, mode, uid, gid, links, mtime, size, device and special device (two numbers each), name, check
        let fields = [number, mode as usize, 0, 0, 1, 0, size, 0, 0, 0, 0, length, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        let length = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(length, 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, b"");
        self.bytes
    }
}
