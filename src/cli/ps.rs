//! `ps` and `top`: what runs, and the processes of one of them.

use jiff::Timestamp;
use rootling_backends::Result;
use serde::Serialize;

use super::live::{self, Found, Note};
use super::{Context, output};
use crate::runner::{Running, Seen};

#[derive(Debug, clap::Args)]
pub(super) struct PsArguments {
    /// List also boxes whose command has ended
    #[arg(short, long)]
    all: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct TopArguments {
    /// The box, or a fork that runs
    pub(super) name: String,
}

/// One row of `ps`.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    id: String,
    /// `box`, or `run` for a fork that is thrown away.
    kind: &'static str,
    /// `running`, `exited`, or `killed` where whoever ran it could not write down how it ended.
    status: &'static str,
    /// The command's process, while it runs.
    pid: Option<i32>,
    /// The user inside, as it was asked for.
    user: String,
    started: Option<Timestamp>,
    ended: Option<Timestamp>,
    exit_code: Option<u8>,
    detached: bool,
    terminal: bool,
    command: Vec<String>,
}

pub(super) fn ps(context: &Context, arguments: &PsArguments) -> Result<()> {
    let store = context.store()?;
    let rows: Vec<Row> = live::all(&store)?
        .into_iter()
        .filter_map(row)
        .filter(|row| arguments.all || row.status == "running")
        .collect();
    let now = Timestamp::now();
    context.output.list_of(&rows, rows.iter().map(|row| &row.name), || {
        let cells: Vec<Vec<String>> = rows.iter().map(|row| row.cells(now)).collect();
        output::table(&["NAME", "ID", "PID", "USER", "STATUS", "COMMAND"], &cells)
    });
    Ok(())
}

fn row(found: Found) -> Option<Row> {
    let Found { label, is_box, id, note, .. } = found;
    let Note { running, command, started, detached, terminal, inherited, ended, .. } = note?;
    let alive = running.is_alive();
    Some(Row {
        name: label,
        id,
        kind: if is_box { "box" } else { "run" },
        status: match (alive, &ended) {
            (true, _) => "running",
            (false, Some(_)) => "exited",
            (false, None) => "killed",
        },
        pid: alive.then_some(running.pid),
        user: inherited.user.unwrap_or_else(|| "root".to_owned()),
        started,
        ended: ended.as_ref().map(|ended| ended.time),
        exit_code: ended.map(|ended| ended.status),
        detached,
        terminal,
        command,
    })
}

impl Row {
    fn cells(&self, now: Timestamp) -> Vec<String> {
        let ago = |time: Option<Timestamp>| {
            time.map_or_else(String::new, |time| format!(" {}", output::age(time, now)))
        };
        let status = match (self.status, self.exit_code) {
            ("running", _) => format!("up{}", ago(self.started)),
            ("exited", Some(code)) => format!("exited {code},{} ago", ago(self.ended)),
            (status, _) => status.to_owned(),
        };
        let words: Vec<_> = self.command.iter().map(|word| output::plain_text(word.as_ref())).collect();
        vec![
            self.name.clone(),
            self.id.clone(),
            self.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            output::plain_text(self.user.as_ref()).into_owned(),
            status,
            output::shortened(&words.join(" "), 60),
        ]
    }
}

/// One row of `top`.
#[derive(Debug, Serialize)]
struct Process {
    pid: i32,
    pid_inside: i32,
    /// The user inside, by number; null for one who is not mapped.
    uid: Option<u32>,
    state: char,
    resident_bytes: u64,
    cpu_seconds: f64,
    command: Vec<String>,
}

pub(super) fn top(context: &Context, arguments: &TopArguments) -> Result<()> {
    let store = context.store()?;
    let found = live::find(&store, &arguments.name)?;
    let running = &found.alive()?.running;
    let rows: Vec<Process> = running.processes()?.into_iter().map(|seen| process(running, seen)).collect();
    context.output.list_of(&rows, rows.iter().map(|row| &row.pid), || {
        let cells: Vec<Vec<String>> = rows.iter().map(Process::cells).collect();
        output::table(&["PID", "INSIDE", "USER", "STATE", "MEMORY", "CPU", "COMMAND"], &cells)
    });
    Ok(())
}

fn process(running: &Running, seen: Seen) -> Process {
    let ticks = u32::try_from(seen.cpu_ticks).unwrap_or(u32::MAX);
    Process {
        pid: seen.pid,
        pid_inside: seen.inside,
        uid: running.inside(seen.uid),
        state: seen.state,
        resident_bytes: seen.resident_bytes,
        cpu_seconds: f64::from(ticks) / 100.0,
        command: seen.command.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect(),
    }
}

impl Process {
    fn cells(&self) -> Vec<String> {
        let words: Vec<_> = self.command.iter().map(|word| output::plain_text(word.as_ref())).collect();
        vec![
            self.pid.to_string(),
            self.pid_inside.to_string(),
            self.uid.map_or_else(|| "?".to_owned(), |uid| uid.to_string()),
            self.state.to_string(),
            output::bytes(self.resident_bytes),
            format!("{:.1}s", self.cpu_seconds),
            output::shortened(&words.join(" "), 60),
        ]
    }
}
