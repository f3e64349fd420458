//! Dockerfiles, where every step is a snapshot.
//!
//! ```text
//! text ─ syntax ─> instructions ─ plan ─> stages of steps ─ execute ─> nodes ─ result ─> image, directory, archive
//!            └ check                 └ expand        └ key, cache, run, copy
//! ```
//!
//! | room | module | what it is for |
//! |---|---|---|
//! | language | `syntax` | a Dockerfile becomes instructions, with the place of each; nothing is expanded |
//! | | `expand` | `$x` and its forms; words |
//! | | `check` | what is allowed and unwise: lint rules |
//! | meaning | `plan` | stages, arguments, settings: instructions become steps that say all they depend on |
//! | | `glob` `ignore` | names that a pattern means; `.dockerignore` |
//! | files | `context` | the directory, archive or repository that files come from; what they hash to |
//! | | `copy` | `COPY` and `ADD` into a tree |
//! | steps | `key` | what a step depends on, by name, and the digest of it |
//! | | `run` | `RUN` in a fork, with its mounts |
//! | | `execute` | stages as a graph: looked up, or done; what failed is kept |
//! | | `work` | what one step takes and does: bases, files, caches, forks |
//! | | `once` | what several threads ask for and one makes |
//! | | `explain` | why a step was there, or was not |
//! | | `again` | what a command needs to find itself where that of a step was |
//! | end | `result` | the last step becomes an image, a directory, an archive |

pub mod again;
pub mod check;
pub mod context;
pub mod copy;
pub mod execute;
pub mod expand;
pub mod explain;
pub mod glob;
pub mod ignore;
pub mod key;
mod once;
pub mod plan;
pub mod result;
pub mod run;
pub mod syntax;
pub mod work;
