//! A tree's own settings and what was asked for, made into what is run.

use std::ffi::{OsStr, OsString};
use std::net::IpAddr;
use std::path::PathBuf;

use rootling_backends::{Dir, Error, ErrorKind, Mount, Result};

mod person;
mod signal;

pub use person::Person;
pub use signal::signal;

use crate::image::ImageConfig;
use crate::runner::cgroup::Limits;
use crate::runner::net::{Dns, Resolv, resolv};
use crate::runner::{
    self, Bind, DEFAULT_PATH, Device, FileAt, Namespace, Namespaces, Process, Security, Spec, Tmpfs, Tty,
    Userns,
};

/// What a person can ask for when running a command in a tree.
#[derive(Debug, Clone)]
pub struct Command {
    /// The command; empty for the user's shell.
    pub args: Vec<OsString>,
    /// Variables that it has besides those that follow from the user and the machine; those below win.
    pub ambient: Vec<(&'static str, OsString)>,
    /// Variables of the image or box; those below win.
    pub image_env: Vec<String>,
    /// `NAME=value`, or `NAME` to pass ours on; the last one of a name holds.
    pub env: Vec<String>,
    /// The working directory; `None` for the user's home, or `/`.
    pub cwd: Option<PathBuf>,
    /// `name`, `uid`, `name:group`, `uid:gid`.
    pub user: String,
    /// A person of the host, instead of `user`.
    pub person: Option<Person>,
    /// The name of the machine as seen inside.
    pub hostname: String,
    /// Whether there is a terminal.
    pub tty: Tty,
}

/// What a person can ask for when starting a box.
#[derive(Debug, Clone)]
pub struct Request {
    /// The command.
    pub command: Command,
    /// What of the kernel's state is the box's own.
    pub namespaces: Namespaces,
    /// Name servers instead of the host's.
    pub dns: Dns,
    /// The user namespace.
    pub userns: Userns,
    /// What the box may not do.
    pub security: Security,
    /// What the box may use at most.
    pub limits: Limits,
    /// Devices of the host shown inside.
    pub devices: Vec<Device>,
    /// Kernel parameters.
    pub sysctls: Vec<(String, String)>,
    /// May nothing be written to the tree?
    pub read_only: bool,
    /// Further lines of `/etc/hosts`.
    pub hosts: Vec<(String, IpAddr)>,
    /// Directories and files of the host shown inside.
    pub binds: Vec<Bind>,
    /// Empty file systems in memory.
    pub tmpfs: Vec<Tmpfs>,
    /// Directories that are made in the tree where they are missing.
    pub make_dirs: Vec<PathBuf>,
}

impl Command {
    /// Returns the variables that a command of ours has: what it runs in, and what the caller's terminal and language are.
    pub fn usual_ambient() -> Vec<(&'static str, OsString)> {
        let callers = ["TERM", "LANG", "COLORTERM"].into_iter();
        let callers = callers.filter_map(|name| std::env::var_os(name).map(|value| (name, value)));
        std::iter::once(("container", "rootling".into())).chain(callers).collect()
    }

    /// Makes the command and its surroundings: names become ids by the tree's own files, the environment starts from empty.
    pub fn process(&self, root: &Dir) -> Result<Process> {
        let account = match &self.person {
            Some(person) => person.account(root)?,
            None => runner::resolve(root, &self.user)?,
        };
        let home = account.home.clone();
        let args = if self.args.is_empty() {
            vec![shell(root, account.shell.as_deref())]
        } else {
            self.args.clone()
        };
        let mut env: Vec<(OsString, OsString)> = vec![
            ("PATH".into(), DEFAULT_PATH.into()),
            ("HOME".into(), home.clone().into_os_string()),
            ("HOSTNAME".into(), self.hostname.clone().into()),
        ];
        env.extend(account.name.as_ref().map(|name| ("USER".into(), name.into())));
        env.extend(self.ambient.iter().map(|(name, value)| ((*name).into(), value.clone())));
        for given in &self.image_env {
            let (name, value) = given.split_once('=').unwrap_or((given, ""));
            env.retain(|(known, _)| known != OsStr::new(name));
            env.push((name.into(), value.into()));
        }
        for wanted in &self.env {
            let (name, value) = wanted.split_once('=').map_or_else(
                || (wanted.as_str(), std::env::var_os(wanted)),
                |(name, value)| (name, Some(value.into())),
            );
            if name.is_empty() {
                let message = format!("{wanted:?} is not a variable");
                return Err(
                    Error::new(ErrorKind::InvalidInput, message).hint("write -e NAME=value, or -e NAME")
                );
            }
            env.retain(|(known, _)| known != OsStr::new(name));
            env.extend(value.map(|value| (name.into(), value)));
        }
        let joined = |(mut name, value): (OsString, OsString)| {
            name.push("=");
            name.push(value);
            name
        };
        Ok(Process {
            args,
            env: env.into_iter().map(joined).collect(),
            cwd: self.cwd.clone().unwrap_or_else(|| existing_dir(root, home)),
            user: account.user,
            tty: self.tty,
        })
    }
}

impl Request {
    /// Makes everything: the command in a tree shown by `mount`, whose root `root` is.
    pub fn spec(&self, mount: Mount, root: &Dir) -> Result<Spec> {
        let hosts = hosts(&self.command.hostname, &self.hosts);
        let mut files = vec![FileAt::new("/etc/hosts", hosts)];
        if self.namespaces.uts == Namespace::Private {
            let content = format!("{}\n", self.command.hostname);
            files.push(FileAt::new("/etc/hostname", content));
        }
        if let Some(Resolv { content, note }) = resolv(&self.namespaces.net, &self.dns) {
            files.push(FileAt::new("/etc/resolv.conf", content));
            if let Some(note) = note {
                log::warn!("{note}");
            }
        }
        if let Some(person) = &self.command.person {
            files.extend(person.files(root)?);
        }
        Ok(Spec {
            root: mount,
            read_only: self.read_only,
            process: self.command.process(root)?,
            hostname: self.command.hostname.clone(),
            namespaces: self.namespaces.clone(),
            userns: self.userns.clone(),
            security: self.security.clone(),
            limits: self.limits.clone(),
            shm_bytes: None,
            devices: self.devices.clone(),
            sysctls: self.sysctls.clone(),
            tmpfs: self.tmpfs.clone(),
            binds: self.binds.clone(),
            make_dirs: self.make_dirs.clone(),
            files,
        })
    }
}

/// Returns what an image's entrypoint and command make of what was asked for, by docker's rules; empty where nobody says anything.
///
/// An entrypoint that was asked for, even an empty one, makes the image's command meaningless.
pub fn arguments(config: &ImageConfig, entrypoint: Option<&str>, asked: Vec<OsString>) -> Vec<OsString> {
    let own = |list: &[String]| list.iter().map(OsString::from).collect::<Vec<_>>();
    let mut args = match entrypoint {
        None => own(&config.entrypoint),
        Some(text) => entrypoint_words(text).iter().map(OsString::from).collect(),
    };
    let rest = if asked.is_empty() && entrypoint.is_none() { own(&config.cmd) } else { asked };
    args.extend(rest);
    args
}

/// A JSON list, or one program.
fn entrypoint_words(text: &str) -> Vec<String> {
    match serde_json::from_str(text) {
        Ok(list) => list,
        Err(_) if text.is_empty() => Vec::new(),
        Err(_) => vec![text.to_owned()],
    }
}

/// Are all programs of the tree for i386, with a C library that makes sockets through `socketcall`?
///
/// The loader of the other C library of that architecture, and of 64-bit programs, have other names.
pub fn makes_i386_sockets(root: &Dir) -> bool {
    let there = |path: &str| root.open_in_root(path, nix::fcntl::OFlag::O_PATH).is_ok();
    cfg!(target_arch = "x86_64") && there("/lib/ld-linux.so.2") && !there("/lib64/ld-linux-x86-64.so.2")
}

/// Makes `/etc/hosts`.
pub(crate) fn hosts(hostname: &str, further: &[(String, IpAddr)]) -> String {
    let known = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
    let further: String = further.iter().map(|(name, address)| format!("{address}\t{name}\n")).collect();
    format!("{known}127.0.1.1\t{hostname}\n{further}")
}

/// The account's shell if the tree has it, else the one every tree has.
fn shell(root: &Dir, shell: Option<&std::path::Path>) -> OsString {
    let there = |path: &std::path::Path| root.open_in_root(path, nix::fcntl::OFlag::O_PATH).is_ok();
    match shell.filter(|shell| there(shell)) {
        Some(shell) => shell.into(),
        None => "/bin/sh".into(),
    }
}

fn existing_dir(root: &Dir, home: PathBuf) -> PathBuf {
    let flags = nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_DIRECTORY;
    if root.open_in_root(&home, flags).is_ok() { home } else { "/".into() }
}

/// Makes a machine name of a node's name: letters, digits and hyphens, 63 at the most (RFC 1123).
pub fn hostname_of(name: &str) -> String {
    let tame = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = name.chars().map(tame).take(63).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "rootling".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_hosts_are_lines_after_those_of_every_machine() {
        let further = [("db".to_owned(), "10.0.0.1".parse().unwrap())];
        let text = hosts("me", &further);
        assert_eq!(text.lines().skip(2).collect::<Vec<_>>(), ["127.0.1.1\tme", "10.0.0.1\tdb"]);
    }

    #[test]
    fn entrypoint_and_command_go_together_as_in_docker() {
        let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let both = ImageConfig { entrypoint: own(&["e"]), cmd: own(&["c"]), ..ImageConfig::default() };
        let made = |entrypoint, asked: &[&str]| {
            let asked = asked.iter().map(OsString::from).collect();
            arguments(&both, entrypoint, asked).join(OsStr::new(" ")).into_string().unwrap()
        };
        assert_eq!(made(None, &[]), "e c");
        assert_eq!(made(None, &["x", "y"]), "e x y");
        assert_eq!(made(Some("z"), &[]), "z");
        assert_eq!(made(Some("[\"z\", \"-v\"]"), &["x"]), "z -v x");
        assert_eq!(made(Some(""), &["x"]), "x");
        assert_eq!(arguments(&ImageConfig::default(), None, vec![]), [""; 0]);
    }

    #[test]
    fn any_name_makes_a_machine_name() {
        assert_eq!(hostname_of("dev/rust:1.89"), "dev-rust-1-89");
        assert_eq!(hostname_of("_"), "rootling");
        assert_eq!(hostname_of(&"x".repeat(100)).len(), 63);
    }
}
