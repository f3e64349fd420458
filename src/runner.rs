//! Processes in namespaces: a root filesystem becomes a box with one command in it.
//!
//! | module | what it is for |
//! |---|---|
//! | `spec` | what to run, as data |
//! | `plan` | what will be done, in order, with every string made |
//! | `user` | users and groups by the tree's own files |
//! | `spawn` | the parent: opens, clones, listens |
//! | `child` | the child: system calls only |
//! | `command` | from the set-up child to `execve` |
//! | `init` | process 1 |
//! | `tty` | terminals, signals, and the copy loop between |
//! | `exec` | another command in a running box |
//! | [`net`] | private networks, by the programs of others |
//! | `running` | how a running box is found again |
//! | `userns` | root of one's own user namespace, for users who are not root |
//! | `report` | what the child tells the parent |
//! | `caps` | which capabilities stay |
//! | `sys` | system calls: the only unsafe file |
//!
#![doc = include_str!("runner/SEQUENCE.md")]

mod caps;
mod child;
mod command;
mod exec;
mod init;
pub mod net;
mod plan;
mod report;
mod running;
mod spawn;
mod spec;
mod sys;
mod tty;
mod user;
mod userns;

pub use caps::DEFAULT as DEFAULT_CAPABILITIES;
pub use exec::exec;
pub use plan::{Base, Command, DEFAULT_PATH, NewFs, Op, Plan};
pub use running::Running;
pub use spawn::{Outcome, run};
pub use spec::{Bind, FileAt, IdMap, Net, Process, Spec, Tmpfs, Tty, Userns};
pub use user::{Account, User, resolve};
pub use userns::{Entered, Forbidden, enter_userns, forbidden, is_root, join_userns};
