//! A repository: how one writes it, and its files, by the program git.
//!
//! ```text
//! https://HOST/PATH.git#REF:DIRECTORY          git://  ssh://  file://  USER@HOST:PATH  github.com/OWNER/NAME
//! https://HOST/PATH.git?KEY=VALUE&…            ref branch tag subdir commit (or checksum) keep-git-dir submodules
//! ```
//!
//! Git is run with an environment and settings of its own: no configuration of the user or the machine, no hooks, no helpers and no questions for
//! passwords, only the protocols above. What it needs to be let in is an agent of ssh, or a header (a token). Addresses and headers
//! are written into the repository's own configuration: the arguments of a program can be read by everybody on a machine.

use std::fmt::{self, Write as _};
use std::fs;
use std::io::{Read, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::OFlag;
use rootling_backends::{Context as _, Dir, EntryType, Error, ErrorKind, Result};

use crate::build::glob;
use crate::registry;
use crate::sources::{Means, Program, missing};

/// Characters in the longest that is read.
const LIMIT: usize = 4 << 10;

/// Files that git makes are for all to read, whatever the umask.
const WITH_UMASK: &str = "umask 022 && exec \"$@\"";

/// Variables that git and ssh are given, where they are set.
const PASSED_ON: [&str; 14] = [
    "PATH",
    "TMPDIR",
    "SSH_AUTH_SOCK",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "XDG_RUNTIME_DIR",
];

/// Protocols that git may speak to other machines.
const PROTOCOLS: &str = "https:http:ssh:git";

/// A repository, and what of it is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// The address, as git understands it.
    remote: String,
    /// Branch, tag or commit; `None` for what the repository shows first.
    pub reference: Option<String>,
    /// The directory that is meant, cleaned, relative; `None` for all.
    pub subdir: Option<PathBuf>,
    /// The commit that it must be, or its beginning.
    pub commit: Option<String>,
    /// Does `.git` stay?
    pub keep_git_dir: Option<bool>,
    /// Are submodules fetched? Mostly they are.
    pub submodules: Option<bool>,
}

/// What was fetched.
#[derive(Debug)]
pub struct CheckedOut {
    /// The commit.
    pub commit: String,
    /// The directory that is meant: the target, or one below it.
    pub directory: Dir,
}

impl Repository {
    /// Reads a repository; `None` where the text is none.
    pub fn parse(text: &str) -> Option<Result<Self>> {
        let (address, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (address, query) = address.split_once('?').unwrap_or((address, ""));
        let remote = match address.split_once("://") {
            Some(("http" | "https", _)) if address.ends_with(".git") => address.to_owned(),
            Some(("git" | "ssh" | "file", _)) => address.to_owned(),
            Some(_) => return None,
            None if address.starts_with("github.com/") => format!("https://{address}"),
            None if is_scp_like(address) => address.to_owned(),
            None => return None,
        };
        Some(Self::of(text, remote, query, fragment))
    }

    fn of(text: &str, remote: String, query: &str, fragment: &str) -> Result<Self> {
        let wrong = |why: &str| {
            let shown: String = text.chars().take(200).collect();
            Error::new(ErrorKind::InvalidInput, format!("repository {shown:?}: {why}"))
        };
        if text.len() > LIMIT {
            return Err(wrong("it is too long"));
        }
        let host = remote.split_once("://").map_or(remote.as_str(), |(_, rest)| rest);
        let host = host.split(['/', ':']).next().unwrap_or_default();
        let host = host.rsplit('@').next().unwrap_or_default();
        let is_strange = |found: char| found.is_control() || found == ' ';
        if remote.contains(is_strange) || remote.starts_with('-') || host.starts_with('-') {
            return Err(wrong("that is no address"));
        }
        let has_host =
            if remote.starts_with("file:") { remote.starts_with("file:///") } else { !host.is_empty() };
        if !has_host {
            return Err(wrong("there is no host, or one for a file"));
        }
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        let mut found = Self {
            remote,
            reference: Some(reference.to_owned()).filter(|text| !text.is_empty()),
            subdir: Some(subdir.to_owned()).filter(|text| !text.is_empty()).map(Into::into),
            commit: None,
            keep_git_dir: None,
            submodules: None,
        };
        found.read_query(query).map_err(|why| wrong(&why))?;
        if found.reference.as_ref().or(found.commit.as_ref()).is_some_and(|name| !is_reference(name)) {
            return Err(wrong("that is no name of a branch, tag or commit"));
        }
        let subdir = found
            .subdir
            .as_ref()
            .map(|path| glob::clean(&[b"/", path.as_os_str().as_encoded_bytes()].concat())[1..].to_vec());
        let subdir = subdir
            .map(|bytes| String::from_utf8(bytes).expect("it was text"))
            .filter(|text| !text.is_empty());
        found.subdir = subdir.map(Into::into);
        if found.reference.is_none() {
            found.reference.clone_from(&found.commit);
        }
        Ok(found)
    }

    fn read_query(&mut self, query: &str) -> Result<(), String> {
        let mut kinds = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = unescaped(value).ok_or_else(|| format!("{pair:?} is not escaped right"))?;
            let prefixed = |prefix: &str| {
                if value.starts_with(prefix) { value.clone() } else { format!("{prefix}{value}") }
            };
            if value.is_empty() && !matches!(key, "submodules" | "keep-git-dir") {
                return Err(format!("{key} has no value"));
            }
            match key {
                "ref" => kinds.push(value),
                "branch" => kinds.push(prefixed("refs/heads/")),
                "tag" => kinds.push(prefixed("refs/tags/")),
                "subdir" => once(&mut self.subdir, value.into(), key)?,
                "commit" | "checksum" => once(&mut self.commit, value, key)?,
                "keep-git-dir" => once(&mut self.keep_git_dir, truth(&value, key)?, key)?,
                "submodules" => once(&mut self.submodules, truth(&value, key)?, key)?,
                _ => {
                    let known = "ref, branch, tag, subdir, commit, checksum, keep-git-dir and submodules";
                    return Err(format!("{key:?} is not known: there are {known}"));
                }
            }
        }
        kinds.into_iter().try_for_each(|kind| once(&mut self.reference, kind, "the reference"))?;
        match &self.commit {
            Some(commit) if commit.len() < 7 || !is_hex(commit) => Err(format!("{commit:?} is no commit")),
            _ => Ok(()),
        }
    }

    /// Does it lie on this machine? A Dockerfile must not name such a one.
    pub fn is_local(&self) -> bool {
        self.remote.starts_with("file:")
    }

    /// Returns the name of the directory that git would make.
    pub fn name(&self) -> &str {
        let last = self.remote.trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or_default();
        last.strip_suffix(".git").unwrap_or(last)
    }

    // ------------------------------------------------------------ git

    /// Asks the server which commit is meant now. `scratch` is an empty directory, which is left with something in it.
    ///
    /// What is a whole commit already is not asked for. `None`: it may be the beginning of a commit, which only who has all of them knows.
    pub fn resolve(&self, scratch: &Path, means: &Means<'_>, header: Option<&str>) -> Result<Option<String>> {
        let reference = self.reference.as_deref().unwrap_or("HEAD");
        if is_whole_commit(reference) {
            return Ok(Some(reference.to_owned()));
        }
        let git = Git { directory: scratch, means, repository: self };
        git.init(header)?;
        // The second is what an annotated tag is about.
        let listed = git.run(&["ls-remote", "origin", reference, &format!("{reference}^{{}}")], true)?;
        let commits: Vec<(&str, &str)> = listed.lines().filter_map(|line| line.split_once('\t')).collect();
        let found = ["", "refs/", "refs/tags/", "refs/heads/"].iter().find_map(|prefix| {
            let name = format!("{prefix}{reference}");
            let about = format!("{name}^{{}}");
            let of =
                |wanted: &str| commits.iter().find(|(_, name)| *name == wanted).map(|(commit, _)| *commit);
            of(&about).or_else(|| of(&name))
        });
        match found {
            Some(commit) => {
                self.require_commit(commit)?;
                Ok(Some(commit.to_owned()))
            }
            None if is_hex(reference) => Ok(None),
            None => Err(self.no_such(reference)),
        }
    }

    /// Fetches the files into `target`, an empty directory. After an error it is half made: the caller throws it away.
    ///
    /// No more of the history is fetched than one commit, if the server can do that. `.git` is there afterwards only if it is to be kept.
    pub fn check_out(&self, target: &Path, means: &Means<'_>, header: Option<&str>) -> Result<CheckedOut> {
        self.check_out_now(target, means, header).context(|| format!("get the files of {self}"))
    }

    fn check_out_now(&self, target: &Path, means: &Means<'_>, header: Option<&str>) -> Result<CheckedOut> {
        let git = Git { directory: target, means, repository: self };
        git.init(header)?;
        let commit = git.fetch(self.reference.as_deref())?;
        self.require_commit(&commit)?;
        git.run(&["checkout", "--quiet", "--force", "--detach", &commit], false)?;
        let root = Dir::open(target)?;
        let has_modules = root.stat_if_exists(".gitmodules")?.is_some();
        if has_modules && self.submodules != Some(false) {
            git.run(&["submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"], false)?;
        }
        if self.keep_git_dir == Some(true) {
            // Without what let us in.
            git.configure(&shown(&self.remote), None)?;
        } else {
            fs::remove_dir_all(target.join(".git"))
                .context(|| format!("remove {:?}", target.join(".git")))?;
            if has_modules {
                unlink_below(&root, ".git")?;
            }
        }
        let directory = match &self.subdir {
            None => root,
            // A link to a directory would do, but one that leads out leads to nothing.
            Some(subdir) => match root.open_in_root(subdir, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
                Ok(fd) => Dir::from_fd(fd, target.join(subdir)),
                Err(_) => {
                    let message = format!("there is no directory {subdir:?} in commit {commit}");
                    return Err(Error::new(ErrorKind::NotFound, message));
                }
            },
        };
        Ok(CheckedOut { commit, directory })
    }

    fn require_commit(&self, found: &str) -> Result<()> {
        match &self.commit {
            Some(wanted) if !found.starts_with(&wanted.to_ascii_lowercase()) => {
                let reference = self.reference.as_deref().unwrap_or("HEAD");
                let message = format!("{reference} of {self} is commit {found}, and should be {wanted}");
                Err(Error::new(ErrorKind::FailedPrecondition, message))
            }
            _ => Ok(()),
        }
    }

    fn no_such(&self, reference: &str) -> Error {
        let message = format!("{self} has no branch, tag or commit {reference}");
        Error::new(ErrorKind::NotFound, message).hint("list what there is: git ls-remote ADDRESS")
    }
}

/// Shows the address without a password.
impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.remote))
    }
}

fn shown(remote: &str) -> String {
    let Some((scheme, rest)) = remote.split_once("://") else { return remote.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((user, host)) => {
            let user = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}@{host}{path}")
        }
        None => remote.to_owned(),
    }
}

/// The program, in one repository.
struct Git<'a> {
    directory: &'a Path,
    means: &'a Means<'a>,
    repository: &'a Repository,
}

impl Git<'_> {
    fn init(&self, header: Option<&str>) -> Result<()> {
        self.run(&["init", "--quiet", "--template="], false)?;
        self.configure(&self.repository.remote, header)
    }

    /// Writes the repository's configuration. With a header nobody else can read it.
    fn configure(&self, remote: &str, header: Option<&str>) -> Result<()> {
        let path = self.directory.join(".git/config");
        let mut text = format!(
            "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\
             [remote \"origin\"]\n\turl = {}\n",
            quoted(remote)
        );
        if let Some(header) = header {
            let start = remote.find("://").map_or(0, |at| at + 3);
            let host = remote[start..].find('/').map_or(remote, |at| &remote[..=start + at]);
            write!(text, "[http {}]\n\textraheader = {}\n", quoted(host), quoted(header))
                .expect("a string takes all");
        }
        fs::remove_file(&path).context(|| format!("unlink({path:?})"))?;
        let is_secret = header.is_some() || remote.contains('@');
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(if is_secret { 0o600 } else { 0o644 });
        let mut file = options.open(&path).context(|| format!("open({path:?}, O_CREAT)"))?;
        file.write_all(text.as_bytes()).context(|| format!("write({path:?})"))
    }

    /// Fetches one commit, and returns which.
    fn fetch(&self, reference: Option<&str>) -> Result<String> {
        let wanted = reference.unwrap_or("HEAD");
        let shallow = self.run(&["fetch", "--quiet", "--depth=1", "--no-tags", "origin", wanted], false);
        let error = match shallow {
            Ok(_) => return self.commit_of("FETCH_HEAD"),
            Err(error) => error,
        };
        // Servers may give what has a name alone, and short commits are known to nobody who does not have them.
        if !is_hex(wanted) || wanted.len() < 4 {
            return Err(error);
        }
        let all =
            ["fetch", "--quiet", "origin", "+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"];
        self.run(&all, false).map_err(|_| error)?;
        self.commit_of(wanted).map_err(|_| self.repository.no_such(wanted))
    }

    fn commit_of(&self, name: &str) -> Result<String> {
        let printed = self.run(
            &["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{name}^{{commit}}")],
            true,
        )?;
        let commit = printed.lines().last().unwrap_or_default().trim();
        if is_whole_commit(commit) {
            return Ok(commit.to_owned());
        }
        Err(Error::new(ErrorKind::Corrupt, format!("git says {commit:?} of {name}, which is no commit")))
    }

    /// Runs git, and returns what it printed, if that is wanted.
    fn run(&self, arguments: &[&str], wants_output: bool) -> Result<String> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", WITH_UMASK, "sh", "git"]).args([
            "-c",
            "core.hooksPath=/dev/null",
            "-c",
            "core.fsmonitor=false",
        ]);
        command.args(["-c", "credential.helper=", "-c", "gc.auto=0", "-c", "core.autocrlf=false"]);
        command.args(arguments).current_dir(self.directory).env_clear();
        command.envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        let protocols =
            if self.repository.is_local() && arguments[0] != "submodule" { "file" } else { PROTOCOLS };
        for (name, value) in [
            ("LC_ALL", "C.UTF-8"),
            ("HOME", "/dev/null"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_TEMPLATE_DIR", ""),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ASKPASS", "/bin/false"),
            ("SSH_ASKPASS", "/bin/false"),
            ("GIT_SSH_COMMAND", "ssh -oBatchMode=yes"),
            ("GIT_ALLOW_PROTOCOL", protocols),
            ("GIT_LFS_SKIP_SMUDGE", "1"),
        ] {
            command.env(name, value);
        }
        let mut program = Program::start("git", &mut command, "git", self.means.bind)?;
        let mut printed = String::new();
        let mut output = program.output().take(1 << 20);
        output.read_to_string(&mut printed).context(|| "read what git prints")?;
        let ended = program.wait(self.means.tell)?;
        if ended.is(&[0]) {
            return Ok(if wants_output { printed } else { String::new() });
        }
        // What the shell says of a program that is not there.
        Err(if ended.is(&[127]) { missing("git", "git") } else { ended.failure() })
    }
}

/// Removes files of this name below a directory: what leads from a submodule to a repository that is gone.
fn unlink_below(root: &Dir, name: &str) -> Result<()> {
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        let dir = root.open_deep(&path)?;
        for entry in dir.entries_once()? {
            let kind = EntryType::of_mode(dir.stat(&entry.name)?.st_mode);
            if entry.name == name && kind == EntryType::File {
                dir.unlink(&entry.name)?;
            } else if kind == EntryType::Directory {
                waiting.push(path.join(&entry.name));
            }
        }
    }
    Ok(())
}

// ------------------------------------------------------------ grammar

/// Is it `USER@HOST:PATH`?
fn is_scp_like(text: &str) -> bool {
    let Some((host, path)) = text.split_once(':') else { return false };
    let Some((user, host)) = host.split_once('@') else { return false };
    let is_word = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    is_word(user) && is_word(host) && !path.is_empty()
}

/// May it be the name of a branch, tag or commit? What git would take for something else is refused: see git-check-ref-format(1).
fn is_reference(text: &str) -> bool {
    let is_strange = |found: char| found.is_control() || found.is_whitespace() || "~^:?*[\\".contains(found);
    !text.is_empty()
        && !text.starts_with(['-', '+', '/'])
        && !text.ends_with(['/', '.'])
        && !text.contains("..")
        && !text.contains("@{")
        && !text.contains(is_strange)
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_whole_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn once<T: PartialEq>(place: &mut Option<T>, value: T, what: &str) -> Result<(), String> {
    match place {
        Some(known) if *known != value => Err(format!("{what} is said twice, and not the same")),
        _ => {
            *place = Some(value);
            Ok(())
        }
    }
}

fn truth(text: &str, key: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "" | "1" | "t" | "true" => Ok(true),
        "0" | "f" | "false" => Ok(false),
        _ => Err(format!("{key} is true or false, and not {text:?}")),
    }
}

/// Reads `%2F` and the like.
fn unescaped(text: &str) -> Option<String> {
    String::from_utf8(registry::unescaped(text)?).ok()
}

/// Writes a value as git's configuration has it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

#[cfg(test)]
mod tests;
