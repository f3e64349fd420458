//! Which of two versions is the later one: each manager has rules of its own.

use std::cmp::Ordering;

/// Compares as dpkg does (deb-version(7)).
pub fn dpkg(a: &str, b: &str) -> Ordering {
    let (a, b) = (split(a), split(b));
    epochs(a.0, b.0)
        .then_with(|| debian_part(a.1, b.1))
        .then_with(|| debian_part(a.2.unwrap_or(""), b.2.unwrap_or("")))
}

/// Compares as rpm does (rpm-version(7)).
pub fn rpm(a: &str, b: &str) -> Ordering {
    let (a, b) = (split(a), split(b));
    epochs(a.0, b.0)
        .then_with(|| segments(a.1, b.1, true))
        .then_with(|| segments(a.2.unwrap_or(""), b.2.unwrap_or(""), true))
}

/// Compares as pacman does (vercmp(8)).
pub fn pacman(a: &str, b: &str) -> Ordering {
    let (a, b) = (split(a), split(b));
    let release = || a.2.zip(b.2).map_or(Ordering::Equal, |(a, b)| segments(a, b, false));
    epochs(a.0, b.0).then_with(|| segments(a.1, b.1, false)).then_with(release)
}

/// Compares as apk does: `1.2.3a_rc1_p2-r4`.
pub fn apk(a: &str, b: &str) -> Ordering {
    let (a, b) = (AlpineVersion::parse(a), AlpineVersion::parse(b));
    alpine_numbers(&a.numbers, &b.numbers)
        .then_with(|| a.letter.cmp(&b.letter))
        .then_with(|| alpine_suffixes(&a.suffixes, &b.suffixes))
        .then_with(|| numbers(a.release, b.release))
}

/// Splits `EPOCH:VERSION-RELEASE`.
fn split(text: &str) -> (&str, &str, Option<&str>) {
    let (epoch, rest) = text.split_once(':').unwrap_or(("", text));
    match rest.rsplit_once('-') {
        Some((version, release)) => (epoch, version, Some(release)),
        None => (epoch, rest, None),
    }
}

fn epochs(a: &str, b: &str) -> Ordering {
    numbers(a, b)
}

/// Compares two runs of digits of any length; an empty one is 0.
fn numbers(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// Takes what is at the beginning and satisfies a condition.
fn take<'a>(text: &mut &'a str, wanted: impl Fn(char) -> bool) -> &'a str {
    let end = text.find(|c: char| !wanted(c)).unwrap_or(text.len());
    let (taken, rest) = text.split_at(end);
    *text = rest;
    taken
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit()
}

// ---------------------------------------------------------------- Debian

/// In turns a part without digits, letter by letter (`~` before the end, the end before letters, letters before the rest), and a number.
fn debian_part(mut a: &str, mut b: &str) -> Ordering {
    let order = |c: Option<char>| match c {
        Some('~') => -1,
        None => 0,
        Some(c) if c.is_ascii_alphabetic() => i64::from(u32::from(c)),
        Some(c) => i64::from(u32::from(c)) + 0x11_0000,
    };
    while !(a.is_empty() && b.is_empty()) {
        let (left, right) = (take(&mut a, |c| !is_digit(c)), take(&mut b, |c| !is_digit(c)));
        let (mut left, mut right) = (left.chars(), right.chars());
        loop {
            let pair = (left.next(), right.next());
            match order(pair.0).cmp(&order(pair.1)) {
                Ordering::Equal if pair == (None, None) => break,
                Ordering::Equal => {}
                other => return other,
            }
        }
        match numbers(take(&mut a, is_digit), take(&mut b, is_digit)) {
            Ordering::Equal => {}
            other => return other,
        }
    }
    Ordering::Equal
}

// ---------------------------------------------------------------- rpm and pacman

/// Segments of digits or of letters, whatever divides them; `~` sorts before the end, `^` after it but before anything else (rpm's alone).
fn segments(mut a: &str, mut b: &str, marks: bool) -> Ordering {
    let divides = |c: char| !(c.is_ascii_alphanumeric() || (marks && matches!(c, '~' | '^')));
    loop {
        // vercmp(8) looks at what divides segments only where both go on: 1.0.a is later than 1.0.
        if !marks && (a.is_empty() || b.is_empty()) {
            break;
        }
        let skipped = (take(&mut a, divides).len(), take(&mut b, divides).len());
        if marks {
            match (a.starts_with('~'), b.starts_with('~')) {
                (false, false) => {}
                (true, true) => {
                    (a, b) = (&a[1..], &b[1..]);
                    continue;
                }
                (true, false) => return Ordering::Less,
                (false, true) => return Ordering::Greater,
            }
            match (a.strip_prefix('^'), b.strip_prefix('^')) {
                (None, None) => {}
                (Some(rest_a), Some(rest_b)) => {
                    (a, b) = (rest_a, rest_b);
                    continue;
                }
                (Some(_), None) => return if b.is_empty() { Ordering::Greater } else { Ordering::Less },
                (None, Some(_)) => return if a.is_empty() { Ordering::Less } else { Ordering::Greater },
            }
        }
        if a.is_empty() || b.is_empty() {
            break;
        }
        if !marks && skipped.0 != skipped.1 {
            return skipped.0.cmp(&skipped.1);
        }
        let by_number = a.starts_with(is_digit);
        let wanted = |c: char| if by_number { is_digit(c) } else { c.is_ascii_alphabetic() };
        let (left, right) = (take(&mut a, wanted), take(&mut b, wanted));
        if right.is_empty() {
            // A number is later than letters.
            return if by_number { Ordering::Greater } else { Ordering::Less };
        }
        match if by_number { numbers(left, right) } else { left.cmp(right) } {
            Ordering::Equal => {}
            other => return other,
        }
    }
    match (a.is_empty(), b.is_empty()) {
        (true, true) => Ordering::Equal,
        // vercmp(8): 1.0a is earlier than 1.0.
        (true, false) if !marks && b.starts_with(|c: char| c.is_ascii_alphabetic()) => Ordering::Greater,
        (false, true) if !marks && a.starts_with(|c: char| c.is_ascii_alphabetic()) => Ordering::Less,
        (left_ended, _) => {
            if left_ended {
                Ordering::Less
            } else {
                Ordering::Greater
            }
        }
    }
}

// ---------------------------------------------------------------- Alpine

/// A version taken apart; what is no version of Alpine's has nothing but numbers at the beginning.
#[derive(Debug)]
struct AlpineVersion<'a> {
    numbers: Vec<&'a str>,
    letter: Option<char>,
    suffixes: Vec<(i8, &'a str)>,
    release: &'a str,
}

impl<'a> AlpineVersion<'a> {
    fn parse(text: &'a str) -> Self {
        let (mut rest, release) = text.rsplit_once("-r").unwrap_or((text, ""));
        let mut numbers = vec![take(&mut rest, is_digit)];
        while let Some(mut after) = rest.strip_prefix('.').filter(|after| after.starts_with(is_digit)) {
            numbers.push(take(&mut after, is_digit));
            rest = after;
        }
        let letter = rest.chars().next().filter(char::is_ascii_lowercase);
        rest = &rest[letter.map_or(0, char::len_utf8)..];
        let mut suffixes = Vec::new();
        while let Some(mut after) = rest.strip_prefix('_') {
            let rank = match take(&mut after, |c| c.is_ascii_lowercase()) {
                "alpha" => -4,
                "beta" => -3,
                "pre" => -2,
                "rc" => -1,
                "cvs" => 1,
                "svn" => 2,
                "git" => 3,
                "hg" => 4,
                "p" => 5,
                _ => break,
            };
            suffixes.push((rank, take(&mut after, is_digit)));
            rest = after;
        }
        Self { numbers, letter, suffixes, release }
    }
}

fn alpine_numbers(a: &[&str], b: &[&str]) -> Ordering {
    for (place, (a, b)) in a.iter().zip(b).enumerate() {
        // After the first point, 05 is a fraction: less than 1, as 0.05 is less than 0.1.
        let as_text = place > 0 && (a.starts_with('0') || b.starts_with('0'));
        match if as_text { a.cmp(b) } else { numbers(a, b) } {
            Ordering::Equal => {}
            other => return other,
        }
    }
    a.len().cmp(&b.len())
}

fn alpine_suffixes(a: &[(i8, &str)], b: &[(i8, &str)]) -> Ordering {
    for place in 0..a.len().max(b.len()) {
        let (a, b) = (a.get(place).unwrap_or(&(0, "")), b.get(place).unwrap_or(&(0, "")));
        match a.0.cmp(&b.0).then_with(|| numbers(a.1, b.1)) {
            Ordering::Equal => {}
            other => return other,
        }
    }
    Ordering::Equal
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Compare = fn(&str, &str) -> Ordering;

    /// Each is earlier than the one after it.
    fn assert_rising(compare: Compare, versions: &[&str]) {
        for (place, a) in versions.iter().enumerate() {
            for (other, b) in versions.iter().enumerate() {
                assert_eq!(compare(a, b), place.cmp(&other), "{a} and {b}");
            }
        }
    }

    #[test]
    fn versions_rise_by_each_managers_rules() {
        assert_rising(
            dpkg,
            &["1.0~rc1", "1.0", "1.0-1", "1.0-1+b1", "1.0a", "1.0+x", "1.9", "1.10", "1:0.1", "2:0"],
        );
        assert_rising(
            rpm,
            &[
                "1.0~rc1-1",
                "1.0-1",
                "1.0-2",
                "1.0^git1-1",
                "1.0.a-1",
                "1.0.1-1",
                "1.9-1",
                "1.10-1",
                "1:0.1-1",
            ],
        );
        assert_rising(
            pacman,
            &["1.0a-1", "1.0b-1", "1.0rc1-1", "1.0-1", "1.0-2", "1.0.a-1", "1.0.1-1", "1.10-1", "1:0-1"],
        );
        assert_rising(
            apk,
            &[
                "1.0_alpha1",
                "1.0_beta",
                "1.0_rc1",
                "1.0_rc2",
                "1.0",
                "1.0-r1",
                "1.0-r10",
                "1.0_p1",
                "1.0a",
                "1.0.1",
                "1.05",
                "1.1",
                "1.10",
            ],
        );
        assert_eq!(dpkg("1.0", "0:1.0-0"), Ordering::Equal);
        assert_eq!(rpm("1.05", "1.5"), Ordering::Equal);
        assert_eq!(pacman("1.5", "1.5-1"), Ordering::Equal);
    }

    proptest! {
        #[test]
        fn any_two_texts_have_an_order_that_turns_with_them(a in "[0-9a-z.~^:_+-]{0,8}|.{0,8}", b in "[0-9a-z.~^:_+-]{0,8}|.{0,8}") {
            for compare in [dpkg as Compare, rpm, apk] {
                prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
                prop_assert_eq!(compare(&a, &a), Ordering::Equal);
            }
            // vercmp's rule for separators is its own: only that it ends is asked for.
            pacman(&a, &b);
        }
    }
}
