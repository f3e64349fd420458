//! Reads any bytes as an archive of images, and all that is in it: it must not panic, hang, or take what has not its digest.
//!
//! A tmpfs as TMPDIR makes it an order of magnitude faster.

#![no_main]

mod checksums;

use libfuzzer_sys::fuzz_target;
use rootling::image::Platform;
use rootling::transfer::{ImageArchive, Source, pump, read_configuration, resolve};

fuzz_target!(|data: &[u8]| {
    let spool = std::env::temp_dir();
    let Ok(archive) = ImageArchive::from_stream(&checksums::righted(data)[..], &spool) else { return };
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
