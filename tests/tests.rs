//! The tests.

// The attribute tells clippy that helpers here may unwrap as tests may.
#[cfg(test)]
mod runner;
