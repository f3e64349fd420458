//! The tests.

mod runner;
