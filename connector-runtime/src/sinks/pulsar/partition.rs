//! Which partition of a topic a key belongs to.

/// As Pulsar's Java client has it by default: the hash of a Java string, modulo the number of partitions. `None` where the
/// topic has none.
pub(super) fn partition_of(key: &str, partitions: u32) -> Option<u32> {
    let hash = key.encode_utf16().fold(0_u32, |hash, unit| hash.wrapping_mul(31).wrapping_add(unit.into()));
    (hash & (u32::MAX >> 1)).checked_rem(partitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_goes_where_the_java_client_sends_it() {
        // `"…".hashCode()` in Java.
        for (key, hash) in [("", 0), ("a", 97), ("hello", 99_162_322)] {
            assert_eq!(partition_of(key, 1_000_003), Some(hash % 1_000_003), "{key}");
        }
        assert_eq!(partition_of("a", 0), None);
        assert_eq!(partition_of("any", 1), Some(0));
    }
}
