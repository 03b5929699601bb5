//! Cron schedules, as the library reads them that Kubernetes uses (`robfig/cron` v3, its standard
//! parser): five fields, names of months and days, `*/n`, `@hourly` and its like, `@every 1h30m`.
//!
//! Clocks that are put forward or back: a time that does not exist on a day is left out on it, one
//! that exists twice is met twice.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, ZonedDateTime};

/// How far ahead the next time is looked for.
const YEARS_MAX: i16 = 5;

/// Why a schedule cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    #[error("expected exactly 5 fields, found {0}: {1:?}")]
    Fields(usize, String),
    #[error("unrecognized descriptor: {0}")]
    Descriptor(String),
    #[error("failed to parse duration {0}")]
    Duration(String),
    #[error("failed to parse int from {0}")]
    Number(String),
    #[error("too many hyphens or slashes: {0}")]
    Shape(String),
    #[error("beginning of range ({0}) below minimum ({1}): {2}")]
    Below(u8, u8, String),
    #[error("end of range ({0}) above maximum ({1}): {2}")]
    Above(u8, u8, String),
    #[error("beginning of range ({0}) beyond end of range ({1}): {2}")]
    Backwards(u8, u8, String),
    #[error("step of range should be a positive number: {0}")]
    Step(String),
}

/// A schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// Every so many seconds.
    Every(i64),
    Fields(Fields),
}

/// The five fields, a bit for every value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    minute: u64,
    hour: u64,
    day: u64,
    month: u64,
    weekday: u64,
    /// Neither `*` in the day of the month nor in the day of the week: one of them is enough.
    either_day: bool,
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Schedule {
    /// Reads a schedule.
    ///
    /// # Errors
    /// What of it makes no sense.
    pub fn parse(text: &str) -> Result<Self, CronError> {
        let text = text.trim();
        let fields = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        if let Some(duration) = fields.strip_prefix("@every ") {
            return seconds(duration).map(|seconds| Self::Every(seconds.max(1)));
        }
        if fields.starts_with('@') {
            return Err(CronError::Descriptor(fields.to_owned()));
        }
        let parts: Vec<&str> = fields.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = parts[..] else {
            return Err(CronError::Fields(parts.len(), fields.to_owned()));
        };
        let (day, any_day) = field(day, 1, 31, &[])?;
        let (weekday, any_weekday) = field(weekday, 0, 6, &DAYS)?;
        Ok(Self::Fields(Fields {
            minute: field(minute, 0, 59, &[])?.0,
            hour: field(hour, 0, 23, &[])?.0,
            day,
            month: field(month, 1, 12, &MONTHS)?.0,
            weekday,
            either_day: !any_day && !any_weekday,
        }))
    }

    /// The first time after `after`, by the clocks of `zone`; none within five years.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(seconds) => Timestamp::from_second(after.as_second() + seconds).ok(),
            Self::Fields(fields) => fields.next(after, zone),
        }
    }
}

/// Values of one field as bits, and whether it is a plain `*`.
fn field(text: &str, min: u8, max: u8, names: &[&str]) -> Result<(u64, bool), CronError> {
    let (mut bits, mut any) = (0, false);
    for part in text.split(',') {
        let (range, step) = match part.split('/').collect::<Vec<_>>()[..] {
            [range] => (range, None),
            [range, step] => (range, Some(number(step, &[], 0)?)),
            _ => return Err(CronError::Shape(part.to_owned())),
        };
        let read = |text: &str| number(text, names, min);
        let (first, last) = match range.split('-').collect::<Vec<_>>()[..] {
            ["*" | "?"] => (min, max),
            // `N/step` means from N on.
            [one] if step.is_some() => (read(one)?, max),
            [one] => (read(one)?, read(one)?),
            [first, last] => (read(first)?, read(last)?),
            _ => return Err(CronError::Shape(part.to_owned())),
        };
        let told = || part.to_owned();
        match () {
            () if first < min => return Err(CronError::Below(first, min, told())),
            () if last > max => return Err(CronError::Above(last, max, told())),
            () if first > last => return Err(CronError::Backwards(first, last, told())),
            () if step == Some(0) => return Err(CronError::Step(told())),
            () => {}
        }
        let step = step.unwrap_or(1);
        any |= matches!(range, "*" | "?") && step == 1;
        for value in (first..=last).step_by(usize::from(step)) {
            bits |= 1 << value;
        }
    }
    Ok((bits, any))
}

/// A number, or a name of which the first stands for `base`.
fn number(text: &str, names: &[&str], base: u8) -> Result<u8, CronError> {
    let lower = text.to_lowercase();
    if let Some(at) = names.iter().position(|name| *name == lower) {
        return Ok(base + u8::try_from(at).expect("at most twelve names"));
    }
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or_else(|| CronError::Number(text.to_owned()))
}

/// A duration as Go writes it, in whole seconds.
fn seconds(text: &str) -> Result<i64, CronError> {
    let wrong = || CronError::Duration(text.to_owned());
    let mut total = 0.0;
    let mut left = text.trim();
    if left.is_empty() {
        return Err(wrong());
    }
    while !left.is_empty() {
        let digits = left.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let amount: f64 = left[..digits].parse().map_err(|_| wrong())?;
        let rest = &left[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += amount
            * match &rest[..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return Err(wrong()),
            };
        left = &rest[unit..];
    }
    // Ten years; longer ones are a mistake.
    if !(0.0..3.2e8).contains(&total) {
        return Err(wrong());
    }
    Ok(total as i64)
}

impl Fields {
    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let start =
            Timestamp::from_second(after.as_second() + 1).ok()?.to_zoned_datetime(zone.clone());
        let limit = start.year().checked_add(YEARS_MAX)?;
        // Up to the next whole minute.
        let mut at = later(&start, (60 - i64::from(start.second())) % 60)?;
        while at.year() <= limit {
            if !has(self.month, at.month()) {
                at = midnight(at.date().last_of_month().tomorrow().ok()?, zone)?;
            } else if !self.fits_day(&at) {
                at = midnight(at.date().tomorrow().ok()?, zone)?;
            } else if !has(self.hour, at.hour()) {
                at = later(&at, (60 - i64::from(at.minute())) * 60)?;
            } else if !has(self.minute, at.minute()) {
                at = later(&at, 60)?;
            } else {
                return Some(at.timestamp());
            }
        }
        None
    }

    fn fits_day(&self, at: &ZonedDateTime) -> bool {
        let day = has(self.day, at.day());
        let weekday = has(self.weekday, at.weekday().to_sunday_zero_offset());
        if self.either_day { day || weekday } else { day && weekday }
    }
}

fn has(bits: u64, value: i8) -> bool {
    bits & (1 << value) != 0
}

fn later(at: &ZonedDateTime, seconds: i64) -> Option<ZonedDateTime> {
    at.checked_add(seconds.seconds()).ok()
}

/// The first moment of a day, which is not midnight where the clocks are put forward then.
fn midnight(date: Date, zone: &TimeZone) -> Option<ZonedDateTime> {
    date.to_zoned_datetime(zone.clone()).ok()?.start_of_day().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a timestamp")
    }

    fn times(schedule: &str, from: &str, zone: &str, count: usize) -> Vec<String> {
        let schedule = Schedule::parse(schedule).expect("a schedule");
        let zone = TimeZone::get(zone).expect("a zone");
        let mut now = at(from);
        (0..count)
            .map(|_| {
                now = schedule.next(now, &zone).expect("a time");
                now.to_string()
            })
            .collect()
    }

    #[test]
    fn the_next_time_is_the_first_that_fits_all_fields() {
        let cases = [
            ("* * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
            ("*/15 * * * *", "2026-01-01T00:14:59Z", "2026-01-01T00:15:00Z"),
            ("5/20 * * * *", "2026-01-01T00:30:00Z", "2026-01-01T00:45:00Z"),
            ("0 9-17 * * mon-fri", "2026-01-02T18:00:00Z", "2026-01-05T09:00:00Z"),
            ("30 6 1,15 * *", "2026-01-02T00:00:00Z", "2026-01-15T06:30:00Z"),
            ("0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            // Both days are named: either will do.
            ("0 0 13 * FRI", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            ("0 0 */2 * 5", "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"),
            ("0 0 ? JUN *", "2026-01-01T00:00:00Z", "2026-06-01T00:00:00Z"),
            ("@hourly", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"),
            ("@weekly", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
            ("@yearly", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("@every 1h30m", "2026-01-01T00:00:00Z", "2026-01-01T01:30:00Z"),
        ];
        for (schedule, from, expected) in cases {
            assert_eq!(times(schedule, from, "UTC", 1), [expected], "{schedule}");
        }
    }

    #[test]
    fn a_date_that_never_comes_has_no_next_time() {
        let schedule = Schedule::parse("0 0 30 2 *").expect("a schedule");
        assert_eq!(schedule.next(at("2026-01-01T00:00:00Z"), &TimeZone::UTC), None);
    }

    #[test]
    fn a_time_that_does_not_exist_is_left_out_and_one_that_exists_twice_is_met_twice() {
        let spring = times("30 2 * * *", "2026-03-07T08:00:00Z", "America/New_York", 2);
        assert_eq!(spring, ["2026-03-09T06:30:00Z", "2026-03-10T06:30:00Z"]);
        let autumn = times("30 1 * * *", "2026-11-01T05:00:00Z", "America/New_York", 3);
        assert_eq!(
            autumn,
            ["2026-11-01T05:30:00Z", "2026-11-01T06:30:00Z", "2026-11-02T06:30:00Z"]
        );
        let midnight = times("0 0 * * *", "2026-06-01T00:00:00Z", "Europe/Berlin", 1);
        assert_eq!(midnight, ["2026-06-01T22:00:00Z"]);
    }

    #[test]
    fn nonsense_is_told() {
        let cases = [
            ("* * * *", CronError::Fields(4, "* * * *".to_owned())),
            ("60 * * * *", CronError::Above(60, 59, "60".to_owned())),
            ("* * 0 * *", CronError::Below(0, 1, "0".to_owned())),
            ("* * * * 7", CronError::Above(7, 6, "7".to_owned())),
            ("5-1 * * * *", CronError::Backwards(5, 1, "5-1".to_owned())),
            ("*/0 * * * *", CronError::Step("*/0".to_owned())),
            ("a * * * *", CronError::Number("a".to_owned())),
            ("1-2-3 * * * *", CronError::Shape("1-2-3".to_owned())),
            ("@often", CronError::Descriptor("@often".to_owned())),
            ("@every 5x", CronError::Duration("5x".to_owned())),
        ];
        for (schedule, expected) in cases {
            assert_eq!(Schedule::parse(schedule), Err(expected), "{schedule}");
        }
    }
}
