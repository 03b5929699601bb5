//! Quantities of resources: `500m`, `1Gi`, `1e3`, as
//! `k8s.io/apimachinery/pkg/api/resource` reads, caps, rounds and writes them.
//!
//! A quantity is a whole number of nano-units and the format that it is written in. What is
//! smaller than a nano-unit is rounded up (away from zero), what is larger than 2^63-1 is capped.
//!
//! **Invariant:** writing a quantity and reading it again gives the same quantity, and writing is
//! canonical: equal quantities of one format are written alike.

use std::cmp::Ordering;
use std::fmt;

const NANO: i128 = 1_000_000_000;
const MAX: i128 = i64::MAX as i128 * NANO;
/// More digits than this cannot matter: the value is capped far below.
const DIGITS_MAX: usize = 4096;

/// What a quantity is written with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `Ki`, `Mi`, …
    BinarySi,
    /// `m`, ``, `k`, `M`, …
    DecimalSi,
    /// `1e3`.
    DecimalExponent,
}

/// An amount of a resource.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

/// Why a text is no quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error(
        "quantities must match the regular expression \
         '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nano: 0, format: Format::DecimalSi };

    /// `value` whole units.
    pub fn from_units(value: i64, format: Format) -> Self {
        Self { nano: i128::from(value) * NANO, format }
    }

    /// `value` thousandths.
    pub fn from_milli(value: i64) -> Self {
        Self { nano: i128::from(value) * (NANO / 1000), format: Format::DecimalSi }
    }

    /// Whole units, rounded up (away from zero), as Go's `Value()`.
    pub fn units(self) -> i64 {
        saturate(div_away(self.nano, NANO))
    }

    /// Thousandths, rounded up (away from zero), as Go's `MilliValue()`.
    pub fn milli(self) -> i64 {
        saturate(div_away(self.nano, NANO / 1000))
    }

    /// Nano-units.
    pub fn nano(self) -> i128 {
        self.nano
    }

    /// Whether it is a whole number of units.
    pub fn is_whole(self) -> bool {
        self.nano % NANO == 0
    }

    /// −1, 0 or 1.
    pub fn sign(self) -> i32 {
        self.nano.signum() as i32
    }

    /// Both together, in the format of `self` (or of `other` where `self` is nothing).
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let format = if self.nano == 0 { other.format } else { self.format };
        Self { nano: (self.nano + other.nano).clamp(-MAX, MAX), format }
    }

    /// `self` without `other`.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        self.plus(Self { nano: -other.nano, ..other })
    }

    /// What it is written with.
    pub fn format(self) -> Format {
        self.format
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl std::str::FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let digits_end =
            unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(digits_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if number.is_empty() || fraction.contains('.') || !suffix_fits(suffix) {
            return Err(ParseError::Format);
        }
        if number.len() > DIGITS_MAX || (whole.is_empty() && fraction.is_empty()) {
            return Err(ParseError::Numeric);
        }
        let (base, exponent, format) = read_suffix(suffix).ok_or(ParseError::Suffix)?;
        let size = scaled(whole, fraction, base, exponent);
        let format = match format {
            Format::BinarySi if size > 0 && size < NANO => Format::DecimalSi,
            other => other,
        };
        let nano = if text.starts_with('-') { -size } else { size };
        Ok(Self { nano, format })
    }
}

/// Whether the text after the digits looks like a suffix: `[eEinumkKMGTP]*[-+]?[0-9]*`.
fn suffix_fits(suffix: &str) -> bool {
    let rest = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let rest = rest.strip_prefix(['+', '-']).unwrap_or(rest);
    rest.bytes().all(|b| b.is_ascii_digit())
}

/// The base, its exponent, and the format of a suffix.
fn read_suffix(suffix: &str) -> Option<(u32, i32, Format)> {
    let decimal = |exponent| Some((10, exponent, Format::DecimalSi));
    let binary = |exponent| Some((2, exponent, Format::BinarySi));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let digits = suffix.strip_prefix(['e', 'E'])?;
            let exponent: i64 = digits.parse().ok()?;
            Some((10, exponent.clamp(-10_000, 10_000) as i32, Format::DecimalExponent))
        }
    }
}

/// `whole.fraction × base^exponent` in nano-units, rounded up and capped.
fn scaled(whole: &str, fraction: &str, base: u32, exponent: i32) -> i128 {
    let fraction = fraction.trim_end_matches('0');
    let mut digits = format!("{whole}{fraction}");
    // The decimal exponent of the last digit, in nano-units.
    let mut shift = 9 - fraction.len() as i64;
    if base == 10 {
        shift += i64::from(exponent);
    }
    let mut inexact = false;
    if shift < 0 {
        let cut = digits.len().saturating_sub(shift.unsigned_abs() as usize);
        // With a binary suffix the factor can lift what lies below a nano-unit: keep more of it.
        let keep = if base == 2 { (cut + 12).min(digits.len()) } else { cut };
        inexact = digits[keep..].bytes().any(|b| b != b'0');
        shift += (digits.len() - keep) as i64;
        digits.truncate(keep);
    }
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return i128::from(inexact);
    }
    if digits.len() as i64 + shift.max(0) > 38 {
        return MAX;
    }
    let mut size: i128 = digits.parse().unwrap_or(MAX);
    if base == 2 {
        let Some(lifted) = size.checked_mul(1i128 << exponent) else { return MAX };
        size = lifted;
    }
    if shift >= 0 {
        size = 10i128.checked_pow(shift as u32).and_then(|p| size.checked_mul(p)).unwrap_or(MAX);
    } else {
        size = match 10i128.checked_pow(shift.unsigned_abs() as u32) {
            Some(power) => {
                inexact |= size % power != 0;
                size / power
            }
            None => 0,
        };
    }
    size.saturating_add(i128::from(inexact)).min(MAX)
}

fn div_away(value: i128, by: i128) -> i128 {
    let (quotient, rest) = (value / by, value % by);
    quotient + i128::from(rest != 0) * value.signum()
}

fn saturate(value: i128) -> i64 {
    value.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        let small = self.nano.abs() < 1024 * NANO;
        if self.format == Format::BinarySi && !small && self.is_whole() {
            let (mut value, mut steps) = (self.nano / NANO, 0);
            while value % 1024 == 0 && steps < 6 {
                (value, steps) = (value / 1024, steps + 1);
            }
            return write!(f, "{value}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][steps]);
        }
        let (mut value, mut steps) = (self.nano, 0);
        while value % 1000 == 0 && steps < 9 {
            (value, steps) = (value / 1000, steps + 1);
        }
        if self.format == Format::DecimalExponent {
            return match steps * 3 - 9_i32 {
                0 => write!(f, "{value}"),
                exponent => write!(f, "{value}e{exponent}"),
            };
        }
        let suffix = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][steps as usize];
        write!(f, "{value}{suffix}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(text: &str) -> String {
        text.parse::<Quantity>().map_or_else(|e| format!("{e:?}"), |q| q.to_string())
    }

    #[test]
    fn quantities_are_written_as_kubernetes_writes_them() {
        let table = [
            ("0", "0"),
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("100000", "100k"),
            ("1024Ki", "1Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Gi", "512Mi"),
            ("0.1Mi", "104857600m"),
            ("512Ki", "512Ki"),
            ("1023", "1023"),
            ("1Ki", "1Ki"),
            ("0.5Ki", "512"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12e-3", "12e-3"),
            ("1E", "1E"),
            ("0.0000000001", "1n"),
            ("-1.5", "-1500m"),
            ("+1", "1"),
            (".5", "500m"),
            ("5.", "5"),
            ("99999999999999999999", "9223372036854775807"),
            ("1e1000000", "9223372036854775807"),
            ("128974848", "128974848"),
            ("123Mi", "123Mi"),
            ("0.3", "300m"),
            ("3000000000", "3G"),
        ];
        for (from, to) in table {
            assert_eq!(canonical(from), to, "{from}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "a", "1.1.1", "1 Mi", "--1", "Mi", "1Mi1x", "1e3.5"] {
            assert_eq!(text.parse::<Quantity>(), Err(ParseError::Format), "{text}");
        }
        for text in ["1+1", "1mi", "1i", "1e", "1mM", "1Ki3"] {
            assert_eq!(text.parse::<Quantity>(), Err(ParseError::Suffix), "{text}");
        }
        assert_eq!(".".parse::<Quantity>(), Err(ParseError::Numeric));
    }

    #[test]
    fn values_round_away_from_zero() {
        let half: Quantity = "0.5".parse().expect("a quantity");
        assert_eq!((half.units(), half.milli()), (1, 500));
        let tiny: Quantity = "1n".parse().expect("a quantity");
        assert_eq!((tiny.units(), tiny.milli()), (1, 1));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in "[-+]?[0-9.]{0,60}[eEinumkKMGTP]{0,3}[-+]?[0-9]{0,12}|.{0,20}") {
            let _ = canonical(&text);
        }

        #[test]
        fn writing_and_reading_gives_the_same(nano in -MAX..=MAX, format in 0usize..3) {
            let format = [Format::BinarySi, Format::DecimalSi, Format::DecimalExponent][format];
            let quantity = Quantity { nano, format };
            let again: Quantity = quantity.to_string().parse().expect("what is written can be read");
            prop_assert_eq!(again, quantity);
            prop_assert_eq!(again.to_string(), quantity.to_string());
        }

        #[test]
        fn sums_are_exact(a in -1_000_000_000i64..1_000_000_000, b in -1_000_000_000i64..1_000_000_000) {
            let sum = Quantity::from_milli(a).plus(Quantity::from_milli(b));
            prop_assert_eq!(sum.milli(), a + b);
            prop_assert_eq!(sum.minus(Quantity::from_milli(b)).milli(), a);
        }
    }
}
