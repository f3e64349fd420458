//! The list of cases: each file adds its own.

use crate::setup::Setup;
use crate::support::require::Outcome;

/// A named story about one backend on one file system.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Setup) -> Outcome,
}

/// Names a case after its function.
macro_rules! case {
    ($function:ident) => {
        $crate::cases::Case { name: stringify!($function), run: $function }
    };
}
pub(crate) use case;

/// Returns all cases of the kit.
pub(crate) fn all() -> impl Iterator<Item = Case> {
    let groups = [
        crate::lifecycle::CASES,
        crate::stacks::CASES,
        crate::fidelity::CASES,
        crate::removal::CASES,
        crate::nested::CASES,
        crate::changes::CASES,
        crate::random::CASES,
        crate::patch::CASES,
        crate::patch_alone::CASES,
        crate::chains::CASES,
        crate::concurrency::CASES,
        crate::errors::CASES,
        crate::layers::CASES,
    ];
    groups.into_iter().flatten().copied()
}
