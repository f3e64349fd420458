//! Root of one's own user namespace: what lets a user who is not root make mounts and boxes.
//!
//! With a range in `/etc/subuid` and `/etc/subgid` the namespace has as many users as the range, through the
//! setuid tools `newuidmap` and `newgidmap`; without, it has only root, who is the caller outside.

use std::fs;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::process::Command;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{ForkResult, Uid, getgid, getuid};
use rootling_backends::{Context, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::running::Running;
use super::sys;

/// What a caller is after [`enter_userns`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Entered {
    /// It was root already: nothing was done.
    Root,
    /// Root, with as many further users as were mapped.
    Range {
        /// Users besides root.
        users: u32,
        /// Groups besides root's.
        groups: u32,
        /// The user's own id outside.
        uid: u32,
        /// Their group's.
        gid: u32,
    },
    /// Root and nobody else: files of other owners cannot be made, package managers fail.
    Single {
        /// Why there is no range, in words.
        reason: String,
        /// What would help.
        fix: String,
    },
    /// Nothing: a user like any other, who can only look.
    Nothing,
}

/// Is the caller root, if only of the user namespace it was started in?
pub fn is_root() -> bool {
    Uid::effective().is_root()
}

/// Makes a caller that is not root the root of a new user and mount namespace.
///
/// Must be called at program start with a single thread. A second call finds root and does nothing. Costs two
/// processes more where a range is mapped. A crash leaves nothing: the namespaces end with their processes.
pub fn enter_userns() -> Result<Entered> {
    if is_root() {
        return Ok(Entered::Root);
    }
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    let name = user_name(uid);
    let [subuid, subgid] =
        ["/etc/subuid", "/etc/subgid"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let ranges = find_range(&subuid, &name, uid).zip(find_range(&subgid, &name, uid));
    let (reason, fix) = match ranges {
        Some((users, groups)) => match enter_with_ranges((uid, users), (gid, groups)) {
            Ok(()) => return Ok(Entered::Range { users: users.1, groups: groups.1, uid, gid }),
            Err(Failed::Mapping { reason, fix }) => (reason, fix.to_owned()),
            Err(Failed::Namespace(error)) => return Err(error),
        },
        None => {
            unshare_both()?;
            let user = if name.is_empty() { uid.to_string() } else { name };
            ("/etc/subuid and /etc/subgid have no range for you".to_owned(), grant(&user, [&subuid, &subgid]))
        }
    };
    map_single(uid, gid)?;
    become_root()?;
    Ok(Entered::Single { reason, fix })
}

/// Returns the command that gives a user a range which nobody has; `granted` are the files of ranges.
fn grant(user: &str, granted: [&str; 2]) -> String {
    const USUAL: (u32, u32) = (100_000, 65536);
    let ranges = granted.into_iter().flat_map(str::lines).filter_map(parse_range);
    let first = ranges.map(|(_, (first, count))| first.saturating_add(count)).fold(USUAL.0, u32::max);
    let range = format!("{first}-{}", first.saturating_add(USUAL.1 - 1));
    format!("as root: usermod --add-subuids {range} --add-subgids {range} {user}")
}

/// Why user namespaces are forbidden to ordinary users here, and what would allow them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forbidden {
    /// Why.
    pub reason: &'static str,
    /// One action of the administrator's.
    pub fix: &'static str,
}

/// Looks at the switches that distributions use: a count of 0, Debian's old one, Ubuntu's AppArmor one.
pub fn forbidden() -> Option<Forbidden> {
    const SWITCHES: [(&str, u64, Forbidden); 3] = [
        (
            "user/max_user_namespaces",
            0,
            Forbidden {
                reason: "user.max_user_namespaces is 0",
                fix: "as root: sysctl user.max_user_namespaces=15000",
            },
        ),
        (
            "kernel/unprivileged_userns_clone",
            0,
            Forbidden {
                reason: "kernel.unprivileged_userns_clone is 0",
                fix: "as root: sysctl kernel.unprivileged_userns_clone=1",
            },
        ),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            1,
            Forbidden {
                reason: "AppArmor restricts them",
                fix: "as root: sysctl kernel.apparmor_restrict_unprivileged_userns=0",
            },
        ),
    ];
    let reads = |name: &str, value: u64| {
        let text = fs::read_to_string(format!("/proc/sys/{name}"));
        text.is_ok_and(|text| text.trim().parse() == Ok(value))
    };
    SWITCHES.into_iter().find(|(name, value, _)| reads(name, *value)).map(|(.., forbidden)| forbidden)
}

/// Becomes root of the user namespace that a running box of the same user is in, with a mount namespace of its own.
///
/// A namespace made by [`enter_userns`] has no power over its siblings: whoever wants to join a box must stand
/// where the box stands; of a box with users of its own, where the one stood who started it. Must be called at program start with a single thread, by the user who started the box, and
/// instead of [`enter_userns`]. A box that has ended is an error of kind `NotFound`.
pub fn join_userns(of: &Running) -> Result<Entered> {
    let handle = of.open()?;
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    let joined = if of.userns.is_own() {
        let path = format!("/proc/{}/ns/user", of.pid);
        let own = fs::File::open(&path).context(|| format!("open({path:?})"))?;
        // The path was the box's if the box still runs.
        of.open()?;
        let around =
            sys::parent_namespace(own.as_fd()).context(|| format!("ioctl({path:?}, NS_GET_PARENT)"))?;
        nix::sched::setns(around, CloneFlags::CLONE_NEWUSER)
    } else {
        nix::sched::setns(&handle, CloneFlags::CLONE_NEWUSER)
    };
    joined.context(|| format!("setns(process {}, CLONE_NEWUSER)", of.pid)).map_err(|error| {
        match error.errno() {
            // It has ended since it was opened.
            Some(Errno::ESRCH) => error.with_kind(ErrorKind::NotFound),
            _ => error,
        }
    })?;
    unshare(CloneFlags::CLONE_NEWNS).context(|| "unshare(CLONE_NEWNS)")?;
    become_root()?;
    match (further_ids("/proc/self/uid_map")?, further_ids("/proc/self/gid_map")?) {
        (0, _) | (_, 0) => Ok(Entered::Single {
            reason: "the box was started without a range".to_owned(),
            fix: String::new(),
        }),
        (users, groups) => Ok(Entered::Range { users, groups, uid, gid }),
    }
}

/// Ids besides root in a map of `inside outside count` (user_namespaces(7)).
fn further_ids(path: &str) -> Result<u32> {
    let text = fs::read_to_string(path).context(|| format!("read({path})"))?;
    let counts = text.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u32>().ok());
    Ok(counts.fold(0, u32::saturating_add).saturating_sub(1))
}

enum Failed {
    /// The namespace is there and still unmapped.
    Mapping {
        reason: String,
        fix: &'static str,
    },
    Namespace(Error),
}

/// The caller's name: of /etc/passwd, else as the environment has it.
///
/// Not by the C library: it would load modules into a program that may be linked statically. A wrong `USER` gains nothing,
/// newuidmap asks for itself.
fn user_name(uid: u32) -> String {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let listed = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    listed.or_else(|| std::env::var("USER").ok()).unwrap_or_default()
}

/// The first range of a user in a file of `name:first:count` (subuid(5)); the name may be the number.
fn find_range(text: &str, name: &str, uid: u32) -> Option<(u32, u32)> {
    text.lines().filter_map(parse_range).find_map(|(who, range)| {
        let mine = (!name.is_empty() && who == name) || who.parse() == Ok(uid);
        (mine && range.1 > 0).then_some(range)
    })
}

fn parse_range(line: &str) -> Option<(&str, (u32, u32))> {
    let (who, range) = line.split_once(':')?;
    let (first, count) = range.split_once(':')?;
    Some((who, (first.trim().parse().ok()?, count.trim().parse().ok()?)))
}

fn unshare_both() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        .context(|| "unshare(CLONE_NEWUSER|CLONE_NEWNS)")
        .map_err(|error| match forbidden() {
            Some(Forbidden { reason, fix }) => {
                let message = format!("user namespaces are forbidden: {reason}");
                error.context(message).with_kind(ErrorKind::PermissionDenied).hint(fix)
            }
            None => error.hint("run as root: no user namespace can be made here"),
        })
}

type Range = (u32, (u32, u32));

/// The tools act on a process from outside its namespace, so a helper is forked before we enter it.
fn enter_with_ranges(users: Range, groups: Range) -> std::result::Result<(), Failed> {
    let pipes = || -> Result<_> {
        let go = std::io::pipe().context(|| "pipe()")?;
        Ok((go, std::io::pipe().context(|| "pipe()")?))
    };
    let ((go_reader, mut go), (mut answer, answer_writer)) = pipes().map_err(Failed::Namespace)?;
    let parent = std::process::id();
    let forked = sys::fork_single_threaded().context(|| "fork()").map_err(Failed::Namespace)?;
    let ForkResult::Parent { child } = forked else {
        drop((go, answer));
        help(parent, go_reader, answer_writer, users, groups);
    };
    drop((go_reader, answer_writer));
    let entered = unshare_both();
    if entered.is_ok() {
        // Best effort: if the helper has died, the answer below is short.
        drop(go.write_all(b"g"));
    }
    drop(go);
    let mut text = String::new();
    // Best effort: no answer counts as a bad one.
    drop(answer.read_to_string(&mut text));
    sys::wait_for(child.as_raw()).ok();
    entered.map_err(Failed::Namespace)?;
    match text.as_str() {
        "ok" => become_root().map_err(Failed::Namespace),
        reason => {
            let missing = reason.ends_with(MISSING);
            let fix = if missing {
                "as root: install the package uidmap (shadow-utils)"
            } else {
                "see `man newuidmap`"
            };
            Err(Failed::Mapping { reason: reason.to_owned(), fix })
        }
    }
}

/// In the helper: maps the caller's ids once it is in its namespace, answers, ends.
fn help(parent: u32, mut go: PipeReader, mut answer: PipeWriter, users: Range, groups: Range) -> ! {
    let mut byte = [0];
    if matches!(go.read(&mut byte), Ok(1)) {
        let text = match map_range("newuidmap", parent, users)
            .and_then(|()| map_range("newgidmap", parent, groups))
        {
            Ok(()) => "ok".to_owned(),
            Err(reason) => reason,
        };
        // Best effort: the caller takes silence for a failure.
        drop(answer.write_all(text.as_bytes()));
    }
    sys::exit(0)
}

/// How the helper says that a tool is not there.
const MISSING: &str = " is not installed";

fn map_range(tool: &str, parent: u32, (own, (first, count)): Range) -> std::result::Result<(), String> {
    let mut command = Command::new(tool);
    command.arg(parent.to_string()).args([
        "0",
        &own.to_string(),
        "1",
        "1",
        &first.to_string(),
        &count.to_string(),
    ]);
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{tool}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(format!("{tool}{MISSING}")),
        Err(error) => Err(format!("{tool}: {error}")),
    }
}

fn map_single(uid: u32, gid: u32) -> Result<()> {
    // user_namespaces(7): setgroups must be given up before an unprivileged process may map a group.
    let files = [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("0 {uid} 1")),
        ("gid_map", format!("0 {gid} 1")),
    ];
    for (file, text) in files {
        let path = format!("/proc/self/{file}");
        match fs::write(&path, &text) {
            // newuidmap worked and newgidmap did not: the users are mapped already.
            Err(_) if file == "uid_map" && fs::read_to_string(&path).is_ok_and(|map| !map.is_empty()) => {}
            other => other.context(|| format!("write({path}, {text:?})"))?,
        }
    }
    Ok(())
}

/// Supplementary groups stay: what the user may read through one, they still may. A command in a box loses them.
fn become_root() -> Result<()> {
    sys::set_identity(0, 0, None)
        .context(|| "setresuid(0)")
        .map_err(|error| error.with_kind(ErrorKind::PermissionDenied))
}

#[cfg(test)]
mod tests {
    use super::find_range;

    #[test]
    fn a_range_is_found_by_name_or_number_and_nonsense_is_skipped() {
        let text = "# note\nyou:1:2\nme:x:5\nme:100000:65536\n1001:7:8\n";
        assert_eq!(find_range(text, "me", 1001), Some((100_000, 65536)));
        assert_eq!(find_range(text, "", 1001), Some((7, 8)));
        assert_eq!(find_range(text, "they", 5), None);
    }
}
