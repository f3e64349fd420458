//! `init`: make a store, or grow one that is in a loop file.

use std::path::PathBuf;

use rootling_backends::{Error, ErrorKind, Result};
use serde::Serialize;

use super::{BackendChoice, Context, output, said};
use crate::loop_store::{self, FileSystem};
use crate::store::Store;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Where [default: the store of --root, or the default one]
    path: Option<PathBuf>,

    /// Backend that makes trees in it
    #[arg(long, value_enum, default_value = "auto")]
    backend: BackendChoice,

    /// Put the store on a file system of its own, in a sparse file of this size; on such a store: grow it
    #[arg(long = "loop", value_name = "SIZE", value_parser = said(parse_size))]
    loop_size: Option<u64>,

    /// File system of a loop store
    #[arg(long, value_enum, default_value = "btrfs", requires = "loop_size")]
    fs: FileSystem,
}

/// What is printed of a store.
#[derive(Debug, Serialize)]
struct Made {
    root: PathBuf,
    file_system: String,
    default_backend: &'static str,
    ephemeral_backend: &'static str,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let path = match &arguments.path {
        Some(path) => path.clone(),
        None => context.store_path()?,
    };
    let store = match arguments.loop_size {
        Some(size) if loop_store::exists(&path) => {
            loop_store::grow(&path, size)?;
            Store::open(&loop_store::open(&path)?)?
        }
        Some(size) => {
            let place = loop_store::create(&path, size, arguments.fs)?;
            Store::init(&place, arguments.backend.kind())?
        }
        None => Store::init(&path, arguments.backend.kind())?,
    };
    let made = Made {
        root: store.root().to_owned(),
        file_system: store.abilities().file_system.clone(),
        default_backend: store.default_backend().name(),
        ephemeral_backend: store.ephemeral_backend().name(),
    };
    context.output.data(&made, || {
        format!(
            "store {} on {}: boxes by {}, throw-away forks by {}\n",
            output::plain(&made.root),
            made.file_system,
            made.default_backend,
            made.ephemeral_backend
        )
    });
    Ok(())
}

/// Reads `20G`, `512MiB`, `1073741824`.
pub(super) fn parse_size(text: &str) -> Result<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: Option<u64> = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => Some(1),
        "K" | "KIB" => Some(1 << 10),
        "M" | "MIB" => Some(1 << 20),
        "G" | "GIB" => Some(1 << 30),
        "T" | "TIB" => Some(1 << 40),
        _ => None,
    };
    let size = number.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    size.ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, format!("{text:?} is not a size: write 20G or 512M"))
    })
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes_are_read_in_powers_of_two() {
        assert_eq!(parse_size("512").unwrap(), 512);
        assert_eq!(parse_size("20G").unwrap(), 20 << 30);
        assert_eq!(parse_size("1mib").unwrap(), 1 << 20);
        for text in ["", "G", "1X", "-1", "99999999999T"] {
            assert!(parse_size(text).is_err(), "{text:?}");
        }
    }
}
