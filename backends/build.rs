//! Links libbtrfsutil statically where its archive is installed, so that the program also starts on hosts
//! that have no btrfs and no such library.
//!
//! `btrfsutil-sys` asks for `-lbtrfsutil` and leaves the choice to the linker, which takes, in the first directory of
//! its search path that has either, the shared library over the archive. So this puts a directory that holds nothing but
//! the archive in front. Without an archive, or with `ROOTLING_DYNAMIC_BTRFSUTIL` set (the library is LGPL, and who
//! ships binaries may prefer to leave it replaceable), the shared library is linked.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const ARCHIVE: &str = "libbtrfsutil.a";
const DYNAMIC: &str = "ROOTLING_DYNAMIC_BTRFSUTIL";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={DYNAMIC}");
    if env::var_os("CARGO_FEATURE_BTRFS").is_none() || env::var_os(DYNAMIC).is_some() {
        return;
    }
    let Some(archive) = find_archive() else { return };
    println!("cargo::rerun-if-changed={}", archive.display());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts"));
    match std::fs::copy(&archive, out.join(ARCHIVE)) {
        Ok(_) => println!("cargo::rustc-link-search=native={}", out.display()),
        Err(error) => {
            println!("cargo::warning=linking libbtrfsutil dynamically: copy {}: {error}", archive.display());
        }
    }
}

/// Asks the C compiler that links for this target where the archive is; it answers with the bare name for "nowhere".
fn find_archive() -> Option<PathBuf> {
    let linker = match env::var_os("RUSTC_LINKER") {
        Some(linker) => linker,
        None if env::var_os("HOST") == env::var_os("TARGET") => "cc".into(),
        // The host's compiler knows nothing of another target's libraries.
        None => return None,
    };
    let output = Command::new(linker).arg(format!("-print-file-name={ARCHIVE}")).output().ok()?;
    let path = Path::new(std::str::from_utf8(&output.stdout).ok()?.trim()).to_owned();
    (path.is_absolute() && path.is_file()).then_some(path)
}
