//! Where to start in a topic's history, as people write it: `beginning`, `end`, an offset, or a time.

use std::str::FromStr;

use super::client::At;

/// A place in every partition of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    At(At),
    Offset(i64),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "beginning" | "earliest" => return Ok(Self::At(At::Earliest)),
            "local" => return Ok(Self::At(At::EarliestLocal)),
            "end" | "latest" => return Ok(Self::At(At::Latest)),
            _ => {}
        }
        if let Some(milliseconds) = text.strip_prefix('@').and_then(|digits| digits.parse().ok()) {
            return at_time(milliseconds);
        }
        if let Ok(offset) = text.parse::<i64>() {
            return if offset >= 0 {
                Ok(Self::Offset(offset))
            } else {
                Err("an offset is not negative".to_owned())
            };
        }
        match timestamp(text) {
            Some(milliseconds) => at_time(milliseconds),
            None => Err(
                "expected beginning, end, an offset, @MILLISECONDS, or a time such as 2026-07-01 or \
                         2026-07-01T12:30:00Z"
                    .to_owned(),
            ),
        }
    }
}

fn at_time(milliseconds: i64) -> Result<Place, String> {
    // Negative timestamps have meanings of their own in the protocol.
    if milliseconds < 0 {
        return Err("a time before 1970 cannot be asked for".to_owned());
    }
    Ok(Place::At(At::Timestamp(milliseconds)))
}

/// `YYYY-MM-DD[(T| )HH:MM[:SS[.fff]]][Z|±HH:MM]`, in UTC where no offset is given, as milliseconds since 1970.
fn timestamp(text: &str) -> Option<i64> {
    let (date, time) = match text.split_once(['T', ' ']) {
        Some((date, time)) => (date, time),
        None => (text, "00:00"),
    };
    let (time, east_minutes) = zone(time)?;
    let mut parts = date.splitn(3, '-');
    let year = number(parts.next()?, 1970..=9999)?;
    let month = number(parts.next()?, 1..=12)?;
    let day = number(parts.next()?, 1..=days_in(year, month))?;
    let mut parts = time.splitn(3, ':');
    let hour = number(parts.next()?, 0..=23)?;
    let minute = number(parts.next()?, 0..=59)?;
    let millisecond = seconds(parts.next().unwrap_or("00"))?;
    let minutes = (days_since_1970(year, month, day) * 24 + hour) * 60 + minute - east_minutes;
    Some(minutes * 60_000 + millisecond)
}

/// Splits the zone off a time; answers how many minutes east of UTC it is.
fn zone(time: &str) -> Option<(&str, i64)> {
    if let Some(time) = time.strip_suffix(['Z', 'z']) {
        return Some((time, 0));
    }
    let Some(at) = time.rfind(['+', '-']) else {
        return Some((time, 0));
    };
    let (time, zone) = time.split_at(at);
    let (hours, minutes) = zone[1..].split_once(':')?;
    let east = number(hours, 0..=23)? * 60 + number(minutes, 0..=59)?;
    Some((time, if zone.starts_with('-') { -east } else { east }))
}

fn seconds(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if fraction.is_empty() || !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let milliseconds: String = fraction.chars().chain("000".chars()).take(3).collect();
    Some(number(whole, 0..=59)? * 1000 + milliseconds.parse::<i64>().ok()?)
}

fn number(digits: &str, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
    let all_digits = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    digits
        .parse()
        .ok()
        .filter(|number| all_digits && range.contains(number))
}

fn is_leap(year: i64) -> bool {
    (year % 4 == 0 && year % 100 != 0) || year % 400 == 0
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let years: i64 = (1970..year)
        .map(|year| if is_leap(year) { 366 } else { 365 })
        .sum();
    let months: i64 = (1..month).map(|month| days_in(year, month)).sum();
    years + months + day - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Option<Place> {
        text.parse().ok()
    }

    fn time(milliseconds: i64) -> Option<Place> {
        Some(Place::At(At::Timestamp(milliseconds)))
    }

    #[test]
    fn a_plain_number_is_an_offset_and_one_behind_an_at_sign_a_time() {
        assert_eq!(place("42"), Some(Place::Offset(42)));
        assert_eq!(place("@42"), time(42));
        assert_eq!(place("-42"), None);
        assert_eq!(place("@-1"), None);
    }

    #[test]
    fn times_are_read_in_utc_unless_they_say_otherwise() {
        assert_eq!(place("2013-07-01"), time(1_372_636_800_000));
        assert_eq!(place("2013-07-01T00:00:00Z"), time(1_372_636_800_000));
        assert_eq!(place("2013-07-01 02:00+02:00"), time(1_372_636_800_000));
        assert_eq!(place("2024-02-29T23:59:59.5-05:00"), time(1_709_269_199_500));
    }

    #[test]
    fn days_that_never_were_are_refused() {
        for text in [
            "2023-02-29",
            "2023-13-01",
            "2023-00-01",
            "2023-04-31",
            "2023-04-01T24:00",
            "tomorrow",
            "2023-1-1T",
            "",
        ] {
            assert_eq!(place(text), None, "{text}");
        }
    }
}
