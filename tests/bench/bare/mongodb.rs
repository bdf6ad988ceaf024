//! The driver of MongoDB in a loop: documents made ahead, so many in each insert.

use std::time::Instant;

use ::tests::mongodb::{DATABASE, MongoDb};
use anyhow::Result;
use futures::stream::{self, TryStreamExt};
use mongodb::Client;
use mongodb::bson::{DateTime, RawDocumentBuf, doc, rawdoc};
use mongodb::options::{ClientOptions, ServerAddress, WriteConcern};

use super::records::Record;

pub struct Inserts {
    pub records: u64,
    pub each: usize,
    /// On their way at a time.
    pub window: usize,
}

/// Unordered, confirmed by the server; gives the seconds it took.
pub async fn insert(server: &MongoDb, collection: &str, inserts: Inserts) -> Result<f64> {
    let documents: Vec<RawDocumentBuf> = (0..inserts.records).map(|at| document(&Record::new(at))).collect();
    let host = ServerAddress::Tcp { host: "127.0.0.1".to_owned(), port: Some(server.port()) };
    let client = Client::with_options(ClientOptions::builder().hosts(vec![host]).direct_connection(true).build())?;
    let database = client.database(DATABASE);
    // It connects with the first command.
    database.run_command(doc! { "ping": 1 }).await?;
    let collection = &database.collection::<RawDocumentBuf>(collection);
    let began = Instant::now();
    stream::iter(documents.chunks(inserts.each).map(anyhow::Ok))
        .try_for_each_concurrent(inserts.window, |documents| async move {
            collection.insert_many(documents).ordered(false).write_concern(WriteConcern::nodes(1)).await?;
            Ok(())
        })
        .await?;
    Ok(began.elapsed().as_secs_f64())
}

/// The envelope, in the types that the sink chooses.
fn document(record: &Record) -> RawDocumentBuf {
    let sent_us = record.sent_us as i64;
    rawdoc! {
        "_id": record.id(),
        "topic": record.topic.as_str(),
        "client_id": record.client_id.as_str(),
        "qos": 1,
        "retain": false,
        "timestamp": DateTime::from_millis(sent_us / 1_000),
        "payload": rawdoc! { "sent_us": sent_us, "number": record.number as i32, "pad": record.pad.as_str() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_those_of_the_sink() {
        let document = document(&Record::new(7));
        let payload = document.get_document("payload").expect("a document");
        assert_eq!(document.get_str("_id").expect("a text"), "1-17-1000000007");
        assert_eq!(payload.get_i32("number").expect("fits"), 1_000_000_007);
    }
}
