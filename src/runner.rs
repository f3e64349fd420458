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
//! | `detach` | a process that goes on when its caller has gone |
//! | `attend` | who stands by a box that nobody looks at |
//! | `log` | what such a box said |
//! | `door` | where visitors come to it, and what is said there |
//! | `attach` | a visitor |
//! | `control` | signals to what runs, and its end |
//! | `processes` | what runs in a box, read from outside |
//! | `exec` | another command in a running box |
//! | `running` | how a running box is found again |
//! | `userns` | root of one's own user namespace, for users who are not root |
//! | `report` | what the child tells the parent |
//! | `caps` | which capabilities stay |
//! | [`cgroup`] | limits, and what was used |
//! | `landlock` | files outside the box stay shut, whatever leads there |
//! | `walls` | which parts of `/proc` and `/sys` are hidden or locked |
//! | `join` | namespaces that exist already |
//! | `idmap` | ids of the host for boxes whose root is nobody outside |
//! | `seal` | the program itself, out of a box's reach |
//! | `sources` | parts of the host for a box: opened once, by the caller
//! | `target` | mount points in a hostile tree
//! | `stubs` | mount points that were made, and go again
//! | `give` | a directory made another user's
//! | `device` | devices of the host for a box |
//! | [`net`] | private networks, by the programs of others |
//! | `sys` | system calls: the only unsafe file |
//!
#![doc = include_str!("runner/SEQUENCE.md")]

mod attach;
mod attend;
mod caps;
pub mod cgroup;
mod child;
mod command;
mod control;
mod detach;
mod device;
mod door;
mod exec;
mod give;
mod idmap;
mod init;
mod join;
mod landlock;
pub mod log;
pub mod net;
mod plan;
mod processes;
mod report;
mod running;
mod seal;
mod seccomp;
mod sources;
mod spawn;
mod spec;
mod stubs;
mod sys;
mod target;
mod tty;
mod user;
mod userns;
mod walls;

pub use attach::{DetachKeys, Visit, attach};
pub use attend::Attendant;
pub use caps::{DEFAULT as DEFAULT_CAPABILITIES, parse as parse_capability};
pub use cgroup::{Cgroup, Limits};
pub use detach::{Announcer, Detached, detach};
pub use exec::exec;
pub use idmap::IdBlock;
pub use plan::{Base, Command, DEFAULT_PATH, Joined, Like, NewFs, Op, Part, PathSource, Plan, Source};
pub use processes::Seen;
pub use running::Running;
pub use seal::{is_sealed, seal};
pub use seccomp::{Choice as Seccomp, Filter as SeccompFilter};
pub use spawn::{Outcome, run, run_detached};
pub use spec::{
    Bind, Device, FileAt, IdMap, Join, Namespace, Namespaces, Net, Owners, Process, Restrictions, Security,
    Spec, Time, Tmpfs, Tty, Ulimit, Userns,
};
pub use sys::begin as begin_process;
pub use user::{Account, User, resolve};
pub use userns::{Entered, Forbidden, enter_userns, forbidden, is_root, join_userns};
