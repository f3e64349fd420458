//! The power goes: what was acknowledged must be on the disk.
//!
//! The store lies on a file system in an image file, which itself lies on XFS. FICLONE of the image while work goes on is what a
//! disk holds at that moment: whatever was only in memory is missing. Each clone is mounted after the original is gone.

use std::os::fd::AsFd;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rootling_backends::sys;

use crate::images::adder;
use crate::oci::{Tar, write_layout};
use crate::scenario::{Known, assert_holds, change, changed, source, write_source};
use crate::steps::{self, stepper};
use crate::store::{Store, said};
use crate::support::host::FileSystem;
use crate::support::mounted::unmount;
use crate::support::require::{Outcome, Skip};
use crate::support::tree::{TreeValue, dir, file, tree};

/// How the power goes while something works on a file system in an image.
pub(crate) struct Cuts<'a, T> {
    pub(crate) sort: FileSystem,
    pub(crate) image: &'a Path,
    /// Where the file system is mounted.
    pub(crate) inner: &'a Path,
    pub(crate) count: usize,
    /// Has enough been acknowledged for the cut of this number?
    pub(crate) is_due: fn(&T, usize) -> bool,
    /// How much later each cut comes after that than the one before, so that they fall on other moments of the work.
    pub(crate) apart: Duration,
}

impl<T: Clone + Default + Send> Cuts<'_, T> {
    /// Makes the file system, and has `work` done on it, which says what was acknowledged and ends when it is told to; then has what each cut left
    /// looked at.
    pub(crate) fn run(
        &self,
        begin: impl FnOnce(),
        work: impl FnOnce(&Mutex<T>, &AtomicBool) + Send,
        assert_survived: impl Fn(&T, &str),
    ) -> Outcome {
        self.sort.make(self.image, 1 << 30, self.inner).map_err(Skip::because)?;
        let worked = self.mounted(|| {
            begin();
            self.take(work)
        });
        for (index, told) in worked.iter().enumerate() {
            let clone = self.clone_of(index);
            self.sort.mount_image(&clone, self.inner).unwrap();
            self.mounted(|| assert_survived(told, &format!("cut {index}")));
            std::fs::remove_file(&clone).unwrap();
        }
        Ok(())
    }

    /// Unmounts the file system, however it ends.
    fn mounted<R>(&self, work: impl FnOnce() -> R) -> R {
        let ended = std::panic::catch_unwind(AssertUnwindSafe(work));
        unmount(self.inner);
        ended.unwrap_or_else(|cause| std::panic::resume_unwind(cause))
    }

    fn clone_of(&self, index: usize) -> PathBuf {
        self.image.with_extension(format!("{index}"))
    }

    /// Works, and in between takes clones of the image; returns what had been acknowledged before each.
    fn take(&self, work: impl FnOnce(&Mutex<T>, &AtomicBool) + Send) -> Vec<T> {
        let (told, stop) = (Mutex::new(T::default()), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| work(&told, &stop));
            let mut cuts = Vec::new();
            for index in 0..self.count {
                while !(self.is_due)(&told.lock().unwrap(), index) && !worker.is_finished() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                std::thread::sleep(self.apart * u32::try_from(index).unwrap());
                cuts.push(told.lock().unwrap().clone());
                let clone = std::fs::File::create(self.clone_of(index)).unwrap();
                let source = std::fs::File::open(self.image).unwrap();
                sys::ficlone(clone.as_fd(), source.as_fd()).unwrap();
            }
            stop.store(true, Ordering::Relaxed);
            worker.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause));
            cuts
        })
    }
}

pub(crate) fn run(sort: FileSystem, outer: &Path, scratch: &Path) -> Outcome {
    let at = outer.join(format!("cut-{sort}"));
    let inner = scratch.join(format!("inner-{sort}"));
    std::fs::create_dir_all(&at).unwrap();
    let source_dir = write_source(&at.join("source"));
    let store = Store::new(inner.join("store"), scratch);
    let cuts = Cuts {
        sort,
        image: &at.join("image"),
        inner: &inner,
        count: 4,
        is_due: |told: &Known, index| told.len() >= index + 2,
        apart: Duration::from_millis(17),
    };
    cuts.run(
        || drop(store.run(&["init"])),
        |told, stop| work(&store, &source_dir, told, stop),
        |told, when| assert_survived(&store, told, when),
    )
}

/// Adds an image whose lower layer all have, and whose upper one holds its name.
fn add_image(store: &Store, layout: &Path, name: &str) {
    let lower = Tar::default().dir("etc/").file("etc/motd", "welcome\n").end();
    let upper = Tar::default().dir("etc/").file("etc/name", name).end();
    write_layout(layout, &[lower, upper], &serde_json::json!({}));
    let output = adder(&store.root, layout, &[name]).output().unwrap();
    assert!(output.status.success(), "adding {name}: {}", said(&output));
}

/// Builds an image of two steps, each a file.
fn build(store: &Store, base: &str, name: &str) {
    let output = stepper(&store.root, &["build", base, name, "2", name]).output().unwrap();
    assert!(output.status.success(), "building {name}: {}", said(&output));
}

fn built_tree(name: &str) -> TreeValue {
    let mut value = source();
    for step in ["step-0", "step-1"] {
        value.insert(step, file(name).mode(0o666));
    }
    value
}

fn image_tree(name: &str) -> TreeValue {
    tree! { "etc" => dir(), "etc/motd" => file("welcome\n"), "etc/name" => file(name) }
}

/// Imports, changes and commits boxes, adds and builds images, until told to stop; only committed trees are promised to last.
fn work(store: &Store, source_dir: &Path, told: &Mutex<Known>, stop: &AtomicBool) {
    let from = format!("dir:{}", source_dir.display());
    for step in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let (base, work, one) = (format!("base{step}"), format!("work{step}"), format!("one{step}"));
        store.run(&["import", &from, &base]);
        told.lock().unwrap().insert(base.clone(), source());
        store.run(&["create", &base, &work]);
        store.in_tree(&work, change);
        store.run(&["commit", &work, &one]);
        told.lock().unwrap().insert(one, changed());
        let image = format!("image{step}");
        add_image(store, &source_dir.with_file_name(&image), &image);
        told.lock().unwrap().insert(image.clone(), image_tree(&image));
        let built = format!("built{step}");
        build(store, &base, &built);
        told.lock().unwrap().insert(built.clone(), built_tree(&built));
    }
}

/// Asserts that fsck is content and every acknowledged tree whole; and that the store works on.
#[track_caller]
fn assert_survived(store: &Store, told: &Known, when: &str) {
    steps::lose_power(store);
    store.assert_clean(when);
    steps::assert_whole(store, when);
    let names = store.names();
    for (name, value) in told {
        assert!(names.contains(name), "{when}: {name} was acknowledged and is gone");
        store.assert_tree(name, value, when);
    }
    store.run(&["prune"]);
    store.assert_clean(&format!("{when}, pruned"));
    store.assert_can_be_emptied(when);
    assert_holds(store, &Known::new(), when);
}
