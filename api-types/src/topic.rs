//! MQTT topic names and filters, and a map from filters to values.

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest topic or filter on the wire: a 16-bit length.
const LENGTH_MAX: usize = 65_535;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTopic {
    #[error("must not be empty")]
    Empty,
    #[error("must not be longer than 65535 bytes")]
    TooLong,
    #[error("must not contain the character U+0000")]
    Nul,
    #[error("must not contain a wildcard (+ or #)")]
    Wildcard,
    #[error("+ must occupy a whole level")]
    PlusNotAlone,
    #[error("# must occupy a whole level and be the last one")]
    HashNotLast,
    #[error("$share/… subscriptions are not possible here: a connector already has one consumer")]
    Shared,
}

/// A topic filter: levels between `/`, `+` for one level, `#` at the end for all that follow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TopicFilter(String);

impl TopicFilter {
    pub fn parse(text: &str) -> Result<Self, InvalidTopic> {
        check_text(text)?;
        if text == "$share" || text.starts_with("$share/") {
            return Err(InvalidTopic::Shared);
        }
        let mut levels = text.split('/').peekable();
        while let Some(level) = levels.next() {
            let last = levels.peek().is_none();
            if level.contains('#') && (level != "#" || !last) {
                return Err(InvalidTopic::HashNotLast);
            }
            if level.contains('+') && level != "+" {
                return Err(InvalidTopic::PlusNotAlone);
            }
        }
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Wildcards in the first level do not match topics that begin with `$`.
    pub fn matches(&self, topic: &str) -> bool {
        let mut filter = self.0.split('/');
        let mut levels = topic.split('/');
        let mut first = true;
        loop {
            match (filter.next(), levels.next()) {
                (Some("#"), level) => return !(first && level.is_some_and(|level| level.starts_with('$'))),
                (Some("+"), Some(level)) if !(first && level.starts_with('$')) => {}
                (Some(wanted), Some(level)) if wanted == level && wanted != "+" => {}
                (None, None) => return true,
                (Some(_) | None, Some(_) | None) => return false,
            }
            first = false;
        }
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Refuses what no PUBLISH may carry. Topics that begin with `$` are the caller's to judge.
pub fn check_topic_name(text: &str) -> Result<(), InvalidTopic> {
    check_text(text)?;
    if text.contains(['+', '#']) { Err(InvalidTopic::Wildcard) } else { Ok(()) }
}

fn check_text(text: &str) -> Result<(), InvalidTopic> {
    if text.is_empty() {
        return Err(InvalidTopic::Empty);
    }
    if text.len() > LENGTH_MAX {
        return Err(InvalidTopic::TooLong);
    }
    if text.contains('\0') { Err(InvalidTopic::Nul) } else { Ok(()) }
}

/// A trie from filters to values. A lookup costs the levels of the topic, not the number of filters.
#[derive(Clone, Debug)]
pub struct FilterMap<T> {
    root: TrieNode<T>,
}

#[derive(Clone, Debug)]
struct TrieNode<T> {
    children: HashMap<String, TrieNode<T>>,
    plus: Option<Box<TrieNode<T>>>,
    /// Values of filters that end with `#` below this level.
    hash: Vec<T>,
    here: Vec<T>,
}

impl<T> Default for TrieNode<T> {
    fn default() -> Self {
        Self { children: HashMap::new(), plus: None, hash: Vec::new(), here: Vec::new() }
    }
}

impl<T> TrieNode<T> {
    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.plus.is_none() && self.hash.is_empty() && self.here.is_empty()
    }
}

impl<T> Default for FilterMap<T> {
    fn default() -> Self {
        Self { root: TrieNode::default() }
    }
}

impl<T> FilterMap<T> {
    pub fn is_empty(&self) -> bool {
        self.root.is_empty()
    }

    pub fn insert(&mut self, filter: &TopicFilter, value: T) {
        self.values_mut(filter).push(value);
    }

    /// The values stored under exactly this filter; makes the path when it is not there.
    pub fn values_mut(&mut self, filter: &TopicFilter) -> &mut Vec<T> {
        let mut node = &mut self.root;
        for level in filter.as_str().split('/') {
            match level {
                "#" => return &mut node.hash,
                "+" => node = node.plus.get_or_insert_with(Box::default),
                _ => node = node.children.entry(level.to_owned()).or_default(),
            }
        }
        &mut node.here
    }

    /// Removes the values of this filter that `gone` names, and the path when nothing is left on it.
    pub fn remove(&mut self, filter: &TopicFilter, gone: impl Fn(&T) -> bool) {
        let levels: Vec<&str> = filter.as_str().split('/').collect();
        remove_below(&mut self.root, &levels, &gone);
    }

    /// Calls `found` with every value whose filter matches the topic.
    pub fn matches<'a>(&'a self, topic: &str, mut found: impl FnMut(&'a T)) {
        // The usual answer for most nodes and most topics: nobody asked for anything.
        if !self.is_empty() {
            visit(&self.root, Some(topic), topic.starts_with('$'), &mut found);
        }
    }
}

fn remove_below<T>(node: &mut TrieNode<T>, levels: &[&str], gone: &impl Fn(&T) -> bool) {
    let Some((level, rest)) = levels.split_first() else {
        node.here.retain(|value| !gone(value));
        return;
    };
    match *level {
        "#" => node.hash.retain(|value| !gone(value)),
        "+" => {
            if let Some(child) = &mut node.plus {
                remove_below(child, rest, gone);
                if child.is_empty() {
                    node.plus = None;
                }
            }
        }
        _ => {
            if let Some(child) = node.children.get_mut(*level) {
                remove_below(child, rest, gone);
                if child.is_empty() {
                    node.children.remove(*level);
                }
            }
        }
    }
}

/// `levels`: what is left of the topic; none when all of it has led here.
fn visit<'a, T>(node: &'a TrieNode<T>, levels: Option<&str>, reserved: bool, found: &mut impl FnMut(&'a T)) {
    // `a/#` matches `a` itself too, so the values under `#` count at every level reached.
    if !reserved {
        node.hash.iter().for_each(&mut *found);
    }
    let Some(levels) = levels else {
        node.here.iter().for_each(&mut *found);
        return;
    };
    let (level, rest) = levels.split_once('/').map_or((levels, None), |(level, rest)| (level, Some(rest)));
    if let Some(child) = node.children.get(level) {
        visit(child, rest, false, found);
    }
    if !reserved && let Some(child) = &node.plus {
        visit(child, rest, false, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_checked() {
        for good in ["a", "/", "a/+/b", "+", "#", "a/#", "$SYS/#", "+/+", "a//b", " "] {
            assert!(TopicFilter::parse(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("", InvalidTopic::Empty),
            ("a+", InvalidTopic::PlusNotAlone),
            ("a/+b", InvalidTopic::PlusNotAlone),
            ("a/#/b", InvalidTopic::HashNotLast),
            ("a#", InvalidTopic::HashNotLast),
            ("a\0", InvalidTopic::Nul),
            ("$share/g/a", InvalidTopic::Shared),
        ] {
            assert_eq!(TopicFilter::parse(bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn the_map_and_the_filter_agree() {
        let filters = ["a", "a/b", "a/+", "a/#", "#", "+", "+/b", "/+", "a/+/c", "$SYS/#", "$SYS/+", "+/+", "a//b"];
        let topics = ["a", "a/b", "a/b/c", "/a", "b", "b/b", "$SYS/x", "$SYS", "a//b", "a/", "/", "A"];
        let mut map = FilterMap::default();
        for filter in filters {
            map.insert(&TopicFilter::parse(filter).expect("valid"), filter);
        }
        for topic in topics {
            let mut found = Vec::new();
            map.matches(topic, |filter| found.push(*filter));
            found.sort_unstable();
            let mut expect: Vec<&str> = filters
                .into_iter()
                .filter(|filter| TopicFilter::parse(filter).expect("valid").matches(topic))
                .collect();
            expect.sort_unstable();
            assert_eq!(found, expect, "{topic}");
        }
        assert!(TopicFilter::parse("sport/tennis/#").expect("valid").matches("sport/tennis"));
        assert!(!TopicFilter::parse("#").expect("valid").matches("$SYS/x"));
    }

    #[test]
    fn removing_the_last_filter_leaves_nothing() {
        let mut map = FilterMap::default();
        for filter in ["a/+/c", "a/#", "a"] {
            map.insert(&TopicFilter::parse(filter).expect("valid"), 1);
        }
        for filter in ["a/+/c", "a/#", "a"] {
            map.remove(&TopicFilter::parse(filter).expect("valid"), |_| true);
        }
        assert!(map.is_empty());
    }
}
