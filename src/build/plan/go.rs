//! Text as the programs write it whose images ours stand beside: histories of images are compared, and read by tools.

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

/// Writes a span of time of nanoseconds as Go does: `1m30s`, `500ms`.
pub(super) fn shown_duration(nanoseconds: u64) -> String {
    let decimal = |value: u64, digits: u32| {
        let (whole, part) = (value / 10_u64.pow(digits), value % 10_u64.pow(digits));
        let text = format!("{whole}.{part:0width$}", width = digits as usize);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match nanoseconds {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanoseconds}ns"),
        1_000..1_000_000 => format!("{}µs", decimal(nanoseconds, 3)),
        1_000_000..1_000_000_000 => format!("{}ms", decimal(nanoseconds, 6)),
        _ => {
            let (minutes, below) = (nanoseconds / 60_000_000_000, nanoseconds % 60_000_000_000);
            let (hours, minutes) = (minutes / 60, minutes % 60);
            let seconds = decimal(below, 9);
            match (hours, minutes) {
                (0, 0) => format!("{seconds}s"),
                (0, _) => format!("{minutes}m{seconds}s"),
                _ => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
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
    fn spans_of_time_are_written_as_go_writes_them() {
        for (nanoseconds, shown) in [
            (0, "0s"),
            (30_000_000_000, "30s"),
            (90_000_000_000, "1m30s"),
            (5_400_000_000_000, "1h30m0s"),
            (3_600_000_000_000, "1h0m0s"),
            (1_500_000_000, "1.5s"),
            (1_500_000, "1.5ms"),
            (3_000, "3µs"),
            (7, "7ns"),
        ] {
            assert_eq!(shown_duration(nanoseconds), shown);
        }
    }
}
