//! Attacks on the walls of a box. Each is first shown to work with the wall in question removed, then to fail.

mod cgroup;
