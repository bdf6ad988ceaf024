//! The requests: documents to be inserted, and which of them are there.

use std::collections::HashMap;

use futures::TryStreamExt;
use mongodb::bson::raw::{RawArrayBuf, cstr};
use mongodb::bson::{Document, RawDocumentBuf, doc, rawdoc};
use mongodb::error::{Error, ErrorKind};
use mongodb::options::WriteConcern;
use mongodb::{Client, Collection, Database};

use super::config::{self, Config};
use super::document::Format;
use super::fault::{Refusal, words};

/// Ids that are looked for at once.
const IDS_MAX: usize = 1_000;
/// Of documents in one command, of which a server takes 16 MiB and little more. The driver itself does better, where it
/// can be used: it sends them beside the command.
const COMMAND_BYTES_MAX: usize = 14 << 20;

/// A record on its way.
pub(super) struct Sent {
    pub(super) place: usize,
    pub(super) id: String,
    pub(super) document: RawDocumentBuf,
}

/// What a server says of a request that it has worked on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// By their place in the request. All others were taken, in order up to the first of these.
    pub(super) refused: HashMap<usize, Refusal>,
    /// What was taken does not stand as firmly as was asked for.
    pub(super) unconfirmed: Option<String>,
}

pub(super) struct Target {
    database: Database,
    collection: Collection<RawDocumentBuf>,
    format: Format,
    ordered: bool,
    /// `None`: nobody's confirmation is wanted.
    concern: Option<WriteConcern>,
}

impl Target {
    pub(super) fn new(client: &Client, config: &Config, format: Format) -> Self {
        let database = client.database(&config.database);
        let collection = database.collection(&config.collection);
        let concern = match config.w {
            config::WriteConcern::None => None,
            config::WriteConcern::Primary => Some(WriteConcern::nodes(1)),
            config::WriteConcern::Majority => Some(WriteConcern::majority()),
        };
        Self { database, collection, format, ordered: config.ordered_insert, concern }
    }

    /// Asks a server that takes writes for nothing, as whoever has logged in.
    pub(super) async fn ping(&self) -> Result<(), Error> {
        self.database.run_command(doc! { "ping": 1 }).await.map(drop)
    }

    pub(super) async fn insert(&self, sent: &[Sent]) -> Result<Answer, Error> {
        let Some(concern) = &self.concern else { return self.insert_unconfirmed(sent).await };
        let documents = sent.iter().map(|sent| &sent.document);
        let insert = self.collection.insert_many(documents).ordered(self.ordered).write_concern(concern.clone());
        match insert.await {
            Ok(_) => Ok(Answer::default()),
            Err(error) => answer_of(error),
        }
    }

    /// The driver has no insert without confirmation. A command of our own has: what comes back says that the server
    /// has read it.
    async fn insert_unconfirmed(&self, sent: &[Sent]) -> Result<Answer, Error> {
        let mut answer = Answer::default();
        let mut begin = 0;
        while begin < sent.len() {
            let (mut documents, mut end, mut bytes) = (RawArrayBuf::new(), begin, 0);
            while let Some(next) = sent.get(end)
                && (end == begin || bytes + next.document.as_bytes().len() <= COMMAND_BYTES_MAX)
            {
                bytes += next.document.as_bytes().len();
                documents.push(next.document.as_ref());
                end += 1;
            }
            let mut command = rawdoc! { "insert": self.collection.name(), "ordered": self.ordered };
            command.append(cstr!("writeConcern"), rawdoc! { "w": 0 });
            command.append(cstr!("documents"), documents);
            let said = self.database.run_raw_command(command).await?;
            answer.refused.extend(refused_in(&said).into_iter().map(|(place, refusal)| (begin + place, refusal)));
            if self.ordered && !answer.refused.is_empty() {
                break;
            }
            begin = end;
        }
        Ok(answer)
    }

    /// Which of these, by their place, are there as the records' own: from before.
    pub(super) async fn there(&self, sent: &[&Sent]) -> Result<Vec<bool>, Error> {
        let mut found: HashMap<String, Document> = HashMap::new();
        let collection = self.collection.clone_with_type::<Document>();
        for some in sent.chunks(IDS_MAX) {
            let ids: Vec<&str> = some.iter().map(|sent| sent.id.as_str()).collect();
            let find = collection.find(doc! { "_id": { "$in": ids } });
            let find = match self.format.identity() {
                Some(fields) => find.projection(fields),
                None => find,
            };
            let mut documents = find.await?;
            while let Some(document) = documents.try_next().await? {
                if let Ok(id) = document.get_str("_id") {
                    found.insert(id.to_owned(), document);
                }
            }
        }
        let is_there =
            |sent: &&Sent| found.get(&sent.id).is_some_and(|found| self.format.is_ours(&sent.document, found));
        Ok(sent.iter().map(is_there).collect())
    }
}

/// Of a request that the server has worked on; else it is the request's own error.
fn answer_of(error: Error) -> Result<Answer, Error> {
    let ErrorKind::InsertMany(answer) = error.kind.as_ref() else { return Err(error) };
    let refused = answer
        .write_errors
        .iter()
        .flatten()
        .map(|refused| (refused.index, Refusal { code: refused.code, message: refused.message.clone() }));
    let unconfirmed = answer
        .write_concern_error
        .as_ref()
        .map(|error| words(&format!("write concern {} ({}): {}", error.code_name, error.code, error.message)));
    Ok(Answer { refused: refused.collect(), unconfirmed })
}

fn refused_in(answer: &Document) -> Vec<(usize, Refusal)> {
    let refusals = answer.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default();
    let refusal = |refusal: &mongodb::bson::Bson| {
        let refusal = refusal.as_document()?;
        let place = usize::try_from(refusal.get_i32("index").ok()?).ok()?;
        let message = refusal.get_str("errmsg").unwrap_or_default().to_owned();
        Some((place, Refusal { code: refusal.get_i32("code").unwrap_or_default(), message }))
    };
    refusals.iter().filter_map(refusal).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_read_from_an_answer() {
        let answer = doc! { "ok": 1.0, "n": 1, "writeErrors": [
            { "index": 3, "code": 121, "errmsg": "Document failed validation" },
            { "index": 5, "code": 2 },
        ] };
        let expect = [(3, 121, "Document failed validation"), (5, 2, "")];
        let expect = expect.map(|(place, code, message)| (place, Refusal { code, message: message.to_owned() }));
        assert_eq!(refused_in(&answer), expect);
        assert_eq!(refused_in(&doc! { "ok": 1.0 }), []);
    }
}
