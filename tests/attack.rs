//! What was tried to get out of boxes, each test named for its CVE or class.
//!
//! Each first shows that the attack works where the wall is missing: on a naive runner made of `unshare` and `chroot`, or in a box
//! whose walls were taken away. One that does not work there proves nothing, and says so. Then it is tried on a box, as root and as
//! an ordinary user where both can be attacked. Outside lies a canary that nothing may read or write.
//!
//! | module | what is attacked |
//! |---|---|
//! | `program` | the program that makes the boxes |
//! | `inherited` | what a process brings along: descriptors, environment, keys, capabilities |
//! | `kernel` | knobs, devices, mounts, processes of the machine |
//! | `mounts` | mount points and sources, swapped while a box is made or before they go |
//! | `tree` | the making of a box, by a hostile tree |
//! | `identity` | who one is inside, and what one leaves outside |
//! | `seccomp` | the filter of system calls; `calls` is its machine code and numbers |
//! | `cgroup` | cgroups and what hangs on them |
//! | `net` | the helpers of networks, and what listens outside |
//! | `leaks` | what boxes leave behind |

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::environment::{Ran, ran};
use crate::guest::{Guest, Ids, guest};

#[cfg(target_arch = "x86_64")]
pub(crate) mod calls;
mod cgroup;
mod identity;
mod inherited;
mod kernel;
mod leaks;
mod mounts;
mod net;
mod program;
#[cfg(target_arch = "x86_64")]
mod seccomp;
mod tree;

/// A user with a store, in which `base` is a tree of busybox and the prober, and `box` a box of it. Outside: a canary.
struct Camp(Guest);

const TOOLS: [&str; 12] =
    ["find", "env", "head", "kill", "ln", "mknod", "mount", "ps", "readlink", "seq", "tr", "wc"];

/// What makes a box of a directory as a beginner would: `$NAIVE PROGRAM...` runs it in `$D/root`.
const NAIVE: &str = "naive() { unshare $MAPPED --mount --pid --fork --propagation private sh -euc '
    mount -t proc proc $D/root/proc; exec chroot $D/root \"$@\"' naive \"$@\"; }";

/// Takes away what stands in front of the wall that is tested.
const ALONE: &str = "--security-opt landlock=off --security-opt seccomp=unconfined";

/// Starts `box` with the flags `$WALLS` and a shell script in it, and waits until that runs.
const START: &str = "start() {
    $R -q exec ${WALLS-} box -- sh -c \"echo up; $1\" > up & starter=$!
    until grep -q up up; do sleep 0.01; kill -0 $starter; done; }";

/// Returns a camp, or `None` after the reason was said.
fn camp(ids: Ids) -> Option<Camp> {
    let camp = Camp(guest(ids)?);
    let root = camp.path("root");
    for tool in TOOLS {
        symlink("busybox", root.join("bin").join(tool)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    let prober = prober();
    fs::copy(&prober, root.join("bin/prober")).unwrap();
    fs::copy(&prober, camp.path("prober")).unwrap();
    for library in libraries(&prober) {
        let inside = root.join(library.strip_prefix("/").unwrap());
        fs::create_dir_all(inside.parent().unwrap()).unwrap();
        fs::copy(&library, inside).unwrap();
    }
    fs::write(camp.path("canary"), "intact\n").unwrap();
    let id = camp.0.id;
    for name in ["canary", "rootling", "prober"] {
        chown(camp.path(name), Some(id), Some(id)).unwrap();
    }
    Some(camp)
}

/// Both kinds of callers.
fn camps() -> impl Iterator<Item = Camp> {
    [Ids::All, Ids::Range].into_iter().map_while(camp)
}

fn prober() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.ancestors().nth(2).unwrap().join("examples/prober");
    assert!(path.exists(), "{path:?} is missing: run `cargo build --example prober`");
    path
}

/// The shared libraries of a program and their loader.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let listed = ran(Command::new("ldd").arg(program).output().unwrap());
    let words = listed.stdout.split_whitespace().filter(|word| word.starts_with('/'));
    words.map(PathBuf::from).collect()
}

impl Camp {
    fn path(&self, name: &str) -> PathBuf {
        self.0.dir.path().join(name)
    }

    fn is_root(&self) -> bool {
        self.0.ids == Ids::All
    }

    /// Makes the store, with `base` and `box` in it, of the tree as it is now.
    fn store(&self, backend: &str) {
        let init =
            format!("$R -q init --backend {backend}; $R -q import dir:$D/root base; $R -q create base box");
        self.run(&init);
    }

    /// Runs a script that must succeed as the camp's user; returns what it printed.
    fn run(&self, script: &str) -> String {
        self.run_after("true", script)
    }

    /// The same after another one as root, in the same mount namespace.
    fn run_after(&self, root: &str, script: &str) -> String {
        let ran = self.try_after(root, script);
        assert_eq!(ran.code, 0, "{script}\nstdout: {}\nstderr: {}", ran.stdout, ran.stderr);
        ran.stdout
    }

    fn try_run(&self, script: &str) -> Ran {
        self.try_after("true", script)
    }

    fn try_after(&self, root: &str, script: &str) -> Ran {
        let mapped = if self.is_root() { "" } else { "--map-root-user" };
        // Numbers of processes outside are none of processes inside.
        let root = format!("cd $D; echo 5000 > /proc/sys/kernel/ns_last_pid; export MAPPED={mapped}\n{root}");
        self.0.contained(&root, &format!("cd $D; {NAIVE}\n{START}\n{script}"))
    }

    /// Nobody has written outside.
    fn assert_intact(&self) {
        assert_eq!(fs::read_to_string(self.path("canary")).unwrap(), "intact\n");
    }
}
