//! Forms of text: what a host, an address or a URL may look like. Form only, nothing is looked up or opened.

use std::net::Ipv6Addr;

use reqwest::header::{HeaderName, HeaderValue};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextFormat {
    /// Any characters but U+0000.
    Any,
    /// One line: no control characters.
    Line,
    Host,
    /// `host:port`.
    Address,
    /// `host1:port1,host2:port2`.
    Addresses,
    /// `host` or `host:port`, several with commas.
    Hosts,
    /// `host` or `host:port`, one of them.
    HostMaybePort,
    /// `host:port`, with `http://` or `https://` before it or not.
    AddressOrHttpUrl,
    /// A URL with one of these schemes.
    Url(&'static [&'static str]),
    /// An absolute path of a file, without `.` and `..`.
    FilePath,
    /// Letters and digits of ASCII.
    Alphanumeric,
    /// PEM text.
    Pem,
    /// Value of an HTTP header; in a map, the names are those of headers that the HTTP client does not set itself.
    HeaderValue,
    /// Settings of an OAuth2 client as JSON text.
    OAuth,
}

/// Headers that the HTTP client sets: a second value would change where the body ends or whom it is for.
const OWN_HEADERS: [&str; 7] =
    ["connection", "content-length", "content-encoding", "host", "te", "transfer-encoding", "upgrade"];

const HOST_CHARS_MAX: usize = 253;

impl TextFormat {
    /// The text must have this form; the answer completes the sentence "must be …".
    pub fn says(self) -> String {
        match self {
            Self::Any => "text without the character U+0000".to_owned(),
            Self::Line => "text without control characters".to_owned(),
            Self::Host => "a host name or an IP address, without scheme and port".to_owned(),
            Self::Address => "host:port".to_owned(),
            Self::Addresses => "host1:port1,host2:port2".to_owned(),
            Self::Hosts => "host or host:port, several with commas between them".to_owned(),
            Self::HostMaybePort => "host or host:port".to_owned(),
            Self::AddressOrHttpUrl => "host:port, or a URL that begins with http:// or https://".to_owned(),
            Self::Url(schemes) => {
                let begins: Vec<String> = schemes.iter().map(|scheme| format!("{scheme}://")).collect();
                format!("a URL that begins with {}", begins.join(" or "))
            }
            Self::FilePath => "an absolute path of a file, without \".\" and \"..\"".to_owned(),
            Self::Alphanumeric => "letters and digits only (A-Z, a-z, 0-9)".to_owned(),
            Self::Pem => "PEM text (-----BEGIN …----- to -----END …-----)".to_owned(),
            Self::HeaderValue => "text that can stand in an HTTP header: no control characters".to_owned(),
            Self::OAuth => "JSON text: an object with issuer_url and either client_id and client_secret or \
                            credentials_url; audience and scope are optional"
                .to_owned(),
        }
    }

    pub fn accepts(self, text: &str) -> bool {
        if text.contains('\0') {
            return false;
        }
        match self {
            Self::Any => true,
            Self::Pem => text.trim_start().starts_with("-----BEGIN ") && text.contains("-----END "),
            Self::OAuth => is_oauth(text),
            Self::HeaderValue => HeaderValue::from_str(text).is_ok(),
            Self::Line => !text.contains(char::is_control),
            Self::Host => is_host(text),
            Self::Address => is_address(text),
            Self::Addresses => text.split(',').all(is_address),
            Self::Hosts => text.split(',').all(|part| is_host(part) || is_address(part)),
            Self::HostMaybePort => is_host(text) || is_address(text),
            Self::AddressOrHttpUrl => is_address(text) || is_url(text, &["http", "https"]),
            Self::Url(schemes) => is_url(text, schemes),
            Self::FilePath => is_file_path(text),
            Self::Alphanumeric => text.chars().all(|character| character.is_ascii_alphanumeric()),
        }
    }

    /// For maps: why this name cannot stand.
    pub fn name_problem(self, name: &str) -> Option<&'static str> {
        if self == Self::HeaderValue {
            let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else {
                return Some("is not the name of an HTTP header");
            };
            return OWN_HEADERS.contains(&header.as_str()).then_some("is set by the HTTP client itself");
        }
        let bad = name.is_empty() || name.contains(char::is_control);
        bad.then_some("must be a name of at least one character, without control characters")
    }
}

fn is_host(text: &str) -> bool {
    if text.is_empty() || text.len() > HOST_CHARS_MAX {
        return false;
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if bare.contains(':') || bare.len() != text.len() {
        return bare.parse::<Ipv6Addr>().is_ok();
    }
    // Underscores are no part of DNS host names, but container networks use them.
    text.split('.').enumerate().all(|(position, label)| !label.is_empty() || (position > 0 && text.ends_with('.')))
        && text.chars().all(|character| character.is_alphanumeric() || matches!(character, '.' | '-' | '_'))
        && !text.contains("..")
}

fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.trim().rsplit_once(':') else {
        return false;
    };
    // An IPv6 address needs its brackets here, else its last group would read as a port.
    (!host.contains(':') || host.starts_with('[')) && is_host(host) && is_port(port)
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
}

fn is_url(text: &str, schemes: &[&str]) -> bool {
    if text.contains(|character: char| character.is_control() || character.is_whitespace()) {
        return false;
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return false;
    };
    if !schemes.iter().any(|known| known.eq_ignore_ascii_case(scheme)) {
        return false;
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    let one_fits = |host: &str| is_host(host) || is_address(host);
    // Several hosts are a habit of messaging clients; an HTTP client has one, and reads the whole by its own rules.
    if scheme.to_ascii_lowercase().starts_with("http") {
        return one_fits(hosts) && reqwest::Url::parse(text).is_ok_and(|url| url.has_host());
    }
    hosts.split(',').all(one_fits)
}

fn is_file_path(text: &str) -> bool {
    text.len() > 1
        && text.starts_with('/')
        && !text.ends_with('/')
        && !text.contains(char::is_control)
        && !text.split('/').any(|part| part == "." || part == "..")
}

fn is_oauth(text: &str) -> bool {
    let Ok(serde_json::Value::Object(settings)) = serde_json::from_str(text) else {
        return false;
    };
    let known = ["issuer_url", "client_id", "client_secret", "credentials_url", "audience", "scope"];
    let filled = |key: &str| settings.get(key).and_then(|value| value.as_str()).is_some_and(|text| !text.is_empty());
    let all_known = settings.iter().all(|(key, value)| known.contains(&key.as_str()) && value.is_string());
    let client = filled("client_id") && filled("client_secret");
    all_known && filled("issuer_url") && (client != filled("credentials_url"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(format: TextFormat, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(format.accepts(text), "{format:?} must take {text:?}");
        }
        for text in bad {
            assert!(!format.accepts(text), "{format:?} must refuse {text:?}");
        }
    }

    #[test]
    fn hosts_and_addresses_have_their_forms() {
        let hosts =
            ["localhost", "a.b", "10.0.0.1", "db_1", "xn--bcher-kva.example", "bücher.example", "::1", "[::1]", "a."];
        check(TextFormat::Host, &hosts, &["", "a b", "a:1", "http://a", "a/b", "a..b", ".a", "[a]", "u@a", "a,b"]);
        let bad = ["", "a", "a:0", "a:65536", "a:x", ":1", "::1:80", "a:+1", "a:1,b:2"];
        check(TextFormat::Address, &["a:1", "a:65535", "[::1]:80"], &bad);
        check(TextFormat::Addresses, &["a:1", "a:1,b:2", "a:1, b:2"], &["a:1,", "a:1,b"]);
        check(TextFormat::Hosts, &["a", "a,b:1"], &["", "a,"]);
        check(TextFormat::AddressOrHttpUrl, &["a:1", "http://a", "https://a:1"], &["a", "ftp://a"]);
    }

    #[test]
    fn urls_need_their_scheme_and_a_host() {
        let http = TextFormat::Url(&["http", "https"]);
        let good = ["http://a", "https://a:1/b?c=d", "HTTP://a", "http://u:p@a/", "http://[::1]:9200"];
        check(
            http,
            &good,
            &["", "a", "http:/a", "http://", "http:///x", "ftp://a", "http://a b", "http://a:99999", "http://a,b"],
        );
        let pulsar = TextFormat::Url(&["pulsar", "pulsar+ssl"]);
        check(pulsar, &["pulsar://a:6650", "pulsar+ssl://a:1,b:2"], &["pulsar:a", "http://a", "pulsar://"]);
    }

    #[test]
    fn file_paths_are_absolute_and_plain() {
        check(TextFormat::FilePath, &["/a", "/tmp/a.log"], &["", "/", "a", "/a/", "/a/../b", "/./a", "/a\nb", "/a\0"]);
    }

    #[test]
    fn oauth_settings_are_complete() {
        let good = [
            r#"{"issuer_url":"https://i","client_id":"a","client_secret":"b"}"#,
            r#"{"issuer_url":"https://i","credentials_url":"file:///c","audience":"x","scope":"y"}"#,
        ];
        let bad = [
            "",
            "{}",
            "[]",
            r#"{"issuer_url":"https://i"}"#,
            r#"{"issuer_url":"https://i","client_id":"a"}"#,
            r#"{"issuer_url":"https://i","client_id":"a","client_secret":"b","credentials_url":"c"}"#,
            r#"{"issuer_url":"https://i","credentials_url":"c","more":"d"}"#,
        ];
        check(TextFormat::OAuth, &good, &bad);
    }

    #[test]
    fn http_headers_keep_the_request_whole() {
        assert_eq!(TextFormat::HeaderValue.name_problem("X-Site"), None);
        assert!(TextFormat::HeaderValue.name_problem("Content-Length").is_some());
        assert!(TextFormat::HeaderValue.name_problem("a b").is_some());
        check(TextFormat::HeaderValue, &["a b", ""], &["a\r\nX: y", "\0"]);
    }
}
