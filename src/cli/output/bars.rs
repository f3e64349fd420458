//! What goes over the wire, while it does: a bar for each blob on a terminal, a line of JSON for each event where a program reads.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{Format, Output, Shows, write_out};

/// How often a program is told of one blob.
const EVERY: Duration = Duration::from_millis(250);

const STYLE: &str = "{prefix} {bar:30} {bytes:>10} / {total_bytes:<10} {bytes_per_sec:<12} {msg}";

/// Blobs on their way; dropping it takes the bars off the screen.
#[derive(Debug)]
pub(crate) struct Bars {
    screen: Option<MultiProgress>,
    tells: bool,
    blobs: Mutex<HashMap<String, Blob>>,
}

#[derive(Debug)]
struct Blob {
    bar: Option<ProgressBar>,
    bytes: u64,
    told: Instant,
}

/// What happens to a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Stage {
    /// Its transfer begins.
    Begun,
    /// More of it came or went.
    Moved,
    /// It is whole.
    Done,
    /// It was there.
    Present,
}

#[derive(Serialize)]
struct Line<'a> {
    event: Stage,
    digest: &'a str,
    bytes: u64,
    size: u64,
}

impl Output {
    /// Shows transfers, to a person or a program, whoever looks; where the image itself goes to standard output, nothing is told there.
    pub(crate) fn bars(self, beside_image: bool) -> Bars {
        let watched = !self.quiet && self.format != Format::Json && self.talks_to_a_terminal();
        Bars {
            screen: watched.then(MultiProgress::new),
            tells: self.format == Format::Json && !self.quiet && !beside_image,
            blobs: Mutex::default(),
        }
    }

    /// Prints one object as a line of JSON.
    pub(crate) fn line(self, value: &impl Serialize) {
        let mut text = serde_json::to_string(value).expect("what we print has text for keys");
        text.push('\n');
        write_out(text.as_bytes());
    }

    /// Says one object as a line of JSON, beside the data.
    pub(crate) fn talk_line(self, value: &impl Serialize) {
        let mut text = serde_json::to_string(value).expect("what we print has text for keys");
        text.push('\n');
        self.stream(Shows::Talk, text.as_bytes());
    }
}

impl Bars {
    fn blobs(&self) -> MutexGuard<'_, HashMap<String, Blob>> {
        self.blobs.lock().expect("nobody panics who holds it")
    }

    /// Tells of a blob: `bytes` more of its `size` where it moved.
    pub(crate) fn tell(&self, stage: Stage, digest: &str, size: u64, bytes: u64) {
        if self.screen.is_none() && !self.tells {
            return;
        }
        let mut blobs = self.blobs();
        let blob = blobs.entry(digest.to_owned()).or_insert_with(|| self.blob(digest, size));
        blob.bytes = match stage {
            Stage::Begun => 0,
            // What is sent again counts once.
            Stage::Moved => (blob.bytes + bytes).min(size),
            Stage::Done | Stage::Present => size,
        };
        let is_due = stage != Stage::Moved || blob.told.elapsed() >= EVERY;
        if let Some(bar) = &blob.bar {
            bar.set_position(blob.bytes);
            match stage {
                Stage::Done => bar.finish_with_message("done"),
                Stage::Present => bar.finish_with_message("is there"),
                Stage::Begun | Stage::Moved => {}
            }
        }
        if self.tells && is_due {
            blob.told = Instant::now();
            let line = Line { event: stage, digest, bytes: blob.bytes, size };
            let mut text = serde_json::to_string(&line).expect("plain fields");
            text.push('\n');
            write_out(text.as_bytes());
        }
    }

    fn blob(&self, digest: &str, size: u64) -> Blob {
        let bar = self.screen.as_ref().map(|screen| {
            let style = ProgressStyle::with_template(STYLE).expect("a fixed template");
            let short: String = digest.split(':').next_back().unwrap_or(digest).chars().take(12).collect();
            screen.add(ProgressBar::new(size).with_style(style).with_prefix(short))
        });
        Blob { bar, bytes: 0, told: Instant::now() }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        if let Some(screen) = &self.screen {
            // Best effort: what stays on the screen harms nobody.
            screen.clear().unwrap_or_default();
        }
    }
}
