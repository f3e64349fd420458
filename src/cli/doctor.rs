//! `doctor`: what this machine can do, why not, and what to do about it.

use std::path::{Path, PathBuf};

use rootling_backends::Result;
use rootling_backends::probe::{self, Ability};
use serde::Serialize;

use super::{Context, output};
use crate::loop_store;
use crate::runner::net::{self, Lacking, Way, find_tool};
use crate::runner::{self, Entered};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    works: bool,
    /// Is rootling useless without it?
    required: bool,
    reason: Option<String>,
    fix: Option<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    store: PathBuf,
    exists: bool,
    probed: PathBuf,
    file_system: String,
    boxes_by: Option<&'static str>,
    throw_away_forks_by: Option<&'static str>,
    findings: Vec<Finding>,
}

/// Returns 0 if everything that is required works, else 1.
pub(super) fn run(context: &Context, _: &Arguments) -> Result<i32> {
    let path = context.store_path()?;
    let exists = path.join("format").exists() || loop_store::exists(&path);
    let place = if loop_store::exists(&path) { loop_store::open(&path)? } else { path.clone() };
    let probed = nearest_existing(&place);
    let abilities = probe::probe(&probed)?;
    let finding = |what, required, ability: &Ability| Finding {
        what,
        works: ability.works,
        required,
        reason: ability.reason.clone(),
        fix: ability.hint.clone(),
    };
    let mut findings = vec![
        finding("btrfs subvolumes", false, &abilities.subvolumes),
        finding("reflinks", false, &abilities.reflink),
        finding("overlay", false, &abilities.overlay),
        finding("overlay by fuse-overlayfs", false, &abilities.fuse_overlay),
    ];
    findings.push(ids(&context.entered));
    findings.push(limits());
    findings.extend(host_findings(&context.entered));
    let report = Report {
        store: path,
        exists,
        probed,
        file_system: abilities.file_system.clone(),
        boxes_by: Some(probe::auto_persistent(&abilities).name()),
        throw_away_forks_by: Some(probe::auto_ephemeral(&abilities).name()),
        findings,
    };
    context.output.data(&report, || render(&report));
    Ok(i32::from(report.findings.iter().any(|finding| finding.required && !finding.works)))
}

fn nearest_existing(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let found = absolute.ancestors().find(|ancestor| ancestor.is_dir());
    found.unwrap_or(Path::new("/")).to_owned()
}

fn host_findings(entered: &Entered) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |what, required, works: bool, reason: String, fix: &str| {
        findings.push(Finding {
            what,
            works,
            required,
            reason: Some(reason),
            fix: (!works && !fix.is_empty()).then(|| fix.to_owned()),
        });
    };
    let release = nix::sys::utsname::uname().map(|names| names.release().to_string_lossy().into_owned());
    let release = release.unwrap_or_default();
    add("kernel 5.12 or later", true, kernel_at_least(&release, (5, 12)), release, "upgrade the kernel");

    let namespaces = ["mnt", "pid", "ipc", "uts", "cgroup", "net", "user"];
    let missing: Vec<&str> =
        namespaces.into_iter().filter(|name| !Path::new("/proc/self/ns").join(name).exists()).collect();
    let reason =
        if missing.is_empty() { "all".to_owned() } else { format!("missing: {}", missing.join(", ")) };
    add("namespaces", true, missing.is_empty(), reason, "use a kernel with CONFIG_NAMESPACES");

    let forbidden = runner::forbidden();
    let (reason, fix) = forbidden.map_or(("allowed", ""), |forbidden| (forbidden.reason, forbidden.fix));
    let works = forbidden.is_none() && *entered != Entered::Nothing;
    add("user namespaces for everybody", *entered != Entered::Root, works, reason.to_owned(), fix);

    let maps = ["newuidmap", "newgidmap"].iter().all(|tool| find_tool(tool).is_some());
    let reason = if maps { "newuidmap and newgidmap found" } else { "newuidmap or newgidmap is missing" };
    add(
        "id ranges for everybody",
        false,
        maps,
        reason.to_owned(),
        "install the package uidmap (shadow-utils)",
    );

    for (tool, package) in
        [("mkfs.btrfs", "btrfs-progs"), ("mkfs.xfs", "xfsprogs"), ("losetup", "util-linux")]
    {
        if *entered != Entered::Root {
            // Nobody else may mount what they make.
            continue;
        }
        let works = find_tool(tool).is_some();
        let reason = format!("{tool} {}", if works { "found" } else { "is missing" });
        let what = match tool {
            "mkfs.btrfs" => "loop stores with btrfs",
            "mkfs.xfs" => "loop stores with XFS",
            _ => "loop devices",
        };
        add(what, false, works, reason, &format!("install the package {package}"));
    }
    findings.extend(networks(entered));
    findings
}

/// Private networks of the caller, and where that is root, of users too.
fn networks(entered: &Entered) -> Vec<Finding> {
    let finding = |what, found: std::result::Result<Way, Lacking>| match found {
        Ok(way) => {
            let mut reason = format!("by {}", way.name());
            if way == Way::Bridge && !net::forwards() {
                reason.push_str("; the first switches net.ipv4.ip_forward on");
            }
            Finding { what, works: true, required: false, reason: Some(reason), fix: None }
        }
        Err(Lacking { reason, fix }) => {
            Finding { what, works: false, required: false, reason: Some(reason), fix: Some(fix) }
        }
    };
    let mut findings = vec![finding("private networks", net::probe())];
    if *entered == Entered::Root {
        findings.push(finding("private networks for everybody", net::probe_for_users()));
    }
    findings
}

fn kernel_at_least(release: &str, wanted: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= wanted
}

/// What boxes can be limited in.
fn limits() -> Finding {
    let ability = runner::cgroup::ability();
    let fix = ability.as_ref().err().and_then(|error| error.first_hint().map(str::to_owned));
    let works = ability.is_ok();
    let reason = ability.unwrap_or_else(|error| error.to_string());
    Finding { what: "limits for boxes", works, required: false, reason: Some(reason), fix }
}

/// Whose ids exist in the trees that this user makes.
fn ids(entered: &Entered) -> Finding {
    let (works, reason, fix) = match entered {
        Entered::Root => (true, "all: you are root".to_owned(), None),
        Entered::Range { users, .. } => (true, format!("root and {users} more"), None),
        Entered::Single { reason, fix } => {
            (false, format!("root alone: {reason}"), (!fix.is_empty()).then(|| fix.clone()))
        }
        Entered::Nothing => (false, "none: there is no user namespace for you".to_owned(), None),
    };
    Finding { what: "users in your trees", works, required: false, reason: Some(reason), fix }
}

fn render(report: &Report) -> String {
    let mut text = format!(
        "store     {}{}\non        {} at {}\nboxes by  {}\nruns by   {}\n\n",
        output::plain(&report.store),
        if report.exists { "" } else { " (not made yet)" },
        report.file_system,
        output::plain(&report.probed),
        report.boxes_by.unwrap_or("nothing"),
        report.throw_away_forks_by.unwrap_or("nothing"),
    );
    let cells: Vec<Vec<String>> = report
        .findings
        .iter()
        .map(|finding| {
            vec![
                finding.what.to_owned(),
                if finding.works { "yes" } else { "no" }.to_owned(),
                finding.reason.clone().unwrap_or_default(),
                finding.fix.clone().unwrap_or_default(),
            ]
        })
        .collect();
    text.push_str(&output::table(&["ABILITY", "WORKS", "WHY", "FIX"], &cells));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions_compare_as_numbers() {
        assert!(kernel_at_least("6.1.0-18-amd64", (5, 12)));
        assert!(!kernel_at_least("5.4.0", (5, 12)));
        assert!(kernel_at_least("5.12", (5, 12)));
        assert!(!kernel_at_least("", (5, 12)));
    }

    #[test]
    fn the_nearest_existing_directory_of_a_missing_store_is_found() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(nearest_existing(&dir.path().join("a/b/c")), dir.path());
    }
}
