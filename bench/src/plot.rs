//! Medians as grouped bars on a logarithmic scale, written as SVG by hand.
//!
//! One panel for each benchmark, one group for each file system and tree, one bar for each contender; the whisker ends at the
//! ninetieth percentile.

use std::fmt::Write;

use crate::cases;
use crate::samples::{Key, Samples};
use crate::stats::Summary;

const WIDTH: f64 = 1100.0;
const LABELS: f64 = 330.0;
const BAR: f64 = 15.0;
const GAP: f64 = 22.0;
const PANEL: f64 = 74.0;
const OURS: &str = "#1f6f8b";
const THEIRS: &str = "#b9b9b9";

/// One panel: what it shows, and from which power of ten to which.
struct Panel<'a> {
    title: &'a str,
    unit: &'a str,
    groups: Vec<(String, Vec<(String, Summary)>)>,
    low: f64,
    high: f64,
}

/// Draws all benchmarks that have numbers.
pub(crate) fn draw(samples: &Samples) -> String {
    let panels: Vec<_> = cases::ALL.iter().filter_map(|case| Panel::of(case, samples)).collect();
    let mut body = String::new();
    let mut top = 10.0;
    for panel in &panels {
        panel.draw(&mut body, top);
        top += panel.height();
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{top}\" viewBox=\"0 0 {WIDTH} {top}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"{WIDTH}\" height=\"{top}\" fill=\"#ffffff\"/>\n{body}</svg>\n"
    )
}

impl<'a> Panel<'a> {
    fn of(case: &'a cases::Case, samples: &Samples) -> Option<Self> {
        let keys: Vec<Key> = samples.keys().into_iter().filter(|key| key.case == case.id).collect();
        let mut groups: Vec<(String, Vec<(String, Summary)>)> = Vec::new();
        for key in keys {
            let summary = samples.summary(&key)?;
            let name = format!("{}, {}", key.file_system, key.tree);
            let bar = (key.contender, summary);
            match groups.iter_mut().find(|(known, _)| *known == name) {
                Some((_, bars)) => bars.push(bar),
                None => groups.push((name, vec![bar])),
            }
        }
        for (_, bars) in &mut groups {
            bars.sort_by(|a, b| a.1.median.total_cmp(&b.1.median));
        }
        let all = || groups.iter().flat_map(|(_, bars)| bars.iter().map(|(_, summary)| summary));
        let low = all().map(|summary| summary.median).min_by(f64::total_cmp)?.max(1e-3).log10();
        let high = all().map(|summary| summary.p90).max_by(f64::total_cmp)?.max(1e-3).log10();
        let (title, unit) = (case.title, case.unit);
        // The shortest bar still has a length.
        Some(Self { title, unit, low: (low - 0.1).floor(), high: (high + 0.01).ceil(), groups })
    }

    fn height(&self) -> f64 {
        self.groups
            .iter()
            .fold(PANEL, |height, (_, bars)| bars.iter().fold(height + GAP, |height, _| height + BAR))
    }

    /// Returns where on the page a value lies.
    fn x(&self, value: f64) -> f64 {
        let share = (value.max(1e-9).log10() - self.low) / (self.high - self.low);
        share.clamp(0.0, 1.0).mul_add(WIDTH - LABELS - 90.0, LABELS)
    }

    fn draw(&self, svg: &mut String, top: f64) {
        let bottom = top + self.height() - 36.0;
        put(
            svg,
            format_args!(
                "<text x=\"12\" y=\"{}\" font-size=\"15\" font-weight=\"bold\">{}</text>",
                top + 20.0,
                escape(self.title)
            ),
        );
        let mut power = self.low;
        while power <= self.high {
            let (value, x) = (10f64.powf(power), self.x(10f64.powf(power)));
            put(
                svg,
                format_args!(
                    "<line x1=\"{x:.1}\" y1=\"{}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#e2e2e2\"/>",
                    top + 30.0
                ),
            );
            put(
                svg,
                format_args!(
                    "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#666666\">{value} {}</text>",
                    bottom + 14.0,
                    self.unit
                ),
            );
            power += 1.0;
        }
        let mut y = top + 32.0;
        for (name, bars) in &self.groups {
            put(
                svg,
                format_args!(
                    "<text x=\"12\" y=\"{}\" font-weight=\"bold\">{}</text>",
                    y + 13.0,
                    escape(name)
                ),
            );
            y += GAP - 4.0;
            for (contender, summary) in bars {
                self.bar(svg, y, contender, summary);
                y += BAR;
            }
            y += 4.0;
        }
    }

    fn bar(&self, svg: &mut String, y: f64, contender: &str, summary: &Summary) {
        let (end, p90, middle) = (self.x(summary.median), self.x(summary.p90), y + BAR / 2.0);
        let colour = if contender.starts_with("rootling") { OURS } else { THEIRS };
        let digits = if self.unit == "ms" { 2 } else { 0 };
        let (length, label, height) = (end - LABELS, LABELS - 8.0, BAR - 3.0);
        put(
            svg,
            format_args!(
                "<text x=\"{label}\" y=\"{}\" text-anchor=\"end\">{}</text>",
                y + 10.5,
                escape(contender)
            ),
        );
        put(
            svg,
            format_args!(
                "<rect x=\"{LABELS}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{height}\" fill=\"{colour}\"/>"
            ),
        );
        put(
            svg,
            format_args!(
                "<line x1=\"{end:.1}\" y1=\"{0:.1}\" x2=\"{p90:.1}\" y2=\"{0:.1}\" stroke=\"#444444\"/>",
                middle - 1.5
            ),
        );
        put(
            svg,
            format_args!(
                "<text x=\"{:.1}\" y=\"{}\">{:.digits$}</text>",
                p90 + 5.0,
                y + 10.5,
                summary.median
            ),
        );
    }
}

fn put(svg: &mut String, what: std::fmt::Arguments<'_>) {
    writeln!(svg, "{what}").expect("a String takes everything");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_bar_ten_times_as_long_ends_one_decade_further() {
        let mut samples = Samples::new(Path::new("/x"));
        for (contender, value) in [("rootling overlay", 1.0), ("a & b", 10.0), ("c", 99.0)] {
            let contender = contender.to_owned();
            samples.add(Key { case: "fork", file_system: "xfs", tree: "minbase", contender }, 1, value);
        }
        let panel = Panel::of(&cases::FORK, &samples).unwrap();
        let steps = (panel.x(10.0) - panel.x(1.0), panel.x(100.0) - panel.x(10.0));
        assert!((steps.0 - steps.1).abs() < 1e-6 && steps.0 > 0.0);
        let svg = draw(&samples);
        assert!(svg.contains("a &amp; b") && svg.matches("<rect").count() == 4);
    }
}
