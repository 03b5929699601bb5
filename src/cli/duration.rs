//! Durations as people write them on the command line: Go's (`1h30m`, `1.5s`, `300ms`) or a plain
//! number of seconds.

use std::time::Duration;

const MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Reads a duration.
///
/// # Errors
/// What is wrong with it, and an example.
pub fn parse(text: &str) -> Result<Duration, String> {
    let bad = |why: &str| format!("{text:?} is no duration: {why} (write 30s, 5m or 1h30m)");
    if text.is_empty() {
        return Err(bad("it is empty"));
    }
    if text.starts_with('-') {
        return Err(bad("it is negative"));
    }
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds))
            .filter(|d| *d <= MAX)
            .ok_or_else(|| bad("too long"));
    }
    let (mut rest, mut total) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let unit_len = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_len);
        let number: f64 = number.parse().map_err(|_| bad("a number is missing"))?;
        total += number
            * match unit {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "" => return Err(bad("a unit is missing")),
                _ => return Err(bad("its unit is unknown")),
            };
        rest = next;
    }
    Duration::try_from_secs_f64(total).ok().filter(|d| *d <= MAX).ok_or_else(|| bad("too long"))
}

/// As Kubernetes shows ages: two units at most, the smaller one only while it says something.
pub fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |big: u64, unit: &str, small: u64, smaller: &str| match small {
        0 => format!("{big}{unit}"),
        small => format!("{big}{unit}{small}{smaller}"),
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10800 => format!("{minutes}m"),
        10800..28800 => two(hours, "h", minutes % 60, "m"),
        28800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let table = [
            ("0", 0),
            ("5", 5_000),
            ("30s", 30_000),
            ("1h30m", 5_400_000),
            ("1.5s", 1_500),
            ("300ms", 300),
            ("2m0.5s", 120_500),
        ];
        for (text, ms) in table {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "x", "5x", "-1s", "1h30", "s", "..s", "99999999999h", "1 s"] {
            let why = parse(text).expect_err(text);
            assert!(why.contains("write 30s"), "{why}");
        }
    }

    #[test]
    fn ages_are_shown_as_kubernetes_shows_them() {
        let table = [
            (5, "5s"),
            (119, "119s"),
            (120, "2m"),
            (301, "5m1s"),
            (900, "15m"),
            (10_860, "3h1m"),
            (90_000, "25h"),
            (176_400, "2d1h"),
            (864_000, "10d"),
            (70_000_000, "2y80d"),
        ];
        for (seconds, shown) in table {
            assert_eq!(human(Duration::from_secs(seconds)), shown);
        }
    }
}
