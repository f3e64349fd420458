//! The patterns of `${x#p}`, `${x%p}` and `${x/p/w}`: `*` and `?`, neither of which matches a line feed, and no brackets.

use rootling_backends::{Error, ErrorKind, Result};

/// A pattern.
pub(super) struct Pattern(Vec<Part>);

#[derive(Clone, Copy, PartialEq)]
enum Part {
    One(char),
    Any,
    Run,
}

impl Part {
    fn takes(self, c: char) -> bool {
        match self {
            Self::One(one) => one == c,
            Self::Any | Self::Run => c != '\n',
        }
    }
}

impl Pattern {
    /// Reads a pattern. A backslash makes a character of `*`, `?` and itself; before `}` and `/` it says only that
    /// they do not end the pattern.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a backslash before anything else.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut parts = Vec::new();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            parts.push(match c {
                '*' => Part::Run,
                '?' => Part::Any,
                '\\' => match rest.next() {
                    Some(c @ ('*' | '?' | '\\' | '}' | '/')) => Part::One(c),
                    other => {
                        let other = other.map(String::from).unwrap_or_default();
                        let message = format!("\\{other} means nothing in the pattern {text:?}");
                        return Err(Error::new(ErrorKind::InvalidInput, message)
                            .hint("a backslash stands before * ? \\ / or }"));
                    }
                },
                c => Part::One(c),
            });
        }
        // Two of them match what one does.
        parts.dedup_by(|b, a| *a == Part::Run && *b == Part::Run);
        Ok(Self(parts))
    }

    /// Returns `value` without its shortest, or longest, beginning that matches.
    pub(super) fn without_beginning(&self, value: &str, longest: bool) -> String {
        let value: Vec<char> = value.chars().collect();
        let end = self.end(&value, longest).unwrap_or(0);
        value[end..].iter().collect()
    }

    /// Returns `value` without its shortest, or longest, end that matches.
    pub(super) fn without_end(&self, value: &str, longest: bool) -> String {
        let backwards: Vec<char> = value.chars().rev().collect();
        let end = Self(self.0.iter().rev().copied().collect()).end(&backwards, longest).unwrap_or(0);
        backwards[end..].iter().rev().collect()
    }

    /// Returns `value` with `with` for the first match, or for all. Of the matches at a place, the longest counts;
    /// an empty one right behind another does not.
    pub(super) fn replace(&self, value: &str, with: &str, all: bool) -> String {
        let value: Vec<char> = value.chars().collect();
        let mut result = String::new();
        let mut at = 0;
        let mut behind_match = false;
        while at <= value.len() {
            match self.end(&value[at..], true) {
                Some(length) if length > 0 || !behind_match => {
                    result.push_str(with);
                    at += length;
                    behind_match = length > 0;
                    if !all {
                        break;
                    }
                    if length > 0 {
                        continue;
                    }
                }
                _ => {}
            }
            result.extend(value.get(at));
            at += 1;
            behind_match = false;
        }
        result.extend(value.get(at..).unwrap_or_default());
        result
    }

    /// Returns where the shortest, or longest, match that begins with the value ends. All ways of matching are
    /// followed side by side, so that no pattern takes more steps than its length times the value's.
    fn end(&self, value: &[char], longest: bool) -> Option<usize> {
        let mut ways = vec![false; self.0.len() + 1];
        ways[0] = true;
        let mut best = None;
        for at in 0..=value.len() {
            for (way, part) in self.0.iter().enumerate() {
                if ways[way] && *part == Part::Run {
                    ways[way + 1] = true;
                }
            }
            if ways[self.0.len()] {
                best = Some(at);
                if !longest {
                    break;
                }
            }
            let Some(&c) = value.get(at) else { break };
            let mut next = vec![false; ways.len()];
            for (way, part) in self.0.iter().enumerate() {
                if ways[way] && part.takes(c) {
                    next[if *part == Part::Run { way } else { way + 1 }] = true;
                }
            }
            if !next.contains(&true) {
                break;
            }
            ways = next;
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_and_the_shortest_are_found() {
        let pattern = Pattern::parse("a*b").unwrap();
        assert_eq!(pattern.without_beginning("axbxbx", false), "xbx");
        assert_eq!(pattern.without_beginning("axbxbx", true), "x");
        assert_eq!(pattern.without_beginning("xaxb", true), "xaxb");
        let pattern = Pattern::parse("b*").unwrap();
        assert_eq!(pattern.without_end("abxbx", false), "abx");
        assert_eq!(pattern.without_end("abxbx", true), "a");
        assert_eq!(Pattern::parse("*").unwrap().without_beginning("a\nb", true), "\nb");
        assert_eq!(Pattern::parse("").unwrap().without_beginning("ab", true), "ab");
    }

    #[test]
    fn empty_matches_stand_between_characters() {
        assert_eq!(Pattern::parse("").unwrap().replace("abc", "-", true), "-a-b-c-");
        assert_eq!(Pattern::parse("").unwrap().replace("abc", "-", false), "-abc");
        assert_eq!(Pattern::parse("*").unwrap().replace("ab", "-", true), "-");
        assert_eq!(Pattern::parse("*").unwrap().replace("a\nb", "-", true), "-\n-");
        assert_eq!(Pattern::parse("*").unwrap().replace("", "-", true), "-");
    }

    #[test]
    fn many_stars_take_no_time() {
        let value = "a".repeat(5_000);
        let pattern = Pattern::parse(&"*a".repeat(40)).unwrap();
        assert_eq!(pattern.without_beginning(&value, true), "");
        assert_eq!(Pattern::parse(&"*a*b".repeat(40)).unwrap().without_beginning(&value, true), value);
    }
}
