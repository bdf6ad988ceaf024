//! What the answers of a store mean. None of them is a record's fault: a store does not look into objects.

use reqwest::header::{ETAG, HeaderMap};
use reqwest::{Method, StatusCode};
use serde::Deserialize;

use crate::sink::{TargetFault, TargetFaultKind};
use crate::sinks::shared::http::{self, shortened};

/// The document that explains a refusal.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Refusal {
    code: String,
    message: String,
}

/// Also for a status of 200: a store that answers before it knows may say afterwards that it failed.
pub(super) fn of(status: StatusCode, headers: &HeaderMap, body: &str) -> TargetFault {
    let refusal = refusal(body);
    let words = match &*refusal.code {
        "" => shortened(body),
        code => shortened(&format!("{code}: {}", refusal.message)),
    };
    let by_status = http::status_fault(status, headers, &words);
    match meaning(&refusal.code) {
        // It may have said when.
        Some(TargetFaultKind::Throttled { .. }) if matches!(by_status.kind, TargetFaultKind::Throttled { .. }) => {
            by_status
        }
        Some(kind) => TargetFault::new(kind, by_status.message),
        None if status.is_success() => TargetFault::new(TargetFaultKind::Down, by_status.message),
        None if status == StatusCode::INSUFFICIENT_STORAGE => {
            TargetFault::new(TargetFaultKind::Full, by_status.message)
        }
        None => by_status,
    }
}

/// What comes after an abort says nothing about the store.
pub(super) fn aborted() -> TargetFault {
    TargetFault::new(TargetFaultKind::Interrupted, "the sink was aborted")
}

/// The upload that was to be removed is not there: somebody removed it, or it became an object.
pub(super) fn is_gone(body: &str) -> bool {
    refusal(body).code == "NoSuchUpload"
}

/// A refusal that came with a status of 200.
pub(super) fn is_refusal(body: &[u8]) -> bool {
    has_root(body, "Error")
}

/// What a success must have to confirm an object or a part of one, and this one has not: a proxy, a login page or another
/// server that answers everything has a status of 200 as well.
pub(super) fn lacks(method: &Method, query: &str, headers: &HeaderMap, body: &[u8]) -> Option<&'static str> {
    const COMPLETED: &str = "CompleteMultipartUploadResult";
    let completes = *method == Method::POST && query.split('&').any(|field| field.starts_with("uploadId="));
    match *method {
        Method::PUT if !headers.contains_key(ETAG) => Some("ETag"),
        _ if completes && !has_root(body, COMPLETED) => Some(COMPLETED),
        _ => None,
    }
}

/// Stores send spaces while they work, before the document begins.
fn has_root(body: &[u8], name: &str) -> bool {
    let text = String::from_utf8_lossy(body);
    let root = text.trim_start().strip_prefix("<?xml").and_then(|rest| rest.split_once("?>")).map(|(_, rest)| rest);
    let root = root.unwrap_or(&text).trim_start().strip_prefix('<');
    let rest = root.and_then(|rest| rest.strip_prefix(name));
    rest.is_some_and(|rest| rest.starts_with(|next: char| matches!(next, '>' | '/') || next.is_whitespace()))
}

fn refusal(body: &str) -> Refusal {
    quick_xml::de::from_str(body).unwrap_or_default()
}

fn meaning(code: &str) -> Option<TargetFaultKind> {
    Some(match code {
        "SlowDown"
        | "SlowDownRead"
        | "SlowDownWrite"
        | "TooManyRequests"
        | "RequestLimitExceeded"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "Throttling"
        | "ThrottlingException"
        | "KMS.ThrottlingException"
        | "LimitExceededException"
        | "BandwidthLimitExceeded" => TargetFaultKind::Throttled { retry_after: None },
        // XAdminUserNotFound: versitygw's word for a key that nobody has.
        "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "InvalidToken"
        | "InvalidTokenId"
        | "TokenRefreshRequired"
        | "NotSignedUp"
        | "MissingSecurityHeader"
        | "XAdminUserNotFound" => TargetFaultKind::Auth,
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" => TargetFaultKind::Permission,
        "NoSuchBucket" => TargetFaultKind::Missing,
        // Signatures hold for some minutes only.
        "RequestTimeTooSkewed" => TargetFaultKind::Misconfigured("CLOCK_SKEWED"),
        "QuotaExceeded" | "InsufficientStorage" | "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded" => {
            TargetFaultKind::Full
        }
        // Something was lost on the way, or somebody removed the parts: the object is written anew.
        "RequestTimeout"
        | "IncompleteBody"
        | "BadDigest"
        | "InvalidDigest"
        | "XAmzContentSHA256Mismatch"
        | "NoSuchUpload"
        | "InvalidPart"
        | "InvalidPartOrder"
        | "EntityTooSmall"
        | "OperationAborted"
        | "ConditionalRequestConflict"
        | "InternalError"
        | "ServiceUnavailable" => TargetFaultKind::Down,
        "MethodNotAllowed" | "NotImplemented" => TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use reqwest::header::{HeaderValue, RETRY_AFTER};

    use super::*;

    const REFUSES: TargetFaultKind = TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS");

    fn document(code: &str) -> String {
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>in its words</Message>\
             <Resource>/b/k</Resource><RequestId>4442587FB7D0A2F9</RequestId></Error>"
        )
    }

    fn check(status: u16, body: &str, expect: TargetFaultKind, words: &str) {
        let status = StatusCode::from_u16(status).expect("a status");
        let fault = of(status, &HeaderMap::new(), body);
        assert_eq!(fault.kind, expect, "{status} {body}");
        assert!(fault.message.contains(words), "{}", fault.message);
    }

    #[test]
    fn a_code_says_more_than_its_status() {
        let throttled = TargetFaultKind::Throttled { retry_after: None };
        check(503, &document("SlowDown"), throttled, "503 Service Unavailable: SlowDown: in its words");
        check(403, &document("InvalidAccessKeyId"), TargetFaultKind::Auth, "InvalidAccessKeyId");
        check(400, &document("ExpiredToken"), TargetFaultKind::Auth, "ExpiredToken");
        check(404, &document("XAdminUserNotFound"), TargetFaultKind::Auth, "XAdminUserNotFound");
        check(403, &document("AccessDenied"), TargetFaultKind::Permission, "AccessDenied: in its words");
        check(404, &document("NoSuchBucket"), TargetFaultKind::Missing, "NoSuchBucket");
        check(403, &document("RequestTimeTooSkewed"), TargetFaultKind::Misconfigured("CLOCK_SKEWED"), "Skewed");
        check(404, &document("NoSuchUpload"), TargetFaultKind::Down, "NoSuchUpload");
        check(400, &document("BadDigest"), TargetFaultKind::Down, "BadDigest");
        check(507, &document("XMinioStorageFull"), TargetFaultKind::Full, "XMinioStorageFull");
        check(400, &document("AuthorizationHeaderMalformed"), REFUSES, "AuthorizationHeaderMalformed");
        check(501, &document("NotImplemented"), REFUSES, "NotImplemented");
        check(405, &document("MethodNotAllowed"), REFUSES, "MethodNotAllowed");
    }

    #[test]
    fn every_word_for_too_much_is_known_whatever_its_status() {
        for (status, code) in [
            (503, "SlowDown"),
            (503, "SlowDownRead"),
            (503, "SlowDownWrite"),
            (429, "TooManyRequests"),
            (503, "RequestLimitExceeded"),
            (509, "BandwidthLimitExceeded"),
            (400, "RequestThrottled"),
            (400, "RequestThrottledException"),
            (400, "Throttling"),
            (400, "ThrottlingException"),
            (400, "KMS.ThrottlingException"),
            (400, "LimitExceededException"),
        ] {
            check(status, &document(code), TargetFaultKind::Throttled { retry_after: None }, code);
        }
    }

    #[test]
    fn an_upload_that_is_not_there_is_gone() {
        assert!(is_gone(&document("NoSuchUpload")));
        assert!(!is_gone(&document("NoSuchBucket")));
        assert!(!is_gone("") && !is_gone("<html>NoSuchUpload</html>"));
    }

    #[test]
    fn without_a_code_the_status_says_all() {
        check(503, "<html>busy</html>", TargetFaultKind::Down, "<html>busy</html>");
        check(403, "", TargetFaultKind::Permission, "HTTP 403");
        check(301, &document("PermanentRedirect"), TargetFaultKind::Misconfigured("TARGET_REDIRECTS"), "Permanent");
        check(413, "too large", REFUSES, "too large");
        check(507, "", TargetFaultKind::Full, "507");
        check(200, &document("InternalError"), TargetFaultKind::Down, "InternalError");
        check(200, &document("WhoKnows"), TargetFaultKind::Down, "WhoKnows");
    }

    #[test]
    fn a_store_says_when_it_can_be_asked_again() {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static("7"))]);
        let fault = of(StatusCode::SERVICE_UNAVAILABLE, &headers, &document("SlowDown"));
        assert_eq!(fault.retry_after(), Some(Duration::from_secs(7)));
    }

    #[test]
    fn a_refusal_is_known_by_its_document() {
        assert!(is_refusal(document("InternalError").as_bytes()));
        assert!(is_refusal(b"  <Error><Code>x</Code></Error>"));
        assert!(is_refusal(b"<Error xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Code>x</Code></Error>"));
        assert!(!is_refusal(b"<?xml version=\"1.0\"?><CompleteMultipartUploadResult/>"));
        assert!(!is_refusal(b"<Errors/>"));
        assert!(!is_refusal(b""));
    }

    #[test]
    fn a_success_confirms_only_with_what_stores_send() {
        let none = HeaderMap::new();
        let tagged = HeaderMap::from_iter([(ETAG, HeaderValue::from_static("\"d41d8cd9\""))]);
        let completed = b"  <?xml version=\"1.0\"?>\n<CompleteMultipartUploadResult\n xmlns=\"x\"><ETag>1</ETag>\
                          </CompleteMultipartUploadResult>";
        assert_eq!(lacks(&Method::PUT, "", &none, b""), Some("ETag"));
        assert_eq!(lacks(&Method::PUT, "partNumber=1&uploadId=7", &none, b""), Some("ETag"));
        assert_eq!(lacks(&Method::PUT, "partNumber=1&uploadId=7", &tagged, b""), None);
        let completes = "uploadId=7";
        for body in [&b""[..], b"<html>CompleteMultipartUploadResult</html>", b"<CompleteMultipartUploadResults/>"] {
            assert_eq!(lacks(&Method::POST, completes, &tagged, body), Some("CompleteMultipartUploadResult"));
        }
        assert_eq!(lacks(&Method::POST, completes, &none, completed), None);
        assert_eq!(lacks(&Method::POST, "uploads", &none, b""), None, "what begins an upload is read elsewhere");
        assert_eq!(lacks(&Method::DELETE, completes, &none, b""), None);
    }
}
