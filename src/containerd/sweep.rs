//! When what was removed is destroyed: nobody waits for that, and it waits for everybody, but not for ever.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long nothing may have been going on.
const QUIET: Duration = Duration::from_millis(500);

/// How long it waits for quiet at most, because what is not destroyed occupies space.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is known of removals and of what goes on.
#[derive(Debug)]
pub(super) struct Sweep(Mutex<Known>);

#[derive(Debug)]
struct Known {
    /// Since when there is something to destroy.
    due: Option<Instant>,
    running: usize,
    /// When something last went on.
    last: Instant,
}

impl Default for Sweep {
    /// A server that was killed may have left something.
    fn default() -> Self {
        let now = Instant::now();
        Self(Mutex::new(Known { due: Some(now), running: 0, last: now }))
    }
}

impl Sweep {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().expect("nobody panics who holds it")
    }

    /// Notes that something goes on, until what is returned is dropped.
    pub(super) fn running(&self) -> Running<'_> {
        self.known().running += 1;
        Running(self)
    }

    /// Notes that something was removed.
    pub(super) fn is_due(&self) {
        self.known().due.get_or_insert_with(Instant::now);
    }

    /// Is it time? Then it counts as done.
    pub(super) fn take(&self) -> bool {
        let mut known = self.known();
        let Some(due) = known.due else { return false };
        let is_quiet = known.running == 0 && known.last.elapsed() >= QUIET;
        let is_time = is_quiet || due.elapsed() >= PATIENCE;
        if is_time {
            known.due = None;
        }
        is_time
    }
}

/// Something that goes on.
pub(super) struct Running<'a>(&'a Sweep);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut known = self.0.known();
        known.running -= 1;
        known.last = Instant::now();
    }
}
