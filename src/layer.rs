//! Trees from tars.
