//! From instructions to steps: stages, arguments and settings, by the rules of the language.

mod step;

pub use step::{
    CopyStep, From, Ground, Heredoc, MountKind, Network, Owner, RunMount, RunStep, Security, Sharing, Stage,
    Step, Work,
};
