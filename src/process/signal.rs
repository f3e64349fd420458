//! Signals by the names that people and images give them.

use rootling_backends::{Error, ErrorKind, Result};

/// Reads a signal: a name with or without `SIG`, a number, `RTMIN+N` or `RTMAX-N`.
pub fn signal(text: &str) -> Result<i32> {
    // signal(7): what programs of the usual C libraries call SIGRTMIN and SIGRTMAX.
    const REAL_TIME: (i32, i32) = (34, 64);
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let number = |text: &str| text.parse::<i32>().ok();
    let found = if let Some(above) = name.strip_prefix("RTMIN") {
        if above.is_empty() { Some(0) } else { above.strip_prefix('+').and_then(number) }
            .map(|above| REAL_TIME.0 + above)
            .filter(|signal| (REAL_TIME.0..=REAL_TIME.1).contains(signal))
    } else if let Some(below) = name.strip_prefix("RTMAX") {
        if below.is_empty() { Some(0) } else { below.strip_prefix('-').and_then(number) }
            .map(|below| REAL_TIME.1 - below)
            .filter(|signal| (REAL_TIME.0..=REAL_TIME.1).contains(signal))
    } else if let Some(number) = number(name) {
        (1..=REAL_TIME.1).contains(&number).then_some(number)
    } else {
        format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
    };
    found.ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, format!("there is no signal {text:?}"))
            .hint("write a name as `kill -l` lists them, or a number")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [
            ("TERM", 15),
            ("sigterm", 15),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("RTMAX", 64),
            ("SIGRTMAX-1", 63),
            ("usr1", 10),
        ] {
            assert_eq!(signal(text).unwrap(), number, "{text}");
        }
        for bad in ["", "0", "-9", "65", "NOTHING", "RTMIN+40", "RTMIN-1", "SIG"] {
            assert!(signal(bad).is_err(), "{bad:?}");
        }
    }
}
