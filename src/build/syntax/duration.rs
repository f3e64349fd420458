//! Lengths of time as `HEALTHCHECK` has them: `1m30s`.

use rootling_backends::{Error, ErrorKind, Result};

const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Returns nanoseconds.
///
/// # Errors
///
/// `InvalidInput` for what is no number with a unit, or several; for what lasts less than a millisecond, zero apart
/// (it means what is usual); and for what lasts longer than three hundred years.
pub fn duration(text: &str) -> Result<i64> {
    let wrong = |what: &str| {
        Error::new(ErrorKind::InvalidInput, format!("{text:?} {what}")).hint("write it as 30s or 1m30s")
    };
    if text == "0" {
        return Ok(0);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total: u128 = 0;
    if rest.is_empty() {
        return Err(wrong("is no length of time"));
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let unit = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, length)| *length);
        let part = unit.and_then(|unit| times(number, unit));
        total = total.saturating_add(part.ok_or_else(|| wrong("is no length of time"))?);
        rest = after;
    }
    match i64::try_from(total) {
        Err(_) => Err(wrong("is too long")),
        Ok(length @ 1..1_000_000) => Err(wrong(&format!("is only {length} ns, and the least is 1ms"))),
        Ok(length) => Ok(length),
    }
}

/// Multiplies a decimal with a unit; what is less than a nanosecond is dropped.
fn times(number: &str, unit: u64) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() > 18 {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // No unit has more than thirteen digits.
    let fraction = fraction.get(..15).unwrap_or(fraction);
    let part: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    Some(whole * u128::from(unit) + part * u128::from(unit) / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_added_up() {
        let cases = [
            ("0", 0),
            ("0s", 0),
            ("1ms", 1_000_000),
            ("30s", 30_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("+1s", 1_000_000_000),
            ("1000us", 1_000_000),
            ("1000µs", 1_000_000),
            ("1.0000000000000000000001s", 1_000_000_000),
            ("2562047h", 9_223_369_200_000_000_000),
        ];
        for (text, length) in cases {
            assert_eq!(duration(text).expect(text), length, "{text}");
        }
    }

    #[test]
    fn what_is_no_length_is_refused() {
        for text in
            ["", "5", "s", "1.s.", ".s", "1x", "-1s", "1 s", "1us", "999999ns", "2562048h", "1s+1s", "x"]
        {
            let error = duration(text).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
        }
        duration(&"9".repeat(100)).unwrap_err();
        duration(&format!("{}h", "9".repeat(18))).unwrap_err();
    }
}
