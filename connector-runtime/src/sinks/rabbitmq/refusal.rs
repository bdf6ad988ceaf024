//! What the server's reply codes mean when it closes a connection or a channel.

use crate::sink::{TargetFault, TargetFaultKind};

const CONTENT_TOO_LARGE: u16 = 311;
const INVALID_PATH: u16 = 402;
const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const PRECONDITION_FAILED: u16 = 406;
const NOT_ALLOWED: u16 = 530;

/// A `close` of the server: RabbitMQ's text begins with the name of the code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Close {
    pub(super) code: u16,
    pub(super) text: String,
}

impl Close {
    /// Before the server has said that it knows the user.
    pub(super) fn of_login(&self) -> TargetFault {
        match self.code {
            ACCESS_REFUSED => TargetFault::new(TargetFaultKind::Auth, self.says("the login")),
            _ => self.of_connection(),
        }
    }

    pub(super) fn of_connection(&self) -> TargetFault {
        TargetFault::new(self.kind(), self.says("the connection"))
    }

    /// Others of the connection go on: a new connection of the same user would change nothing.
    pub(super) fn of_channel(&self) -> TargetFault {
        TargetFault { reopen: false, ..TargetFault::new(self.kind(), self.says("the channel")) }
    }

    /// The size of the one message for which the channel was closed: RabbitMQ names it, and takes none larger than
    /// `max_message_size`.
    pub(super) fn too_large_bytes(&self) -> Option<u64> {
        match self.code {
            PRECONDITION_FAILED | CONTENT_TOO_LARGE => {
                let (_, rest) = self.text.split_once("message size ")?;
                let (size, limit) = rest.split_once(" is larger than ")?;
                limit.contains("max size").then(|| size.parse().ok())?
            }
            _ => None,
        }
    }

    /// The routing key for which the channel was closed, where the user may write to the exchange, but not with this key.
    /// Publishers may choose it, so that it may hold any words of the text; one that is cut is not known.
    pub(super) fn refused_routing_key(&self) -> Option<&str> {
        if self.code != ACCESS_REFUSED {
            return None;
        }
        let (_, rest) = self.text.split_once("access to topic '")?;
        let (key, rest) = rest.strip_suffix('\'')?.rsplit_once("' in exchange '")?;
        rest.contains("' refused for user '").then_some(key)
    }

    fn kind(&self) -> TargetFaultKind {
        match self.code {
            INVALID_PATH | NOT_FOUND => TargetFaultKind::Missing,
            ACCESS_REFUSED => TargetFaultKind::Permission,
            PRECONDITION_FAILED => TargetFaultKind::Misconfigured("TARGET_PRECONDITION"),
            NOT_ALLOWED => self.not_allowed(),
            // Shutting down, closed by an operator, out of something, a fault of its own or one that is not known.
            _ => TargetFaultKind::Down,
        }
    }

    /// One code for all that a user may not do with a virtual host.
    fn not_allowed(&self) -> TargetFaultKind {
        if self.text.contains("connection limit (") {
            TargetFaultKind::Throttled { retry_after: None }
        } else if self.text.ends_with("not found") {
            TargetFaultKind::Missing
        } else {
            TargetFaultKind::Permission
        }
    }

    pub(super) fn says(&self, what: &str) -> String {
        format!("the server closed {what}: {} (code {})", self.text, self.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(code: u16, text: &str) -> Close {
        Close { code, text: text.to_owned() }
    }

    #[test]
    fn codes_mean_what_the_page_says() {
        let throttled = TargetFaultKind::Throttled { retry_after: None };
        for (code, text, kind) in [
            (320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'", TargetFaultKind::Down),
            (402, "INVALID_PATH - unknown vhost", TargetFaultKind::Missing),
            (
                403,
                "ACCESS_REFUSED - access to exchange 'x' in vhost '/' refused for user 'u'",
                TargetFaultKind::Permission,
            ),
            (404, "NOT_FOUND - no exchange 'x' in vhost '/'", TargetFaultKind::Missing),
            (405, "RESOURCE_LOCKED", TargetFaultKind::Down),
            (406, "PRECONDITION_FAILED - so", TargetFaultKind::Misconfigured("TARGET_PRECONDITION")),
            (501, "FRAME_ERROR - type 3, all octets = <<>>: frame too large", TargetFaultKind::Down),
            (530, "NOT_ALLOWED - vhost nope not found", TargetFaultKind::Missing),
            (530, "NOT_ALLOWED - access to vhost 'limit' refused for user 'u'", TargetFaultKind::Permission),
            (530, "NOT_ALLOWED - access to vhost 'v' refused for user 'u': connection limit (1) is reached", throttled),
            (541, "INTERNAL_ERROR", TargetFaultKind::Down),
            (999, "", TargetFaultKind::Down),
        ] {
            let close = close(code, text);
            assert_eq!((close.of_connection().kind, close.of_channel().kind), (kind, kind), "{text}");
            assert!(!close.of_channel().reopen, "{text}");
            assert!(close.of_connection().message.contains(text), "{text}");
        }
        let refused = close(403, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN.");
        assert_eq!(refused.of_login().kind, TargetFaultKind::Auth);
        assert_eq!(close(320, "CONNECTION_FORCED").of_login().kind, TargetFaultKind::Down);
    }

    #[test]
    fn a_message_that_is_too_large_is_told_by_its_size() {
        let of = |text| close(406, text).too_large_bytes();
        assert_eq!(
            of("PRECONDITION_FAILED - message size 70000 is larger than configured max size 65536"),
            Some(70_000)
        );
        assert_eq!(
            of("PRECONDITION_FAILED - message size 134217729 is larger than max size 134217728"),
            Some(134_217_729)
        );
        assert_eq!(of("PRECONDITION_FAILED - message size ? is larger than max size 1"), None);
        assert_eq!(of("PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'x'"), None);
        assert_eq!(close(404, "message size 1 is larger than max size 0").too_large_bytes(), None);
    }

    #[test]
    fn a_routing_key_that_is_refused_is_told_by_its_words() {
        let of = |code, text: &str| close(code, text).refused_routing_key().map(str::to_owned);
        let refused = |key: &str| {
            format!("ACCESS_REFUSED - access to topic '{key}' in exchange 'e' in vhost '/' refused for user 'u'")
        };
        for key in ["other.x", "", "it's", "a' in exchange 'e' in vhost '/' refused for user 'u", "access to topic 'b"]
        {
            assert_eq!(of(403, &refused(key)).as_deref(), Some(key));
            assert_eq!(of(404, &refused(key)), None);
        }
        let newer = "ACCESS_REFUSED - write access to topic 'k' in exchange 'e' in vhost '/' refused for user 'u'";
        assert_eq!(of(403, newer).as_deref(), Some("k"));
        // The server ends a text of more than 255 bytes with three dots.
        for key in ["k".repeat(180), "k".repeat(255), "' in exchange 'e' in vhost '/' refused for user 'u'".repeat(5)] {
            let mut cut = refused(&key);
            cut.truncate(252);
            cut.push_str("...");
            assert_eq!(of(403, &cut), None, "{cut}");
        }
        assert_eq!(of(403, "ACCESS_REFUSED - access to exchange 'x' in vhost '/' refused for user 'u'"), None);
        assert_eq!(of(403, "ACCESS_REFUSED - access to topic '"), None);
    }
}
