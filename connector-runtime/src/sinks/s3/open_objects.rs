//! Objects that are being written: nobody may remove their uploads.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// By all sinks of this node: one that was replaced by another may still be at it.
#[derive(Clone, Debug, Default)]
pub(crate) struct OpenObjects {
    keys: Arc<Mutex<HashMap<String, usize>>>,
}

/// An object that is being written, until it is dropped.
#[derive(Debug)]
pub(super) struct OpenObject {
    objects: OpenObjects,
    key: String,
}

impl OpenObjects {
    pub(super) fn open(&self, key: &str) -> OpenObject {
        *self.lock().entry(key.to_owned()).or_default() += 1;
        OpenObject { objects: self.clone(), key: key.to_owned() }
    }

    pub(super) fn contain(&self, key: &str) -> bool {
        self.lock().contains_key(key)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenObject {
    pub(super) fn key(&self) -> &str {
        &self.key
    }
}

impl Drop for OpenObject {
    fn drop(&mut self) {
        let mut keys = self.objects.lock();
        if let Some(count) = keys.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                keys.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_open_until_the_last_one_who_writes_it_has_ended() {
        let objects = OpenObjects::default();
        let others = objects.clone();
        let (first, second) = (objects.open("a"), others.open("a"));
        assert!(objects.contain("a") && others.contain("a") && !objects.contain("b"));
        drop(first);
        assert!(objects.contain("a"), "the other one still writes it");
        drop(second);
        assert!(!objects.contain("a") && !others.contain("a"));
    }
}
