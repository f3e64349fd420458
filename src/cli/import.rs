//! `import`: make a committed tree of something outside the store.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rootling_backends::entry::CloneMode;
use rootling_backends::{Context as _, Cost, Dir, Result, replicate};

use super::{Context, Materialize, output, said, show, store};
use crate::layer;
use crate::reference::Source;
use crate::store::{CreateOptions, Name, Node, Store};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// What: dir:PATH, tar:FILE (plain, gzip, xz or zstd), tar:- for standard input, host:/ for this machine
    #[arg(value_parser = said(Source::parse))]
    source: Source,

    /// Name of the tree
    #[arg(value_parser = said(Name::parse))]
    name: Name,

    #[command(flatten)]
    materialize: Materialize,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let store = context.store()?;
    let progress = context.output.progress(format!("importing {}", arguments.source));
    let imported = import(context, &store, arguments);
    drop(progress);
    let node = imported?;
    store::remember(&store, &node);
    let what = format!("imported {} as {}", arguments.source, node.label());
    context.output.cost(&what, node.record.backend, &node.record.cost);
    context.output.data(&show::summary(&store, &node)?, || format!("{}\n", node.id));
    Ok(())
}

fn import(context: &Context, store: &Store, arguments: &Arguments) -> Result<Node> {
    let options = arguments.materialize.options();
    let source = arguments.source.to_string();
    match &arguments.source {
        Source::Host => store.import_host(&arguments.name, options),
        Source::Directory(path) => {
            store.import(&arguments.name, &source, options, |target| copy_directory(path, target, options))
        }
        Source::Tar(path) => {
            let file = File::open(path).context(|| format!("open({path:?})"))?;
            store.import(&arguments.name, &source, options, |target| unpack(context, file, target))
        }
        Source::StandardInput => {
            store.import(&arguments.name, &source, options, |target| unpack(context, io::stdin(), target))
        }
    }
}

fn copy_directory(path: &Path, target: &Dir, options: CreateOptions) -> Result<Cost> {
    let clone = if options.always_clone { CloneMode::Always } else { CloneMode::Auto };
    replicate::replicate(&Dir::open(path)?, target, &replicate::Options { clone })
}

fn unpack(context: &Context, archive: impl io::Read + Send + 'static, target: &Dir) -> Result<Cost> {
    let (_, archive) = layer::decompress(archive)?;
    let applied = layer::apply(archive, target, &layer::ApplyOptions::default())?;
    for skipped in applied.skipped.iter().take(5) {
        let path = output::plain_text(OsStr::from_bytes(&skipped.path));
        context.output.say(format!("skipped {path}: {}", skipped.reason));
    }
    if applied.skipped_count > 5 {
        context.output.say(format!("skipped {} more", applied.skipped_count - 5));
    }
    Ok(Cost { files_copied: applied.entries, bytes_copied: applied.bytes_written, ..Cost::default() })
}
