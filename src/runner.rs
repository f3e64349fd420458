//! Processes in namespaces: a root filesystem becomes a box with one command in it.
//!
//! | room | module | what it is for |
//! |---|---|---|
//! | data | `spec` | what to run |
//! | | `plan` | what will be done, in order, with every string made |
//! | | `running` | how a running box is found again |
//! | | [`oci`] | the same for other runtimes |
//! | | `user`, `idmap` | users by the tree's own files; ids of the host that nobody has |
//! | the caller | `spawn` | clones, prepares what only the caller can, listens, waits |
//! | | `sources`, `device`, `give` | what of the host a box gets: opened once, made, or made another's |
//! | | `join` | namespaces that exist already |
//! | | `stubs` | mount points that were made, and go again |
//! | | `exec` | another command in a running box |
//! | | `caller` | ending with whoever started the program |
//! | | `seal`, `userns` | the program out of a box's reach; root of one's own user namespace |
//! | the child | `child`, `target` | system calls only; mount points in a hostile tree |
//! | | `command`, `init` | from there to `execve`; process 1 |
//! | | `report` | what the child tells the caller |
//! | walls | `caps`, `seccomp`, `landlock`, `walls` | rights, system calls, files outside, parts of `/proc` and `/sys` |
//! | | [`cgroup`] | limits, and what was used |
//! | | [`net`] | private networks, by the programs of others |
//! | who looks on | `tty` | terminals, signals, and the copy loop between |
//! | | `detach`, `attend`, [`log`] | a box that goes on when its caller has gone, who stands by it, what it said |
//! | | `door`, `attach` | where visitors come to it, and a visitor |
//! | | `control`, `processes` | signals to what runs and its end; what runs, read from outside |
//! | | `pauser` | a box that stands still for a moment |
//! | all | `sys` | system calls: the only unsafe file |
//!
#![doc = include_str!("runner/SEQUENCE.md")]

mod attach;
mod attend;
mod caller;
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
pub mod oci;
mod pauser;
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
pub use caller::Caller;
pub use caps::{DEFAULT as DEFAULT_CAPABILITIES, parse as parse_capability};
pub use cgroup::{Cgroup, Limits};
pub use detach::{Announcer, Detached, detach};
pub use exec::exec;
pub use give::give_once;
pub use idmap::IdBlock;
pub use pauser::{Paused, Pauser, heal_pause};
pub use plan::{Base, Command, DEFAULT_PATH, Joined, Like, NewFs, Op, PIPES, Part, PathSource, Plan, Source};
pub use processes::Seen;
pub use running::Running;
pub use seal::{is_sealed, seal};
pub use seccomp::{Choice as Seccomp, Filter as SeccompFilter};
pub use sources::check as check_sources;
pub use spawn::{Outcome, bounding_set, run, run_detached};
pub use spec::{
    Bind, Device, FileAt, IdMap, Join, Namespace, Namespaces, Net, Owners, Process, Restrictions, Security,
    Spec, Time, Tmpfs, Tty, Ulimit, Userns,
};
pub use sys::{
    begin as begin_process, dies_with_caller, ends_with_caller, ends_with_caller_keeping, inherits,
    take_inherited,
};
pub use user::{Account, User, read as read_account_file, resolve};
pub use userns::{Entered, Forbidden, enter_userns, forbidden, is_root, join_userns};
