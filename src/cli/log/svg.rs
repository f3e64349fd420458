//! The graph as a picture: rows and lanes as in the text, with a box for each state and an arrow from each to what was made from it.
//!
//! Nothing is drawn right of a state in its row, so that its box may be as wide as its text.

use super::Entry;
use super::graph::Place;

/// Pixels: from row to row, from lane to lane, around it all; a box's height; a character's width in 12 pixel monospace.
const ROW: usize = 56;
const LANE: usize = 28;
const MARGIN: usize = 16;
const HEIGHT: usize = 38;
const CHARACTER: usize = 8;
/// Where in a box the lines arrive and leave, from its left.
const STEM: usize = 10;

/// Returns an SVG document.
pub(super) fn draw(entries: &[Entry], places: &[Place], age: impl Fn(&Entry) -> String) -> String {
    let mut row_of = vec![0; entries.len()];
    for (row, place) in places.iter().enumerate() {
        row_of[place.state] = row;
    }
    let (mut lines, mut boxes, mut width) = (String::new(), String::new(), 0);
    for (row, place) in places.iter().enumerate() {
        let entry = &entries[place.state];
        let (x, y) = corner(row, place.lane);
        if let Some(before) = entry.before {
            let below = row_of[before];
            lines.push_str(&arrow((x, y), corner(below, places[below].lane)));
        }
        let texts = [format!("{}  {}", entry.title(), age(entry)), format!("{}  {}", entry.id, entry.what)];
        let length = texts.iter().map(|text| text.trim_end().chars().count()).max().unwrap_or(0);
        let box_width = length * CHARACTER + 2 * STEM;
        width = width.max(x + box_width + MARGIN);
        boxes.push_str(&state(entry.is_box(), (x, y), box_width, &texts));
    }
    let height = places.len() * ROW + MARGIN;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"monospace\" font-size=\"12\">\n\
         <defs><marker id=\"to\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" orient=\"auto\">\
         <path d=\"M0 0 8 4 0 8z\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <g fill=\"none\" stroke=\"black\" marker-end=\"url(#to)\">\n{lines}</g>\n{boxes}</svg>\n"
    )
}

fn corner(row: usize, lane: usize) -> (usize, usize) {
    (MARGIN + lane * LANE, MARGIN + row * ROW)
}

/// From the top of what came before up its lane, then over to the bottom of what was made from it.
fn arrow((x, y): (usize, usize), (before_x, before_y): (usize, usize)) -> String {
    let (from, to) = (before_x + STEM, x + STEM);
    let bottom = y + HEIGHT;
    let bend = bottom + ROW - HEIGHT;
    let path = if from == to {
        format!("M{from} {before_y}V{bottom}")
    } else {
        format!("M{from} {before_y}V{bend}C{from} {bottom} {to} {bend} {to} {bottom}")
    };
    format!("<path d=\"{path}\"/>\n")
}

fn state(is_box: bool, (x, y): (usize, usize), width: usize, texts: &[String; 2]) -> String {
    let fill = if is_box { "#dff0d8" } else { "#f4f4f4" };
    let [title, rest] = texts.each_ref().map(|text| escaped(text.trim_end()));
    let text_x = x + STEM;
    let (first, second) = (y + 16, y + 31);
    format!(
        "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{HEIGHT}\" rx=\"4\" fill=\"{fill}\" stroke=\"black\"/>\
         <text x=\"{text_x}\" y=\"{first}\" font-weight=\"bold\">{title}</text>\
         <text x=\"{text_x}\" y=\"{second}\">{rest}</text>\n"
    )
}

/// Escapes what XML would take for its own; control characters are gone by now.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_text() {
        assert_eq!(escaped("</text><script>\"&\""), "&lt;/text&gt;&lt;script&gt;&quot;&amp;&quot;");
    }

    #[test]
    fn an_arrow_points_from_what_came_before_to_what_was_made_from_it() {
        assert_eq!(arrow((16, 16), (16, 72)), "<path d=\"M26 72V54\"/>\n");
        assert_eq!(arrow((44, 16), (16, 72)), "<path d=\"M26 72V72C26 54 54 72 54 54\"/>\n");
    }
}
