//! What stands between a sink and its broker, and does something to what passes.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A broker that is alone tells clients to stay with the address by which they came.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    /// They are told to go to the broker's own address.
    Leads,
    /// They are told to ask there again.
    Redirects,
    /// Answers are held back once a producer is asked for, until [`Relay::let_go`].
    HoldsProducers,
}

pub(super) struct Relay {
    port: u16,
    change: Change,
    holds: watch::Sender<bool>,
}

impl Relay {
    /// Under an address of its own.
    pub(super) async fn start(to: u16, change: Change) -> Self {
        let listener = TcpListener::bind(("127.0.0.2", 0)).await.expect("binds");
        let port = listener.local_addr().expect("has an address").port();
        let holds = watch::Sender::new(false);
        let passing = holds.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(("127.0.0.1", to)).await else { continue };
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                tokio::spawn(up(near_in, far_out, change, passing.clone()));
                tokio::spawn(down(far_in, near_out, change, passing.subscribe()));
            }
        });
        Self { port, change, holds }
    }

    pub(super) fn config(&self, topic: &str) -> Value {
        json!({"server": format!("pulsar://127.0.0.2:{}", self.port), "topic": topic})
    }

    /// Until answers are held back.
    pub(super) async fn holds(&self) {
        assert!(self.change == Change::HoldsProducers, "nothing is held back here");
        self.holds.subscribe().wait_for(|holds| *holds).await.expect("the relay is here");
    }

    pub(super) fn let_go(&self) {
        self.holds.send_replace(false);
    }
}

async fn up(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, change: Change, holds: watch::Sender<bool>) {
    let mut bytes = vec![0; 64 << 10];
    let mut has_held = false;
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        // The name of a producer.
        if change == Change::HoldsProducers && !has_held && has(&bytes[..count], b"sluice-") {
            has_held = true;
            holds.send_replace(true);
        }
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

async fn down(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, change: Change, mut holds: watch::Receiver<bool>) {
    const CONNECT: [u8; 2] = [0x18, 1];
    const REDIRECT: [u8; 2] = [0x18, 0];
    const STAY: [u8; 2] = [0x40, 1];
    let mut bytes = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        let answer = &mut bytes[..count];
        // The owner of a topic; that clients stay stands at the end.
        if has(answer, b"pulsar://") && answer.ends_with(&STAY) {
            if matches!(change, Change::Leads | Change::Redirects) {
                answer[count - 1] = 0;
            }
            if change == Change::Redirects
                && let Some(at) = answer.windows(2).rposition(|part| part == CONNECT)
            {
                answer[at..at + 2].copy_from_slice(&REDIRECT);
            }
        }
        if holds.wait_for(|holds| !holds).await.is_err() || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|found| found == part)
}
