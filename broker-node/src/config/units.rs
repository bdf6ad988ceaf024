//! Durations, sizes and addresses as people write them: `"2.2s"`, `"64MiB"`, `"host:1883"`.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// `host:port`, where the host is a name, an IPv4 address or an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

const DURATION_UNITS: [(&str, f64); 6] =
    [("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0), ("w", 604_800.0)];

const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// Longest duration that makes sense anywhere here; it keeps arithmetic on instants from overflowing.
const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

/// One or more decimal numbers with a unit each: `500ms`, `2.2s`, `1h30m`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut seconds = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, after) = leading_number(rest)?;
        let unit_end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, tail) = after.split_at(unit_end);
        let (_, factor) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
        seconds += number * factor;
        rest = tail.trim_start();
    }
    // Whole microseconds: 2.2 s are 2200 ms, not 2.200000000000000178 s.
    (seconds <= DURATION_MAX.as_secs_f64()).then(|| Duration::from_micros((seconds * 1e6).round() as u64))
}

pub fn parse_size(text: &str) -> Option<Size> {
    let (number, unit) = leading_number(text.trim())?;
    let (_, factor) = SIZE_UNITS.iter().find(|(name, _)| *name == unit.trim())?;
    let bytes = number * *factor as f64;
    (bytes.is_finite() && bytes < 2f64.powi(63)).then_some(Size(bytes as u64))
}

fn leading_number(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Some((digits.parse().ok()?, rest))
}

/// The largest unit that leaves a whole number.
pub fn show_duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    if micros == 0 {
        return "0s".to_owned();
    }
    let units = [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1000)];
    match units.iter().find(|(_, size)| micros.is_multiple_of(*size)) {
        Some((unit, size)) => format!("{}{unit}", micros / size),
        None => format!("{}ms", micros as f64 / 1000.0),
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match units.iter().find(|(_, size)| self.0 > 0 && self.0.is_multiple_of(*size)) {
            Some((unit, size)) => write!(f, "{}{unit}", self.0 / size),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl HostPort {
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.trim().rsplit_once(':')?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let inner = if bracketed { &host[1..host.len() - 1] } else { host };
        let address_ok = if bracketed { inner.parse::<std::net::Ipv6Addr>().is_ok() } else { is_host_name(host) };
        if !address_ok || port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Some(Self { host: host.to_owned(), port: port.parse().ok()? })
    }

    fn ip(&self) -> Option<IpAddr> {
        self.host.trim_start_matches('[').trim_end_matches(']').parse().ok()
    }

    /// Whether only this machine can connect.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.ip().is_some_and(|ip| ip.is_loopback())
    }

    /// `0.0.0.0` or `[::]`: every address of this machine, so none that another node could be told.
    pub fn is_unspecified(&self) -> bool {
        self.ip().is_some_and(|ip| ip.is_unspecified())
    }
}

fn is_host_name(text: &str) -> bool {
    const HOST_NAME_MAX: usize = 253;
    !text.is_empty()
        && text.len() <= HOST_NAME_MAX
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_shown_with_units() {
        for (text, millis, shown) in [
            ("500ms", 500, "500ms"),
            ("2.2s", 2200, "2200ms"),
            ("10m", 600_000, "10m"),
            ("1h30m", 5_400_000, "90m"),
            ("0s", 0, "0s"),
            ("30d", 2_592_000_000, "30d"),
        ] {
            let duration = parse_duration(text);
            assert_eq!(duration, Some(Duration::from_millis(millis)), "{text}");
            assert_eq!(duration.map(show_duration).as_deref(), Some(shown), "{text}");
        }
        for bad in ["", "5", "s", "5 parsecs", "-1s", "1.2.3s", "99999999999999999999d", "5S", "NaNs"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_are_read_and_shown_with_units() {
        for (text, bytes, shown) in [
            ("64MiB", 64 << 20, "64MiB"),
            ("8GiB", 8 << 30, "8GiB"),
            ("1MB", 1_000_000, "1000000B"),
            ("0.5KiB", 512, "512B"),
            ("512B", 512, "512B"),
            ("0B", 0, "0B"),
        ] {
            let size = parse_size(text);
            assert_eq!(size, Some(Size(bytes)), "{text}");
            assert_eq!(size.map(|size| size.to_string()).as_deref(), Some(shown), "{text}");
        }
        for bad in ["", "64", "64mb", "MiB", "-1B", "99999999999TiB"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn addresses_know_who_can_reach_them() {
        for (text, loopback, unspecified) in [
            ("127.0.0.1:8080", true, false),
            ("localhost:0", true, false),
            ("[::1]:1883", true, false),
            ("0.0.0.0:1883", false, true),
            ("[::]:1883", false, true),
            ("sluice-0.sluice:7480", false, false),
        ] {
            let address = HostPort::parse(text);
            let seen = address.as_ref().map(|address| (address.is_loopback(), address.is_unspecified()));
            assert_eq!(seen, Some((loopback, unspecified)), "{text}");
            assert_eq!(address.map(|address| address.to_string()).as_deref(), Some(text));
        }
        for bad in ["", "host", "host:", ":80", "host:99999", "::1:80", "a b:1", "host:+1"] {
            assert_eq!(HostPort::parse(bad), None, "{bad}");
        }
    }
}
