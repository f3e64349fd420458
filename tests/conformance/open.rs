//! Opening the backends: whatever the program itself would open after probing the place.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use rootling_backends::{Backend, Kind, probe};

/// Where this is set, the overlay backend mounts with fuse-overlayfs, as it does where the kernel refuses to.
const BY_FUSE: &str = "ROOTLING_TEST_OVERLAY_BY_FUSE";

/// Returns each backend, or the reason why it does not work at `root`.
pub(crate) fn backends(root: &Path) -> HashMap<Kind, Result<Arc<dyn Backend>, String>> {
    let open = |kind| -> Result<Arc<dyn Backend>, String> {
        let mut abilities = probe::probe(root).map_err(|error| format!("{error:?}"))?;
        if std::env::var_os(BY_FUSE).is_some() {
            let usable = &abilities.fuse_overlay;
            if kind == Kind::Overlay && !usable.works {
                return Err(format!("{BY_FUSE} asks for fuse-overlayfs: {usable}"));
            }
            abilities.overlay_by_fuse = true;
        }
        probe::open(kind, &abilities).map(Arc::from).map_err(|error| format!("{error:?}"))
    };
    Kind::ALL.into_iter().map(|kind| (kind, open(kind))).collect()
}
