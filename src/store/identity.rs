//! Whose machine a tree is: the few files that tell one machine from another, made anew in a fork.
//!
//! | file | with a new identity |
//! |---|---|
//! | `/etc/machine-id` | a new random id; left alone where it is missing, empty or `uninitialized`: then the next boot makes one |
//! | `/var/lib/dbus/machine-id` | the same id, where it is a file of its own |
//! | `/etc/ssh/ssh_host_*_key`, `.pub`, `-cert.pub` | removed: `ssh-keygen -A`, which distributions run before sshd starts, makes new ones |
//! | `/etc/hostname` | the box's, where the file exists |
//! | `/etc/hosts` | the old host name in it becomes the new one |
//! | `random-seed` in `/var/lib/systemd`, `/var/lib/urandom` and `/var/lib/misc` | removed |
//!
//! The tree is hostile input: links are never followed, and what is no regular file is left alone.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use rootling_backends::attributes::{Attributes, Xattrs};
use rootling_backends::{Context, Dir, EntryType, Result, Times, sys};

/// Is a fork the same machine as what it was forked from?
#[derive(Debug, Clone, Copy, Default)]
pub enum Identity {
    /// Yes: not a byte differs.
    #[default]
    Keep,
    /// No: see the table at the head of `identity.rs`.
    New {
        /// Makes a host name of the name of a box.
        hostname: fn(&str) -> String,
    },
}

/// Bytes in the largest of these files that is read.
const LIMIT: u64 = 64 << 10;

const RANDOM_SEEDS: [&str; 3] = ["var/lib/systemd", "var/lib/urandom", "var/lib/misc"];

/// Makes the tree another machine. A second call makes it yet another.
pub(super) fn renew(root: &Dir, hostname: &str) -> Result<()> {
    if let Some(etc) = directory(root, "etc")? {
        renew_hostname(&etc, hostname)?;
        renew_machine_id(root, &etc)?;
    }
    if let Some(ssh) = directory(root, "etc/ssh")? {
        for entry in ssh.entries()? {
            if is_host_key(&entry.name) {
                remove(&ssh, &entry.name)?;
            }
        }
    }
    for place in RANDOM_SEEDS {
        if let Some(place) = directory(root, place)? {
            remove(&place, OsStr::new("random-seed"))?;
        }
    }
    Ok(())
}

/// Opens a directory, if it is one; nothing is done where a link stands in the way.
fn directory(root: &Dir, path: &str) -> Result<Option<Dir>> {
    match root.open_beneath(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
        Ok(fd) => Ok(Some(Dir::from_fd(fd, root.path().join(path)))),
        Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP)) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn is_host_key(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let ends = [&b"_key"[..], b"_key.pub", b"_key-cert.pub"];
    name.starts_with(b"ssh_host_") && ends.iter().any(|end| name.ends_with(end))
}

fn remove(dir: &Dir, name: &OsStr) -> Result<()> {
    match dir.stat_if_exists(name)? {
        Some(stat) if EntryType::of_mode(stat.st_mode) != EntryType::Directory => dir.unlink(name),
        _ => Ok(()),
    }
}

fn renew_machine_id(root: &Dir, etc: &Dir) -> Result<()> {
    let id = machine_id()?;
    let has_one = |text: &String| !matches!(text.trim(), "" | "uninitialized");
    if read(etc, "machine-id")?.as_ref().is_some_and(has_one) {
        replace(etc, "machine-id", &id)?;
    }
    match directory(root, "var/lib/dbus")? {
        Some(dbus) if read(&dbus, "machine-id")?.as_ref().is_some_and(has_one) => {
            replace(&dbus, "machine-id", &id)
        }
        _ => Ok(()),
    }
}

/// As machine-id(5) says: 128 random bits in the form of a UUID of version 4, in 32 lower-case digits and a newline.
fn machine_id() -> Result<String> {
    let mut bytes = [0; 16];
    sys::random(&mut bytes).context(|| "getrandom(16)")?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(33);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a String takes everything");
    }
    text.push('\n');
    Ok(text)
}

fn renew_hostname(etc: &Dir, hostname: &str) -> Result<()> {
    let Some(old) = read(etc, "hostname")? else { return Ok(()) };
    replace(etc, "hostname", &format!("{hostname}\n"))?;
    let old = old.trim();
    if old.is_empty() || old == "localhost" {
        return Ok(());
    }
    match read(etc, "hosts")? {
        Some(hosts) if hosts.split_whitespace().any(|word| word == old) => {
            replace(etc, "hosts", &renamed(&hosts, old, hostname))
        }
        _ => Ok(()),
    }
}

/// Returns the lines of `/etc/hosts` with one host name in place of another; addresses and comments stay.
fn renamed(hosts: &str, old: &str, new: &str) -> String {
    let mut renamed = String::with_capacity(hosts.len());
    for line in hosts.split_inclusive('\n') {
        let (names, comment) = line.split_at(line.find('#').unwrap_or(line.len()));
        for (index, word) in names.split_inclusive(char::is_whitespace).enumerate() {
            let name = word.trim_end();
            if index > 0 && name == old {
                renamed.push_str(new);
                renamed.push_str(&word[name.len()..]);
            } else {
                renamed.push_str(word);
            }
        }
        renamed.push_str(comment);
    }
    renamed
}

/// Reads a regular file of text; anything else is as if it were not there.
fn read(dir: &Dir, name: &str) -> Result<Option<String>> {
    let is_file = |mode| EntryType::of_mode(mode) == EntryType::File;
    if !dir.stat_if_exists(name)?.is_some_and(|stat| is_file(stat.st_mode)) {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let read = dir.open_file(name)?.take(LIMIT + 1).read_to_end(&mut bytes);
    read.context(|| format!("read({dir}, {name:?})"))?;
    let small = bytes.len() as u64 <= LIMIT;
    Ok(String::from_utf8(bytes).ok().filter(|_| small))
}

/// Puts a new file in place of one, with its mode, owner and attributes. Nobody else sees the tree yet.
fn replace(dir: &Dir, name: &str, text: &str) -> Result<()> {
    let old = Attributes::of_entry(dir, OsStr::new(name), &dir.stat(name)?, Xattrs::WithoutOverlay)?;
    dir.unlink(name)?;
    let mut file = dir.create_file(name, 0o600)?;
    file.write_all(text.as_bytes()).context(|| format!("write({dir}, {name:?})"))?;
    let stat = dir.stat(name)?;
    Attributes { times: Times::of(&stat), ..old }.apply_to_open(&file, &stat, &format!("{dir}, {name:?}"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn the_files_that_tell_machines_apart_are_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for path in ["etc/ssh", "var/lib/dbus", "var/lib/systemd"] {
            fs::create_dir_all(at(path)).unwrap();
        }
        let old = "0123456789abcdef0123456789abcdef\n";
        fs::write(at("etc/machine-id"), old).unwrap();
        fs::set_permissions(at("etc/machine-id"), fs::Permissions::from_mode(0o444)).unwrap();
        fs::write(at("var/lib/dbus/machine-id"), old).unwrap();
        fs::write(at("var/lib/systemd/random-seed"), "seed").unwrap();
        fs::write(at("etc/hostname"), "old\n").unwrap();
        fs::write(at("etc/hosts"), "127.0.0.1 localhost\n127.0.1.1\told.lan old # old\nold older old")
            .unwrap();
        for name in ["ssh_host_rsa_key", "ssh_host_rsa_key.pub", "ssh_config", "ssh_host_keys_are_here"] {
            fs::write(at("etc/ssh").join(name), "").unwrap();
        }
        renew(&Dir::open(dir.path()).unwrap(), "fresh").unwrap();
        let read = |path: &str| fs::read_to_string(at(path)).unwrap();
        let id = read("etc/machine-id");
        assert!(id.len() == 33 && id != old && id.trim_end().bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_eq!(read("var/lib/dbus/machine-id"), id);
        assert_eq!(fs::metadata(at("etc/machine-id")).unwrap().permissions().mode() & 0o7777, 0o444);
        assert_eq!(read("etc/hostname"), "fresh\n");
        assert_eq!(read("etc/hosts"), "127.0.0.1 localhost\n127.0.1.1\told.lan fresh # old\nold older fresh");
        assert!(!at("var/lib/systemd/random-seed").exists());
        let mut left: Vec<_> =
            fs::read_dir(at("etc/ssh")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["ssh_config", "ssh_host_keys_are_here"]);
    }

    #[test]
    fn nothing_outside_the_tree_is_touched_and_nothing_is_made() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("machine-id"), "outside").unwrap();
        fs::write(outside.path().join("hostname"), "outside").unwrap();
        fs::write(outside.path().join("random-seed"), "outside").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let root = Dir::open(dir.path()).unwrap();
        renew(&root, "fresh").unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "what is missing is not made");
        symlink(outside.path(), dir.path().join("etc")).unwrap();
        fs::create_dir_all(dir.path().join("var/lib")).unwrap();
        symlink(outside.path(), dir.path().join("var/lib/systemd")).unwrap();
        renew(&root, "fresh").unwrap();
        fs::remove_file(dir.path().join("etc")).unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        for name in ["machine-id", "hostname"] {
            symlink(outside.path().join(name), dir.path().join("etc").join(name)).unwrap();
        }
        renew(&root, "fresh").unwrap();
        for entry in fs::read_dir(outside.path()).unwrap() {
            assert_eq!(fs::read_to_string(entry.unwrap().path()).unwrap(), "outside");
        }
        fs::remove_file(dir.path().join("etc/machine-id")).unwrap();
        fs::write(dir.path().join("etc/machine-id"), "uninitialized\n").unwrap();
        renew(&root, "fresh").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("etc/machine-id")).unwrap(), "uninitialized\n");
    }
}
