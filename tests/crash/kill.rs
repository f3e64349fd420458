//! Killed at random moments, while four users work on one store.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use crate::scenario::{Known, fill, source, write_source};
use crate::store::Store;
use crate::support::require::Outcome;
use crate::support::rng::Rng;
use crate::support::tree::TreeValue;

/// What a user was told, and what may or may not have happened when the answer was cut off.
#[derive(Debug, Default)]
struct Told {
    known: Known,
    removed: BTreeSet<String>,
    unsure: BTreeSet<String>,
}

/// `ROOTLING_CRASH_ROUNDS` sets how often everybody is killed; `ROOTLING_SEED` repeats the choices, not the moments.
pub(crate) fn run(place: &Path, scratch: &Path) -> Outcome {
    let rounds = std::env::var("ROOTLING_CRASH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let source_dir = write_source(&place.join("source"));
    let store = Store::new(place.join("kill/store"), scratch);
    let told = Mutex::new(Told { known: fill(&store, &source_dir), ..Told::default() });
    let seed = Rng::seed();
    for round in 0..rounds {
        std::thread::scope(|scope| {
            for user in 0..4_u64 {
                let (store, told, source_dir) = (&store, &told, &source_dir);
                let rng = Rng::new(seed ^ (round << 8) ^ user);
                scope.spawn(move || work(store, told, source_dir, &format!("r{round}u{user}"), rng));
            }
        });
        assert_told(&store, &told.lock().unwrap(), &format!("ROOTLING_SEED={seed} round {round}"));
    }
    store.holdings_after_prune("after all rounds");
    assert_told(&store, &told.lock().unwrap(), "after all rounds and a prune");
    store.assert_can_be_emptied("after all rounds");
    Ok(())
}

/// Eight operations of one user, about half of them killed.
fn work(store: &Store, told: &Mutex<Told>, source_dir: &Path, user: &str, mut rng: Rng) {
    let from = format!("dir:{}", source_dir.display());
    let mut mine: Vec<String> = Vec::new();
    for step in 0..8 {
        let name = format!("{user}s{step}");
        let victim = rng.pick(&mine).cloned();
        let arguments: Vec<&str> = match (rng.below(5), &victim) {
            (0, _) => vec!["import", &from, &name],
            (1, Some(victim)) => vec!["fork", victim, &name],
            (2, Some(victim)) => vec!["commit", victim, &name],
            (3, Some(victim)) => vec!["rm", victim],
            _ => vec!["create", "base", &name],
        };
        let delay = (rng.below(2) == 0).then(|| Duration::from_millis(rng.next() % 60));
        let done = finish(store, &arguments, delay);
        let mut told = told.lock().unwrap();
        match (arguments[0], done) {
            ("rm", done) => {
                let victim = victim.expect("there was one to remove");
                mine.retain(|name| *name != victim);
                told.known.remove(&victim);
                let fate = if done { &mut told.removed } else { &mut told.unsure };
                fate.insert(victim);
            }
            (_, true) => {
                told.known.insert(name.clone(), source());
                mine.push(name);
            }
            (_, false) => {
                told.unsure.insert(name);
            }
        }
    }
}

/// Returns whether the command said that it worked. It may be killed, or refuse (a tree with children cannot go).
fn finish(store: &Store, arguments: &[&str], kill_after: Option<Duration>) -> bool {
    let mut child = store.spawn(arguments);
    if let Some(delay) = kill_after {
        std::thread::sleep(delay);
        // Best effort: it may have ended by itself.
        drop(child.kill());
    }
    child.wait().unwrap().success()
}

/// Asserts that everything acknowledged is there and whole, that what was removed is gone, and nothing else came.
#[track_caller]
fn assert_told(store: &Store, told: &Told, when: &str) {
    store.assert_clean(when);
    let names = store.names();
    for (name, value) in &told.known {
        assert!(names.contains(name), "{when}: {name} was acknowledged and is gone");
        store.assert_tree(name, value, when);
    }
    for name in &names {
        assert!(!told.removed.contains(name), "{when}: {name} was removed and is back");
        let expected = told.known.contains_key(name) || told.unsure.contains(name);
        assert!(expected, "{when}: {name} was never asked for");
        if told.unsure.contains(name) {
            let whole: TreeValue = source();
            store.assert_tree(name, &whole, when);
        }
    }
}
