//! Who has to wait for whom: a record may be sent only after those before it in its lane are settled.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use api_types::{Message, Record};
use tokio::sync::oneshot;

/// Lanes of a queue with order class `lanes`.
pub(super) const LANES: u64 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Lane(u64);

/// The whole queue as one lane: order class `queue`.
pub(super) const WHOLE_QUEUE: Lane = Lane(0);

/// The end of each lane's chain of passes.
#[derive(Default)]
pub(super) struct Lanes {
    last: HashMap<Lane, oneshot::Receiver<()>>,
}

/// The turn of one strand in its lane; dropping it lets the next one go.
pub(super) struct Pass {
    before: Option<oneshot::Receiver<()>>,
    _next: oneshot::Sender<()>,
}

impl Lanes {
    /// Passes are given in the order of the queue.
    pub(super) fn pass(&mut self, lane: Lane) -> Pass {
        let (next, last) = oneshot::channel();
        Pass { before: self.last.insert(lane, last), _next: next }
    }
}

impl Pass {
    pub(super) async fn turn(&mut self) {
        if let Some(before) = self.before.take() {
            // Nothing is ever sent: the strand before is over when its end of the channel is dropped.
            let _ = before.await;
        }
    }
}

/// Deals the records to lanes by publisher and topic; places ascend within a lane.
pub(super) fn deal(records: &[Record]) -> BTreeMap<Lane, Vec<usize>> {
    let mut lanes: BTreeMap<Lane, Vec<usize>> = BTreeMap::new();
    for (place, record) in records.iter().enumerate() {
        lanes.entry(Lane(lane_number(&record.message))).or_default().push(place);
    }
    lanes
}

/// The same for all messages of a publisher on a topic, for sinks that keep something of their own for each lane.
pub(crate) fn lane_number(message: &Message) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&message.client_id, &message.topic).hash(&mut hasher);
    hasher.finish() % LANES
}

#[cfg(test)]
mod tests {
    use api_types::{Incarnation, RaftId, RecordId, Sequence};

    use super::*;

    #[tokio::test]
    async fn a_lane_goes_on_when_the_strand_before_is_over() {
        let mut lanes = Lanes::default();
        let first = lanes.pass(Lane(1));
        let mut second = lanes.pass(Lane(1));
        let mut other = lanes.pass(Lane(2));
        assert!(futures::poll!(std::pin::pin!(other.turn())).is_ready());
        {
            let mut turn = std::pin::pin!(second.turn());
            assert!(futures::poll!(&mut turn).is_pending());
            drop(first);
            assert!(futures::poll!(&mut turn).is_ready());
        }
    }

    #[test]
    fn records_of_one_publisher_and_topic_share_a_lane() {
        let records: Vec<Record> = (0..200u64)
            .map(|number| Record {
                id: RecordId { raft_id: RaftId(1), incarnation: Incarnation(1), sequence: Sequence(number) },
                message: Message { client_id: format!("c{}", number % 100), topic: "t".into(), ..Message::default() },
            })
            .collect();
        let dealt = deal(&records);
        assert!(dealt.len() > 32, "100 publishers fill only {} lanes", dealt.len());
        for places in dealt.values() {
            assert!(places.is_sorted());
            for place in places {
                assert!(places.contains(&((place + 100) % 200)), "{place} was torn from its publisher");
            }
        }
    }
}
