//! When to try again, and how long to wait: exponential back-off with jitter, and what servers ask for by `Retry-After`.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// How often a wait looks whether it was called off.
const SLICE: Duration = Duration::from_millis(50);

/// How patient to be.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Times that one request is sent. A transfer that moves on begins to count anew.
    pub tries: u32,
    /// The wait after the first failure; it doubles.
    pub first: Duration,
    /// The longest wait that is chosen here.
    pub longest: Duration,
    /// The longest wait that a server may ask for; where it asks for more, the failure is reported.
    pub longest_asked: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            tries: 6,
            first: Duration::from_millis(500),
            longest: Duration::from_secs(20),
            longest_asked: Duration::from_secs(120),
        }
    }
}

impl Patience {
    /// Returns how long to wait before the try after `failed` failures; `None` is to give up.
    pub(super) fn wait(&self, failed: u32, asked: Option<Duration>) -> Option<Duration> {
        if failed >= self.tries {
            return None;
        }
        let doubled = self.first.saturating_mul(1 << failed.saturating_sub(1).min(16)).min(self.longest);
        match asked {
            Some(asked) if asked > self.longest_asked => None,
            // Not before the time, and not all at that very moment.
            Some(asked) => Some(asked + jittered(self.first)),
            None => Some(jittered(doubled)),
        }
    }
}

/// Returns between half and all of `duration`.
fn jittered(duration: Duration) -> Duration {
    // The keys of a hash map are the randomness that the standard library has.
    let random = RandomState::new().build_hasher().finish();
    let half = duration / 2;
    half + half.mul_f64(f64::from(u32::try_from(random >> 32).unwrap_or(0)) / f64::from(u32::MAX))
}

/// Should a status like this be tried again?
pub(super) fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// Reads a `Retry-After`: seconds, or a date.
pub(super) fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let date = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    Some(Duration::try_from(date.duration_since(now)).unwrap_or(Duration::ZERO))
}

/// Waits; false if it was called off meanwhile.
pub(super) fn sleep(duration: Duration, cancel: &AtomicBool) -> bool {
    let end = Instant::now() + duration;
    loop {
        if cancel.load(Ordering::Relaxed) {
            return false;
        }
        match end.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => std::thread::sleep(left.min(SLICE)),
            _ => return true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_end() {
        let patience = Patience { tries: 8, ..Patience::default() };
        let mut least = Duration::ZERO;
        for failed in 1..8 {
            let wait = patience.wait(failed, None).unwrap();
            let whole = Duration::from_millis(500 << (failed - 1)).min(patience.longest);
            assert!(wait >= whole / 2 && wait <= whole, "{failed}: {wait:?}");
            least += whole / 2;
        }
        assert!(least > Duration::from_secs(20));
        assert_eq!(patience.wait(8, None), None);
        assert_eq!(patience.wait(1, Some(Duration::from_secs(121))), None, "longer than we wait for anyone");
        let asked = patience.wait(1, Some(Duration::from_secs(3))).unwrap();
        assert!(asked >= Duration::from_secs(3) && asked <= Duration::from_millis(3500));
    }

    #[test]
    fn both_forms_of_retry_after_are_read() {
        let now: Timestamp = "2026-11-26T00:00:00Z".parse().unwrap();
        assert_eq!(retry_after(" 7 ", now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Thu, 26 Nov 2026 00:01:30 GMT", now), Some(Duration::from_secs(90)));
        assert_eq!(retry_after("Thu, 26 Nov 2020 00:01:30 GMT", now), Some(Duration::ZERO));
        for strange in ["", "soon", "-1", "1.5", "99999999999999"] {
            assert_eq!(retry_after(strange, now), None, "{strange:?}");
        }
    }

    #[test]
    fn a_wait_is_called_off() {
        let cancel = AtomicBool::new(true);
        assert!(!sleep(Duration::from_secs(60), &cancel));
        assert!(sleep(Duration::from_millis(1), &AtomicBool::new(false)));
    }
}
