//! Reads any bytes as an archive of images, and all that is in it: it must not panic, hang, or take what has not its digest.
//!
//! A tmpfs as TMPDIR makes it an order of magnitude faster.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rootling::image::Platform;
use rootling::transfer::{ImageArchive, Source, pump, read_configuration, resolve};

/// Makes the checksums right: random ones end every run at the first header.
fn with_checksums(data: &[u8]) -> Vec<u8> {
    let mut tar = data.to_vec();
    for block in tar.chunks_exact_mut(512) {
        if block[257..262] != *b"ustar" {
            continue;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    tar
}

fuzz_target!(|data: &[u8]| {
    let spool = std::env::temp_dir();
    let Ok(archive) = ImageArchive::from_stream(&with_checksums(data)[..], &spool) else { return };
    for listed in archive.list().expect("the list was read") {
        let name = listed.descriptor.map(|entry| entry.digest.to_string());
        let Ok(resolved) = resolve(&archive, name.as_deref(), &Platform::host()) else { continue };
        let manifest = resolved.manifest.manifest().expect("it is resolved to one");
        // An error is as good as success: most inputs are damaged.
        drop(read_configuration(&archive, manifest));
        for layer in &manifest.layers {
            if let Ok(mut content) = archive.open_blob(layer) {
                drop(pump(layer, &mut *content, &mut |_| Ok(())));
            }
        }
    }
});
