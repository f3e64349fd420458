//! Ordinary users, who exist only in the mount namespace of the bench: private copies of the account files, with a line more, are
//! mounted over the host's.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rootling_backends::{Context, Error, ErrorKind, Result};

use crate::command::{command, timed};
use crate::fixture::Scratch;

/// What both have on their path: the directories of the bench's caller are not theirs to search.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Above what distributions give to people and to services.
const FIRST_ID: u32 = 64_100;
/// Ids that are lent to the first of them, from here on.
const LENT: &str = "3000000:65536";

/// Somebody with an id of their own, a home on the file system that is measured, and perhaps a range of lent ids.
#[derive(Debug, Clone)]
pub(super) struct Guest {
    /// What tables call them.
    pub(super) label: &'static str,
    name: &'static str,
    id: u32,
    home: PathBuf,
}

/// The two kinds of users there are, or why there are none.
#[derive(Debug)]
pub(crate) struct Guests {
    ids: Result<[u32; 2]>,
}

impl Guests {
    const NAMES: [(&'static str, &'static str); 2] =
        [("bench-range", "user"), ("bench-single", "user of one id")];

    /// Makes them known in this mount namespace. Where that cannot be, only root is measured.
    pub(crate) fn introduce(scratch: &Scratch) -> Self {
        Self { ids: introduce(scratch.path()) }
    }

    /// Gives each a home below `directory`, which everybody may enter.
    pub(super) fn at(&self, directory: &Path) -> Result<Vec<Guest>> {
        let ids = match &self.ids {
            Ok(ids) => ids,
            Err(error) => return Err(Error::new(error.kind(), error.to_string())),
        };
        let guests = Self::NAMES.iter().zip(ids).map(|(&(name, label), &id)| {
            let home = directory.join(name);
            std::fs::create_dir(&home).context(|| format!("mkdir({home:?})"))?;
            chown(&home, Some(id), Some(id)).context(|| format!("chown({home:?}, {id})"))?;
            Ok(Guest { label, name, id, home })
        });
        guests.collect()
    }
}

fn introduce(scratch: &Path) -> Result<[u32; 2]> {
    let directory = scratch.join("accounts");
    std::fs::create_dir(&directory).context(|| format!("mkdir({directory:?})"))?;
    let read = |file: &str| {
        let path = format!("/etc/{file}");
        std::fs::read_to_string(&path).context(|| format!("read({path:?})"))
    };
    let passwd = read("passwd")?;
    let is_free = |id: &u32| !passwd.contains(&format!(":{id}:"));
    let mut free = (FIRST_ID..).filter(is_free);
    let ids = [(); 2].map(|()| free.next().unwrap_or(FIRST_ID));
    let [(range, _), (single, _)] = Guests::NAMES;
    let [a, b] = ids;
    let files = [
        ("passwd", format!("{range}:x:{a}:{a}::/:/bin/sh\n{single}:x:{b}:{b}::/:/bin/sh\n")),
        ("group", format!("{range}:x:{a}:\n{single}:x:{b}:\n")),
        ("subuid", format!("{range}:{LENT}\n")),
        ("subgid", format!("{range}:{LENT}\n")),
    ];
    for (file, lines) in files {
        let copy = directory.join(file);
        let text = format!("{}\n{lines}", read(file)?.trim_end());
        std::fs::write(&copy, text).context(|| format!("write {copy:?}"))?;
        let mode = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(&copy, mode).context(|| format!("chmod({copy:?}, 0644)"))?;
        timed(command("mount", ["--bind"]).arg(&copy).arg(format!("/etc/{file}")))?;
    }
    for program in ["newuidmap", "newgidmap"] {
        let paths = PATH.split(':').map(|directory| Path::new(directory).join(program));
        if !paths.into_iter().any(|path| path.exists()) {
            return Err(Error::new(ErrorKind::NotFound, format!("{program} is not installed")));
        }
    }
    Ok(ids)
}

impl Guest {
    pub(super) fn home(&self) -> &Path {
        &self.home
    }

    pub(super) fn has_range(&self) -> bool {
        self.name == Guests::NAMES[0].0
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Lets a command see what it would see after a login of theirs.
    pub(super) fn surround(&self, command: &mut Command) {
        command.env("HOME", &self.home).env("XDG_RUNTIME_DIR", &self.home).env("PATH", PATH);
        command.env("USER", self.name).current_dir(&self.home);
    }

    /// Makes it theirs. The standard library drops root's other groups with that.
    pub(super) fn dress(&self, command: &mut Command) {
        self.surround(command);
        command.uid(self.id).gid(self.id);
    }

    /// The flags by which strace, itself root's, runs a command of theirs: programs that set user ids do so only then.
    pub(super) fn traced(&self) -> [&'static str; 2] {
        ["-u", self.name]
    }
}
