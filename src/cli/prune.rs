//! `prune`: remove what nothing needs any more.

use rootling_backends::Result;
use serde::Serialize;

use super::{Context, output};
use crate::runner::Cgroup;
use crate::store::Pruned;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {}

/// What was removed.
#[derive(Debug, Serialize)]
struct Everything {
    #[serde(flatten)]
    store: Pruned,
    /// Cgroups that killed callers left.
    cgroups: usize,
}

pub(super) fn run(context: &Context, _: &Arguments) -> Result<()> {
    let store = context.store()?;
    let progress = context.output.progress("pruning");
    let pruned = store.prune();
    drop(progress);
    let pruned = Everything { store: pruned?, cgroups: Cgroup::sweep() };
    context.output.data(&pruned, || {
        let Everything { store: pruned, cgroups } = &pruned;
        let cgroups = match cgroups {
            0 => String::new(),
            cgroups => format!("removed {cgroups} cgroups of boxes whose caller was killed\n"),
        };
        format!(
            "removed {} unreferenced objects, {} abandoned drafts, {} entries of the trash: {} inodes, {} subvolumes, {} freed\n{cgroups}",
            pruned.objects,
            pruned.drafts,
            pruned.trash,
            pruned.entries,
            pruned.subvolumes,
            output::bytes(pruned.bytes_freed)
        )
    });
    Ok(())
}
