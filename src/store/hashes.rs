//! What files of the host hashed to, so that they need not be read again: one file in `hashes/` for each directory that was a context.
//!
//! An inode is believed to be what it was when device, number, size, time of change (mtime) and time of the inode's change (ctime) are what they
//! were. Nobody sets ctime: whoever writes, and whoever sets mtime back, moves it. Two things would go unseen: a change in the same tick of
//! the file system's clock as the reading, which is why nothing is noted of an inode that changed less than [`SETTLED`] before it was read;
//! and what a process writes into a page that it had mapped, and written to, before the file was read.
//!
//! A note that is lost or damaged costs one more reading. Layout: `FORMAT.md`.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use nix::sys::stat::FileStat;
use nix::sys::statfs;
use rootling_backends::{Context, Dir, Result};

use super::envelope;
use super::files::{self, Durability};
use super::{Store, fault};

const MAGIC: &[u8; 8] = b"RLHASHES";

/// Files of which one directory's notes tell at the most.
const MOST_FILES: usize = 200_000;

/// Directories that are remembered.
const MOST_DIRECTORIES: usize = 64;

/// Bytes of one note.
const RECORD: usize = 80;

const LIMIT: u64 = (MOST_FILES * RECORD + envelope::HEADER) as u64;

/// How long an inode must have rested before it is read, for the reading to be remembered: more than a tick of any local file system (FAT has
/// two seconds).
const SETTLED: Duration = Duration::from_secs(3);

/// The same where a server's clock, not ours, says when an inode changed.
const SETTLED_ELSEWHERE: Duration = Duration::from_secs(3600);

/// Where an inode is told apart: on which device, and its number there.
type Place = (u64, u64);

/// What is known of the files of a directory. Shared by threads.
#[derive(Debug)]
pub struct FileHashes {
    path: PathBuf,
    device: u64,
    settled: Duration,
    /// Records, sorted by place.
    known: Vec<u8>,
    /// Which of them were asked for.
    used: Vec<AtomicBool>,
    new: Mutex<BTreeMap<Place, [u8; RECORD]>>,
    /// What was read just now, also of inodes that had not rested.
    read: Mutex<HashMap<[u8; RECORD - 32], [u8; 32]>>,
}

impl Store {
    /// Opens what is known of the files in and below a directory of the host. Never fails for what was noted before: that is read again.
    pub fn file_hashes(&self, directory: &Dir) -> Result<FileHashes> {
        let stat = directory.stat_self()?;
        let path = self.root.join("hashes").join(format!("{:x}-{:x}", stat.st_dev, stat.st_ino));
        let bytes = files::read(&path, LIMIT).unwrap_or_default();
        let known =
            envelope::open(MAGIC, &bytes).ok().filter(|payload| is_sorted(payload)).unwrap_or_default();
        let used = std::iter::repeat_with(AtomicBool::default).take(known.len() / RECORD).collect();
        let settled = if is_remote(directory) { SETTLED_ELSEWHERE } else { SETTLED };
        Ok(FileHashes {
            path,
            device: stat.st_dev,
            settled,
            known: known.to_vec(),
            used,
            new: Mutex::default(),
            read: Mutex::default(),
        })
    }
}

impl FileHashes {
    /// Returns what was noted of an inode that is what it was then.
    pub fn get(&self, stat: &FileStat) -> Option<[u8; 32]> {
        let at = self.find(place(stat))?;
        let (inode, digest) = self.record(at).split_at(RECORD - 32);
        if inode != identity(stat) {
            return None;
        }
        self.used[at].store(true, Ordering::Relaxed);
        digest.try_into().ok()
    }

    /// Returns what an inode came to when it was last read here, for people to be told: unlike [`get`](Self::get) also of one that may have
    /// been written to in the same tick.
    pub fn last_read(&self, stat: &FileStat) -> Option<[u8; 32]> {
        let read =
            self.read.lock().expect("no thread panics while it holds the lock").get(&identity(stat)).copied();
        read.or_else(|| self.get(stat))
    }

    /// Notes what an inode hashed to that was read after `before` and was still the same at the end.
    pub fn note(&self, stat: &FileStat, before: SystemTime, digest: [u8; 32]) {
        self.read.lock().expect("no thread panics while it holds the lock").insert(identity(stat), digest);
        let settled = if stat.st_dev == self.device { self.settled } else { SETTLED_ELSEWHERE };
        if !is_settled(stat, before, settled) {
            return;
        }
        let mut record = [0; RECORD];
        record[..RECORD - 32].copy_from_slice(&identity(stat));
        record[RECORD - 32..].copy_from_slice(&digest);
        self.new.lock().expect("no thread panics while it holds the lock").insert(place(stat), record);
    }

    /// Writes what was noted since it was opened, if anything was. Not synced: after a power cut it may be damaged, and is read as nothing.
    ///
    /// Two processes at once keep what the later one knows. The notes of the directory that was a context longest ago go when there are too many.
    pub fn save(&self) -> Result<()> {
        let new = std::mem::take(&mut *self.new.lock().expect("no thread panics while it holds the lock"));
        if new.is_empty() {
            return Ok(());
        }
        let directory = self.path.parent().expect("it is in hashes/");
        files::make_dir(directory)?;
        if !self.path.exists() {
            forget_oldest(directory)?;
        }
        fault::point("hashes.save");
        files::replace(&self.path, &envelope::seal(MAGIC, &self.merged(new)), Durability::Lazy).context(
            || format!("remember what files of {:?} hash to", self.path.file_name().unwrap_or_default()),
        )
    }

    fn merged(&self, new: BTreeMap<Place, [u8; RECORD]>) -> Vec<u8> {
        let mut all: BTreeMap<Place, &[u8]> =
            new.iter().map(|(place, record)| (*place, record.as_slice())).collect();
        for was_used in [true, false] {
            for at in 0..self.used.len() {
                if all.len() >= MOST_FILES {
                    break;
                }
                if self.used[at].load(Ordering::Relaxed) == was_used {
                    all.entry(place_of(self.record(at))).or_insert(self.record(at));
                }
            }
        }
        all.into_values().take(MOST_FILES).flatten().copied().collect()
    }

    fn record(&self, at: usize) -> &[u8] {
        &self.known[at * RECORD..(at + 1) * RECORD]
    }

    fn find(&self, wanted: Place) -> Option<usize> {
        let (mut low, mut high) = (0, self.used.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            match place_of(self.record(middle)).cmp(&wanted) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Some(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }
}

fn place(stat: &FileStat) -> Place {
    (stat.st_dev, stat.st_ino)
}

fn place_of(record: &[u8]) -> Place {
    let word = |at: usize| u64::from_le_bytes(record[at..at + 8].try_into().expect("eight bytes"));
    (word(0), word(8))
}

/// Returns what must be the same for an inode to be what it was.
fn identity(stat: &FileStat) -> [u8; RECORD - 32] {
    let mut bytes = [0; RECORD - 32];
    bytes[0..8].copy_from_slice(&stat.st_dev.to_le_bytes());
    bytes[8..16].copy_from_slice(&stat.st_ino.to_le_bytes());
    bytes[16..24].copy_from_slice(&stat.st_size.to_le_bytes());
    bytes[24..32].copy_from_slice(&stat.st_mtime.to_le_bytes());
    bytes[32..40].copy_from_slice(&stat.st_ctime.to_le_bytes());
    // Nanoseconds fit in 30 bits.
    let nanoseconds = (stat.st_mtime_nsec as u64) << 32 | stat.st_ctime_nsec as u64;
    bytes[40..48].copy_from_slice(&nanoseconds.to_le_bytes());
    bytes
}

fn is_settled(stat: &FileStat, before: SystemTime, settled: Duration) -> bool {
    let since = u64::try_from(stat.st_ctime).ok().zip(u32::try_from(stat.st_ctime_nsec).ok());
    let changed =
        since.and_then(|(seconds, nanos)| SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos)));
    // A time before 1970 is no clock's.
    changed.is_some_and(|changed| before.duration_since(changed).is_ok_and(|rested| rested > settled))
}

fn is_sorted(payload: &[u8]) -> bool {
    let places: Vec<Place> = payload.chunks_exact(RECORD).map(place_of).collect();
    payload.len().is_multiple_of(RECORD) && places.is_sorted_by(|a, b| a < b)
}

/// Does another machine's clock say when files here change? Of file systems in user space nobody knows.
fn is_remote(directory: &Dir) -> bool {
    const NFS: u32 = 0x6969;
    const SMB: u32 = 0x517b;
    const SMB2: u32 = 0xfe53_4d42;
    const CIFS: u32 = 0xff53_4d42;
    const V9FS: u32 = 0x0102_1997;
    const CEPH: u32 = 0x00c3_6400;
    const FUSE: u32 = 0x6573_5546;
    // The width of the number differs between machines; all of them fit in 32 bits.
    statfs::fstatfs(directory).map_or(true, |found| {
        [NFS, SMB, SMB2, CIFS, V9FS, CEPH, FUSE].contains(&(found.filesystem_type().0 as u32))
    })
}

/// Makes room for the notes of one more directory.
fn forget_oldest(directory: &Path) -> Result<()> {
    let names = files::list(directory)?;
    let mut by_age: Vec<_> = names
        .into_iter()
        .map(|name| directory.join(name))
        .map(|path| (fs::symlink_metadata(&path).and_then(|found| found.modified()).ok(), path))
        .collect();
    by_age.sort();
    let too_many = (by_age.len() + 1).saturating_sub(MOST_DIRECTORIES);
    by_age.into_iter().take(too_many).try_for_each(|(_, path)| files::remove_if_exists(&path).map(drop))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    struct Ground {
        temp: tempfile::TempDir,
        store: Store,
    }

    fn ground() -> Ground {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("context")).unwrap();
        let store = Store::init(&temp.path().join("store"), None).unwrap();
        Ground { temp, store }
    }

    impl Ground {
        fn hashes(&self) -> FileHashes {
            self.store.file_hashes(&Dir::open(self.temp.path().join("context")).unwrap()).unwrap()
        }

        fn file(&self, name: &str) -> FileStat {
            let path = self.temp.path().join("context").join(name);
            if !path.exists() {
                fs::write(&path, name).unwrap();
            }
            nix::sys::stat::lstat(&path).unwrap()
        }
    }

    fn later() -> SystemTime {
        SystemTime::now() + SETTLED + Duration::from_secs(1)
    }

    #[test]
    fn what_was_noted_is_known_until_the_inode_changes() {
        let ground = ground();
        let (a, b) = (ground.file("a"), ground.file("b"));
        let hashes = ground.hashes();
        hashes.note(&a, later(), [1; 32]);
        hashes.note(&b, later(), [2; 32]);
        hashes.save().unwrap();
        let hashes = ground.hashes();
        assert_eq!((hashes.get(&a), hashes.get(&b)), (Some([1; 32]), Some([2; 32])));
        for change in [
            |stat: &mut FileStat| stat.st_ctime_nsec ^= 1,
            |stat: &mut FileStat| stat.st_mtime_nsec ^= 1,
            |stat: &mut FileStat| stat.st_ctime += 1,
            |stat: &mut FileStat| stat.st_mtime += 1,
            |stat: &mut FileStat| stat.st_size += 1,
            |stat: &mut FileStat| stat.st_ino ^= 1 << 40,
            |stat: &mut FileStat| stat.st_dev += 1,
        ] {
            let mut changed = a;
            change(&mut changed);
            assert_eq!(hashes.get(&changed), None);
        }
        // A later note takes the place of an earlier one, and the others stay.
        let mut changed = a;
        changed.st_ctime += 1;
        hashes.note(&changed, later() + Duration::from_secs(1), [3; 32]);
        hashes.save().unwrap();
        let hashes = ground.hashes();
        assert_eq!(
            (hashes.get(&a), hashes.get(&changed), hashes.get(&b)),
            (None, Some([3; 32]), Some([2; 32]))
        );
    }

    #[test]
    fn what_changed_a_moment_ago_is_not_noted() {
        let ground = ground();
        let (hashes, file) = (ground.hashes(), ground.file("a"));
        hashes.note(&file, SystemTime::now(), [1; 32]);
        hashes.save().unwrap();
        assert_eq!(ground.hashes().get(&file), None);
        assert!(!ground.store.root.join("hashes").exists());
        // The clock of a mount below may be another machine's.
        let mut elsewhere = file;
        elsewhere.st_dev += 1;
        hashes.note(&elsewhere, later(), [1; 32]);
        hashes.save().unwrap();
        assert_eq!(ground.hashes().get(&elsewhere), None);
        for strange in [-5, i64::MAX] {
            elsewhere.st_ctime = strange;
            hashes.note(&elsewhere, later() + SETTLED_ELSEWHERE, [1; 32]);
        }
        hashes.save().unwrap();
        assert!(!ground.store.root.join("hashes").exists());
    }

    #[test]
    fn a_damaged_file_is_nothing() {
        let ground = ground();
        let file = ground.file("a");
        let hashes = ground.hashes();
        hashes.note(&file, later(), [1; 32]);
        hashes.save().unwrap();
        let good = fs::read(&hashes.path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&hashes.path, &bad).unwrap();
            assert_eq!(ground.hashes().get(&file), None, "byte {at}");
            fs::write(&hashes.path, &good[..at]).unwrap();
            assert_eq!(ground.hashes().get(&file), None, "cut at {at}");
        }
        fs::write(&hashes.path, envelope::seal(MAGIC, &[[7; RECORD], [3; RECORD]].concat())).unwrap();
        assert_eq!(ground.hashes().used.len(), 0);
    }

    #[test]
    fn few_directories_are_remembered_and_few_files_of_each() {
        let ground = ground();
        let directory = ground.store.root.join("hashes");
        fs::create_dir(&directory).unwrap();
        for number in 0..MOST_DIRECTORIES + 5 {
            fs::write(directory.join(number.to_string()), "").unwrap();
            let old = SystemTime::UNIX_EPOCH + Duration::from_secs(number as u64);
            fs::File::open(directory.join(number.to_string())).unwrap().set_modified(old).unwrap();
        }
        let (hashes, file) = (ground.hashes(), ground.file("a"));
        hashes.note(&file, later(), [1; 32]);
        hashes.save().unwrap();
        let left = files::list(&directory).unwrap();
        assert_eq!(left.len(), MOST_DIRECTORIES);
        assert!(!left.contains(&"5".to_owned()) && left.contains(&"6".to_owned()), "{left:?}");
        assert!(ground.hashes().get(&file).is_some());

        let hashes = ground.hashes();
        assert!(hashes.get(&file).is_some());
        for number in 0..MOST_FILES as u64 + 9 {
            let mut other = file;
            other.st_ino = 1_000_000_000 + number;
            hashes.note(&other, later(), [2; 32]);
        }
        hashes.save().unwrap();
        assert_eq!(fs::metadata(&hashes.path).unwrap().size(), LIMIT);
        assert_eq!(ground.hashes().used.len(), MOST_FILES);
    }

    /// The bytes of version 1: a change here needs a new version.
    #[test]
    fn the_format_is_pinned() {
        let mut stat = ground().file("a");
        (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime, stat.st_ctime) = (1, 2, 3, 4, 5);
        (stat.st_mtime_nsec, stat.st_ctime_nsec) = (6, 7);
        let words = [1_u64, 2, 3, 4, 5, 6 << 32 | 7];
        assert_eq!(identity(&stat).to_vec(), words.map(u64::to_le_bytes).concat());
    }
}
