//! What the other nodes want, as they announced it.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use api_types::NodeName;
use api_types::topic::{FilterMap, TopicFilter};
use tokio::time::Instant;

use super::Origin;
use super::announce::{Announced, Announcement, Content};
use crate::mqtt::subscriptions::{self, Version};

/// A node that announced nothing for so long is taken to have no subscribers. Three times the announcer's silence.
const SILENCE_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub struct RemoteFilters {
    table: RwLock<Table>,
    /// The last delivery taken from each node.
    deliveries: Mutex<HashMap<NodeName, (u64, u64)>>,
}

#[derive(Debug, Default)]
struct Table {
    matching: FilterMap<NodeName>,
    nodes: HashMap<NodeName, Known>,
}

#[derive(Debug)]
struct Known {
    boot: u64,
    version: Version,
    filters: HashSet<TopicFilter>,
    heard: Instant,
}

impl RemoteFilters {
    pub fn learn(&self, announcement: Announcement) -> Announced {
        let Announcement { origin, to, content } = announcement;
        let now = Instant::now();
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        match content {
            Content::All { filters } => {
                table.forget(&origin.node);
                let filters: HashSet<TopicFilter> = filters.into_iter().filter(is_sound).collect();
                for filter in &filters {
                    table.matching.insert(filter, origin.node.clone());
                }
                let known = Known { boot: origin.boot, version: to, filters, heard: now };
                table.nodes.insert(origin.node, known);
            }
            Content::Changes { from, added, removed } => {
                let table = &mut *table;
                let Some(known) = table.nodes.get_mut(&origin.node) else { return Announced::TellAll };
                if known.boot != origin.boot || known.version != from {
                    return Announced::TellAll;
                }
                for filter in removed {
                    if known.filters.remove(&filter) {
                        table.matching.remove(&filter, |node| *node == origin.node);
                    }
                }
                for filter in added.into_iter().filter(is_sound) {
                    if known.filters.insert(filter.clone()) {
                        table.matching.insert(&filter, origin.node.clone());
                    }
                }
                known.version = to;
                known.heard = now;
            }
        }
        Announced::Known
    }

    pub fn forget(&self, node: &NodeName) {
        self.table.write().unwrap_or_else(PoisonError::into_inner).forget(node);
        self.deliveries.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
    }

    pub fn matches(&self, topic: &str) -> bool {
        let mut found = false;
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.matching.matches(topic, |_| found = true);
        found
    }

    /// The nodes that want the topic, each once.
    pub fn nodes(&self, topic: &str) -> Vec<NodeName> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let mut nodes: Vec<&NodeName> = Vec::new();
        table.matching.matches(topic, |node| {
            let alive = table.nodes.get(node).is_some_and(|known| now - known.heard < SILENCE_MAX);
            if alive && !nodes.contains(&node) {
                nodes.push(node);
            }
        });
        nodes.into_iter().cloned().collect()
    }

    /// Whether this delivery was not taken before; a repeat comes when the answer to the first was lost.
    pub fn is_new(&self, origin: &Origin, number: u64) -> bool {
        let mut deliveries = self.deliveries.lock().unwrap_or_else(PoisonError::into_inner);
        match deliveries.get_mut(&origin.node) {
            Some((boot, last)) if *boot == origin.boot => {
                let new = number > *last;
                *last = number.max(*last);
                new
            }
            Some(_) | None => {
                deliveries.insert(origin.node.clone(), (origin.boot, number));
                true
            }
        }
    }
}

impl Table {
    fn forget(&mut self, node: &NodeName) {
        let Some(known) = self.nodes.remove(node) else { return };
        for filter in &known.filters {
            self.matching.remove(filter, |other| other == node);
        }
    }
}

/// The map recurses once per level; a node of another version may have other limits.
fn is_sound(filter: &TopicFilter) -> bool {
    subscriptions::levels(filter.as_str()) <= subscriptions::LEVELS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::parse(text).expect("valid")
    }

    fn all(boot: u64, to: Version, filters: &[&str]) -> Announcement {
        let filters = filters.iter().map(|text| filter(text)).collect();
        Announcement { origin: Origin { node: "b".into(), boot }, to, content: Content::All { filters } }
    }

    fn changes(boot: u64, from: Version, to: Version, added: &[&str], removed: &[&str]) -> Announcement {
        let filters = |texts: &[&str]| texts.iter().map(|text| filter(text)).collect();
        let content = Content::Changes { from, added: filters(added), removed: filters(removed) };
        Announcement { origin: Origin { node: "b".into(), boot }, to, content }
    }

    #[tokio::test(start_paused = true)]
    async fn changes_need_the_set_they_change() {
        let remote = RemoteFilters::default();
        assert_eq!(remote.learn(changes(1, 0, 1, &["a"], &[])), Announced::TellAll);
        assert_eq!(remote.learn(all(1, 5, &["a", "a/+"])), Announced::Known);
        assert_eq!(remote.nodes("a"), [NodeName::from("b")]);
        assert_eq!(remote.learn(changes(1, 5, 6, &["c"], &["a"])), Announced::Known);
        assert!(!remote.matches("a") && remote.matches("c") && remote.matches("a/x"));
        assert_eq!(remote.learn(changes(1, 5, 7, &["d"], &[])), Announced::TellAll, "a gap");
        assert_eq!(remote.learn(changes(2, 6, 7, &["d"], &[])), Announced::TellAll, "another life");
        assert_eq!(remote.learn(all(2, 1, &["e"])), Announced::Known);
        assert!(!remote.matches("c") && remote.matches("e"));
        remote.forget(&"b".into());
        assert!(!remote.matches("e"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_node_gets_nothing_until_it_speaks() {
        let remote = RemoteFilters::default();
        remote.learn(all(1, 1, &["a"]));
        tokio::time::advance(SILENCE_MAX).await;
        assert!(remote.nodes("a").is_empty());
        remote.learn(changes(1, 1, 1, &[], &[]));
        assert_eq!(remote.nodes("a").len(), 1);
    }

    #[test]
    fn a_delivery_is_taken_once() {
        let remote = RemoteFilters::default();
        let origin = |boot| Origin { node: "b".into(), boot };
        for (boot, number, expect) in [(1, 1, true), (1, 1, false), (1, 2, true), (2, 1, true), (2, 1, false)] {
            assert_eq!(remote.is_new(&origin(boot), number), expect, "{boot} {number}");
        }
    }
}
