//! `stats`: what running boxes use.

use std::time::{Duration, Instant};

use rootling_backends::{ErrorKind, Result};
use serde::Serialize;

use super::live::{self, Found};
use super::{Context, output};
use crate::runner::cgroup::{Cgroup, Stats};
use crate::store::Store;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Boxes, or forks that run [default: all that run]
    #[arg(value_name = "BOX")]
    boxes: Vec<String>,

    /// Show it once, also on a terminal
    #[arg(long)]
    no_stream: bool,
}

/// How long the processors are watched for a single reading.
const WATCHED: Duration = Duration::from_millis(500);

/// How often a terminal is drawn anew.
const REFRESH: Duration = Duration::from_secs(1);

/// A box and what it uses.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    pid: i32,
    /// Is it counted by a cgroup of the box's own, or summed up over its processes?
    cgroup: bool,
    /// Of one processor, over the time between two readings.
    cpu_percent: Option<f64>,
    #[serde(flatten)]
    stats: Stats,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let store = context.store()?;
    let streams = !arguments.no_stream && context.output.is_watched();
    let mut before = read(&store, &arguments.boxes)?;
    let mut taken = Instant::now();
    loop {
        std::thread::sleep(if streams { REFRESH } else { WATCHED });
        let mut rows = read(&store, &arguments.boxes)?;
        let elapsed = taken.elapsed();
        taken = Instant::now();
        for row in &mut rows {
            let earlier = before.iter().find(|earlier| (&earlier.name, earlier.pid) == (&row.name, row.pid));
            row.cpu_percent =
                earlier.and_then(|earlier| percent(earlier.stats.cpu_us?, row.stats.cpu_us?, elapsed));
        }
        if streams {
            context.output.redraw(&render(&rows));
        } else {
            context.output.data(&rows, || render(&rows));
            return Ok(());
        }
        before = rows;
    }
}

/// Reads all that run, or those named: that one of them does not run is an error.
fn read(store: &Store, names: &[String]) -> Result<Vec<Row>> {
    if names.is_empty() {
        let running = live::all(store)?.into_iter().filter(|found| found.alive().is_ok());
        let rows = running.filter_map(|found| match row(&found) {
            // One that ends while it is read is none that runs.
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            other => Some(other),
        });
        return rows.collect();
    }
    names.iter().map(|name| row(&live::find(store, name)?)).collect()
}

fn row(found: &Found) -> Result<Row> {
    let running = &found.alive()?.running;
    let stats = match &running.cgroup {
        Some(place) => Cgroup::open(place)?.stats()?,
        None => Stats::of_processes(running.pid)?,
    };
    let cgroup = running.cgroup.is_some();
    Ok(Row { name: found.label.clone(), pid: running.pid, cgroup, cpu_percent: None, stats })
}

fn percent(before_us: u64, after_us: u64, elapsed: Duration) -> Option<f64> {
    let elapsed_us = u32::try_from(elapsed.as_micros()).ok().filter(|elapsed| *elapsed > 0)?;
    // A process that ended takes its time with it where no cgroup remembers.
    let used_us = u32::try_from(after_us.saturating_sub(before_us)).ok()?;
    Some(f64::from(used_us) * 100.0 / f64::from(elapsed_us))
}

fn render(rows: &[Row]) -> String {
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), output::bytes);
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let stats = &row.stats;
            let of = |limit: Option<String>| limit.map(|limit| format!(" / {limit}")).unwrap_or_default();
            vec![
                row.name.clone(),
                row.cpu_percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent:.1}%")),
                size(stats.memory_bytes) + &of(stats.memory_limit_bytes.map(output::bytes)),
                size(stats.memory_peak_bytes),
                number(stats.pids) + &of(stats.pids_limit.map(|limit| limit.to_string())),
                format!("{} / {}", size(stats.io_read_bytes), size(stats.io_write_bytes)),
            ]
        })
        .collect();
    output::table(&["NAME", "CPU", "MEMORY", "PEAK", "PIDS", "READ / WRITTEN"], &cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_used_is_a_share_of_one_processor() {
        let second = Duration::from_secs(1);
        assert_eq!(percent(1_000_000, 1_500_000, second), Some(50.0));
        assert_eq!(percent(0, 2_000_000, second), Some(200.0));
        assert_eq!(percent(5, 0, second), Some(0.0));
        assert_eq!(percent(0, 0, Duration::ZERO), None);
    }

    #[test]
    fn what_is_not_counted_is_a_dash() {
        let stats = Stats {
            memory_bytes: Some(1024),
            memory_limit_bytes: Some(2048),
            pids: Some(3),
            ..Stats::default()
        };
        let row = Row { name: "dev".into(), pid: 1, cgroup: true, cpu_percent: None, stats };
        assert_eq!(
            render(&[row]),
            "NAME  CPU  MEMORY             PEAK  PIDS  READ / WRITTEN\n\
             dev   -    1.0 KiB / 2.0 KiB  -     3     - / -\n"
        );
    }
}
