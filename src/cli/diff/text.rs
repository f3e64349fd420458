//! Texts compared line by line.

use std::ops::Range;

use imara_diff::sources::byte_lines;
use imara_diff::{Algorithm, Diff, Hunk, InternedInput};

/// Two texts and what differs.
pub(super) struct Compared<'a> {
    input: InternedInput<&'a [u8]>,
    diff: Diff,
}

impl<'a> Compared<'a> {
    /// Compares two texts. The time for hostile ones is bounded by giving up on the smallest difference.
    pub(super) fn new(old: &'a [u8], new: &'a [u8]) -> Self {
        let input = InternedInput::new(byte_lines(old), byte_lines(new));
        let mut diff = Diff::compute(Algorithm::Histogram, &input);
        diff.postprocess_lines(&input);
        Self { input, diff }
    }

    /// Returns how many lines were added and removed.
    pub(super) fn count(&self) -> (u64, u64) {
        (u64::from(self.diff.count_additions()), u64::from(self.diff.count_removals()))
    }

    /// Returns the unified difference without its heading, with so many equal lines around each change.
    pub(super) fn unified(&self, context: u32) -> Vec<u8> {
        let mut text = Vec::new();
        for group in groups(self.diff.hunks().collect(), context) {
            self.group(&group, context, &mut text);
        }
        text
    }

    fn group(&self, hunks: &[Hunk], context: u32, text: &mut Vec<u8>) {
        let (Some(first), Some(last)) = (hunks.first(), hunks.last()) else { return };
        let length = u32::try_from(self.input.before.len()).unwrap_or(u32::MAX);
        let lead = first.before.start.min(context);
        let tail = (length - last.before.end).min(context);
        let before = first.before.start - lead..last.before.end + tail;
        let after = first.after.start - lead..last.after.end + tail;
        text.extend(format!("@@ -{} +{} @@\n", range(&before), range(&after)).bytes());
        let mut at = before.start;
        for hunk in hunks {
            self.lines(b' ', &self.input.before, at..hunk.before.start, text);
            self.lines(b'-', &self.input.before, hunk.before.clone(), text);
            self.lines(b'+', &self.input.after, hunk.after.clone(), text);
            at = hunk.before.end;
        }
        self.lines(b' ', &self.input.before, at..before.end, text);
    }

    fn lines(&self, sign: u8, side: &[imara_diff::Token], lines: Range<u32>, text: &mut Vec<u8>) {
        for token in &side[lines.start as usize..lines.end as usize] {
            let line = self.input.interner[*token];
            text.push(sign);
            text.extend(line);
            if !line.ends_with(b"\n") {
                text.extend(b"\n\\ No newline at end of file\n");
            }
        }
    }
}

/// Hunks whose surroundings touch are shown as one.
fn groups(hunks: Vec<Hunk>, context: u32) -> Vec<Vec<Hunk>> {
    let mut groups: Vec<Vec<Hunk>> = Vec::new();
    for hunk in hunks {
        match groups.last_mut() {
            Some(group)
                if group
                    .last()
                    .is_some_and(|last| hunk.before.start - last.before.end <= context.saturating_mul(2)) =>
            {
                group.push(hunk);
            }
            _ => groups.push(vec![hunk]),
        }
    }
    groups
}

/// Says which lines, counted from 1; of none, the one before.
fn range(lines: &Range<u32>) -> String {
    match lines.len() {
        1 => (lines.start + 1).to_string(),
        0 => format!("{},0", lines.start),
        length => format!("{},{length}", lines.start + 1),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn unified(old: &str, new: &str, context: u32) -> String {
        String::from_utf8(Compared::new(old.as_bytes(), new.as_bytes()).unified(context)).unwrap()
    }

    #[test]
    fn lines_are_shown_with_what_is_around_them() {
        let old = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
        assert_eq!(unified(old, "1\n2\n3\n4\nfive\n6\n7\n8\n9\n", 1), "@@ -4,3 +4,3 @@\n 4\n-5\n+five\n 6\n");
        let two = unified(old, "one\n2\n3\n4\n5\n6\n7\n8\n", 1);
        assert_eq!(two, "@@ -1,2 +1,2 @@\n-1\n+one\n 2\n@@ -8,2 +8 @@\n 8\n-9\n");
        assert_eq!(unified(old, "one\n2\n3\n4\n5\n6\n7\n8\n", 9).matches("@@ -1,9 +1,8 @@").count(), 1);
        assert_eq!(unified("", "a", 3), "@@ -0,0 +1 @@\n+a\n\\ No newline at end of file\n");
        assert_eq!(unified("a\n", "", 3), "@@ -1 +0,0 @@\n-a\n");
        assert_eq!(unified("a", "a\n", 3), "@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+a\n");
        assert_eq!(Compared::new(b"a\nb\n", b"a\nc\nd\n").count(), (2, 1));
    }

    /// Does what patch(1) does.
    fn apply(old: &[u8], diff: &[u8]) -> Vec<u8> {
        let old: Vec<&[u8]> = old.split_inclusive(|byte| *byte == b'\n').collect();
        let (mut at, mut new) = (0, Vec::new());
        let lines: Vec<&[u8]> = diff.split_inclusive(|byte| *byte == b'\n').collect();
        for (number, line) in lines.iter().enumerate() {
            let cut = lines.get(number + 1).is_some_and(|next| next.starts_with(b"\\"));
            let body = if cut { &line[1..line.len() - 1] } else { &line[1..] };
            match line[0] {
                b'@' => {
                    let text = std::str::from_utf8(line).unwrap();
                    let range = text.split(' ').nth(1).unwrap().trim_start_matches('-');
                    let (start, length) = range.split_once(',').unwrap_or((range, "1"));
                    let start: usize = start.parse().unwrap();
                    let start = if length == "0" { start } else { start - 1 };
                    new.extend(old[at..start].concat());
                    at = start;
                }
                b' ' => {
                    assert_eq!(old[at], body);
                    new.extend(body);
                    at += 1;
                }
                b'-' => {
                    assert_eq!(old[at], body);
                    at += 1;
                }
                b'+' => new.extend(body),
                _ => {}
            }
        }
        new.extend(old[at..].concat());
        new
    }

    proptest! {
        #[test]
        fn what_is_shown_makes_the_new_text_of_the_old(
            old in "([ab@+-]{0,2}\n){0,12}[ab]?", new in "([ab@+-]{0,2}\n){0,12}[ab]?", context in 0_u32..5,
        ) {
            let diff = Compared::new(old.as_bytes(), new.as_bytes()).unified(context);
            prop_assert_eq!(apply(old.as_bytes(), &diff), new.as_bytes());
            prop_assert_eq!(diff.is_empty(), old == new);
        }
    }
}
