//! Four users at once on one store, for a while, with everything that moves boxes along their states: nothing that was acknowledged
//! is lost or other than it was, nobody waits for each other for ever, and nothing leaks.
//!
//! Each user has a box that only they change, whose content is therefore known, and all change the three that they share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rootling_backends::Kind;

use crate::scenario::write_source;
use crate::store::{Store, said};
use crate::support::require::Outcome;
use crate::support::rng::Rng;

const USERS: usize = 4;

/// After so many seconds a lock is not to be had. Nothing here takes a tenth of that; only prune waits until nobody does anything.
const PATIENCE_SECONDS: u64 = 30;

/// The snapshots that were acknowledged: what they are called, and what `mark` is in them where that is known.
type Kept = Mutex<BTreeMap<String, Option<usize>>>;

/// `ROOTLING_STRESS_SECONDS` says how long; `ROOTLING_SEED` repeats the choices of each user, not who is first.
pub(crate) fn run(kind: Kind, place: &Path, scratch: &Path) -> Outcome {
    let seconds =
        std::env::var("ROOTLING_STRESS_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let until = Instant::now() + Duration::from_secs(seconds);
    let store = Store::new(place.join("store"), scratch);
    store.run(&["init", store.root.to_str().unwrap(), "--backend", kind.name()]);
    store.run(&["import", &format!("dir:{}", write_source(&place.join("source")).display()), "base"]);
    for name in ["s0", "s1", "s2"] {
        store.run(&["create", "base", name]);
    }
    let (kept, seed, done) = (Kept::default(), Rng::seed(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for number in 0..USERS {
            let (store, kept, done) = (&store, &kept, &done);
            let spawned = std::thread::Builder::new().name(format!("user {number}"));
            let user = move || {
                let mut user = User::new(store, kept, number, scratch, seed);
                while Instant::now() < until {
                    user.step();
                    done.fetch_add(1, Ordering::Relaxed);
                }
            };
            spawned.spawn_scoped(scope, user).unwrap();
        }
    });
    let when = format!("ROOTLING_SEED={seed}");
    assert!(done.into_inner() > 4 * USERS, "{when}: hardly anything was done");
    let kept = kept.into_inner().unwrap();
    // Some of everybody's, and some whose content is known: 34 and 25 at the least where ten seconds were measured.
    let known = kept.values().flatten().count();
    let is_enough = kept.len() >= 2 * USERS && known >= USERS / 2;
    assert!(
        is_enough,
        "{when}: only {} snapshots were acknowledged, of {known} the content is known",
        kept.len()
    );
    store.assert_clean(&when);
    store.holdings_after_prune(&when);
    let file = scratch.join("found");
    let names = all_names(&store.root);
    for (label, mark) in kept {
        let found = names.iter().any(|name| name.ends_with(&format!("@{label}")));
        assert!(found, "{when}: the snapshot {label} was acknowledged and is gone");
        if let Some(mark) = mark {
            let owner = label.split('-').next().unwrap();
            store.run(&["cp", &format!("{owner}@{label}:/mark"), file.to_str().unwrap()]);
            assert_eq!(std::fs::read_to_string(&file).unwrap(), mark.to_string(), "{when}: {label}");
        }
    }
    store.assert_clean(&when);
    // What was promoted has left snapshots of a name that no box has.
    for name in all_names(&store.root).iter().filter(|name| name.contains('@')) {
        let _gone = store.try_run(&["rm", "--now", name]);
    }
    store.assert_can_be_emptied(&when);
    Ok(())
}

/// Returns all names, those that can be brought back too.
fn all_names(root: &Path) -> Vec<String> {
    let list = |directory: PathBuf| {
        std::fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path())
    };
    let removed = list(root.join("removed")).flat_map(list);
    let all = list(root.join("n")).chain(removed);
    all.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

struct User<'a> {
    store: &'a Store,
    kept: &'a Kept,
    own: String,
    rng: Rng,
    file: PathBuf,
    count: usize,
    /// What `mark` is in their own box, what it was in the state before, and what redo would make it.
    mark: usize,
    before: Option<usize>,
    ahead: Option<usize>,
}

impl<'a> User<'a> {
    fn new(store: &'a Store, kept: &'a Kept, number: usize, scratch: &Path, seed: u64) -> Self {
        let own = format!("u{number}");
        store.run(&["create", "base", &own]);
        let file = scratch.join(&own);
        let rng = Rng::new(seed ^ (number as u64) << 32);
        let mut user = Self { store, kept, own, rng, file, count: 0, mark: 0, before: None, ahead: None };
        let own = user.own.clone();
        assert!(user.edit(&own));
        user
    }

    /// Runs a command that may be refused because somebody else was faster, and says whether it worked.
    fn ask(&self, arguments: &[&str]) -> bool {
        let start = Instant::now();
        let output = self
            .store
            .command(arguments)
            .env("ROOTLING_LOCK_TIMEOUT", PATIENCE_SECONDS.to_string())
            .output()
            .unwrap();
        let heard = said(&output);
        let wrong = ["panicked", "os error", "damaged", "has no name to remove"];
        let is_wrong = output.status.code().is_none() || wrong.iter().any(|word| heard.contains(word));
        let is_late = start.elapsed() > Duration::from_secs(PATIENCE_SECONDS) && arguments[0] != "prune";
        assert!(!is_late, "rootling {arguments:?} waited in vain: {heard}");
        assert!(!is_wrong, "rootling {arguments:?}: {heard}");
        output.status.success()
    }

    /// As [`ask`](Self::ask), where it does not matter who was faster.
    fn attempt(&self, arguments: &[&str]) {
        let _worked = self.ask(arguments);
    }

    fn attempt_edit(&mut self, name: &str) {
        let _worked = self.edit(name);
    }

    fn edit(&mut self, name: &str) -> bool {
        self.count += 1;
        std::fs::write(&self.file, self.count.to_string()).unwrap();
        let done = self.ask(&["cp", self.file.to_str().unwrap(), &format!("{name}:/mark")]);
        if done && name == self.own {
            (self.mark, self.ahead) = (self.count, None);
        }
        done
    }

    fn label(&mut self, of: &str) -> String {
        self.count += 1;
        // The owner first: what is known of the content is looked for there.
        if of == self.own {
            format!("{of}-{}", self.count)
        } else {
            format!("of-{}-{}", self.own, self.count)
        }
    }

    fn step(&mut self) {
        match self.rng.below(3) {
            0 => self.step_alone(),
            _ => self.step_with_others(),
        }
    }

    /// Changes the user's own box, and looks whether it is what it must be.
    fn step_alone(&mut self) {
        let own = self.own.clone();
        let was = self.mark;
        let mut possible = vec![was];
        match self.rng.below(5) {
            0 => self.attempt_edit(&own),
            1 => {
                let label = self.label(&own);
                if self.ask(&["snapshot", &own, &label]) {
                    self.kept.lock().unwrap().insert(label, Some(self.mark));
                    (self.before, self.ahead) = (Some(self.mark), None);
                }
            }
            2 => {
                let Some(before) = self.before.filter(|before| *before != was) else { return };
                if self.ask(&["undo", &own]) {
                    (self.mark, self.ahead) = (before, Some(was));
                } else {
                    possible.push(before);
                }
            }
            3 => {
                let Some(ahead) = self.ahead else { return };
                if self.ask(&["redo", &own]) {
                    (self.mark, self.before, self.ahead) = (ahead, Some(ahead), None);
                } else {
                    possible.push(ahead);
                }
            }
            _ => {
                let known: Vec<(String, usize)> = self
                    .kept
                    .lock()
                    .unwrap()
                    .iter()
                    .filter_map(|(label, mark)| {
                        Some((label.clone(), (*mark)?))
                            .filter(|(label, _)| label.starts_with(&format!("{own}-")))
                    })
                    .collect();
                let Some((label, mark)) = self.rng.pick(&known).cloned() else { return };
                if self.ask(&["restore", &format!("{own}@{label}")]) {
                    (self.mark, self.before, self.ahead) = (mark, Some(mark), None);
                } else {
                    possible.push(mark);
                }
            }
        }
        if self.ask(&["cp", &format!("{own}:/mark"), self.file.to_str().unwrap()]) {
            let found: usize = std::fs::read_to_string(&self.file).unwrap().parse().unwrap();
            // Who was refused may have been so late, but never half way.
            assert!(
                found == self.mark || possible.contains(&found) && possible.len() > 1,
                "{own} is {found}, not {}",
                self.mark
            );
            self.mark = found;
        }
    }

    fn step_with_others(&mut self) {
        let shared = format!("s{}", self.rng.below(3));
        let other = format!("u{}", self.rng.below(USERS));
        let fork = format!("f{}", self.rng.below(3));
        let second_shared = format!("s{}", self.rng.below(3));
        let second_fork = format!("f{}", self.rng.below(3));
        let known: Vec<String> = self.kept.lock().unwrap().keys().cloned().collect();
        let label = self.rng.pick(&known).cloned().unwrap_or_else(|| "none".to_owned());
        let state = format!(
            "{}@{label}",
            if label.starts_with('u') { label.split('-').next().unwrap() } else { &shared }
        );
        match self.rng.below(18) {
            0 | 1 => self.attempt_edit(&shared),
            2 | 3 => {
                let label = self.label(&shared);
                if self.ask(&["snapshot", &shared, &label]) {
                    self.kept.lock().unwrap().insert(label, None);
                }
            }
            4 => self.attempt(&["undo", &shared]),
            5 => self.attempt(&["redo", &shared]),
            6 => self.attempt(&["restore", &shared, "--to", &state]),
            7 => self.attempt(&["fork", &other, &fork]),
            8 => self.attempt(&["fork", &state, &fork]),
            9 => self.attempt(&["rm", &fork]),
            10 => self.attempt(&["undelete", &fork]),
            11 => self.attempt(&["rename", &fork, &second_fork]),
            12 => self.attempt(&["promote", &fork, &shared]),
            13 => self.attempt(&["promote", &shared, &second_shared]),
            14 => self.attempt(&["apply", &state, "--to", &shared]),
            15 => self.attempt(&["prune"]),
            16 => {
                // A snapshot that nobody else knows of: it goes under those who move the box.
                let label = format!("short-{}", self.label(&shared));
                if self.ask(&["snapshot", &shared, &label]) {
                    self.attempt(&["rm", "--now", &format!("{shared}@{label}")]);
                }
            }
            _ => {
                let short = format!("t{}", self.own);
                self.attempt(&["fork", &shared, &short]);
                self.attempt_edit(&short);
                self.attempt(&["snapshot", &short]);
                self.attempt(&["rm", "--now", &short]);
            }
        }
    }
}
