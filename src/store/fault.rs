//! Places where a test may kill the process: one before and after each step that changes the store.
//!
//! In builds with debug assertions `ROOTLING_FAULT=name:n` kills the process with SIGKILL the n-th time it
//! passes the point `name`, `ROOTLING_FAULT_STOP=name` stops it there with SIGSTOP, and `ROOTLING_FAULT_TRACE=file` appends the
//! name of each point passed. In release builds a point is nothing.

/// Marks a point between two steps.
#[cfg(not(debug_assertions))]
pub(crate) fn point(_name: &str) {}

/// Marks a point between two steps.
#[cfg(debug_assertions)]
pub(crate) fn point(name: &str) {
    use std::io::Write;
    use std::sync::atomic::{AtomicU32, Ordering};

    static PASSED: AtomicU32 = AtomicU32::new(0);
    if let Some(file) = std::env::var_os("ROOTLING_FAULT_TRACE") {
        let opened = std::fs::OpenOptions::new().append(true).create(true).open(file);
        // One write: threads pass points at the same time.
        let written = opened.and_then(|mut file| file.write_all(format!("{name}\n").as_bytes()));
        written.expect("the test that asked for a trace gave a writable file");
    }
    let send = |signal| {
        let me = nix::unistd::Pid::this();
        nix::sys::signal::kill(me, signal).expect("a process may signal itself");
    };
    if std::env::var("ROOTLING_FAULT_STOP").is_ok_and(|wanted| wanted == name) {
        send(nix::sys::signal::Signal::SIGSTOP);
    }
    let Ok(wanted) = std::env::var("ROOTLING_FAULT") else { return };
    let (point, count) = wanted.rsplit_once(':').unwrap_or((&wanted, "1"));
    if point == name && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == count.parse().unwrap_or(1) {
        send(nix::sys::signal::Signal::SIGKILL);
    }
}
