//! The policy of a box: when it is snapshotted by itself, and which of its snapshots stay.
//!
//! What stays is computed here and nowhere else, from times alone; what is done about the rest is `retention`'s.

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rootling_backends::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// When a box is snapshotted without being asked, and what is kept of that.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// What makes a snapshot.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub every: BTreeSet<Trigger>,
    /// Which snapshots stay.
    #[serde(flatten)]
    pub keep: Keep,
}

/// What makes a snapshot of a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Trigger {
    /// A shell or command by `enter`, before it starts.
    #[serde(rename = "enter")]
    Enter,
    /// A command by `exec`, before it starts.
    #[serde(rename = "exec")]
    Exec,
    /// An hour that begins.
    #[serde(rename = "@hourly")]
    Hourly,
    /// A day that begins.
    #[serde(rename = "@daily")]
    Daily,
    /// A week that begins, on Monday.
    #[serde(rename = "@weekly")]
    Weekly,
}

impl Trigger {
    const ALL: [(Self, &str); 5] = [
        (Self::Enter, "enter"),
        (Self::Exec, "exec"),
        (Self::Hourly, "@hourly"),
        (Self::Daily, "@daily"),
        (Self::Weekly, "@weekly"),
    ];

    /// Reads a trigger: `enter`, `exec`, `@hourly`, `@daily`, `@weekly`.
    pub fn parse(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|(_, name)| *name == text);
        found.map(|(trigger, _)| trigger).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("{text:?} is nothing that makes a snapshot"))
                .hint("say enter, exec, @hourly, @daily, @weekly or never")
        })
    }

    /// Is a snapshot due at `now`, if the last one was made at `last`? Never, for what is no matter of time.
    pub fn is_due(self, last: Option<Timestamp>, now: Timestamp, zone: &TimeZone) -> bool {
        let Some(period) = Period::of(self) else { return false };
        last.is_none_or(|last| last < now && period.of_time(last, zone) != period.of_time(now, zone))
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, name) = Self::ALL.iter().find(|(trigger, _)| trigger == self).expect("all are listed");
        f.pad(name)
    }
}

/// Which snapshots of a box stay, in the sense of restic and borg: the last of each of the last N hours, days, weeks that have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Keep {
    /// So many, whenever they were made.
    #[serde(skip_serializing_if = "is_zero")]
    pub last: u32,
    /// One of each of so many hours.
    #[serde(skip_serializing_if = "is_zero")]
    pub hourly: u32,
    /// One of each of so many days.
    #[serde(skip_serializing_if = "is_zero")]
    pub daily: u32,
    /// One of each of so many weeks, which begin on Monday.
    #[serde(skip_serializing_if = "is_zero")]
    pub weekly: u32,
    /// Those with a label that somebody chose.
    pub labelled: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl Default for Keep {
    fn default() -> Self {
        Self { last: 0, hourly: 0, daily: 0, weekly: 0, labelled: true }
    }
}

impl Keep {
    /// Does it say how many stay? Else all do.
    pub fn limits(&self) -> bool {
        self.last > 0 || self.hourly > 0 || self.daily > 0 || self.weekly > 0
    }

    /// Says of each time whether what was made then stays. A policy that says nothing keeps everything.
    ///
    /// Periods are those of the calendar of `zone`; the newest of a period stands for it.
    pub fn kept(&self, made: &[Timestamp], zone: &TimeZone) -> Vec<bool> {
        if !self.limits() {
            return vec![true; made.len()];
        }
        let mut newest_first: Vec<usize> = (0..made.len()).collect();
        newest_first.sort_by_key(|index| std::cmp::Reverse(made[*index]));
        let mut kept = vec![false; made.len()];
        newest_first.iter().take(self.last as usize).for_each(|index| kept[*index] = true);
        let periods = [(Period::Hour, self.hourly), (Period::Day, self.daily), (Period::Week, self.weekly)];
        for (period, count) in periods {
            let mut seen = BTreeSet::new();
            for index in &newest_first {
                if seen.len() < count as usize && seen.insert(period.of_time(made[*index], zone)) {
                    kept[*index] = true;
                }
            }
        }
        kept
    }
}

/// A stretch of the calendar.
#[derive(Debug, Clone, Copy)]
enum Period {
    Hour,
    Day,
    Week,
}

impl Period {
    fn of(trigger: Trigger) -> Option<Self> {
        match trigger {
            Trigger::Enter | Trigger::Exec => None,
            Trigger::Hourly => Some(Self::Hour),
            Trigger::Daily => Some(Self::Day),
            Trigger::Weekly => Some(Self::Week),
        }
    }

    /// Returns what is the same for two times of one period. The hour that is twice when clocks are set back is two.
    fn of_time(self, time: Timestamp, zone: &TimeZone) -> (i16, i16, i8, i32) {
        let local = time.to_zoned(zone.clone());
        match self {
            Self::Hour => (local.year(), local.day_of_year(), local.hour(), local.offset().seconds()),
            Self::Day => (local.year(), local.day_of_year(), 0, 0),
            Self::Week => {
                let week = local.date().iso_week_date();
                (week.year(), week.week().into(), 0, 0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn times(texts: &[&str]) -> Vec<Timestamp> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn keep(last: u32, hourly: u32, daily: u32, weekly: u32) -> Keep {
        Keep { last, hourly, daily, weekly, ..Keep::default() }
    }

    #[test]
    fn the_newest_of_a_day_stands_for_it_and_days_are_those_of_the_caller() {
        let made = times(&["2026-03-01T10:00:00Z", "2026-03-01T22:30:00Z", "2026-03-02T00:10:00Z"]);
        assert_eq!(keep(0, 0, 2, 0).kept(&made, &TimeZone::UTC), [false, true, true]);
        // There the last two were made on one day.
        let east = TimeZone::fixed(jiff::tz::offset(2));
        assert_eq!(keep(0, 0, 2, 0).kept(&made, &east), [true, false, true]);
        assert_eq!(keep(0, 0, 1, 0).kept(&made, &east), [false, false, true]);
    }

    #[test]
    fn an_hour_that_is_twice_is_two_and_weeks_begin_on_monday() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let made = times(&["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"]);
        assert_eq!(keep(0, 5, 0, 0).kept(&made, &zone), [true, true]);
        assert_eq!(keep(0, 0, 5, 0).kept(&made, &zone), [false, true]);
        let made = times(&["2026-11-22T12:00:00Z", "2026-11-23T12:00:00Z", "2026-11-29T12:00:00Z"]);
        assert_eq!(keep(0, 0, 0, 5).kept(&made, &TimeZone::UTC), [true, false, true]);
    }

    #[test]
    fn days_without_a_snapshot_do_not_count() {
        let made = times(&["2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"]);
        assert_eq!(keep(0, 0, 2, 0).kept(&made, &TimeZone::UTC), [false, true, true]);
        assert_eq!(keep(1, 0, 0, 0).kept(&made, &TimeZone::UTC), [false, false, true]);
        assert_eq!(Keep::default().kept(&made, &TimeZone::UTC), [true; 3]);
    }

    #[test]
    fn a_snapshot_is_due_once_in_a_period() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let due = |last: &str, now: &str| Trigger::Hourly.is_due(Some(at(last)), at(now), &TimeZone::UTC);
        assert!(!due("2026-01-01T10:01:00Z", "2026-01-01T10:59:00Z"));
        assert!(due("2026-01-01T10:59:00Z", "2026-01-01T11:00:00Z"));
        assert!(Trigger::Daily.is_due(None, at("2026-01-01T10:01:00Z"), &TimeZone::UTC));
        assert!(!Trigger::Enter.is_due(None, at("2026-01-01T10:01:00Z"), &TimeZone::UTC));
        // A clock that was set back makes no snapshot with each call.
        assert!(!due("2026-01-01T12:00:00Z", "2026-01-01T10:00:00Z"));
    }

    #[test]
    fn triggers_are_written_as_they_are_read() {
        for (trigger, name) in Trigger::ALL {
            assert_eq!(Trigger::parse(name).unwrap(), trigger);
            assert_eq!(serde_json::to_value(trigger).unwrap(), name);
        }
        assert!(Trigger::parse("@yearly").is_err());
    }

    proptest! {
        #[test]
        fn what_is_kept_is_bounded_stable_and_grows_with_the_policy(
            seconds in proptest::collection::vec(1_700_000_000_i64..1_730_000_000, 0..60),
            last in 0_u32..5, hourly in 0_u32..5, daily in 0_u32..5, weekly in 0_u32..5, hours in -12_i8..13,
        ) {
            let made: Vec<Timestamp> = seconds.iter().map(|s| Timestamp::from_second(*s).unwrap()).collect();
            let zone = TimeZone::fixed(jiff::tz::offset(hours));
            let policy = keep(last, hourly, daily, weekly);
            let kept = policy.kept(&made, &zone);
            let count = kept.iter().filter(|kept| **kept).count();
            if policy.limits() {
                prop_assert!(count <= (last + hourly + daily + weekly) as usize);
                prop_assert!(made.is_empty() || count > 0);
                // The newest is the last of its hour, day and week.
                if let Some(newest) = made.iter().enumerate().max_by_key(|(index, time)| (**time, std::cmp::Reverse(*index))) {
                    prop_assert!(kept[newest.0]);
                }
            } else {
                prop_assert_eq!(count, made.len());
            }
            // Again, over what is left: nothing more goes.
            let left: Vec<Timestamp> = made.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(time, _)| *time).collect();
            prop_assert!(policy.kept(&left, &zone).iter().all(|kept| *kept));
            // A policy that keeps more keeps all of it.
            if policy.limits() {
                let more = keep(last + 1, hourly + 1, daily + 1, weekly + 1).kept(&made, &zone);
                prop_assert!(kept.iter().zip(&more).all(|(less, more)| *more || !*less));
            }
        }
    }
}
