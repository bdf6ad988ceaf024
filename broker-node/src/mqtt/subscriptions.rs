//! Who on this node wants which topics, and the set of filters that the other nodes are told.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::{Arc, PoisonError, RwLock};

use api_types::topic::{FilterMap, InvalidTopic, TopicFilter};
use tokio::sync::watch;

use super::publication::Publication;
use super::session::{Letter, Session, SessionId};
use super::wire::{Reason, SubscribeOptions};

/// Deepest filter and topic. The map recurses once per level, so the stack bounds it.
pub const LEVELS_MAX: usize = 200;
/// Highest QoS given to a subscriber.
pub const GRANTED_QOS_MAX: u8 = 1;
/// Filters of one session.
pub const SESSION_FILTERS_MAX: usize = 10_000;
/// Bytes of the filters of one session.
pub const SESSION_FILTER_BYTES_MAX: usize = 1 << 20;
/// Bytes of all distinct filters of the node: the set travels to every other node in one message.
pub const NODE_FILTER_BYTES_MAX: usize = 16 << 20;
/// Changes remembered for the other nodes; one that is further behind gets the whole set.
const CHANGES_MAX: usize = 4096;

/// Number of changes of this node's set of filters so far.
pub type Version = u64;

#[derive(Debug)]
pub struct Subscriptions {
    table: RwLock<Table>,
    version: watch::Sender<Version>,
}

#[derive(Debug, Default)]
struct Table {
    subscribers: FilterMap<Subscriber>,
    /// How many subscribers each filter has.
    filters: BTreeMap<TopicFilter, usize>,
    filter_bytes: usize,
    version: Version,
    /// The last changes of `filters`' keys, the newest with the number `version`.
    changes: VecDeque<Change>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Added(TopicFilter),
    Removed(TopicFilter),
}

#[derive(Debug)]
struct Subscriber {
    session: Arc<Session>,
    options: SubscribeOptions,
    identifier: Option<NonZeroU32>,
}

/// What another node must be told so that it knows this node's filters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    Changes { to: Version, changes: Vec<Change> },
    All { to: Version, filters: Vec<TopicFilter> },
}

impl Default for Subscriptions {
    fn default() -> Self {
        Self { table: RwLock::default(), version: watch::Sender::new(0) }
    }
}

impl Subscriptions {
    /// Adds or replaces a subscription; the granted QoS, or why not.
    pub fn subscribe(
        &self,
        session: &Arc<Session>,
        filter: &TopicFilter,
        options: SubscribeOptions,
        identifier: Option<NonZeroU32>,
    ) -> Result<u8, Reason> {
        let options = SubscribeOptions { qos: options.qos.min(GRANTED_QOS_MAX), ..options };
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let known = table.filters.contains_key(filter);
        if !known && table.filter_bytes + filter.as_str().len() > NODE_FILTER_BYTES_MAX {
            return Err(Reason::QuotaExceeded);
        }
        let subscribers = table.subscribers.values_mut(filter);
        match subscribers.iter_mut().find(|subscriber| subscriber.session.id == session.id) {
            Some(subscriber) => {
                subscriber.options = options;
                subscriber.identifier = identifier;
            }
            None => {
                subscribers.push(Subscriber { session: session.clone(), options, identifier });
                table.count(filter);
            }
        }
        self.tell(&table);
        Ok(options.qos)
    }

    /// Whether there was such a subscription.
    pub fn unsubscribe(&self, session: SessionId, filter: &TopicFilter) -> bool {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let existed = table.discard(session, filter);
        self.tell(&table);
        existed
    }

    /// The end of a session.
    pub fn forget<'a>(&self, session: SessionId, filters: impl IntoIterator<Item = &'a TopicFilter>) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        for filter in filters {
            table.discard(session, filter);
        }
        self.tell(&table);
    }

    pub fn has_subscriber(&self, topic: &str) -> bool {
        let mut found = false;
        self.read().subscribers.matches(topic, |_| found = true);
        found
    }

    /// Calls `post` once per session that wants the publication, whatever number of its filters match.
    pub fn route(&self, publication: &Arc<Publication>, mut post: impl FnMut(&Session, Letter)) {
        let table = self.read();
        let mut matched: Vec<&Subscriber> = Vec::new();
        table.subscribers.matches(&publication.topic, |subscriber| {
            let own = subscriber.options.no_local && publication.publisher == Some(subscriber.session.id);
            if !own {
                matched.push(subscriber);
            }
        });
        matched.sort_by_key(|subscriber| subscriber.session.id);
        for same_session in matched.chunk_by(|left, right| left.session.id == right.session.id) {
            let qos = same_session.iter().map(|subscriber| subscriber.options.qos).max().unwrap_or_default();
            let letter = Letter {
                publication: publication.clone(),
                qos: qos.min(publication.qos),
                retain: publication.retain
                    && same_session.iter().any(|subscriber| subscriber.options.retain_as_published),
                subscription_ids: same_session.iter().filter_map(|subscriber| subscriber.identifier).collect(),
            };
            post(&same_session[0].session, letter);
        }
    }

    /// Follows the version of the set of filters.
    pub fn versions(&self) -> watch::Receiver<Version> {
        self.version.subscribe()
    }

    pub fn version(&self) -> Version {
        *self.version.borrow()
    }

    /// What a node must be told that knows the set as of `known`; `None` = it knows nothing.
    pub fn update_since(&self, known: Option<Version>) -> Update {
        let table = self.read();
        let behind = known.and_then(|known| table.version.checked_sub(known)).and_then(|n| usize::try_from(n).ok());
        match behind.and_then(|behind| table.changes.len().checked_sub(behind)) {
            Some(skip) => {
                Update::Changes { to: table.version, changes: table.changes.iter().skip(skip).cloned().collect() }
            }
            None => Update::All { to: table.version, filters: table.filters.keys().cloned().collect() },
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, table: &Table) {
        self.version.send_if_modified(|version| std::mem::replace(version, table.version) != table.version);
    }
}

impl Table {
    fn count(&mut self, filter: &TopicFilter) {
        let count = self.filters.entry(filter.clone()).or_default();
        *count += 1;
        if *count == 1 {
            self.filter_bytes += filter.as_str().len();
            self.changed(Change::Added(filter.clone()));
        }
    }

    fn discard(&mut self, session: SessionId, filter: &TopicFilter) -> bool {
        let existed = std::cell::Cell::new(false);
        self.subscribers.remove(filter, |subscriber| {
            let own = subscriber.session.id == session;
            existed.set(existed.get() || own);
            own
        });
        if !existed.get() {
            return false;
        }
        if let Some(count) = self.filters.get_mut(filter) {
            *count -= 1;
            if *count == 0 {
                self.filters.remove(filter);
                self.filter_bytes -= filter.as_str().len();
                self.changed(Change::Removed(filter.clone()));
            }
        }
        true
    }

    fn changed(&mut self, change: Change) {
        self.version += 1;
        if self.changes.len() == CHANGES_MAX {
            self.changes.pop_front();
        }
        self.changes.push_back(change);
    }
}

/// A filter as a client sent it.
pub fn parse_filter(text: &str) -> Result<TopicFilter, Reason> {
    if levels(text) > LEVELS_MAX {
        return Err(Reason::TopicFilterInvalid);
    }
    TopicFilter::parse(text).map_err(|error| match error {
        InvalidTopic::Shared => Reason::SharedSubscriptionsNotSupported,
        InvalidTopic::Empty
        | InvalidTopic::TooLong
        | InvalidTopic::Nul
        | InvalidTopic::Wildcard
        | InvalidTopic::PlusNotAlone
        | InvalidTopic::HashNotLast => Reason::TopicFilterInvalid,
    })
}

pub fn levels(topic: &str) -> usize {
    topic.bytes().filter(|byte| *byte == b'/').count() + 1
}

#[cfg(test)]
mod tests {
    use api_types::Message;

    use super::*;
    use crate::mqtt::session::Registry;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::parse(text).expect("valid")
    }

    fn qos(qos: u8) -> SubscribeOptions {
        SubscribeOptions { qos, ..SubscribeOptions::default() }
    }

    fn routed(subscriptions: &Subscriptions, topic: &str, publisher: Option<SessionId>) -> Vec<(SessionId, Letter)> {
        let message = Message { topic: topic.into(), qos: 2, retain: true, ..Message::default() };
        let publication = Arc::new(Publication { publisher, ..Publication::internal(&message) });
        let mut letters = Vec::new();
        subscriptions.route(&publication, |session, letter| letters.push((session.id, letter)));
        letters
    }

    #[test]
    fn overlapping_filters_of_one_session_give_one_message_with_all_identifiers() {
        let registry = Registry::default();
        let subscriptions = Subscriptions::default();
        let session = registry.open("c");
        let id = NonZeroU32::new;
        assert_eq!(subscriptions.subscribe(&session, &filter("a/#"), qos(0), id(7)), Ok(0));
        assert_eq!(subscriptions.subscribe(&session, &filter("a/+"), qos(2), id(9)), Ok(1));
        let other = registry.open("d");
        subscriptions.subscribe(&other, &filter("a/b"), qos(0), None).expect("granted");
        let letters = routed(&subscriptions, "a/b", None);
        assert_eq!(letters.len(), 2);
        assert_eq!(letters[0].1.qos, 1);
        assert!(!letters[0].1.retain, "retain is not passed on unless asked for");
        let mut ids = letters[0].1.subscription_ids.clone();
        ids.sort_unstable();
        assert_eq!(ids, [7, 9].map(|id| NonZeroU32::new(id).expect("not 0")));
        assert_eq!(letters[1].1.qos, 0);
    }

    #[test]
    fn a_second_subscription_replaces_the_first() {
        let registry = Registry::default();
        let subscriptions = Subscriptions::default();
        let session = registry.open("c");
        subscriptions.subscribe(&session, &filter("a"), qos(0), None).expect("granted");
        let options = SubscribeOptions { qos: 1, no_local: true, retain_as_published: true };
        subscriptions.subscribe(&session, &filter("a"), options, None).expect("granted");
        let letters = routed(&subscriptions, "a", None);
        assert_eq!(letters.len(), 1);
        assert!(letters[0].1.qos == 1 && letters[0].1.retain);
        assert!(routed(&subscriptions, "a", Some(session.id)).is_empty(), "no local");
        assert!(subscriptions.unsubscribe(session.id, &filter("a")));
        assert!(!subscriptions.unsubscribe(session.id, &filter("a")));
        assert!(!subscriptions.has_subscriber("a"));
    }

    #[test]
    fn the_other_nodes_hear_of_the_first_and_the_last_subscriber_only() {
        let registry = Registry::default();
        let subscriptions = Subscriptions::default();
        let (one, two) = (registry.open("1"), registry.open("2"));
        subscriptions.subscribe(&one, &filter("a"), qos(0), None).expect("granted");
        subscriptions.subscribe(&two, &filter("a"), qos(0), None).expect("granted");
        subscriptions.subscribe(&two, &filter("b"), qos(0), None).expect("granted");
        assert_eq!(subscriptions.version(), 2);
        let added = |text| Change::Added(filter(text));
        let changes = |to, changes| Update::Changes { to, changes };
        assert_eq!(subscriptions.update_since(Some(0)), changes(2, vec![added("a"), added("b")]));
        subscriptions.forget(two.id, [&filter("a"), &filter("b")]);
        assert_eq!(subscriptions.update_since(Some(2)), changes(3, vec![Change::Removed(filter("b"))]));
        assert_eq!(subscriptions.update_since(Some(3)), changes(3, vec![]));
        let all = Update::All { to: 3, filters: vec![filter("a")] };
        assert_eq!(subscriptions.update_since(None), all);
        assert_eq!(subscriptions.update_since(Some(4)), all, "a version from another life of this node");
    }

    #[test]
    fn one_who_is_far_behind_gets_the_whole_set() {
        let registry = Registry::default();
        let subscriptions = Subscriptions::default();
        let session = registry.open("c");
        for _ in 0..CHANGES_MAX {
            subscriptions.subscribe(&session, &filter("a"), qos(0), None).expect("granted");
            subscriptions.unsubscribe(session.id, &filter("a"));
        }
        assert!(matches!(subscriptions.update_since(Some(0)), Update::All { .. }));
        let since = subscriptions.version() - CHANGES_MAX as u64;
        assert!(matches!(subscriptions.update_since(Some(since)), Update::Changes { .. }));
    }

    #[test]
    fn filters_have_a_depth() {
        assert!(parse_filter(&"+/".repeat(LEVELS_MAX - 1)).is_ok());
        assert_eq!(parse_filter(&"+/".repeat(LEVELS_MAX)), Err(Reason::TopicFilterInvalid));
        assert_eq!(parse_filter("$share/g/a"), Err(Reason::SharedSubscriptionsNotSupported));
    }
}
