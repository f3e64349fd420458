//! Which parts of `/proc` and `/sys` a box does not see or cannot write, unless told otherwise.
//!
//! The lists are those of containers-common and moby, and a little more: each line tells about, or acts on, the whole
//! machine. What a kernel does not have is skipped.

/// Shown as empty.
pub(super) const MASKED: [&str; 14] = [
    // Firmware tables, batteries and their thresholds.
    "/proc/acpi",
    "/proc/asound",
    // Counts per device: keystrokes can be told from them.
    "/proc/interrupts",
    // Addresses of the kernel, its memory, its keys.
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/keys",
    // What all processes of the machine wait for.
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/timer_list",
    "/proc/timer_stats",
    // Takes commands to the SCSI layer.
    "/proc/scsi",
    "/sys/firmware",
    "/sys/fs/selinux",
    // Power readings, from which secrets of other processes were told (PLATYPUS).
    "/sys/devices/virtual/powercap",
];

/// Shown, and not written.
pub(super) const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
