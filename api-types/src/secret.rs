//! Text that must not be seen: redacted in `Debug`, not `Display`, not serializable.

use std::fmt;

/// What the API prints in place of a secret.
pub const MASK: &str = "******";

/// Compares in a time that depends on the lengths only, so that it does not tell where they differ.
pub fn same_bytes(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself. Call it only where it leaves for its target.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl<'de> serde::Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_same_or_not() {
        for (left, right, expect) in [("", "", true), ("ab", "ab", true), ("ab", "ac", false), ("ab", "abc", false)] {
            assert_eq!(same_bytes(left.as_bytes(), right.as_bytes()), expect, "{left:?} {right:?}");
        }
    }

    #[test]
    fn debug_shows_the_mask_only() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), MASK);
    }
}
