//! The cause of a failure, among an error's sources.

use std::error::Error;
use std::io;

use crate::sink::TargetFaultKind;

/// The first error of this type among an error and its sources; I/O errors hide theirs.
pub(crate) fn find<'e, E: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(found) = inner.and_then(|inner| find::<E>(inner)) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// What a connection that did not come about says of its target.
pub(crate) fn connect_kind(error: &(dyn Error + 'static)) -> TargetFaultKind {
    match find::<rustls::Error>(error) {
        Some(rustls::Error::InvalidCertificate(_)) => TargetFaultKind::Misconfigured("TARGET_CERTIFICATE"),
        Some(_) | None => TargetFaultKind::Down,
    }
}
