//! The graph as text for graphviz: a box for each state, an arrow from each to what was made from it.

use super::Entry;

/// Returns a document that `dot -Tsvg` draws.
pub(super) fn draw(entries: &[Entry], age: impl Fn(&Entry) -> String) -> String {
    let mut text =
        "digraph rootling {\n  rankdir=LR;\n  node [shape=box, fontname=\"monospace\"];\n".to_owned();
    for entry in entries {
        let label = [entry.title(), format!("{} {}", entry.id, age(entry)), entry.what.clone()];
        let label: Vec<String> =
            label.iter().filter(|line| !line.is_empty()).map(|line| quoted(line)).collect();
        let style = if entry.is_box() { ", style=bold" } else { "" };
        text.push_str(&format!("  \"{}\" [label=\"{}\"{style}];\n", entry.id, label.join("\\n")));
    }
    for entry in entries {
        let drawn = entry.predecessor.as_ref().filter(|_| entry.before.is_some());
        text.extend(drawn.map(|before| format!("  \"{before}\" -> \"{}\";\n", entry.id)));
    }
    text.push_str("}\n");
    text
}

/// Escapes for a string in double quotes (graphviz, "The DOT Language").
fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_cannot_end_a_string() {
        assert_eq!(quoted("a \"b\" \\n c"), "a \\\"b\\\" \\\\n c");
    }
}
