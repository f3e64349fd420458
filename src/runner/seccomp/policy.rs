//! Reads `default.policy`, whose head says how it is written.

use std::borrow::Cow;
use std::ops::Range;

use nix::errno::Errno;

use super::arch;
use super::profile::{Action, Calls, Check, INT, Op, Profile, Rule};

const TEXT: &str = include_str!("default.policy");

/// Returns the default profile for a box that has what `holds` says yes to: capabilities, or `i386_sockets`.
pub(super) fn default(name: &str, holds: impl Fn(&str) -> bool) -> Profile {
    let rules = parse(TEXT, holds).expect("a test reads the same text");
    let enosys = Action::Errno(Errno::ENOSYS as u16);
    Profile { name: name.to_owned(), arches: arch::native(), rules, default: enosys, newer: enosys, flags: 0 }
}

/// What is wrong with a policy, and on which line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    line: usize,
    what: &'static str,
}

/// Reads a policy: paragraphs are groups, `#` starts a comment at the start of a line.
pub(super) fn parse(text: &'static str, holds: impl Fn(&str) -> bool) -> Result<Vec<Rule>, Wrong> {
    let mut rules: Vec<Rule> = Vec::with_capacity(96);
    let mut group: Option<Group> = None;
    let mut start = 0;
    for (index, line) in text.split('\n').enumerate() {
        let here = start;
        start += line.len() + 1;
        let wrong = |what| Wrong { line: index + 1, what };
        if line.starts_with('#') {
        } else if line.is_empty() {
            rules.extend(group.take().map(|group| group.rule(text)));
        } else if let Some(group) = &mut group {
            group.add(line, here..here + line.len()).map_err(wrong)?;
        } else {
            group = Some(Group::of(line, &holds).map_err(wrong)?);
        }
    }
    rules.extend(group.map(|group| group.rule(text)));
    Ok(rules)
}

/// A paragraph that is being read. Its reason and its calls are parts of the text: a box starts with this being read,
/// and nothing is copied.
struct Group {
    name: &'static str,
    action: Action,
    any: Vec<Vec<Check>>,
    reason: Range<usize>,
    calls: Range<usize>,
}

impl Group {
    /// Reads `ACTION NAME [unless WORD...]`.
    fn of(line: &'static str, holds: &impl Fn(&str) -> bool) -> Result<Self, &'static str> {
        let mut words = line.split_ascii_whitespace();
        let mut action = match words.next() {
            Some("allow") => Action::Allow,
            Some("EPERM") => Action::Errno(Errno::EPERM as u16),
            Some("ENOSYS") => Action::Errno(Errno::ENOSYS as u16),
            Some("EAFNOSUPPORT") => Action::Errno(Errno::EAFNOSUPPORT as u16),
            Some("EPROTONOSUPPORT") => Action::Errno(Errno::EPROTONOSUPPORT as u16),
            _ => return Err("an action comes first"),
        };
        let name = words.next().ok_or("a group has a name")?;
        match words.next() {
            None => {}
            Some("unless") if words.any(holds) => action = Action::Allow,
            Some("unless") => {}
            Some(_) => return Err("only `unless` can follow"),
        }
        Ok(Self { name, action, any: Vec::new(), reason: 0..0, calls: 0..0 })
    }

    /// Reads one more line: a reason, then checks, then calls.
    fn add(&mut self, line: &str, at: Range<usize>) -> Result<(), &'static str> {
        let lines = if line.starts_with(": ") {
            &mut self.reason
        } else if let Some(checks) = line.strip_prefix("when ") {
            self.any.push(checks.split(" and ").map(check).collect::<Result<_, _>>()?);
            return Ok(());
        } else {
            &mut self.calls
        };
        if lines.start == lines.end {
            *lines = at;
        } else if lines.end + 1 == at.start {
            lines.end = at.end;
        } else {
            return Err("reasons come first, then checks, then calls");
        }
        Ok(())
    }

    fn rule(self, text: &'static str) -> Rule {
        Rule {
            name: Cow::Borrowed(self.name),
            reason: Cow::Borrowed(&text[self.reason]),
            calls: Calls::Text(&text[self.calls]),
            any: self.any,
            action: self.action,
        }
    }
}

/// A reason as one line.
pub(super) fn sentence(reason: &str) -> String {
    let lines = reason.lines().map(|line| line.strip_prefix(": ").unwrap_or(line));
    lines.collect::<Vec<_>>().join(" ")
}

/// Reads `int1 = V`, `int1 != V` or `long0 & MASK = V`.
fn check(text: &str) -> Result<Check, &'static str> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let (argument, mask, op, value) = match words[..] {
        [argument, op, value] => (argument, None, op, value),
        [argument, "&", mask, op, value] => (argument, Some(number(mask)?), op, value),
        _ => return Err("a check has three words, or five"),
    };
    let (width, argument) = match argument.strip_prefix("int") {
        Some(argument) => (INT, argument),
        None => (u64::MAX, argument.strip_prefix("long").ok_or("an argument is an int or a long")?),
    };
    let argument = argument.parse().ok().filter(|index| *index < 6).ok_or("arguments are 0 to 5")?;
    let op = match op {
        "=" => Op::Equal,
        "!=" => Op::Different,
        _ => return Err("arguments are compared by = and !="),
    };
    Ok(Check { argument, mask: mask.unwrap_or(u64::MAX) & width, op, value: number(value)? })
}

fn number(text: &str) -> Result<u64, &'static str> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| "a number was expected")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::{I386_SOCKETS, capability};
    use super::*;

    fn names_of_all_tables() -> BTreeSet<&'static str> {
        arch::ALL.iter().flat_map(|arch| arch.calls()).map(|(_, name)| name).collect()
    }

    #[test]
    fn every_group_says_why_and_what() {
        let rules = parse(TEXT, |_| false).unwrap();
        assert!(rules.len() > 50, "the policy was not read");
        for rule in &rules {
            assert!(rule.reason.ends_with('.'), "{}: {:?}", rule.name, rule.reason);
            assert!(rule.calls.iter().next().is_some(), "{} has no calls", rule.name);
        }
        let names: BTreeSet<_> = rules.iter().map(|rule| &rule.name).collect();
        assert!(names.len() > 50);
    }

    #[test]
    fn every_call_of_every_table_is_decided() {
        let rules = parse(TEXT, |_| false).unwrap();
        let whole = rules.iter().filter(|rule| rule.any.is_empty());
        let decided: BTreeSet<&str> = whole.flat_map(|rule| rule.calls.iter()).collect();
        let known = names_of_all_tables();
        let forgotten: Vec<_> = known.difference(&decided).collect();
        assert!(forgotten.is_empty(), "in no group: {forgotten:?}");
        let misspelled: Vec<_> = decided.difference(&known).collect();
        assert!(misspelled.is_empty(), "in no table: {misspelled:?}");
    }

    #[test]
    fn no_call_is_decided_twice() {
        let rules = parse(TEXT, |_| false).unwrap();
        let mut seen = BTreeSet::new();
        for rule in &rules {
            for call in rule.calls.iter() {
                assert!(!seen.contains(call), "{call} in {} comes too late", rule.name);
            }
            if rule.any.is_empty() {
                seen.extend(rule.calls.iter());
            }
        }
    }

    #[test]
    fn every_capability_of_the_policy_exists() {
        let asked = std::cell::RefCell::new(BTreeSet::new());
        parse(TEXT, |word| {
            asked.borrow_mut().insert(word.to_owned());
            false
        })
        .unwrap();
        let known = |word: &String| word == I386_SOCKETS || capability(word).is_some();
        let unknown: Vec<_> = asked.into_inner().into_iter().filter(|word| !known(word)).collect();
        assert_eq!(unknown, [""; 0]);
    }

    #[test]
    fn a_wrong_policy_names_its_line() {
        let wrong = |text| parse(text, |_| false).unwrap_err();
        assert_eq!(wrong("allow a\n\npermit b\n"), Wrong { line: 3, what: "an action comes first" });
        assert_eq!(wrong("allow\n").what, "a group has a name");
        assert_eq!(wrong("allow a if b\n").what, "only `unless` can follow");
        assert_eq!(wrong("allow a\nwhen int0\n").line, 2);
        assert_eq!(wrong("allow a\nwhen int6 = 1\n").what, "arguments are 0 to 5");
        assert_eq!(wrong("allow a\nwhen int0 = x\n").what, "a number was expected");
        assert_eq!(
            wrong("allow a\n: b\nc\n: d\n"),
            Wrong { line: 4, what: "reasons come first, then checks, then calls" }
        );
        assert_eq!(wrong("allow a\nwhen int0 < 3\n").what, "arguments are compared by = and !=");
    }
}
