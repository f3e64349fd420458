//! Who a command runs as: names are those of the root filesystem's own files, never the host's.
//!
//! `/etc/passwd` of a tree is hostile input: it may be a pipe that never answers, a device, or endless.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use nix::fcntl::OFlag;
use nix::sys::stat::SFlag;
use rootling_backends::{Context, Dir, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// Numbers a process runs under.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl User {
    /// The administrator, in no group but its own.
    pub const ROOT: Self = Self { uid: 0, gid: 0, groups: Vec::new() };
}

/// A user as the tree's files describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The numbers.
    pub user: User,
    /// The name; `None` for a number that `/etc/passwd` does not list.
    pub name: Option<String>,
    /// The home directory; `/` for a number that is not listed.
    pub home: PathBuf,
    /// The login shell, where one is listed.
    pub shell: Option<PathBuf>,
}

/// Larger account files are refused.
const LIMIT_BYTES: u64 = 1024 * 1024;

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
    shell: &'a str,
}

/// Resolves `name`, `uid`, `name:group` or `uid:gid` with the tree's `/etc/passwd` and `/etc/group`.
///
/// Numbers need not be listed; a name must be. Supplementary groups are those that list the user, unless a
/// group was given.
pub fn resolve(root: &Dir, request: &str) -> Result<Account> {
    let (user, group) = match request.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (request, None),
    };
    if user.is_empty() || group == Some("") {
        let error = Error::new(ErrorKind::InvalidInput, format!("user {request:?} has an empty part"));
        return Err(error.hint("write NAME, UID, NAME:GROUP or UID:GID"));
    }
    let passwd = read(root, "etc/passwd")?;
    let groups = read(root, "etc/group")?;
    let number = parse_id(user)?;
    let found = passwd
        .lines()
        .filter_map(parse_passwd)
        .find(|entry| number.map_or(entry.name == user, |uid| entry.uid == uid));
    let (uid, listed_gid) = match (&found, number) {
        (Some(entry), _) => (entry.uid, entry.gid),
        (None, Some(uid)) => (uid, 0),
        // Every kernel knows this one, also under a tree that has no accounts at all.
        (None, None) if user == "root" => (0, 0),
        (None, None) => {
            let error =
                Error::new(ErrorKind::NotFound, format!("no user {user:?} in the tree's /etc/passwd"));
            return Err(error.hint("give the number instead: --user UID"));
        }
    };
    let name = found.as_ref().map(|entry| entry.name.to_owned());
    let gid = group.map_or(Ok(listed_gid), |group| find_group(&groups, group))?;
    let extra = match (&name, group) {
        (Some(name), None) => supplementary(&groups, name),
        _ => Vec::new(),
    };
    let home = found.as_ref().map_or("", |entry| entry.home);
    let shell = found.as_ref().map(|entry| entry.shell).filter(|shell| shell.starts_with('/'));
    Ok(Account {
        user: User { uid, gid, groups: extra },
        name,
        home: PathBuf::from(if home.starts_with('/') { home } else { "/" }),
        shell: shell.map(PathBuf::from),
    })
}

/// A number as `--user` takes it: digits only, and not the one that means "unchanged" to the kernel.
fn parse_id(text: &str) -> Result<Option<u32>> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse() {
        Ok(u32::MAX) | Err(_) => {
            let limit = u32::MAX - 1;
            Err(Error::new(ErrorKind::InvalidInput, format!("id {text} is larger than {limit}")))
        }
        Ok(id) => Ok(Some(id)),
    }
}

fn listed_id(text: &str) -> Option<u32> {
    if text.is_empty() { None } else { parse_id(text).ok().flatten() }
}

/// `name:password:uid:gid:gecos:home:shell` (passwd(5)); a line that is anything else is skipped.
fn parse_passwd(line: &str) -> Option<Passwd<'_>> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let (uid, gid) = (listed_id(fields.nth(1)?)?, listed_id(fields.next()?)?);
    let (home, shell) = (fields.nth(1).unwrap_or(""), fields.next().unwrap_or(""));
    Some(Passwd { name, uid, gid, home, shell })
}

/// `name:password:gid:member,member` (group(5)).
fn parse_group(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let gid = listed_id(fields.nth(1)?)?;
    Some((name, gid, fields.next().unwrap_or("")))
}

fn find_group(groups: &str, wanted: &str) -> Result<u32> {
    if let Some(gid) = parse_id(wanted)? {
        return Ok(gid);
    }
    let mut entries = groups.lines().filter_map(parse_group);
    entries.find(|(name, ..)| *name == wanted).map(|(_, gid, _)| gid).ok_or_else(|| {
        let error = Error::new(ErrorKind::NotFound, format!("no group {wanted:?} in the tree's /etc/group"));
        error.hint("give the number instead: --user USER:GID")
    })
}

fn supplementary(groups: &str, user: &str) -> Vec<u32> {
    let entries = groups.lines().filter_map(parse_group);
    entries
        .filter(|(.., members)| members.split(',').any(|name| name == user))
        .map(|(_, gid, _)| gid)
        .collect()
}

/// Returns the text of an account file of the tree; empty where there is none. One that is no regular file, or larger than 1 MiB, is an
/// error of kind `InvalidInput`.
pub fn read(root: &Dir, path: &str) -> Result<String> {
    let file = match root.open_in_root(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK) {
        Ok(file) => File::from(file),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    let stat = nix::sys::stat::fstat(&file).context(|| format!("fstat({root}, {path:?})"))?;
    if SFlag::from_bits_truncate(stat.st_mode & libc::S_IFMT) != SFlag::S_IFREG {
        return Err(Error::new(ErrorKind::InvalidInput, format!("/{path} of {root} is not a regular file")));
    }
    // Room for all of it and a byte: one call, unless it grows meanwhile.
    let expected = u64::try_from(stat.st_size).unwrap_or(0).min(LIMIT_BYTES);
    let mut bytes = vec![0; usize::try_from(expected).unwrap_or(0) + 1];
    let read = (&file).read(&mut bytes).context(|| format!("read({root}, {path:?})"))?;
    if read == bytes.len() {
        file.take(LIMIT_BYTES).read_to_end(&mut bytes).context(|| format!("read({root}, {path:?})"))?;
    } else {
        bytes.truncate(read);
    }
    if bytes.len() as u64 > LIMIT_BYTES {
        return Err(Error::new(ErrorKind::InvalidInput, format!("/{path} of {root} is larger than 1 MiB")));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        std::fs::create_dir(tree.path().join("etc")).unwrap();
        std::fs::write(
            tree.path().join("etc/passwd"),
            "root:x:0:0::/root:/bin/bash\nbroken\nme:x:1000:1001:M:/home/me:/bin/sh\n:x:0:0::/:\nx:x::0::/:\n",
        )
        .unwrap();
        std::fs::write(tree.path().join("etc/group"), "root:x:0:\nme:x:1001:\naudio:x:29:you,me\n").unwrap();
        tree
    }

    #[test]
    fn names_and_numbers_resolve_with_the_trees_files() {
        let tree = tree();
        let root = Dir::open(tree.path()).unwrap();
        let me = resolve(&root, "me").unwrap();
        assert_eq!(me.user, User { uid: 1000, gid: 1001, groups: vec![29] });
        assert_eq!((me.home.as_path(), me.name.as_deref()), ("/home/me".as_ref(), Some("me")));
        assert_eq!(resolve(&root, "1000").unwrap(), me);
        assert_eq!(resolve(&root, "me:audio").unwrap().user, User { uid: 1000, gid: 29, groups: vec![] });
        assert_eq!(resolve(&root, "7:8").unwrap().user, User { uid: 7, gid: 8, groups: vec![] });
    }

    #[test]
    fn what_is_no_user_is_refused_and_never_becomes_root() {
        let tree = tree();
        let root = Dir::open(tree.path()).unwrap();
        for request in ["", ":", "1000:", ":0", "-1", "4294967295", "4294967296", "0x0", " 0", "root\n", "x"]
        {
            assert!(resolve(&root, request).is_err(), "{request:?} was accepted");
        }
    }

    #[test]
    fn an_account_file_that_is_a_pipe_or_endless_is_refused() {
        let tree = tree();
        let path = tree.path().join("etc/passwd");
        let root = Dir::open(tree.path()).unwrap();
        std::fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(resolve(&root, "0").unwrap_err().kind(), ErrorKind::InvalidInput);
        std::fs::remove_file(&path).unwrap();
        std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(resolve(&root, "0").unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
