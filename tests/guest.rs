//! Who the tests run the program as: root, or an ordinary user who exists only in the mount namespace of the test.
//!
//! Made by root: private copies of the account files are mounted over the host's. The program stands in the test's directory,
//! where the user may run it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use crate::environment::{BINARY, Ran, found, is_root, ran, skip};

/// Each guest has an id of its own: tests run side by side and look for processes by it.
static NEXT_ID: AtomicU32 = AtomicU32::new(64321);

/// Whose ids the user may use besides their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ids {
    /// All: the guest is root.
    All,
    /// A range of subordinate ids.
    Range,
    /// No others.
    None,
}

/// A user and a directory that is theirs, with `rootling`, and `root/`, a tree of busybox.
pub(crate) struct Guest {
    pub(crate) dir: TempDir,
    pub(crate) id: u32,
    pub(crate) ids: Ids,
}

/// Returns the guest, or `None` and the reason where none can be.
pub(crate) fn guest(ids: Ids) -> Option<Guest> {
    if !is_root() {
        return None;
    }
    let lacking =
        ["busybox", "setpriv", "newuidmap", "newgidmap", "tar"].into_iter().find(|tool| !found(tool));
    if let Some(tool) = lacking {
        skip(&format!("{tool} is not installed"));
        return None;
    }
    if !Path::new("/etc/subuid").exists() || !Path::new("/etc/subgid").exists() {
        skip("/etc/subuid and /etc/subgid do not exist");
        return None;
    }
    let id = if ids == Ids::All { 0 } else { NEXT_ID.fetch_add(1, Ordering::Relaxed) };
    let guest = Guest { dir: tempfile::tempdir().unwrap(), id, ids };
    guest.prepare();
    let allowed = guest.script("unshare --user --map-root-user true");
    if allowed.code != 0 {
        skip(&format!("no user namespaces for ordinary users: {}", allowed.stderr));
        return None;
    }
    Some(guest)
}

impl Guest {
    fn prepare(&self) {
        let (dir, id) = (self.dir.path(), self.id);
        fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
        let root = dir.join("root");
        for name in ["bin", "etc", "tmp", "proc", "sys", "dev"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nme:x:1000:1000::/:/bin/sh\n").unwrap();
        fs::write(root.join("etc/group"), "root:x:0:\nme:x:1000:\n").unwrap();
        fs::write(root.join("etc/motd"), "welcome\n").unwrap();
        let busybox = ran(Command::new("sh").args(["-c", "command -v busybox"]).output().unwrap()).stdout;
        fs::copy(busybox.trim(), root.join("bin/busybox")).unwrap();
        for tool in
            ["sh", "grep", "id", "ls", "cat", "touch", "chown", "stat", "sleep", "rm", "mkdir", "true", "mv"]
        {
            symlink("busybox", root.join("bin").join(tool)).unwrap();
        }
        fs::copy(BINARY, dir.join("rootling")).unwrap();
        chown(dir, Some(id), Some(id)).unwrap();
        if self.ids == Ids::All {
            return;
        }
        let account = |file: &str, line: &str| {
            let text = fs::read_to_string(format!("/etc/{file}")).unwrap_or_default();
            fs::write(dir.join(file), format!("{text}{line}\n")).unwrap();
        };
        account("passwd", &format!("guest:x:{id}:{id}::/:/bin/sh"));
        account("group", &format!("guest:x:{id}:"));
        let range = if self.ids == Ids::Range { "guest:3000000:65536" } else { "" };
        account("subuid", range);
        account("subgid", range);
    }

    /// Runs `root` as root, then `user` as the guest, both in one mount namespace, with `$R` the program, `$D` the
    /// directory and `$U` the guest's id.
    pub(crate) fn script_after(&self, root: &str, user: &str) -> Ran {
        let mut command = Command::new("unshare");
        command.arg("--mount");
        self.finish(command, root, user)
    }

    /// Does the same in a pid namespace too: whatever the scripts start ends with them, and after two minutes at the latest.
    pub(crate) fn contained(&self, root: &str, user: &str) -> Ran {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", "120", "unshare", "--mount", "--pid", "--fork", "--kill-child"]);
        command.arg("--mount-proc");
        self.finish(command, root, user)
    }

    fn finish(&self, mut command: Command, root: &str, user: &str) -> Ran {
        let id = self.id;
        let accounts = "for file in passwd group subuid subgid; do mount --bind $D/$file /etc/$file; done";
        let accounts = if self.ids == Ids::All { "" } else { accounts };
        let become_guest = match self.ids {
            Ids::All => "exec sh -euc \"$USER_SCRIPT\"".to_owned(),
            _ => format!("exec setpriv --reuid {id} --regid {id} --clear-groups -- sh -euc \"$USER_SCRIPT\""),
        };
        // Tests that use the library clear the umask of all.
        let script = format!("umask 022; {accounts}\n{root}\n{become_guest}");
        command
            .args(["--propagation", "private", "sh", "-euc", &script])
            .env("USER_SCRIPT", user)
            .env("R", self.dir.path().join("rootling"))
            .env("U", id.to_string())
            .env("D", self.dir.path())
            .env("HOME", self.dir.path())
            .env("ROOTLING_ROOT", self.dir.path().join("store"))
            .env("ROOTLING_NET", "host")
            .stdin(Stdio::null());
        ran(command.output().expect("unshare and sh are there"))
    }

    pub(crate) fn script(&self, user: &str) -> Ran {
        self.script_after("", user)
    }

    pub(crate) fn ok(&self, user: &str) -> String {
        let ran = self.script(user);
        assert_eq!(ran.code, 0, "stdout: {}\nstderr: {}", ran.stdout, ran.stderr);
        ran.stdout
    }

    /// Runs one line that must fail; returns what it said, the test's directory made nameless.
    pub(crate) fn fails(&self, user: &str) -> String {
        let ran = self.script(user);
        assert_ne!(ran.code, 0, "succeeded: {}{}", ran.stdout, ran.stderr);
        ran.stderr.replace(&*self.dir.path().to_string_lossy(), "DIR")
    }
}
