//! Times for people.

/// A time in UTC, as RFC 3339 writes it.
pub(super) fn time(millis: u64) -> String {
    let (days, in_day) = (millis / 86_400_000, millis % 86_400_000);
    let (year, month, day) = date(days);
    let (hours, minutes) = (in_day / 3_600_000, in_day / 60_000 % 60);
    let (seconds, millis) = (in_day / 1_000 % 60, in_day % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{millis:03}Z")
}

/// A moment that the user names: Unix seconds, or how long before `now` it is, such as `90s`, `15m`, `12h`, `7d` or `2w`.
pub(crate) fn moment(text: &str, now: u64) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let count: u64 = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "" => return Some(count),
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return None,
    };
    Some(now.saturating_sub(count.checked_mul(unit)?))
}

/// The date `days` days after 1970-01-01, in the Gregorian calendar. Years begin in March, so a leap day is the last of one.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, in_era) = (days / 146_097, days % 146_097);
    let year = (in_era - in_era / 1_460 + in_era / 36_524 - in_era / 146_096) / 365;
    let in_year = in_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * in_year + 2) / 153;
    let day = in_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_seconds_or_lengths_of_time_before_now() {
        let now = 1_800_000_000;
        for (text, want) in [
            ("1700000000", Some(1_700_000_000)),
            ("0", Some(0)),
            ("90s", Some(now - 90)),
            ("15m", Some(now - 900)),
            ("12h", Some(now - 43_200)),
            ("7d", Some(now - 604_800)),
            ("2w", Some(now - 1_209_600)),
            ("99999999999w", Some(0)),
            ("", None),
            ("d", None),
            ("7 d", None),
            ("-7d", None),
            ("7days", None),
            ("7é", None),
            ("99999999999999999999", None),
            ("9999999999999999999w", None),
        ] {
            assert_eq!(moment(text, now), want, "{text}");
        }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (millis, want) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_709_164_800_000, "2024-02-29T00:00:00.000Z"),
            (1_735_689_599_000, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(time(millis), want);
        }
    }
}
