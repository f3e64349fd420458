//! Limits as a person asks for them: `run --memory`, commands that join, `stats`, and nothing left afterwards.
//!
//! Whether the kernel keeps to them is tested by `limits`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::environment::{Environment, ran, skip};

/// An environment with `base`, where cgroups can be made.
fn environment() -> Option<Environment> {
    let environment = Environment::new();
    if !environment.import_busybox() {
        return None;
    }
    let ran = environment.inside(&["--pids-limit", "50"], "true");
    if ran.code == 125 && ran.stderr.contains("needs") {
        skip(&format!("no cgroups for us: {}", ran.stderr));
        return None;
    }
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    Some(environment)
}

/// Directories of cgroups whose name begins as those of boxes of a host name do.
fn cgroups(hostname: &str) -> Vec<PathBuf> {
    let mut found = BTreeSet::new();
    let mut places = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(place) = places.pop() {
        for entry in fs::read_dir(&place).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().starts_with(&format!("box-{hostname}-")) {
                    found.insert(entry.path());
                }
                places.push(entry.path());
            }
        }
    }
    found.into_iter().collect()
}

#[test]
fn a_box_is_held_to_its_limits_and_leaves_no_cgroup() {
    let Some(environment) = environment() else { return };
    let eat = "dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null";
    let name = ["--hostname", "held-memory"];
    let ran = environment.inside(&[&name[..], &["--memory", "128m"]].concat(), eat);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let ran = environment.inside(&[&name[..], &["--memory", "16m", "--memory-swap", "16m"]].concat(), eat);
    assert_eq!(ran.code, 137, "{}", ran.stderr);
    let breed = "for i in 1 2 3 4 5 6; do sleep 1 & done";
    let ran = environment.inside(&[&name[..], &["--pids-limit", "5"]].concat(), breed);
    assert_ne!(ran.code, 0);
    assert!(ran.stderr.contains("can't fork"), "{}", ran.stderr);
    let score = environment.inside(&["--oom-score-adj", "321"], "cat /proc/self/oom_score_adj");
    assert_eq!(score.stdout, "321\n", "{}", score.stderr);
    assert_eq!(cgroups("held-memory"), [""; 0].map(PathBuf::from));
}

#[test]
fn inside_the_boxs_cgroup_is_the_root_of_all_and_cannot_be_written() {
    let Some(environment) = environment() else { return };
    for net in ["none", "host"] {
        let ran = environment
            .inside(&["--net", net, "--pids-limit", "50", "--memory", "64m"], "cat /proc/self/cgroup");
        for line in ran.stdout.lines().filter(|line| !line.contains("name=")) {
            let own = ["0::", "pids", "memory"].iter().any(|name| line.contains(name));
            assert!(!own || line.ends_with(":/"), "{line} in {}", ran.stdout);
        }
    }
}

#[test]
fn what_joins_a_box_is_under_its_limits() {
    let Some(environment) = environment() else { return };
    // Two processes of the box's own, three of the command that joins.
    let _dev = environment.start_dev(&["--pids-limit", "8"]);
    let breed = "for i in 1 2 3 4 5 6 7; do sleep 1 & done";
    let joined = environment.run(["-q", "exec", "dev", "--", "sh", "-c", breed]);
    assert!(joined.stderr.contains("can't fork"), "{}", joined.stderr);
    let error = environment.fails(["exec", "--memory", "64m", "dev", "--", "true"]);
    assert!(error.contains("--memory is settled when a box starts"), "{error}");
}

#[test]
fn stats_shows_boxes_with_and_without_a_cgroup() {
    let Some(environment) = environment() else { return };
    assert_eq!(environment.json(["stats"]), serde_json::json!([]));
    {
        let _dev = environment.start_dev(&["--pids-limit", "20", "--memory", "64m"]);
        let rows = environment.json(["stats", "dev"]);
        let row = &rows[0];
        assert_eq!((&row["name"], &row["cgroup"]), (&"dev".into(), &true.into()), "{row}");
        assert_eq!((&row["pids"], &row["pids_limit"]), (&2.into(), &20.into()), "{row}");
        assert_eq!(row["memory_limit_bytes"], 64 << 20, "{row}");
        assert!(row["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 0 && bytes < 64 << 20), "{row}");
        assert!(row["cpu_percent"].as_f64().is_some_and(|percent| percent < 50.0), "{row}");
        let table = environment.ok(["stats", "--no-stream"]);
        assert!(table.starts_with("NAME  CPU"), "{table}");
        assert!(table.contains("/ 64.0 MiB") && table.contains("2 / 20"), "{table}");
    }
    environment.ok(["rm", "--now", "dev"]);
    let _dev = environment.start_dev(&[]);
    let rows = environment.json(["stats"]);
    let row = &rows[0];
    assert_eq!(
        (&row["cgroup"], &row["pids"], &row["pids_limit"]),
        (&false.into(), &2.into(), &().into()),
        "{row}"
    );
    assert!(row["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{row}");
    let error = environment.fails(["stats", "base"]);
    assert!(error.contains("base does not run"), "{error}");
}

#[test]
fn what_cannot_be_enforced_is_refused_before_anything_runs() {
    let Some(environment) = environment() else { return };
    for (flags, words) in [
        (&["--cpuset-cpus", "4095"][..], "--cpuset-cpus 4095: 4095 cannot be used here"),
        (&["--device-read-bps", "/dev/null:1m"], "--device-read-bps \"/dev/null\" is no block device"),
        (&["--memory-swap", "1g"], "--memory-swap limits memory and swap together: it needs --memory"),
        (&["--memory", "many"], "\"many\" is not a size"),
        (&["--pids-limit", "0"], "--pids-limit 0 is not within"),
    ] {
        let ran = environment.inside(&[&["--hostname", "refused"], flags].concat(), "touch /ran");
        assert!(ran.code == 125 || ran.code == 2, "{flags:?}: {}", ran.code);
        assert!(ran.stderr.contains(words), "{flags:?}: {}", ran.stderr);
        assert!(!ran.stderr.contains("root inside is root outside"), "tried again: {}", ran.stderr);
    }
    assert!(cgroups("refused").is_empty());
}

#[test]
fn a_box_without_limits_touches_no_cgroup() {
    let Some(environment) = environment() else { return };
    let calls = |flags: &[&str]| -> String {
        let trace = environment.path("trace");
        let mut command = Command::new("strace");
        command
            .arg("-f")
            .arg("-o")
            .arg(&trace)
            .arg(crate::environment::BINARY)
            .args(["-q", "run"])
            .args(flags);
        command
            .args(["base", "--", "true"])
            .env("ROOTLING_ROOT", environment.store())
            .env("ROOTLING_NET", "host")
            .stdin(Stdio::null());
        let ran = ran(command.output().expect("strace is installed"));
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        fs::read_to_string(&trace).expect("strace wrote it")
    };
    // The box's own view of the cgroups is mounted by descriptor below /sys, without the path.
    assert!(!calls(&[]).contains("/sys/fs/cgroup"));
    let limited = calls(&["--pids-limit", "50"]);
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() || Path::new("/sys/fs/cgroup/unified").exists()
    {
        let cloned = limited.lines().find(|line| line.contains("CLONE_INTO_CGROUP")).expect("cloned into it");
        assert!(!cloned.contains("= -1"), "{cloned}");
    }
}

#[test]
fn a_killed_caller_leaves_a_cgroup_that_prune_removes() {
    let Some(environment) = environment() else { return };
    let mut command = environment.command();
    command.args(["-q", "run", "--hostname", "killed", "--pids-limit", "50", "base", "--"]);
    let mut caller = command.args(["sleep", "1000"]).stdout(Stdio::null()).spawn().expect("it starts");
    let start = Instant::now();
    let waits = |mut holds: Box<dyn FnMut() -> bool>| {
        while !holds() {
            assert!(start.elapsed() < Duration::from_secs(20), "it never happened");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let processes = || {
        let files = cgroups("killed").into_iter().map(|path| path.join("cgroup.procs"));
        files.map(|file| fs::read_to_string(file).unwrap_or_default()).collect::<String>()
    };
    waits(Box::new(|| processes().lines().count() >= 2));
    caller.kill().expect("it is ours");
    caller.wait().expect("it is ours");
    waits(Box::new(|| processes().is_empty()));
    environment.ok(["prune"]);
    assert!(cgroups("killed").is_empty());
}
