//! rootling makes, forks, enters and compares Linux root filesystems on the copy-on-write the host already has.

pub mod layer;
pub mod runner;
