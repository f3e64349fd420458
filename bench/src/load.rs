//! How much of the machine could be had: a benchmark of two cores on a machine whose second core is busy measures the neighbours.

use std::time::{Duration, Instant};

/// How long to look.
const WINDOW: Duration = Duration::from_millis(60);

/// Keeps every core busy for a moment and returns how many processors' worth of time that got.
///
/// On an idle machine this is the number of cores; NaN where the kernel does not tell.
pub(crate) fn processors() -> f64 {
    let cores = std::thread::available_parallelism().map_or(1, Into::into);
    let start = Instant::now();
    let threads: Vec<_> = (0..cores).map(|_| std::thread::spawn(move || spin(start))).collect();
    let got: f64 = threads.into_iter().map(|thread| thread.join().unwrap_or(f64::NAN)).sum();
    got / start.elapsed().as_secs_f64()
}

/// Returns the seconds of processor time that this thread got until the window closed.
fn spin(start: Instant) -> f64 {
    let before = processor_seconds();
    while start.elapsed() < WINDOW {
        std::hint::spin_loop();
    }
    processor_seconds() - before
}

/// proc(5), /proc/PID/task/TID/schedstat: nanoseconds on a processor, nanoseconds waiting for one, slices.
fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|word| word.parse::<f64>().ok());
    nanoseconds.unwrap_or(f64::NAN) / 1e9
}

#[cfg(test)]
mod tests {
    #[test]
    fn some_of_a_processor_can_be_had_and_not_more_than_there_are() {
        let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
        let got = super::processors();
        assert!(got > 0.0 && got < cores + 0.2, "{got} of {cores}");
    }
}
