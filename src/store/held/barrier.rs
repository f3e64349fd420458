//! One sync for many: who comes while the file system is being synced waits for the next sync, with all others that have come.

use std::sync::{Condvar, Mutex};

use rootling_backends::{Error, ErrorKind, Result};

/// A sync of one file system that threads share.
#[derive(Debug, Default)]
pub(super) struct Barrier {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// How many syncs have begun.
    begun: u64,
    /// Does the last of them go on?
    runs: bool,
    /// The last one that ended.
    done: u64,
    /// The last one that failed, and how: the kernel tells of what was lost only once.
    failed: Option<(u64, ErrorKind, Vec<String>)>,
}

impl Barrier {
    /// Returns once a sync has ended that began after this call. `sync` is called by one of those who wait.
    pub(super) fn wait(&self, sync: impl Fn() -> Result<()>) -> Result<()> {
        let mut state = self.state.lock().expect("nobody panics who holds it");
        let wanted = state.begun + 1;
        while state.done < wanted {
            if state.runs {
                state = self.ended.wait(state).expect("nobody panics who holds it");
                continue;
            }
            state.begun += 1;
            state.runs = true;
            drop(state);
            let synced = sync();
            state = self.state.lock().expect("nobody panics who holds it");
            state.runs = false;
            state.done = state.begun;
            if let Err(error) = synced {
                state.failed = Some((state.begun, error.kind(), error.chain()));
            }
            self.ended.notify_all();
        }
        match &state.failed {
            // Whichever of the two covered what we wrote.
            Some((failed, kind, chain)) if *failed >= wanted => {
                Err(Error::retold(*kind, chain.clone(), None))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn many_share_a_sync_that_begins_after_they_have_come() {
        let (barrier, syncs, clock) = (Barrier::default(), AtomicU64::new(0), AtomicU64::new(0));
        let sync_began = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..32 {
                scope.spawn(|| {
                    let came = clock.fetch_add(1, Ordering::SeqCst);
                    let sync = || {
                        sync_began.lock().unwrap().push(clock.fetch_add(1, Ordering::SeqCst));
                        std::thread::sleep(Duration::from_millis(20));
                        syncs.fetch_add(1, Ordering::SeqCst);
                        Ok(())
                    };
                    barrier.wait(sync).unwrap();
                    assert!(sync_began.lock().unwrap().iter().any(|began| *began > came));
                });
            }
        });
        assert!(syncs.load(Ordering::SeqCst) < 16, "{syncs:?} syncs for 32");
    }

    #[test]
    fn a_failure_is_everybodys_who_waited_for_it_and_nobodys_after() {
        let barrier = Barrier::default();
        let failed = barrier.wait(|| Err(Error::new(ErrorKind::NoSpace, "syncfs")));
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::NoSpace);
        barrier.wait(|| Ok(())).unwrap();
    }
}
