//! containerd itself, with `runc` and `ctr`, on trees that rootling keeps for it.
//!
//! | file | idea |
//! |---|---|
//! | `stage` | file system, registry, images, and a containerd of the test's own |
//! | `daemons` | containerd and `rootling snapshotter`: started, killed, started again |
//! | `life` | pulled, run, committed, exported, removed; the same story on containerd's own overlayfs says that the harness is right |
//! | `people` | what rootling's own commands make of what containerd holds; images that both know; a full disk |
//! | `kubelet` | what a kubelet asks for: pods, by containerd's service for Kubernetes |
//! | `kills` | kill -9 of either at random moments |

mod daemons;
mod kills;
mod kubelet;
mod life;
mod people;
mod stage;
