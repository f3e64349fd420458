//! A store of its own for each test, and the binary run on it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_rootling");

/// A scratch directory with a store in it and a small root file system to import.
pub(crate) struct Environment {
    pub(crate) dir: TempDir,
}

/// What a run of the program printed and returned.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Says that the running test cannot run here; with `ROOTLING_REQUIRE` set that is a failure.
#[expect(clippy::print_stderr, reason = "a skipped test says why")]
pub(crate) fn skip(why: &str) {
    let required = std::env::var("ROOTLING_REQUIRE").unwrap_or_default();
    assert!(required.is_empty(), "cannot run here and ROOTLING_REQUIRE={required} asks for it: {why}");
    eprintln!("SKIPPED: {why}");
}

/// May this process mount?
pub(crate) fn is_root() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    skip("needs root");
    false
}

impl Environment {
    /// A store without backend of its own choice.
    pub(crate) fn new() -> Self {
        Self::at(&std::env::temp_dir())
    }

    /// A store in a directory of its own below `place`.
    pub(crate) fn at(place: &Path) -> Self {
        let environment = Self { dir: tempfile::tempdir_in(place).expect("a temporary directory") };
        environment.ok(["init"]);
        environment
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// The program on this store, with nothing of the caller's environment that it would read.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(BINARY);
        command
            .env("ROOTLING_ROOT", self.store())
            .env("ROOTLING_NET", "host")
            .env_remove("ROOTLING_FAULT")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ran {
        ran(self.command().args(arguments).output().expect("the binary starts"))
    }

    /// Runs what must succeed; returns its standard output.
    pub(crate) fn ok<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
        ran.stdout
    }

    /// Runs what must fail; returns its standard error, with this environment's paths made nameless.
    pub(crate) fn fails<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        let ran = self.run(arguments);
        assert_ne!(ran.code, 0, "succeeded: {}{}", ran.stdout, ran.stderr);
        ran.stderr.replace(&*self.dir.path().to_string_lossy(), "DIR")
    }

    pub(crate) fn json<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> serde_json::Value {
        let mut command = self.command();
        let ran =
            ran(command.args(["--format", "json"]).args(arguments).output().expect("the binary starts"));
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        serde_json::from_str(&ran.stdout).expect("--format json prints JSON")
    }

    /// Makes `root/`, a root file system with a few files, and imports it as `base`.
    pub(crate) fn import_base(&self) {
        let root = self.path("root");
        for directory in ["etc", "usr/bin", "var/log", "tmp"] {
            fs::create_dir_all(root.join(directory)).expect("mkdir");
        }
        fs::write(root.join("etc/hostname"), "base\n").expect("write");
        fs::write(root.join("etc/motd"), "welcome\n").expect("write");
        fs::write(root.join("usr/bin/tool"), "#!/bin/sh\necho tool\n").expect("write");
        symlink("usr/bin", root.join("bin")).expect("symlink");
        with_usual_umask(&root);
        self.ok(["import", &format!("dir:{}", root.display()), "base"]);
    }

    /// Makes `root/`, a tree of busybox with users root and me, and imports it as `base`; false where that cannot be run here.
    pub(crate) fn import_busybox(&self) -> bool {
        self.import_busybox_as("base")
    }

    /// The same under another name.
    pub(crate) fn import_busybox_as(&self, name: &str) -> bool {
        let found = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
        let Some(busybox) = found else {
            skip("busybox-static is not installed");
            return false;
        };
        if !is_root() {
            return false;
        }
        let root = self.path("root");
        for directory in ["bin", "etc", "tmp", "proc", "sys", "dev", "root"] {
            fs::create_dir_all(root.join(directory)).expect("mkdir");
        }
        fs::copy(busybox, root.join("bin/busybox")).expect("copy");
        let applets = ran(Command::new(busybox).arg("--list").output().expect("busybox runs")).stdout;
        for applet in applets.lines().filter(|applet| *applet != "busybox") {
            symlink("busybox", root.join("bin").join(applet)).expect("symlink");
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nme:x:1000:1000::/:/bin/sh\n")
            .expect("write");
        fs::write(root.join("etc/group"), "root:x:0:\nme:x:1000:\n").expect("write");
        with_usual_umask(&root);
        self.ok(["import", &format!("dir:{}", root.display()), name]);
        true
    }

    /// Nothing but what has a name is in the store, and fsck agrees.
    pub(crate) fn assert_tidy(&self, names: &[&str]) {
        let list = |directory: &str| -> Vec<String> {
            let entries = fs::read_dir(self.store().join(directory)).expect("the store is readable");
            let mut names: Vec<String> = entries
                .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            names
        };
        assert_eq!(list("n"), names);
        assert_eq!(list("tmp"), [""; 0]);
        assert_eq!(list("trash"), [""; 0]);
        self.ok(["fsck"]);
    }

    /// Runs a shell script as root in a mount namespace of its own, with `$R` the program, `$D` the directory and [`DISK`].
    pub(crate) fn script(&self, script: &str) -> Ran {
        let mut command = Command::new("unshare");
        // Tests that use the library clear the umask of all.
        let script = format!("umask 022; {DISK}\n{script}");
        command
            .args(["--mount", "--propagation", "private", "sh", "-euc", &script])
            .env("R", BINARY)
            .env("D", self.dir.path())
            .env("ROOTLING_ROOT", self.store())
            .env("ROOTLING_NET", "host")
            .stdin(Stdio::null());
        ran(command.output().expect("unshare and sh are there"))
    }

    pub(crate) fn script_ok(&self, script: &str) -> String {
        let ran = self.script(script);
        assert_eq!(ran.code, 0, "stdout: {}\nstderr: {}", ran.stdout, ran.stderr);
        ran.stdout
    }
}

/// A store with the box `dev` of busybox; false where that cannot be run here.
pub(crate) fn with_dev(environment: &Environment) -> bool {
    environment.import_busybox() && !environment.ok(["-q", "create", "base", "dev"]).is_empty()
}

/// The boxes, a line each.
pub(crate) fn names(environment: &Environment) -> String {
    environment.ok(["-q", "ls", "--boxes"])
}

pub(crate) fn ran(output: Output) -> Ran {
    use std::os::unix::process::ExitStatusExt;
    let code = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { code, stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A shell function: a new file system at `$D/fs`, which the store is to be on.
const DISK: &str = "disk() { # FILE-SYSTEM [SIZE] [MOUNT-OPTION]
    rm -f $D/image; truncate -s ${2:-512M} $D/image; mkfs.$1 -q $D/image > /dev/null 2>&1
    mkdir -p $D/fs; mount -o loop${3:+,$3} $D/image $D/fs
    export ROOTLING_ROOT=$D/fs/store
}";

/// Is there a program of this name, for root at least?
pub(crate) fn found(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/sbin".into(), "/usr/sbin".into()])
        .any(|dir| dir.join(tool).is_file())
}

/// Can a file system of this sort be made? If not, that is a skipped test.
pub(crate) fn can_make(file_system: &str) -> bool {
    let tool = format!("mkfs.{file_system}");
    let there = found(&tool);
    if !there {
        skip(&format!("{tool} is not installed"));
    }
    there
}

/// A tar archive made by the system's tar of the directory `root`.
pub(crate) fn tar_of(root: &Path, archive: &Path, options: &[&str]) {
    let status =
        Command::new("tar").args(options).arg("-cf").arg(archive).arg("-C").arg(root).arg(".").status();
    assert!(status.expect("tar is there").success());
}

/// Gives what a test just made in a tree the modes that it has with the umask 022: tests that use the library clear the umask of all.
pub(crate) fn with_usual_umask(root: &Path) {
    use std::os::unix::fs::PermissionsExt;
    for entry in walkdir::WalkDir::new(root) {
        let entry = entry.expect("readable");
        let kind = entry.file_type();
        let mode = entry.metadata().expect("stat").permissions().mode() & 0o7777;
        let usual = match mode {
            0o666 if kind.is_file() => 0o644,
            0o777 if kind.is_dir() || kind.is_file() => 0o755,
            _ => continue,
        };
        fs::set_permissions(entry.path(), PermissionsExt::from_mode(usual)).expect("chmod");
    }
}
