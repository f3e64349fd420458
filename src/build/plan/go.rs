//! Text as the programs write it whose images ours stand beside: histories of images are compared, and read by tools.

use rootling_backends::{Error, ErrorKind, Result};

/// Writes a list of text as Go's `%q` does: `["a" "b"]`.
pub(super) fn quoted(list: &[String]) -> String {
    let list: Vec<String> = list.iter().map(|text| quote(text)).collect();
    format!("[{}]", list.join(" "))
}

/// Writes a list of text as Go's `%v` does: `[a b]`.
pub(super) fn plain<S: AsRef<str>>(list: &[S]) -> String {
    let list: Vec<&str> = list.iter().map(AsRef::as_ref).collect();
    format!("[{}]", list.join(" "))
}

fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            letter if letter.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(letter))),
            letter if letter.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(letter))),
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

const UNITS: [(&str, f64); 8] =
    [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("μs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];

/// Reads a span of time as Go does, in nanoseconds: `1h30m`, `1.5s`, `0`.
pub(super) fn duration(text: &str) -> Result<i64> {
    let invalid = || {
        Error::new(ErrorKind::InvalidInput, format!("{text:?} is no span of time"))
            .hint("write a number and a unit, as in 30s, 1m30s or 500ms")
    };
    let (is_negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut sum = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').ok_or_else(invalid)?;
        let number: f64 = rest[..end].parse().map_err(|_| invalid())?;
        rest = &rest[end..];
        let end = rest.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(rest.len());
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == &rest[..end]).ok_or_else(invalid)?;
        sum += number * unit;
        rest = &rest[end..];
    }
    // What an i64 of nanoseconds can hold: 292 years.
    if sum >= i64::MAX as f64 {
        return Err(invalid());
    }
    let nanoseconds = sum.round() as i64;
    Ok(if is_negative { -nanoseconds } else { nanoseconds })
}

/// Writes a span of time of nanoseconds as Go does: `1m30s`, `500ms`.
pub(super) fn shown_duration(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let rest = nanoseconds.unsigned_abs();
    let decimal = |value: u64, digits: u32| {
        let (whole, part) = (value / 10_u64.pow(digits), value % 10_u64.pow(digits));
        let text = format!("{whole}.{part:0width$}", width = digits as usize);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    let text = match rest {
        0 => "0s".to_owned(),
        1..1_000 => format!("{rest}ns"),
        1_000..1_000_000 => format!("{}µs", decimal(rest, 3)),
        1_000_000..1_000_000_000 => format!("{}ms", decimal(rest, 6)),
        _ => {
            let (minutes, below) = (rest / 60_000_000_000, rest % 60_000_000_000);
            let (hours, minutes) = (minutes / 60, minutes % 60);
            let seconds = decimal(below, 9);
            match (hours, minutes) {
                (0, 0) => format!("{seconds}s"),
                (0, _) => format!("{minutes}m{seconds}s"),
                _ => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    };
    format!("{sign}{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_written_as_go_writes_them() {
        let list = ["/bin/sh", "-c", "echo \"a\\b\"\n\u{1b}é"].map(str::to_owned);
        assert_eq!(quoted(&list), r#"["/bin/sh" "-c" "echo \"a\\b\"\n\x1bé"]"#);
        assert_eq!(plain(&["a b", "c"]), "[a b c]");
        assert_eq!(quoted(&[]), "[]");
    }

    #[test]
    fn spans_of_time_are_read_and_written_as_go_does() {
        for (text, nanoseconds, shown) in [
            ("0", 0, "0s"),
            ("30s", 30_000_000_000, "30s"),
            ("1m30s", 90_000_000_000, "1m30s"),
            ("1.5h", 5_400_000_000_000, "1h30m0s"),
            ("60m", 3_600_000_000_000, "1h0m0s"),
            ("1500ms", 1_500_000_000, "1.5s"),
            ("1.5ms", 1_500_000, "1.5ms"),
            ("3us", 3_000, "3µs"),
            ("7ns", 7, "7ns"),
            ("-2s", -2_000_000_000, "-2s"),
            (".5s", 500_000_000, "500ms"),
        ] {
            assert_eq!(duration(text).unwrap(), nanoseconds, "{text}");
            assert_eq!(shown_duration(nanoseconds), shown, "{text}");
        }
        for bad in ["", "1", "s", "1x", "1s2", "--1s", "1..s", "300000000h", "."] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }
}
