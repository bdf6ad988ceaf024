//! TLS: the server is trusted by a private authority and by its name, shows who it is, and may ask the same of the
//! connector. What cannot be trusted gets nothing.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::adapter::{Adapter, Destination, TlsOffer};
use crate::report::{Measured, Verdict};
use crate::shapes::Message;
use crate::stage::{Connected, Ending, Stage};

const RECORDS: usize = 20;
const UNTRUSTED: &str = "TARGET_CERTIFICATE";

pub async fn run<A: Adapter>(stage: &mut Stage<A>) -> Result<Verdict> {
    if !stage.facts.has_tls {
        return Ok(Verdict::NotApplicable("the kind has no TLS".to_owned()));
    }
    let good = TlsOffer { certificates: stage.certificates.clone(), client_required: false };
    let expired = TlsOffer { certificates: stage.certificates.expired(), client_required: false };
    let asks = TlsOffer { client_required: true, ..good.clone() };
    let files = stage.certificates.clone();
    let trust = json!({ "ca_cert_path": files.ca });
    let other = json!({ "ca_cert_path": files.other_ca });
    let named = json!({ "ca_cert_path": files.ca, "tls_server_name": "localhost" });
    let misnamed = json!({ "ca_cert_path": files.ca, "tls_server_name": "elsewhere.example" });
    let shown =
        json!({ "ca_cert_path": files.ca, "client_cert_path": files.client, "client_key_path": files.client_key });

    let mut measured = Measured::default();
    for (name, offer, fields, expected) in [
        ("tls_trusted", &good, &trust, Expected::Delivered),
        ("tls_named", &good, &named, Expected::Delivered),
        ("tls_other_ca", &good, &other, Expected::Blocked),
        ("tls_misnamed", &good, &misnamed, Expected::Blocked),
        ("tls_expired", &expired, &trust, Expected::Blocked),
        ("tls_client", &asks, &shown, Expected::Delivered),
        ("tls_no_client", &asks, &trust, Expected::NotDelivered),
    ] {
        one(stage, name, offer, fields, expected).await.with_context(|| name)?;
        measured.records += RECORDS as u64;
    }
    measured.note = "private CA, name, wrong CA, wrong name, expired, with and without a client certificate".to_owned();
    Ok(Verdict::Passed(measured))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    Delivered,
    /// By [`UNTRUSTED`].
    Blocked,
    /// However the server words it.
    NotDelivered,
}

async fn one<A: Adapter>(
    stage: &mut Stage<A>,
    name: &str,
    offer: &TlsOffer,
    fields: &Value,
    expected: Expected,
) -> Result<()> {
    let destination = Destination { name: name.to_owned(), guarded: false };
    let mut config = stage.adapter.tls(offer, &destination).await?;
    stage.adapter.make(&destination).await?;
    if let (Some(config), Some(fields)) = (config.as_object_mut(), fields.as_object()) {
        config.extend(fields.clone());
    }
    let strategy = Ending::Waits.strategy(name);
    let connected = stage.connect_to(&destination, &format!("c/{name}/#"), config, strategy).await?;
    let messages: Vec<Message> = (0..RECORDS).map(|number| Message::plain(name, &format!("n{number}"))).collect();
    let sent = stage.publish(&messages).await?;
    match expected {
        Expected::Delivered => {
            let settled = stage.settle(&connected, &sent).await?;
            settled.nothing_is_missing()?;
            settled.each_once()?;
            ensure!(settled.ledger.sent == RECORDS as u64, "{:?}", settled.ledger);
        }
        Expected::Blocked => {
            stage.health(name, UNTRUSTED, "").await?;
            nothing_arrived(stage, &connected).await?;
        }
        Expected::NotDelivered => {
            tests::wait::until(stage.counts.limit, "the connector is refused", async || {
                let detail = stage.cluster.api(stage.asked).detail(name).await?;
                let refused = detail["health"] == "retrying" || detail["health"] == "blocked";
                ensure!(refused, "{}", detail["health"]);
                Ok(())
            })
            .await?;
            nothing_arrived(stage, &connected).await?;
        }
    }
    Ok(())
}

async fn nothing_arrived<A: Adapter>(stage: &Stage<A>, connected: &Connected) -> Result<()> {
    let ledger = stage.ledger(&connected.name).await?;
    ensure!(ledger.pending == RECORDS as u64 && ledger.sent == 0, "{ledger:?}");
    let seen = stage.adapter.read(&connected.destination).await?;
    ensure!(seen.is_empty(), "{} arrived", seen.len());
    Ok(())
}
