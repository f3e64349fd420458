//! Attacks on the walls of a box. Each is first shown to work with the wall in question removed, then to fail.

// Machine code and numbers of system calls.
#[cfg(target_arch = "x86_64")]
mod calls;
mod cgroup;
mod net;
#[cfg(target_arch = "x86_64")]
mod seccomp;
