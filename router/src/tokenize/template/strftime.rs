//! The dates that chat templates print, in UTC and English.

use std::fmt::Write;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
];

/// `seconds` since 1970 in C's `strftime` notation.
pub(super) fn format(format: &str, seconds: u64) -> Result<String, String> {
    let days = seconds / 86_400;
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let half_day_hour = (hour + 11) % 12 + 1;
    let month_name = MONTHS[month as usize - 1];
    let day_name = DAYS[(days % 7) as usize];
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(char) = chars.next() {
        if char != '%' {
            out.push(char);
            continue;
        }
        let mut field = chars.next();
        let unpadded = field == Some('-');
        if unpadded {
            field = chars.next();
        }
        let (number, width) = match field {
            Some('Y') => (year, 4),
            Some('y') => (year % 100, 2),
            Some('m') => (month, 2),
            Some('d') => (day, 2),
            Some('H') => (hour, 2),
            Some('I') => (half_day_hour, 2),
            Some('M') => (minute, 2),
            Some('S') => (second, 2),
            Some('j') => (days - days_before_year(year) + 1, 3),
            text => {
                match text {
                    Some('B') => out.push_str(month_name),
                    Some('b') => out.push_str(&month_name[..3]),
                    Some('A') => out.push_str(day_name),
                    Some('a') => out.push_str(&day_name[..3]),
                    Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
                    Some('%') => out.push('%'),
                    _ => return Err(format!("strftime_now does not know the format {format:?}")),
                }
                continue;
            }
        };
        let width = if unpadded { 0 } else { width };
        write!(out, "{number:0width$}").map_err(|error| error.to_string())?;
    }
    Ok(out)
}

/// Year, month and day of a day since 1970 (H. Hinnant, "chrono-compatible
/// low-level date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

/// Days from 1970 to the first of January.
fn days_before_year(year: u64) -> u64 {
    let past = year - 1;
    365 * (year - 1970) + (past / 4 - past / 100 + past / 400) - 477
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_what_templates_ask_for() {
        let check = |seconds, pattern, expected: &str| {
            assert_eq!(format(pattern, seconds).unwrap(), expected, "{pattern}");
        };
        check(1_767_323_045, "%Y-%m-%d", "2026-01-02");
        check(1_767_323_045, "%d %B %Y", "02 January 2026");
        check(
            1_767_323_045,
            "%A, %b %-d, %H:%M:%S %j",
            "Friday, Jan 2, 03:04:05 002",
        );
        check(0, "%a %Y-%m-%d %I %p 100%%", "Thu 1970-01-01 12 AM 100%");
        check(951_782_400, "%y-%m-%d %j", "00-02-29 060");
        check(1_735_603_200, "%Y-%m-%d %j", "2024-12-31 366");
        check(4_107_542_400, "%Y-%m-%d", "2100-03-01");
    }

    #[test]
    fn unknown_format_is_an_error() {
        assert!(format("%Q", 0).is_err());
        assert!(format("%", 0).is_err());
    }
}
