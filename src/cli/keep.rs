//! How long and how much is kept: flags that several commands have.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use rootling_backends::{Error, ErrorKind, Result};

use super::{output, said};
use crate::store::Keep;

/// How long what was removed can be brought back.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct KeepRemoved {
    /// How long what was removed can be brought back
    #[arg(
        long,
        env = "ROOTLING_KEEP_REMOVED",
        value_name = "TIME",
        default_value = "7d",
        value_parser = said(duration)
    )]
    keep_removed: SignedDuration,
}

impl KeepRemoved {
    /// Returns when something goes that was removed `at`.
    pub(super) fn until(self, at: Timestamp) -> Timestamp {
        at.saturating_add(self.keep_removed).expect("a duration without calendar units")
    }

    /// Returns when what goes now was removed at the latest.
    pub(super) fn since(self, now: Timestamp) -> Timestamp {
        now.saturating_sub(self.keep_removed).expect("a duration without calendar units")
    }
}

impl fmt::Display for KeepRemoved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&output::age(Timestamp::UNIX_EPOCH, self.until(Timestamp::UNIX_EPOCH)))
    }
}

/// How long steps of builds are kept that no build uses.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct KeepBuilds {
    /// How long the steps of builds are kept that no build uses
    #[arg(
        long,
        env = "ROOTLING_KEEP_BUILDS",
        value_name = "TIME",
        default_value = "14d",
        value_parser = said(duration)
    )]
    keep_builds: SignedDuration,
}

impl KeepBuilds {
    /// Returns when what goes now was used at the latest.
    pub(super) fn since(self, now: Timestamp) -> Timestamp {
        now.saturating_sub(self.keep_builds).expect("a duration without calendar units")
    }
}

/// Which snapshots of a box stay.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct KeepFlags {
    /// Keep the last N snapshots
    #[arg(long, value_name = "N")]
    keep_last: Option<u32>,

    /// Keep the last snapshot of each of the last N hours that have one
    #[arg(long, value_name = "N")]
    keep_hourly: Option<u32>,

    /// Keep the last snapshot of each of the last N days that have one
    #[arg(long, value_name = "N")]
    keep_daily: Option<u32>,

    /// Keep the last snapshot of each of the last N weeks that have one
    #[arg(long, value_name = "N")]
    keep_weekly: Option<u32>,

    /// Keep snapshots with a label that somebody chose [default: true]
    #[arg(
        long,
        visible_alias = "keep-tagged",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    keep_labelled: Option<bool>,
}

impl KeepFlags {
    /// Was any of them given?
    pub(super) fn given(self) -> bool {
        let counts = [self.keep_last, self.keep_hourly, self.keep_daily, self.keep_weekly];
        counts.iter().any(Option::is_some) || self.keep_labelled.is_some()
    }

    /// Returns `keep` with what was given instead.
    pub(super) fn over(self, keep: Keep) -> Keep {
        Keep {
            last: self.keep_last.unwrap_or(keep.last),
            hourly: self.keep_hourly.unwrap_or(keep.hourly),
            daily: self.keep_daily.unwrap_or(keep.daily),
            weekly: self.keep_weekly.unwrap_or(keep.weekly),
            labelled: self.keep_labelled.unwrap_or(keep.labelled),
        }
    }
}

/// Reads `90s`, `10m`, `2h`, `7d`, `2w`.
pub(super) fn duration(text: &str) -> Result<SignedDuration> {
    let read = || {
        let number: i64 =
            text.get(..text.len().checked_sub(1)?)?.parse().ok().filter(|number| *number >= 0)?;
        let unit = match text.chars().next_back()? {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86400,
            'w' => 7 * 86400,
            _ => return None,
        };
        Some(SignedDuration::from_secs(number.checked_mul(unit)?))
    };
    read().ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, format!("{text:?} is not how long"))
            .hint("write 90s, 10m, 2h, 7d or 2w")
    })
}

/// As [`duration`], but not none at all.
pub(super) fn span(text: &str) -> Result<SignedDuration> {
    let span = duration(text)?;
    if span.is_zero() {
        let message = format!("{text:?} is no time at all");
        return Err(Error::new(ErrorKind::InvalidInput, message).hint("write 90s, 10m, 2h, 7d or 2w"));
    }
    Ok(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("7d").unwrap(), SignedDuration::from_hours(168));
        assert_eq!(duration("0s").unwrap(), SignedDuration::ZERO);
        for bad in ["", "7", "-1d", "1y", "99999999999999999d", "ä"] {
            assert!(duration(bad).is_err() && span(bad).is_err(), "{bad:?}");
        }
        assert!(span("0s").is_err());
        assert_eq!(span("90s").unwrap(), SignedDuration::from_secs(90));
    }
}
