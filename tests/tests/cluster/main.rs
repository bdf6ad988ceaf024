//! What must hold from outside: real processes, real clients, real targets. One cluster at a time.
//!
//! Limits are ten times the promised time; what it really took is printed (`measured: …`, with `--nocapture`).

mod auth;
mod bad_input;
mod bad_requests;
mod cli;
mod create;
mod dead_letters;
mod dedup;
mod delete;
mod demo;
mod disk_full;
mod full;
mod garbage;
mod give_up;
mod kills;
mod memory;
mod metrics;
mod mqtt;
mod mqtt_bridge;
mod pause;
mod postgres;
mod qos2;
mod restart;
mod secret;
mod seed;
mod stop;
mod strategies;
mod target_down;
mod targets;

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::mqtt_session::{Session, Signal, Version};
use tests::records::Arrived;
use tests::wait;

/// For whatever has no promise of its own.
const LIMIT: Duration = Duration::from_secs(60);

/// Waits until every one of `acknowledged` has arrived.
async fn all_arrived<'a, I, F>(what: &str, limit: Duration, acknowledged: I, mut read: F) -> Result<Arrived>
where
    I: IntoIterator<Item = &'a String> + Clone,
    F: FnMut() -> Result<Arrived>,
{
    wait::until(limit, &format!("everything acknowledged arrives at {what}"), || {
        let arrived = read();
        let acknowledged = acknowledged.clone();
        async move {
            let arrived = arrived?;
            let missing = arrived.missing(acknowledged);
            let some: Vec<_> = missing.iter().take(5).collect();
            ensure!(missing.is_empty(), "{} are missing, such as {some:?}", missing.len());
            Ok(arrived)
        }
    })
    .await
}

/// Publishes one message over an open session and waits for its acknowledgement.
async fn publish_one(session: &mut Session, topic: &str, message: &str) -> Result<()> {
    session.publish(topic, serde_json::json!({ "message": message }).to_string().into_bytes())?;
    loop {
        match session.next().await {
            Signal::Acknowledged(_) => return Ok(()),
            Signal::Connected | Signal::Sent(_) => {}
            Signal::Refused(_) => anyhow::bail!("{message} was refused"),
            Signal::Ended(error) => return Err(error.context(format!("{message} was not acknowledged"))),
        }
    }
}

/// An open version 5 connection.
async fn connect(name: &str, port: u16) -> Result<Session> {
    let mut session = Session::open(Version::V5, name, port, 100, None);
    session.connected().await?;
    Ok(session)
}
