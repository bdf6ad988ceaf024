//! The `Retry-After` header: seconds, or a date.

use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};

/// The two older date forms of HTTP, which a client must still understand.
const OLD_DATES: [&str; 2] = ["%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];

/// `None` when the header says neither; a date that has passed is no wait.
pub(crate) fn retry_after(header: &str, now: DateTime<Utc>) -> Option<Duration> {
    let header = header.trim();
    if !header.is_empty() && header.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(header.parse().unwrap_or(u64::MAX)));
    }
    let date = match DateTime::parse_from_rfc2822(header) {
        Ok(date) => date.to_utc(),
        Err(_) => OLD_DATES
            .iter()
            .find_map(|form| NaiveDateTime::parse_from_str(header, form).ok())
            .map(|date| date.and_utc())?,
    };
    Some((date - now).to_std().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(header: &str, expect_seconds: Option<u64>) {
        let now = DateTime::parse_from_rfc3339("2026-11-23T20:00:00Z").expect("is a time").to_utc();
        assert_eq!(retry_after(header, now), expect_seconds.map(Duration::from_secs), "{header}");
    }

    #[test]
    fn both_forms_are_read() {
        check("120", Some(120));
        check(" 0 ", Some(0));
        check("99999999999999999999999", Some(u64::MAX));
        check("Mon, 23 Nov 2026 20:01:30 GMT", Some(90));
        check("Mon, 23 Nov 2026 19:00:00 GMT", Some(0));
        check("Monday, 23-Nov-26 20:00:10 GMT", Some(10));
        check("Mon Nov 23 20:00:10 2026", Some(10));
        for bad in ["", "-5", "soon", "1.5", "2026-11-23T20:00:00Z"] {
            check(bad, None);
        }
    }
}
