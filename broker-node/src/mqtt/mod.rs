//! The MQTT listener: MQTT 3.1, 3.1.1 and 5 over TCP.
//!
//! ```text
//! listener ─► handshake (CONNECT, auth, limits) ─► connection ─► Ingest (queues; one submit per socket read)
//!                                                      │              │ ticket: on disk
//!                                                      ▼              ▼
//!                                            acks, in order      router ─► sessions of this node
//!                                                                   └────► cluster ─► sessions of other nodes
//! ```
//!
//! - A PUBLISH is acknowledged, and given to subscribers, when it is on disk for every connector that wants it.
//! - Sessions live as long as their connection; nothing is kept for a client that is away, and a retained message is
//!   an ordinary one whose flag its record keeps.
//! - Everything has a bound: see the constants of each module and [`Limits`].

mod auth;
mod cluster;
mod connection;
mod handshake;
mod hub;
mod ingest;
mod listener;
mod metrics;
mod publication;
mod router;
mod session;
mod subscriptions;
mod wire;

pub use auth::{Auth, PasswordFile, PasswordFileError};
pub use cluster::{ClusterLink, Peer};
pub use hub::{Limits, PublishError, WithoutLease};
pub use ingest::{Ingest, SubmitRefusal, Ticket, TicketError};
pub use listener::{MqttOptions, MqttServer};
pub use metrics::{Dropped, MqttMetrics, Refused};
