//! Where a server is, as users write it and as servers tell it.

use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Address {
    /// An IPv6 address stands in brackets or not.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Address {
    pub(super) fn new(host: &str, port: u16) -> Self {
        Self { host: host.trim_matches(['[', ']']).to_owned(), port }
    }

    /// `host:port`; what stands before the last colon is the host, also when that is an IPv6 address without brackets.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.trim().rsplit_once(':')?;
        Some(Self::new(host, port.parse().ok()?))
    }

    /// `host1:port1,host2:port2`.
    pub(super) fn parse_list(text: &str) -> Option<Vec<Self>> {
        text.split(',').map(Self::parse).collect()
    }

    /// A server that does not know its own host leaves it out: then it is the one that was asked.
    pub(super) fn or_host_of(mut self, asked: &Self) -> Self {
        if self.host.is_empty() {
            self.host.clone_from(&asked.host);
        }
        self
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_users_and_servers_write_them() {
        for (text, expect) in [
            ("a.b:1", Some(("a.b", 1))),
            (" a:65535", Some(("a", 65_535))),
            ("[::1]:7000", Some(("::1", 7_000))),
            ("::1:7000", Some(("::1", 7_000))),
            (":7000", Some(("", 7_000))),
            ("a:70000", None),
            ("a", None),
        ] {
            let address = Address::parse(text);
            assert_eq!(address.as_ref().map(|address| (address.host.as_str(), address.port)), expect, "{text}");
        }
        assert_eq!(Address::parse("[::1]:7000").map(|address| address.to_string()).as_deref(), Some("[::1]:7000"));
        let asked = Address::new("db", 1);
        assert_eq!(Address::new("", 2).or_host_of(&asked), Address::new("db", 2));
        assert_eq!(Address::new("x", 2).or_host_of(&asked), Address::new("x", 2));
    }
}
