//! What is counted of the calls, and told to Prometheus ([text format](https://prometheus.io/docs/instrumenting/exposition_formats/), 0.0.4).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::Duration;

use rootling_backends::{Context as _, Result};
use tonic::Code;

use crate::store::{HeldKind, HeldTrees};

/// Upper bounds of the histogram's buckets, in seconds: from a look into memory to the copy of a large tree.
const BOUNDS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

/// What was counted since the server began.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    methods: Mutex<BTreeMap<&'static str, Method>>,
}

/// Of one method.
#[derive(Debug, Default, Clone)]
struct Method {
    /// Calls by what came of them.
    codes: BTreeMap<&'static str, u64>,
    /// Calls by how long they took: in each bucket, and beyond the last.
    buckets: [u64; BOUNDS.len() + 1],
    seconds: f64,
    running: u64,
}

impl Metrics {
    fn with<T>(&self, method: &'static str, act: impl FnOnce(&mut Method) -> T) -> T {
        let mut methods = self.methods.lock().expect("nobody panics who holds it");
        act(methods.entry(method).or_default())
    }

    /// Returns how many calls have begun and not ended.
    pub(super) fn running(&self) -> u64 {
        let methods = self.methods.lock().expect("nobody panics who holds it");
        methods.values().map(|method| method.running).sum()
    }

    /// Counts a call that begins.
    pub(super) fn begin(&self, method: &'static str) {
        self.with(method, |method| method.running += 1);
    }

    /// Counts a call that nobody waits for any more, before anything was done.
    pub(super) fn give_up(&self, method: &'static str) {
        self.with(method, |method| method.running -= 1);
    }

    /// Counts a call that has ended.
    pub(super) fn end(&self, method: &'static str, code: Code, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.with(method, |method| {
            method.running -= 1;
            *method.codes.entry(name(code)).or_default() += 1;
            method.buckets[bucket] += 1;
            method.seconds += seconds;
        });
    }

    /// Writes them, and how it stands with what is held. One reading of the directory `trash/` and one statvfs(2).
    pub(super) fn written(&self, held: &HeldTrees) -> Result<String> {
        let methods = self.methods.lock().expect("nobody panics who holds it").clone();
        let mut page = Page::default();
        page.family("rootling_requests_total", "counter", "Calls by method and code of gRPC.");
        for (method, counted) in &methods {
            for (code, count) in &counted.codes {
                page.line("rootling_requests_total", &[("method", method), ("code", code)], *count);
            }
        }
        page.family("rootling_requests_running", "gauge", "Calls that have begun and not ended.");
        for (method, counted) in &methods {
            page.line("rootling_requests_running", &[("method", method)], counted.running);
        }
        page.family("rootling_request_seconds", "histogram", "How long calls took.");
        for (method, counted) in &methods {
            page.histogram("rootling_request_seconds", method, counted);
        }
        page.store(held)?;
        Ok(page.0)
    }
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, sort: &str, help: &str) {
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {sort}").expect("a string takes all");
    }

    /// The values of labels are words of ours: none needs an escape.
    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        writeln!(self.0, "{name}{labels} {value}").expect("a string takes all");
    }

    fn histogram(&mut self, name: &str, method: &str, counted: &Method) {
        let mut sum = 0;
        let bounds = BOUNDS.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(counted.buckets) {
            sum += count;
            self.line(&format!("{name}_bucket"), &[("method", method), ("le", &bound)], sum);
        }
        self.line(&format!("{name}_sum"), &[("method", method)], counted.seconds);
        self.line(&format!("{name}_count"), &[("method", method)], sum);
    }

    fn store(&mut self, held: &HeldTrees) -> Result<()> {
        self.family("rootling_held_trees", "gauge", "Trees that containerd holds.");
        let infos = held.walk();
        for (kind, word) in
            [(HeldKind::View, "view"), (HeldKind::Active, "active"), (HeldKind::Committed, "committed")]
        {
            let count = infos.iter().filter(|info| info.kind == kind).count();
            self.line("rootling_held_trees", &[("kind", word)], count);
        }
        let root = held.store().root();
        let trash = root.join("trash");
        let listed = std::fs::read_dir(&trash).context(|| format!("readdir({trash:?})"))?;
        self.family("rootling_trash_trees", "gauge", "Trees that were removed and still occupy space.");
        self.line("rootling_trash_trees", &[], listed.count());
        let stat = nix::sys::statvfs::statvfs(root).context(|| format!("statvfs({root:?})"))?;
        let unit = stat.fragment_size();
        self.family("rootling_store_bytes", "gauge", "Size of the store's file system.");
        self.line("rootling_store_bytes", &[], stat.blocks() * unit);
        self.family("rootling_store_free_bytes", "gauge", "Of that, what is free.");
        self.line("rootling_store_free_bytes", &[], stat.blocks_available() * unit);
        Ok(())
    }
}

/// The name of a code, as gRPC's libraries for Go count it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
        Code::Unknown => "Unknown",
    }
}
