//! The tests.

mod layer;
