//! Opening the backends: whatever the program itself would open after probing the place.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use rootling_backends::{Backend, Kind, probe};

/// Returns each backend, or the reason why it does not work at `root`.
pub(crate) fn backends(root: &Path) -> HashMap<Kind, Result<Arc<dyn Backend>, String>> {
    let open = |kind| -> Result<Arc<dyn Backend>, String> {
        let abilities = probe::probe(root).map_err(|error| format!("{error:?}"))?;
        probe::open(kind, &abilities).map(Arc::from).map_err(|error| format!("{error:?}"))
    };
    Kind::ALL.into_iter().map(|kind| (kind, open(kind))).collect()
}
