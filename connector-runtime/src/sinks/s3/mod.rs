//! Writes objects to AWS S3 or a store that speaks its protocol.
//!
//! ```text
//!            keys ──key──┐
//!                        ▼
//! batch ──body──parts──► upload (opendal) ──► transport ──► store      confirmed: delivered
//!                             cleanup (list, remove) ──┘ │             everything else: the target's fault
//!                                                   login (signs)
//! ```
//!
//! What `body`, `fault`, `keys` and `place` do is pure. Everything goes to the store by `transport`: one HTTP client, which
//! knows denied networks, TLS and the abort.

#[cfg(feature = "s3")]
mod body;
#[cfg(feature = "s3")]
mod cleanup;
pub mod config;
#[cfg(feature = "s3")]
mod fault;
#[cfg(feature = "s3")]
mod keys;
#[cfg(feature = "s3")]
mod login;
#[cfg(feature = "s3")]
pub(crate) mod open_objects;
#[cfg(feature = "s3")]
mod place;
#[cfg(feature = "s3")]
pub(crate) mod sink;
#[cfg(feature = "s3")]
mod store;
#[cfg(feature = "s3")]
mod transport;
