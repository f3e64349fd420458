//! `prune`: remove what nothing needs any more.

use rootling_backends::Result;

use super::{Context, output};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {}

pub(super) fn run(context: &Context, _: &Arguments) -> Result<()> {
    let store = context.store()?;
    let progress = context.output.progress("pruning");
    let pruned = store.prune();
    drop(progress);
    let pruned = pruned?;
    context.output.data(&pruned, || {
        format!(
            "removed {} unreferenced objects, {} abandoned drafts, {} entries of the trash: {} inodes, {} subvolumes, {} freed\n",
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
