//! One more command in a box that runs.

use super::{Case, beside_bwrap};

/// See the module's head.
pub(crate) const EXEC: Case = Case {
    id: "exec",
    title: "Exec: /bin/true in a box that runs",
    unit: "ms",
    fairness: "rootling finds the box in its store, joins it and puts the box's walls around the command: filter, capabilities, masks. crun and runc \
        find theirs in their state directory, on a tmpfs; what their `spec` asks for is less (see Start). podman asks its database and starts runc. \
        nsenter is told the process id, joins a box that bwrap made and puts no wall around the command.",
    peer: beside_bwrap,
};
