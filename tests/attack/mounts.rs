//! Mount points and sources that are swapped for links while a box is made, and mount points that are swapped before they go.
//!
//! CVE-2018-15664, CVE-2021-30465, CVE-2023-0778, CVE-2024-42472: a path is checked, then used. CVE-2024-23652: a mount point
//! that was made is removed by its path. Each race is won once the naive way first, or the test is void; then it is run at least as
//! often against us.

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::environment::{Environment, skip};

/// Mounts in one run of ours: each is a try.
const AT_ONCE: usize = 100;

/// A store of plain directories with a box `dev` of busybox, whose tree lies on the host where it can be tampered with.
struct Field {
    environment: Environment,
    tree: PathBuf,
}

fn field() -> Option<Field> {
    let environment = Environment { dir: tempfile::tempdir().unwrap() };
    environment.ok(["init", "--backend", "copy"]);
    if !environment.import_busybox() {
        return None;
    }
    environment.ok(["create", "base", "dev"]);
    let tree = environment.json(["show", "dev"])["path"].as_str().unwrap().into();
    Some(Field { environment, tree })
}

impl Field {
    fn path(&self, name: &str) -> PathBuf {
        self.environment.path(name)
    }

    /// The canary: a directory outside of everything, with `entries` in it.
    fn canary(&self, entries: &[String]) -> PathBuf {
        let canary = self.path("canary");
        fs::create_dir(&canary).unwrap();
        entries.iter().for_each(|name| fs::create_dir(canary.join(name)).unwrap());
        canary
    }
}

/// Where a path of the host would be if `root` were `/`.
fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap())
}

/// Names of what is in a directory and everything below.
fn listing(dir: &Path) -> Vec<PathBuf> {
    let entries = walkdir::WalkDir::new(dir).sort_by_file_name();
    entries.into_iter().map(|entry| entry.unwrap().into_path()).collect()
}

/// Swaps two names as fast as it can while `race` runs; returns what that returns.
fn racing<T>(one: &Path, other: &Path, race: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE).unwrap();
            }
        });
        // Also when the race panics: the scope waits for the other thread.
        let _stop = Stop(&stop);
        race()
    })
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Tries the naive way until it loses once, in a mount namespace of its own; returns how many tries that took, or `None` after
/// the reason was said.
fn naive(try_once: impl Fn() -> bool + Send + Sync) -> Option<usize> {
    let tries = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            let start = Instant::now();
            (1..).take_while(|_| start.elapsed() < Duration::from_secs(30)).find(|_| try_once())
        });
        thread.join().unwrap()
    });
    if tries.is_none() {
        skip("the race was never won, not even against the naive way");
    }
    tries
}

/// How many runs of ours are at least as many tries as the naive way took.
fn runs(tries: usize) -> usize {
    tries.div_ceil(AT_ONCE).clamp(10, 200)
}

fn bind(source: &Path, target: &Path) -> nix::Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
}

#[test]
fn cve_2021_30465_a_target_swapped_for_a_link_while_mounting() {
    let Some(field) = field() else { return };
    let names: Vec<String> = (0..AT_ONCE).map(|number| format!("t{number}")).collect();
    let canary = field.canary(&names);
    let marker = field.path("marker-source");
    fs::create_dir(&marker).unwrap();
    fs::write(marker.join("mounted"), "").unwrap();
    let (real, link) = (field.tree.join("race/real"), field.tree.join("race/link"));
    for name in &names {
        // A link that leads out leads here for those who are in.
        fs::create_dir_all(inside(&field.tree, &canary).join(name)).unwrap();
        fs::create_dir_all(real.join(name)).unwrap();
    }
    symlink(&canary, &link).unwrap();
    let before = listing(&canary);
    let root = field.tree.canonicalize().unwrap();
    racing(&real, &link, || {
        let target = real.join("t0");
        let tries = naive(|| {
            // Resolve, check, mount by path.
            if !target.canonicalize().is_ok_and(|path| path.starts_with(&root)) {
                return false;
            }
            let _mounted = bind(&marker, &target);
            let escaped = canary.join("t0/mounted").exists();
            for place in
                [canary.join("t0"), real.join("t0"), link.join("t0"), inside(&root, &canary).join("t0")]
            {
                while umount2(&place, MntFlags::MNT_DETACH).is_ok() {}
            }
            escaped
        });
        let Some(tries) = tries else { return };
        let mut arguments: Vec<String> = ["-q", "exec"].map(str::to_owned).to_vec();
        for name in &names {
            arguments.extend(["-v".to_owned(), format!("{}:/race/real/{name}", marker.display())]);
        }
        // What was mounted anywhere but in the root is not in this table.
        arguments.extend(
            ["dev", "--", "grep", "-c", "/marker-source ", "/proc/self/mountinfo"].map(str::to_owned),
        );
        for _ in 0..runs(tries) {
            assert_eq!(field.environment.ok(&arguments), format!("{AT_ONCE}\n"));
        }
    });
    assert_eq!(listing(&canary), before);
}

#[test]
fn cve_2024_45310_a_mount_point_made_while_its_parent_is_swapped() {
    let Some(field) = field() else { return };
    let canary = field.canary(&["intact".to_owned()]);
    let source = field.path("source");
    fs::create_dir(&source).unwrap();
    let (real, link) = (field.tree.join("race/real"), field.tree.join("race/link"));
    fs::create_dir_all(&real).unwrap();
    fs::create_dir_all(inside(&field.tree, &canary)).unwrap();
    symlink(&canary, &link).unwrap();
    let before = listing(&canary);
    let root = field.tree.canonicalize().unwrap();
    racing(&real, &link, || {
        let tries = naive(|| {
            if !real.canonicalize().is_ok_and(|path| path.starts_with(&root)) {
                return false;
            }
            let _made = fs::create_dir(real.join("made"));
            let escaped = fs::remove_dir(canary.join("made")).is_ok();
            for place in [&real, &link, &inside(&root, &canary)] {
                drop(fs::remove_dir(place.join("made")));
            }
            escaped
        });
        let Some(tries) = tries else { return };
        let mut arguments: Vec<String> = ["-q", "exec"].map(str::to_owned).to_vec();
        for number in 0..AT_ONCE {
            arguments.extend(["-v".to_owned(), format!("{}:/race/real/m{number}/deep", source.display())]);
        }
        arguments.extend(["dev", "--", "true"].map(str::to_owned));
        let mut succeeded = 0;
        for _ in 0..runs(tries) {
            let ran = field.environment.run(&arguments);
            // Made in one place and looked for in the other: an error, and nothing else.
            assert!(ran.code == 0 || ran.stderr.contains("No such file"), "{}", ran.stderr);
            succeeded += usize::from(ran.code == 0);
            assert_eq!(listing(&canary), before, "{} of them succeeded before", succeeded);
        }
    });
    // Wherever they were made, they are gone.
    let left: Vec<PathBuf> =
        listing(&field.tree.join("race")).into_iter().chain(listing(&inside(&root, &canary))).collect();
    assert!(left.iter().all(|path| path.file_name().unwrap() != "deep"), "{left:?}");
}

#[test]
fn cve_2023_0778_a_part_of_a_source_swapped_for_a_link_while_mounting() {
    let Some(field) = field() else { return };
    let canary = field.canary(&[]);
    fs::write(canary.join("data"), "secret\n").unwrap();
    let share = field.path("share");
    let (real, link) = (share.join("real"), share.join("link"));
    for (place, content) in [(&real, "shared\n"), (&inside(&share, &canary), "also shared\n")] {
        fs::create_dir_all(place).unwrap();
        fs::write(place.join("data"), content).unwrap();
    }
    symlink(&canary, &link).unwrap();
    let place = field.path("place");
    fs::create_dir(&place).unwrap();
    let root = share.canonicalize().unwrap();
    racing(&real, &link, || {
        let tries = naive(|| {
            if !real.canonicalize().is_ok_and(|path| path.starts_with(&root)) {
                return false;
            }
            let _mounted = bind(&real, &place);
            let escaped = fs::read_to_string(place.join("data")).is_ok_and(|data| data == "secret\n");
            while umount2(&place, MntFlags::MNT_DETACH).is_ok() {}
            escaped
        });
        let Some(tries) = tries else { return };
        let mut arguments: Vec<String> = ["-q", "exec"].map(str::to_owned).to_vec();
        for number in 0..AT_ONCE {
            let flag = format!("type=bind,source={},bind-subpath=real,target=/t/{number}", share.display());
            arguments.extend(["--mount".to_owned(), flag]);
        }
        arguments.extend(["dev", "--", "sh", "-c", "cat /t/*/data"].map(str::to_owned));
        for _ in 0..runs(tries) {
            let shown = field.environment.ok(&arguments);
            assert_eq!(shown.lines().count(), AT_ONCE);
            assert!(!shown.contains("secret"), "{shown}");
        }
    });
}

#[test]
fn cve_2024_23652_a_mount_point_swapped_before_it_is_removed() {
    let Some(field) = field() else { return };
    let canary = field.canary(&["stub".to_owned()]);
    let source = field.path("source");
    fs::create_dir(&source).unwrap();
    let volume = format!("{}:/parent/stub", source.display());
    fs::create_dir(field.tree.join("parent")).unwrap();
    let swap = format!("mv /parent /moved && ln -s {} /parent", canary.display());
    let run =
        |script: &str| field.environment.ok(["-q", "exec", "-v", &volume, "dev", "--", "sh", "-c", script]);

    run(&swap);
    assert!(canary.join("stub").is_dir(), "it was removed through the link");
    assert!(!field.tree.join("moved/stub").exists(), "what was made was not removed");
    // The naive way, with what the box has left there.
    fs::remove_dir(field.tree.join("parent/stub")).unwrap();
    assert!(!canary.join("stub").exists(), "the attack does not work against the naive way either");

    // The mount point itself, swapped by somebody who has the tree in another place.
    fs::remove_file(field.tree.join("parent")).unwrap();
    fs::rename(field.tree.join("moved"), field.tree.join("parent")).unwrap();
    let parent = field.tree.join("parent");
    let meddle = |change: &dyn Fn()| {
        let mut running = start(&field, &volume);
        change();
        drop(running.stdin.take());
        assert!(running.wait().unwrap().success());
    };
    meddle(&|| {
        fs::rename(parent.join("stub"), parent.join("stub-moved")).unwrap();
        fs::create_dir(parent.join("stub")).unwrap();
    });
    assert!(parent.join("stub").is_dir() && parent.join("stub-moved").is_dir(), "another inode was removed");
    fs::remove_dir(parent.join("stub")).unwrap();
    meddle(&|| fs::write(parent.join("stub/note"), "").unwrap());
    assert!(parent.join("stub/note").exists(), "what was not empty was removed");
}

fn start(field: &Field, volume: &str) -> Child {
    use std::io::Read;
    use std::process::Stdio;
    let mut command = field.environment.command();
    command.args(["-q", "exec", "-v", volume, "dev", "--", "sh", "-c", "echo; cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    child
}

#[test]
fn a_link_as_target_leads_within_the_root() {
    let Some(field) = field() else { return };
    let canary = field.canary(&[]);
    let source = field.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("mounted"), "").unwrap();
    fs::create_dir_all(inside(&field.tree, &canary)).unwrap();
    symlink(format!("../../../../../../../..{}", canary.display()), field.tree.join("link")).unwrap();
    // Without a root of one's own the link leads out.
    assert_eq!(field.tree.join("link").canonicalize().unwrap(), canary.canonicalize().unwrap());
    let volume = format!("{}:/link", source.display());
    let script = format!("ls /link; ls {}", canary.display());
    let shown = field.environment.ok(["-q", "exec", "-v", &volume, "dev", "--", "sh", "-c", &script]);
    assert_eq!(shown, "mounted\nmounted\n");
    assert_eq!(listing(&canary).len(), 1);
}

#[test]
fn cve_2019_19921_a_link_that_leads_a_mount_into_the_kernels_file_systems() {
    let Some(field) = field() else { return };
    let source = field.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "").unwrap();
    for (link, target) in
        [("a", "/proc"), ("b", "/sys"), ("c", "/dev"), ("d", "proc/self/../.."), ("e", "/proc/self")]
    {
        symlink(target, field.tree.join(link)).unwrap();
    }
    for target in ["/a/self/attr", "/a/sys", "/b/kernel", "/c/shm", "/c/new", "/d/sys", "/e/attr"] {
        for flags in [["-v", &format!("{}:{target}", source.display())], ["--tmpfs", target]] {
            let error =
                field.environment.fails([&["-q", "exec"], &flags[..], &["dev", "--", "true"]].concat());
            assert!(error.contains("nothing is mounted there"), "{flags:?}: {error}");
        }
    }
    // A generated file, which the image's own link leads there.
    symlink("/proc/self/comm", field.tree.join("etc/hostname")).unwrap();
    let ran = field.environment.run(["-q", "exec", "dev", "--", "true"]);
    assert!(ran.code == 125 && ran.stderr.contains("/etc/hostname"), "{}", ran.stderr);
}

#[test]
fn pipes_and_sockets_do_not_stop_the_runner_and_devices_are_not_shown() {
    let Some(field) = field() else { return };
    let (pipe, socket, device) = (field.path("pipe"), field.path("socket"), field.path("device"));
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    nix::sys::stat::mknod(
        &device,
        nix::sys::stat::SFlag::S_IFCHR,
        nix::sys::stat::Mode::S_IRWXU,
        libc::makedev(1, 3),
    )
    .unwrap();
    assert!(fs::metadata(&device).unwrap().file_type().is_char_device());
    let volume = |source: &Path, target: &str| format!("{}:{target}", source.display());
    // Opening the pipe for reading would wait for ever.
    let shown = field.environment.ok([
        "-q",
        "run",
        "-v",
        &volume(&pipe, "/pipe"),
        "-v",
        &volume(&socket, "/run/socket"),
        "base",
        "--",
        "sh",
        "-c",
        "test -p /pipe && test -S /run/socket && echo both",
    ]);
    assert_eq!(shown, "both\n");
    let error =
        field.environment.fails(["-q", "run", "-v", &volume(&device, "/device"), "base", "--", "true"]);
    assert!(error.contains("is a device") && error.contains("--device"), "{error}");
    // In a directory it is there, and dead.
    let dir = volume(field.environment.dir.path(), "/all");
    let ran =
        field.environment.run(["-q", "run", "-v", &dir, "base", "--", "sh", "-c", "echo > /all/device"]);
    assert!(ran.code != 0 && ran.stderr.contains("Permission denied"), "{}", ran.stderr);
}
