//! The processes of a box, read from the host's `/proc`: no program of the box is run, and none of its files read.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

use rootling_backends::{Context, Result, mount_table, small_file};

use super::control::parent_of;
use super::running::Running;

/// A process of a box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its id as the caller sees it.
    pub pid: i32,
    /// Its id inside.
    pub inside: i32,
    /// Its user, as the caller sees them.
    pub uid: u32,
    /// Its group, likewise.
    pub gid: u32,
    /// One letter of proc_pid_stat(5): R runs, S and D sleep, Z has ended, T is stopped.
    pub state: char,
    /// Bytes of memory that are its own or shared.
    pub resident_bytes: u64,
    /// Processor time, in hundredths of a second (`USER_HZ`).
    pub cpu_ticks: u64,
    /// Its arguments as it has set them; anything may stand there. The kernel's name of it where it has none.
    pub command: Vec<Vec<u8>>,
}

/// Bytes of arguments that are read of each process.
const ARGUMENTS: u64 = 4096;

impl Running {
    /// Lists the processes of the box by their id: those in its pid namespace, or where that is not its own, its first process
    /// and what descends from it.
    ///
    /// The caller needs to be root, or in the user namespace of the box ([`super::join_userns`]). A process that ends while
    /// it is read is left out.
    pub fn processes(&self) -> Result<Vec<Seen>> {
        Ok(self.first_level()?.into_iter().filter_map(read).collect())
    }

    /// Lists the ids of all processes of the box, those in pid namespaces that were made inside it too.
    pub(super) fn members(&self) -> Result<Vec<i32>> {
        Ok(descendants(self.first_level()?, &pids()?))
    }

    /// Returns what the directories are called in which trees lie that are mounted in the box.
    pub fn mounted_objects(&self) -> Result<BTreeSet<String>> {
        let path = format!("/proc/{}/mountinfo", self.pid);
        let text = fs::read(&path).context(|| format!("read({path:?})"))?;
        let object = |mounted: mount_table::Mounted| {
            let directory = mounted.root.ancestors().find(|path| path.ends_with("fs"))?.parent()?;
            directory.file_name()?.to_str().map(str::to_owned)
        };
        Ok(mount_table::parse(&text).into_iter().filter_map(object).collect())
    }

    fn first_level(&self) -> Result<Vec<i32>> {
        drop(self.open()?);
        let namespace =
            |pid: &str| fs::metadata(format!("/proc/{pid}/ns/pid")).map(|meta| (meta.dev(), meta.ino()));
        let own = namespace(&self.pid.to_string()).context(|| format!("stat(/proc/{}/ns/pid)", self.pid))?;
        let shared = namespace("self").is_ok_and(|ours| ours == own);
        let all = pids()?;
        Ok(if shared {
            descendants(vec![parent_of(self.pid)?], &all)
        } else {
            all.into_iter()
                .filter(|pid| namespace(&pid.to_string()).is_ok_and(|found| found == own))
                .collect()
        })
    }
}

fn pids() -> Result<Vec<i32>> {
    let entries = fs::read_dir("/proc").context(|| "opendir(/proc)")?;
    let mut pids: Vec<i32> =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    Ok(pids)
}

/// Returns some processes and all that descend from them.
fn descendants(mut found: Vec<i32>, all: &[i32]) -> Vec<i32> {
    let parents: Vec<(i32, i32)> = all.iter().filter_map(|pid| Some((*pid, parent_of(*pid).ok()?))).collect();
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        next += 1;
        let children = parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid);
        let new: Vec<i32> = children.filter(|pid| !found.contains(pid)).collect();
        found.extend(new);
    }
    found.sort_unstable();
    found
}

fn read(pid: i32) -> Option<Seen> {
    let status = small_file::read_record(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let first = |name: &str| field(name)?.split_whitespace().next()?.parse().ok();
    let stat = small_file::read_record(format!("/proc/{pid}/stat")).ok()?;
    let times = stat.rsplit_once(") ")?.1.split(' ').skip(11).take(2);
    let arguments = fs::File::open(format!("/proc/{pid}/cmdline")).ok().and_then(|file| {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(file, ARGUMENTS), &mut bytes).ok()?;
        Some(bytes).filter(|bytes| !bytes.is_empty())
    });
    let command = match arguments {
        Some(bytes) => {
            bytes.strip_suffix(b"\0").unwrap_or(&bytes).split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
        }
        None => vec![format!("[{}]", field("Name:")?).into_bytes()],
    };
    Some(Seen {
        pid,
        inside: field("NSpid:")?.split_whitespace().next_back()?.parse().ok()?,
        uid: first("Uid:")?,
        gid: first("Gid:")?,
        state: field("State:")?.chars().next()?,
        resident_bytes: first("VmRSS:").map_or(0, |kib: u32| u64::from(kib) * 1024),
        cpu_ticks: times.filter_map(|time| time.parse::<u64>().ok()).sum(),
        command,
    })
}
